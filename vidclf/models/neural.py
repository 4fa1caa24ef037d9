"""Experiments with neural networks: their files, search ranges and builders."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from rich.filesize import decimal

from vidclf import config
from vidclf.config import Choice, Dimension, PathKey, Range, did_you_mean
from vidclf.data import cache
from vidclf.data.augmentation import AugmentConfig
from vidclf.exceptions import InputError
from vidclf.models import networks, training
from vidclf.models.base import ExperimentConfig, ModelConfig
from vidclf.models.classifier import NeuralClassifier
from vidclf.models.networks import NETWORKS, Preprocessing
from vidclf.models.training import TrainConfig
from vidclf.models.video_network import FrozenNorm, Pooling, VideoNetwork
from vidclf.models.weights import load_backbone


class NetworkConfig(ModelConfig):
    """The keys of ``[model]`` that all neural kinds share."""

    network: str
    """A key of `vidclf.models.networks.NETWORKS` of this kind."""
    weights: Annotated[str, PathKey(keywords=("pretrained", "none"))] = "pretrained"
    """``pretrained`` (torchvision's), ``none``, or a file of the torchvision network's weights."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Probability that a pooled feature is dropped in training."""
    frozen_stages: int = Field(0, ge=0)
    """How many stages of the network, from the input on, are not trained."""
    frozen_norm: FrozenNorm = "eval"
    """``train`` lets frozen batch norm drift: only to reproduce a published baseline."""
    eval_views: int = Field(1, ge=1)
    """Views of a clip, each of other frames, whose probabilities are averaged at evaluation."""

    def preprocessing(self) -> Preprocessing:
        """What the weights want."""
        return networks.preprocessing(self.network, self.weights)

    def _check_network(self, dims: Literal[2, 3]) -> None:
        known = [name for name, spec in NETWORKS.items() if spec.dims == dims]
        if self.network not in known:
            raise ValueError(
                f"network = {self.network!r} is none of {self.kind}'s: {', '.join(known)}"
                f"{did_you_mean(self.network, known)}"
            )
        try:
            self.preprocessing()
        except InputError as error:
            raise ValueError(str(error)) from None
        stages = NETWORKS[self.network].stages
        if self.frozen_stages > len(stages):
            raise ValueError(
                f"frozen_stages = {self.frozen_stages}, but {self.network} has {len(stages)} stages: "
                f"{', '.join(stages)}"
            )


class Frames2dConfig(NetworkConfig):
    """``[model]`` of a 2D network over single frames, pooled over time."""

    kind: Literal["frames2d"]
    """``frames2d``."""
    network: str = "resnet18"
    """``resnet18``, ``resnet50``, ``squeezenet1_1``, ``efficientnet_b0``, ``mobilenet_v3_small`` or
    ``tiny2d``."""
    pooling: Pooling = "avg"
    """How the features of frames become those of the clip; ``attention`` learns each frame's weight."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_network(dims=2)
        return self


class Volume3dConfig(NetworkConfig):
    """``[model]`` of a 3D network over the clip as a volume."""

    kind: Literal["volume3d"]
    """``volume3d``."""
    network: str = "r3d_18"
    """``r3d_18``, ``mc3_18``, ``r2plus1d_18``, ``s3d``, ``swin3d_t`` or ``tiny3d``."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_network(dims=3)
        return self


class NeuralExperiment(ExperimentConfig):
    """What the experiments of all neural kinds share."""

    model: NetworkConfig
    """The network."""
    augment: AugmentConfig = AugmentConfig()
    """How training views of a clip differ."""
    train: TrainConfig = TrainConfig()
    """How the network is trained."""

    @model_validator(mode="after")
    def _check_input(self) -> Self:
        data = self.data
        size, resize = self._size_and_resize()
        networks.check_input(self.model.network, data.frames, size)
        networks.check_crop(size, resize, data.store_side)
        return self

    def _size_and_resize(self) -> tuple[int, int | tuple[int, int]]:
        return self.model.preprocessing().edges(self.data.size, self.data.resize)

    def resolved(self) -> Self:
        """This config with sizes, normalisation, stop monitor and precision as they are here.

        ``data.normalize = "weights"`` stays where there are weights, as a network's
        own need not be one of the named ones.
        """
        size, resize = self._size_and_resize()
        untrained = self.model.preprocessing() == networks.UNTRAINED
        normalize = "imagenet" if untrained and self.data.normalize == "weights" else self.data.normalize
        precision = self.train.precision
        if precision == "auto":
            precision = training.auto_precision()
        data = self.data.model_copy(update={"size": size, "resize": resize, "normalize": normalize})
        stop_monitor = self.train.stop_monitor or self.train.monitor
        train = self.train.model_copy(update={"precision": precision, "stop_monitor": stop_monitor})
        return self.model_copy(update={"data": data, "train": train})

    def own_range(self, path: str) -> Dimension | None:
        if path != "model.frozen_stages":
            return None
        return Range(low=0, high=len(NETWORKS[self.model.network].stages))

    def notes(self, train: int, val: int) -> list[str]:
        """What the activation cache is going to hold of so many clips."""
        model, settings = self.model, self.train
        views = settings.views * train + model.eval_views * val
        if settings.cache == "off" or model.frozen_stages == 0 or model.frozen_norm == "train":
            return []
        needed = views * self._kept_bytes()
        room = cache.free_bytes()
        stages = list(NETWORKS[model.network].stages)[: model.frozen_stages]
        note = f"frozen {', '.join(stages)}: run once for each of {views} views and kept, {decimal(needed)}"
        if needed > room:
            note += f", of which {decimal(room)} fit (VIDCLF_CACHE_GB); the rest is computed in each epoch"
        if settings.views == 0:
            note += "; training views are new in each epoch: train.views = 4 would give four a clip to keep"
        return [note]

    def _kept_bytes(self) -> int:
        """Bytes of the frozen part's output for one view, in half precision; found without computing it."""
        resolved, model = self.resolved(), self.model
        pooling = model.pooling if isinstance(model, Frames2dConfig) else "avg"
        with torch.device("meta"):
            network = VideoNetwork(
                model.network,
                weights="none",
                classes=2,
                dropout=0,
                frozen_stages=model.frozen_stages,
                pooling=pooling,
            )
            size = resolved.data.size
            assert size is not None
            output = network.prefix(torch.empty(1, self.data.frames, 3, size, size))
        return output.numel() * torch.float16.itemsize

    def check_weights(self) -> None:
        load_backbone(self.model.network, self.model.weights)

    def shape(self) -> Mapping[str, Any]:
        flat = config.flatten(config.dump(self.resolved()))
        keys = (
            *("model.kind", "model.network", "model.eval_views", "train.precision"),
            *("data.frames", "data.size", "data.resize", "data.grid", "data.store_side"),
        )
        return {key: flat[key] for key in keys}


class Frames2dExperiment(NeuralExperiment):
    """An experiment with a 2D network over single frames."""

    model: Frames2dConfig
    """The network."""


class Volume3dExperiment(NeuralExperiment):
    """An experiment with a 3D network."""

    model: Volume3dConfig
    """The network."""


SPACE: dict[str, Dimension] = {
    "data.frames": Choice(choices=(8, 16, 32)),
    "model.dropout": Range(low=0.0, high=0.8),
    "train.lr": Range(low=1e-5, high=1e-2, log=True),
    "train.weight_decay": Range(low=1e-6, high=1e-1, log=True),
    "train.label_smoothing": Range(low=0.0, high=0.3),
    "train.backbone_lr_scale": Range(low=0.01, high=1.0, log=True),
}
"""Of every network; how many stages may be frozen is `NeuralExperiment.own_range`."""


def build(experiment: NeuralExperiment, classes: Sequence[str]) -> NeuralClassifier:
    """An untrained network, of single frames or of volumes."""
    experiment = experiment.resolved()
    model, data = experiment.model, experiment.data
    statistics = networks.statistics(data.normalize, model.preprocessing())
    return NeuralClassifier(
        classes=len(classes),
        **{"pooling": "avg", **model.model_dump(exclude={"kind"})},
        **data.model_dump(include={"frames", "size", "resize", "augment_seed"}),
        interpolation=model.preprocessing().interpolation,
        mean=statistics.mean,
        std=statistics.std,
        seed=experiment.seed,
        augment=experiment.augment.model_dump(),
        **experiment.train.model_dump(),
    )
