"""Confidence intervals and paired tests for clips that come in groups.

What they are for: clips of new groups, weighed by clips, or by groups where the metric weighs so. The clips
of a group resemble each other, so what counts is how many groups there are, how alike their clips are, and
how much one of them weighs. Every metric here is a mean over classes of ratios of sums over groups (accuracy:
one ratio), so that each group's influence on it is known in closed form.

Shapes throughout: ``labels`` (clips,) with values from 0; ``guesses`` (clips,), or (repeats, clips) for
several models of one configuration, whose metrics are averaged; ``groups`` (clips,), names; ``folds``
(clips,), where the metric is the mean over folds of whole groups, each of a model of its own: numbers from 0.
`benchmarks/intervals.py` simulates how often intervals and verdicts are right.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from vidclf.evaluation.metrics import METRICS, Groups, Labels, Predictions

Values = NDArray[np.float64]

KNOWN = tuple(name for name, metric in METRICS.items() if metric.ratio is not None)
"""Metrics that intervals and comparisons are known for, beside ``recall/<index of the class>``."""
MEANS = tuple(name for name, metric in METRICS.items() if metric.by_clip is not None)
"""Metrics of probabilities that intervals are known for: see `mean_interval`."""
CONFIDENCE = 0.95
"""Of every interval and verdict that is shown."""
FEWEST_GROUPS = 5
"""Under so many groups nothing can be said: what holds is then wider than two thirds of the scale."""
_ASSUMED_CORRELATION = 0.4
"""Correlation between the outcomes of clips of a group that is expected before the groups are looked at."""
_ASSUMED_WEIGHT = 3
"""Groups' worth of evidence (degrees of freedom) that the expected variance counts for."""


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
class Tallies:
    """Clips of each group and class, each of shape (..., repeats, groups, classes).

    Attributes:
        hits: Those that are rightly predicted as the class.
        true: Those that have it; in a repeat that is a fold none of the other folds' groups, else the same.
        said: Those that are predicted as it.
    """

    hits: Values
    true: Values
    said: Values


class Ratios:
    """A metric as the mean over classes of ratios of sums over groups, for one or many sets of clips.

    Attributes:
        groups: How many there are.
        estimate: The metric, shape (...).
        over: Each group's part of the numerators, by the denominators, (..., repeats, groups, classes).
        under: Each group's share of the denominators, same shape; rows sum to 1.
        ratios: Shape (..., repeats, 1, classes).
        weights: Share of each class of each repeat in the metric, shape (..., repeats, 1, classes).
        influence: Change of the metric by each group, shape (..., groups).
        alone: Sum of the clips' squared shares in the metric, shape (...).
        together: Sum of the groups' squared shares in it, shape (...).
    """

    def __init__(self, metric: str, tallies: Tallies) -> None:
        ratio = METRICS[metric].ratio if metric in METRICS else None
        if ratio is None:
            raise ValueError(
                f"no interval is known for {metric}: there are {', '.join(KNOWN)}, recall/<index>"
            )
        counts = tallies.true.max(-3)
        hits, true, said = tallies.hits, tallies.true, tallies.said
        if ratio.weigh == "groups":
            own = counts.sum(-1, keepdims=True)
            even = own.sum(-2, keepdims=True) / (own.shape[-2] * np.maximum(own, 1))
            hits, true, said = (part * even[..., None, :, :] for part in (hits, true, said))
        over, under = ratio.parts(hits, true, said)
        if ratio.average == "micro":
            over, under, true, counts = (part.sum(-1, keepdims=True) for part in (over, under, true, counts))
        # A class that is never said has precision 0.
        totals = _not_zero(under.sum(-2, keepdims=True))
        clips = true.sum(-2, keepdims=True)
        self.groups = int(true.shape[-2])
        self.over, self.under = over / totals, under / totals
        self.ratios: Values = over.sum(-2, keepdims=True) / totals
        present = clips > 0
        classes = np.maximum(present.sum(-1, keepdims=True), 1)
        repeats = np.maximum(present.any(-1, keepdims=True).sum(-3, keepdims=True), 1)  # a fold may lack all
        self.weights: Values = present / (classes * repeats)
        means = (self.ratios * present).sum(-1, keepdims=True) / classes
        self.estimate: Values = (means.sum(-3, keepdims=True) / repeats)[..., 0, 0, 0]
        share = (self.weights / _not_zero(clips) * true).sum(-3)
        self.alone: Values = (share**2 / np.maximum(counts, 1)).sum((-2, -1))
        self.together: Values = (share.sum(-1) ** 2).sum(-1)
        self.influence = self._left_out(totals * present, true / _not_zero(clips))

    def _left_out(self, totals: Values, share: Values) -> Values:
        """What each group does more or less than the others' clips and one of average outcome let expect.

        This is the delete-one-group jackknife (CR3), by the share of a class's clips that a group has. The
        others are those of all repeats, so that a fold of one group is measured from the other folds'. The
        one clip matters where few others have the class: of a class that one group has, only the average
        of all classes that have clips tells what was to be expected.
        """
        sums = ((part * totals).sum((-3, -2, -1), keepdims=True) for part in (self.over, self.under))
        average = next(sums) / _not_zero(next(sums))
        one = np.maximum((share > 0).sum(-3, keepdims=True), 1)
        others = ((self.ratios - self.over) * totals).sum(-3, keepdims=True) + one * average
        others = others / ((totals * (1 - share)).sum(-3, keepdims=True) + one)
        return self.summed(self.over - self.ratios * self.under + share * (self.ratios - others))

    def summed(self, values: Values) -> Values:
        """Over the classes and repeats, shape (..., groups)."""
        found: Values = (values * self.weights).sum((-3, -1))
        return found

    def spread(self, correlation: float) -> Values:
        """1 / effective number of clips, at a correlation inside groups (Kish's design effect)."""
        return (1 - correlation) * self.alone + correlation * self.together


