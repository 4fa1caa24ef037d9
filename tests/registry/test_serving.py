"""A registered model served by MLflow: in a clean process, over HTTP, and with hostile items."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow.pyfunc
import numpy as np
import psutil
import pytest
from mlflow.models import Model

from tests.attempts import end, make_study, make_trial, shipped
from tests.saved_models import CLASSES, data_url, make_kept, save_model, save_network
from vidclf.data import video
from vidclf.data.guarded import Limits
from vidclf.data.manifest import Manifest
from vidclf.exceptions import InputError, ItemError
from vidclf.models import load_model
from vidclf.registry.resolve import resolve_model
from vidclf.registry.serving import VideoClassifier
from vidclf.runs.store import Store
from vidclf.tracking import model_package

START_LIMIT = 240.0
"""Seconds; importing torch and mlflow on a busy machine takes a while."""


@pytest.fixture
def store(store: Store) -> Store:
    make_study(store)
    return store


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VideoClassifier]:
    """A majority model behind the served interface, with narrow limits."""
    monkeypatch.setenv("VIDCLF_SERVE_PIXELS", "4096")
    monkeypatch.setenv("VIDCLF_SERVE_FRAMES", "100")
    monkeypatch.setenv("VIDCLF_SERVE_FILE_MB", "0.1")
    save_model(tmp_path / "model")
    classifier = VideoClassifier()
    classifier.load_context(SimpleNamespace(artifacts={"model": str(tmp_path / "model")}))
    yield classifier
    classifier._decoder.close()


def decoders() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "guarded" in " ".join(child.cmdline())]


def render(path: Path, frames: int, size: int) -> bytes:
    video.write_video(path, np.zeros((frames, size, size, 3), dtype=np.uint8))
    return path.read_bytes()


@pytest.mark.slow
def test_hostile_items_are_errors_of_their_own(served: VideoClassifier, tmp_path: Path) -> None:
    good = data_url(render(tmp_path / "good.mp4", 10, 64))
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    reasons = {
        data_url(render(tmp_path / "wide.mp4", 2, 128)): "oversized: 128 x 128 pixels",
        data_url(render(tmp_path / "long.mp4", 101, 16)): "oversized: over the limit of 100 frames",
        data_url(bytes(200_000)): "oversized: over the limit of 0.1 MiB",
        data_url(playlist): "unreadable",
        data_url(b"text"): "unreadable",
        f"{good[:-400]}": "",
        "file:///etc/passwd": "VIDCLF_SERVE_ROOT is not set",
        "file:///%00": "VIDCLF_SERVE_ROOT is not set",
        **dict.fromkeys(("clip.avi", "/etc/passwd", "https://example.org/clip.avi", ""), "not a data: URL"),
        **dict.fromkeys(("data:video/mp4,AAAA", "data:video/mp4;base64"), "must be in base64"),
        "data:video/mp4;base64,!!": "not valid base64",
        data_url(b""): "unreadable",
    }
    answers = served.predict([*reasons, good])
    for answer, reason in zip(answers, reasons.values(), strict=False):
        assert (answer["label"], answer["probabilities"]) == (None, {})
        assert reason in answer["error"]
        assert str(tmp_path) not in answer["error"]
    assert (answers[-1]["label"], answers[-1]["error"]) == ("jump", None)


@pytest.mark.slow
def test_an_item_is_refused_before_anything_is_made_of_it(served: VideoClassifier, tmp_path: Path) -> None:
    """Percent signs took 80 bytes each, and a long item several times its length."""
    served._limits = Limits(file_mb=8)
    items = ["%41" * 2**21, "%2B" * 2**22, "A" * 2**23 + "!", "A" * 2**24, "AAA=" * 1000]
    item_size = max(map(len, items))
    tracemalloc.start()
    answers = served.predict([f"data:video/mp4;base64,{item}" for item in items])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < sum(map(len, items)) + 3 * item_size
    invalid, oversized = "the data: URL is not valid base64", "oversized: over the limit of 8 MiB"
    assert [answer["error"] for answer in answers] == [invalid, oversized, invalid, oversized, invalid]


@pytest.mark.slow
def test_escaped_base64_is_read_and_padding_ends_it(served: VideoClassifier, tmp_path: Path) -> None:
    good = data_url(render(tmp_path / "good.mp4", 10, 64))
    escaped = good.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D").replace("video%2f", "video/")
    answer = {
        "label": "jump",
        "probabilities": pytest.approx({"climb": 0.0, "jump": 0.75, "run": 0.25}),
        "error": None,
    }
    answers = served.predict([good, escaped])
    assert answers == [answer, answer]
    json.dumps(answers)
    assert not list(served._decoder.scratch.glob("tmp*"))


@pytest.mark.slow
def test_files_are_read_below_the_root_only(
    served: VideoClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, outside = tmp_path / "the root", tmp_path / "out.mp4"
    root.mkdir()
    for path in (root / "in.mp4", outside):
        render(path, 2, 16)
    (root / "link.mp4").symlink_to(outside)
    monkeypatch.setenv("VIDCLF_SERVE_ROOT", str(root))
    inside = (root / "in.mp4").as_uri()
    items = [inside, outside.as_uri(), f"{root.as_uri()}/../out.mp4", f"{root.as_uri()}/link.mp4"]
    items += [inside.replace("file://", "file://elsewhere"), f"{root.as_uri()}/none.mp4", root.as_uri()]
    items += [str(root / "in.mp4")]
    assert [answer["label"] for answer in served.predict(items)] == ["jump", *[None] * 7]


@pytest.mark.slow
def test_a_request_has_an_end(
    served: VideoClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served._limits = Limits(items=2, request_mb=0.01)
    with pytest.raises(ItemError, match="3 items are over the limit of 2"):
        served.predict(["", "", ""])
    with pytest.raises(ItemError, match=r"the items are over the limit of 0\.01 MiB"):
        served.predict(["A" * 20_000])
    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "0")
    good = data_url(render(tmp_path / "good.mp4", 2, 16))
    assert served.predict([good])[0]["error"] == "cancelled: the request's time is over"


def test_a_served_limit_that_is_no_number_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDCLF_SERVE_SECONDS", "soon")
    with pytest.raises(InputError, match="VIDCLF_SERVE_SECONDS = 'soon'"):
        VideoClassifier().load_context(SimpleNamespace(artifacts={"model": str(tmp_path)}))


@pytest.mark.slow
def test_the_server_survives_the_death_of_its_decoder(served: VideoClassifier, tmp_path: Path) -> None:
    good = data_url(render(tmp_path / "good.mp4", 10, 64))
    [decoder] = decoders()
    decoder.kill()
    first, second = served.predict([good, good])
    assert first["error"] == "damaged: the decoder crashed: SIGKILL"
    assert second["error"] is None


@pytest.mark.slow
def test_served_labels_are_those_of_the_command_line(tmp_path: Path, squares: Manifest) -> None:
    folder = save_network(tmp_path, "frames2d", squares)
    classifier = VideoClassifier()
    classifier.load_context(SimpleNamespace(artifacts={"model": str(folder)}))
    clip = squares.entries[0].clip_path
    [answer] = classifier.predict([data_url(clip.read_bytes())])
    expected = load_model(folder).predict([clip])[0]
    assert list(answer["probabilities"].values()) == pytest.approx(list(expected))
    classifier._decoder.close()


@pytest.mark.slow
def test_the_package_says_what_goes_in_and_comes_out(store: Store) -> None:
    shipped(store, make_kept(store), "gestures")
    folder = resolve_model(store, "gestures/1").parents[1]
    model = Model.load(str(folder))
    assert model.signature is not None
    assert [column["type"] for column in model.signature.inputs.to_dict()] == ["string"]
    assert model.signature.outputs is not None
    example = model.load_input_example(str(folder))
    assert example == model_package.example_input()
    assert json.loads(str(model.get_serving_input(str(folder)))) == {"inputs": example}
    [answer] = mlflow.pyfunc.load_model(str(folder)).predict(example)
    assert (answer["label"], answer["error"]) == ("jump", None)
    assert set(answer["probabilities"]) == set(CLASSES)


@pytest.fixture
def registered(store: Store, tmp_path: Path, squares: Manifest) -> Path:
    """MLflow's folder of a registered network."""
    trial = make_trial(store, parent="study-1")
    save_network(tmp_path, "volume3d", squares).rename(trial.model)
    end(trial, metrics={"val/macro_f1": 0.75})
    shipped(store, trial, "gestures")
    return resolve_model(store, "gestures/1").parents[1]


