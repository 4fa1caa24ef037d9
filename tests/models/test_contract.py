"""Every kind of model answers for itself: no caller asks what it is."""

import ast
from pathlib import Path

import numpy as np
import pytest

import vidclf
from tests.clips import write_experiment
from tests.saved_models import save_parent
from vidclf.data.clips import ClipSet
from vidclf.data.manifest import Manifest
from vidclf.models import MODELS
from vidclf.models.base import Classifier, ExperimentConfig
from vidclf.runs.experiment import clip_store, divided, load_experiment

ROOT = Path(vidclf.__file__).parent


def made(kind: str, squares: Manifest, folder: Path) -> ExperimentConfig:
    if not MODELS[kind].learns:
        save_parent(folder, squares)
    path = write_experiment(folder / f"{kind}.toml", kind, Path(squares.name))
    neural = MODELS[kind].initialise is not None
    return load_experiment(path, {"train.epochs": 1, "train.batch_size": 4} if neural else {})


def fitted(experiment: ExperimentConfig, squares: Manifest) -> tuple[Classifier, ClipSet]:
    splits, store = divided(experiment, squares), clip_store(experiment)
    train, val = (ClipSet.of_entries(splits[name], squares.classes, store) for name in ("train", "val"))
    classifier = MODELS[experiment.kind].build(experiment, squares.classes)
    classifier.fit(train, val, lambda step, metrics: None)
    return classifier, val


KINDS = [pytest.param(kind, marks=() if spec.learns else pytest.mark.slow) for kind, spec in MODELS.items()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("one_thread")
def test_a_kind_says_what_can_be_made_of_it(kind: str, squares: Manifest, tmp_path: Path) -> None:
    experiment = made(kind, squares, tmp_path)
    classifier, val = fitted(experiment, squares)
    neural = MODELS[kind].initialise is not None
    by_network = neural or not MODELS[kind].learns
    expected = classifier.predict_proba(val)
    np.testing.assert_allclose(expected.sum(axis=1), 1)
    reseeded, _ = fitted(experiment.model_copy(update={"seed": 7}), squares)
    assert np.array_equal(reseeded.predict_proba(val), expected) is not experiment.seeded
    assert classifier.calibrated is not by_network
    assert {"precision", "layout"} <= classifier.computation().keys()
    alone = classifier.batched(1)
    assert type(alone) is type(classifier)
    np.testing.assert_allclose(alone.predict_proba(val), expected, atol=1e-3)

    network = classifier.exportable(val, temperature=2.0)
    assert (network is not None) is neural
    if network is not None:
        probabilities = network.graph(network.views).detach().numpy()[0]
        cooled = np.sqrt(expected[0]) / np.sqrt(expected[0]).sum()
        np.testing.assert_allclose(probabilities, cooled, atol=1e-2)

    by_features = classifier.by_features
    assert (by_features is None) is by_network
    if by_features is not None and by_features.features:
        values = np.concatenate(list(by_features.blocks(val).values()), axis=1)
        np.testing.assert_allclose(by_features.probabilities(values), expected)


@pytest.mark.slow
def test_no_caller_asks_for_a_class_of_classifier() -> None:
    sources = [path for path in ROOT.rglob("*.py") if path.parent != ROOT / "models"]
    sources.append(ROOT / "models" / "__init__.py")
    assert len(sources) > 80
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                assert "Classifier" not in ast.unparse(node), path