def _not_zero(values: Values) -> Values:
    """To divide by, where nothing is divided by zero."""
    return np.where(values > 0, values, 1.0)


def squared_error(influence: Values, assumed: Values) -> tuple[Values, Values]:
    """Squared error of a metric, and its degrees of freedom, each of shape (...).

    The groups' variance, and the square of the bias where their influences do not cancel (where large
    groups are the hard ones), count for as many degrees of freedom as their kurtosis leaves (Satterthwaite
    1946, doi:10.2307/3002019): few, where few groups have all the mistakes or most of the clips. The
    assumed variance makes up for what they do not tell.

    Of accuracy on the same 320 designs (`benchmarks/interval_methods.py`) this holds in 92 % of the sets at
    least; CR2 with its own degrees of freedom in 76 %, on the logit scale in 86 %, the studentised bootstrap
    of groups in 86 %. The larger of this and the bootstrap holds in 93 %, and is up to a third wider.

    Args:
        influence: Shape (..., groups).
        assumed: Variance that is expected before the groups are looked at, shape (...).
    """
    groups = influence.shape[-1]
    squares = (groups - 1) / groups * influence**2
    total = squares.sum(-1)
    uneven = (squares**2).sum(-1) - total**2 / groups
    freedom = np.clip(2 * total**2 / np.maximum(uneven, 1e-300), 1, groups - 1)
    measured = total + (groups - 1) / groups * influence.sum(-1) ** 2
    error = (freedom * measured + _ASSUMED_WEIGHT * assumed) / (freedom + _ASSUMED_WEIGHT)
    return error, np.minimum(freedom + _ASSUMED_WEIGHT, groups - 1)


def interval(  # noqa: PLR0917  (what is measured, on which clips, how surely)
    metric: str,
    labels: Labels,
    guesses: Labels,
    groups: Groups,
    confidence: float = CONFIDENCE,
    tries: int = 1,
    folds: Labels | None = None,
) -> Interval | None:
    """Where the true value of a metric lies, for clips of new groups.

    Args:
        metric: One of `KNOWN`, or ``recall/<index of the class>``.
        labels: True classes.
        guesses: Predicted classes; of several repeats the metric's mean is meant.
        groups: Name of each clip's group.
        confidence: In (0, 1).
        tries: From how many models these clips may choose this one: see `ends`.
        folds: Fold of each clip, where the mean over folds is meant.

    Returns:
        The interval; ``None`` where fewer than 5 groups have clips that the metric counts.

    Raises:
        ValueError: The metric is none of these.
    """
    metric, tallies = tallied(metric, labels, guesses, groups, folds)
    if tallies.true.shape[-2] < FEWEST_GROUPS:
        return None
    return Interval(*(float(value) for value in ends(metric, tallies, confidence, tries)))


def ends(
    metric: str, tallies: Tallies, confidence: float = CONFIDENCE, tries: int = 1
) -> tuple[Values, Values, Values]:
    """Estimate, lower and upper end of the interval of each set of clips, each of shape (...).

    On the logit scale, with Student's t. Where all clips are right, or all wrong: Wilson's interval (1927,
    doi:10.1080/01621459.1927.10502953) with the effective number of clips at the assumed correlation.

    The best of several tries is partly the luckiest. The lower end leaves out as much for all tries together
    as it would for one (Bonferroni), so that it holds for whichever these clips choose. The upper end needs
    nothing: where the best of all is too high, so was the estimate of the truly best.
    """
    ratios = Ratios(metric, tallies)
    estimate = np.clip(ratios.estimate, 0, 1)
    variance, spread = estimate * (1 - estimate), ratios.spread(_ASSUMED_CORRELATION)
    error, freedom = squared_error(ratios.influence, variance * spread)
    certain = variance < 1e-12
    chosen = 1 - (1 - confidence) / tries
    with np.errstate(divide="ignore", invalid="ignore"):
        scale, middle = np.sqrt(error) / variance, special.logit(estimate)
        low = special.expit(middle - t_quantile(chosen, freedom) * scale)
        high = special.expit(middle + t_quantile(confidence, freedom) * scale)
    right, wrong = (
        1 / (1 + t_quantile(level, ratios.groups - 1) ** 2 * spread) for level in (chosen, confidence)
    )
    low = np.where(certain, np.where(estimate > 0.5, right, 0), np.minimum(low, estimate))
    high = np.where(certain, np.where(estimate > 0.5, 1, 1 - wrong), np.maximum(high, estimate))
    return estimate, low, high


