"""Metrics against values computed by hand."""

import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

import vidclf
from vidclf.evaluation import metrics
from vidclf.evaluation.predictions import predictions_table, read_predictions, write_predictions

CLASSES = ("a", "b", "c")
LABELS = np.array([0, 0, 0, 1, 1, 2])
# Predicted: a a b b b a. Precision 2/3, 2/3, 0; recall 2/3, 1, 0; F1 2/3, 4/5, 0.
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.5, 0.3, 0.2], [0.1, 0.9, 0.0], [0.2, 0.6, 0.2], [0.1, 0.7, 0.2], [0.7, 0.2, 0.1]]
)


def test_evaluate_by_hand() -> None:
    with warnings.catch_warnings():  # c is never predicted
        warnings.simplefilter("error")
        scores = metrics.evaluate(LABELS, PROBABILITIES, CLASSES)
    assert scores == pytest.approx(
        {
            "accuracy": 4 / 6,
            "balanced_accuracy": 5 / 9,
            "macro_f1": (2 / 3 + 4 / 5) / 3,
            "macro_precision": 4 / 9,
            "macro_recall": 5 / 9,
            "weighted_precision": (3 * 2 / 3 + 2 * 2 / 3) / 6,
            "weighted_recall": 4 / 6,
            "weighted_f1": (3 * 2 / 3 + 2 * 4 / 5) / 6,
            # Confidence and accuracy of the bins: 0.8 right; 0.5 right; 0.9 wrong; 0.6 right; 0.7 both.
            "ece": (0.2 + 0.5 + 0.9 + 0.4 + 2 * 0.2) / 6,
            # Pairs in the right order, ties as half: a 5.5 of 9, b 6 of 8, c 1.5 of 5.
            "roc_auc": ((3 + 2 + 0.5) / 9 + 6 / 8 + 1.5 / 5) / 3,
            "loss": -sum(map(math.log, [0.8, 0.5, 0.1, 0.6, 0.7, 0.1])) / 6,
            "recall/a": 2 / 3,
            "recall/b": 1.0,
            "recall/c": 0.0,
        }
    )


@pytest.mark.parametrize("number", [2, 4, 7])
def test_areas_and_tops_are_those_of_sklearn(number: int) -> None:
    generator = np.random.default_rng(number)
    labels = np.arange(60) % number
    probabilities = generator.dirichlet(np.ones(number), 60).round(2) + np.eye(number)[labels] * 0.3
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    scores = metrics.evaluate(labels, probabilities, [str(index) for index in range(number)])
    areas = [roc_auc_score(labels == index, probabilities[:, index]) for index in range(number)]
    assert scores["roc_auc"] == pytest.approx(np.mean(areas))
    ranks = (probabilities > probabilities[np.arange(60), labels][:, None]).sum(axis=1)
    tops = {f"top{count}_accuracy": (ranks < count).mean() for count in (3, 5) if number > count}
    assert {name: value for name, value in scores.items() if name.startswith("top")} == pytest.approx(tops)


