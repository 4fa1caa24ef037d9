"""Classical models: they learn motion, say how they were calibrated, and load nothing foreign."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from vidclf import config
from vidclf.config import InputError
from vidclf.data.clips import ClipSet
from vidclf.data.video import Frames
from vidclf.models import classical
from vidclf.models.classical import ClassicalClassifier, MajorityExperiment, SvmExperiment, calibration_folds

CLASSES = ("left", "right")


def experiment(**values: Any) -> SvmExperiment:
    base = {"data": {"manifest": "/m.csv", "frames": 6, "size": 32}, "model": {"kind": "svm"}}
    dotted = {key.replace("__", "."): value for key, value in values.items()}
    return config.validate(SvmExperiment, config.override(base, dotted), "test")


def square_clip(label: int, seed: int) -> Frames:
    """A square that moves right, or the same played backwards: single frames tell nothing."""
    generator = np.random.default_rng(seed)
    frames = np.full((6, 32, 32, 3), 30, dtype=np.uint8)
    left, top = generator.integers(1, 8), generator.integers(1, 20)
    texture = generator.integers(120, 255, (10, 10, 1), dtype=np.uint8)
    for time in range(6):
        frames[time, top : top + 10, left + 2 * time : left + 2 * time + 10] = texture
    return frames if label else frames[::-1]


def clips(count: int, first: int = 0, group_size: int = 2, classes: tuple[str, ...] = CLASSES) -> ClipSet:
    labels = np.arange(count, dtype=np.int64) % 2
    paths = tuple(Path(f"{first + index}") for index in range(count))
    read: Callable[[Path], Frames] = lambda path: square_clip(int(str(path)) % 2, int(str(path)))  # noqa: E731
    return ClipSet(paths, labels, tuple(f"g{index // group_size}" for index in range(count)), classes, read)


def silent(step: int, values: Any) -> None:
    raise AssertionError("nothing is known before training")


def fitted(train: ClipSet, **values: Any) -> ClassicalClassifier:
    classifier = classical.build_svm(experiment(**values), train.classes)
    classifier.fit(train, train, silent)
    return classifier


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_svm_learns_the_direction_of_motion(kernel: str) -> None:
    classifier = fitted(clips(40), model__features=["flow"], model__kernel=kernel)
    unseen = clips(20, first=1000)
    probabilities = classifier.predict_proba(unseen)
    assert (probabilities.argmax(axis=1) == unseen.labels).mean() >= 0.9
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert classifier.calibration_ == "groups"
    assert classifier.describe()["calibration/folds"] == classifier.folds_ == 5
    assert classifier.describe()["calibration/grouped"] == 1


def test_fit_is_deterministic() -> None:
    first, second = (fitted(clips(20)).predict_proba(clips(4, 100)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


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
    found, splits = calibration_folds(np.array(labels), groups, seed=0)
    assert (found, len(splits)) == (method, folds)
    for fitted_on, held_out in splits:
        assert {labels[index] for index in fitted_on} == set(labels)
        if method == "groups":
            assert not {groups[index] for index in fitted_on} & {groups[index] for index in held_out}


def test_one_group_is_calibrated_over_clips() -> None:
    classifier = fitted(clips(20, group_size=20), model__features=["flow"])
    assert classifier.calibration_ == "clips"
    assert classifier.describe()["calibration/grouped"] == 0


@pytest.mark.parametrize("classes", [CLASSES, ("left", "right", "up")])
def test_too_few_clips_are_uncalibrated(classes: tuple[str, ...]) -> None:
    classifier = fitted(clips(3, classes=classes), model__features=["flow"])
    assert classifier.calibration_ == "none"
    assert classifier.describe()["calibration/folds"] == 0
    probabilities = classifier.predict_proba(clips(6, 50, classes=classes))
    assert probabilities.shape == (6, len(classes))
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert not probabilities[:, 2:].any()
    own = classifier.predict_proba(clips(3, classes=classes))
    assert own.argmax(axis=1).tolist() == [0, 1, 0]


def test_a_falling_sigmoid_is_not_used() -> None:
    train = clips(8, group_size=8)
    misleading = ClipSet(
        train.paths,
        train.labels,
        tuple(f"g{index // 4}" for index in range(8)),
        CLASSES,
        lambda path: square_clip((int(str(path)) + int(str(path)) // 4) % 2, int(str(path))),
    )
    classifier = fitted(misleading, model__features=["flow"])
    assert (classifier.calibration_, classifier.folds_) == ("none", 0)


@pytest.mark.parametrize("count", [20, 3])
def test_a_loaded_svm_predicts_the_same(count: int, tmp_path: Path) -> None:
    classifier = fitted(clips(count), data__resize=[40, 48])
    classifier.save(tmp_path)
    loaded = classical.load(tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(clips(6, 70)), classifier.predict_proba(clips(6, 70)))
    assert loaded.describe() == classifier.describe()
    assert {path.name for path in tmp_path.iterdir()} == {"classical.json", "estimator.skops"}


def test_the_allow_list_is_exactly_what_is_needed(tmp_path: Path) -> None:
    fitted(clips(20)).save(tmp_path)
    needed = skops.io.get_untrusted_types(file=tmp_path / classical.ESTIMATOR)
    assert sorted(needed) == sorted(classical.TRUSTED_TYPES)


def test_an_unlisted_type_is_refused(tmp_path: Path) -> None:
    fitted(clips(20)).save(tmp_path)
    skops.io.dump(FunctionTransformer(func=print), tmp_path / classical.ESTIMATOR)
    with pytest.raises(InputError, match="foreign code"):
        classical.load(tmp_path)


def test_parameters_count_what_was_learned() -> None:
    classifier = fitted(clips(3), model__features=["difference"])
    svc = classifier.estimator_.named_steps["svc"]
    values, vectors = 136, len(svc.support_vectors_)
    assert classifier.describe()["size/parameters"] == 2 * values + vectors * values + vectors + 1


def test_majority_gives_the_training_shares(tmp_path: Path) -> None:
    base = {"data": {"manifest": "/m.csv"}, "model": {"kind": "majority"}}
    floor = classical.build_majority(config.validate(MajorityExperiment, base, "test"), ("a", "b", "c"))

    def unread(path: Path) -> Frames:
        raise AssertionError("the majority class looks at no frame")

    labels = np.array([0, 0, 0, 2])
    paths = tuple(Path(f"{index}") for index in range(4))
    train = ClipSet(paths, labels, ("g",) * 4, ("a", "b", "c"), unread)
    floor.fit(train, train, silent)
    floor.save(tmp_path)
    for classifier in (floor, classical.load(tmp_path)):
        assert classifier.predict_proba(train).tolist() == [[0.75, 0, 0.25]] * 4
        assert classifier.describe() == {"size/parameters": 2}


def test_an_estimator_with_probabilities_keeps_its_own() -> None:
    train = clips(12)
    classifier = ClassicalClassifier(
        LogisticRegression(),
        classes=CLASSES,
        features=("flow",),
        framing=experiment().framing,
        seed=0,
    )
    classifier.fit(train, train, silent)
    assert (classifier.calibration_, classifier.folds_) == ("own", 0)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.features", ["hogg"], "did you mean hog?"),
        ("model.features", ["hog", "hog"], "repeat"),
        ("model.features", [], "at least 1"),
        ("model.gamma", 0, "a number above 0, or 'scale'"),
        ("model.gamma", "auto", "a number above 0, or 'scale'"),
        ("model.C", 0, "greater than 0"),
        ("model.kernel", "poly", "'linear' or 'rbf'"),
        ("model.class_weight", "heavy", "'balanced' or 'none'"),
        ("data.resize", 24, "data.size = 32 is larger than data.resize = 24"),
        ("data.store_side", 16, "data.store_side = 16"),
    ],
)
def test_bad_values_are_named(key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as refused:
        experiment(**{key: value})
    assert len(refused.value.problems) == 1
    assert message in str(refused.value)


def test_resolved_and_shape() -> None:
    unset = config.validate(SvmExperiment, {"data": {"manifest": "/m"}, "model": {"kind": "svm"}}, "test")
    resolved = unset.resolved()
    assert (resolved.data.size, resolved.data.resize) == (112, 112)
    assert resolved.resolved() == resolved
    assert config.validate(SvmExperiment, config.dump(resolved), "test") == resolved
    assert resolved.shape() == unset.shape()
    assert experiment(model__C=3.0).shape() == experiment().shape()
    assert experiment(data__frames=3).shape() != experiment().shape()


def test_every_range_of_the_space_is_a_key_that_takes_its_ends() -> None:
    fields = config.schema_fields(SvmExperiment)
    assert set(classical.SVM_SPACE) == {"model.C", "model.gamma", "model.kernel"}
    for key, dimension in classical.SVM_SPACE.items():
        assert key in fields
        ends = dimension.choices if isinstance(dimension, config.Choice) else (dimension.low, dimension.high)
        for value in ends:
            experiment(**{key: value})
