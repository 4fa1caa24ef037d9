"""Paired tests of models on the same clips, which come in groups.

Shapes as in `vidclf.evaluation.intervals`. `benchmarks/intervals.py` simulates how often verdicts are right.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import special

from vidclf.evaluation.intervals import (
    FEWEST_GROUPS,
    Ratios,
    Tallies,
    Values,
    recalled_class,
    squared_error,
    t_quantile,
    tallied,
)
from vidclf.evaluation.metrics import METRICS, Groups, Labels

Verdict = Literal["better", "worse", "cannot tell"]

_ASSUMED_BETWEEN = 0.2
"""The same of the difference between two models, which find the same groups hard."""
_EXACT_FLIPS = 14
"""Groups up to which all sign flips are tried."""
_FLIPS_A_CHUNK = 10_000
_MOST_FLIPS = 1_000_000


@dataclass(frozen=True)
class PairedComparison:
    """Two models on the same clips.

    Attributes:
        difference: Challenger's metric less the champion's, in [-1, 1].
        low: Lower end of its interval of confidence 1 - alpha.
        high: Upper end.
        p: Two-sided, of the t test; where that is below ``alpha``, the larger of it and the sign flips'.
        groups: Groups that were compared.
        alpha: How often equal models may be told apart.
        verdict: Whether the challenger is ``better`` or ``worse``: only where the interval leaves out 0,
            which is so exactly where ``p`` is below ``alpha``.
    """

    difference: float
    low: float
    high: float
    p: float
    groups: int
    alpha: float
    verdict: Verdict

    def reversed(self) -> "PairedComparison":
        """With the champion as the challenger."""
        turned: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}
        return replace(
            self,
            difference=-self.difference,
            low=-self.high,
            high=-self.low,
            verdict=turned.get(self.verdict, self.verdict),
        )


def paired(  # noqa: PLR0917  (who against whom reads best in order)
    metric: str,
    labels: Labels,
    challenger: Labels,
    champion: Labels,
    groups: Groups,
    alpha: float = 0.05,
    folds: Labels | None = None,
) -> PairedComparison | None:
    """Whether one model is better than another on clips of new groups.

    Two tests must agree: Student's t on the differences between groups, and flips of the signs of the groups'
    differences, which assume nothing but that equal models could be exchanged in any group. With 5 groups
    the smallest p of the latter is 1/16, so that nothing can then be told at 5 %. Where the flips refuse
    what t would tell, the interval is drawn out to 0: it leaves out 0 exactly where p is below ``alpha``.

    Args:
        metric: As for `interval`.
        labels: True classes.
        challenger: Predicted classes of the one, of one or several repeats.
        champion: Predicted classes of the other, likewise.
        groups: Name of each clip's group.
        alpha: How often equal models may be told apart, in (0, 1).
        folds: Fold of each clip, where means over folds are compared.

    Returns:
        The comparison; ``None`` where fewer than 5 groups have clips that the metric counts.

    Raises:
        ValueError: The metric is not known.
    """
    right = [(np.atleast_2d(guesses) == labels).mean(0) for guesses in (challenger, champion)]
    differing = np.abs(right[0] - right[1])
    recalled = recalled_class(metric)
    if recalled is not None:
        differing = differing[labels == recalled]
    elif (row := METRICS.get(metric)) is not None and row.ratio is not None:
        differing *= row.ratio.weights(groups)
    name, one = tallied(metric, labels, challenger, groups, folds)
    _, other = tallied(metric, labels, champion, groups, folds)
    count = int(one.true.shape[-2])
    if count < FEWEST_GROUPS:
        return None
    found = contrast(name, one, other, float(differing.sum()))
    difference, p = float(found.difference), float(found.p)
    half = float(t_quantile(1 - alpha, found.freedom)) * math.sqrt(float(found.error))
    if p < alpha:
        p = max(p, sign_flip_p(found.by_group, alpha))
        half = half if p < alpha else abs(difference)
    verdict: Verdict = "cannot tell"
    if p < alpha:
        verdict = "better" if difference > 0 else "worse"
    low, high = max(difference - half, -1.0), min(difference + half, 1.0)
    return PairedComparison(difference, low, high, p, count, alpha, verdict)


@dataclass(frozen=True)
class Contrast:
    """Differences between two models on many sets of clips, each value of shape (...).

    Attributes:
        difference: Of the metrics, the challenger's less the champion's.
        error: The square of its standard error.
        freedom: Degrees of freedom of that.
        p: Two-sided, of the t test.
        by_group: What each group adds to the difference, shape (..., groups).
    """

    difference: Values
    error: Values
    freedom: Values
    p: Values
    by_group: Values


def contrast(metric: str, challenger: Tallies, champion: Tallies, differing: Values | float) -> Contrast:
    """Compares two models by Student's t over groups.

    Args:
        metric: One of `KNOWN`.
        challenger: Of the one model.
        champion: Of the other, on the same clips.
        differing: Clips that one of them has right and the other has not, as the metric weighs them, shape
            (...).
    """
    one, other = Ratios(metric, challenger), Ratios(metric, champion)
    difference = one.estimate - other.estimate
    clips = champion.true.max(-3).sum((-2, -1))
    # Two more clips on which they differ, one each way (Bonett and Price 2012, doi:10.3102/1076998611411915).
    variance = (differing + 2) / (clips + 2)
    error, freedom = squared_error(one.influence - other.influence, variance * one.spread(_ASSUMED_BETWEEN))
    middle = (one.ratios.mean(-3, keepdims=True) + other.ratios.mean(-3, keepdims=True)) / 2
    by_group = one.summed(one.over - middle * one.under) - other.summed(other.over - middle * other.under)
    p = 2 * special.stdtr(freedom, -np.abs(difference) / np.sqrt(error))
    return Contrast(difference, error, freedom, p, by_group)


def spent_alpha(comparison: int, alpha: float = 0.05) -> float:
    """What a comparison, counted on one test split from 1, may spend; all of them together: ``alpha``."""
    if comparison < 1:
        raise ValueError(f"comparisons count from 1, not {comparison}")
    return alpha / (comparison * (comparison + 1))


def smallest_p(groups: int) -> float:
    """The least p that `paired` can find with so many groups: one of all flips of their signs, either way."""
    return 2.0 ** (1 - groups)


def groups_needed(alpha: float) -> int:
    """The fewest groups whose `smallest_p` is below ``alpha``."""
    return next(groups for groups in itertools.count(FEWEST_GROUPS) if smallest_p(groups) < alpha)


@dataclass(frozen=True)
class BestAmong:
    """Which of several models may be the best, on clips of new groups.

    Attributes:
        candidates: Places of those that no other is better than: the best is one of them.
        behind: By how much the best may be ahead of each, at least and at most, both from 0 to 1.
        groups: Groups that were compared.
        alpha: How often the best may be none of the candidates.
    """

    candidates: Sequence[int]
    behind: Sequence[tuple[float, float]]
    groups: int
    alpha: float

    def words(self, names: Sequence[str], metric: str) -> list[str]:
        """Who may be the best, and how far the others are behind: a sentence each.

        Args:
            names: Of the models, in the order of their places.
            metric: What they were compared by.
        """
        others = [place for place in range(len(names)) if place not in self.candidates]
        may = [
            names[place] + (f" (at most {most:.3f} behind)" if (most := self.behind[place][1]) else "")
            for place in self.candidates
        ]
        level = f"At {100 * (1 - self.alpha):.0f} % the best of the {len(names)}"
        tail = f"{metric}, {self.groups} groups, multiple comparisons with the best"
        if not others:
            return [f"{level} cannot be told: {', '.join(may)} ({tail})."]
        which = f"is {may[0]}" if len(may) == 1 else f"is one of {len(may)}: {', '.join(may)}"
        behind = (
            f"{names[place]} by {self.behind[place][0]:.3f} to {self.behind[place][1]:.3f}"
            for place in others
        )
        return [f"{level} {which} ({tail}).", f"Behind the best: {', '.join(behind)}."]


def best_among(
    models: int, compare: Callable[[int, int, float], PairedComparison | None], alpha: float = 0.05
) -> BestAmong | None:
    """Which of several models may be the best: multiple comparisons with the best.

    A model is out where another is better. That is decided at ``alpha`` / (models - 1), as only the models
    beside the best could wrongly put it out (Hsu 1984, doi:10.1214/aos/1176346732; for unequal errors Edwards
    and Hsu 1983, doi:10.1080/01621459.1983.10478025). Two-sided tests make that stricter than needed by half,
    so that of two models it is the paired test.

    Args:
        models: How many there are, from 2.
        compare: Gives `paired` of the models at two places, the first as the challenger, at an alpha.
        alpha: How often the best may be put out, in (0, 1).

    Returns:
        Who may be the best; ``None`` where a pair cannot be compared.
    """
    found: dict[tuple[int, int], PairedComparison] = {}
    for one, other in itertools.combinations(range(models), 2):
        pair = compare(one, other, alpha / (models - 1))
        if pair is None:
            return None
        found[one, other], found[other, one] = pair, pair.reversed()
    ahead = {place: [other for other in range(models) if other != place] for place in range(models)}
    candidates = [
        place
        for place, others in ahead.items()
        if not any(found[other, place].verdict == "better" for other in others)
    ]
    behind = [
        (
            max(0.0, *(found[other, place].low for other in others)),
            max((found[other, place].high for other in others if other in candidates), default=0.0),
        )
        for place, others in ahead.items()
    ]
    groups = min(pair.groups for pair in found.values())
    return BestAmong(candidates, [(least, max(most, 0.0)) for least, most in behind], groups, alpha)


def sign_flip_p(differences: Values, alpha: float) -> float:
    """Share of the flips of the groups' signs that give as large a sum, either way.

    All flips of up to 14 groups, else enough random ones to tell p from ``alpha``. It is the
    test of `scipy.stats.permutation_test` with ``permutation_type="samples"``, which takes 5 to 150 times as
    long (0.7 s for 14 groups): too long for many pairs, and for the simulations in `benchmarks/intervals.py`.
    """
    # Only sizes matter, in an order that neither names nor the order of the clips decide.
    sizes = np.sort(np.abs(differences))
    observed = abs(differences.sum()) * (1 - 1e-9)
    if len(sizes) <= _EXACT_FLIPS:
        signs = 1 - 2 * (np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes)) & 1)
        return float(np.mean(np.abs(signs @ sizes) >= observed))
    generator = np.random.default_rng(0)
    chunks = math.ceil(min(max(50 / alpha, _FLIPS_A_CHUNK), _MOST_FLIPS) / _FLIPS_A_CHUNK)
    reached = 0
    for _ in range(chunks):
        flips = generator.integers(0, 2, (_FLIPS_A_CHUNK, len(sizes)), dtype=np.int8)
        reached += int(np.count_nonzero(np.abs(sizes.sum() - 2 * (flips @ sizes)) >= observed))
    return (reached + 1) / (chunks * _FLIPS_A_CHUNK + 1)
