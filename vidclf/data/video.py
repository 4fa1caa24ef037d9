"""Video files to uint8 frames and back.

A clip is decoded in one pass and reduced to its *grid*: at most ``grid``
frames at the midpoints of equal parts of the duration, each with a short side
of at most ``store_side`` pixels and half as much colour as brightness. Store on
or off, training or serving, every clip takes this one way.
"""

import importlib.metadata
import io
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from vidclf.data import sampling
from vidclf.data.container import UNBOUNDED, DecodeLimits, open_video
from vidclf.data.pictures import Frames, Picture, Plane, rgb_frames
from vidclf.exceptions import ClipError

if TYPE_CHECKING:
    import av  # where it is first needed: training on stored clips needs none
    from av.buffer import Buffer
    from av.video.plane import VideoPlane

Verdict = Literal["damaged", "empty", "unreadable", "oversized"]
"""Why a clip gives no frames to train on."""


def _pyav() -> str:
    """PyAV's version; ``none`` where it is not installed and all clips are stored already."""
    try:
        return importlib.metadata.version("av")
    except importlib.metadata.PackageNotFoundError:
        return "none"


DECODER = f"pyav-{_pyav()}-planes"
"""Part of every cache key: another decoder may give other pixels."""

_ROUNDED_RATIO = 0.02
"""Encoders that round a picture to even sides name pixel ratios as 87:86; those are square."""
_LONG_STILL_S = 10.0
"""A frame shown for longer is worth a word: where clocks may be set anew, FFmpeg would call it a jump."""
_HELD_BYTES = 256 * 2**20
"""Raw frames kept while the duration is still unknown; beyond, the file is decoded a second time."""


@dataclass(frozen=True)
class Clip:
    """A decoded clip.

    Attributes:
        pictures: The grid, all in one size, at most as many as its instants.
        later: Grey values of a second picture for each of them, uint8 (H, W), a fixed time later, so that
            motion can be seen however long the clip is; none where they were not asked for.
        declared: Frames that the container promises; ``None`` where it gives no number.
        decoded: Frames that came out of the decoder.
    """

    pictures: Sequence[Picture]
    declared: int | None
    decoded: int
    later: Sequence[Plane] = ()

    @cached_property
    def frames(self) -> Frames:
        """The grid in RGB, uint8 (T, H, W, 3), with `later` as a fourth channel where there is one."""
        frames = rgb_frames(self.pictures)
        return np.concatenate([frames, np.stack(self.later)[..., None]], axis=3) if self.later else frames

    @property
    def remark(self) -> str:
        """What a user should know of the clip, in words; empty where it is ok."""
        missing = shortfall(self.declared, self.decoded)
        return f"short: {missing}" if missing else ""


def shortfall(declared: int | None, decoded: int) -> str:
    """``89 of 180 declared frames`` where more than one is missing, else empty: some good files lack one."""
    if declared is None or decoded >= declared - 1:
        return ""
    return f"{decoded} of {declared} declared frames"


def decode(
    path: Path, grid: int, store_side: int, bounds: DecodeLimits = UNBOUNDED, *, apart: float = 0.0
) -> Clip:
    """The clip at ``path``, reduced to its grid.

    Args:
        path: A video file.
        grid: Number of instants over the duration; a clip of fewer frames at a constant rate keeps them all.
        store_side: Upper limit of the short side in pixels; frames are never enlarged.
        bounds: Beyond them a clip is refused.
        apart: Seconds after each picture at which a later one is taken, see `Clip.later`; 0: none.

    Raises:
        ClipError: The file is unreadable, holds no frame, its pictures are damaged, or it is out of bounds.
    """
    return _decoded(path, grid, store_side, bounds, apart=apart)[0]


def survey(path: Path, grid: int, store_side: int) -> "tuple[Clip, VideoInfo]":
    """As `decode`, with what there is to know of the file, and no error of a decoder's own threads unseen."""
    return _decoded(path, grid, store_side, UNBOUNDED, threads="NONE")


