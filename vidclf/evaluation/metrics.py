"""Labels and probabilities to metrics: one table for every kind of model.

`METRICS` is the one place that knows a metric: its direction, whether it has a curve and an interval, and how
it is computed. Objectives, monitors, gates, rankings, intervals and pages read it.

Shapes throughout: ``labels`` (clips,) with values 0 to classes - 1;
``probabilities`` (clips, classes), rows sum to 1.

Averages over classes leave out those without a clip: what a model does on them
cannot be measured. A class that is never predicted has precision 0.

``group_weighted_…`` gives each group of clips the same weight (scikit-learn's ``sample_weight``: 1 / clips of
the group), where all else gives it to each clip: for sets where one person filmed 200 clips and another 5.

scikit-learn is imported by what computes with it: it takes a second, and every command reads the table.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Values = NDArray[np.float64]
Groups = Sequence[str] | NDArray[np.int64]
"""The group of each clip, by its name or a number."""
Direction = Literal["maximize", "minimize"]
BINS = 15
"""Bins of confidence for calibration, as in the source of `reliability`."""


class ClassScores(NamedTuple):
    """Scores of the classes that have clips, each of shape (present classes,)."""

    precision: Values
    recall: Values
    f1: Values
    support: Labels


@dataclass(frozen=True)
class Predictions:
    """What a metric is computed from.

    Attributes:
        labels: True classes, shape (clips,).
        probabilities: Shape (clips, classes).
        groups: Of each clip; ``None`` where they are not known.
    """

    labels: Labels
    probabilities: Values
    groups: Groups | None = None

    @property
    def classes(self) -> int:
        """How many there are, with and without clips."""
        return int(self.probabilities.shape[1])

    @cached_property
    def guesses(self) -> Labels:
        """Predicted classes, shape (clips,)."""
        return predicted(self.probabilities)

    @cached_property
    def present(self) -> Labels:
        """Classes that have clips, ascending."""
        return np.unique(self.labels)

    @cached_property
    def by_class(self) -> ClassScores:
        """Scores of the present classes, in their order."""
        # By hand: scikit-learn takes seconds to import, which `vidclf compare` would pay for this alone.
        right = self.labels[self.labels == self.guesses]
        support, guessed, hits = (
            np.bincount(each, minlength=self.classes)[self.present]
            for each in (self.labels, self.guesses, right)
        )
        return ClassScores(
            precision=hits / np.maximum(guessed, 1),
            recall=hits / support,
            f1=2 * hits / (support + guessed),
            support=support,
        )


@dataclass(frozen=True)
class Ratio:
    """A metric as a ratio of counts of clips, by class: what an interval is computed from.

    Attributes:
        average: ``macro``: the mean of the classes' ratios; ``micro``: one ratio of the sums over classes.
        parts: From clips that are rightly predicted as a class, that have it, and that are predicted as it
            (arrays of one shape) to numerator and denominator.
        weigh: Whether each clip counts the same, or each group, by its clips' sum.
    """

    average: Literal["macro", "micro"]
    parts: Callable[[Values, Values, Values], tuple[Values, Values]]
    weigh: Literal["clips", "groups"] = "clips"

    def weights(self, groups: Groups) -> Values:
        """Of each clip, shape (clips,); their mean is 1."""
        if self.weigh == "clips":
            return np.ones(len(groups))
        _, group, clips = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
        found: Values = len(group) / (len(clips) * clips[group])
        return found


def _recall(hits: Values, true: Values, said: Values) -> tuple[Values, Values]:
    return hits, true


def _precision(hits: Values, true: Values, said: Values) -> tuple[Values, Values]:
    return hits, said


def _f1(hits: Values, true: Values, said: Values) -> tuple[Values, Values]:
    return 2 * hits, true + said


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Attributes:
        compute: Its value; ``None`` where these clips do not define it.
        direction: Which values are better.
        curve: Whether networks report it after each epoch, as ``epoch/val/<name>``.
        ratio: How it is counted, where intervals and paired tests are known for it.
        by_clip: The values that it is the mean of, shape (clips,), where intervals are known of those.
        bounded: Whether it is at most 1.
    """

    compute: Callable[[Predictions], float | None]
    direction: Direction = "maximize"
    curve: bool = False
    ratio: Ratio | None = None
    by_clip: Callable[[Predictions], Values | None] | None = None
    bounded: bool = True

    @classmethod
    def mean(cls, by_clip: Callable[[Predictions], Values | None], **options: Any) -> "Metric":
        """The mean of a value of each clip."""

        def compute(of: Predictions) -> float | None:
            values = by_clip(of)
            return None if values is None else float(values.mean())

        return cls(compute, by_clip=by_clip, **options)


