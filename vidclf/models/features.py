"""Hand-made features: pure functions from a clip's square frames to one vector.

Every function takes RGB frames, uint8 (T, S, S, 3) with T >= 1 and S >= 16,
and gives a finite float64 vector whose length does not depend on T. A clip
that stands still, and so one of a single frame, has no motion.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.feature import hog

from vidclf.data.clips import ClipSet
from vidclf.data.video import Frames

Vector = NDArray[np.float64]

_HOG_CELLS = 7
"""Cells along each edge of a frame."""
_DIRECTIONS = 8
"""Orientation bins of the flow; the first is centred on motion to the right."""
_FLOW_CELLS = 4
_FLOW_PARTS = 3
"""Parts of the clip's duration that have flow histograms of their own."""
_STILL = 0.005
"""Motion between two frames below this share of the frame's edge counts as none."""
_DIFFERENCE_CELLS = 8
_HARMONICS = 8
"""Frequencies of the motion's spectrum: 1 to 8 cycles a clip."""


def gradient_histograms(frames: Frames) -> Vector:
    """Histograms of oriented gradients, their mean and standard deviation over time.

    Dalal and Triggs, "Histograms of oriented gradients for human detection",
    CVPR 2005: 9 orientations, 7 x 7 cells, L2-Hys over blocks of 2 x 2 cells.

    Returns:
        Shape (2592,) where S is a multiple of 7 (a rest may add cells), values 0 to 1: means, then
        deviations.
    """
    cell = frames.shape[1] // _HOG_CELLS
    histograms = np.stack(
        [hog(frame, pixels_per_cell=(cell, cell), cells_per_block=(2, 2)) for frame in _grey(frames)]
    )
    return np.concatenate([histograms.mean(axis=0), histograms.std(axis=0)])


def flow_histograms(frames: Frames) -> Vector:
    """Histograms of optical flow (HOF) in a grid over space and time, and how strong the motion is.

    Laptev et al., "Learning realistic human actions from movies", CVPR 2008;
    dense flow by DIS (Kroeger et al., ECCV 2016) between consecutive frames.

    Returns:
        Shape (483,). For each of 3 x 4 x 4 cells (time, height, width) the shares of its pixels that
        move in each of 8 directions, clockwise from the right as seen on the screen, and of those that
        stand still: 9 values that sum to 1. Then each cell's mean motion between two frames as a share
        of the frame's edge, at least 0; last the mean, standard deviation and maximum over time of the
        same quantity over whole frames.
    """
    flow = _dense_flow(_grey(frames)) / frames.shape[1]
    strength = np.hypot(flow[..., 0], flow[..., 1])
    angle = np.arctan2(flow[..., 1], flow[..., 0])
    direction = np.round(angle / (2 * np.pi / _DIRECTIONS)).astype(np.int64) % _DIRECTIONS
    direction[strength < _STILL] = _DIRECTIONS
    votes = np.eye(_DIRECTIONS + 1, dtype=np.float32)[direction]
    cells = (_FLOW_PARTS, _FLOW_CELLS, _FLOW_CELLS)
    over_time = strength.mean(axis=(1, 2))
    return np.concatenate(
        [
            _pooled(votes, cells).ravel(),
            _pooled(strength[..., None], cells).ravel(),
            [over_time.mean(), over_time.std(), over_time.max()],
        ]
    )


def frame_differences(frames: Frames) -> Vector:
    """Where and in which rhythm the pixels change between consecutive frames.

    The motion energy images of Bobick and Davis, "The recognition of human
    movement using temporal templates", PAMI 2001, made coarse, and the
    amplitude spectrum of the whole frame's motion energy over the clip.

    Returns:
        Shape (136,), values 0 to 1: mean absolute difference of the grey values (0 to 1) in each of 8 x 8
        cells, its standard deviation over time, and the spectrum at 1 to 8 cycles a clip.
    """
    grey = _grey(frames).astype(np.float32) / np.float32(255)
    change = np.abs(grey[1:] - grey[:-1]) if len(grey) > 1 else np.zeros_like(grey)
    cells = _pooled(change[..., None], (len(change), _DIFFERENCE_CELLS, _DIFFERENCE_CELLS))
    energy = cells.mean(axis=(1, 2, 3))
    spectrum = np.zeros(_HARMONICS)
    amplitudes = np.abs(np.fft.rfft(energy))[1 : _HARMONICS + 1] / len(energy)
    spectrum[: len(amplitudes)] = amplitudes
    return np.concatenate([cells.mean(axis=0).ravel(), cells.std(axis=0).ravel(), spectrum])


