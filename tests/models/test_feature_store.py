"""Feature vectors: which pixels they see, and that they are computed once or honestly."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.clips import moving_square
from vidclf.data import cache
from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.manifest import Entry
from vidclf.data.pictures import Frames
from vidclf.data.video import write_video
from vidclf.models import feature_store, features
from vidclf.models.feature_store import Framing, build_features, feature_matrix, square_view
from vidclf.models.features import FEATURES, FeatureSpec, compute_features
from vidclf.models.pixels import Pixels


def test_square_view_is_the_centre() -> None:
    frames = np.zeros((2, 40, 80, 3), dtype=np.uint8)
    frames[:, :, 20:60] = 200
    assert square_view(frames, 20, 20).shape == (2, 20, 20, 3)
    assert (square_view(frames, 20, 20) == 200).all()
    assert square_view(frames, 16, (16, 64)).shape == (2, 16, 16, 3)


def test_square_view_crops_after_resizing() -> None:
    frames = np.zeros((1, 40, 40, 3), dtype=np.uint8)
    frames[:, 10:30, 10:30] = 100
    assert (square_view(frames, 20, 40) == 100).all()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The frames of each call of ``hog``, which gives the mean colour here; nothing is known yet."""
    calls: list[int] = []

    def mean(pixels: Pixels) -> np.ndarray:
        calls.append(len(pixels.frames))
        return pixels.frames.mean(axis=(0, 1, 2)) / 3

    monkeypatch.setitem(features.FEATURES, "hog", FeatureSpec(mean))
    forget(monkeypatch)
    return calls


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if in a new process."""
    monkeypatch.setattr(feature_store, "_MEMO", {})


def a_clip(seed: int) -> Frames:
    return moving_square("right", np.random.default_rng(seed), size=64)


def stored_and_files(folder: Path, count: int = 1) -> tuple[ClipSet, ClipSet]:
    paths = [folder / f"clip{index}.mp4" for index in range(count)]
    for index, path in enumerate(paths):
        write_video(path, a_clip(index))
    entries = [Entry(path, "a", "", "train") for path in paths]
    stored = ClipSet.of_entries(entries, ("a", "b"), ClipStore(64, 256))
    return stored, ClipSet.of_files(paths, ("a", "b"), 64, 256)


FRAMING = Framing(4, 32, 32)


def test_stored_clips_are_computed_once_and_files_each_time(
    tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, files = stored_and_files(tmp_path)
    first, again = (feature_matrix(stored, ["hog"], FRAMING) for _ in range(2))
    forget(monkeypatch)
    found = feature_matrix(stored, ["hog"], FRAMING)
    assert counted == [4]
    assert cache.usage().entries["features"] == 1
    honest = [feature_matrix(files, ["hog"], FRAMING) for _ in range(2)]
    assert counted == [4, 4, 4]
    for values in (again, found, *honest):
        np.testing.assert_array_equal(values, first)
    assert cache.usage().entries["features"] == 1


def test_every_feature_is_found_as_it_was_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, files = stored_and_files(tmp_path, 2)
    forget(monkeypatch)
    build_features(stored, list(FEATURES), FRAMING)
    forget(monkeypatch)
    monkeypatch.setattr(feature_store, "compute_features", None)
    found = feature_matrix(stored, list(FEATURES), FRAMING)
    monkeypatch.undo()
    np.testing.assert_array_equal(found, feature_matrix(files, list(FEATURES), FRAMING))


@pytest.mark.slow  # a new process imports torch
def test_another_process_finds_the_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, _ = stored_and_files(tmp_path)
    forget(monkeypatch)
    values = feature_matrix(stored, ["difference"], FRAMING)
    code = f"""
from pathlib import Path
from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.manifest import Entry
from vidclf.models import feature_store
feature_store.compute_features = None
entries = [Entry(Path({str(stored.paths[0])!r}), "a", "", "train")]
clips = ClipSet.of_entries(entries, ("a",), ClipStore(64, 256))
print(feature_store.feature_matrix(clips, ["difference"], feature_store.Framing(4, 32, 32)).tobytes().hex())
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == values.tobytes().hex()


def test_clips_are_built_with_progress_and_in_order(tmp_path: Path, counted: list[int]) -> None:
    stored, files = stored_and_files(tmp_path, 5)
    done: list[int] = []
    build_features(stored, ["hog"], FRAMING, lambda: done.append(1))
    assert (len(done), len(counted)) == (5, 5)
    values = feature_matrix(stored, ["hog"], FRAMING)
    assert len(counted) == 5
    np.testing.assert_array_equal(values, feature_matrix(files, ["hog"], FRAMING))
    assert len(np.unique(values, axis=0)) > 1