@pytest.fixture
def address(registered: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Where ``mlflow models serve`` answers, in a process that knows of vidclf what the package holds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", str(registered), "-h", "127.0.0.1", "-p", str(port)]
    log = tmp_path / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_LIMIT
        while True:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def ask(address: str, items: list[str]) -> list[dict[str, Any]]:
    body = json.dumps({"inputs": items}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        predictions: list[dict[str, Any]] = json.load(answer)["predictions"]
    return predictions


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_mlflow_serves_the_registered_model(address: str, squares: Manifest, registered: Path) -> None:
    clip = squares.entries[0].clip_path
    good = data_url(clip.read_bytes())
    bad = "data:video/mp4;base64," + base64.b64encode(b"no video").decode()
    answers = ask(address, [good, bad, "file:///etc/../etc/passwd", good])
    expected = load_model(registered / "artifacts" / "model").predict([clip])[0]
    for answer in (answers[0], answers[3]):
        assert answer["error"] is None
        assert list(answer["probabilities"].values()) == pytest.approx(list(expected), abs=1e-3)
        assert answer["label"] in ("down", "right")
    assert [answer["label"] for answer in answers[1:3]] == [None, None]
    assert answers[1]["error"].startswith("unreadable: not a video")
    assert answers[2]["error"] == "this server reads no file: URLs (VIDCLF_SERVE_ROOT is not set)"
    assert ask(address, [good])[0]["error"] is None
