"""The shipped experiment files: each trains, and the published baselines are as they were published."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clips import CLASSES, write_experiment, write_squares
from tests.rounds import rounds
from vidclf import config
from vidclf.data.clips import ClipSet
from vidclf.data.manifest import read_manifest
from vidclf.evaluation import metrics
from vidclf.models import MODELS
from vidclf.runs.experiment import ExperimentConfig, clip_store, load_experiment, run_experiment
from vidclf.runs.folder import Attempt, Identity

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
NAMES = sorted(
    path.relative_to(EXPERIMENTS).with_suffix("").as_posix() for path in EXPERIMENTS.rglob("*.toml")
)
CLASSICAL = [f"ucf101-3/{kind}-as-published" for kind in ("boosting", "forest", "knn", "logistic", "svm")]
PUBLISHED = sorted(
    ["ucf101-3/2d-as-published", "ucf101-3/3d-as-published", *CLASSICAL, "workout22/r3d18-layer3"]
)
ALIKE = {
    *("gestures3/r3d18-head", "ucf101-3/2d", "ucf101-3/3d", "ucf101-3/svm", "ucf101-3/squeezenet"),
    *(f"ucf101-3/{kind}" for kind in ("boosting", "forest", "knn", "logistic")),
    *CLASSICAL,
}
"""They train what another file does too."""
UCF101_3 = ("PullUps", "Punch", "PushUps")


def load(name: str, overrides: Mapping[str, Any] | None = None) -> ExperimentConfig:
    return load_experiment(EXPERIMENTS / f"{name}.toml", overrides)


def resolved(name: str) -> dict[str, Any]:
    """The file's values by dotted path, as a run would have them."""
    return config.flatten(config.dump(load(name).resolved()))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), groups=4)


