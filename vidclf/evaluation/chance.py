"""What models reach without any signal: the best of several, on labels that are permuted by group.

A permutation test (Ojala and Garriga 2010, https://jmlr.org/papers/v11/ojala10a.html). Clips of one group and
class resemble each other, so they keep one label together: a group's classes change their names among
themselves, and groups that hold one class each exchange theirs. Of many models the best is compared with the
best on every permutation (Westfall and Young 1993), which counts the choice among them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidclf.evaluation.metrics import METRICS, Groups, Labels, Ratio

LEVEL = 0.05
"""How often noise may be called better than chance."""
_PERMUTATIONS = 999
_MOST_NUMBERS = 20_000_000
"""Counts that are held at a time."""


@dataclass(frozen=True)
class Chance:
    """What permuted labels give.

    Attributes:
        models: How many the best is taken of.
        level: The mean, over permutations, of the best score.
        p: Share of the permutations whose best score is no lower than that on the true labels; with few
            groups and classes it cannot be small.
    """

    models: int
    level: float
    p: float


def by_chance(
    metric: str, labels: Labels, guesses: Labels, groups: Groups, folds: Labels | None = None
) -> Chance:
    """What the best of several models would reach without signal.

    Args:
        metric: One of `vidclf.evaluation.intervals.KNOWN`, as ``macro_f1``.
        labels: True classes, shape (clips,).
        guesses: Predicted classes of each model, shape (models, clips).
        groups: Name of each clip's group.
        folds: Fold of each clip, shape (clips,), where the mean over folds is meant.

    Example:
        >>> labels = np.tile([0, 1, 2], 20)
        >>> by_chance("macro_f1", labels, labels[None], np.repeat(np.arange(10), 6)).p
        0.001
    """
    classes = int(max(labels.max(), guesses.max())) + 1
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    cells, first, cell = np.unique(group * classes + labels, return_index=True, return_inverse=True)
    own, names = cells // classes, cells % classes
    ratio = METRICS[metric].ratio
    assert ratio is not None
    weights = ratio.weights(groups)
    said = np.zeros((len(guesses), len(cells), classes))
    for model, row in enumerate(guesses):
        np.add.at(said[model], (cell, row), weights)
    fold = np.zeros(len(cells), dtype=np.int64) if folds is None else folds[first]
    observed = _best(ratio, names[None], said, fold)[0]
    generator = np.random.default_rng(0)
    blocks = _exchangeable(own)
    drawn = np.tile(names, (_PERMUTATIONS, 1))
    for block in blocks:
        drawn[:, block] = generator.permuted(drawn[:, block], axis=1)
    chunk = max(1, _MOST_NUMBERS // (said.size * classes))
    best = np.concatenate(
        [_best(ratio, drawn[start : start + chunk], said, fold) for start in range(0, len(drawn), chunk)]
    )
    reached = int(np.count_nonzero(best >= observed - 1e-9))
    return Chance(len(guesses), float(best.mean()), (reached + 1) / (_PERMUTATIONS + 1))


def _exchangeable(own: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Cells of a group and class, by their groups ``own``, that may exchange their labels."""
    counts = np.bincount(own)
    shared = [np.flatnonzero(own == group) for group in np.flatnonzero(counts > 1)]
    return [*shared, np.flatnonzero(counts[own] == 1)]


def _best(
    ratio: Ratio, names: NDArray[np.int64], said: NDArray[np.float64], fold: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The best score for ``names`` (permutations, cells), by clips ``said`` (models, cells, classes)."""
    parts = [fold == each for each in np.unique(fold)]
    scores = np.mean([_scores(ratio, names[:, part], said[:, part]) for part in parts], axis=0)
    found: NDArray[np.float64] = scores.max(axis=1)
    return found


def _scores(ratio: Ratio, names: NDArray[np.int64], said: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each permutation and model."""
    classes = said.shape[-1]
    having = (names[:, None, :] == np.arange(classes)[:, None]).astype(np.float64)
    confusion = np.einsum("pkc,mcj->pmkj", having, said, optimize=True)
    hits, true = np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1)
    over, under = ratio.parts(hits, true, confusion.sum(-2))
    if ratio.average == "micro":
        return np.asarray(over.sum(-1) / under.sum(-1))
    counted = true > 0
    ratios = np.divide(over, under, out=np.zeros_like(over), where=under > 0)
    return np.asarray((ratios * counted).sum(-1) / counted.sum(-1))
