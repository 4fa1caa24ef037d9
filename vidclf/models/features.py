"""Hand-made features: pure functions from a clip's square frames to one vector.

Every function takes the `Pixels` of RGB frames, uint8 (T, S, S, 3) with T >= 1
and S >= 16, and gives a finite float64 vector whose length does not depend on
T. A clip that stands still, and so one of a single frame, has no motion.

Each feature of the table `FEATURES` has a version: it is raised with every
change to the feature's values, as vectors are kept on disk
(`vidclf.models.feature_store`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from vidclf.data.pictures import Frames
from vidclf.models import frame_statistics
from vidclf.models.body_movement import body_movement, mirrored
from vidclf.models.pixels import DIRECTIONS, Body, Pixels, Vector, directions

Scalar = TypeVar("Scalar", bound=np.generic)

DEEP = "deep"
"""The feature that a frozen network gives, see `vidclf.models.deep`; the others stand in `FEATURES`."""

MADE_WITH = f"opencv-{cv2.__version__} skimage-{version('scikit-image')}"
"""Part of every cache key: other versions may give other values."""

_HOG_CELLS = 7
"""Cells along each edge of a frame."""
_FLOW_CELLS = (3, 4, 4)
"""Cells of the motion's histograms: parts of the clip's duration, rows, columns."""
_UNIFORM = 0.03
"""Motion that changes by less, in pixels a pixel, counts as uniform."""
_COLOR_CELLS = 3
_HUES, _SHADES = 8, 3
"""Bins of the hue, the first centred on red; bins of the saturation and of the value."""
_COLORS = _SHADES * (1 + (_SHADES - 1) * _HUES)
_LBP_CELLS = 4
_PATTERNS = 59
"""The 58 uniform patterns of 8 neighbours, and one bin for all others."""
_DIFFERENCE_CELLS = 8
_HARMONICS = 8
"""Frequencies of the motion's spectrum: 1 to 8 cycles a clip."""
_CHANGED = 25
"""Grey values, of 255, beyond which a pixel's change counts as motion."""
_HISTORY_CELLS = 8
_SMALLEST_MOMENT = 1e-12
"""Moments well above it count by their logarithm, those below as nothing."""


def gradient_histograms(pixels: Pixels) -> Vector:
    """Histograms of oriented gradients, their mean and standard deviation over time.

    Dalal and Triggs, "Histograms of oriented gradients for human detection",
    CVPR 2005: 9 orientations, 7 x 7 cells, L2-Hys over blocks of 2 x 2 cells.

    Returns:
        Shape (2592,) where S is a multiple of 7 (a rest may add cells), values 0 to 1: means, then
        deviations.
    """
    from skimage.feature import hog  # it takes half a second

    histograms = np.stack([hog(frame, **_hog_arguments(frame)) for frame in pixels.grey])
    return np.concatenate([histograms.mean(axis=0), histograms.std(axis=0)])


