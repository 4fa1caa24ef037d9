"""The feature ``deep``: what a frozen network pools, shared with classifiers that train a head only."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torchvision import models

from tests.classical_models import clips, silent
from tests.neural_models import TRAIN, VAL, Counted, split
from vidclf import config
from vidclf.data import cache
from vidclf.data.augmentation import eval_view
from vidclf.data.clips import ClipSet
from vidclf.data.manifest import Manifest, content_digest
from vidclf.data.pictures import rgb_of
from vidclf.exceptions import InputError
from vidclf.models import MODELS, classical, feature_store, precision
from vidclf.models.estimators import ClassicalClassifier
from vidclf.models.feature_store import feature_matrix
from vidclf.models.features import DEEP, FEATURES
from vidclf.models.networks import KINETICS, NETWORKS
from vidclf.runs.experiment import parse_experiment, portable

pytestmark = pytest.mark.usefixtures("one_thread")


def experiment(**values: Any) -> Any:
    """With the feature ``deep`` of ``tiny3d``, unless told otherwise."""
    model = {"kind": "svm", "features": "deep", "network": "tiny3d", "weights": "none"}
    base = {"data": {"manifest": "/m.csv", "frames": 4, "size": 32, "grid": 8}, "model": model}
    return parse_experiment(config.override(base, values), "test")


def fitted(train: ClipSet, **values: Any) -> ClassicalClassifier:
    described = experiment(**values)
    classifier: Any = MODELS[described.kind].build(described, train.classes)
    classifier.fit(train, train, silent)
    return classifier  # type: ignore[no-any-return]


def matrix(shown: ClipSet, **values: Any) -> np.ndarray:
    features = classical._deep_features(experiment(**values))
    assert features is not None
    return features.matrix(shown)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@pytest.fixture
def squeezenet(tmp_path: Path) -> tuple[models.SqueezeNet, Path]:
    """torchvision's network, and a file of its weights."""
    network = models.squeezenet1_1().eval()
    safetensors.torch.save_file(network.state_dict(), tmp_path / "own.safetensors")
    return network, tmp_path / "own.safetensors"


@pytest.mark.parametrize("normalize", ["weights", "kinetics"])
def test_values_are_those_of_torchvisions_network(
    squeezenet: tuple[models.SqueezeNet, Path], normalize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "is_native", lambda half: False)
    network, path = squeezenet
    shown = clips([0, 1, 0])
    keys = {"model.network": "squeezenet1_1", "model.weights": str(path), "data.normalize": normalize}
    found = matrix(shown, **keys)
    assert (found.shape, found.dtype) == ((3, 512), np.dtype(np.float64))
    own = NETWORKS["squeezenet1_1"].preprocessing
    statistics = own if normalize == "weights" else KINETICS
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (statistics.mean, statistics.std))
    for index, values in enumerate(found):
        view = eval_view(shown.grid(index), 4, 32, round(32 * 256 / 224), interpolation=own.interpolation)
        with torch.no_grad():
            maps = network.features((view / 255 - mean) / std)
        np.testing.assert_allclose(values, maps.mean(dim=(0, 2, 3)).numpy(), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "kind", "features", "least"),
    [
        *(("tiny3d", kind, "deep", 0.9) for kind in ("svm", "logistic", "knn")),
        *(
            pytest.param("tiny3d", kind, "deep", 0.9, marks=pytest.mark.slow)
            for kind in ("forest", "boosting")
        ),
        ("tiny2d", "svm", "deep", 0.8),  # the mean of frames holds no order of theirs
        ("tiny2d", "svm", "flow+deep+difference", 0.9),
    ],
)
def test_random_networks_learn_motion_and_load_as_they_were_saved(
    network: str, kind: str, features: str, least: float, tmp_path: Path
) -> None:
    keys = {"model.network": network, "model.kind": kind, "model.features": features, "model.scale": "block"}
    classifier = fitted(clips([0, 1] * 20), **keys)
    unseen = clips([0, 1] * 10, seed=1)
    probabilities = classifier.predict_proba(unseen)
    assert (probabilities.argmax(axis=1) == unseen.labels).mean() >= least

    classifier.save(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"classical.json", "estimator.skops", "network.safetensors"}
    loaded = MODELS[kind].load(tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(unseen), probabilities)
    assert loaded.describe() == classifier.describe()


