"""Decoding: which frames a clip is reduced to, and what files that are no clips do."""

import os
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vidclf.data import video
from vidclf.data.sampling import frame_times, grid_indices, sample_indices
from vidclf.data.video import decode, write_video
from vidclf.exceptions import ClipError

REAL = os.environ.get("VIDCLF_REAL_DATA")
real = pytest.mark.real


def counted(frames: int, height: int = 24, width: int = 32) -> video.Frames:
    """Frames whose grey value is their number."""
    numbers = np.arange(frames, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(numbers, (frames, height, width, 3)).copy()


def numbers(frames: video.Frames) -> list[int]:
    return [int(value) for value in np.round(frames.mean(axis=(1, 2, 3)))]


@pytest.fixture
def lossless(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mkv"
    write_video(path, counted(200) + 20, rate=25, codec="ffv1")
    return path


def test_a_short_clip_keeps_every_frame(lossless: Path) -> None:
    clip = decode(lossless, 500, 256)
    assert numbers(clip.frames) == pytest.approx(range(20, 220), abs=1)
    assert (clip.decoded, clip.remark) == (200, "")


def test_the_grid_takes_the_midpoints_of_equal_parts(lossless: Path) -> None:
    assert numbers(decode(lossless, 4, 256).frames) == pytest.approx([45, 95, 145, 195], abs=1)


def test_a_second_pass_takes_the_same_frames(lossless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = decode(lossless, 16, 12).frames
    monkeypatch.setattr(video, "_HELD_BYTES", 0)
    np.testing.assert_array_equal(decode(lossless, 16, 12).frames, once)


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [((24, 32), 256, (24, 32)), ((24, 32), 12, (12, 16)), ((32, 24), 12, (16, 12)), ((50, 30), 12, (20, 12))],
)
def test_frames_are_reduced_by_their_short_side_and_never_enlarged(
    tmp_path: Path, size: tuple[int, int], side: int, expected: tuple[int, int]
) -> None:
    write_video(tmp_path / "x.mkv", counted(3, *size), codec="ffv1")
    assert decode(tmp_path / "x.mkv", 8, side).frames.shape == (3, *expected, 3)


@pytest.mark.parametrize(
    ("ratio", "shape"),
    [((4, 3), (30, 56)), ((2, 3), (40, 37)), ((87, 86), (40, 56))],
    ids=["wide pixels", "tall pixels", "rounding of an odd size"],
)
def test_pictures_have_square_pixels(ratio: tuple[int, int], shape: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "anamorphic.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 56, 40, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(*ratio)
        frame = av.VideoFrame.from_ndarray(np.full((40, 56, 3), 90, np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert video.decode(path, 8, 256).frames.shape == (1, *shape, 3)


def test_high_dynamic_range_keeps_dark_and_bright_apart(tmp_path: Path) -> None:
    path = tmp_path / "hdr.mp4"
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, 32:] = 220
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p10le"
        bt2020, pq = 9, 16  # ITU-T H.273
        stream.codec_context.color_primaries, stream.codec_context.color_trc = bt2020, pq
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.color_trc == pq
    clip = video.decode(path, 8, 256)
    assert clip.frames.shape == (3, 32, 64, 3)
    assert clip.frames[:, :, :24].max() < 20
    assert abs(clip.frames[:, :, 40:].astype(int) - 220).max() < 20


def test_a_name_may_start_with_a_dash_or_hold_a_colon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "x.avi", counted(3))
    monkeypatch.chdir(tmp_path)
    for name in ("-x.avi", "http:x.avi"):
        Path(name).write_bytes(Path("x.avi").read_bytes())
        assert len(decode(Path(name), 8, 256).frames) == 3


@pytest.mark.parametrize("content", [b"", b"this is not a video\n" * 50, b"RIFF\x00\x00\x00\x00AVI LIST"])
def test_what_is_no_video_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.avi"
    path.write_bytes(content)
    with pytest.raises(ClipError) as caught:
        decode(path, 8, 256)
    assert caught.value.verdict == "unreadable"
    assert str(path) in str(caught.value)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("encoded") / "x.avi"
    write_video(path, np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), dtype=np.uint8))
    return path.read_bytes()


def test_an_unknown_codec_is_unreadable(encoded: bytes, tmp_path: Path) -> None:
    assert b"FMP4" in encoded
    path = tmp_path / "foreign.avi"
    path.write_bytes(encoded.replace(b"FMP4", b"XXXX"))
    with pytest.raises(ClipError, match=r"foreign.avi: unreadable: its codec is not known to the decoder"):
        decode(path, 16, 256)
    with pytest.raises(ClipError, match="its codec is not known"):
        video.inspect(path)
    assert video.outline(path) == (0, 0, 0)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=5))