@pytest.fixture(scope="module")
def measured(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the metrics that a finished run has, latency aside."""
    folder = tmp_path_factory.mktemp("run")
    attempt = Attempt(folder / "attempt")
    attempt.create(Identity("id", "experiment", "run", None, 0))
    experiment = load_experiment(
        write_experiment(folder / "x.toml", "frames2d", manifest, train="epochs = 1")
    )
    return set(run_experiment(experiment, attempt, lambda step, values: None).metrics)


def test_every_file_is_found() -> None:
    assert len(NAMES) >= 11
    assert {*PUBLISHED, "ucf101-3/2d", "ucf101-3/3d"} <= set(NAMES)
    assert set(NAMES) >= ALIKE
    assert [name for name in NAMES if load(name).published] == PUBLISHED


@pytest.mark.slow
@pytest.mark.parametrize("name", rounds([name for name in NAMES if name not in ALIKE], NAMES))
def test_every_file_trains_a_step(name: str, manifest: Path) -> None:
    """One clip, one epoch, random weights; all else is the file's, in brief with fewer frames and pixels."""
    experiment = load(name)
    overrides: dict[str, Any] = {"data.manifest": str(manifest)}
    neural = "train" in type(experiment).model_fields
    if config.lookup(config.dump(experiment), "model.network"):
        overrides["model.weights"] = "none"
    if neural:
        data = experiment.resolved().data  # without weights, other sizes would be the default
        overrides |= {
            "train.epochs": 1,
            "data.frames": min(data.frames, rounds(8, data.frames)),
            "data.size": min(data.size, rounds(112, data.size)),
            "data.resize": data.resize,
        }
    experiment = load(name, overrides)
    store, classes = clip_store(experiment), (*CLASSES, "up")  # three, as the published parameters count
    entries = read_manifest(manifest).split("train")
    train = ClipSet.of_entries(entries[:1] if neural else entries, classes, store)
    classifier = MODELS[experiment.kind].build(experiment, classes)
    reported: dict[str, float] = {}
    classifier.fit(
        train, ClipSet.of_entries([], classes, store), lambda step, values: reported.update(values)
    )

    held_out = ClipSet.of_entries(read_manifest(manifest).split("val")[:1], classes, store)
    probabilities = classifier.predict_proba(held_out)
    assert probabilities.shape == (1, 3)
    assert probabilities.sum() == pytest.approx(1)
    if neural:
        assert np.isfinite(reported["epoch/train/loss"])
    published = experiment.published.metrics if experiment.published else {}
    for key in {"size/parameters", "size/trainable_parameters"} & published.keys():
        assert reported[key] == published[key]
    if neural and "size/file_mb" in published:
        assert reported["size/file_mb"] == pytest.approx(published["size/file_mb"], rel=2e-3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures_go_by_the_names_of_our_own(name: str, measured: set[str]) -> None:
    published = load(name).published
    assert published is not None
    assert published.source
    scores = metrics.evaluate(np.arange(3), np.eye(3), UCF101_3)
    known = {f"{split}/{score}" for split in ("val", "test") for score in scores}
    known |= {key for key in measured if key.startswith(("size/", "cost/"))}
    assert published.metrics.keys() <= known


BASELINE_A: dict[str, Any] = {
    "data.size": 224,
    "data.resize": 256,
    "data.normalize": "imagenet",
    "augment.flip": 0.5,
    "augment.scale": [0.08, 1.0],
    "augment.brightness": 0.3,
    "augment.contrast": 0.3,
    "augment.saturation": 0.3,
    "augment.hue": 0.0,
    "augment.rotation": 10.0,
    "augment.per_frame": True,
    "model.dropout": 0.5,
    "train.epochs": 12,
    "train.optimizer": "adam",
    "train.lr": 1e-4,
    "train.weight_decay": 1e-4,
    "train.backbone_lr_scale": 1.0,
    "train.schedule": "step",
    "train.step_size": 5,
    "train.gamma": 0.5,
    "train.warmup_epochs": 0,
    "train.clip_grad": 0.0,
    "train.label_smoothing": 0.9,
    "train.balance": "none",
    "train.monitor": "val/accuracy",
    "train.stop_monitor": "val/loss",
    "train.min_delta": 0.0,
    "train.min_epochs": 1,
    "train.views": 0,
    "train.precision": "fp32",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "ucf101-3/2d-as-published": BASELINE_A
    | {
        "model.kind": "frames2d",
        "model.network": "resnet18",
        "model.weights": "pretrained",
        "model.pooling": "avg",
        "model.frozen_stages": 0,
        "data.frames": 20,
        "train.batch_size": 4,
        "train.patience": 3,
    },
    "ucf101-3/3d-as-published": BASELINE_A
    | {
        "model.kind": "volume3d",
        "model.network": "r3d_18",
        "model.weights": "pretrained",
        "model.frozen_stages": 5,
        "model.frozen_norm": "train",
        "data.frames": 16,
        "train.batch_size": 2,
        "train.patience": 4,
    },
    "workout22/r3d18-layer3": {
        "model.kind": "volume3d",
        "model.network": "r3d_18",
        "model.weights": "pretrained",
        "model.frozen_stages": 3,
        "data.frames": 64,
        "data.size": 112,
        "data.normalize": "weights",
        "augment.flip": 0.5,
        "augment.rotation": 0.0,
        "augment.per_frame": False,
        "train.optimizer": "adam",
        "train.balance": "both",
        "train.stop_monitor": "val/loss",
        "train.patience": 3,
        "train.min_delta": 0.01,
        "train.min_epochs": 5,
    },
}


FEATURES = "color+moments+glcm+lbp+gabor+edges+hog+change"
SETTINGS |= {
    f"ucf101-3/{kind}-as-published": {"model.kind": kind, "model.features": FEATURES, "data.frames": 30}
    | keys
    for kind, keys in {
        "svm": {"model.kernel": "rbf", "model.C": 10.0, "model.gamma": "scale", "model.scale": "standard"},
        "forest": {"model.pca": 0.95, "model.trees": 100, "model.min_leaf": 2, "model.scale": "none"},
        "knn": {"model.pca": 10, "model.neighbours": 11, "model.vote": "uniform"},
        "logistic": {"model.pca": 8, "model.C": 0.001},
        "boosting": {"model.iterations": 80, "model.learning_rate": 0.05, "model.leaves": 4},
    }.items()
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_baseline_has_the_settings_of_its_source(name: str) -> None:
    values = resolved(name)
    assert {key: values[key] for key in SETTINGS[name]} == SETTINGS[name]


def test_a_published_baseline_has_the_figures_of_its_source() -> None:
    flat, volume, workout = (resolved(name) for name in PUBLISHED if name not in CLASSICAL)
    prefix = "published.metrics."
    assert flat[f"{prefix}test/accuracy"] == pytest.approx(43 / 46, abs=5e-5)
    assert flat[f"{prefix}val/accuracy"] == pytest.approx(42 / 45, abs=5e-5)
    assert flat[f"{prefix}test/macro_f1"] == 0.94
    assert flat[f"{prefix}cost/fit_seconds"] == 1823
    assert volume[f"{prefix}test/accuracy"] == pytest.approx(27 / 46, abs=5e-5)
    assert volume[f"{prefix}val/accuracy"] == pytest.approx(29 / 45, abs=5e-5)
    assert volume[f"{prefix}test/macro_f1"] == 0.46
    assert volume[f"{prefix}test/recall/PullUps"] == 0
    assert volume[f"{prefix}cost/fit_seconds"] == 1177
    assert (workout[f"{prefix}val/accuracy"], workout[f"{prefix}test/accuracy"]) == (0.9694, 0.9489)


@pytest.mark.parametrize(
    ("kind", "val", "test"),
    [("svm", 41, 42), ("forest", 40, 44), ("knn", 32, 39), ("logistic", 33, 32), ("boosting", 41, 45)],
)
def test_a_published_classical_model_has_the_figures_of_its_source(kind: str, val: int, test: int) -> None:
    values = resolved(f"ucf101-3/{kind}-as-published")
    assert values["published.metrics.val/accuracy"] == pytest.approx(val / 45, abs=5e-5)
    assert values["published.metrics.test/accuracy"] == pytest.approx(test / 46, abs=5e-5)


@pytest.mark.parametrize(("name", "size"), [("ucf101-3/2d", 224), ("ucf101-3/3d", 112)])
def test_the_mended_baselines_share_the_network_but_not_the_mistakes(name: str, size: int) -> None:
    values, published = resolved(name), resolved(f"{name}-as-published")
    for key in ("data.manifest", "data.frames", "model.kind", "model.network", "model.weights"):
        assert values[key] == published[key]
    assert (values["data.size"], values["data.normalize"]) == (size, "weights")
    assert not values["augment.per_frame"]
    assert (values["model.frozen_norm"], values["train.label_smoothing"] <= 0.1) == ("eval", True)
    assert (values["train.optimizer"], values["train.schedule"]) == ("adamw", "cosine")
    assert values["train.warmup_epochs"] >= 1
    assert values["model.frozen_stages"] > 0
    assert values["train.views"] > 0  # what the frozen stages give can be kept
