"""Opening videos: the stream that is taken, times without jumps of the clock, pictures that are promised.

The expected values are FFmpeg's own: its best stream, the frames that its decoder gives, its correction of
timestamps.
"""

import os
import re
import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.stream import Disposition

from vidclf.data import video
from vidclf.data.check import inspect_clip
from vidclf.data.windows import windows
from vidclf.exceptions import ClipError

REAL = os.environ.get("VIDCLF_REAL_DATA")


def add_stream(
    container: av.container.OutputContainer, codec: str, size: tuple[int, int] = (64, 48)
) -> av.VideoStream:
    stream = cast(av.VideoStream, container.add_stream(codec, rate=25))
    stream.width, stream.height = size
    stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    return stream


def packets(
    stream: av.VideoStream, levels: Iterable[int], places: Sequence[int] | None = None
) -> list[av.Packet]:
    """Grey pictures, in place i or ``places[i]`` at 25 a second."""
    encoded = []
    for number, level in enumerate(levels):
        picture = np.full((stream.height, stream.width, 3), level, np.uint8)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = places[number] if places else number, Fraction(1, 25)
        encoded += stream.encode(frame)
    return [*encoded, *stream.encode(None)]


def write(
    path: Path,
    levels: Sequence[int],
    codec: str,
    muxer: str | None = None,
    places: Sequence[int] | None = None,
) -> Path:
    with av.open(str(path), "w", format=muxer) as container:
        container.mux(packets(add_stream(container, codec), levels, places))
    return path


def levels(path: Path, grid: int = 8) -> list[int]:
    return [round(float(level)) for level in video.decode(path, grid, 256).frames.mean(axis=(1, 2, 3))]


def test_the_best_stream_is_taken_and_the_others_named(tmp_path: Path) -> None:
    path = tmp_path / "preview.mp4"
    with av.open(str(path), "w") as container:
        preview, real = add_stream(container, "mpeg4", (48, 32)), add_stream(container, "mpeg4", (96, 64))
        preview.disposition, real.disposition = Disposition(0), Disposition.default
        preview_packets = packets(preview, [200] * 5)
        container.mux(packets(real, [20] * 5))
        container.mux(preview_packets)
    with av.open(str(path)) as container:
        best = container.streams.best("video")
        assert best is not None
        assert (best.index, best.width) == (1, 96)
    assert video.decode(path, 8, 256).frames.shape == (5, 64, 96, 3)
    assert levels(path) == pytest.approx([20] * 5, abs=2)
    assert video.outline(path)[:2] == (96, 64)
    facts = inspect_clip(path).facts
    assert facts is not None
    assert facts.notes == ("video stream 1 (96x64) is taken, not 0 (48x32)",)


