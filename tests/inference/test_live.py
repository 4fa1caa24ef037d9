"""Live sources and overlapping windows: the labels of a recording, segments, and what is lost on the way."""

import contextlib
import csv
import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.saved_models import save_network
from tests.shades import Brightness, saved_brightness, write_shades
from vidclf.data.clips import ClipSet
from vidclf.data.live import LiveVideo
from vidclf.data.manifest import Manifest
from vidclf.exceptions import InputError
from vidclf.inference.live import LivePrediction, predict_live
from vidclf.inference.predict import Prediction, predict_files
from vidclf.inference.segments import Segment, segments, write_segments
from vidclf.progress import silent

STEP = Fraction(1, 25)


def streamed(shades: list[int], missing: range = range(0), seconds_each: int = 1) -> bytes:
    """An MPEG transport stream, 25 frames a second, without the frames of some places."""
    file = io.BytesIO()
    with av.open(file, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for place in range(25 * seconds_each * len(shades)):
            if place in missing:
                continue
            pixels = np.full((64, 64, 3), shades[place // (25 * seconds_each)], np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = place, STEP
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


@contextlib.contextmanager
def served(content: bytes, pause: float = 0.0) -> Iterator[str]:
    """The address of a server on this machine that sends a stream once, in 25 parts, and then closes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                for part in np.array_split(np.frombuffer(content, np.uint8), 25):
                    connection.sendall(part.tobytes())
                    time.sleep(pause)

        thread = threading.Thread(target=send)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def labelled(found: list[Prediction]) -> list[tuple[object, ...]]:
    return [(each.start, each.end, each.label, each.probabilities) for each in found]


@pytest.mark.parametrize("every", [None, 0.5])
def test_a_stream_gets_the_labels_of_its_recording(tmp_path: Path, every: float | None) -> None:
    content = streamed([10, 240, 20, 200])
    clip = tmp_path / "recorded.ts"
    clip.write_bytes(content)
    recorded = predict_files(saved_brightness(), [clip], silent, 1.0, every)
    with served(content) as address:
        live = list(predict_live(saved_brightness(), address, 1.0, every))
    assert labelled([each.prediction for each in live]) == labelled(recorded)
    assert [each.label for each in recorded[:: 1 if every is None else 2]] == ["dark", "light"] * 2
    assert {(each.lost, each.skipped) for each in live} == {(0, 0)}
    assert {each.prediction.clip_path for each in live} == {address}


def test_windows_overlap_and_those_that_hold_no_more_are_left_out(tmp_path: Path) -> None:
    clip = write_shades(tmp_path / "long.avi", [10, 240, 20])
    found = predict_files(saved_brightness(), [clip], silent, 1.0, 0.5)
    assert [(each.start, each.end) for each in found] == [(0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5), (2, 3)]
    assert found[1].probabilities["light"] == pytest.approx(125 / 255, abs=0.05)
    assert [each.probabilities for each in found[::2]] == [
        each.probabilities for each in predict_files(saved_brightness(), [clip], silent, 1.0)
    ]


def test_frames_that_do_not_arrive_are_counted_and_no_error() -> None:
    with served(streamed([10, 240], missing=range(30, 35))) as address:
        live = LiveVideo(address)
        times = [time for time, _, _ in live.frames(64)]
    assert live.lost == 5
    assert len(times) == 45
    assert np.all(np.diff(times) > 0)
    damaged = bytearray(streamed([10, 240]))
    damaged[len(damaged) // 2 : len(damaged) // 2 + 188] = bytes(188)
    with served(bytes(damaged)) as address:
        live = LiveVideo(address)
        assert 40 < len(list(live.frames(64))) <= 50


@pytest.mark.slow
def test_a_model_that_is_late_leaves_windows_out_and_catches_up() -> None:
    class Slow(Brightness):
        def predict_proba(self, clips: ClipSet) -> np.ndarray:
            time.sleep(0.25)
            return super().predict_proba(clips)

    with served(streamed([10, 240]), pause=0.08) as address:
        found = list(predict_live(saved_brightness(Slow()), address, 0.1))
    skipped = found[-1].skipped
    assert skipped > 0
    assert len(found) + skipped == 20
    starts = [each.prediction.start for each in found]
    assert starts == sorted(starts)  # type: ignore[type-var]


def test_what_breaks_the_reader_ends_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a thread that is gone."""

    def broken(self: LiveVideo, store_side: int) -> Iterator[object]:
        raise ValueError("a fault of ours")

    monkeypatch.setattr(LiveVideo, "frames", broken)
    with pytest.raises(ValueError, match="a fault of ours"):
        next(predict_live(saved_brightness(), "-", 1.0))


def test_a_source_that_is_left_is_read_no_further() -> None:
    with served(streamed([10, 240] * 5)) as address:
        live = predict_live(saved_brightness(), address, 0.5)
        assert isinstance(next(live), LivePrediction)
        live.close()
    names = {thread.name for thread in threading.enumerate()}
    for _ in range(50):
        if "live source" not in names:
            break
        time.sleep(0.1)
        names = {thread.name for thread in threading.enumerate()}
    assert "live source" not in names


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("63", "--camera 63: no such camera"),
        ("clip.avi", "--camera clip.avi: expected 0 for the first camera"),
        ("file:///etc/hostname", "a file is a VIDEO, with --window"),
        ("tcp://127.0.0.1:9", "no video comes (Connection refused)"),
        ("rtsp://me:secret@127.0.0.1:9/x", "--camera rtsp://127.0.0.1:9/x: no video comes"),
    ],
)
def test_what_is_no_source_is_said(source: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        next(predict_live(saved_brightness(), source, 1.0))
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_playlist_leads_to_no_file_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "secret.ts").write_bytes(streamed([10]))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n"
    with (
        served(playlist.encode()) as address,
        pytest.raises(InputError, match=r"no video comes|before its first"),
    ):
        list(predict_live(saved_brightness(), address, 1.0))


def window(
    start: float, end: float, light: float, clip: str = "a.avi", error: str | None = None
) -> Prediction:
    return Prediction(
        clip, None, {} if error else {"dark": 1 - light, "light": light}, 0.0, error, start, end
    )


def answer(row: np.ndarray) -> str | None:
    return ("dark", "light")[int(row.argmax())] if row.max() >= 0.6 else None


def test_windows_of_one_label_are_one_segment() -> None:
    found = segments(
        [
            window(0, 1, 0.9),
            window(1, 2, 0.8),
            window(2, 3, 0.1),
            window(3, 4, 0.5),
            window(6, 7, 0.1),
            window(0, 2, 0.2, "b.avi"),
            window(0, 1, 0.0, "c.avi", error="damaged"),
        ],
        answer,
    )
    assert [(each.clip_path, each.start, each.end, each.label) for each in found] == [
        ("a.avi", 0, 2, "light"),
        ("a.avi", 2, 3, "dark"),
        ("a.avi", 3, 4, None),
        ("a.avi", 6, 7, "dark"),
        ("b.avi", 0, 2, "dark"),
    ]


def test_where_windows_overlap_their_mean_decides() -> None:
    pieces = list(segments([window(0, 2, 0.9), window(1, 3, 0.4), window(2, 4, 0.1)], answer))
    assert [(each.start, each.end, each.label) for each in pieces] == [(0, 2, "light"), (2, 4, "dark")]
    # 0 to 1: 0.9; 1 to 2: the mean of 0.9 and 0.4; 2 to 3: of 0.4 and 0.1; 3 to 4: 0.1.
    assert [each.probability for each in pieces] == pytest.approx([(0.9 + 0.65) / 2, (0.75 + 0.9) / 2])


def test_a_class_that_stands_for_nothing_has_no_subtitle(tmp_path: Path) -> None:
    labels = ("punch", "Nothing", "no_action", "OTHER", "others' kick")
    write_segments([Segment("a", k, k + 1, label, 0.9) for k, label in enumerate(labels)], tmp_path / "x.srt")
    assert (tmp_path / "x.srt").read_text().split("\n")[2::4] == ["punch", "others' kick"]


def test_segments_are_written_as_a_table_as_subtitles_and_as_a_list(tmp_path: Path) -> None:
    found = [Segment("=a.avi", 0, 61.5, "light", 0.9), Segment("=a.avi", 61.5, 62, None, 0.5)]
    for name in ("x.csv", "new/x.srt", "x.json"):
        write_segments(found, tmp_path / name)
    assert list(csv.reader((tmp_path / "x.csv").open(encoding="utf-8"))) == [
        ["clip_path", "start", "end", "label", "probability"],
        ["'=a.avi", "0.000", "61.500", "light", "0.9000"],
        ["'=a.avi", "61.500", "62.000", "", "0.5000"],
    ]
    assert (tmp_path / "new" / "x.srt").read_text() == "1\n00:00:00,000 --> 00:01:01,500\nlight\n\n"
    assert json.loads((tmp_path / "x.json").read_text())[1]["label"] is None


@pytest.mark.slow
def test_the_command_labels_what_comes_through_a_pipe(tmp_path: Path, squares: Manifest) -> None:
    model_folder = save_network(tmp_path, "volume3d", squares)
    command = [sys.executable, "-m", "vidclf", "predict", model_folder, "--camera", "-", "--window", "1"]
    options = ["--segments", tmp_path / "x.srt", "--json"]
    content = streamed([10, 240, 20])
    ran = subprocess.run([*command, *options], input=content, capture_output=True, check=True)
    items = json.loads(ran.stdout)
    assert [(item["start"], item["end"], item["lost"]) for item in items] == [(0, 1, 0), (1, 2, 0), (2, 3, 0)]
    assert b"3 s seen, 0 frames lost, 0 windows left out" in ran.stderr
    assert (tmp_path / "x.srt").read_text().endswith("\n\n")
