"""Labelling files, folders, patterns, and windows of long videos."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.clips import moving_square
from tests.shades import CLASSES, Brightness, saved_brightness, write_shades
from vidclf.data import video, windows
from vidclf.exceptions import FalseTimestampsError
from vidclf.inference.predict import Prediction, as_table, find_videos, predict_files


def predict(
    videos: Sequence[str | Path], window: float | None = None, model: Brightness | None = None
) -> list[Prediction]:
    return predict_files(saved_brightness(model), videos, lambda done, total: None, window)


def test_folders_patterns_and_files_are_found_once_each(tmp_path: Path) -> None:
    names = ["a/x.mp4", "a/deep/y.AVI", "a/notes.txt", "b/z [1].mp4", "b/w.mp4"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()

    def found(*given: str) -> list[str]:
        return [
            str(Path(path).relative_to(tmp_path))
            for path in find_videos([f"{tmp_path}/{item}" for item in given])
        ]

    assert found("a") == ["a/deep/y.AVI", "a/x.mp4"]
    assert found("b/*.mp4", "b/w.mp4", "a/x.mp4") == ["b/w.mp4", "b/z [1].mp4", "a/x.mp4"]
    assert found("**/*.mp4") == ["a/x.mp4", "b/w.mp4", "b/z [1].mp4"]
    assert found("b/z [1].mp4") == ["b/z [1].mp4"]
    assert found("a/notes.txt", "none.mp4", "no*.mp4", "empty") == [
        "a/notes.txt",
        "none.mp4",
        "no*.mp4",
        "empty",
    ]


def test_urls_are_labelled_and_bad_ones_are_errors_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDCLF_URL_SCHEMES", "memory")
    files = MemoryFileSystem()
    files.pipe_file("/b/light.avi", write_shades(tmp_path / "light.avi", [250]).read_bytes())
    names = ["memory://b/light.avi", "memory://b/none*.avi", "memory://b", "xyz://b/a.avi"]
    try:
        found = predict(find_videos([*names, *names]))
    finally:
        files.rm("/b", recursive=True)
    assert [item.clip_path for item in found] == names
    assert [item.label for item in found] == ["light", None, None, None]
    assert [item.error for item in found] == [
        None,
        "unreadable: no such file",
        "unreadable: a folder; expected a file",
        "unreadable: xyz:// is not opened: only file, http, https, s3, gs, az, hf, and what "
        "VIDCLF_URL_SCHEMES lists, as ftp,sftp",
    ]


def test_what_means_no_video_is_an_error_of_its_own(tmp_path: Path) -> None:
    good = write_shades(tmp_path / "good.avi", [200])
    (tmp_path / "text.avi").write_text("no video")
    (tmp_path / "empty").mkdir()
    given = [tmp_path / "no.avi", tmp_path / "n*.avi", tmp_path / "empty", tmp_path / "text.avi", good]
    *bad, last = predict(given)
    assert [item.error for item in bad[:3]] == [
        "unreadable: no such file",
        "unreadable: no file matches",
        "unreadable: a folder without videos",
    ]
    assert str(bad[3].error).startswith("unreadable: not a video")
    assert all((item.label, item.probabilities) == (None, {}) for item in bad)
    assert (last.label, last.error) == ("light", None)
    assert last.probabilities["light"] == pytest.approx(200 / 255, abs=0.03)


def test_every_window_is_labelled_by_its_own_frames(tmp_path: Path) -> None:
    clip = write_shades(tmp_path / "long.avi", [10, 240, 20])
    model = Brightness()
    items = predict([clip], window=1, model=model)
    assert [(item.label, item.start, item.end) for item in items] == [
        ("dark", 0, 1),
        ("light", 1, 2),
        ("dark", 2, 3),
    ]
    assert [grid.shape for grid in model.seen] == [(8, 32, 32, 3)] * 3
    halves = predict([clip], window=1.5)
    assert [(item.start, item.end) for item in halves] == [(0, 1.5), (1.5, 3)]
    uneven = predict([clip], window=2)
    assert [(item.start, item.end) for item in uneven] == [(0, 2), (2, pytest.approx(3))]
    one_frame_left = predict([clip], window=2.96)
    assert [(item.start, item.end) for item in one_frame_left] == [(0, 2.96), (2.96, pytest.approx(3))]
    assert items[0].as_dict(windowed=True)["start"] == 0
    assert "start" not in items[0].as_dict()
    table = as_table(items, windowed=True)
    shares = [f"probability/{name}" for name in CLASSES]
    assert list(table.columns) == ["clip_path", "start", "end", "label", *shares, "seconds", "error"]
    assert list(table["end"]) == [1, 2, 3]
    assert list(as_table(predict([clip])).columns) == ["clip_path", "label", *shares, "seconds", "error"]


def test_a_class_may_be_called_as_a_column_is() -> None:
    table = as_table([Prediction("a.avi", "error", {"error": 0.75, "label": 0.25}, 0.5)])
    assert table.to_dict("records") == [
        {
            "clip_path": "a.avi",
            "label": "error",
            "probability/error": 0.75,
            "probability/label": 0.25,
            "seconds": 0.5,
            "error": None,
        }
    ]


def test_one_window_over_all_sees_what_the_whole_clip_gives(tmp_path: Path) -> None:
    clip = tmp_path / "clip.avi"
    video.write_video(clip, moving_square("right", np.random.default_rng(0), frames=67))
    model = Brightness()
    [whole] = predict([clip], model=model)
    [window] = predict([clip], window=100, model=model)
    np.testing.assert_array_equal(model.seen[1], model.seen[0])
    assert window.probabilities == whole.probabilities
    assert (window.start, window.end) == (0, pytest.approx(67 / 25))


def test_a_long_window_is_thinned_out_evenly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(windows, "_HELD", 16)
    clip = write_shades(tmp_path / "long.avi", list(range(0, 250, 25)), frames=10)
    [window] = windows.windows(video.each_frame(clip, 64), 1000, 8, counted=False)
    shades = window.frames.mean(axis=(1, 2, 3))
    whole = video.decode(clip, 8, 64).frames.mean(axis=(1, 2, 3))
    assert np.abs(shades - whole).max() < 26
    assert np.all(np.diff(shades) > 10)
    assert window.end == pytest.approx(100 / 25)


def test_false_timestamps_give_way_to_counted_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_shades(tmp_path / "clip.avi", [10, 240])
    real = video.each_frame

    def shuffled(path: Path, store_side: int):  # type: ignore[no-untyped-def]
        """Every fourth frame claims a time before its predecessor's."""
        for number, (stamp, place, picture) in enumerate(real(path, store_side)):
            yield (stamp - 0.1 if number % 4 == 3 else stamp), place, picture

    monkeypatch.setattr("vidclf.inference.predict.each_frame", shuffled)
    with pytest.raises(FalseTimestampsError):
        list(windows.windows(shuffled(clip, 64), 1, 8, counted=False))
    assert [(item.label, item.start) for item in predict([clip], window=1)] == [("dark", 0), ("light", 1)]
