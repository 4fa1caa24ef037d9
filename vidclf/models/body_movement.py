"""How a body's landmarks stand and move over a clip: the feature ``pose``."""

import numpy as np

from vidclf.models.pixels import LANDMARKS, Body, Pixels, Vector

_SHOULDERS, _HIPS = slice(11, 13), slice(23, 25)
_PRESENT = 0.5
_SMALLEST = 0.02
"""The least size of a torso, as a share of the frames' height."""
_FARTHEST = 5.0
"""Sizes of the torso; a landmark that is farther from the hips is a slip."""
_HARMONICS = 5
"""Frequencies of the mean amplitude: 1 to 5 cycles a clip."""
_TWINS = [0, 4, 5, 6, 1, 2, 3, 8, 7, *(twin for left in range(9, LANDMARKS, 2) for twin in (left + 1, left))]
"""What each landmark is in a mirror: the other eye, the other hand."""
LENGTH = 6 * 2 * LANDMARKS + 2 * 2 + 2 * LANDMARKS + 1


def body_movement(pixels: Pixels) -> Vector:
    """Where the landmarks of `Pixels.body` are in relation to the hips, and how they move.

    Places count from the middle of the hips, in units of the torso (from hips to shoulders, or the
    shoulders' width where that is more; the clip's median). So neither where a body is nor how
    large it is seen counts. A frame without a body takes that of the nearest frame with one.

    Returns:
        Shape (467,). Of the 33 landmarks' places (right, down): mean, standard deviation, minimum, maximum
        over time, mean absolute step from frame to frame, mean amplitude at 1 to 5 cycles a clip; of
        the hips' steps their mean absolute value and deviation; mean and deviation of each landmark's
        confidence; last the mean probability of a body. All 0 where no frame has one.
    """
    if pixels.body is None or not (present := np.flatnonzero(pixels.body[:, 0, 3] > _PRESENT)).size:
        return np.zeros(LENGTH)
    frames = np.arange(len(pixels.body))
    body = pixels.body[present[np.abs(frames[:, None] - present).argmin(axis=1)]].astype(np.float64)
    places, confidence = body[..., :2], body[..., 2]
    hips = places[:, _HIPS].mean(axis=1)
    shoulders = places[:, _SHOULDERS]
    upright = np.linalg.norm(shoulders.mean(axis=1) - hips, axis=-1)
    across = np.linalg.norm(shoulders[:, 0] - shoulders[:, 1], axis=-1)
    size = np.median(np.maximum(np.maximum(upright, across), _SMALLEST))
    own = ((places - hips[:, None]) / size).clip(-_FARTHEST, _FARTHEST)
    # Of one frame there are no steps.
    steps, travelled = (
        np.diff(values, axis=0) if len(frames) > 1 else np.zeros_like(values) for values in (own, hips / size)
    )
    amplitudes = np.abs(np.fft.rfft(own - own.mean(axis=0), axis=0))[1 : _HARMONICS + 1] / len(frames)
    parts = [
        own.mean(axis=0),
        own.std(axis=0),
        own.min(axis=0),
        own.max(axis=0),
        np.abs(steps).mean(axis=0),
        amplitudes.sum(axis=0) / _HARMONICS,
        np.abs(travelled).mean(axis=0),
        travelled.std(axis=0),
        confidence.mean(axis=0),
        confidence.std(axis=0),
        pixels.body[:, 0, 3].mean(dtype=np.float64),
    ]
    return np.concatenate([np.ravel(part) for part in parts])


def mirrored(body: Body) -> Body:
    """The body of the mirror image, its left side on the right; places count from anywhere."""
    return body[:, _TWINS] * np.array([-1, 1, 1, 1], dtype=np.float32)
