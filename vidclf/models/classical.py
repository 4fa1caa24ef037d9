"""Classical models: a scikit-learn estimator on hand-made features, and the majority class as floor."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import skops.io
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from scipy.special import softmax
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from skops.io.exceptions import UntrustedTypesFoundException

from vidclf.config import Choice, Dimension, InputError, Range, did_you_mean
from vidclf.data.clips import ClipSet
from vidclf.models.base import ExperimentConfig, ModelConfig, Probabilities, Report
from vidclf.models.features import FEATURES, Framing, feature_matrix

DEFAULT_SIZE = 112
"""Edge of the square that features see, in pixels, where the config names none."""

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Indices of the clips to fit on and of those to predict."""


class SvmConfig(ModelConfig):
    """A support vector machine on standardised features."""

    kind: Literal["svm"]
    """Which kind of model."""
    features: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = ("hog", "flow")
    """Which features, side by side: ``hog``, ``flow``, ``difference``."""
    C: float = Field(1.0, gt=0)
    """Cost of a training clip on the wrong side of the margin."""
    kernel: Literal["linear", "rbf"] = "linear"
    """Similarity of two clips."""
    gamma: float | Literal["scale"] = "scale"
    """Inverse width of the rbf kernel, ``scale``: 1 / number of values; the linear kernel has none."""
    class_weight: Literal["balanced", "none"] = "balanced"
    """Whether clips of rarer classes weigh more."""

    @field_validator("gamma", mode="before")
    @classmethod
    def _positive(cls, gamma: Any) -> Any:
        if gamma != "scale" and not (isinstance(gamma, int | float) and gamma > 0):
            raise ValueError("should be a number above 0, or 'scale'")
        return gamma

    @field_validator("features")
    @classmethod
    def _known(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        for name in features:
            if name not in FEATURES:
                raise ValueError(
                    f"{name!r} is none of {', '.join(FEATURES)}{did_you_mean(name, list(FEATURES))}"
                )
        if len(set(features)) < len(features):
            raise ValueError("names repeat")
        return features


class SvmExperiment(ExperimentConfig):
    """An experiment with a support vector machine; ``data.normalize`` has no effect on it."""

    model: SvmConfig
    """The support vector machine and its features."""

    @property
    def framing(self) -> Framing:
        """The frames and pixels that the features see."""
        size = self.data.size or DEFAULT_SIZE
        return Framing(self.data.frames, size, self.data.resize or size)

    @model_validator(mode="after")
    def _check(self) -> Self:
        size, resize = self.framing.size, self.framing.resize
        if size > self.data.store_side:
            raise ValueError(f"data.size = {size} is larger than data.store_side = {self.data.store_side}")
        if size > np.min(resize):
            raise ValueError(f"data.size = {size} is larger than data.resize = {resize}")
        return self

    def resolved(self) -> Self:
        framing = self.framing
        data = self.data.model_copy(update={"size": framing.size, "resize": framing.resize})
        return self.model_copy(update={"data": data})

    def shape(self) -> Mapping[str, Any]:
        return {
            "model.kind": self.kind,
            "model.features": self.model.features,
            "data.frames": self.data.frames,
            "data.size": self.framing.size,
            "data.resize": self.framing.resize,
            "data.grid": self.data.grid,
            "data.store_side": self.data.store_side,
        }


class MajorityConfig(ModelConfig):
    """The most frequent class of the training clips; it looks at no frame."""

    kind: Literal["majority"]
    """Which kind of model."""


class MajorityExperiment(ExperimentConfig):
    """The floor of every comparison; of ``[data]`` only the manifest has an effect."""

    model: MajorityConfig
    """The majority class."""


SVM_SPACE: dict[str, Dimension] = {
    "model.C": Range(low=1e-2, high=1e2, log=True),
    "model.kernel": Choice(choices=("linear", "rbf")),
    "model.gamma": Range(low=1e-4, high=1.0, log=True, when={"model.kernel": "rbf"}),
}


class ClassicalClassifier:
    """A scikit-learn estimator on features.

    An estimator without probabilities of its own is calibrated (Platt's
    sigmoid) on predictions for clips it was not fitted on:

    * ``groups``: folds that keep every group whole, where each class has two groups or more and such
      folds leave every class something to fit on;
    * ``clips``: else folds that may cut groups, where each class has two clips or more; confidences
      are then too high for new groups;
    * ``none``: else, or where the sigmoid of a class falls with its score (the held-out scores carry
      no information), the softmax of the scores.

    Attributes:
        estimator_: The fitted estimator; its classes are indices into the classes.
        calibration_: What the confidences rest on: ``groups``, ``clips``, ``none``, or ``own`` for an
            estimator with probabilities of its own.
        folds_: Number of folds of the calibration, 0 without.
    """

    def __init__(
        self,
        estimator: ClassifierMixin,
        *,
        classes: Sequence[str],
        features: Sequence[str],
        framing: Framing,
        seed: int,
    ) -> None:
        """An untrained classifier.

        Args:
            estimator: Unfitted, with ``decision_function`` or ``predict_proba``.
            classes: All classes, sorted.
            features: Names of `FEATURES`, at least one unless the estimator looks at none.
            framing: The frames and pixels that the features see.
            seed: Of the folds of the calibration.
        """
        self._estimator = estimator
        self._classes = tuple(classes)
        self._features = tuple(features)
        self._framing = framing
        self._seed = seed

    def fit(self, train: ClipSet, val: ClipSet, report: Report, checkpoint: Path | None = None) -> None:
        """Trains on ``train``; ``val`` and ``checkpoint`` are not looked at, nothing is reported."""
        values = feature_matrix(train, self._features, self._framing)
        self.folds_ = 0
        if hasattr(self._estimator, "predict_proba"):
            self.calibration_ = "own"
            self.estimator_ = self._estimator.fit(values, train.labels)
            return
        self.calibration_, folds = calibration_folds(train.labels, train.groups, self._seed)
        if folds:
            calibrated = CalibratedClassifierCV(self._estimator, method="sigmoid", ensemble=False, cv=folds)
            calibrated.fit(values, train.labels)
            # Otherwise every training clip's index would be saved.
            self.estimator_ = calibrated.set_params(cv=None)
            if all(sigmoid.a_ < 0 for sigmoid in _sigmoids(calibrated)):
                self.folds_ = len(folds)
                return
        self.calibration_ = "none"
        self.estimator_ = self._estimator.fit(values, train.labels)

    def predict_proba(self, clips: ClipSet) -> Probabilities:
        """Class probabilities, shape (clips, classes); a class without training clips has 0."""
        values = feature_matrix(clips, self._features, self._framing)
        if self.calibration_ == "none":
            scores = self.estimator_.decision_function(values)
            # Of two classes scikit-learn gives the second's score only.
            scores = np.stack([np.zeros(len(scores)), scores], axis=1) if scores.ndim == 1 else scores
            known = softmax(scores, axis=1)
        else:
            known = self.estimator_.predict_proba(values)
        probabilities = np.zeros((len(clips), len(self._classes)))
        probabilities[:, self.estimator_.classes_] = known
        return probabilities

    def describe(self) -> Mapping[str, float]:
        """Sizes of the fitted model.

        Returns:
            ``size/parameters``: learned numbers, for an SVM its support vectors, their coefficients, the
            offsets, the scaling and the sigmoids. Where the probabilities are not the estimator's own also
            ``calibration/folds`` (0: uncalibrated) and ``calibration/grouped`` (1: folds kept groups whole).
        """
        sizes = {"size/parameters": float(sum(array.size for array in _learned(self.estimator_)))}
        if self.calibration_ == "own":
            return sizes
        grouped = float(self.calibration_ == "groups")
        return {**sizes, "calibration/folds": float(self.folds_), "calibration/grouped": grouped}

    def save(self, directory: Path) -> None:
        skops.io.dump(self.estimator_, directory / ESTIMATOR)
        arguments = {
            "classes": self._classes,
            "features": self._features,
            "frames": self._framing.frames,
            "size": self._framing.size,
            "resize": self._framing.resize,
            "seed": self._seed,
            "calibration": self.calibration_,
            "folds": self.folds_,
        }
        (directory / ARGUMENTS).write_text(json.dumps(arguments, indent=1) + "\n", encoding="utf-8")


def calibration_folds(
    labels: NDArray[np.int64], groups: Sequence[str], seed: int
) -> tuple[Literal["groups", "clips", "none"], list[Fold]]:
    """Folds to calibrate on, five at most, each with every class to fit on; see `ClassicalClassifier`."""
    present = np.unique(labels)
    group_array = np.array(groups)
    fewest_groups = min(len(np.unique(group_array[labels == label])) for label in present)
    for count in range(min(5, fewest_groups), 1, -1):
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        folds = list(splitter.split(labels, labels, group_array))
        if all(len(held_out) and np.isin(present, labels[fitted]).all() for fitted, held_out in folds):
            return "groups", folds
    fewest_clips = min(np.count_nonzero(labels == label) for label in present)
    if fewest_clips < 2:
        return "none", []
    splitter = StratifiedKFold(min(5, fewest_clips), shuffle=True, random_state=seed)
    return "clips", list(splitter.split(labels, labels))


def _sigmoids(calibrated: CalibratedClassifierCV) -> list[Any]:
    return [sigmoid for member in calibrated.calibrated_classifiers_ for sigmoid in member.calibrators]


def _learned(estimator: Any) -> Iterator[NDArray[np.float64]]:
    """The arrays that an estimator's predictions are computed from."""
    match estimator:
        case CalibratedClassifierCV():
            for sigmoid in _sigmoids(estimator):
                yield np.array([sigmoid.a_, sigmoid.b_])
            for member in estimator.calibrated_classifiers_:
                yield from _learned(member.estimator)
        case Pipeline():
            for _, step in estimator.steps:
                yield from _learned(step)
        case StandardScaler():
            yield from (estimator.mean_, estimator.scale_)
        case SVC():
            yield from (estimator.support_vectors_, estimator.dual_coef_, estimator.intercept_)
        case DummyClassifier():
            yield estimator.class_prior_


ESTIMATOR = "estimator.skops"
ARGUMENTS = "classical.json"
TRUSTED_TYPES = ("sklearn.calibration._CalibratedClassifier", "sklearn.calibration._SigmoidCalibration")
"""Types beyond skops' own defaults that a saved estimator may hold."""


def build_svm(experiment: SvmExperiment, classes: Sequence[str]) -> ClassicalClassifier:
    """An untrained support vector machine."""
    model = experiment.model
    svc = SVC(
        C=model.C,
        kernel=model.kernel,
        gamma=model.gamma,
        class_weight=None if model.class_weight == "none" else model.class_weight,
    )
    return ClassicalClassifier(
        make_pipeline(StandardScaler(), svc),
        classes=classes,
        features=model.features,
        framing=experiment.framing,
        seed=experiment.seed,
    )


def build_majority(experiment: MajorityExperiment, classes: Sequence[str]) -> ClassicalClassifier:
    """An untrained majority class; its probabilities are the training shares of the classes."""
    framing = Framing(experiment.data.frames, DEFAULT_SIZE, DEFAULT_SIZE)
    return ClassicalClassifier(
        DummyClassifier(strategy="prior"), classes=classes, features=(), framing=framing, seed=experiment.seed
    )


def load(directory: Path) -> ClassicalClassifier:
    """The classifier that was saved into ``directory``.

    Raises:
        InputError: Its files hold types that no classifier here consists of.
    """
    arguments = json.loads((directory / ARGUMENTS).read_text(encoding="utf-8"))
    try:
        estimator = skops.io.load(directory / ESTIMATOR, trusted=list(TRUSTED_TYPES))
    except UntrustedTypesFoundException as error:
        raise InputError(f"{directory / ESTIMATOR}: not loaded, it could run foreign code: {error}") from None
    resize = arguments["resize"]
    classifier = ClassicalClassifier(
        estimator,
        classes=arguments["classes"],
        features=arguments["features"],
        framing=Framing(
            arguments["frames"], arguments["size"], resize if isinstance(resize, int) else tuple(resize)
        ),
        seed=arguments["seed"],
    )
    classifier.estimator_ = estimator
    classifier.calibration_, classifier.folds_ = arguments["calibration"], arguments["folds"]
    return classifier
