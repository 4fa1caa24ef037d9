"""Whether new clips differ from those that a model was judged on, by a permutation test over whole groups.

Clips of one group resemble each other, so groups change sides, never single clips: were all groups drawn from
one source, each choice of as many of them would be as likely as that of the new ones, and the test is exact.
Three quantities are compared: the confidences (Kolmogorov-Smirnov distance), the shares of the predicted
classes (total variation), and what the model's decision sees (energy distance, Székely and Rizzo 2013,
https://doi.org/10.1016/j.jspi.2013.03.018). The least of their p-values is compared with the least on every
permutation (Westfall and Young 1993), so that all together give a false alarm as seldom as asked.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

_PERMUTATIONS = 1999
_MOST_AXES = 16
"""Principal components of the embeddings that are compared."""
_MOST_STEPS = 256
"""Values of the confidence at which distributions are compared."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class WatchedClips:
    """What a model says of clips.

    Attributes:
        probabilities: Shape (clips, classes).
        embeddings: What its decision sees, shape (clips, width).
        groups: Of each clip.
    """

    probabilities: Values
    embeddings: Values
    groups: Sequence[str]


@dataclass(frozen=True)
class Difference:
    """One quantity of the new clips beside that of the known ones.

    Attributes:
        what: ``confidence``, ``classes`` or ``appearance``.
        distance: 0 where both are alike; of the first two 1 where they have nothing in common.
        usual: What the distance is between such parts of all groups, the median.
        p: How often one of the three would be as unusual by chance.
    """

    what: str
    distance: float
    usual: float
    p: float


@dataclass(frozen=True)
class Drift:
    """What a comparison has found.

    Attributes:
        differences: Of the three quantities.
        groups: Of the known and of the new clips.
        least_p: The least p that so few groups can give.
    """

    differences: Sequence[Difference]
    groups: tuple[int, int]
    least_p: float

    def alarm(self, rate: float) -> bool | None:
        """Whether the clips differ; ``None`` where so few groups cannot tell.

        Args:
            rate: How often there may be an alarm though nothing has changed, above 0 and below 1.
        """
        if self.least_p > rate:
            return None
        return min(each.p for each in self.differences) <= rate


def drift(known: WatchedClips, new: WatchedClips, seed: int = 0) -> Drift:
    """Compares new clips with known ones, of which no group is among the new.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> def clips(mean: float, names: str) -> WatchedClips:
        ...     seen = rng.normal(mean, 1, (60, 4))
        ...     return WatchedClips(np.full((60, 2), 0.5), seen, np.repeat(list(names), 6))
        >>> drift(clips(0, "abcdefghij"), clips(2, "klmnopqrst")).alarm(0.05)
        True
    """
    groups = [*(("known", group) for group in known.groups), *(("new", group) for group in new.groups)]
    names = sorted(set(groups))
    member = np.array([names.index(group) for group in groups])
    actual = np.array([side == "new" for side, _ in names], dtype=np.float64)
    rng = np.random.default_rng(seed)
    drawn = np.stack([actual, *(rng.permutation(actual) for _ in range(_PERMUTATIONS))])
    counts = np.zeros((len(names), len(member)))
    counts[member, np.arange(len(member))] = 1.0
    probabilities = np.concatenate([known.probabilities, new.probabilities])
    embeddings = np.concatenate([known.embeddings, new.embeddings])
    distances = {
        "confidence": _steps_apart(probabilities.max(axis=1), counts, drawn),
        "classes": _shares_apart(probabilities.argmax(axis=1), counts, drawn),
        "appearance": _energy_apart(embeddings, counts, drawn),
    }
    table = np.stack(list(distances.values()))
    # The share of all draws that are as far apart, within each quantity; then the least of the three.
    ranks = np.stack([_share_as_far(row) for row in table])
    least = ranks.min(axis=0)
    adjusted = [float((least <= row[0] + 1e-12).mean()) for row in ranks]
    new_groups = int(actual.sum())
    return Drift(
        [
            Difference(what, float(row[0]), float(np.median(row[1:])), p)
            for what, row, p in zip(distances, table, adjusted, strict=True)
        ],
        (len(names) - new_groups, new_groups),
        max(1 / (_PERMUTATIONS + 1), 1 / math.comb(len(names), new_groups)),
    )


def _share_as_far(row: Values) -> Values:
    """Of each value the share of all values that are not below it."""
    rounded = np.round(row, 9)
    ordered = np.sort(rounded)
    return (len(row) - np.searchsorted(ordered, rounded, side="left")) / len(row)


def _means(values: Values, counts: Values, drawn: Values) -> tuple[Values, Values]:
    """Of each draw the mean over the clips of the one and of the other side, shapes (draws, columns)."""
    sums, sizes = counts @ values, counts.sum(axis=1)
    inside, size = drawn @ sums, drawn @ sizes
    outside, rest = sums.sum(axis=0) - inside, sizes.sum() - size
    return inside / size[:, None], outside / rest[:, None]


def _steps_apart(values: Values, counts: Values, drawn: Values) -> Values:
    steps = np.unique(np.quantile(values, np.linspace(0, 1, _MOST_STEPS)))
    ours, theirs = _means((values[:, None] <= steps).astype(np.float64), counts, drawn)
    apart: Values = np.abs(ours - theirs).max(axis=1)
    return apart


def _shares_apart(classes: NDArray[np.int64], counts: Values, drawn: Values) -> Values:
    ours, theirs = _means((classes[:, None] == np.unique(classes)).astype(np.float64), counts, drawn)
    apart: Values = np.abs(ours - theirs).sum(axis=1) / 2
    return apart


def _energy_apart(embeddings: Values, counts: Values, drawn: Values) -> Values:
    points = StandardScaler().fit_transform(embeddings)
    if points.shape[1] > _MOST_AXES:
        points = PCA(min(_MOST_AXES, len(points) - 1), svd_solver="full").fit_transform(points)
    apart = cdist(points, points)
    between, sizes = counts @ apart @ counts.T, counts.sum(axis=1)
    others = 1 - drawn
    size, rest = drawn @ sizes, others @ sizes
    across = np.einsum("dg,gh,dh->d", drawn, between, others, optimize=True) / (size * rest)
    inside = np.einsum("dg,gh,dh->d", drawn, between, drawn, optimize=True) / size**2
    outside = np.einsum("dg,gh,dh->d", others, between, others, optimize=True) / rest**2
    energy: Values = 2 * across - inside - outside
    return energy
