"""Tiny networks on moving squares."""

from typing import Any

import pytest
import torch

from vidclf import config
from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.manifest import Manifest
from vidclf.models import MODELS
from vidclf.models.classifier import NeuralClassifier
from vidclf.models.video_network import VideoNetwork
from vidclf.runs.experiment import parse_experiment

Curves = dict[int, dict[str, float]]


KINDS = {"tiny2d": "frames2d", "tiny3d": "volume3d"}


TRAIN, VAL = 6, 4
"""Clips of `squares`."""


def split(squares: Manifest, name: Any, store: bool = True) -> ClipSet:
    found = ClipSet.of_split(squares, name, ClipStore(8, 256))
    return found if store else ClipSet(found.paths, found.labels, found.groups, found.classes, found.read)


def build(squares: Manifest, network: str = "tiny3d", **keys: Any) -> NeuralClassifier:
    tree = {
        "data": {"manifest": str(squares.path), "frames": 4, "size": 32, "grid": 8},
        "model": {"kind": KINDS[network], "network": network, "weights": "none", "frozen_stages": 2},
        "train": {"epochs": 3, "batch_size": 4, "lr": 1e-2, "precision": "fp32", "views": 1},
    }
    experiment = parse_experiment(config.override(tree, keys), "test")
    made = MODELS[KINDS[network]].build(experiment.resolved(), squares.classes)
    assert isinstance(made, NeuralClassifier)
    return made


class Counted:
    """Counts the clips that go through frozen parts."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.clips = 0
        original = VideoNetwork.prefix

        def prefix(network: VideoNetwork, clips: torch.Tensor) -> torch.Tensor:
            if clips.device.type != "meta":  # shapes only, to count operations
                self.clips += len(clips)
            return original(network, clips)

        patch.setattr(VideoNetwork, "prefix", prefix)

    def since(self) -> int:
        taken, self.clips = self.clips, 0
        return taken