FEATURES: dict[str, Callable[[Frames], Vector]] = {
    "hog": gradient_histograms,
    "flow": flow_histograms,
    "difference": frame_differences,
}


def _grey(frames: Frames) -> NDArray[np.uint8]:
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).astype(
        np.uint8, copy=False
    )


def _dense_flow(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Motion in pixels (right, down) from each frame to the next, shape (max(T - 1, 1), S, S, 2)."""
    if len(grey) == 1:
        return np.zeros((*grey.shape, 2), dtype=np.float32)
    flow = np.zeros((len(grey) - 1, *grey.shape[1:], 2), dtype=np.float32)
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    for before, after, step in zip(grey[:-1], grey[1:], flow, strict=True):
        solver.calc(before, after, step)
    return flow


def _pooled(values: NDArray[np.float32], cells: tuple[int, int, int]) -> Vector:
    """Means over a grid of cells: (time, height, width, channels) to (*cells, channels)."""
    for axis, parts in enumerate(cells):
        weights = _averaging(values.shape[axis], parts)
        values = np.moveaxis(np.tensordot(weights, values, axes=(1, axis)), 0, axis)
    return values.astype(np.float64)


def _averaging(length: int, parts: int) -> NDArray[np.float32]:
    """Row i averages the i-th of equal parts; parts of a shorter axis overlap. Shape (parts, length)."""
    positions = np.arange(length)
    starts = np.arange(parts)[:, None] * length // parts
    ends = -(-(np.arange(parts)[:, None] + 1) * length // parts)
    inside = (positions >= starts) & (positions < ends)
    weights: NDArray[np.float32] = (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights


@dataclass(frozen=True)
class Framing:
    """Which frames and pixels of a clip a feature sees.

    Attributes:
        frames: Number of frames, at the midpoints of equal parts of the grid.
        size: Edge of the central square in pixels.
        resize: Short side, or (height, width), in pixels before the crop; not below ``size``.
    """

    frames: int
    size: int
    resize: int | tuple[int, int]


def square_view(frames: Frames, size: int, resize: int | tuple[int, int]) -> Frames:
    """The central square of the resized frames: (T, H, W, 3) to (T, size, size, 3)."""
    height, width = frames.shape[1:3]
    if isinstance(resize, int):
        scale = resize / min(height, width)
        resize = (round(height * scale), round(width * scale))
    top, left = (resize[0] - size) // 2, (resize[1] - size) // 2
    resized = [cv2.resize(frame, resize[::-1], interpolation=cv2.INTER_AREA) for frame in frames]
    view = np.stack([frame[top : top + size, left : left + size] for frame in resized])
    return view.astype(np.uint8, copy=False)


_MEMO_LIMIT = 16_384
"""Vectors that are kept in a process, 20 KB at most each; once full it stays as it is."""
_MEMO: dict[tuple[Path, str, Framing], Vector] = {}


def feature_matrix(clips: ClipSet, names: Sequence[str], framing: Framing) -> Vector:
    """The features of every clip side by side, shape (clips, values).

    Vectors of stored clips are computed once per process, so that a study's
    trials share them; clips without a store are computed at every call.
    """
    return np.stack([_clip_vector(clips, index, names, framing) for index in range(len(clips))])


def _clip_vector(clips: ClipSet, index: int, names: Sequence[str], framing: Framing) -> Vector:
    stored = clips.store.entry(clips.paths[index]) if clips.store else None
    known = {
        name: _MEMO[stored, name, framing] for name in names if stored and (stored, name, framing) in _MEMO
    }
    missing = [name for name in names if name not in known]
    if missing:
        view = square_view(clips.frames(index, framing.frames), framing.size, framing.resize)
        for name in missing:
            known[name] = FEATURES[name](view)
            if stored and len(_MEMO) < _MEMO_LIMIT:
                _MEMO[stored, name, framing] = known[name]
    return np.concatenate([np.empty(0), *(known[name] for name in names)])
