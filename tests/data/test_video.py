"""Decoding: which frames a clip is reduced to, and what files that are no clips do."""

import os
import struct
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vidclf.data import video
from vidclf.data.pictures import Frames
from vidclf.data.video import decode, write_video
from vidclf.data.windows import windows
from vidclf.exceptions import ClipError

REAL = os.environ.get("VIDCLF_REAL_DATA")
real = pytest.mark.real


def counted(frames: int, height: int = 24, width: int = 32) -> Frames:
    """Frames whose grey value is their number."""
    numbers = np.arange(frames, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(numbers, (frames, height, width, 3)).copy()


def numbers(frames: Frames) -> list[int]:
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
        stream = cast(av.VideoStream, container.add_stream("mpeg4", rate=25))
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
@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_pictures_are_turned_and_mirrored_as_ffmpeg_does(
    turns: int, mirrored: bool, suffix: str, tmp_path: Path
) -> None:
    picture = np.zeros((64, 96, 3), dtype=np.uint8)
    picture[:20, :20], picture[-20:, -20:], picture[:20, -20:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    path = tmp_path / "clip.mp4"
    write_video(path, np.stack([picture] * 3))
    matrix = np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), turns) * ([-1, 1] if mirrored else [1, 1])
    content = path.read_bytes()
    place = content.index(b"tkhd") + 44  # of the matrix in the track's header, ISO/IEC 14496-12
    (a, b), (c, d) = (matrix << 16).tolist()
    turned = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:place] + turned + content[place + 36 :])
    if suffix == ".mkv":
        path = remuxed(path, tmp_path / "clip.mkv")
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert ("DISPLAYMATRIX" in frame.side_data) == (turns > 0 or mirrored)
    shown = autorotated(frame)
    clip = decode(path, 4, 256)
    np.testing.assert_array_equal(clip.pictures[0].packed(), shown.to_ndarray())
    np.testing.assert_allclose(clip.frames[0].astype(int), shown.to_ndarray(format="rgb24"), atol=3)
    facts = video.inspect(path)
    assert (facts.height, facts.width) == (shown.height, shown.width)


def remuxed(path: Path, to: Path) -> Path:
    with av.open(str(path)) as source, av.open(str(to), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    return to


def autorotated(frame: av.VideoFrame) -> av.VideoFrame:
    """What the ffmpeg command shows: filters as its ``configure_input_video_filter`` chooses them."""
    if "DISPLAYMATRIX" not in frame.side_data:
        return frame
    matrix = np.frombuffer(bytes(frame.side_data["DISPLAYMATRIX"]), np.int32).tolist()
    filters: list[tuple[str, ...]] = []
    match round(np.degrees(np.arctan2(matrix[1], matrix[0]))) % 360:
        case 90:
            filters = [("transpose", "cclock_flip" if matrix[3] > 0 else "clock")]
        case 180:
            filters = [("hflip",)] * (matrix[0] < 0) + [("vflip",)] * (matrix[4] < 0)
        case 270:
            filters = [("transpose", "clock_flip" if matrix[3] < 0 else "cclock")]
        case 0:
            filters = [("vflip",)] * (matrix[4] < 0)
    graph = av.filter.Graph()
    first = graph.add_buffer(
        width=frame.width, height=frame.height, format="yuv420p", time_base=Fraction(1, 25)
    )
    graph.link_nodes(first, *(graph.add(*each) for each in filters), graph.add("buffersink")).configure()
    graph.push(frame)
    return cast(av.VideoFrame, graph.pull())


@real
@pytest.mark.skipif(not REAL, reason="VIDCLF_REAL_DATA is not set")
def test_rotation_is_honoured() -> None:
    frames = decode(Path(str(REAL), "awkward/video_90.mov"), 64, 256).frames
    assert frames.shape[1] > frames.shape[2]


@pytest.mark.parametrize("frames", [5, 40])
def test_a_fourth_channel_is_the_picture_a_fixed_time_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: int
) -> None:
    path = tmp_path / "clip.avi"
    shades = np.arange(frames, dtype=np.uint8) * 5
    video.write_video(path, np.broadcast_to(shades[:, None, None, None], (frames, 32, 48, 3)))
    monkeypatch.setattr(video, "_second_pass", None)  # what is needed is known beforehand
    grid = video.decode(path, 8, 256, apart=0.12).frames
    assert grid.shape == (min(frames, 8), 32, 48, 4)
    np.testing.assert_array_equal(grid[..., :3], video.decode(path, 8, 256).frames)
    first, later = grid[..., :3].mean(axis=(1, 2, 3)), grid[..., 3].mean(axis=(1, 2))
    steps = np.minimum(3, frames - 1 - np.round(first / 5))  # three at 25 a second, fewer at the end
    np.testing.assert_allclose(later - first, 5 * steps, atol=2)
    [window] = windows(video.each_frame(path, 256), 100, 8, counted=False, apart=0.12)
    np.testing.assert_array_equal(window.frames, grid)