def gradient_drawing(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The cells that `gradient_histograms` sees in a grey frame, (S, S), each as a star of edges; (S, S)."""
    from skimage.feature import hog  # it takes half a second

    drawing: NDArray[np.float64] = hog(frame, **_hog_arguments(frame), visualize=True)[1]
    return drawing


def _hog_arguments(frame: NDArray[np.uint8]) -> dict[str, tuple[int, int]]:
    cell = len(frame) // _HOG_CELLS
    return {"pixels_per_cell": (cell, cell), "cells_per_block": (2, 2)}


def flow_orientations(pixels: Pixels) -> Vector:
    """Histograms of optical flow (HOF) in a grid over space and time.

    Laptev et al., "Learning realistic human actions from movies", CVPR 2008,
    with a bin for pixels that stand still as in Wang and Schmid, "Action
    recognition with improved trajectories", ICCV 2013; the flow of `Pixels`.

    Returns:
        Shape (432,), values 0 to 1. For each of 3 x 4 x 4 cells (time, height, width) the shares of its
        pixels that move in each of 8 directions, clockwise from the right as seen on the screen, and of
        those that stand still: 9 values that sum to 1.
    """
    return _orientation_shares(pixels.flow, pixels.least)


def flow_histograms(pixels: Pixels) -> Vector:
    """Histograms of optical flow as in `flow_orientations`, and how strong the motion is.

    Returns:
        Shape (483,). The 432 shares; then each cell's mean motion between two frames as a share of the
        frame's edge, at least 0; last the mean, standard deviation and maximum over time of the same
        quantity over whole frames.
    """
    strength = np.hypot(pixels.flow[..., 0], pixels.flow[..., 1]) / pixels.frames.shape[1]
    over_time = strength.mean(axis=(1, 2))
    return np.concatenate(
        [
            flow_orientations(pixels),
            _pooled(strength[..., None], _FLOW_CELLS).ravel(),
            [over_time.mean(), over_time.std(), over_time.max()],
        ]
    )


def motion_boundaries(pixels: Pixels) -> Vector:
    """Motion boundary histograms (MBH): where neighbouring pixels move unlike each other.

    Dalal, Triggs and Schmid, "Human detection using oriented histograms of flow
    and appearance", ECCV 2006: orientations of the gradients of the flow's two
    components. Motion that is the same everywhere, as a panning camera's,
    leaves no trace. Pixels count alike however steep the gradient, as in
    `flow_orientations`.

    Returns:
        Shape (864,), values 0 to 1: motion to the right, then downwards. For each of 3 x 4 x 4 cells
        (time, height, width) the shares of its pixels over which that component grows fastest in each of
        8 directions, clockwise from the right, and of those around which it is uniform: 9 values that
        sum to 1.
    """
    shares = []
    for motion in np.moveaxis(pixels.flow, -1, 0):
        down, right = np.gradient(motion, axis=(1, 2))
        shares.append(_orientation_shares(np.stack([right, down], axis=-1), _UNIFORM * pixels.sensitivity))
    return np.concatenate(shares)


def color_histograms(pixels: Pixels) -> Vector:
    """Colour histograms in a grid over the picture, over all frames.

    Swain and Ballard, "Color indexing", IJCV 1991, in hue, saturation and value
    jointly; the palest third of the saturations has no hue, which is noise
    there.

    Returns:
        Shape (459,), values 0 to 1: for each of 3 x 3 cells the shares of 51 colours, which sum to 1. From
        dark to bright (3), each: pale, then 8 hues from red over green and blue, each half and fully
        saturated.
    """
    hsv = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2HSV_FULL) for frame in pixels.frames]).astype(np.int64)
    hue = (hsv[..., 0] + 256 // (2 * _HUES)) * _HUES // 256 % _HUES
    saturation, value = hsv[..., 1] * _SHADES // 256, hsv[..., 2] * _SHADES // 256
    colored = np.where(saturation == 0, 0, hue * (_SHADES - 1) + saturation)
    return _code_shares(value * (_COLORS // _SHADES) + colored, _COLORS, _COLOR_CELLS)


def binary_patterns(pixels: Pixels) -> Vector:
    """Histograms of uniform local binary patterns (LBP) in a grid over the picture, over all frames.

    Ojala, Pietikainen and Maenpaa, "Multiresolution gray-scale and rotation
    invariant texture classification with local binary patterns", PAMI 2002;
    that a pattern's rotation counts, and the grid, as in Ahonen et al., "Face
    description with local binary patterns", PAMI 2006. 8 neighbours at a
    distance of 1; pixels at the frame's edge lack some and are left out.

    Returns:
        Shape (944,), values 0 to 1: for each of 4 x 4 cells the shares of 59 patterns, which sum to 1.
    """
    from skimage.feature import local_binary_pattern  # it takes half a second

    codes: Callable[..., NDArray[np.float64]] = local_binary_pattern  # untyped
    patterns = np.stack([codes(frame, P=8, R=1, method="nri_uniform") for frame in pixels.grey])
    return _code_shares(patterns[:, 1:-1, 1:-1].astype(np.int64), _PATTERNS, _LBP_CELLS)


def frame_differences(pixels: Pixels) -> Vector:
    """Where and in which rhythm the pixels change between consecutive frames.

    The amplitude spectrum is that of the whole frame's motion energy over the
    clip, after Cutler and Davis, "Robust real-time periodic motion detection,
    analysis, and applications", PAMI 2000.

    Returns:
        Shape (136,), values 0 to 1: mean absolute difference of the grey values (0 to 1) in each of 8 x 8
        cells, its standard deviation over time, and the spectrum at 1 to 8 cycles a clip.
    """
    grey = pixels.grey.astype(np.float32) / np.float32(255)
    change = np.abs(grey[1:] - grey[:-1]) if len(grey) > 1 else np.zeros_like(grey)
    cells = _pooled(change[..., None], (len(change), _DIFFERENCE_CELLS, _DIFFERENCE_CELLS))
    energy = cells.mean(axis=(1, 2, 3))
    spectrum = np.zeros(_HARMONICS)
    amplitudes = np.abs(np.fft.rfft(energy))[1 : _HARMONICS + 1] / len(energy)
    spectrum[: len(amplitudes)] = amplitudes
    return np.concatenate([cells.mean(axis=0).ravel(), cells.std(axis=0).ravel(), spectrum])


def motion_history(pixels: Pixels) -> Vector:
    """Shape of the motion energy and the motion history image.

    Bobick and Davis, "The recognition of human movement using temporal
    templates", PAMI 2001. A pixel of the history image is the time of its last
    change, 1 where that is the clip's end, 0 where it never changed; the energy
    image says whether it did. The moments (Hu, "Visual pattern recognition by
    moment invariants", 1962) tell shapes apart wherever they are and however
    large.

    Returns:
        Shape (78,): 7 moments of the energy image, 7 of the history image, each as asinh(moment / 1e-12),
        which is a logarithm with a sign and 0 at 0; then the history image's means over 8 x 8 cells, 0 to 1.
    """
    grey = pixels.grey.astype(np.int16)
    changed = np.abs(np.diff(grey, axis=0)) > _CHANGED
    times = np.arange(1, len(grey), dtype=np.float32) / np.float32(max(len(grey) - 1, 1))
    history = (changed * times[:, None, None]).max(axis=0, initial=0)
    energy = (history > 0).astype(np.float32)
    moments = np.concatenate([cv2.HuMoments(cv2.moments(image)).ravel() for image in (energy, history)])
    cells = _pooled(history[None, ..., None], (1, _HISTORY_CELLS, _HISTORY_CELLS))
    return np.concatenate([np.arcsinh(moments / _SMALLEST_MOMENT), cells.ravel()])


@dataclass(frozen=True)
class FeatureSpec:
    """A feature of the table.

    Attributes:
        compute: Its vector.
        version: Raised with every change to its values.
        flow: Whether it looks at `Pixels.flow`.
        body: Whether it looks at `Pixels.body`, and at nothing else.
        histogram: Whether it consists of histograms alone, each at least 0 with a sum of 1: what the chi2
            and the intersection kernel are made for.
    """

    compute: Callable[[Pixels], Vector]
    version: int = 1
    flow: bool = False
    body: bool = False
    histogram: bool = False


FEATURES: dict[str, FeatureSpec] = {
    # At least 0, but no histogram: normalised by L2 (a flat block is all 0), and half of it deviations.
    "hog": FeatureSpec(gradient_histograms),
    "flow": FeatureSpec(flow_histograms, flow=True),
    "hof": FeatureSpec(flow_orientations, flow=True, histogram=True),
    "mbh": FeatureSpec(motion_boundaries, flow=True, histogram=True),
    "color": FeatureSpec(color_histograms, histogram=True),
    "lbp": FeatureSpec(binary_patterns, histogram=True),
    "difference": FeatureSpec(frame_differences),
    "history": FeatureSpec(motion_history),
    "moments": FeatureSpec(frame_statistics.color_moments),
    "glcm": FeatureSpec(frame_statistics.cooccurrences),
    "gabor": FeatureSpec(frame_statistics.gabor_responses),
    "edges": FeatureSpec(frame_statistics.edges_and_contours),
    "tracks": FeatureSpec(frame_statistics.point_tracks, flow=True),
    "change": FeatureSpec(frame_statistics.change_over_time),
    "pose": FeatureSpec(body_movement, body=True),
}


def compute_features(
    frames: Frames,
    names: Sequence[str],
    pairs: Frames | None = None,
    body: Body | None = None,
    *,
    pyramid: bool = False,
    follow: bool = False,
    mirror: bool = False,
) -> dict[str, Vector]:
    """Features of `FEATURES` by name, of one clip's square RGB frames, uint8 (T, S, S, 3).

    What several of them need is computed once.

    Args:
        frames: The clip's.
        names: The features.
        pairs: As of `Pixels`.
        body: As of `Pixels`.
        pyramid: Give each feature of the clip, then of its first and its second half, as one vector
            (Lazebnik, Schmid and Ponce, "Beyond bags of features", CVPR 2006, over time).
        follow: As of `Pixels`.
        mirror: Give the mean of the clip's features and of those of its mirror image.
    """
    if mirror:
        flipped = None if pairs is None else pairs[:, :, ::-1]
        image = None if body is None else mirrored(body)
        both = [
            compute_features(*seen, pyramid=pyramid, follow=follow)
            for seen in ((frames, names, pairs, body), (frames[:, :, ::-1], names, flipped, image))
        ]
        return {name: (both[0][name] + both[1][name]) / 2 for name in names}
    pixels = [Pixels(frames, pairs, follow, body)]
    if pyramid:
        halves = ((None, None) if values is None else _halves(values) for values in (pairs, body))
        pixels += [
            Pixels(part, moved, follow, seen)
            for part, moved, seen in zip(_halves(frames), *halves, strict=True)
        ]
    return {name: np.concatenate([FEATURES[name].compute(part) for part in pixels]) for name in names}


def _halves(frames: NDArray[Scalar]) -> tuple[NDArray[Scalar], NDArray[Scalar]]:
    """The first and the second half over time; they share the middle one of an odd number."""
    return frames[: (len(frames) + 1) // 2], frames[len(frames) // 2 :]


def _orientation_shares(vectors: NDArray[np.float32], least: float) -> Vector:
    """Shares of 8 directions, and of vectors shorter than ``least``, in each cell of `_FLOW_CELLS`.

    ``vectors`` are right and down, shape (time, height, width, 2); the result has the shape (cells * 9,).
    """
    votes = np.eye(DIRECTIONS + 1, dtype=np.float32)[directions(vectors, least)]
    return _pooled(votes, _FLOW_CELLS).ravel()


def _code_shares(codes: NDArray[np.int64], count: int, edge: int) -> Vector:
    """Shares of the codes 0 to ``count`` - 1 in each of edge x edge cells over all frames.

    ``codes`` has the shape (time, height, width), the result (edge * edge * count,).
    """
    rows, columns = (np.arange(length) * edge // length for length in codes.shape[1:])
    cells = rows[:, None] * edge + columns
    counts = np.bincount((cells * count + codes).ravel(), minlength=edge * edge * count)
    by_cell = counts.reshape(edge * edge, count)
    shares: Vector = by_cell / by_cell.sum(axis=1, keepdims=True)
    return shares.ravel()


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
