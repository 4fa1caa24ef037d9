"""Labels and probabilities to metrics: one evaluation for every kind of model.

Shapes throughout: ``labels`` (clips,) with values 0 to classes - 1;
``probabilities`` (clips, classes), rows sum to 1.

Averages over classes leave out those without a clip: what a model does on them
cannot be measured. A class that is never predicted has precision 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import (
    accuracy_score,
    classification_report,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from vidclf.data.remote import named

Labels = NDArray[np.int64]
BINS = 15
"""Bins of confidence for calibration, as in the source of `reliability`."""
TOPS = (3, 5)
"""How many classes a prediction may name, where there are more."""


def predicted(probabilities: NDArray[np.float64]) -> Labels:
    """The most probable class of each clip, the first of equals, shape (clips,)."""
    guesses: Labels = probabilities.argmax(axis=1)
    return guesses


def evaluate(labels: Labels, probabilities: NDArray[np.float64], classes: Sequence[str]) -> dict[str, float]:
    """All metrics of one split.

    Returns:
        ``accuracy``, ``balanced_accuracy``, ``macro_…`` and ``weighted_precision``, ``…_recall`` and
        ``…_f1``, ``top3_accuracy`` and ``top5_accuracy`` where there are more classes, ``roc_auc`` (one class
        against the rest, mean over classes) where every class has clips, and ``recall/<class>`` for each
        that has, all in [0, 1]; ``loss`` (cross entropy), finite and at least 0, where guessing evenly gives
        ln(classes); ``ece``, see `expected_calibration_error`.
    """
    guesses = predicted(probabilities)
    present = np.unique(labels)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, guesses, labels=present, zero_division=0
    )
    each = {"precision": precision, "recall": recall, "f1": f1}
    tops = [count for count in TOPS if len(classes) > count]
    every = range(len(classes))
    scores = {
        "accuracy": accuracy_score(labels, guesses),
        "balanced_accuracy": recall.mean(),
        **{f"macro_{name}": values.mean() for name, values in each.items()},
        **{f"weighted_{name}": np.average(values, weights=support) for name, values in each.items()},
        **{
            f"top{count}_accuracy": top_k_accuracy_score(labels, probabilities, k=count, labels=every)
            for count in tops
        },
        "loss": cross_entropy(labels, probabilities),
        "ece": expected_calibration_error(labels, probabilities),
        **{f"recall/{classes[index]}": value for index, value in zip(present, recall, strict=True)},
    }
    if len(present) == len(classes):
        scores["roc_auc"] = _roc_auc(labels, probabilities)
    return {name: float(value) for name, value in scores.items()}


def cross_entropy(labels: Labels, probabilities: NDArray[np.float64]) -> float:
    """Mean of -ln of the true class's probability; finite."""
    normalized = probabilities / probabilities.sum(axis=1, keepdims=True)
    return float(log_loss(labels, normalized, labels=range(probabilities.shape[1])))


def _roc_auc(labels: Labels, probabilities: NDArray[np.float64]) -> float:
    """As sklearn's ``roc_auc_score(…, multi_class="ovr")``, which takes 50 ms for 100 classes, by ranks.

    The area is the share of (clip of the class, other clip) pairs in the right order, which is Mann and
    Whitney's U; every class has clips and so have the others.
    """
    clips = len(labels)
    counts = np.bincount(labels)
    ranks = rankdata(probabilities, axis=0)[np.arange(clips), labels]
    sums = np.bincount(labels, ranks)
    areas = (sums - counts * (counts + 1) / 2) / (counts * (clips - counts))
    return float(areas.mean())


@dataclass(frozen=True)
class Reliability:
    """Clips by how sure a model is of them, in `BINS` equal parts of 0 to 1; a part may be empty (0).

    Attributes:
        clips: Clips in each bin, shape (bins,).
        confidence: Mean probability of their predicted classes.
        accuracy: Share of them that is right.
    """

    clips: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def reliability(labels: Labels, probabilities: NDArray[np.float64]) -> Reliability:
    """Confidence against accuracy (Guo et al. 2017, arXiv:1706.04599; 15 bins, each with its upper end)."""
    sure = probabilities.max(axis=1)
    # Rounding may take a sum of probabilities, and so the largest, a hair above 1.
    place = np.minimum(np.ceil(sure * BINS).astype(np.int64) - 1, BINS - 1)
    clips = np.bincount(place, minlength=BINS)
    some = np.maximum(clips, 1)
    right = predicted(probabilities) == labels
    return Reliability(clips, np.bincount(place, sure, BINS) / some, np.bincount(place, right, BINS) / some)


def expected_calibration_error(labels: Labels, probabilities: NDArray[np.float64]) -> float:
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


def confusion(labels: Labels, probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Clips by true class (row) and predicted class (column), shape (classes, classes)."""
    counts: NDArray[np.int64] = confusion_matrix(
        labels, predicted(probabilities), labels=range(probabilities.shape[1])
    )
    return counts


def class_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each row of a confusion matrix as shares of its true class; zeros for a class without clips."""
    shares: NDArray[np.float64] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return shares


def report_text(labels: Labels, probabilities: NDArray[np.float64], classes: Sequence[str]) -> str:
    """Precision, recall, F1 and number of clips of every class, as a table for people."""
    text: str = classification_report(
        labels,
        predicted(probabilities),
        labels=range(len(classes)),
        target_names=list(classes),
        digits=3,
        zero_division=0,
    )
    return text


def predictions_table(
    paths: Sequence[Path],
    labels: Labels,
    probabilities: NDArray[np.float64],
    classes: Sequence[str],
    groups: Sequence[str],
) -> pd.DataFrame:
    """One row a clip, in the order given.

    Returns:
        Columns ``clip_path``, ``group``, ``label``, ``predicted``, ``correct``, ``confidence`` (the predicted
        class's probability) and ``probability/<class>`` for every class.
    """
    names = np.array(classes)
    guesses = predicted(probabilities)
    described = {
        "clip_path": [named(path) for path in paths],
        "group": list(groups),
        "label": names[labels],
        "predicted": names[guesses],
        "correct": guesses == labels,
        "confidence": probabilities.max(axis=1),
    }
    columns = {f"probability/{name}": column for name, column in zip(classes, probabilities.T, strict=True)}
    return pd.DataFrame(described | columns)


def read_predictions(path: Path) -> pd.DataFrame:
    """A `predictions_table` from its CSV file; names stay text, also those that look like numbers or gaps."""
    texts = {"clip_path": str, "label": str, "predicted": str, "group": str}
    return pd.read_csv(path, dtype=texts, keep_default_na=False)


def wrong_clips(table: pd.DataFrame) -> pd.DataFrame:
    """The wrongly predicted rows of a `predictions_table`, the most confident first."""
    return table[~table["correct"]].sort_values("confidence", ascending=False, kind="stable")
