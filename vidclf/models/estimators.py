"""A scikit-learn estimator as a classifier of clips: features, calibrated probabilities, plain files."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import sklearn.utils
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.class_weight import compute_sample_weight

from vidclf.data.clips import ClipSet
from vidclf.exceptions import InputError
from vidclf.models.base import Probabilities, Report
from vidclf.models.feature_store import Framing, feature_matrix, seen_pixels
from vidclf.models.features import DEEP
from vidclf.models.pixels import Pixels
from vidclf.models.pose import PoseModel
from vidclf.models.preprocessing import BlockScaler, HistogramKernel, NearestNeighbours, PrincipalComponents
from vidclf.models.saved import check_archive

if TYPE_CHECKING:
    from vidclf.models.deep import DeepFeatures

ESTIMATOR = "estimator.skops"
COMMAND = "VIDCLF_COMMAND"
"""The variable that marks a process of the command line, and its workers."""
_ARGUMENTS = "classical.json"
TRUSTED_TYPES = (
    "sklearn.calibration.CalibratedClassifierCV",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.decomposition._pca.PCA",
    "sklearn.dummy.DummyClassifier",
    "sklearn.ensemble._forest.RandomForestClassifier",
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.linear_model._logistic.LogisticRegression",
    "sklearn.neighbors._classification.KNeighborsClassifier",
    "sklearn.pipeline.Pipeline",
    "sklearn.preprocessing._data.StandardScaler",
    "sklearn.preprocessing._label.LabelEncoder",
    "sklearn.svm._classes.SVC",
    "sklearn.tree._classes.DecisionTreeClassifier",
    "sklearn.tree._tree.Tree",
    "vidclf.models.preprocessing.BlockScaler",
    "vidclf.models.preprocessing.HistogramKernel",
    "vidclf.models.preprocessing.NearestNeighbours",
    "vidclf.models.preprocessing.PrincipalComponents",
)
"""Types that a saved estimator may hold, beyond numbers, texts, arrays and scikit-learn's loss functions."""

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Indices of the clips to fit on and of those to predict."""


@dataclass(eq=False)
class ClassicalClassifier:
    """A scikit-learn estimator on features.

    Unless the estimator's own probabilities are kept, they (or its scores) are
    calibrated by Platt's sigmoids on predictions for clips it was not fitted on:

    * ``groups``: folds that keep every group whole, where each class has two groups or more and such
      folds leave every class something to fit on;
    * ``clips``: else folds that may cut groups, where each class has two clips or more; confidences
      are then too high for new groups;
    * ``none``: else, or where the sigmoid of a class falls with its score (the held-out scores carry
      no information), the estimator's probabilities as they are, or the softmax of its scores.

    Attributes:
        estimator: Unfitted, with ``decision_function`` or ``predict_proba``.
        classes: All classes, sorted.
        features: Names of `FEATURES`, or ``deep``; at least one unless the estimator looks at none.
        framing: The frames and pixels that the features see.
        calibrate: Whether to calibrate; else the estimator's own probabilities are kept.
        balanced: Whether clips of rarer classes weigh more in the calibration, as they should where the
            estimator was fitted so: sigmoids of unweighted clips would undo that.
        deep: What computes the feature ``deep``, where it is among ``features``.
        estimator_: The fitted estimator; its classes are indices into the classes.
        calibration_: What the confidences rest on: ``groups``, ``clips``, ``none``, or ``own`` where the
            estimator's own probabilities are kept.
        folds_: Number of folds of the calibration, 0 without.
    """

    estimator: ClassifierMixin
    _: KW_ONLY
    classes: Sequence[str]
    features: tuple[str, ...]
    framing: Framing
    calibrate: bool = True
    balanced: bool = False
    deep: "DeepFeatures | None" = None
    estimator_: Any = field(init=False)
    calibration_: Literal["groups", "clips", "none", "own"] = field(init=False)
    folds_: int = field(init=False)

    def fit(self, train: ClipSet, val: ClipSet, report: Report, checkpoint: Path | None = None) -> None:
        """Trains on ``train``; ``val`` and ``checkpoint`` are not looked at, nothing is reported."""
        values = self._matrix(train, self.features)
        self.calibration_, self.folds_ = "own", 0
        if self.calibrate:
            self.calibration_, folds = calibration_folds(train.labels, train.groups)
            if folds:
                self.estimator_ = self._calibrated(values, train.labels, folds)
                if all(sigmoid.a_ < 0 for sigmoid in _sigmoids(self.estimator_)):
                    self.folds_ = len(folds)
                    return
            self.calibration_ = "none"
        self.estimator_ = self.estimator.fit(values, train.labels)

    def _calibrated(
        self, values: NDArray[np.float64], labels: NDArray[np.int64], folds: Sequence[Fold]
    ) -> CalibratedClassifierCV:
        calibrated = CalibratedClassifierCV(self.estimator, method="sigmoid", ensemble=False, cv=folds)
        weights = compute_sample_weight("balanced", labels) if self.balanced else None
        with warnings.catch_warnings():
            # That the weights reach the sigmoids alone is what is wanted: the estimator has its own.
            warnings.filterwarnings("ignore", message="Since Pipeline does not appear to accept")
            calibrated.fit(values, labels, sample_weight=weights)
        # Otherwise every training clip's index would be saved.
        return calibrated.set_params(cv=None)

    def predict_proba(self, clips: ClipSet) -> Probabilities:
        """Class probabilities, shape (clips, classes); a class without training clips has 0."""
        return self.probabilities(self._matrix(clips, self.features))

    def _matrix(self, clips: ClipSet, names: Sequence[str]) -> NDArray[np.float64]:
        """The named features side by side, shape (clips, values)."""
        if self.deep is None or DEEP not in names:
            return feature_matrix(clips, names, self.framing)
        return feature_matrix(clips, names, self.framing, {DEEP: self.deep.matrix(clips)})

    def probabilities(self, values: NDArray[np.float64]) -> Probabilities:
        """As `predict_proba`, of clips whose features stand side by side in ``values``, (clips, values)."""
        if hasattr(self.estimator_, "predict_proba"):
            known = self.estimator_.predict_proba(values)
        else:
            scores = self.estimator_.decision_function(values)
            # Of two classes scikit-learn gives the second's score only.
            scores = np.stack([np.zeros(len(scores)), scores], axis=1) if scores.ndim == 1 else scores
            known = softmax(scores, axis=1)
        probabilities = np.zeros((len(values), len(self.classes)))
        probabilities[:, self.estimator_.classes_] = known
        return probabilities

    @property
    def calibrated(self) -> bool:
        """Its probabilities come from training clips of other groups, or are the estimator's own."""
        return True

    @property
    def by_features(self) -> Self:
        """See `Classifier.by_features`."""
        return self

    def exportable(self, clips: ClipSet, temperature: float) -> None:
        """Features and estimators are no graph."""
        return

    def batched(self, clips: int) -> Self:
        """Clips are computed all at once."""
        return self

    def computation(self) -> Mapping[str, str]:
        """See `Classifier.computation`."""
        return {"device": "cpu", "precision": "fp64", "layout": "contiguous"}

    def blocks(self, clips: ClipSet) -> dict[str, NDArray[np.float64]]:
        """See `FeatureClassifier.blocks`."""
        return {name: self._matrix(clips, [name]) for name in self.features}

    def pixels(self, clips: ClipSet, index: int) -> Pixels:
        """See `FeatureClassifier.pixels`."""
        return seen_pixels(clips, self.features, replace(self.framing, follow=False, pose=None), index)

    def embed(self, clips: ClipSet) -> NDArray[np.float64]:
        """The features as scaled and reduced for the estimator, shape (clips, width)."""
        fitted = self.estimator_
        if isinstance(fitted, CalibratedClassifierCV):
            fitted = fitted.calibrated_classifiers_[0].estimator
        values = self._matrix(clips, self.features)
        for _, step in fitted.steps[:-1] if isinstance(fitted, Pipeline) else ():
            values = step.transform(values)
        return values

    def describe(self) -> Mapping[str, float]:
        """Sizes of the fitted model.

        Returns:
            ``size/parameters``: the numbers that predictions are computed from. They are those of scaling,
            components and sigmoids; an SVM's support vectors, their coefficients and offsets; a linear
            model's coefficients and offsets; the features, thresholds and leaves of trees; the training
            clips that neighbours and histogram kernels keep; and the network behind the feature ``deep``,
            but not those behind ``pose``, which count in the size of the files.
            Where the probabilities are not the estimator's own also ``calibration/folds`` (0: uncalibrated)
            and ``calibration/grouped`` (1: folds kept groups whole).
        """
        network = self.deep.parameters() if self.deep else 0
        sizes = {"size/parameters": float(_learned(self.estimator_) + network)}
        if self.calibration_ == "own":
            return sizes
        grouped = float(self.calibration_ == "groups")
        return {**sizes, "calibration/folds": float(self.folds_), "calibration/grouped": grouped}

    def save(self, directory: Path) -> None:
        """Writes the fitted estimator by skops, and the arguments that rebuild the classifier."""
        import_skops().dump(self.estimator_, directory / ESTIMATOR)
        if self.framing.pose:
            self.framing.pose.save(directory)
        arguments = {
            "classes": self.classes,
            "features": self.features,
            "frames": self.framing.frames,
            "size": self.framing.size,
            "resize": self.framing.resize,
            "apart": self.framing.apart,
            "pyramid": self.framing.pyramid,
            "follow": self.framing.follow,
            "mirror": self.framing.mirror,
            "pose": self.framing.pose is not None,
            "calibration": self.calibration_,
            "folds": self.folds_,
            **({DEEP: self.deep.save(directory)} if self.deep else {}),
        }
        (directory / _ARGUMENTS).write_text(json.dumps(arguments, indent=1) + "\n", encoding="utf-8")


