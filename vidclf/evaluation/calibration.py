"""Temperature scaling: one temperature for all logits, so that confidence matches accuracy.

A network that is right 90 % of the time tends to say so with 99 %. Dividing its logits by a temperature,
fitted on clips it was not trained on, mends most of that and changes no label (Guo et al. 2017,
arXiv:1706.04599).

Shapes throughout: ``labels`` (clips,) with values 0 to classes - 1; ``probabilities`` (clips, classes),
rows sum to 1; ``groups`` (clips,), names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vidclf.evaluation import metrics
from vidclf.evaluation.metrics import Labels, Values

BOUNDS = (0.05, 20.0)
"""Lowest and highest temperature."""
_SMALLEST = float(np.finfo(np.float64).tiny)
_MOST_FOLDS = 20


@dataclass(frozen=True)
class Calibration:
    """What a temperature does to a model.

    Attributes:
        temperature: To be applied; 1.0 where scaling does not help clips of other groups.
        crossed: Probabilities of each clip, scaled by the temperature that the other groups ask for, shape
            (clips, classes); ``None`` where there is but one group.
        effect: Metrics: ``calibration/temperature``, and, where there are several groups, log loss and
            expected calibration error before and after (of ``crossed``).
    """

    temperature: float
    crossed: Values | None
    effect: dict[str, float]


def apply_temperature(probabilities: Values, temperature: float) -> Values:
    """The probabilities with their logits divided by ``temperature``: above 1 less sure, below 1 surer."""
    if temperature == 1.0:
        return probabilities
    from scipy.special import softmax

    scaled: Values = softmax(_logits(probabilities) / temperature, axis=1)
    return scaled


def fit_temperature(labels: Labels, probabilities: Values) -> float:
    """The temperature of the lowest log loss.

    A target is not 1 but (clips + 1) / (clips + 2), the rest spread over the other classes (Platt 1999,
    "Probabilistic outputs for support vector machines"): that eight of eight are right is no proof that all
    are.

    Returns:
        Within `BOUNDS`; 1.0 without clips.
    """
    from scipy.optimize import minimize_scalar  # scipy takes half a second
    from scipy.special import log_softmax

    clips, classes = probabilities.shape
    if not clips:
        return 1.0
    logits = _logits(probabilities)
    targets = np.full((clips, classes), 1 / (clips + 2) / max(classes - 1, 1))
    targets[np.arange(clips), labels] = (clips + 1) / (clips + 2)

    def loss(log_temperature: float) -> float:
        return float(-(targets * log_softmax(logits / np.exp(log_temperature), axis=1)).sum())

    found = minimize_scalar(loss, bounds=tuple(np.log(BOUNDS)), method="bounded")
    return float(np.exp(found.x))


def calibrate(labels: Labels, probabilities: Values, groups: Sequence[str]) -> Calibration:
    """Fits a temperature, and keeps it only if it helps clips of groups it was not fitted on.

    Args:
        labels: True classes.
        probabilities: Of a model that was not trained on these clips.
        groups: Name of each clip's group; up to 20 folds of whole groups take turns in being scored.
    """
    from sklearn.model_selection import GroupKFold  # it takes a second

    folds = min(len(set(groups)), _MOST_FOLDS)
    if folds < 2:
        return Calibration(1.0, None, {"calibration/temperature": 1.0})
    crossed = np.empty_like(probabilities)
    for fitted, scored in GroupKFold(folds).split(probabilities, groups=np.asarray(groups)):
        temperature = fit_temperature(labels[fitted], probabilities[fitted])
        crossed[scored] = apply_temperature(probabilities[scored], temperature)
    before, after = (metrics.cross_entropy(labels, each) for each in (probabilities, crossed))
    temperature = fit_temperature(labels, probabilities) if after < before else 1.0
    effect = {
        "calibration/temperature": temperature,
        "calibration/loss_before": before,
        "calibration/loss_after": after,
        "calibration/ece_before": metrics.expected_calibration_error(labels, probabilities),
        "calibration/ece_after": metrics.expected_calibration_error(labels, crossed),
    }
    return Calibration(temperature, crossed, effect)


def _logits(probabilities: Values) -> Values:
    """Up to a constant of each row."""
    logits: Values = np.log(np.maximum(probabilities, _SMALLEST))
    return logits
