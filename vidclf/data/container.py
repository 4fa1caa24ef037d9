"""An open video file: its best stream, its frames in order with their times, and what it promises.

Only this module, `video` and `live` import PyAV.
"""

import logging
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from vidclf.data import sampling
from vidclf.data.formats import CONTAINERS
from vidclf.data.remote import named
from vidclf.exceptions import ClipError

if TYPE_CHECKING:
    import av  # where it is first needed: training on stored clips needs none

_USUAL_RATE = Fraction(25)
"""Frames a second where a file names no rate."""
_RESETTABLE = 0x0200
"""Flag of a format whose clock may be set anew: ``AVFMT_TS_DISCONT`` of FFmpeg's libavformat/avformat.h."""
_WITHOUT_TIMES = 0x0080
"""Of one that holds pictures alone, where FFmpeg makes timestamps up: ``AVFMT_NOTIMESTAMPS``."""
_FEW_PIXELS = 640 * 480
"""Pictures up to which a codec's frame threads cost more than they bring (`benchmarks/decode.py`)."""
_Message = tuple[int, str, str]
"""Of FFmpeg's log: level, name of the format or codec that sent it, text."""

logging.getLogger("libav").setLevel(logging.CRITICAL)


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


class OpenVideo:
    """The video of an open file, as players show it.

    Attributes:
        stream: FFmpeg's best one.
        rate: Average frames a second.
        decoded: Frames that came out of the decoder so far.
    """

    def __init__(
        self, container: "av.container.InputContainer", log: list[_Message], path: Path, bounds: DecodeLimits
    ) -> None:
        from av.stream import Disposition

        self._container, self._log, self._path, self._bounds = container, log, path, bounds
        self._candidates = [
            stream
            for stream in container.streams.video
            if not stream.disposition & Disposition.attached_pic  # a cover
        ]
        if not self._candidates:
            raise ClipError(path, "unreadable", "no video stream", named(path))
        self.stream = self._best()
        if self.stream.codec_context is None:
            raise ClipError(path, "unreadable", "its codec is not known to the decoder", named(path))
        bounds.check(path, self.stream.width, self.stream.height)
        self.stream.thread_type = "SLICE" if self.stream.width * self.stream.height <= _FEW_PIXELS else "AUTO"
        self.rate = usual_rate(self.stream)
        self.decoded = 0
        self._packets = 0
        self._promised = _promised(container, self.stream, path)
        self._timed = not container.format.flags & _WITHOUT_TIMES
        resettable = bool(container.format.flags & _RESETTABLE)
        self._clock = sampling.Clock(self.rate, resettable=resettable)

    def _best(self) -> "av.VideoStream":
        best = self._container.streams.best("video")
        if best in self._candidates:
            return best
        # Where that is a cover, the ffmpeg command takes the largest of the others.
        return max(self._candidates, key=lambda stream: stream.width * stream.height)

    def frames(self) -> "Iterator[tuple[float | None, av.VideoFrame]]":
        """Every frame in the decoder's output order, with its time in seconds where it has one."""
        for packet in self._container.demux(self.stream):
            self._packets += packet.size > 0 and not packet.is_discard
            for frame in packet.decode():
                self._bounds.check(self._path, frame.width, frame.height, self.decoded + 1)
                if frame.is_corrupt:
                    reason = f"frame {self.decoded} is corrupt"
                    raise ClipError(self._path, "damaged", reason, named(self._path))
                if self.decoded == 0 and frame.key_frame:
                    self._forget_decoder()
                self.decoded += 1
                yield self._clock.time(frame.time) if self._timed else None, frame
        if not self.decoded:
            raise ClipError(self._path, "empty", "the video stream holds no frame", named(self._path))

    def _forget_decoder(self) -> None:
        """Packets before the first key frame, as where a broadcast was joined, show and spoil nothing."""
        self._log[:] = [message for message in self._log if message[1] != self.stream.codec_context.name]

    @property
    def damage(self) -> str:
        """The first error that FFmpeg has logged of the container or this stream; empty without one."""
        streams = (*self._container.streams.video, *self._container.streams.audio)
        others = {each.codec_context.name for each in streams if each.codec_context}
        others.discard(self.stream.codec_context.name)
        return next((message.strip() for _, sender, message in self._log if sender not in others), "")

    @property
    def declared(self) -> int | None:
        """Pictures that the container promises, ``None`` where it gives no number.

        A packet that was read and gave no picture promised none: MPEG-4 has such where a picture is shown
        twice.
        """
        if self._promised is None:
            return None
        return self._promised - max(0, self._packets - self.decoded)

    def notes(self) -> Iterator[str]:
        """How a choice that the file leaves was made, once all frames are read and before it is closed."""
        shown = {each.index: f"{each.index} ({each.width}x{each.height})" for each in self._candidates}
        taken = shown.pop(self.stream.index)
        if shown:
            yield f"video stream {taken} is taken, not {', '.join(shown.values())}"
        if jumps := self._clock.jumps:
            often = f" and {len(jumps) - 1} times later" if len(jumps) > 1 else ""
            yield f"its clock jumps after frame {jumps[0]}{often}, which is taken out"


def usual_rate(stream: "av.VideoStream") -> float:
    """Average frames a second of a stream."""
    return float(stream.average_rate or _USUAL_RATE)


@contextmanager
def open_video(path: Path, bounds: DecodeLimits = UNBOUNDED) -> Iterator[OpenVideo]:
    """An open file, for which what FFmpeg raises or logs in this thread is an error.

    Raises:
        ClipError: The file is unreadable, damaged, or out of bounds.
    """
    import av
    import av.logging

    # Every error is logged and caught below, also one that equals the last.
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    # "file:" keeps a name that starts with a dash or holds a colon from being read as a protocol.
    options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
    video: OpenVideo | None = None
    try:
        with (
            av.logging.Capture() as log,
            av.open(f"file:{path}", metadata_errors="ignore", container_options=options) as container,
        ):
            video = OpenVideo(container, log, path, bounds)
            try:
                yield video
                damage = video.damage
            finally:
                # Its threads rest then: closing waits for them while it holds what their log waits for.
                video.stream.codec_context.flush_buffers()
    except av.FFmpegError as error:
        if video and video.decoded:
            reason = f"{error.strerror} after {video.decoded} frames"
            raise ClipError(path, "damaged", reason, named(path)) from None
        reason = f"not a video, or damaged from its start ({error.strerror})"
        raise ClipError(path, "unreadable", reason, named(path)) from None
    if damage:
        raise ClipError(path, "damaged", f"the decoder reports: {damage}", named(path))


def _promised(container: "av.container.InputContainer", stream: "av.VideoStream", path: Path) -> int | None:
    """Pictures that a container says it shows; some say nonsense.

    The index of MP4 and AVI leaves out empty chunks, and marks what is decoded and not shown, as by an edit
    list. That of AVI comes last: a file that was cut has none.
    """
    if not 0 < stream.frames < 10**9:
        return None
    name = container.format.name
    if name.startswith("mov,") or (name == "avi" and _has_index(path)):
        return sum(not entry.is_discard for entry in stream.index_entries) or stream.frames
    return stream.frames


def _has_index(path: Path) -> bool:
    """Whether the lists of an AVI file are followed by its index."""
    place, name = 12, b"LIST"
    with path.open("rb") as file:
        while name in (b"LIST", b"JUNK"):
            file.seek(place)
            name, size = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
            place += 8 + size + size % 2
    return name == b"idx1"
