"""Clips that play on a page: short loops inside its file, and a strip of frames where it is printed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vidclf.data import remote, sampling, video
from vidclf.data.pictures import Frames
from vidclf.exceptions import ClipError

SIDE = 144
"""Short side of a loop in pixels."""
_INSTANTS, _STRIP = 32, 4
"""Pictures of a loop, over the whole clip, and of its strip."""
_SLOWEST, _FASTEST = 8.0, 25.0
"""Pictures a second: a clip of 1.3 to 4 seconds plays as fast as it was taken, a longer one faster."""
_PAGE_BYTES = 8_000_000
"""What the loops of a page may take; the clips after that stand still."""


@dataclass(frozen=True)
class Loop:
    """A clip on a page.

    Attributes:
        name: Of its file.
        strip: Frames side by side, RGB, uint8 (H, W, 3).
        film: H.264 in MP4; ``None`` where the page is full, or nothing here can encode it.
    """

    name: str
    strip: Frames
    film: bytes | None


@dataclass
class Loops:
    """The clips of one page, which share `_PAGE_BYTES`.

    Attributes:
        left: Bytes that films may still take.
        side: Short side of a film in pixels, at most.

    Example:
        >>> loops = Loops()
        >>> loops.of("clips/jump.mp4")
        Loop(name='jump.mp4', ...)
    """

    left: int = _PAGE_BYTES
    side: int = SIDE
    _known: dict[Path, Loop] = field(default_factory=dict)

    def of(self, clip_path: str | Path) -> Loop | None:
        """A clip; ``None`` where its file is gone or gives no pictures.

        Nothing is fetched for it: of a clip behind a URL it shows the copy that this machine has, if any.
        """
        path = remote.known_copy(str(clip_path))
        if path is None:
            return None
        if path not in self._known:
            try:
                self._known[path] = self._make(path)
            except ClipError:
                return None
        return self._known[path]

    def _make(self, path: Path) -> Loop:
        clip, info = video.survey(path, _INSTANTS, self.side)
        frames = clip.frames
        rate = min(max(len(frames) / max(info.seconds, 1e-3), _SLOWEST), _FASTEST)
        film = video.encoded(frames, rate) if self.left > 0 else None
        self.left -= len(film or b"")
        strip = frames[sampling.sample_indices(len(frames), min(_STRIP, len(frames)))]
        return Loop(path.name, side_by_side(strip), film)


def side_by_side(frames: Sequence[Frames] | Frames) -> Frames:
    """Frames (T, H, W, 3) as one picture, (H, T * W, 3)."""
    return np.hstack(list(frames))
