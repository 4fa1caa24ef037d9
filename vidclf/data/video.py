"""Video files to uint8 frames and back: the only module that imports PyAV.

A clip is decoded in one pass and reduced to its *grid*: at most ``grid``
frames at the midpoints of equal parts of the duration, each with a short side
of at most ``store_side`` pixels. Store on or off, training or serving, every
clip takes this one way.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal, cast

import av
import av.logging
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from vidclf.data import sampling
from vidclf.data.formats import CONTAINERS
from vidclf.data.remote import named
from vidclf.exceptions import ClipError

Frames = NDArray[np.uint8]
"""RGB frames, shape (time, height, width, 3), values 0 to 255."""
Verdict = Literal["damaged", "empty", "unreadable", "oversized"]
"""Why a clip gives no frames to train on."""

DECODER = f"pyav-{av.__version__}-square"
"""Part of every cache key: another decoder may give other pixels."""

_ROUNDED_RATIO = 0.02
"""Encoders that round a picture to even sides name pixel ratios as 87:86; those are square."""
_USUAL_RATE = Fraction(25)
"""Frames a second where a file names no rate."""
_HELD_BYTES = 256 * 2**20
"""Raw frames kept while the duration is still unknown; beyond, the file is decoded a second time."""
_FEW_PIXELS = 640 * 480
"""Pictures up to which a codec's frame threads cost more than they bring (`benchmarks/decode.py`)."""


@dataclass(frozen=True)
class DecodeLimits:
    """What a clip may hold.

    Attributes:
        pixels: Of one picture.
        frames: Of the clip.
    """

    pixels: float = math.inf
    frames: float = math.inf

    def check(self, path: Path, width: int, height: int, frames: int = 0) -> None:
        """Raises a `ClipError` where the clip goes beyond."""
        if width * height > self.pixels:
            reason = f"{width} x {height} pixels are over the limit of {self.pixels:,g}"
            raise ClipError(path, "oversized", reason, named(path))
        if frames > self.frames:
            raise ClipError(path, "oversized", f"over the limit of {self.frames:,g} frames", named(path))


UNBOUNDED = DecodeLimits()


@dataclass(frozen=True)
class Clip:
    """A decoded clip.

    Attributes:
        frames: The grid, shape (T, H, W, 3), T at most the grid's size.
        declared: Frames that the container promises; ``None`` where it gives no number.
        decoded: Frames that came out of the decoder.
    """

    frames: Frames
    declared: int | None
    decoded: int

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


def decode(path: Path, grid: int, store_side: int, bounds: DecodeLimits = UNBOUNDED) -> Clip:
    """The clip at ``path``, reduced to its grid.

    Args:
        path: A video file.
        grid: Number of instants over the duration; a clip with fewer frames keeps them all.
        store_side: Upper limit of the short side in pixels; frames are never enlarged.
        bounds: Beyond them a clip is refused.

    Raises:
        ClipError: The file is unreadable, holds no frame, its pictures are damaged, or it is out of bounds.
    """
    times: list[float | None] = []
    pictures: dict[int, Frames] = {}
    held: dict[int, av.VideoFrame] = {}
    room = _HELD_BYTES
    declared, rate = None, _USUAL_RATE
    try:
        with _open(path, bounds) as container:
            stream = container.streams.video[0]
            reduced = _Reduction(store_side, _pixel_ratio(stream))
            declared = _declared(stream)
            rate = stream.average_rate or rate
            likely = sampling.likely_indices(declared, grid)
            for index, frame in enumerate(_decoded_frames(container, path, bounds)):
                times.append(frame.time)
                if likely is None and room > 0:
                    held[index] = frame
                    room -= 3 * frame.width * frame.height // 2
                elif likely is None:
                    held.clear()
                elif index in likely:
                    pictures[index] = reduced(frame)
        if not times:
            raise ClipError(path, "empty", "the video stream holds no frame", named(path))
        indices = sampling.grid_indices(sampling.frame_times(times, float(rate)), grid).tolist()
        pictures |= {index: reduced(held[index]) for index in set(indices) & held.keys()}
        if not pictures.keys() >= set(indices):
            pictures = _second_pass(path, indices, reduced)
        frames = [pictures[index] for index in indices]
    except av.FFmpegError as error:
        raise _broken(path, error, len(times)) from None
    return Clip(stacked(frames), declared, len(times))


