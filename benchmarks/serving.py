"""What a registered model costs where it is served: python benchmarks/serving.py.

A tiny 3D network and an SVM are trained on rendered clips and promoted. Then each is loaded in a clean
process, and by ``mlflow models serve``, with pickle switched off. In the end eight clients send 500 requests,
some of them slow, oversized or full of percent signs.
"""

import base64
import collections
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil

from vidclf.data.demo import render_demo_set
from vidclf.data.guarded import GuardedDecoder, Limits
from vidclf.data.video import decode, write_video

REQUESTS = 40
CLIENTS, MIXED = 8, 500
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
def served(model: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a server of the model, and its process."""
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
        yield f"http://127.0.0.1:{port}/invocations", psutil.Process(process.pid)
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


def data_url(content: bytes) -> str:
    return f"data:video/x-msvideo;base64,{base64.b64encode(content).decode()}"


def memory(server: psutil.Process) -> float:
    """MB that a server and its children hold."""
    held = 0
    for process in (server, *server.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            held += process.memory_full_info().uss
    return held / 1e6


def storm(url: str, server: psutil.Process, item: str, folder: Path) -> None:
    """Requests of every kind from several clients: what good ones wait, and what the server holds at most."""
    slow = folder / "slow.avi"
    write_video(slow, np.zeros((900, 1080, 1920, 3), dtype=np.uint8))
    kinds = {
        "good": item,
        "slow": data_url(slow.read_bytes()),
        "oversized": "data:video/mp4;base64," + "A" * 90_000_000,
        "percent signs": "data:video/mp4;base64," + "%41" * 7_000_000,
        "no video": data_url(b"no video"),
    }
    drawn = np.random.default_rng(0).choice(list(kinds), MIXED, p=[0.9, 0.04, 0.01, 0.02, 0.03])
    durations = collections.defaultdict[str, list[float]](list)
    errors = collections.Counter[tuple[str, str | None]]()
    before, most, done = memory(server), 0.0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.1):
            most = max(most, memory(server))

    def ask(kind: str) -> None:
        body = json.dumps({"inputs": [kinds[kind]]}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        started = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=90) as answer:
                [prediction] = json.load(answer)["predictions"]
            error = prediction["error"]
        except urllib.error.HTTPError as refused:
            error = f"HTTP {refused.code}"
        durations[kind].append((time.perf_counter() - started) * 1e3)
        errors[kind, error and error[:70]] += 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(ask, drawn))
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    print(f"{MIXED} requests from {CLIENTS} clients in {seconds:.0f} s")
    print(f"  the server held {before:.0f} MB before, {most:.0f} MB at most")
    for kind, values in durations.items():
        p50, p99 = np.percentile(values, [50, 99])
        answers = {error: count for (of, error), count in errors.items() if of == kind}
        print(f"  {kind:<14} {len(values):>3}: p50 {p50:7.0f} ms, p99 {p99:7.0f} ms  {answers}")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="vidclf-") as scratch:
        folder = Path(scratch)
        render_demo_set(folder / "demo", subjects=6, takes=1, seed=0)
        clip = folder / "demo" / "new_clip.avi"
        item = data_url(clip.read_bytes())
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
            with served(model) as (url, server):
                print(f"{name}: server up after {time.perf_counter() - started:.1f} s")
                asked(url, item)
                p50, p95 = np.percentile([asked(url, item) for _ in range(REQUESTS)], [50, 95])
                print(f"{name}: served p50 {p50:.1f} ms, p95 {p95:.1f} ms a clip")
                if name == "svm":
                    storm(url, server, item, folder)


if __name__ == "__main__":
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    main()
