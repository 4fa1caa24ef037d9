"""Networks that are trained on the stand-in and on the CPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gpu.standin import gpu, log
from vidclf import config
from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.manifest import Manifest
from vidclf.models import MODELS
from vidclf.models.classifier import NeuralClassifier
from vidclf.models.networks import NETWORKS
from vidclf.runs.experiment import parse_experiment

PLAIN = {
    "flip": 0.0,
    "scale": [1.0, 1.0],
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "temporal": False,
}
Sets = tuple[ClipSet, ClipSet]
Events = Mapping[tuple[str, str, str], int]


def sets(manifest: Manifest) -> Sets:
    """The clips to train on and those to judge by."""
    store = ClipStore(16, 64)
    return ClipSet.of_split(manifest, "train", store), ClipSet.of_split(manifest, "val", store)


def build(network: str = "tiny3d", *, augment: bool = False, **keys: Any) -> NeuralClassifier:
    """An untrained network; ``keys`` are those of ``[train]``, and of others by their dotted path."""
    kind = "volume3d" if NETWORKS[network].dims == 3 else "frames2d"
    tree = {
        "data": {"manifest": "/m.csv", "frames": 8, "size": 48, "grid": 16, "store_side": 64, "resize": 48},
        "model": {"kind": kind, "network": network, "weights": "none", "dropout": 0.0},
        "augment": {} if augment else PLAIN,
        "train": {
            "epochs": 2,
            "batch_size": 4,
            "lr": 1e-3,
            "precision": "fp32",
            "warmup_epochs": 0,
            "patience": 0,
        },
    }
    dotted = {key if "." in key else f"train.{key}": value for key, value in keys.items()}
    experiment = parse_experiment(config.override(tree, dotted), "test")
    made = MODELS[kind].build(experiment, ("down", "right"))
    assert isinstance(made, NeuralClassifier)
    return made


@dataclass
class Fit:
    """What came of a fit.

    Attributes:
        curves: Of each epoch.
        shares: Class probabilities of the val clips.
        epochs: What the stand-in recorded in each epoch.
    """

    classifier: NeuralClassifier
    curves: list[Mapping[str, float]]
    shares: NDArray[np.float64]
    epochs: list[Events]

    @property
    def losses(self) -> list[float]:
        """Of each epoch, on the clips that it was trained on."""
        return [curves["epoch/train/loss"] for curves in self.curves]

    def count(self, kind: str, thread: str) -> int:
        """Events of the last epoch."""
        return sum(n for (each, by, _), n in self.epochs[-1].items() if (each, by) == (kind, thread))


def fit(clips: Sets, checkpoint: Path | None = None, **keys: Any) -> Fit:
    """Trains a network of `build`."""
    made, curves, epochs = build(**keys), list[Mapping[str, float]](), list[Events]()

    def report(step: int, values: Mapping[str, float]) -> None:
        if step > 0:
            curves.append(dict(values))
            epochs.append(dict(log.events))
        log.reset()

    made.fit(*clips, report, checkpoint)
    return Fit(made, curves, made.predict_proba(clips[1]), epochs)


def on_both(clips: Sets, tmp_path: Path, **keys: Any) -> tuple[Fit, Fit]:
    """The same fit on the stand-in and on the CPU."""
    with gpu():
        ours = fit(clips, **keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDCLF_CACHE", str(tmp_path / "of the CPU"))
        return ours, fit(clips, **keys)
