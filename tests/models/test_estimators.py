"""The one classifier behind all classical kinds: how it calibrates, falls back and counts."""

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.classical_models import clips, experiment, fitted, silent
from tests.clips import CLASSES
from vidclf.data.clips import ClipSet
from vidclf.models import estimators
from vidclf.models.estimators import ClassicalClassifier, calibration_folds
from vidclf.models.feature_store import feature_matrix

VALUES = 136
"""Length of the feature ``difference``."""
CALIBRATED = ["svm", "forest", "boosting", "knn"]


@pytest.mark.parametrize(
    ("labels", "groups", "method", "folds"),
    [
        ([0, 0, 1, 1], ["a", "b", "a", "b"], "groups", 2),
        ([0, 0, 0, 1, 1, 1], ["a", "b", "c", "a", "b", "c"], "groups", 3),
        ([0, 0, 1, 1], ["a", "b", "c", "d"], "groups", 2),
        ([0, 0, 0, 1, 1, 1], ["a", "a", "a", "a", "a", "b"], "clips", 3),
        ([0, 0, 1], ["a", "b", "a"], "none", 0),
    ],
)
def test_calibration_folds(labels: list[int], groups: list[str], method: str, folds: int) -> None:
    found, splits = calibration_folds(np.array(labels), groups)
    assert (found, len(splits)) == (method, folds)
    for fitted_on, held_out in splits:
        assert {labels[index] for index in fitted_on} == set(labels)
        if method == "groups":
            assert not {groups[index] for index in fitted_on} & {groups[index] for index in held_out}


@pytest.mark.parametrize("kind", CALIBRATED)
@pytest.mark.parametrize(("group_size", "method", "grouped"), [(4, "groups", 1), (20, "clips", 0)])
def test_one_group_is_calibrated_over_clips(kind: str, group_size: int, method: str, grouped: int) -> None:
    classifier = fitted(kind, clips([0, 1] * 10, group_size=group_size), {})
    assert classifier.calibration_ == method
    assert classifier.describe()["calibration/folds"] == classifier.folds_ == 5
    assert classifier.describe()["calibration/grouped"] == grouped


@pytest.mark.parametrize("kind", CALIBRATED)
def test_too_few_clips_are_uncalibrated(kind: str) -> None:
    train = clips([0, 1, 0])
    classifier = fitted(kind, train, {"neighbours": 1} if kind == "knn" else {})
    assert (classifier.calibration_, classifier.folds_) == ("none", 0)
    probabilities = classifier.predict_proba(train)
    assert probabilities.sum(axis=1) == pytest.approx(1)
    if kind != "boosting":  # a split wants two clips on either side
        assert probabilities.argmax(axis=1).tolist() == [0, 1, 0]


@pytest.mark.parametrize("kind", CALIBRATED)
def test_a_falling_sigmoid_is_not_used(kind: str) -> None:
    """Two groups in which the same motion has the other name: what one teaches misleads in the other."""
    moved = clips([0, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0], group_size=6)
    misleading = ClipSet(moved.paths, np.array([0, 1] * 6), moved.groups, CLASSES, moved.read)
    classifier = fitted(kind, misleading, {})
    assert (classifier.calibration_, classifier.folds_) == ("none", 0)
    assert classifier.predict_proba(misleading).sum(axis=1) == pytest.approx(1)


def test_an_estimator_may_keep_its_own_probabilities() -> None:
    train = clips([0, 1] * 6)
    classifier = ClassicalClassifier(
        LogisticRegression(),
        classes=CLASSES,
        features=("flow",),
        framing=experiment().framing,
        calibrate=False,
    )
    classifier.fit(train, train, silent)
    assert (classifier.calibration_, classifier.folds_) == ("own", 0)
    values = feature_matrix(train, ("flow",), experiment().framing)
    np.testing.assert_array_equal(
        classifier.predict_proba(train), classifier.estimator_.predict_proba(values)
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["svm", "logistic", "boosting"])  # a weighted forest draws otherwise
@pytest.mark.slow
def test_weights_make_no_difference_where_classes_are_balanced(kind: str) -> None:
    train, unseen = clips([0, 1] * 8), clips([0, 1] * 2, seed=1)
    balanced, unweighted = (
        fitted(kind, train, {"class_weight": weight}).predict_proba(unseen) for weight in ("balanced", "none")
    )
    np.testing.assert_allclose(balanced, unweighted, rtol=1e-6)


def uncalibrated(kind: str, **values: Any) -> tuple[Any, int]:
    """The last step and the parameters of a model of three clips, too few for sigmoids."""
    classifier = fitted(kind, clips([0, 1, 0]), {"features": ["difference"], **values})
    return classifier.estimator_.steps[-1][1], int(classifier.describe()["size/parameters"])


def test_parameters_count_what_was_learned() -> None:
    scaling = 2 * VALUES
    svc, size = uncalibrated("svm")
    vectors = len(svc.support_vectors_)
    assert size == scaling + vectors * VALUES + vectors + 1

    svc, size = uncalibrated("svm", kernel="chi2", scale="none", features=["hof"])
    assert size == 3 * 432 + 1 + svc.steps[-1][1].dual_coef_.size + 1

    _, size = uncalibrated("logistic", scale="none")
    assert size == VALUES + 1
    _, size = uncalibrated("logistic", scale="block", pca=2)
    assert size == scaling + 1 + (VALUES + 2 * VALUES) + 2 + 1

    _, size = uncalibrated("knn", scale="none")
    assert size == 3 * (VALUES + 1)

    forest, size = uncalibrated("forest", trees=4)
    inner = [(tree.tree_.children_left >= 0).sum() for tree in forest.estimators_]
    assert size == scaling + sum(2 * splits + 2 * (splits + 1) for splits in inner)

    boosting, size = uncalibrated("boosting", iterations=3, leaves=2, min_leaf=1, scale="none")
    assert boosting.n_iter_ == 3
    assert size == 3 * (2 + 2) + 1  # a split, its two leaves; where all begin


def test_sigmoids_count_too() -> None:
    classifier = fitted("knn", clips([0, 1] * 4), {"features": ["difference"], "scale": "none"})
    assert classifier.describe()["size/parameters"] == 8 * (VALUES + 1) + 2


def test_an_unknown_estimator_has_no_size() -> None:
    with pytest.raises(TypeError, match="no rule"):
        estimators._learned(object())
