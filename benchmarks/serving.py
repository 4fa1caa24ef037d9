"""What a registered model costs where it is served: python benchmarks/serving.py.

A tiny 3D network and an SVM are trained on rendered clips and promoted. Then each is loaded in a clean
process, and by ``mlflow models serve``, with pickle switched off.
"""

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vidclf.data.demo import render_demo_set
from vidclf.data.guarded import GuardedDecoder, Limits
from vidclf.data.video import decode

REQUESTS = 40
EXPERIMENTS = {
    "tiny3d": '[data]\nmanifest = "demo/manifest.csv"\nframes = 16\n'
    '[model]\nkind = "volume3d"\nnetwork = "tiny3d"\nweights = "none"\n[train]\nepochs = 1\n',
    "svm": '[data]\nmanifest = "demo/manifest.csv"\n[model]\nkind = "svm"\nfeatures = ["hog", "flow"]\n',
}
FIRST = """
import sys, time
started = time.perf_counter()
import mlflow.pyfunc
model = mlflow.pyfunc.load_model(sys.argv[1])
loaded = time.perf_counter()
[answer] = model.predict([sys.stdin.read()])
assert answer["error"] is None, answer
print(loaded - started, time.perf_counter() - loaded)
"""


def vidclf(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "vidclf", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def packaged(folder: Path, name: str) -> Path:
    """The promoted model of an experiment, as MLflow keeps it."""
    (folder / f"{name}.toml").write_text(EXPERIMENTS[name], encoding="utf-8")
    trained = json.loads(vidclf(folder, "train", f"{name}.toml", "--json"))
    vidclf(folder, "promote", trained["run_id"], "--as", name, "--accept", "untested", "--json")
    found = [path.parent for path in folder.glob("mlruns/artifacts/**/MLmodel")]
    return max(found, key=lambda path: path.stat().st_mtime)


@contextlib.contextmanager
def served(model: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "-p", str(port)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        [*command, "-h", "127.0.0.1", "--env-manager", "local"],
        env={**os.environ, "PATH": path},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def asked(url: str, item: str) -> float:
    """Milliseconds of one request of one clip."""
    body = json.dumps({"inputs": [item]}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as answer:
        [prediction] = json.load(answer)["predictions"]
    assert prediction["error"] is None, prediction
    return (time.perf_counter() - started) * 1e3


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="vidclf-") as scratch:
        folder = Path(scratch)
        render_demo_set(folder / "demo", subjects=6, takes=1, seed=0)
        clip = folder / "demo" / "new_clip.avi"
        item = f"data:video/x-msvideo;base64,{base64.b64encode(clip.read_bytes()).decode()}"
        print(f"clip: {clip.stat().st_size / 1e3:.0f} kB, {decode(clip, 64, 256).frames.shape}")
        decoder = GuardedDecoder(64, 256, Limits())
        for name, call in (
            ("here", lambda: decode(clip, 64, 256)),
            ("guarded", lambda: decoder.decode(clip)),
        ):
            durations = []
            for _ in range(REQUESTS):
                started = time.perf_counter()
                call()
                durations.append((time.perf_counter() - started) * 1e3)
            print(f"decoding {name:<8} p50 {np.median(durations):6.1f} ms")
        decoder.close()
        for name in EXPERIMENTS:
            model = packaged(folder, name)
            command = [sys.executable, "-c", FIRST, str(model)]
            started = time.perf_counter()
            done = subprocess.run(
                command, input=item, capture_output=True, text=True, check=True, cwd=scratch
            )
            total = time.perf_counter() - started
            load, first = map(float, done.stdout.split())
            print(f"{name}: clean process {total:.1f} s (import and load {load:.1f}, first clip {first:.2f})")
            started = time.perf_counter()
            with served(model) as url:
                print(f"{name}: server up after {time.perf_counter() - started:.1f} s")
                asked(url, item)
                p50, p95 = np.percentile([asked(url, item) for _ in range(REQUESTS)], [50, 95])
            print(f"{name}: served p50 {p50:.1f} ms, p95 {p95:.1f} ms a clip")


if __name__ == "__main__":
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    main()
