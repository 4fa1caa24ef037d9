"""Every kind of model under one contract, and the one format in which they are saved."""

from pathlib import Path

from vidclf.data.manifest import read_manifest
from vidclf.exceptions import InputError
from vidclf.models import classical, classifier, estimators, neural
from vidclf.models.base import Classifier, ExperimentConfig, ModelSpec
from vidclf.models.classical_config import (
    BoostingExperiment,
    ForestExperiment,
    KnnExperiment,
    LogisticExperiment,
    MajorityExperiment,
    SvmExperiment,
)
from vidclf.models.classifier import NeuralClassifier
from vidclf.models.saved import ModelMetadata, SavedModel, check_folder, read_card

__all__ = ["MODELS", "Classifier", "ModelSpec", "load_model", "untrained_model"]

_LONGEST_REASON = 300
"""Characters of a library's message that are passed on."""

MODELS: dict[str, ModelSpec] = {
    "frames2d": ModelSpec(
        neural.Frames2dExperiment, neural.build, classifier.load, neural.SPACE, NeuralClassifier.initialise
    ),
    "volume3d": ModelSpec(
        neural.Volume3dExperiment, neural.build, classifier.load, neural.SPACE, NeuralClassifier.initialise
    ),
    "svm": ModelSpec(SvmExperiment, classical.build_svm, estimators.load, classical.SVM_SPACE),
    "logistic": ModelSpec(
        LogisticExperiment, classical.build_logistic, estimators.load, classical.LOGISTIC_SPACE
    ),
    "forest": ModelSpec(ForestExperiment, classical.build_forest, estimators.load, classical.FOREST_SPACE),
    "boosting": ModelSpec(
        BoostingExperiment, classical.build_boosting, estimators.load, classical.BOOSTING_SPACE
    ),
    "knn": ModelSpec(KnnExperiment, classical.build_knn, estimators.load, classical.KNN_SPACE),
    "majority": ModelSpec(MajorityExperiment, classical.build_majority, estimators.load, {}),
}


def untrained_model(experiment: ExperimentConfig) -> SavedModel:
    """A model of random weights, as fast as a trained one.

    Args:
        experiment: Resolved, of a kind that has random weights (`ModelSpec.initialise`).
    """
    classes = read_manifest(experiment.data.manifest).classes
    spec = MODELS[experiment.kind]
    if spec.initialise is None:
        raise ValueError(f"{experiment.kind} has no random weights")
    built = spec.build(experiment, classes)
    spec.initialise(built)
    data = experiment.data
    card = ModelMetadata(experiment.kind, classes, data.grid, data.store_side, {}, trained_on=(), versions={})
    return SavedModel(card, built)


def load_model(directory: Path) -> SavedModel:
    """The model that was saved into ``directory``; nothing in it is run.

    Raises:
        InputError: The folder holds no model of a known kind, or its files are damaged or not ours.
    """
    check_folder(directory)
    card = read_card(directory)
    if card.kind not in MODELS:
        raise InputError(f"{directory}: holds a model of the unknown kind {card.kind!r}")
    try:
        return SavedModel(card, MODELS[card.kind].load(directory))
    except InputError:
        raise
    except Exception as error:  # whatever foreign content makes the libraries below raise, it is the folder's
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise InputError(f"{directory}: the saved model is damaged: {reason[:_LONGEST_REASON]}") from None