def test_tops_know_the_classes_without_a_clip() -> None:
    shares = np.array([[0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    scores = metrics.evaluate(np.array([2, 3, 3]), shares, list("abcd"))
    assert scores["top3_accuracy"] == pytest.approx(2 / 3)


def test_areas_need_clips_of_every_class() -> None:
    assert "roc_auc" not in metrics.evaluate(LABELS[:5], PROBABILITIES[:5], CLASSES)
    assert "roc_auc" not in metrics.evaluate(np.zeros(3, np.int64), PROBABILITIES[:3, :2], CLASSES[:2])


def test_reliability_by_hand() -> None:
    # In fifteenths: 0.4 is the upper end of the 6th bin, 0.41 in the 7th, 1.0 in the last.
    sure = np.array([0.4, 0.41, 1.0, 1.0])
    probabilities = np.stack([sure, (1 - sure) / 2, (1 - sure) / 2], axis=1)
    bins = metrics.reliability(np.array([0, 1, 0, 2]), probabilities)
    assert bins.clips.nonzero()[0].tolist() == [5, 6, 14]
    assert bins.clips.sum() == 4
    np.testing.assert_allclose(bins.confidence[[5, 6, 14]], [0.4, 0.41, 1.0])
    np.testing.assert_allclose(bins.accuracy[[5, 6, 14]], [1.0, 0.0, 0.5])
    error = metrics.expected_calibration_error(np.array([0, 1, 0, 2]), probabilities)
    assert error == pytest.approx((0.6 + 0.41 + 2 * 0.5) / 4)


def test_the_first_and_the_last_bin_take_what_is_theirs() -> None:
    even = np.full((2, 20), 1 / 20)
    assert metrics.reliability(np.array([0, 1]), even).clips.tolist() == [2] + [0] * 14
    rounded = np.array([[1 + 2**-40, 0.0]])
    assert metrics.reliability(np.array([0]), rounded).clips.tolist() == [0] * 14 + [1]


def test_every_metric_is_computed_where_all_classes_have_clips() -> None:
    scores = metrics.evaluate(np.arange(6), np.eye(6), list("abcdef"), list("uvwxyz"))
    assert set(metrics.METRICS) == {name for name in scores if not name.startswith("recall/")}
    wrong = np.eye(6)[[1, 2, 3, 4, 5, 0]]
    worst = metrics.evaluate(np.arange(6), wrong, list("abcdef"), list("uvwxyz"))
    for name, row in metrics.METRICS.items():
        better = scores[name] < worst[name] if row.direction == "minimize" else scores[name] > worst[name]
        assert better, name


def test_curves_are_the_values_of_evaluate() -> None:
    scores = metrics.evaluate(LABELS, PROBABILITIES, CLASSES)
    assert metrics.curve_values(LABELS, PROBABILITIES) == {name: scores[name] for name in metrics.CURVES}
    assert {"loss", "macro_f1"} <= set(metrics.CURVES)


def test_a_ratio_is_its_metric() -> None:
    hits, true, said = np.array([2.0, 2.0, 0.0]), np.array([3.0, 2.0, 1.0]), np.array([3.0, 3.0, 0.0])
    scores = metrics.evaluate(LABELS, PROBABILITIES, CLASSES, range(6))  # of groups of one clip
    rows = {name: row.ratio for name, row in metrics.METRICS.items() if row.ratio is not None}
    assert len(rows) > 3
    for name, ratio in rows.items():
        over, under = ratio.parts(hits, true, said)
        averages = {"micro": over.sum() / under.sum(), "macro": (over / np.maximum(under, 1)).mean()}
        assert scores[name] == pytest.approx(averages[ratio.average]), name


def test_groups_weigh_the_same_as_by_sample_weights() -> None:
    generator = np.random.default_rng(0)
    labels, guesses = generator.integers(0, 3, (2, 60))
    labels[:5], guesses[guesses == 2] = 2, 0  # c is never said
    groups = np.repeat(list("uvwx"), [40, 12, 5, 3])
    scores = metrics.evaluate(labels, np.eye(4)[guesses], list("abcd"), groups.tolist())
    weights = np.repeat([1 / 40, 1 / 12, 1 / 5, 1 / 3], [40, 12, 5, 3])
    wanted = {
        "accuracy": accuracy_score(labels, guesses, sample_weight=weights),
        "balanced_accuracy": balanced_accuracy_score(labels, guesses, sample_weight=weights),
        "macro_f1": f1_score(labels, guesses, sample_weight=weights, average="macro"),
    }
    assert {name: scores[f"group_weighted_{name}"] for name in wanted} == pytest.approx(wanted)
    assert wanted["accuracy"] == pytest.approx(
        np.mean([(labels == guesses)[groups == group].mean() for group in "uvwx"])
    )
    assert abs(wanted["accuracy"] - scores["accuracy"]) > 0.02
    assert not any(name.startswith("group") for name in metrics.evaluate(labels, np.eye(3)[guesses], "abc"))


def test_metrics_stand_in_the_table_alone() -> None:
    """Nothing else lists metrics: a row is all that a new one needs."""
    usual = {"accuracy", "macro_f1", "loss"}  # defaults and headings name them
    root = Path(vidclf.__file__).parent
    sources = [path for path in root.rglob("*.py") if path != root / "evaluation" / "metrics.py"]
    assert len(sources) > 100
    for name in metrics.METRICS.keys() - usual:
        quoted = re.compile(rf"""["'](\w+/)*{name}["']""")
        assert [path.name for path in sources if quoted.search(path.read_text(encoding="utf-8"))] == [], name


def test_the_quick_f1_is_that_of_evaluate() -> None:
    assert metrics.macro_f1(LABELS, metrics.predicted(PROBABILITIES)) == pytest.approx((2 / 3 + 4 / 5) / 3)
    # A class without a clip is left out, and a guess of it is an error of the present.
    assert metrics.macro_f1(np.array([0, 1, 1]), np.array([2, 1, 1])) == pytest.approx((0 + 1) / 2)


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
    assert rows["c"] == ["0.000", "0.000", "0.000", "1"]


def test_tables_of_clips(tmp_path: Path) -> None:
    paths = [Path(f"/clips/{index}.avi") for index in range(6)]
    table = predictions_table(paths, LABELS, PROBABILITIES, CLASSES, list("uvwxyz"))
    assert table["group"].tolist() == list("uvwxyz")
    assert table["clip_path"].tolist() == [str(path) for path in paths]
    assert table["predicted"].tolist() == ["a", "a", "b", "b", "b", "a"]
    assert table["correct"].tolist() == [True, True, False, True, True, False]
    np.testing.assert_array_equal(table[[f"probability/{name}" for name in CLASSES]], PROBABILITIES)
    write_predictions(table, tmp_path)
    wrong = read_predictions(tmp_path / "wrong_clips.csv")
    assert wrong["clip_path"].tolist() == ["/clips/2.avi", "/clips/5.avi"]
    assert wrong["confidence"].tolist() == [0.9, 0.7]


def test_equally_sure_errors_keep_their_order(tmp_path: Path) -> None:
    paths = [Path(f"/{index:03}.avi") for index in range(200)]
    shares = np.tile([[0.9, 0.1], [0.7, 0.3]], (100, 1))
    table = predictions_table(paths, np.ones(200, np.int64), shares, ["a", "b"], ["g"] * 200)
    wanted = [str(path) for path in [*paths[::2], *paths[1::2]]]
    write_predictions(table, tmp_path)
    assert read_predictions(tmp_path / "wrong_clips.csv")["clip_path"].tolist() == wanted


def test_a_table_wants_a_name_for_every_probability() -> None:
    with pytest.raises(ValueError, match="longer"):
        predictions_table([Path("/a.avi")], np.array([0]), np.array([[0.5, 0.5]]), ["a"], ["g"])


@pytest.mark.parametrize("names", [["007", "1e3"], ["None", "NA"], ["", "nan"]])
def test_predictions_keep_names_that_look_like_numbers_or_gaps(tmp_path: Path, names: list[str]) -> None:
    paths = [Path(name) for name in ("01", "2")]
    shares = np.array([[0.9, 0.1], [0.2, 0.8]])
    table = predictions_table(paths, np.array([0, 1]), shares, names, names)
    table.to_csv(tmp_path / "predictions.csv", index=False)
    read = read_predictions(tmp_path / "predictions.csv")
    assert read["clip_path"].tolist() == ["01", "2"]
    assert all(read[name].tolist() == names for name in ("label", "predicted", "group"))
    assert read["correct"].tolist() == [True, True]
    assert read[f"probability/{names[1]}"].tolist() == [0.1, 0.8]