def mean_interval(
    metric: str, labels: Labels, probabilities: Values, groups: Groups, confidence: float = CONFIDENCE
) -> Interval | None:
    """As `interval`, of a metric that is the mean of a value of each clip; what has no bound on a log scale.

    Args:
        metric: One of `MEANS`.
        labels: True classes.
        probabilities: Shape (clips, classes).
        groups: Name of each clip's group.
        confidence: In (0, 1).
    """
    row = METRICS[metric]
    values = row.by_clip(Predictions(labels, probabilities)) if row.by_clip else None
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    clips = np.bincount(group).astype(np.float64)[None, :, None]
    if values is None or clips.size < FEWEST_GROUPS:
        return None
    tallies = Tallies(np.bincount(group, values).astype(np.float64)[None, :, None], clips, clips)
    if row.bounded:
        return Interval(*(float(value) for value in ends("accuracy", tallies, confidence)))
    ratios = Ratios("accuracy", tallies)
    error, freedom = squared_error(ratios.influence, values.var() * ratios.spread(_ASSUMED_CORRELATION))
    factor = math.exp(float(t_quantile(confidence, freedom) * np.sqrt(error) / ratios.estimate))
    estimate = float(ratios.estimate)
    return Interval(estimate, estimate / factor, estimate * factor)


def correlation(labels: Labels, guesses: Labels, groups: Groups) -> float | None:
    """Of whether clips of one group are right (intraclass, by analysis of variance: Ridout 1999).

    ``None`` where that cannot be told: of few groups, or where all clips are right, or all wrong, or groups
    have one clip each.
    """
    right = (np.atleast_2d(guesses) == labels).mean(axis=0)
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    sizes = np.bincount(group)
    means = np.bincount(group, right) / sizes
    if len(sizes) < FEWEST_GROUPS or len(sizes) == len(right) or np.ptp(right) == 0:
        return None
    between = float(sizes @ (means - right.mean()) ** 2) / (len(sizes) - 1)
    within = float(((right - means[group]) ** 2).sum()) / (len(right) - len(sizes))
    clips = (len(right) - float(sizes @ sizes) / len(right)) / (len(sizes) - 1)
    return (between - within) / (between + (clips - 1) * within)


def basis(metric: str, labels: Labels, guesses: Labels, groups: Groups) -> str:
    """What a metric's intervals of these clips are for and rest on, in words."""
    row = METRICS.get(metric)
    weigh = row.ratio.weigh if row is not None and row.ratio is not None else "clips"
    sizes = np.unique(np.asarray(groups), return_counts=True)[1]
    least, most = int(sizes.min()), int(sizes.max())
    clips = f"{least} to {most}" if least < most else f"{most}"
    alike = correlation(labels, guesses, groups)
    known = "an unknown amount" if alike is None else f"{alike:.2f}"
    return (
        f"for clips of new groups, weighed by {weigh}; from {len(sizes)} groups of {clips} clips, whose "
        f"outcomes correlate inside a group by {known}"
    )


def recalled_class(metric: str) -> int | None:
    """The class of ``recall/<index>``."""
    index = metric.removeprefix("recall/")
    return int(index) if index != metric and index.isdecimal() else None


def tallied(
    metric: str, labels: Labels, guesses: Labels, groups: Groups, folds: Labels | None = None
) -> tuple[str, Tallies]:
    """The metric to compute, and of which clips: a class's recall is the accuracy on its clips."""
    guesses, names, recalled = np.atleast_2d(guesses), np.asarray(groups), recalled_class(metric)
    fold = np.zeros_like(labels) if folds is None else folds
    number = int(fold.max(initial=0)) + 1
    if recalled is not None:
        counted = labels == recalled
        labels, guesses, names, fold = labels[counted], guesses[:, counted], names[counted], fold[counted]
        metric = "accuracy"
    group = np.unique(names, return_inverse=True)[1]
    shape = (
        number,
        int(group.max(initial=-1)) + 1,
        int(max(labels.max(initial=0), guesses.max(initial=0))) + 1,
    )
    sides = (np.where(guesses == labels, labels, -1), np.broadcast_to(labels, guesses.shape), guesses)
    return metric, Tallies(*(_tally(values, fold, group, shape) for values in sides))


def _tally(values: Labels, fold: Labels, group: NDArray[np.int64], shape: tuple[int, int, int]) -> Values:
    """How often each value but -1 stands in each group, shape (repeats * folds, groups, classes)."""
    folds, groups, classes = shape
    repeats = np.arange(len(values))[:, None]
    places = ((repeats * folds + fold) * groups + group) * classes + values
    counts = np.bincount(places[values >= 0], minlength=len(values) * math.prod(shape))
    return counts.reshape(len(values) * folds, groups, classes).astype(np.float64)


def t_quantile(confidence: float, freedom: Values | int) -> Values:
    """Student's t that is exceeded either way with probability 1 - confidence."""
    found: Values = special.stdtrit(freedom, (1 + confidence) / 2)
    return found
