"""Metrics against values computed by hand."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest

from vidclf import metrics

CLASSES = ("a", "b", "c")
LABELS = np.array([0, 0, 0, 1, 1, 2])
# Predicted: a a b b b a. Precision 2/3, 2/3, 0; recall 2/3, 1, 0; F1 2/3, 4/5, 0.
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.5, 0.3, 0.2], [0.1, 0.9, 0.0], [0.2, 0.6, 0.2], [0.1, 0.7, 0.2], [0.7, 0.2, 0.1]]
)


def test_evaluate_by_hand() -> None:
    assert metrics.evaluate(LABELS, PROBABILITIES, CLASSES) == pytest.approx(
        {
            "accuracy": 4 / 6,
            "balanced_accuracy": 5 / 9,
            "macro_f1": (2 / 3 + 4 / 5) / 3,
            "weighted_f1": (3 * 2 / 3 + 2 * 4 / 5) / 6,
            "macro_precision": 4 / 9,
            "macro_recall": 5 / 9,
            "loss": -sum(map(math.log, [0.8, 0.5, 0.1, 0.6, 0.7, 0.1])) / 6,
            "recall/a": 2 / 3,
            "recall/b": 1.0,
            "recall/c": 0.0,
        }
    )


def test_absent_class_neither_warns_nor_counts() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = metrics.evaluate(LABELS[:5], PROBABILITIES[:5], CLASSES)
        metrics.report_text(LABELS[:5], PROBABILITIES[:5], CLASSES)
    assert "recall/c" not in scores
    assert scores["macro_f1"] == pytest.approx((4 / 5 + 4 / 5) / 2)
    assert scores["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)


def test_a_prediction_of_an_absent_class_is_an_error_of_the_present() -> None:
    scores = metrics.evaluate(np.array([0, 1]), np.eye(3)[[2, 1]], CLASSES)
    assert scores["macro_recall"] == pytest.approx(0.5)
    assert scores["macro_f1"] == pytest.approx(0.5)


def test_log_loss_is_finite_and_takes_single_precision() -> None:
    certain = np.array([[0.0, 1.0], [1.0, 0.0]])
    surprise = -math.log(np.finfo(np.float64).eps)
    loss = metrics.evaluate(np.array([0, 0]), certain, CLASSES[:2])["loss"]
    assert loss == pytest.approx((surprise + 0) / 2, rel=1e-3)
    rounded = np.array([[0.3, 0.3, 0.4]], dtype=np.float32).astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = metrics.evaluate(np.array([2]), rounded, CLASSES)
    assert scores["loss"] == pytest.approx(-math.log(0.4), rel=1e-6)


def test_predicted_takes_the_first_of_equals() -> None:
    assert metrics.predicted(np.array([[0.4, 0.4, 0.2], [0.1, 0.3, 0.6]])).tolist() == [0, 2]


def test_confusion_has_true_rows_and_every_class() -> None:
    assert metrics.confusion(LABELS, PROBABILITIES).tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert metrics.confusion(LABELS[:1], PROBABILITIES[:1]).shape == (3, 3)


def test_report_names_every_class() -> None:
    text = metrics.report_text(LABELS, PROBABILITIES, CLASSES)
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert rows["a"] == ["0.667", "0.667", "0.667", "3"]
    assert rows["b"] == ["0.667", "1.000", "0.800", "2"]


def test_tables_of_clips() -> None:
    paths = [Path(f"/clips/{index}.avi") for index in range(6)]
    table = metrics.predictions_table(paths, LABELS, PROBABILITIES, CLASSES)
    assert table["clip_path"].tolist() == [str(path) for path in paths]
    assert table["predicted"].tolist() == ["a", "a", "b", "b", "b", "a"]
    assert table["correct"].tolist() == [True, True, False, True, True, False]
    np.testing.assert_array_equal(table[[f"probability/{name}" for name in CLASSES]], PROBABILITIES)
    wrong = metrics.wrong_clips(table)
    assert wrong["clip_path"].tolist() == ["/clips/2.avi", "/clips/5.avi"]
    assert wrong["confidence"].tolist() == [0.9, 0.7]
