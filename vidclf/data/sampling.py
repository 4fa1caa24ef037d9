"""Which frames of a clip are taken: those of its grid, and of the grid those that a model sees.

Arithmetic on frame numbers and times; no file is opened here.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


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
    frame at an instant is the last that begins at or before it.

    Args:
        times: Seconds, shape (frames,).
        grid: Number of instants, 1 or more.

    Returns:
        All indices where there are at most ``grid`` frames, else ``grid`` non-decreasing ones.
    """
    if len(times) <= grid:
        return np.arange(len(times))
    instants = times[0] + (np.arange(grid) + 0.5) / grid * duration(times)
    indices: NDArray[np.int64] = np.searchsorted(times, instants, side="right") - 1
    return indices


def duration(times: NDArray[np.float64]) -> float:
    """Seconds that frames at these ``times`` last: last - first + median step; 0 for a single frame."""
    return float(times[-1] - times[0] + np.median(np.diff(times))) if len(times) > 1 else 0.0


def likely_indices(declared: int | None, grid: int) -> set[int] | None:
    """The frames that the grid will need if the clip is as long as it says, or a frame shorter.

    To know them while decoding spares the others: to convert or hold a frame costs about a sixth of its
    decoding.

    Args:
        declared: Frames that the container promises; ``None`` where it gives no number.
        grid: As of `grid_indices`.

    Returns:
        Frame numbers, ``None`` where any frame may be needed.
    """
    if declared is None or declared <= grid:
        return None
    middles = (np.arange(grid) + 0.5) / grid
    # An instant at which a frame begins may by rounding need the frame before.
    places = [middles * count + shift for count in (declared, declared - 1) for shift in (-1e-6, 1e-6)]
    return {int(place) for place in np.concatenate(places)}


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