def test_a_second_build_looks_for_files_only(
    tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, files = stored_and_files(tmp_path, 3)
    build_features(stored, ["hog"], FRAMING)
    monkeypatch.setattr(feature_store, "_read", None)
    done: list[int] = []
    for clips in (stored, files):
        build_features(clips, ["hog"], FRAMING, lambda: done.append(1))
    assert (len(done), len(counted)) == (6, 3)


def test_a_build_ends_with_the_room(
    tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDCLF_CACHE_GB", "0")
    monkeypatch.setattr("cv2.getNumThreads", lambda: 1)
    stored, _ = stored_and_files(tmp_path, 4)
    done: list[int] = []
    build_features(stored, ["hog"], FRAMING, lambda: done.append(1))
    assert (len(done), len(counted)) == (4, 1)


def test_features_from_elsewhere_stand_in_their_place(tmp_path: Path, counted: list[int]) -> None:
    stored, _ = stored_and_files(tmp_path, 2)
    given = {"other": np.arange(4.0).reshape(2, 2)}
    values = feature_matrix(stored, ["hog", "other"], FRAMING, given)
    np.testing.assert_array_equal(values[:, :3], feature_matrix(stored, ["hog"], FRAMING))
    np.testing.assert_array_equal(values[:, 3:], given["other"])
    np.testing.assert_array_equal(feature_matrix(stored, ["other"], FRAMING, given), given["other"])


def test_vectors_tell_framings_contents_and_versions_apart(
    tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, _ = stored_and_files(tmp_path)
    for framing in (FRAMING, Framing(5, 32, 32), Framing(4, 16, 32), Framing(4, 32, 40)):
        feature_matrix(stored, ["hog"], framing)
    assert len(counted) == 4
    other_grid = ClipSet.of_entries([Entry(stored.paths[0], "a", "", "train")], ("a", "b"), ClipStore(8, 256))
    feature_matrix(other_grid, ["hog"], FRAMING)
    assert len(counted) == 5
    monkeypatch.setitem(features.FEATURES, "hog", FeatureSpec(FEATURES["hog"].compute, version=2))
    feature_matrix(stored, ["hog"], FRAMING)
    assert len(counted) == 6
    monkeypatch.setattr(feature_store, "MADE_WITH", "another OpenCV")
    forget(monkeypatch)
    feature_matrix(stored, ["hog"], FRAMING)
    assert len(counted) == 7
    write_video(stored.paths[0], a_clip(9))
    feature_matrix(stored, ["hog"], FRAMING)
    assert len(counted) == 8
    assert feature_matrix(stored, ["difference"], FRAMING).shape == (1, 136)
    assert len(counted) == 8


def test_without_room_on_disk_values_stay_the_same(
    tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDCLF_CACHE_GB", "0")
    stored, files = stored_and_files(tmp_path)
    first = feature_matrix(stored, ["hog"], FRAMING)
    assert not cache.usage().total
    forget(monkeypatch)
    np.testing.assert_array_equal(feature_matrix(stored, ["hog"], FRAMING), first)
    assert len(counted) == 2
    np.testing.assert_array_equal(feature_matrix(files, ["hog"], FRAMING), first)


def test_a_full_memo_still_gives_values(
    tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "_MEMO_LIMIT", 0)
    stored, _ = stored_and_files(tmp_path)
    for _ in range(2):
        assert feature_matrix(stored, ["hog"], FRAMING).shape == (1, 3)
    assert (len(counted), len(feature_store._MEMO)) == (1, 0)


def test_features_stand_side_by_side_in_the_order_given() -> None:
    clip = a_clip(0)
    clips = ClipSet((Path("x"),), np.zeros(1, dtype=np.int64), ("x",), ("a", "b"), lambda _: clip)
    joined = feature_matrix(clips, ["difference", "flow"], Framing(8, 64, 64))
    vectors = compute_features(clip, ["flow", "difference"])
    np.testing.assert_array_equal(joined, [[*vectors["difference"], *vectors["flow"]]])


def test_no_features_read_no_clip() -> None:
    def unread(path: Path) -> Frames:
        raise AssertionError

    clips = ClipSet((Path("x"),) * 2, np.zeros(2, dtype=np.int64), ("x",) * 2, ("a", "b"), unread)
    assert feature_matrix(clips, [], FRAMING).shape == (2, 0)


def test_pairs_of_pictures_are_the_same_of_stored_clips_and_of_files(tmp_path: Path) -> None:
    framing = Framing(4, 32, 32, apart=0.08)
    stored, files = stored_and_files(tmp_path)
    with pytest.raises(ValueError, match="without later pictures"):
        feature_matrix(stored, ["hof"], framing)
    store = ClipStore(8, 64, apart=0.08)
    stored = replace(stored, read=store.read, store=store)
    files = ClipSet.of_files(files.paths, files.classes, 8, 64, 0.08)
    names = ["hof", "difference"]
    there = feature_matrix(stored, names, framing)
    np.testing.assert_array_equal(feature_matrix(files, names, framing), there)
    kept = cache.usage().entries["features"]
    feature_matrix(stored, ["difference"], replace(framing, apart=0.0))
    assert cache.usage().entries["features"] == kept, "it looks at no flow"
    assert not np.array_equal(feature_matrix(stored, ["hof"], replace(framing, apart=0.0)), there[:, :432])