@pytest.mark.parametrize("kinds", ["cover video", "video cover", "cover"])
def test_a_cover_is_no_video(kinds: str, tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        streams = [add_stream(container, "mjpeg" if kind == "cover" else "mpeg4") for kind in kinds.split()]
        for stream in streams:
            if stream.codec_context.name == "mjpeg":
                stream.disposition = Disposition.attached_pic
        container.mux(
            [
                packet
                for stream in streams
                for packet in packets(stream, [200] if stream.codec_context.name == "mjpeg" else [20] * 5)
            ]
        )
    if kinds == "cover":
        with pytest.raises(ClipError, match="unreadable: no video stream"):
            video.decode(path, 8, 256)
    else:
        assert levels(path) == pytest.approx([20] * 5, abs=2)
        assert inspect_clip(path).reason == ""


@pytest.mark.parametrize(
    ("muxer", "codec"), [("mpegts", "libx264"), ("mpegts", "mpeg2video"), ("vob", "mpeg2video")]
)
@pytest.mark.parametrize("start", [0, 25 * 3600], ids=["back", "ahead"])
def test_a_clock_that_was_set_anew_runs_on(muxer: str, codec: str, start: int, tmp_path: Path) -> None:
    """Recordings put one behind the other, as by ``cat``: the second one's clock begins elsewhere."""
    first = write(tmp_path / "first", range(20, 120, 2), codec, muxer)
    second = write(tmp_path / "second", range(120, 220, 2), codec, muxer, range(start, start + 50))
    path = tmp_path / "both"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    whole = write(tmp_path / "whole", range(20, 220, 2), codec, muxer)
    assert len(levels(path)) == 8
    assert levels(path) == pytest.approx(levels(whole), abs=2)
    facts = inspect_clip(path).facts
    assert facts is not None
    assert facts.seconds == pytest.approx(4, abs=0.05)
    assert facts.notes[0].startswith("its clock jumps after frame 4")
    assert [window.start for window in windows(video.each_frame(path, 48), 1.0, 4, counted=False)] == [
        0,
        1,
        2,
        3,
    ]
    plain = inspect_clip(whole).facts
    assert plain is not None
    assert plain.notes == ()


@pytest.mark.parametrize(("name", "codec"), [("live.flv", "flv"), ("live.wmv", "wmv2")])
def test_a_clock_that_jumps_by_hours_shows_no_still(name: str, codec: str, tmp_path: Path) -> None:
    hours = 3 * 3600 * 25
    path = write(tmp_path / name, range(20, 220, 2), codec, None, [*range(50), *range(hours, hours + 50)])
    assert levels(path) == pytest.approx(
        levels(write(tmp_path / f"whole-{name}", range(20, 220, 2), codec)), abs=2
    )
    facts = inspect_clip(path).facts
    assert facts is not None
    assert facts.notes[0].startswith("its clock jumps after frame 49")


def test_a_long_still_is_no_jump_where_clocks_are_not_set_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "still.mp4", range(20, 60, 2), "mpeg4", None, [*range(10), *range(1000, 1010)])
    facts = inspect_clip(path).facts
    assert facts is not None
    assert facts.seconds == pytest.approx(1010 / 25)
    assert facts.notes == ("frame 9 stands still for 40 s",)
    assert levels(path) == pytest.approx([38] * 8, abs=2)


def edited(content: bytes, entries: Sequence[tuple[int, int]]) -> bytes:
    """An MP4 file that shows other parts: of each the milliseconds, and the frame it begins with."""
    place = content.index(b"elst") - 4
    *_, lead, rate = struct.unpack(">I4sIIIiI", content[place : place + 28])
    step = 512  # of 1/12800 s, by which FFmpeg counts at 25 frames a second
    parts = b"".join(struct.pack(">IiI", length, lead + first * step, rate) for length, first in entries)
    content = content[: place + 16] + parts + content[place + 28 :]
    for name in (b"moov", b"trak", b"edts", b"elst"):
        box = content.index(name) - 4
        (size,) = struct.unpack(">I", content[box : box + 4])
        content = content[:box] + struct.pack(">I", size + len(parts) - 12) + content[box + 4 :]
    return content


@pytest.mark.parametrize(
    ("entries", "shown"),
    [
        ([(4000, 0)], range(20, 220, 2)),
        ([(2000, 20)], range(60, 160, 2)),
        ([(1000, 60), (1000, 10)], [*range(140, 190, 2), *range(40, 90, 2)]),
    ],
    ids=["all", "a part", "two parts in another order"],
)
def test_an_edit_list_promises_what_it_shows(
    entries: Sequence[tuple[int, int]], shown: Sequence[int], tmp_path: Path
) -> None:
    path = write(tmp_path / "edited.mp4", range(20, 220, 2), "libx264")
    path.write_bytes(edited(path.read_bytes(), entries))
    clip = video.decode(path, 1000, 256)
    assert (clip.declared, clip.decoded, clip.remark) == (len(shown), len(shown), "")
    assert clip.frames.mean(axis=(1, 2, 3)).tolist() == pytest.approx(list(shown), abs=3)
    assert inspect_clip(path).verdict == "ok"


def test_empty_chunks_promise_no_picture(tmp_path: Path) -> None:
    path = write(tmp_path / "sparse.avi", range(20, 80, 2), "mjpeg", None, range(0, 90, 3))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 88
    clip = video.decode(path, 64, 256)
    assert (clip.declared, clip.decoded, clip.remark) == (30, 30, "")
    assert inspect_clip(path).verdict == "ok"
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"idx1")])  # as where a recording was cut between two chunks
    assert video.decode(path, 64, 256).remark == "short: 30 of 88 declared frames"


