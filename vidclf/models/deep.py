"""The feature ``deep``: outputs of a frozen network, pooled over space and time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors.torch
import torch

from vidclf.data.clips import ClipSet
from vidclf.models import devices
from vidclf.models.feature_store import Framing
from vidclf.models.forward import Forward
from vidclf.models.networks import save_network, saved_network, spec_of
from vidclf.models.pixels import Vector
from vidclf.models.precision import reproducible, served
from vidclf.models.train_config import Precision
from vidclf.models.video_network import VideoNetwork, weights_of
from vidclf.models.views import Views

_WEIGHTS = "network.safetensors"


@dataclass
class DeepFeatures:
    """A frozen network with all that stands between a clip and its pooled features.

    Of stored clips they are kept in the activation cache, under the keys of a neural
    classifier that trains nothing but its head.

    Attributes are those of `VideoNetwork`, `Framing`, `vidclf.models.networks.Preprocessing` and `Forward`;
    ``seed`` is that of random weights.
    """

    network: str
    weights: str
    framing: Framing
    interpolation: str
    mean: Sequence[float]
    std: Sequence[float]
    precision: Precision
    seed: int

    @cached_property
    def _forward(self) -> Forward:
        """Made when first asked for, as weights take a while to load."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            network = VideoNetwork(
                self.network,
                weights=self.weights,
                classes=1,
                dropout=0,
                frozen_stages=len(spec_of(self.network).stages),
            )
        views = Views(
            frames=self.framing.frames,
            size=self.framing.size,
            resize=self.framing.resize,
            interpolation=self.interpolation,
            eval_views=1,
            augment_seed=0,
            augment={},
            device=devices.current(),
        )
        return self._through(network, views)

    @cached_property
    def _mirrored(self) -> Forward:
        """The same network on mirror images."""
        return self._through(self._forward.network, replace(self._forward.views, mirrored=True))

    def _through(self, network: VideoNetwork, views: Views) -> Forward:
        return Forward(
            network,
            views,
            mean=self.mean,
            std=self.std,
            precision=self.precision,
            fixed_views=True,
            cache="auto",
        )

    def matrix(self, clips: ClipSet) -> Vector:
        """The pooled features of every clip, shape (clips, width)."""
        forwards = [self._forward, *([self._mirrored] if self.framing.mirror else [])]
        with reproducible(self.precision):
            views = [forward.pooled(clips).cpu().double().numpy() for forward in forwards]
        values: Vector = np.mean(views, axis=0)
        return values

    def parameters(self) -> int:
        """How many the network has, those of its head left out."""
        return sum(values.numel() for values in self._forward.network.stages.parameters())

    def save(self, directory: Path) -> dict[str, Any]:
        """Writes the weights into an existing folder; gives the arguments that `load` takes beside it."""
        safetensors.torch.save_file(weights_of(self._forward.network.stages), directory / _WEIGHTS)
        save_network(self.network, directory)
        names = ("network", "interpolation", "mean", "std", "precision")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def load(cls, directory: Path, framing: Framing, **arguments: Any) -> Self:
        """The features whose network was saved into ``directory``."""
        precision = served(arguments.pop("precision"))
        arguments["network"] = saved_network(arguments["network"], directory)
        features = cls(**arguments, precision=precision, weights="none", framing=framing, seed=0)
        features._forward.network.stages.load_state_dict(safetensors.torch.load_file(directory / _WEIGHTS))
        return features