def _decoded(
    path: Path,
    grid: int,
    store_side: int,
    bounds: DecodeLimits,
    *,
    threads: Literal["NONE"] | None = None,
    apart: float = 0.0,
) -> "tuple[Clip, VideoInfo]":
    times: list[float | None] = []
    pictures: dict[int, Picture] = {}
    held: dict[int, av.VideoFrame] = {}
    room = _HELD_BYTES
    with open_video(path, bounds) as video:
        video.stream.thread_type = threads or video.stream.thread_type
        reduced = Reduction(store_side, pixel_ratio(video.stream))
        likely = sampling.likely_indices(video.declared, grid, video.rate, apart)
        for index, (time, frame) in enumerate(video.frames()):
            times.append(time)
            if likely is None and room > 0:
                held[index] = frame
                room -= 3 * frame.width * frame.height // 2
            elif likely is None:
                held.clear()
            elif index in likely:
                pictures[index] = reduced(frame)
        seconds = sampling.frame_times(times, video.rate)
        indices = sampling.grid_indices(seconds, grid)
        later = sampling.later_indices(seconds, indices, apart) if apart else indices[:0]
        wanted = {*indices.tolist(), *later.tolist()}
        pictures |= {index: reduced(held[index]) for index in wanted & held.keys()}
        rate, codec, notes = video.stream.average_rate, video.stream.codec_context.name, [*video.notes()]
    if not pictures.keys() >= wanted:
        pictures = _second_pass(path, wanted, reduced)
    width, height = (frame.height, frame.width) if _orientation(frame)[0] else (frame.width, frame.height)
    if (steps := np.diff(seconds, append=seconds[-1])).max() > _LONG_STILL_S:
        notes.append(f"frame {steps.argmax()} stands still for {steps.max():.0f} s")
    info = VideoInfo(
        codec=codec,
        fps=float(rate) if rate else None,
        width=width,
        height=height,
        seconds=sampling.duration(seconds),
        declared=video.declared,
        decoded=video.decoded,
        notes=tuple(notes),
    )
    shown, shown_later = gridded(pictures, indices, later)
    return Clip(shown, video.declared, len(times), shown_later), info


def gridded(
    pictures: Mapping[int, Picture], indices: NDArray[np.int64], later: NDArray[np.int64]
) -> tuple[list[Picture], list[Plane]]:
    """The pictures at ``indices``, and the grey values of those at ``later``, all in one size."""
    size = pictures[int(indices[0])].size
    same = {index: pictures[index].resized(*size) for index in {*indices.tolist(), *later.tolist()}}
    return [same[index] for index in indices.tolist()], [grey(same[index].rgb()) for index in later.tolist()]


def grey(frame: Frames) -> Plane:
    """Grey values (H, W) of an RGB picture."""
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)