def stacked(pictures: Sequence[Frames]) -> Frames:
    """Pictures (H, W, 3) as one array (T, H, W, 3), all in the size of the first."""
    height, width = pictures[0].shape[:2]
    same_size = [
        picture if picture.shape[:2] == (height, width) else _resized(picture, width, height)
        for picture in pictures
    ]
    return np.stack(same_size)


def each_frame(path: Path, store_side: int) -> Iterator[tuple[float | None, float, Callable[[], Frames]]]:
    """Every frame of a clip in the decoder's output order, none of them kept.

    Args:
        path: A video file.
        store_side: As of `decode`.

    Yields:
        The frame's timestamp in seconds, where it has one; its time by its place and the average rate; and
        its reduced picture (H, W, 3), computed when called for, before the next frame is asked for.

    Raises:
        ClipError: As `decode`.
    """
    index = -1
    try:
        with _open(path) as container:
            stream = container.streams.video[0]
            reduced = _Reduction(store_side, _pixel_ratio(stream))
            rate = float(stream.average_rate or _USUAL_RATE)
            for index, frame in enumerate(_decoded_frames(container, path)):
                yield frame.time, index / rate, partial(reduced, frame)
    except av.FFmpegError as error:
        raise _broken(path, error, index + 1) from None
    if index < 0:
        raise ClipError(path, "empty", "the video stream holds no frame", named(path))


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself, and what came out of it.

    Attributes:
        codec: FFmpeg's name of the codec.
        fps: Average frame rate; ``None`` where unknown.
        width: Of the decoded pictures, in pixels, before rotation.
        height: Likewise.
        rotation: Degrees counterclockwise that a player turns them by.
        seconds: Duration from the frames' times.
        declared: Frames that the container promises; ``None`` where it gives no number.
        decoded: Frames that came out of the decoder.
        errors: What the decoder complained of, in order.
    """

    codec: str
    fps: float | None
    width: int
    height: int
    rotation: int
    seconds: float
    declared: int | None
    decoded: int
    errors: tuple[str, ...]


def inspect(path: Path) -> VideoInfo:
    """Decodes a file to its end, keeping no picture.

    Its decoder's complaints are captured from FFmpeg's log, which is one for
    the whole process: call it where nothing else decodes.

    Raises:
        ClipError: The file is unreadable, holds no frame, or its pictures are damaged.
    """
    times: list[float | None] = []
    last: av.VideoFrame | None = None
    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=False) as log, _open(path) as container:
            stream = container.streams.video[0]
            for last in _decoded_frames(container, path):
                times.append(last.time)
            rate, codec, declared = stream.average_rate, stream.codec_context.name, _declared(stream)
    except av.FFmpegError as error:
        raise _broken(path, error, len(times)) from None
    finally:
        av.logging.set_level(before)
    if last is None:
        raise ClipError(path, "empty", "the video stream holds no frame", named(path))
    return VideoInfo(
        codec=codec,
        fps=float(rate) if rate else None,
        width=last.width,
        height=last.height,
        rotation=last.rotation,
        seconds=sampling.duration(sampling.frame_times(times, float(rate or _USUAL_RATE))),
        declared=declared,
        decoded=len(times),
        errors=tuple(message.strip() for _, _, message in log),
    )


def _broken(path: Path, error: av.FFmpegError, frames: int) -> ClipError:
    if frames:
        return ClipError(path, "damaged", f"{error.strerror} after {frames} frames", named(path))
    return ClipError(
        path, "unreadable", f"not a video, or damaged from its start ({error.strerror})", named(path)
    )


def outline(path: Path) -> tuple[int, int, int | None]:
    """What a file's header says, without decoding.

    Returns:
        Width and height in pixels, and the declared frames, ``None`` where it gives no number; zeros where
        the file cannot be read.
    """
    try:
        with _open(path) as container:
            stream = container.streams.video[0]
            return stream.width, stream.height, _declared(stream)
    except (ClipError, av.FFmpegError):
        return 0, 0, 0


def _declared(stream: av.VideoStream) -> int | None:
    """Frames that the container promises; some promise nonsense."""
    return stream.frames if 0 < stream.frames < 10**9 else None


def _pixel_ratio(stream: av.VideoStream) -> float:
    """Width to height of one pixel; 1 where a file names none, or one that only rounding explains."""
    ratio = float(stream.sample_aspect_ratio or 1)
    return ratio if ratio > 0 and abs(ratio - 1) > _ROUNDED_RATIO else 1.0


def _open(path: Path, bounds: DecodeLimits = UNBOUNDED) -> av.container.InputContainer:
    # "file:" keeps a name that starts with a dash or holds a colon from being read as a protocol.
    options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
    container = av.open(f"file:{path}", metadata_errors="ignore", container_options=options)
    try:
        if not container.streams.video:
            raise ClipError(path, "unreadable", "no video stream", named(path))
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ClipError(path, "unreadable", "its codec is not known to the decoder", named(path))
        bounds.check(path, stream.width, stream.height)
    except ClipError:
        container.close()
        raise
    stream.thread_type = "SLICE" if stream.width * stream.height <= _FEW_PIXELS else "AUTO"
    return container


def _decoded_frames(
    container: av.container.InputContainer, path: Path, bounds: DecodeLimits = UNBOUNDED
) -> Iterator[av.VideoFrame]:
    for count, frame in enumerate(container.decode(video=0)):
        bounds.check(path, frame.width, frame.height, count + 1)
        if frame.is_corrupt:
            raise ClipError(path, "damaged", f"frame {count} is corrupt", named(path))
        yield frame


def _second_pass(path: Path, indices: Sequence[int], reduced: "_Reduction") -> dict[int, Frames]:
    wanted = set(indices)
    with _open(path) as container:
        return {
            index: reduced(frame)
            for index, frame in enumerate(_decoded_frames(container, path))
            if index in wanted
        }


class _Reduction:
    """Turns decoded frames into upright RGB pictures (H, W, 3) of square pixels, reduced to a short side.

    Args:
        store_side: Upper limit of the short side in pixels.
        pixel_ratio: Width to height of one pixel as it is shown.
    """

    def __init__(self, store_side: int, pixel_ratio: float) -> None:
        self._store_side, self._pixel_ratio = store_side, pixel_ratio
        self._to_rgb = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> Frames:
        # One thread: those of libswscale wait long for a core where other libraries' threads are spinning.
        rgb = self._to_rgb.reformat(frame, format="rgb24", threads=1)
        picture = rgb.to_ndarray().astype(np.uint8, copy=False)
        height, width = picture.shape[:2]
        # The longer side of a pixel shrinks, so that no side is enlarged.
        height, width = height / max(self._pixel_ratio, 1), width * min(self._pixel_ratio, 1)
        scale = min(self._store_side / min(height, width), 1)
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        if picture.shape[:2] != (height, width):
            picture = _resized(picture, width, height)
        return np.ascontiguousarray(np.rot90(picture, k=round(frame.rotation / 90)))


def _resized(picture: Frames, width: int, height: int) -> Frames:
    resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return resized.astype(np.uint8, copy=False)


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
    with av.open(str(path), "w") as container:
        stream = cast(av.VideoStream, container.add_stream(codec, rate=rate, options=options or {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if codec == "mpeg4" and not options:
            stream.bit_rate = 2_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
