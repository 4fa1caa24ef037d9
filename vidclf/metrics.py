"""Labels and probabilities to metrics: one evaluation for every kind of model.

Shapes throughout: ``labels`` (clips,) with values 0 to classes - 1;
``probabilities`` (clips, classes), rows sum to 1.

Averages over classes leave out those without a clip: what a model does on them
cannot be measured. A class that is never predicted has precision 0.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    classification_report,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
)

Labels = NDArray[np.int64]


def predicted(probabilities: NDArray[np.float64]) -> Labels:
    """The most probable class of each clip, the first of equals, shape (clips,)."""
    guesses: Labels = probabilities.argmax(axis=1)
    return guesses


def evaluate(labels: Labels, probabilities: NDArray[np.float64], classes: Sequence[str]) -> dict[str, float]:
    """All metrics of one split.

    Returns:
        ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``weighted_f1``, ``macro_precision``,
        ``macro_recall`` and ``recall/<class>`` for each class that has clips, all in [0, 1];
        ``loss`` (cross entropy), finite and at least 0, where guessing evenly gives ln(classes).
    """
    guesses = predicted(probabilities)
    present = np.unique(labels)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, guesses, labels=present, zero_division=0
    )
    normalized = probabilities / probabilities.sum(axis=1, keepdims=True)
    return {
        "accuracy": float(accuracy_score(labels, guesses)),
        "balanced_accuracy": float(recall.mean()),
        "macro_f1": float(f1.mean()),
        "weighted_f1": float(np.average(f1, weights=support)),
        "macro_precision": float(precision.mean()),
        "macro_recall": float(recall.mean()),
        "loss": float(log_loss(labels, normalized, labels=range(len(classes)))),
        **{f"recall/{classes[index]}": float(value) for index, value in zip(present, recall, strict=True)},
    }


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
    paths: Sequence[Path], labels: Labels, probabilities: NDArray[np.float64], classes: Sequence[str]
) -> pd.DataFrame:
    """One row a clip, in the order given.

    Returns:
        Columns ``clip_path``, ``label``, ``predicted``, ``correct``, ``confidence`` (the predicted
        class's probability) and ``probability/<class>`` for every class.
    """
    names = np.array(classes)
    guesses = predicted(probabilities)
    described = {
        "clip_path": [str(path) for path in paths],
        "label": names[labels],
        "predicted": names[guesses],
        "correct": guesses == labels,
        "confidence": probabilities.max(axis=1),
    }
    columns = {f"probability/{name}": column for name, column in zip(classes, probabilities.T, strict=True)}
    return pd.DataFrame(described | columns)


def wrong_clips(table: pd.DataFrame) -> pd.DataFrame:
    """The wrongly predicted rows of a `predictions_table`, the most confident first."""
    return table[~table["correct"]].sort_values("confidence", ascending=False, kind="stable")