def test_a_saved_model_needs_no_file_of_weights(
    squeezenet: tuple[models.SqueezeNet, Path], tmp_path: Path
) -> None:
    network, path = squeezenet
    keys = {"model.network": "squeezenet1_1", "model.weights": str(path), "model.kind": "knn"}
    classifier = fitted(clips([0, 1] * 2), **keys, **{"model.scale": "none"})
    (tmp_path / "model").mkdir()
    classifier.save(tmp_path / "model")
    path.unlink()
    loaded = MODELS["knn"].load(tmp_path / "model")
    unseen = clips([0, 1], seed=1)
    np.testing.assert_array_equal(loaded.predict_proba(unseen), classifier.predict_proba(unseen))
    backbone = sum(values.numel() for values in network.features.parameters())
    sigmoids = 2 * (classifier.folds_ > 0)
    assert loaded.describe()["size/parameters"] == backbone + 4 * (512 + 1) + sigmoids
    assert (tmp_path / "model/network.safetensors").stat().st_size > 4 * backbone


def test_blocks_stand_in_the_order_of_the_names_and_know_their_lengths() -> None:
    names = ("difference", "deep", "color")
    shown = clips([0, 1])
    keys = {"model.features": "+".join(names), "model.scale": "block"}
    classifier = fitted(shown, **keys)
    blocks = classifier.blocks(shown)
    assert tuple(blocks) == names
    np.testing.assert_array_equal(blocks["deep"], matrix(shown))
    np.testing.assert_array_equal(blocks["color"], feature_matrix(shown, ["color"], experiment().framing))
    scaler = classifier.estimator.steps[0][1]
    assert scaler.lengths == [block.shape[1] for block in blocks.values()]
    np.testing.assert_array_equal(
        classifier._matrix(shown, names), np.concatenate(list(blocks.values()), axis=1)
    )


@pytest.mark.parametrize("network", ["tiny2d", "tiny3d"])
def test_what_a_head_only_classifier_kept_is_found(network: str, squares: Manifest, counted: Counted) -> None:
    shared = {"data.manifest": str(squares.path), "model.network": network, "seed": 3}
    train, val = split(squares, "train"), split(squares, "val")
    features = matrix(train, **shared)
    assert counted.since() == TRAIN
    np.testing.assert_array_equal(matrix(train, **shared), features)
    assert counted.since() == 0

    head = parse_experiment(
        config.override(
            {
                "data": {"frames": 4, "size": 32, "grid": 8},
                "model": {"kind": f"{'frames' if network == 'tiny2d' else 'volume'}{network[-2:]}"},
            },
            {
                **shared,
                "model.weights": "none",
                "model.frozen_stages": 3,
                "train.epochs": 1,
                "train.views": 1,
            },
        ),
        "test",
    )
    neural: Any = MODELS[head.kind].build(head.resolved(), squares.classes)
    neural.fit(train, val, lambda step, values: None)
    assert counted.since() == TRAIN + VAL, "training views are augmented"
    entries = cache.usage().entries["activations"]
    matrix(val, **shared)
    neural.predict_proba(train)
    assert counted.since() == 0
    assert cache.usage().entries["activations"] == entries == 2 * TRAIN + VAL
    np.testing.assert_array_equal(neural.embed(train), features)


def test_clips_without_a_store_are_computed_each_time_to_the_same_bits(
    squares: Manifest, counted: Counted
) -> None:
    kept, plain = split(squares, "val"), split(squares, "val", store=False)
    expected = matrix(kept)
    counted.since()
    features = classical._deep_features(experiment())
    assert features is not None
    for _ in range(2):
        np.testing.assert_array_equal(features.matrix(plain), expected)
    assert counted.since() == 2 * VAL


