"""Which frames of a clip are taken: those of its grid, and of the grid those that a model sees.

Arithmetic on frame numbers and times; no file is opened here.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ROUNDED_STEPS = 0.25
"""Rounding moves frames by less, in steps of a constant rate: up to 0.2 at 30 a second in GIF's 10 ms."""
_SET_ANEW_S = 10.0
"""A clock that may be set anew was, where it is off by more: FFmpeg's ``-dts_delta_threshold``."""
_SET_BACK_S = 0.1
"""It was set back, where it is behind by more: FFmpeg's ``ts_discontinuity_detect``."""
_ERROR_S = 3600.0
"""Any other clock, as FLV's and ASF's, is in error where it is off by more; FFmpeg waits for 30 hours."""


class Clock:
    """The times of frames, without the jumps of their stream's clock: as FFmpeg does, it runs on by a step.

    Args:
        rate: Average frames a second.
        resettable: Whether the container allows for a clock that is set anew, as broadcasts do.

    Attributes:
        jumps: The frames after which it jumped.
    """

    def __init__(self, rate: float, *, resettable: bool) -> None:
        self.jumps: list[int] = []
        self._ahead, self._behind = (_SET_ANEW_S, _SET_BACK_S) if resettable else (_ERROR_S, _ERROR_S)
        self._step, self._offset = 1 / rate, 0.0
        self._last: float | None = None
        self._frame = -1

    def time(self, stamp: float | None) -> float | None:
        """Seconds of the next frame in the decoder's output order; ``None`` where it has no timestamp."""
        if stamp is not None and self._last is not None:
            step = stamp - self._last
            if -self._behind <= step <= self._step + self._ahead:
                self._step = step
            else:
                self.jumps.append(self._frame)
                self._offset += self._step - step
        self._frame += 1
        self._last = self._last if stamp is None else stamp
        return None if stamp is None else stamp + self._offset


def frame_times(timestamps: Sequence[float | None], rate: float) -> NDArray[np.float64]:
    """Seconds of each frame, in the decoder's output order.

    Timestamps hold if all are present and strictly increasing; many files
    carry false ones (``1 2 4 3 5``), then frame i is at i / ``rate``.

    Args:
        timestamps: In seconds; ``None`` where a frame has none.
        rate: Average frames a second.

    Returns:
        Strictly increasing, shape (frames,).
    """
    if all(time is not None for time in timestamps):
        times = np.array(timestamps, dtype=np.float64)
        if np.all(np.diff(times) > 0):
            return times
    return np.arange(len(timestamps), dtype=np.float64) / rate


def grid_indices(times: NDArray[np.float64], grid: int) -> NDArray[np.int64]:
    """The frames that make up the grid, as indices into strictly increasing ``times``.

    The grid's instants are the midpoints of equal parts of the `duration`; the
    frame at an instant is the last that begins at or before it. A clip with no more
    frames than instants keeps each once where they come at a constant rate: there a
    frame's place says its time.

    Args:
        times: Seconds, shape (frames,).
        grid: Number of instants, 1 or more.

    Returns:
        All indices where there are at most ``grid`` frames at a constant rate, else ``grid`` non-decreasing
        ones.
    """
    if len(times) <= grid and _evenly_spaced(times):
        return np.arange(len(times))
    instants = times[0] + (np.arange(grid) + 0.5) / grid * duration(times)
    indices: NDArray[np.int64] = np.searchsorted(times, instants, side="right") - 1
    return indices


def _evenly_spaced(times: NDArray[np.float64]) -> bool:
    """Whether frames come at a constant rate, but for the rounding of their timestamps."""
    even, step = np.linspace(times[0], times[-1], len(times), retstep=True)
    return len(times) < 3 or bool(np.all(np.abs(times - even) < _ROUNDED_STEPS * step))


def duration(times: NDArray[np.float64]) -> float:
    """Seconds that frames at these ``times`` last: last - first + median step; 0 for a single frame."""
    return float(times[-1] - times[0] + np.median(np.diff(times))) if len(times) > 1 else 0.0


def later_indices(
    times: NDArray[np.float64], indices: NDArray[np.int64], seconds: float
) -> NDArray[np.int64]:
    """The frame nearest to ``seconds`` after each of some frames, the next at least, the last at most.

    Args:
        times: Seconds, strictly increasing, shape (frames,).
        indices: Into ``times``.
        seconds: Above 0.

    Returns:
        Of the shape of ``indices``.
    """
    middles = (times[1:] + times[:-1]) / 2
    nearest = np.searchsorted(middles, times[indices] + seconds)
    return np.minimum(np.maximum(nearest, indices + 1), len(times) - 1)


def likely_indices(
    declared: int | None, grid: int, rate: float = 1.0, seconds: float = 0.0
) -> set[int] | None:
    """The frames that the grid will need if the clip is as long as it says, or a frame shorter.

    To know them while decoding spares the others: to convert or hold a frame costs about a sixth of its
    decoding.

    Args:
        declared: Frames that the container promises; ``None`` where it gives no number.
        grid: As of `grid_indices`.
        rate: Average frames a second.
        seconds: Where not 0: as of `later_indices`, whose frames are needed too.

    Returns:
        Frame numbers, ``None`` where any frame may be needed.
    """
    if declared is None or declared <= grid:
        return None
    middles = (np.arange(grid) + 0.5) / grid
    # An instant at which a frame begins may by rounding need the frame before.
    places = [middles * count + shift for count in (declared, declared - 1) for shift in (-1e-6, 1e-6)]
    first = {int(place) for place in np.concatenate(places)}
    if not seconds:
        return first
    steps = {max(1, int(seconds * rate + half)) for half in (0.5 - 1e-6, 0.5 + 1e-6)}
    return first | {
        min(place + step, last) for place in first for step in steps for last in (declared - 2, declared - 1)
    }


def sample_indices(
    available: int, frames: int, generator: np.random.Generator | None = None, *, instant: float = 0.5
) -> NDArray[np.int64]:
    """Which of a clip's ``available`` grid frames make up a network's input.

    The grid is cut into ``frames`` equal parts; each gives the frame at ``instant``,
    its middle by default, or with a ``generator`` a random one of its own. A clip
    with fewer frames gives them all and repeats its last.

    Args:
        available: Frames of the grid, 1 or more.
        frames: Frames of the input, 1 or more.
        generator: Draws the frames; ``None``: they are fixed.
        instant: Where in each part its frame is taken, from 0 to below 1.

    Returns:
        Non-decreasing indices, shape (frames,).
    """
    if available <= frames:
        return np.minimum(np.arange(frames), available - 1)
    if generator is None:
        return np.floor((np.arange(frames) + instant) * available / frames).astype(np.int64)
    edges = np.arange(frames + 1) * available // frames
    return generator.integers(edges[:-1], edges[1:])
