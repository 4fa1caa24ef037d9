"""Labels, guesses and groups that are made for tests of intervals and comparisons."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidclf.evaluation.intervals import Interval, interval
from vidclf.evaluation.significance import PairedComparison, paired

Labels = NDArray[np.int64]
WEIGHT = 3
"""Groups' worth of evidence for the correlation that is expected."""


def clips(
    seed: int, groups: int, accuracy: float = 0.8, models: int = 1, size: int = 8
) -> tuple[Labels, Labels, NDArray[np.str_]]:
    """Labels of three classes, guesses (models, clips), groups that make accuracy differ."""
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), size)
    labels = generator.integers(0, 3, len(group))
    own = generator.beta(4 * accuracy, 4 * (1 - accuracy), (models, groups))[:, group]
    wrong = (labels + generator.integers(1, 3, own.shape)) % 3
    return (
        labels,
        np.where(generator.random(own.shape) < own, labels, wrong),
        np.char.add("g", group.astype(str)),
    )


def made(metric: str, *data: Any, **options: Any) -> Interval:
    found = interval(metric, *data, **options)
    assert found is not None
    return found


def compared(metric: str, *data: Any, **options: Any) -> PairedComparison:
    found = paired(metric, *data, **options)
    assert found is not None
    return found


def squared_error(influence: NDArray[np.float64], assumed: float) -> tuple[float, float]:
    """Of a metric, and its degrees of freedom, from what each group changes."""
    groups = len(influence)
    squares = (groups - 1) / groups * influence**2
    kurtosis = (squares**2).mean() / squares.mean() ** 2
    freedom = min(max(2 * groups / (kurtosis - 1), 1), groups - 1) if kurtosis > 1 + 1e-9 else groups - 1
    measured = squares.sum() + (groups - 1) / groups * influence.sum() ** 2
    return (freedom * measured + WEIGHT * assumed) / (freedom + WEIGHT), min(freedom + WEIGHT, groups - 1)


def left_out(right: NDArray[np.int64], size: int = 4) -> NDArray[np.float64]:
    """Each group's accuracy less that of the others and a clip of average outcome, by its share."""
    clips = size * len(right)
    others = (right.sum() - right + right.sum() / clips) / (clips - size + 1)
    return (right / size - others) * size / clips


def first(hits: Sequence[int] | NDArray[np.int64], size: int = 10) -> Labels:
    """Guesses for groups of ``size`` clips of class 0: the first ``hits`` of each are right."""
    return np.concatenate([np.arange(size) >= count for count in hits]).astype(np.int64)


def contests(
    seed: int, sizes: Sequence[int], nested: bool
) -> tuple[Labels, Labels, NDArray[np.bool_], NDArray[np.bool_]]:
    """Labels, groups, and where two models are right that find different groups hard."""
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    own = generator.beta(1.6, 0.4, (2, len(sizes)))[:, group]  # 0.8, correlation 1/3
    right = generator.random(own.shape) < own
    return (group if nested else generator.integers(0, 3, len(group))), group, right[0], right[1]