def _of_groups(ratio: Ratio) -> Metric:
    """The ratio of clips that are weighed by groups; not known where those are not."""

    def compute(of: Predictions) -> float | None:
        if of.groups is None:
            return None
        weights, right = ratio.weights(of.groups), of.labels == of.guesses
        hits, true, said = (
            np.bincount(values, each, of.classes).astype(np.float64)
            for values, each in ((of.labels, weights * right), (of.labels, weights), (of.guesses, weights))
        )
        over, under = ratio.parts(hits, true, said)
        if ratio.average == "micro":
            return float(over.sum() / under.sum())
        over, under = over[of.present], under[of.present]
        return float(np.divide(over, under, out=np.zeros_like(over), where=under > 0).mean())

    return Metric(compute, ratio=ratio)


def _accuracy(of: Predictions) -> float:
    return float((of.guesses == of.labels).mean())


def _macro(name: str, of: Predictions) -> float:
    return float(getattr(of.by_class, name).mean())


def _weighted(name: str, of: Predictions) -> float:
    return float(np.average(getattr(of.by_class, name), weights=of.by_class.support))


def _top(count: int, of: Predictions) -> Values | None:
    """Whether a clip's class is among the ``count`` most probable; ``None`` without more classes."""
    if of.classes <= count:
        return None
    best = np.argsort(of.probabilities, axis=1, kind="stable")[:, : -count - 1 : -1]
    found: Values = (best == of.labels[:, None]).any(axis=1).astype(np.float64)
    return found


def _roc_auc(of: Predictions) -> float | None:
    """As sklearn's ``roc_auc_score(…, multi_class="ovr")``, which takes 50 ms for 100 classes, by ranks.

    The area is the share of (clip of the class, other clip) pairs in the right order, which is Mann and
    Whitney's U. ``None`` where a class has no clip, or no other class has.
    """
    if len(of.present) < max(of.classes, 2):
        return None
    clips = len(of.labels)
    counts = np.bincount(of.labels)
    ranks = np.stack([_ranks(column) for column in of.probabilities.T], axis=1)[np.arange(clips), of.labels]
    sums = np.bincount(of.labels, ranks)
    areas = (sums - counts * (counts + 1) / 2) / (counts * (clips - counts))
    return float(areas.mean())


def _ranks(values: Values) -> Values:
    """Ranks from 1, the mean of theirs for equal values; `scipy.stats.rankdata` takes a second to import."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Values = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks


METRICS: dict[str, Metric] = {
    "accuracy": Metric(_accuracy, curve=True, ratio=Ratio("micro", _recall)),
    "balanced_accuracy": Metric(partial(_macro, "recall"), curve=True, ratio=Ratio("macro", _recall)),
    "macro_precision": Metric(partial(_macro, "precision"), ratio=Ratio("macro", _precision)),
    "macro_recall": Metric(partial(_macro, "recall"), ratio=Ratio("macro", _recall)),
    "macro_f1": Metric(partial(_macro, "f1"), curve=True, ratio=Ratio("macro", _f1)),
    "weighted_precision": Metric(partial(_weighted, "precision")),
    "weighted_recall": Metric(partial(_weighted, "recall"), ratio=Ratio("micro", _recall)),
    "weighted_f1": Metric(partial(_weighted, "f1")),
    "group_weighted_accuracy": _of_groups(Ratio("micro", _recall, "groups")),
    "group_weighted_balanced_accuracy": _of_groups(Ratio("macro", _recall, "groups")),
    "group_weighted_macro_f1": _of_groups(Ratio("macro", _f1, "groups")),
    "top3_accuracy": Metric.mean(partial(_top, 3)),
    "top5_accuracy": Metric.mean(partial(_top, 5)),
    "roc_auc": Metric(_roc_auc),
    "loss": Metric.mean(
        lambda of: losses(of.labels, of.probabilities), direction="minimize", curve=True, bounded=False
    ),
    "ece": Metric(lambda of: expected_calibration_error(of.labels, of.probabilities), "minimize"),
}
"""Every metric of a split by name, beside ``recall/<class>``.

