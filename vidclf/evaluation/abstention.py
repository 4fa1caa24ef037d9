"""Models that may say nothing: the confidence below which an answer would too often be wrong.

Shapes throughout: ``labels`` (clips,) with values 0 to classes - 1; ``probabilities`` (clips, classes), of a
model that was not trained on these clips; ``groups`` (clips,), names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidclf.evaluation import intervals
from vidclf.evaluation.metrics import Labels, Values

COVERAGE, ERROR = "abstain/coverage", "abstain/error"
"""Metrics of `Abstention`."""


@dataclass(frozen=True)
class Abstention:
    """How a model does that answers only where it is confident.

    Attributes:
        confidence: The least probability of the predicted class at which it answers.
        coverage: Share of the clips that it answers, each judged by the confidence that the other groups ask
            for; ``None`` of a single group.
        error: Share of these that it gets wrong; ``None`` where it answers none.
    """

    confidence: float
    coverage: float | None
    error: float | None

    def metrics(self) -> dict[str, float]:
        """As ``abstain/…``, those that are known."""
        values = {"abstain/confidence": self.confidence, COVERAGE: self.coverage, ERROR: self.error}
        return {name: value for name, value in values.items() if value is not None}


def least_confidence(labels: Labels, probabilities: Values, error: float) -> float | None:
    """The lowest confidence from which on, of the clips that are as confident, few enough are wrong.

    Of ``n`` answers with ``w`` wrong ones (w + 1) / (n + 1) is counted: that none of ten is wrong does not
    say that none ever is (conformal risk control counts so: Angelopoulos et al. 2022, arXiv:2208.02814).

    Args:
        labels: True classes.
        probabilities: Of the classes.
        error: Share of wrong answers that is accepted, in (0, 1).

    Returns:
        ``None`` where no confidence is enough, as with fewer than 1 / ``error`` - 1 clips.
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    ordered, wrong = confidence[order], (probabilities.argmax(axis=1) != labels)[order]
    answers = np.arange(1, len(order) + 1)
    last_of_equals = np.append(ordered[1:] < ordered[:-1], True)
    enough = last_of_equals & ((np.cumsum(wrong) + 1) / (answers + 1) <= error)
    return float(ordered[enough][-1]) if enough.any() else None


def abstention(
    labels: Labels, probabilities: Values, groups: Sequence[str], error: float
) -> Abstention | None:
    """The confidence to ask for, and what that promises on clips of new groups.

    Args:
        labels: True classes.
        probabilities: Of the classes.
        groups: Name of each clip's group; each is judged by the confidence that all others ask for.
        error: Share of wrong answers that is accepted, in (0, 1).

    Returns:
        ``None`` where no confidence is enough: there are too few clips, or the model is not good enough.
    """
    confidence = least_confidence(labels, probabilities, error)
    if confidence is None:
        return None
    names = np.asarray(groups)
    different = np.unique(names)
    if len(different) < 2:
        return Abstention(confidence, None, None)
    answered = np.zeros(len(labels), dtype=bool)
    for group in different:
        others = names != group
        asked = least_confidence(labels[others], probabilities[others], error)
        answered[~others] = asked is not None and probabilities[~others].max(axis=1) >= (asked or 0.0)
    wrong = probabilities.argmax(axis=1) != labels
    error_reached = float(wrong[answered].mean()) if answered.any() else None
    return Abstention(confidence, float(answered.mean()), error_reached)


def answered_metrics(
    labels: Labels, probabilities: Values, groups: Sequence[str], confidence: float
) -> Mapping[str, float]:
    """``coverage`` and ``answered_error`` of a model that answers from ``confidence`` on, with intervals.

    Returns:
        With ``…_low`` and ``…_high`` at 95 %, as of `intervals.interval`, where there are groups enough.
    """
    answered = probabilities.max(axis=1) >= confidence
    guesses, names = probabilities.argmax(axis=1), np.asarray(groups)
    found = {"coverage": float(answered.mean())}
    # Whether a clip is answered, as if it were whether it is right.
    all_alike = np.zeros(len(labels), dtype=np.int64)
    found |= _ends("coverage", all_alike, np.where(answered, 0, 1), names)
    if answered.any():
        found["answered_error"] = float((guesses != labels)[answered].mean())
        right = _ends("answered_error", labels[answered], guesses[answered], names[answered])
        found |= {
            f"answered_error_{end}": 1 - right[f"answered_error_{other}"]
            for end, other in (("low", "high"), ("high", "low"))
            if right
        }
    return found


def _ends(name: str, labels: Labels, guesses: Labels, groups: NDArray[np.str_]) -> dict[str, float]:
    reached = intervals.interval("accuracy", labels, guesses, list(groups))
    return {f"{name}_low": reached.low, f"{name}_high": reached.high} if reached else {}
