"""Hand-made features that are a few values a frame, as statistics over time.

Functions as those of `vidclf.models.features`.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vidclf.models.pixels import DIRECTIONS, STILL, Pixels, Vector, directions

_PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
_ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
_TRACKED = 100
"""Points that are tracked between two frames at most."""
_SMALLEST_VARIANCE = 1e-12
"""Under it a colour is the same everywhere."""


def color_moments(pixels: Pixels) -> Vector:
    """Mean, variance and skewness of red, green and blue, 0 to 1, over time.

    Stricker and Orengo, "Similarity of color images", SPIE 1995.

    Returns:
        Shape (72,): nine values by `_over_time`; a colour that is the same everywhere has no skewness.
    """
    colors = pixels.frames.reshape(len(pixels.frames), -1, 3) / 255
    mean, variance = colors.mean(axis=1), colors.var(axis=1)
    third = ((colors - mean[:, None]) ** 3).mean(axis=1)
    skewness = np.divide(third, variance**1.5, out=np.zeros_like(third), where=variance > _SMALLEST_VARIANCE)
    return _over_time(np.hstack([mean, variance, skewness]))


def cooccurrences(pixels: Pixels) -> Vector:
    """Properties of the grey level co-occurrence matrix (GLCM), over time.

    Haralick, Shanmugam and Dinstein, "Textural features for image classification", 1973: neighbours at a
    distance of 1 in 4 directions, 256 grey levels.

    Returns:
        Shape (160,): contrast, dissimilarity, homogeneity, energy and correlation, each by direction, by
        `_over_time`.
    """
    from skimage.feature import graycomatrix, graycoprops  # it takes half a second

    counted: Callable[..., NDArray[np.float64]] = graycomatrix  # untyped
    of_matrix: Callable[..., NDArray[np.float64]] = graycoprops
    rows = []
    for frame in pixels.grey:
        matrix = counted(frame, [1], _ANGLES, levels=256, symmetric=True, normed=True)
        rows.append(np.concatenate([of_matrix(matrix, name).ravel() for name in _PROPERTIES]))
    return _over_time(np.stack(rows))


def gabor_responses(pixels: Pixels) -> Vector:
    """Mean and variance of the responses to Gabor filters in 4 directions, over time.

    Waves of 10 pixels under a bell of 5 (Daugman, "Uncertainty relation for resolution in space, spatial
    frequency, and orientation", JOSA 1985), on grey values 0 to 1.

    Returns:
        Shape (64,): both of each direction by `_over_time`.
    """
    kernels = [cv2.getGaborKernel((21, 21), 5.0, angle, 10.0, 0.5, 0.0) for angle in _ANGLES]
    rows = []
    for frame in pixels.grey.astype(np.float32) / np.float32(255):
        responses = [cv2.filter2D(frame, cv2.CV_32F, kernel) for kernel in kernels]
        rows.append([value for response in responses for value in (response.mean(), response.var())])
    return _over_time(np.array(rows))


def edges_and_contours(pixels: Pixels) -> Vector:
    """How many edges there are, and the contours that they form, over time.

    Canny, "A computational approach to edge detection", PAMI 1986 (thresholds 100 and 200); contours as
    OpenCV finds them.

    Returns:
        Shape (40,): the share of edge pixels, the number of outer contours, their mean area and the largest
        as shares of the frame, and their mean length as a share of its edge, by `_over_time`.
    """
    edge, rows = pixels.frames.shape[1], []
    for frame in pixels.grey:
        edges = cv2.Canny(frame, 100, 200)
        contours, _ = cv2.findContours(edges, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        areas = [cv2.contourArea(contour) / edge**2 for contour in contours] or [0.0]
        lengths = [cv2.arcLength(contour, True) / edge for contour in contours] or [0.0]
        rows.append([(edges > 0).mean(), len(contours), np.mean(areas), max(areas), np.mean(lengths)])
    return _over_time(np.array(rows))


def point_tracks(pixels: Pixels) -> Vector:
    """Where the points go that are easy to follow: sparse flow, over time.

    Lucas and Kanade, "An iterative image registration technique", IJCAI 1981, of at most 100 points of Shi
    and Tomasi, "Good features to track", CVPR 1994, between the pictures of `Pixels.moved`.

    Returns:
        Shape (88,): the shares of points in 8 directions, clockwise from the right, and of those that stand
        still, then their mean and largest motion as a share of the frame's edge, by `_over_time`.
    """
    edge = pixels.frames.shape[1]
    least, rows = STILL * pixels.sensitivity * edge, []
    for before, after in zip(*pixels.moved, strict=True):
        points = cv2.goodFeaturesToTrack(before, _TRACKED, 0.01, 5)
        steps = np.zeros((0, 2), np.float32)
        if points is not None:
            there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, points, np.empty_like(points))
            steps = (there - points)[found == 1]
        shares = np.bincount(directions(steps, least), minlength=DIRECTIONS + 1) / max(len(steps), 1)
        lengths = np.hypot(*steps.T) / edge if len(steps) else np.zeros(1)
        rows.append(np.array([*shares, lengths.mean(), lengths.max()]))
    still = [np.eye(DIRECTIONS + 3)[DIRECTIONS]]
    return _over_time(np.stack(rows or still))


def change_over_time(pixels: Pixels) -> Vector:
    """The mean absolute difference of consecutive frames' grey values, 0 to 1, over time; shape (8,)."""
    grey = pixels.grey.astype(np.float32) / np.float32(255)
    change = np.abs(grey[1:] - grey[:-1]).mean(axis=(1, 2)) if len(grey) > 1 else np.zeros(1)
    return _over_time(change[:, None])


def _over_time(rows: NDArray[Any]) -> Vector:
    """What (T, values) are over time: mean, deviation, least, greatest, then mean and deviation of the
    absolute change from row to row and of the gradient; shape (8 * values,)."""
    still = np.zeros_like(rows)
    steps = np.abs(np.diff(rows, axis=0)) if len(rows) > 1 else still
    slopes = np.gradient(rows, axis=0) if len(rows) > 1 else still
    changes = [statistic(axis=0) for each in (steps, slopes) for statistic in (each.mean, each.std)]
    ends = [rows.mean(axis=0), rows.std(axis=0), rows.min(axis=0), rows.max(axis=0)]
    return np.concatenate([*ends, *changes]).astype(np.float64)