All are in [0, 1] but ``loss`` (cross entropy), which is at least 0, and ln(classes) where all classes are
guessed alike. ``top3_accuracy`` and ``top5_accuracy`` are known where there are more classes, ``roc_auc``
(one class against the rest, mean over classes) where every class has clips.
"""
CURVES = tuple(name for name, metric in METRICS.items() if metric.curve)
"""Metrics that networks report after each epoch."""


def lower_is_better(metric: str) -> bool:
    """Whether the smallest value is the best: of ``val/loss``, ``latency/p50_ms``, ``val/macro_f1_std``."""
    prefix, _, name = metric.rpartition("/")
    if f"{prefix}/".endswith("recall/"):  # of a class, which may be called loss
        return False
    if prefix in {"size", "latency", "cost"} or name.endswith("_std"):
        return True
    known = METRICS.get(name)
    return known is not None and known.direction == "minimize"


def predicted(probabilities: Values) -> Labels:
    """The most probable class of each clip, the first of equals, shape (clips,)."""
    guesses: Labels = probabilities.argmax(axis=1)
    return guesses


def evaluate(
    labels: Labels, probabilities: Values, classes: Sequence[str], groups: Groups | None = None
) -> dict[str, float]:
    """All metrics of one split.

    Args:
        labels: True classes.
        probabilities: Of the classes.
        classes: Their names.
        groups: Of each clip; without them nothing is weighed by groups.

    Returns:
        Each of `METRICS` that these clips define, and ``recall/<class>`` for each class that has clips.

    Example:
        >>> evaluate(np.array([0, 1]), np.array([[0.9, 0.1], [0.6, 0.4]]), ["jump", "run"])["accuracy"]
        0.5
    """
    of = Predictions(labels, probabilities, groups)
    scores = {name: value for name, row in METRICS.items() if (value := row.compute(of)) is not None}
    for index, recall in zip(of.present, of.by_class.recall, strict=True):
        scores[f"recall/{classes[index]}"] = float(recall)
    return scores


def curve_values(labels: Labels, probabilities: Values) -> dict[str, float]:
    """The metrics of `CURVES`, which a network reports after each epoch."""
    of = Predictions(labels, probabilities)
    found = {name: METRICS[name].compute(of) for name in CURVES}
    return {name: math.nan if value is None else value for name, value in found.items()}


def losses(labels: Labels, probabilities: Values) -> Values:
    """-ln of each clip's true class's probability; finite, shape (clips,)."""
    true = probabilities[np.arange(len(labels)), labels] / probabilities.sum(axis=1)
    least = np.finfo(probabilities.dtype).eps
    found: Values = -np.log(np.clip(true, least, 1 - least))
    return found


def cross_entropy(labels: Labels, probabilities: Values) -> float:
    """Mean of -ln of the true class's probability; finite."""
    return float(losses(labels, probabilities).mean())


@dataclass(frozen=True)
class Reliability:
    """Clips by how sure a model is of them, in `BINS` equal parts of 0 to 1; a part may be empty (0).

    Attributes:
        clips: Clips in each bin, shape (bins,).
        confidence: Mean probability of their predicted classes.
        accuracy: Share of them that is right.
    """

    clips: NDArray[np.int64]
    confidence: Values
    accuracy: Values


def reliability(labels: Labels, probabilities: Values) -> Reliability:
    """Confidence against accuracy (Guo et al. 2017, arXiv:1706.04599; 15 bins, each with its upper end)."""
    sure = probabilities.max(axis=1)
    # Rounding may take a sum of probabilities, and so the largest, a hair above 1.
    place = np.minimum(np.ceil(sure * BINS).astype(np.int64) - 1, BINS - 1)
    clips = np.bincount(place, minlength=BINS)
    some = np.maximum(clips, 1)
    right = predicted(probabilities) == labels
    return Reliability(clips, np.bincount(place, sure, BINS) / some, np.bincount(place, right, BINS) / some)


def expected_calibration_error(labels: Labels, probabilities: Values) -> float:
    """Mean distance between confidence and accuracy in the bins of `reliability`, weighed by clips.

    In [0, 1]; of few clips too large, as chance alone sets the two apart.
    """
    bins = reliability(labels, probabilities)
    return float(bins.clips @ np.abs(bins.accuracy - bins.confidence) / len(labels))


def macro_f1(labels: Labels, guesses: Labels) -> float:
    """As `evaluate` has it, a hundred times as fast."""
    scores = []
    for label in np.unique(labels):
        true, said = labels == label, guesses == label
        scores.append(2 * np.count_nonzero(true & said) / (np.count_nonzero(true) + np.count_nonzero(said)))
    return float(np.mean(scores))


def confusion(labels: Labels, probabilities: Values) -> NDArray[np.int64]:
    """Clips by true class (row) and predicted class (column), shape (classes, classes)."""
    from sklearn.metrics import confusion_matrix

    counts: NDArray[np.int64] = confusion_matrix(
        labels, predicted(probabilities), labels=range(probabilities.shape[1])
    )
    return counts


def class_shares(counts: NDArray[np.int64]) -> Values:
    """Each row of a confusion matrix as shares of its true class; zeros for a class without clips."""
    shares: Values = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return shares


def report_text(labels: Labels, probabilities: Values, classes: Sequence[str]) -> str:
    """Precision, recall, F1 and number of clips of every class, as a table for people."""
    from sklearn.metrics import classification_report

    text: str = classification_report(
        labels,
        predicted(probabilities),
        labels=range(len(classes)),
        target_names=list(classes),
        digits=3,
        zero_division=0,
    )
    return text
