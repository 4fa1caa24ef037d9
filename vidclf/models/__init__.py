"""Every kind of model under one contract, and the one format in which they are saved."""

import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidclf.data.manifest import read_manifest
from vidclf.exceptions import InputError
from vidclf.models import classical_config, neural_config, onnx_config
from vidclf.models.base import Classifier, ExperimentConfig, ModelSpec
from vidclf.models.saved import ModelMetadata, SavedModel, check_folder, read_card

__all__ = ["MODELS", "Classifier", "ModelSpec", "load_model", "untrained_model"]

_LONGEST_REASON = 300
"""Characters of a library's message that are passed on."""


def _lazy(place: str) -> Callable[..., Any]:
    """A function of this package that is imported when it is called: torch and scikit-learn take seconds."""

    def call(*arguments: Any) -> Any:
        return pkgutil.resolve_name(f"{__name__}.{place}")(*arguments)

    return call


_NEURAL = (
    _lazy("neural:build"),
    _lazy("classifier:load"),
    neural_config.SPACE,
    _lazy("classifier:NeuralClassifier.initialise"),
)

MODELS: dict[str, ModelSpec] = {
    "frames2d": ModelSpec(neural_config.Frames2dExperiment, *_NEURAL),
    "volume3d": ModelSpec(neural_config.Volume3dExperiment, *_NEURAL),
    "svm": ModelSpec(
        classical_config.SvmExperiment,
        _lazy("classical:build_svm"),
        _lazy("estimators:load"),
        classical_config.SVM_SPACE,
    ),
    "logistic": ModelSpec(
        classical_config.LogisticExperiment,
        _lazy("classical:build_logistic"),
        _lazy("estimators:load"),
        classical_config.LOGISTIC_SPACE,
    ),
    "forest": ModelSpec(
        classical_config.ForestExperiment,
        _lazy("classical:build_forest"),
        _lazy("estimators:load"),
        classical_config.FOREST_SPACE,
    ),
    "boosting": ModelSpec(
        classical_config.BoostingExperiment,
        _lazy("classical:build_boosting"),
        _lazy("estimators:load"),
        classical_config.BOOSTING_SPACE,
    ),
    "knn": ModelSpec(
        classical_config.KnnExperiment,
        _lazy("classical:build_knn"),
        _lazy("estimators:load"),
        classical_config.KNN_SPACE,
    ),
    "majority": ModelSpec(
        classical_config.MajorityExperiment,
        _lazy("classical:build_majority"),
        _lazy("estimators:load"),
        {},
    ),
    "onnx": ModelSpec(
        onnx_config.OnnxExperiment,
        _lazy("onnx_classifier:build"),
        _lazy("onnx_classifier:load"),
        {},
        learns=False,
        packages=("onnxruntime",),
    ),
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
