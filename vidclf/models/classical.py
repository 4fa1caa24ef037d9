"""Builders of classical models: scikit-learn estimators behind scaling and PCA."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from vidclf.models import networks
from vidclf.models.classical_config import (
    BoostingExperiment,
    ClassicalExperiment,
    ForestExperiment,
    KnnExperiment,
    LogisticExperiment,
    MajorityExperiment,
    SvmExperiment,
    WeightedConfig,
)
from vidclf.models.estimators import ClassicalClassifier
from vidclf.models.feature_store import Framing
from vidclf.models.features import DEEP, compute_features
from vidclf.models.preprocessing import BlockScaler, HistogramKernel, NearestNeighbours, PrincipalComponents

if TYPE_CHECKING:
    from vidclf.models.deep import DeepFeatures

_DEFAULT_SIZE = networks.UNTRAINED.size
"""Pixels; a framing has a size even where no frame is looked at."""
_BINS = 32
"""Values that boosting tells apart: more take longer (4 times at 255), and sets of clips are small."""


def build_svm(experiment: SvmExperiment, classes: Sequence[str]) -> ClassicalClassifier:
    """An untrained support vector machine, its scores to be calibrated."""
    model = experiment.model
    weight = _class_weight(model)
    if model.kernel in ("chi2", "intersection"):
        svc = make_pipeline(
            HistogramKernel(model.kernel, model.gamma),
            SVC(C=model.C, kernel="precomputed", class_weight=weight),
        )
    else:
        svc = SVC(C=model.C, kernel=model.kernel, gamma=model.gamma, class_weight=weight)
    return _classifier(experiment, classes, svc)


def build_logistic(experiment: LogisticExperiment, classes: Sequence[str]) -> ClassicalClassifier:
    """An untrained logistic regression, its scores to be calibrated.

    Where values outnumber clips the classes are told apart for certain, and its own
    probabilities are far too sure of clips of new groups.
    """
    model = experiment.model
    logistic = LogisticRegression(C=model.C, class_weight=_class_weight(model), max_iter=2000)
    return _classifier(experiment, classes, logistic)


def build_forest(experiment: ForestExperiment, classes: Sequence[str]) -> ClassicalClassifier:
    """An untrained random forest, its probabilities to be calibrated: mean votes shy away from 0 and 1."""
    model = experiment.model
    forest = RandomForestClassifier(
        model.trees,
        min_samples_leaf=model.min_leaf,
        max_features=model.split_values,
        class_weight=_class_weight(model),
        random_state=experiment.seed,
        n_jobs=1,  # Other workers may use the other cores.
    )
    return _classifier(experiment, classes, forest)


def build_boosting(experiment: BoostingExperiment, classes: Sequence[str]) -> ClassicalClassifier:
    """Untrained boosted trees, their scores to be calibrated: few clips are soon told apart for certain."""
    model = experiment.model
    boosting = HistGradientBoostingClassifier(
        max_iter=model.iterations,
        learning_rate=model.learning_rate,
        max_leaf_nodes=model.leaves,
        min_samples_leaf=model.min_leaf,
        l2_regularization=model.l2,
        max_bins=_BINS,
        class_weight=_class_weight(model),
        early_stopping=False,
        random_state=experiment.seed,
    )
    return _classifier(experiment, classes, boosting)


def build_knn(experiment: KnnExperiment, classes: Sequence[str]) -> ClassicalClassifier:
    """Untrained nearest neighbours, the shares of their votes to be calibrated: they are few and coarse."""
    model = experiment.model
    knn = NearestNeighbours(model.neighbours, model.metric, model.vote)
    return _classifier(experiment, classes, knn)


def build_majority(experiment: MajorityExperiment, classes: Sequence[str]) -> ClassicalClassifier:
    """An untrained majority class; its probabilities are the training shares of the classes."""
    return ClassicalClassifier(
        DummyClassifier(strategy="prior"),
        classes=classes,
        features=(),
        framing=Framing(experiment.data.frames, _DEFAULT_SIZE, _DEFAULT_SIZE),
        calibrate=False,
    )


def _class_weight(model: WeightedConfig) -> str | None:
    return None if model.class_weight == "none" else model.class_weight


def _classifier(
    experiment: ClassicalExperiment, classes: Sequence[str], estimator: ClassifierMixin
) -> ClassicalClassifier:
    """The estimator behind the scaling and the components that the experiment names, to be calibrated."""
    model, deep = experiment.model, _deep_features(experiment)
    steps: list[Any] = []
    if model.scale == "standard":
        steps.append(StandardScaler())
    elif model.scale == "block":
        given = {DEEP: networks.spec_of(deep.network).width} if deep else {}
        steps.append(BlockScaler(block_lengths(model.features, experiment.framing, given)))
    if model.pca:
        steps.append(PrincipalComponents(model.pca))
    return ClassicalClassifier(
        make_pipeline(*steps, estimator),
        classes=classes,
        features=model.features,
        framing=experiment.with_pose(),
        balanced=isinstance(model, WeightedConfig) and model.class_weight == "balanced",
        deep=deep,
    )


def _deep_features(experiment: ClassicalExperiment) -> "DeepFeatures | None":
    """The feature ``deep``, in the precision that a neural kind would choose here."""
    deep = experiment.model.deep()
    if deep is None:
        return None
    from vidclf.models.deep import DeepFeatures  # torch takes seconds
    from vidclf.models.precision import resolved

    own = experiment.model.preprocessing()
    statistics = networks.statistics(experiment.data.normalize, own)
    return DeepFeatures(
        *deep,
        framing=experiment.framing,
        interpolation=own.interpolation,
        mean=statistics.mean,
        std=statistics.std,
        precision=resolved("auto"),
        seed=experiment.seed,
    )


def block_lengths(
    features: Sequence[str], framing: Framing, given: Mapping[str, int] | None = None
) -> list[int]:
    """Number of values of each feature on the squares of a framing, or as ``given`` by its name."""
    lengths = dict(given or {})
    blank = np.zeros((1, framing.size, framing.size, 3), dtype=np.uint8)
    names = [name for name in features if name not in lengths]
    vectors = compute_features(blank, names, pyramid=framing.pyramid)
    lengths |= {name: len(vector) for name, vector in vectors.items()}
    return [lengths[name] for name in features]
