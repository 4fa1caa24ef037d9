"""Features: what they say of known motion, and that they are computed once or honestly."""

from pathlib import Path

import numpy as np
import pytest

from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.manifest import Entry
from vidclf.data.video import Frames, write_video
from vidclf.models import features
from vidclf.models.features import FEATURES, Framing, feature_matrix, square_view

LENGTHS = {"hog": 2592, "flow": 483, "difference": 136}
HISTOGRAMS = 3 * 4 * 4 * 9


def moving_square(step: tuple[int, int], frames: int = 8, size: int = 112) -> Frames:
    """A textured square that moves (right, down) by ``step`` pixels a frame, through the centre."""
    texture = np.random.default_rng(0).integers(120, 255, (32, 32, 3), dtype=np.uint8)
    clip = np.full((frames, size, size, 3), 40, dtype=np.uint8)
    for time in range(frames):
        left, top = (round(size / 2 - 16 + step[axis] * (time - (frames - 1) / 2)) for axis in (0, 1))
        clip[time, top : top + 32, left : left + 32] = texture
    return clip


def direction_shares(clip: Frames) -> np.ndarray:
    """Mean over cells of the flow histogram: 8 directions, then standing still."""
    return FEATURES["flow"](clip)[:HISTOGRAMS].reshape(-1, 9).mean(axis=0)


@pytest.mark.parametrize(("step", "direction"), [((4, 0), 0), ((0, 4), 2), ((-4, 0), 4), ((0, -4), 6)])
def test_flow_falls_into_the_direction_of_motion(step: tuple[int, int], direction: int) -> None:
    moving = direction_shares(moving_square(step))[:8]
    assert moving.argmax() == direction
    assert moving[direction] > 0.7 * moving.sum()


def test_flow_histograms_sum_to_one_and_strength_is_the_step() -> None:
    def strengths(step: int) -> np.ndarray:
        return FEATURES["flow"](moving_square((step, 0)))[HISTOGRAMS : HISTOGRAMS + 48].reshape(3, 4, 4)[1]

    vector = FEATURES["flow"](moving_square((4, 0)))
    assert vector[:HISTOGRAMS].reshape(-1, 9).sum(axis=1) == pytest.approx(1, abs=1e-5)
    for step in (2, 4, 6):
        # Below the step, as the flow fades out over the flat background beside the square.
        assert 0.6 * step / 112 < strengths(step)[1:3, 1:3].mean() <= step / 112
    assert strengths(4)[1:3, 1:3].mean() > 4 * strengths(4)[0].mean()


@pytest.mark.parametrize("frames", [1, 5])
def test_a_still_clip_has_no_motion(frames: int) -> None:
    still = moving_square((0, 0), frames)
    assert direction_shares(still).tolist() == pytest.approx([0] * 8 + [1])
    assert not FEATURES["flow"](still)[HISTOGRAMS:].any()
    assert not FEATURES["difference"](still).any()


def test_difference_finds_place_and_rhythm() -> None:
    blinking = np.zeros((17, 64, 64, 3), dtype=np.uint8)
    blinking[2::4, :8, 8:16] = 255
    blinking[3::4, :8, 8:16] = 255
    vector = FEATURES["difference"](blinking)
    means, spectrum = vector[:64].reshape(8, 8), vector[128:]
    assert np.argwhere(means > 0).tolist() == [[0, 1]]
    assert means[0, 1] == pytest.approx(0.5)
    assert spectrum.argmax() + 1 == 8


@pytest.mark.parametrize("frames", [1, 5, 16])
@pytest.mark.parametrize("name", FEATURES)
def test_vectors_are_finite_and_of_one_length(name: str, frames: int) -> None:
    clip = np.random.default_rng(frames).integers(0, 255, (frames, 112, 112, 3), dtype=np.uint8)
    before = clip.copy()
    vector = FEATURES[name](clip)
    assert vector.shape == (LENGTHS[name],)
    assert vector.dtype == np.float64
    assert np.isfinite(vector).all()
    assert (clip == before).all()


@pytest.mark.parametrize("name", FEATURES)
def test_the_smallest_frames_work(name: str) -> None:
    assert np.isfinite(FEATURES[name](np.zeros((2, 16, 16, 3), dtype=np.uint8))).all()


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
    calls: list[int] = []

    def mean(frames: Frames) -> np.ndarray:
        calls.append(len(frames))
        return frames.mean(axis=(0, 1, 2))

    monkeypatch.setitem(features.FEATURES, "hog", mean)
    monkeypatch.setattr(features, "_MEMO", {})
    return calls


def stored_and_files(folder: Path) -> tuple[ClipSet, ClipSet]:
    path = folder / "clip.mp4"
    write_video(path, moving_square((4, 0), size=64))
    stored = ClipSet.of_entries([Entry(path, "a", "", "train")], ("a", "b"), ClipStore(64, 256))
    return stored, ClipSet.of_files([path], ("a", "b"), 64, 256)


def test_stored_clips_are_computed_once_and_files_each_time(tmp_path: Path, counted: list[int]) -> None:
    stored, files = stored_and_files(tmp_path)
    framing = Framing(4, 32, 32)
    first, again = (feature_matrix(stored, ["hog"], framing) for _ in range(2))
    assert counted == [4]
    honest = [feature_matrix(files, ["hog"], framing) for _ in range(2)]
    assert counted == [4, 4, 4]
    for values in (again, *honest):
        np.testing.assert_array_equal(values, first)


def test_the_memo_tells_framings_and_contents_apart(tmp_path: Path, counted: list[int]) -> None:
    stored, _ = stored_and_files(tmp_path)
    for framing in (Framing(4, 32, 32), Framing(5, 32, 32), Framing(4, 16, 32), Framing(4, 32, 40)):
        feature_matrix(stored, ["hog"], framing)
    assert len(counted) == 4
    write_video(stored.paths[0], moving_square((0, 4), size=64))
    feature_matrix(stored, ["hog"], Framing(4, 32, 32))
    assert len(counted) == 5


def test_a_full_memo_still_gives_values(
    tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_MEMO_LIMIT", 0)
    stored, _ = stored_and_files(tmp_path)
    for _ in range(2):
        assert feature_matrix(stored, ["hog"], Framing(4, 32, 32)).shape == (1, 3)
    assert len(counted) == 2


def test_features_stand_side_by_side_in_the_order_given() -> None:
    clip = moving_square((4, 0))
    clips = ClipSet((Path("x"),), np.zeros(1, dtype=np.int64), ("x",), ("a", "b"), lambda _: clip)
    joined = feature_matrix(clips, ["difference", "flow"], Framing(8, 112, 112))
    expected = np.concatenate([FEATURES["difference"](clip), FEATURES["flow"](clip)])
    np.testing.assert_allclose(joined, expected[None])