def calibration_folds(
    labels: NDArray[np.int64], groups: Sequence[str]
) -> tuple[Literal["groups", "clips", "none"], list[Fold]]:
    """Folds to calibrate on, five at most, each with every class to fit on; see `ClassicalClassifier`."""
    present = np.unique(labels)
    group_array = np.array(groups)
    fewest_groups = min(len(np.unique(group_array[labels == label])) for label in present)
    for count in range(min(5, fewest_groups), 1, -1):
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=0)
        folds = list(splitter.split(labels, labels, group_array))
        if all(len(held_out) and np.isin(present, labels[fitted]).all() for fitted, held_out in folds):
            return "groups", folds
    fewest_clips = min(np.count_nonzero(labels == label) for label in present)
    if fewest_clips < 2:
        return "none", []
    splitter = StratifiedKFold(min(5, fewest_clips), shuffle=True, random_state=0)
    return "clips", list(splitter.split(labels, labels))


def _sigmoids(calibrated: CalibratedClassifierCV) -> list[Any]:
    return [sigmoid for member in calibrated.calibrated_classifiers_ for sigmoid in member.calibrators]


def _learned(estimator: Any) -> int:  # noqa: PLR0911  (a case for each kind)
    """How many learned numbers an estimator's predictions are computed from."""
    match estimator:
        case CalibratedClassifierCV():
            members = sum(_learned(member.estimator) for member in estimator.calibrated_classifiers_)
            return members + 2 * len(_sigmoids(estimator))
        case Pipeline():
            return sum(_learned(step) for _, step in estimator.steps)
        case StandardScaler():
            return int(estimator.mean_.size + estimator.scale_.size)
        case BlockScaler():
            return _learned(estimator.standard_) + len(estimator.weights_)
        case PrincipalComponents():
            return int(estimator.pca_.mean_.size + estimator.pca_.components_.size)
        case HistogramKernel():
            return int(estimator.clips_.size) + (estimator.kernel == "chi2")
        case SVC():
            # On a precomputed kernel it keeps no support vectors, the kernel has the clips.
            return int(
                estimator.support_vectors_.size + estimator.dual_coef_.size + estimator.intercept_.size
            )
        case LogisticRegression():
            return int(estimator.coef_.size + estimator.intercept_.size)
        case RandomForestClassifier():
            return sum(
                _tree_numbers(int(tree.tree_.n_leaves), tree.tree_.node_count, len(estimator.classes_))
                for tree in estimator.estimators_
            )
        case HistGradientBoostingClassifier():
            trees = [tree for iteration in estimator._predictors for tree in iteration]
            numbers = sum(_tree_numbers(tree.get_n_leaf_nodes(), len(tree.nodes), 1) for tree in trees)
            return numbers + int(estimator._baseline_prediction.size)
        case NearestNeighbours():
            return int(estimator.knn_.n_samples_fit_ * (estimator.knn_.n_features_in_ + 1))
        case DummyClassifier():
            return int(estimator.class_prior_.size)
    raise TypeError(f"{type(estimator).__name__} has no rule for its size")


