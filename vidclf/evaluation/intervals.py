"""Confidence intervals and paired tests for clips that come in groups.

The clips of a group resemble each other, so what counts is how many groups there are. Every metric here is
a mean over classes of ratios of sums over groups (accuracy: one ratio), so that each group's influence on it
is known in closed form, and a class that only one group has needs no case of its own.

Shapes throughout: ``labels`` (clips,) with values from 0; ``guesses`` (clips,), or (repeats, clips) for
several models of one configuration, whose metrics are averaged; ``groups`` (clips,), names.
`benchmarks/intervals.py` simulates how often the intervals hold.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from vidclf.evaluation.metrics import METRICS, Labels

Values = NDArray[np.float64]
Groups = Sequence[str] | NDArray[np.int64]
"""The group of each clip, by its name or a number."""
Verdict = Literal["better", "worse", "cannot tell"]

KNOWN = tuple(name for name, metric in METRICS.items() if metric.ratio is not None)
"""Metrics that intervals are known for, beside ``recall/<index of the class>``."""
CONFIDENCE = 0.95
"""Of every interval and verdict that is shown."""
FEWEST_GROUPS = 3
"""Under so many groups nothing can be said."""
ASSUMED_CORRELATION = 0.2
"""Correlation between clips of a group that is expected before the groups are looked at."""
_ASSUMED_WEIGHT = 8
"""Groups' worth of evidence (degrees of freedom) that the expected variance counts for. Found by simulation:
the coverage is then 93 to 98 % from 12 groups on, and hardly less where the correlation is really 0.4; with
2 or less it falls below 93 % near accuracy 1, with 4 it touches 98 %."""
_LEAST_LEFT = 2 / 3
"""Least share of a class that is assumed to remain when a group is left out. Found by simulation: lower ones
make intervals far too wide where a class has two groups, higher ones too narrow."""
_FEW_GROUPS = 5
"""Under so many groups their variance is not worth measuring alone."""
_EXACT_FLIPS = 14
"""Groups up to which all sign flips are tried."""
_FLIPS_A_CHUNK = 10_000
_MOST_FLIPS = 1_000_000


def comparable(metric: str) -> str:
    """The metric to compare models by: ``metric`` itself (as ``accuracy``) if intervals are known for it."""
    return metric if metric in KNOWN else "macro_f1"


@dataclass(frozen=True)
class Interval:
    """A metric and where its true value lies.

    Attributes:
        estimate: On these clips, in [0, 1].
        low: Lower end, at least 0.
        high: Upper end, at most 1.
    """

    estimate: float
    low: float
    high: float


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

    @property
    def relation(self) -> str:
        """As ``better than``."""
        return "not distinguishable from" if self.verdict == "cannot tell" else f"{self.verdict} than"


@dataclass(frozen=True)
class _Ratios:
    """A metric as the mean of ratios of sums over groups.

    Attributes:
        over: What each group adds to the numerators, shape (repeats, groups, ratios).
        under: What it adds to the denominators, same shape.
        right: Share of the repeats that are right on each counted clip, shape (clips,).
        weights: Share of each counted clip in the metric, shape (clips,), sums to 1.
        group: Index of each clip's group, shape (clips,).
    """

    over: Values
    under: Values
    right: Values
    weights: Values
    group: NDArray[np.int64]

    @cached_property
    def totals(self) -> Values:
        """Denominators, at least 1 so that a class that is never said has precision 0."""
        totals: Values = np.maximum(self.under.sum(axis=1, keepdims=True), 1)
        return totals

    @cached_property
    def ratios(self) -> Values:
        ratios: Values = self.over.sum(axis=1, keepdims=True) / self.totals
        return ratios

    @cached_property
    def estimate(self) -> float:
        return float(self.ratios.mean())

    @property
    def groups(self) -> int:
        return int(self.over.shape[1])

    @cached_property
    def shares(self) -> Values:
        """Share of each group in the metric, shape (groups,)."""
        return np.bincount(self.group, self.weights, self.groups).astype(np.float64)

    def influence(self, *, widened: bool) -> Values:
        """First-order change of the metric by each group, shape (groups,); sums to 0.

        Args:
            widened: As the metric changes when the group is left out (the delete-one-group jackknife, also
                known as CR3), which makes up for groups that pull the estimate towards themselves.
        """
        influence = (self.over - self.ratios * self.under) / self.totals
        if widened:
            # A class of one group says nothing of the differences between groups: 0 stays 0.
            influence = influence / np.maximum(1 - self.under / self.totals, _LEAST_LEFT)
        found: Values = influence.mean(axis=(0, 2))
        return found

    @property
    def spread(self) -> float:
        """1 / effective number of clips, at the assumed correlation (Kish's design effect)."""
        alone = float((self.weights**2).sum())
        together = float((self.shares**2).sum())
        return (1 - ASSUMED_CORRELATION) * alone + ASSUMED_CORRELATION * together


def interval(
    metric: str, labels: Labels, guesses: Labels, groups: Groups, confidence: float = CONFIDENCE
) -> Interval | None:
    """Where the true value of a metric lies, for clips of new groups.

    On the logit scale, with Student's t. The variance is that between groups (cluster-robust, by the
    delete-one-group jackknife), moderated towards what groups of a correlation of 0.2 would have, as if that
    had been seen in 8 more groups (Smyth 2004, doi:10.2202/1544-6115.1027), so that five groups that are
    alike by luck do not pass for certainty. Under 5 groups, and where all clips are right, or all wrong:
    Wilson's interval with the effective number of clips.

    Args:
        metric: One of `KNOWN`, or ``recall/<index of the class>``.
        labels: True classes.
        guesses: Predicted classes; of several repeats the metric's mean is meant.
        groups: Name of each clip's group.
        confidence: In (0, 1).

    Returns:
        The interval; ``None`` where fewer than 3 groups have clips that the metric counts.

    Raises:
        ValueError: The metric is none of these.
    """
    ratios = _ratios(metric, labels, guesses, groups)
    if ratios.groups < FEWEST_GROUPS:
        return None
    estimate = ratios.estimate
    measured = _jackknife_variance(ratios.influence(widened=True))
    assumed = estimate * (1 - estimate) * ratios.spread
    certain = math.isclose(estimate * (1 - estimate), 0, abs_tol=1e-12)
    if certain or ratios.groups < _FEW_GROUPS:
        clips = 1 / ratios.spread
        if not certain:
            clips = min(clips, estimate * (1 - estimate) / max(measured, 1e-300))
        freedom = ratios.groups - 1 + (_ASSUMED_WEIGHT if ratios.groups >= _FEW_GROUPS else 0)
        low, high = _wilson(estimate, clips, _quantile(confidence, freedom))
    else:
        freedom = ratios.groups - 1 + _ASSUMED_WEIGHT
        variance = ((ratios.groups - 1) * measured + _ASSUMED_WEIGHT * assumed) / freedom
        half = _quantile(confidence, freedom) * math.sqrt(variance) / (estimate * (1 - estimate))
        low, high = special.expit(special.logit(estimate) + np.array([-half, half]))
    return Interval(estimate, min(float(low), estimate), max(float(high), estimate))


def paired(  # noqa: PLR0917  (who against whom reads best in order)
    metric: str,
    labels: Labels,
    challenger: Labels,
    champion: Labels,
    groups: Groups,
    alpha: float = 0.05,
) -> PairedComparison | None:
    """Whether one model is better than another on clips of new groups.

    Two tests must agree: Student's t on the differences between groups (delete-one-group jackknife; never
    less than single clips would vary), and flips of the signs of the groups' differences, which assume
    nothing but that equal models could be exchanged in any group. With 5 groups the smallest p of the
    latter is 1/16, so that nothing can then be told at 5 %. Where the flips refuse what t would tell, the
    interval is drawn out to 0.

    Args:
        metric: As for `interval`.
        labels: True classes.
        challenger: Predicted classes of the one, of one or several repeats.
        champion: Predicted classes of the other, likewise.
        groups: Name of each clip's group.
        alpha: How often equal models may be told apart, in (0, 1).

    Returns:
        The comparison; ``None`` where fewer than 3 groups have clips that the metric counts.

    Raises:
        ValueError: The metric is not known.
    """
    one, other = (_ratios(metric, labels, guesses, groups) for guesses in (challenger, champion))
    count = one.groups
    if count < FEWEST_GROUPS:
        return None
    difference = one.estimate - other.estimate
    discordant = float(np.abs(one.right - other.right).sum())
    # Two more clips on which they differ, one each way (Bonett and Price 2012, doi:10.3102/1076998611411915).
    alone = (discordant + 2) / (len(one.right) + 2) * float((one.weights**2).sum())
    between = _jackknife_variance(one.influence(widened=True) - other.influence(widened=True))
    error = math.sqrt(max(alone, between))
    p = float(2 * special.stdtr(count - 1, -abs(difference) / error))
    half = _quantile(1 - alpha, count - 1) * error
    if p < alpha:
        influence = one.influence(widened=False) - other.influence(widened=False)
        p = max(p, sign_flip_p(influence + difference * one.shares, alpha))
        if p >= alpha:
            half = abs(difference)
    verdict: Verdict = "cannot tell"
    if p < alpha:
        verdict = "better" if difference > 0 else "worse"
    low, high = max(difference - half, -1.0), min(difference + half, 1.0)
    return PairedComparison(difference, low, high, p, count, alpha, verdict)


def spent_alpha(read: int, alpha: float = 0.05) -> float:
    """What the ``read``-th comparison on one test split (from 1) may spend; all reads together: ``alpha``."""
    if read < 1:
        raise ValueError(f"reads count from 1, not {read}")
    return alpha / (read * (read + 1))


def smallest_p(groups: int) -> float:
    """The least p that `paired` can find with so many groups: one of all flips of their signs, either way."""
    return 2.0 ** (1 - groups)


def groups_needed(alpha: float) -> int:
    """The fewest groups whose `smallest_p` is below ``alpha``."""
    return next(groups for groups in itertools.count(FEWEST_GROUPS) if smallest_p(groups) < alpha)


def pair_alpha(models: int, alpha: float = 0.05) -> float:
    """What the comparison of one pair of models may spend where the best of them is compared with the others.

    Who is the best is not known beforehand, so that all pairs count (Dunn 1961, doi:10.2307/2282330).
    """
    return alpha / max(math.comb(models, 2), 1)


def _ratios(metric: str, labels: Labels, guesses: Labels, groups: Groups) -> _Ratios:
    guesses = np.atleast_2d(guesses)
    names = np.asarray(groups)
    recalled = metric.removeprefix("recall/")
    if recalled != metric and recalled.isdecimal():
        counted = labels == int(recalled)
        # The accuracy on the clips of that class: groups without one say nothing of it.
        labels, guesses, names, metric = labels[counted], guesses[:, counted], names[counted], "accuracy"
    ratio = METRICS[metric].ratio if metric in METRICS else None
    if ratio is None:
        raise ValueError(f"no interval is known for {metric}: there are {', '.join(KNOWN)}, recall/<index>")
    group = np.unique(names, return_inverse=True)[1]
    number = int(group.max(initial=-1)) + 1
    right = guesses == labels
    classes = int(max(labels.max(initial=0), guesses.max(initial=0))) + 1
    clips = np.bincount(labels, minlength=1)
    present = np.flatnonzero(clips)
    hits = _tally(np.where(right, labels, -1), group, number, classes)[..., present]
    true = np.broadcast_to(_tally(labels[None], group, number, classes)[..., present], hits.shape)
    said = _tally(guesses, group, number, classes)[..., present]
    over, under = ratio.parts(hits, true, said)
    if ratio.average == "micro":
        over, under = over.sum(axis=2, keepdims=True), under.sum(axis=2, keepdims=True)
        weights = np.full(len(labels), 1 / max(len(labels), 1))
    else:
        weights = 1 / (len(present) * clips[labels])
    return _Ratios(over, under, right.mean(axis=0), weights, group)


def _tally(values: Labels, group: NDArray[np.int64], groups: int, classes: int) -> Values:
    """How often each value stands in each group, shape (repeats, groups, classes); -1 is not counted."""
    repeats = np.arange(len(values))[:, None]
    places = (repeats * groups + group) * classes + values
    counts = np.bincount(places[values >= 0], minlength=len(values) * groups * classes)
    return counts.reshape(len(values), groups, classes).astype(np.float64)


def _jackknife_variance(influence: Values) -> float:
    groups = len(influence)
    return float((groups - 1) / groups * (influence**2).sum())


def _quantile(confidence: float, freedom: int) -> float:
    """Student's t that is exceeded either way with probability 1 - confidence."""
    return float(special.stdtrit(freedom, (1 + confidence) / 2))


def _wilson(share: float, clips: float, quantile: float) -> tuple[float, float]:
    """Wilson's score interval of a share (1927, doi:10.1080/01621459.1927.10502953)."""
    weight = quantile**2 / clips
    middle = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    return max(middle - half, 0.0), min(middle + half, 1.0)


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