@pytest.mark.parametrize("network", ["tiny2d", "tiny3d"])
def test_mirrored_features_are_the_mean_of_both_images(
    network: str, squares: Manifest, counted: Counted
) -> None:
    keys = {"model.network": network}
    kept = split(squares, "val")
    turned = replace(kept, read=lambda path: rgb_of(kept.read(path))[:][:, :, ::-1], store=None)
    plain, image = matrix(kept, **keys), matrix(turned, **keys)
    assert not np.array_equal(plain, image)
    counted.since()
    both = matrix(kept, **keys, **{"model.mirror": True})
    np.testing.assert_array_equal(both, (plain + image) / 2)
    assert counted.since() == VAL, "the clips themselves were kept"
    np.testing.assert_array_equal(matrix(kept, **keys, **{"model.mirror": True}), both)
    assert counted.since() == 0


def test_random_weights_are_the_seeds(counted: Counted) -> None:
    shown = clips([0])
    state = torch.get_rng_state()
    first, again, other = (matrix(shown, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_sizes_are_the_weights_own_unless_named() -> None:
    keys: dict[str, Any] = {"model.network": "r3d_18", "model.weights": "pretrained"}
    resolved = experiment(**keys, **{"data.size": None}).resolved()
    assert (resolved.data.size, resolved.data.resize) == (112, (128, 171))
    assert resolved.resolved() == resolved == parse_experiment(config.dump(resolved), "again")
    named = experiment(**keys, **{"data.size": 56}).resolved()
    assert (named.data.size, named.data.resize) == (56, (64, 86))
    assert experiment(**{"model.network": "resnet18", "data.size": None}).framing.size == 112


def test_shape_and_what_decides_a_result(squeezenet: tuple[models.SqueezeNet, Path]) -> None:
    assert experiment().shape() != experiment(**{"model.network": "tiny2d"}).shape()
    assert experiment().shape() == experiment(**{"model.C": 3.0}).shape()
    keys = {"model.network": "squeezenet1_1", "model.weights": str(squeezenet[1])}
    assert portable(experiment(**keys))["model.weights"] == f"sha256 {content_digest(squeezenet[1])}"
    unset = {"model.features": "hog", "model.network": None, "model.weights": None, "model.kind": "knn"}
    assert "model.weights" not in portable(experiment(**unset))


def test_weights_are_loaded_before_a_run(tmp_path: Path, squeezenet: tuple[models.SqueezeNet, Path]) -> None:
    experiment().check_weights()
    with pytest.raises(InputError, match="no such file"):
        experiment(**{"model.weights": str(tmp_path / "none.pth")}).check_weights()
    with pytest.raises(InputError, match="does not fit"):
        experiment(**{"model.weights": str(squeezenet[1])}).check_weights()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model.network": "tiny4d"}, "did you mean tiny"),
        ({"model.weights": "pretrained"}, 'tiny3d has no pretrained weights: set model.weights = "none"'),
        ({"model.weights": None}, 'tiny3d has no pretrained weights: set model.weights = "none"'),
        ({"model.network": None}, f"the feature deep needs model.network: one of {', '.join(NETWORKS)}"),
        ({"model.features": "hog"}, "model.network and model.weights: no effect without the feature deep"),
        ({"data.frames": 1}, "data.frames = 1: tiny3d takes no fewer than 2"),
        ({"model.network": "resnet18"}, "data.size = 32: resnet18 takes no less than 33 pixels"),
        ({"model.kernel": "chi2", "model.scale": "none"}, "take deep out of model.features"),
    ],
)
def test_bad_values_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        experiment(**keys)
    assert len(refused.value.problems) == 1
    assert message in str(refused.value)


def test_warming_leaves_networks_to_those_who_train(
    squares: Manifest, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "_MEMO", {})
    done: list[int] = []
    experiment(**{"model.features": "deep+difference"}).warm(split(squares, "val"), lambda: done.append(1))
    assert len(done) == VAL
    assert cache.usage().entries["features"] == VAL
    experiment().warm(split(squares, "val"), lambda: done.append(1))
    assert (len(done), counted.since()) == (VAL, 0)
    assert DEEP not in FEATURES