def test_a_packet_that_shows_the_last_picture_again_promises_none(tmp_path: Path) -> None:
    path = tmp_path / "skips.avi"
    with av.open(str(path), "w") as container:
        stream = add_stream(container, "mpeg4")
        for number, packet in enumerate(packets(stream, range(20, 100, 2))):
            container.mux(not_coded(packet, stream) if number % 4 == 2 else packet)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 40
    clip = video.decode(path, 64, 256)
    assert (clip.declared, clip.decoded, clip.remark) == (30, 30, "")
    content = path.read_bytes()
    chunks = [match.start() for match in re.finditer(b"00dc", content)]
    path.write_bytes(content[: chunks[20]])
    assert re.fullmatch(r"short: 15 of 3\d declared frames", video.decode(path, 64, 256).remark)


def not_coded(packet: av.Packet, stream: av.VideoStream) -> av.Packet:
    """The packet's picture header alone, its bit ``vop_coded`` cleared (ISO/IEC 14496-2, 6.2.5)."""
    content = bytes(packet)
    begin = content.index(b"\0\0\1\xb6") + 4
    bits = "".join(f"{byte:08b}" for byte in content[begin : begin + 4])
    coded = bits.index("0", 2) + 1 + 1 + 5 + 1  # seconds in unary, a marker, 5 bits of 25 a second, a marker
    bits = f"{bits[:coded]}00".ljust(-(-(coded + 2) // 8) * 8, "1")
    skipped = av.Packet(content[:begin] + int(bits, 2).to_bytes(len(bits) // 8, "big"))
    skipped.pts, skipped.dts, skipped.time_base, skipped.stream = (
        packet.pts,
        packet.dts,
        packet.time_base,
        stream,
    )
    return skipped


@pytest.mark.parametrize("name", ["x.mkv", "x.webm"])
def test_matroska_cut_in_the_middle_is_damaged_wherever_it_is_read(name: str, tmp_path: Path) -> None:
    """Its decoder raises nothing and no frame is corrupt: FFmpeg only logs that the file ended."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), dtype=np.uint8)
    codec = "mpeg4" if name == "x.mkv" else "libvpx-vp9"
    video.write_video(tmp_path / name, noise, codec=codec)
    content = (tmp_path / name).read_bytes()
    reason = "the decoder reports: File ended prematurely"
    for copy in range(2):  # FFmpeg's log leaves out a message that equals the last
        path = tmp_path / f"cut{copy}{name}"
        path.write_bytes(content[: len(content) // 2])
        assert (inspect_clip(path).verdict, inspect_clip(path).reason) == ("damaged", reason)
        with pytest.raises(ClipError, match=f"damaged: {reason}"):
            video.decode(path, 8, 256)
        with pytest.raises(ClipError, match=f"damaged: {reason}"):
            list(windows(video.each_frame(path, 48), 0.1, 4, counted=False))


def test_a_broadcast_that_was_joined_late_is_shown_from_its_first_key_frame(tmp_path: Path) -> None:
    path = tmp_path / "late.ts"
    with av.open(str(path), "w") as container:
        stream = add_stream(container, "libx264")
        stream.gop_size = 10
        late = packets(stream, range(20, 220, 4))
        container.mux(late[14:])
    assert levels(path, 1000)[0] == pytest.approx(20 + 20 * 4, abs=3)
    assert inspect_clip(path).verdict == "ok"


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="VIDCLF_REAL_DATA is not set")
@pytest.mark.slow
def test_files_of_public_bug_reports_are_whole_and_shown_as_players_do() -> None:
    found = {}
    for path in sorted(Path(str(REAL), "public_bugs").iterdir()):
        check = inspect_clip(path)
        clip = video.decode(path, 64, 256)
        assert (check.verdict, clip.remark) == ("ok", ""), path.name
        found[path.name] = (
            *clip.frames.shape[1:3],
            clip.decoded,
            len({frame.tobytes() for frame in clip.frames}),
        )
    assert found == {
        "cover_first.mp4": (128, 192, 100, 64),
        "drop.avi": (128, 192, 34, 34),
        "edit.mp4": (128, 192, 62, 62),
        "hflip.mp4": (128, 192, 100, 64),
        "jump.ts": (128, 192, 100, 64),
        "negpts.mp4": (128, 192, 97, 64),
        "two_v.mp4": (128, 192, 100, 64),
        "vflip.mp4": (128, 192, 100, 64),
        "vfr64.mp4": (128, 192, 64, 17),
        "vfr66.mp4": (128, 192, 66, 17),
    }