def _tree_numbers(leaves: int, nodes: int, outputs: int) -> int:
    """Two numbers a split, its feature and threshold, and a leaf's outputs."""
    return 2 * (nodes - leaves) + outputs * leaves


def import_skops() -> Any:
    """``skops.io``, which a command imports without its search for every estimator of scikit-learn.

    skops would trust them all, and the search imports torch and pytest, which takes longer than all else that
    `vidclf predict` does. `TRUSTED_TYPES` names those that there are here. A program that imports vidclf gets
    skops as it is.
    """
    if COMMAND in os.environ:
        search = sklearn.utils.all_estimators
        sklearn.utils.all_estimators = list
        try:
            import skops.io
        finally:
            sklearn.utils.all_estimators = search
    import skops.io

    return skops.io


def load(directory: Path) -> ClassicalClassifier:
    """The classifier that was saved into ``directory``.

    Raises:
        InputError: Its files hold types that no classifier here consists of, or more than they seem to.
    """
    skops_io = import_skops()
    from skops.io.exceptions import UntrustedTypesFoundException

    arguments = json.loads((directory / _ARGUMENTS).read_text(encoding="utf-8"))
    check_archive(directory / ESTIMATOR)
    try:
        estimator = skops_io.load(directory / ESTIMATOR, trusted=list(TRUSTED_TYPES))
    except UntrustedTypesFoundException as error:
        raise InputError(f"{directory / ESTIMATOR}: not loaded, it could run foreign code: {error}") from None
    if not isinstance(estimator, ClassifierMixin | Pipeline):
        raise InputError(f"{directory / ESTIMATOR}: holds a {type(estimator).__name__}, not a classifier")
    resize = arguments["resize"]
    framing = Framing(
        arguments["frames"],
        arguments["size"],
        resize if isinstance(resize, int) else tuple(resize),
        arguments.get("apart", 0.0),
        **{name: arguments.get(name, False) for name in ("pyramid", "follow", "mirror")},
        pose=PoseModel.load(directory) if arguments.get("pose") else None,
    )
    classifier = ClassicalClassifier(
        estimator,
        classes=arguments["classes"],
        features=tuple(arguments["features"]),
        framing=framing,
        deep=_load_deep(directory, framing, **arguments[DEEP]) if DEEP in arguments else None,
    )
    classifier.estimator_ = estimator
    classifier.calibration_, classifier.folds_ = arguments["calibration"], arguments["folds"]
    return classifier


def _load_deep(directory: Path, framing: Framing, **arguments: Any) -> "DeepFeatures":
    from vidclf.models.deep import DeepFeatures  # torch takes seconds

    return DeepFeatures.load(directory, framing, **arguments)
