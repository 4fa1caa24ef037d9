"""A long video as windows, each reduced to a grid as a clip is; the file is decoded once, in one pass."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from vidclf.data import sampling, video
from vidclf.data.pictures import Frames, Picture
from vidclf.exceptions import FalseTimestampsError

_HELD = 1024
"""Pictures held of a window, 135 MB at the usual sides; of more every second is held, then every fourth."""
_ROUNDING_S = 1e-6
"""A frame this short of a window's end begins the next one."""
TimedFrame = tuple[float | None, float, Callable[[], Picture]]
"""Its time by its timestamp, its time by its place, and its picture."""


@dataclass(frozen=True)
class Window:
    """A part of a video.

    Attributes:
        start: Seconds from the video's first frame.
        end: Likewise; the last window's is where the video ends, a median step after its last frame.
        frames: The window's grid, uint8 (T, H, W, 3), with ``apart`` (T, H, W, 4).
    """

    start: float
    end: float
    frames: Frames


def windows(
    frames: Iterable[TimedFrame],
    seconds: float,
    grid: int,
    *,
    every: float | None = None,
    counted: bool,
    apart: float = 0.0,
) -> Iterator[Window]:
    """The windows of a video that hold a frame, in order; each is given once it has ended.

    A window of at most 1024 frames is reduced exactly as a clip of these frames is (`video.decode`); the
    grid of a longer one is taken from 512 evenly spread frames or more. Of windows that reach the video's
    end only the first is given: the others hold a part of it.

    Args:
        frames: As of `video.each_frame`.
        seconds: Length of a window.
        grid: As of `video.decode`.
        every: Seconds from the start of one window to that of the next, at most ``seconds``; ``None``: those.
        counted: Take a frame's time from its place and the average rate; else from its timestamp.
        apart: As of `video.decode`.

    Raises:
        ClipError: The file gives no frames, or is damaged; windows before the damage have been given.
        FalseTimestamps: They don't increase; begin again with ``counted``.
    """
    hop = every or seconds
    begun: dict[int, _Held] = {}
    following, step = 0, 0.0
    first, last = None, -math.inf
    for stamp, place, picture in frames:
        time = place if counted else stamp
        if time is None or time <= last:
            raise FalseTimestampsError
        first = time if first is None else first
        last = time
        elapsed = time - first + _ROUNDING_S
        for number in [each for each in begun if each * hop + seconds <= elapsed]:
            ended = begun.pop(number)
            step = ended.step() or step
            yield ended.window(number * hop, number * hop + seconds, grid, apart)
        newest = int(elapsed // hop)
        for number in range(following, newest + 1):
            if number * hop + seconds > elapsed:
                begun[number] = _Held()
        following = newest + 1
        once = cache(picture)
        for held in begun.values():
            held.add(time, once)
    assert first is not None  # a file without a frame is a ClipError
    number, held = next(iter(begun.items()))
    end = min(number * hop + seconds, last - first + (held.step() or step))
    yield held.window(number * hop, end, grid, apart)


class _Held:
    """The frames of one window, thinned out where they are too many."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._pictures: list[Picture] = []
        self._stride, self._seen = 1, 0

    def add(self, time: float, picture: Callable[[], Picture]) -> None:
        if self._seen % self._stride == 0:
            if len(self.times) == _HELD:
                self.times, self._pictures = self.times[::2], self._pictures[::2]
                self._stride *= 2
            self.times.append(time)
            self._pictures.append(picture())
        self._seen += 1

    def step(self) -> float:
        """The median step of the window's frames in seconds, 0 of a single one."""
        return float(np.median(np.diff(self.times))) / self._stride if len(self.times) > 1 else 0.0

    def window(self, start: float, end: float, grid: int, apart: float) -> Window:
        times = np.array(self.times)
        indices = sampling.grid_indices(times, grid)
        later = sampling.later_indices(times, indices, apart) if apart else indices[:0]
        pictures, grey = video.gridded(dict(enumerate(self._pictures)), indices, later)
        return Window(start, end, video.Clip(pictures, None, len(times), grey).frames)