def each_frame(path: Path, store_side: int) -> Iterator[tuple[float | None, float, Callable[[], Picture]]]:
    """Every frame of a clip in the decoder's output order, none of them kept.

    Args:
        path: A video file.
        store_side: As of `decode`.

    Yields:
        The frame's time by its timestamp in seconds, where it has one; its time by its place and the average
        rate; and its reduced picture, computed when called for, before the next frame is asked for.

    Raises:
        ClipError: As `decode`.
    """
    with open_video(path) as video:
        reduced = Reduction(store_side, pixel_ratio(video.stream))
        for index, (time, frame) in enumerate(video.frames()):
            yield time, index / video.rate, partial(reduced, frame)


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself, and what came out of it.

    Attributes:
        codec: FFmpeg's name of the codec.
        fps: Average frame rate; ``None`` where unknown.
        width: Of the pictures upright, in pixels of the file.
        height: Likewise.
        seconds: Duration from the frames' times.
        declared: Frames that the container promises; ``None`` where it gives no number.
        decoded: Frames that came out of the decoder.
        notes: How a choice that the file leaves was made, and what is odd without being wrong.
    """

    codec: str
    fps: float | None
    width: int
    height: int
    seconds: float
    declared: int | None
    decoded: int
    notes: tuple[str, ...]


def inspect(path: Path) -> VideoInfo:
    """What `survey` says of a file.

    Raises:
        ClipError: The file is unreadable, holds no frame, or is damaged.
    """
    return survey(path, 1, 1)[1]


def outline(path: Path) -> tuple[int, int, int | None]:
    """What a file's header says, without decoding.

    Returns:
        Width and height in pixels, and the declared frames, ``None`` where it gives no number; zeros where
        the file cannot be read.
    """
    try:
        with open_video(path) as video:
            return video.stream.width, video.stream.height, video.declared
    except ClipError:
        return 0, 0, 0


def pixel_ratio(stream: "av.VideoStream") -> float:
    """Width to height of one pixel; 1 where a file names none, or one that only rounding explains."""
    ratio = float(stream.sample_aspect_ratio or 1)
    return ratio if ratio > 0 and abs(ratio - 1) > _ROUNDED_RATIO else 1.0


def _second_pass(path: Path, wanted: Set[int], reduced: "Reduction") -> dict[int, Picture]:
    with open_video(path) as video:
        return {index: reduced(frame) for index, (_, frame) in enumerate(video.frames()) if index in wanted}


class Reduction:
    """Turns decoded frames into upright pictures of square pixels, reduced to a short side.

    Args:
        store_side: Upper limit of the short side in pixels.
        pixel_ratio: Width to height of one pixel as it is shown.
    """

    def __init__(self, store_side: int, pixel_ratio: float) -> None:
        self._store_side, self._pixel_ratio = store_side, pixel_ratio
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def __call__(self, frame: "av.VideoFrame") -> Picture:
        from av.video.reformatter import ColorRange, Colorspace

        # One thread: those of libswscale wait long for a core where other libraries' threads are spinning.
        colours = {"dst_colorspace": Colorspace.ITU601, "dst_color_range": ColorRange.MPEG}
        same = self._reformatter.reformat(frame, format="yuv420p", threads=1, **colours)
        picture = Picture(*map(_values, same.planes))
        height, width = picture.size
        # The longer side of a pixel shrinks, so that no side is enlarged.
        down, across = height / max(self._pixel_ratio, 1), width * min(self._pixel_ratio, 1)
        scale = min(self._store_side / min(down, across), 1)
        reduced = picture.resized(max(1, round(down * scale)), max(1, round(across * scale)))
        return Picture(*map(np.array, reduced.turned(*_orientation(frame))))


def _values(plane: "VideoPlane") -> Plane:
    values: Plane = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return values[: plane.height, : plane.width]


def _orientation(frame: "av.VideoFrame") -> tuple[bool, int, int]:
    """Whether a player shows rows as columns, and then the steps, 1 or -1, by which it takes either.

    The display matrix takes a place (x, y) to (a x + c y, b x + d y), see FFmpeg's libavutil/display.h;
    `frame.rotation` knows turns alone.
    """
    matrix = cast("Buffer | None", frame.side_data.get("DISPLAYMATRIX"))
    if matrix is None:
        return False, 1, 1
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    transposed = abs(b) > abs(a)
    right, down = (c, b) if transposed else (a, d)
    return transposed, -1 if down < 0 else 1, -1 if right < 0 else 1


def encoded(frames: Frames, rate: float) -> bytes | None:
    """Frames as a small film that browsers play: H.264 in MP4; ``None`` where nothing here can encode them.

    Args:
        frames: RGB, uint8 (T, H, W, 3); an odd last row or column is left out.
        rate: Frames a second.
    """
    import av

    height, width = (edge - edge % 2 for edge in frames.shape[1:3])
    if "libx264" not in av.codecs_available or not height * width:
        return None
    film = io.BytesIO()
    with av.open(film, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(100))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = {"crf": "30", "preset": "veryfast"}
        for frame in frames[:, :height, :width]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return film.getvalue()


def write_video(
    path: Path, frames: Frames, rate: int = 25, codec: str = "mpeg4", options: dict[str, str] | None = None
) -> None:
    """Encodes ``frames``; the container follows from the file's ending.

    Args:
        path: The file; replaced where it exists.
        frames: RGB, uint8 (T, H, W, 3), height and width even.
        rate: Frames a second.
        codec: FFmpeg's name of an encoder.
        options: Of the encoder.
    """
    import av

    with av.open(str(path), "w") as container:
        stream = cast("av.VideoStream", container.add_stream(codec, rate=rate, options=options or {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if codec == "mpeg4" and not options:
            stream.bit_rate = 2_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
