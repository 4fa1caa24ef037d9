"""A camera or a stream as timed frames: what is lost on the way is counted, and is no error."""

import logging
import math
import sys
from collections.abc import Iterator
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from vidclf.config import is_url
from vidclf.data import sampling
from vidclf.data.container import usual_rate
from vidclf.data.remote import public
from vidclf.data.video import Reduction, pixel_ratio
from vidclf.data.windows import TimedFrame
from vidclf.exceptions import InputError

if TYPE_CHECKING:
    import av

_PROTOCOLS = "rtsp,rtsps,rtp,srtp,udp,tcp,tls,http,https,httpproxy,crypto,hls"
"""What an address may lead to: never to a file of this machine, as a playlist could."""
_SILENT_S = 10.0
"""Seconds after which a source that sends nothing has ended."""
_MISSING = 1.5
"""Steps between two frames from which on frames between them are missing."""
_CAMERAS = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("dshow", "video={}"),
}
"""FFmpeg's format and address of a camera, by the system."""


class LiveVideo:
    """A camera, a stream, or what comes in through a pipe.

    Args:
        source: ``0`` for the first camera, an address as ``rtsp://…`` or ``tcp://…``, or ``-`` for stdin.

    Attributes:
        lost: Frames that did not arrive, or not whole, so far.
        begun: When the first frame came, by `time.monotonic`.
    """

    def __init__(self, source: str) -> None:
        self.source, self.lost = source, 0
        self.begun = math.inf

    def frames(self, store_side: int) -> Iterator[TimedFrame]:
        """Every frame as it arrives, in strictly increasing time; as `video.each_frame`.

        Raises:
            InputError: The source cannot be opened, sends no video, or breaks off before its first frame.
        """
        import av
        import av.logging
        from av.video.stream import VideoStream

        av.logging.set_level(av.logging.FATAL)  # a lost packet is counted, not told
        logging.getLogger("libav").setLevel(logging.CRITICAL)
        count = 0
        try:
            with self._open() as container:
                stream = container.streams.best("video")
                if not isinstance(stream, VideoStream) or stream.codec_context is None:
                    raise InputError(f"{self._name}: sends no video")
                rate, reduced = usual_rate(stream), Reduction(store_side, pixel_ratio(stream))
                clock, last = sampling.Clock(rate, resettable=True), None
                for frame in self._decoded(container, stream):
                    time = clock.time(frame.time)
                    if last is None:
                        self.begun = monotonic()
                    else:
                        missing = (time - last) * rate if time is not None else 1.0
                        self.lost += round(missing) - 1 if missing > _MISSING else 0
                        time = time if time is not None and time > last else last + 1 / rate
                    last = time or 0.0
                    yield last, count / rate, partial(reduced, frame)
                    count += 1
        except av.FFmpegError as error:
            if not count:
                kind = "no such camera" if self.source.isdecimal() else "no video comes"
                raise InputError(f"{self._name}: {kind} ({error.strerror or error})") from None
        if not count:
            raise InputError(f"{self._name}: ended before its first frame")

    def _decoded(
        self, container: "av.container.InputContainer", stream: "av.VideoStream"
    ) -> "Iterator[av.VideoFrame]":
        import av

        begun = False
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                self.lost += begun
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.lost += begun
                    continue
                begun = True
                yield frame

    def _open(self) -> "av.container.InputContainer":
        import av

        if self.source == "-":
            return av.open(sys.stdin.buffer, "r", metadata_errors="ignore")
        if self.source.isdecimal():
            name, address = _CAMERAS.get(sys.platform, _CAMERAS["linux"])
            return av.open(address.format(self.source), "r", format=name)
        if not is_url(self.source) or self.source.startswith("file:"):
            raise InputError(
                f"{self._name}: expected 0 for the first camera, an address as rtsp://… or tcp://…, or - for "
                "stdin; a file is a VIDEO, with --window"
            )
        options = {"protocol_whitelist": _PROTOCOLS}
        if self.source.startswith("rtsp"):
            options["rtsp_transport"] = "tcp"  # complete pictures before early ones
        return av.open(self.source, "r", timeout=_SILENT_S, options=options, metadata_errors="ignore")

    @property
    def _name(self) -> str:
        return f"--camera {public(self.source)}"