def test_a_broken_file_is_a_clip_or_a_clip_error(
    encoded: bytes, tmp_path: Path, cut: float, changes: list[tuple[float, int]]
) -> None:
    broken = bytearray(encoded[: round(cut * len(encoded))])
    for place, value in changes:
        if broken:
            broken[int(place * (len(broken) - 1))] = value
    path = tmp_path / "broken.avi"
    path.write_bytes(broken)
    try:
        clip = decode(path, 16, 256)
    except ClipError as error:
        assert error.verdict in ("unreadable", "empty", "damaged")
    else:
        assert clip.frames.dtype == np.uint8
        assert len(clip.frames) == min(clip.decoded, 16)


def test_a_cut_file_is_not_taken_for_whole(encoded: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.avi"
    path.write_bytes(encoded[: len(encoded) // 2])
    try:
        clip = decode(path, 64, 256)
    except ClipError as error:
        assert error.verdict == "damaged"
    else:
        assert clip.decoded < 29
        assert clip.remark == f"short: {clip.decoded} of 30 declared frames"


increasing = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=120).map(np.cumsum)


@given(increasing, st.integers(1, 100))
def test_grid_frames_are_the_last_that_begin_at_or_before_their_instant(times: np.ndarray, grid: int) -> None:
    indices = grid_indices(times, grid)
    if len(times) <= grid:
        assert indices.tolist() == list(range(len(times)))
        return
    assert len(indices) == grid
    assert (np.diff(indices) >= 0).all()
    duration = times[-1] - times[0] + np.median(np.diff(times))
    for part, index in enumerate(indices):
        instant = times[0] + (part + 0.5) / grid * duration
        assert times[index] <= instant
        assert index == len(times) - 1 or times[index + 1] > instant


@given(st.lists(st.none() | st.floats(-10, 10), min_size=1, max_size=30), st.floats(1, 120))
def test_times_are_timestamps_only_where_they_can_be_true(stamps: list[float | None], rate: float) -> None:
    times = frame_times(stamps, rate)
    assert (np.diff(times) > 0).all()
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) == len(stamps) and all(a < b for a, b in pairwise(known)):
        assert times.tolist() == known
    else:
        assert times.tolist() == pytest.approx([index / rate for index in range(len(stamps))])


def test_false_timestamps_give_way_to_the_rate() -> None:
    assert frame_times([1, 2, 4, 3, 5], 10).tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@given(st.integers(1, 100), st.integers(1, 100), st.none() | st.integers(0, 3))
def test_samples_take_one_frame_of_each_part(available: int, frames: int, seed: int | None) -> None:
    generator = None if seed is None else np.random.default_rng(seed)
    indices = sample_indices(available, frames, generator)
    assert len(indices) == frames
    assert (np.diff(indices) >= 0).all()
    assert indices.min() >= 0
    assert indices.max() < available
    if available <= frames:
        assert indices.tolist() == [*range(available), *[available - 1] * (frames - available)]
    else:
        for part, index in enumerate(indices):
            assert part * available // frames <= index <= ((part + 1) * available - 1) // frames


def test_samples_are_midpoints_without_jitter() -> None:
    assert sample_indices(64, 4).tolist() == [8, 24, 40, 56]
    assert sample_indices(3, 5).tolist() == [0, 1, 2, 2, 2]


@real
@pytest.mark.skipif(not REAL, reason="VIDCLF_REAL_DATA is not set")
@pytest.mark.parametrize("folder", ["clips", "awkward"])
def test_real_clips_have_the_verdicts_that_are_known_of_them(folder: str) -> None:
    verdicts = {}
    for path in sorted(Path(str(REAL), folder).iterdir()):
        try:
            verdicts[path.name] = "short" if decode(path, 64, 256).remark else "ok"
        except ClipError as error:
            verdicts[path.name] = error.verdict
    assert len(verdicts) >= 9
    known = {"corrupted.mp4": "damaged", "zero_bytes.webm": "unreadable", "sine_mono_s16.wav": "unreadable"}
    assert verdicts == {name: known.get(name, "ok") for name in verdicts}


@real
@pytest.mark.skipif(not REAL, reason="VIDCLF_REAL_DATA is not set")
def test_rotation_is_honoured() -> None:
    frames = decode(Path(str(REAL), "awkward/video_90.mov"), 64, 256).frames
    assert frames.shape[1] > frames.shape[2]
