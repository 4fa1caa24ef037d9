"""The neural kinds as a file describes them: their sections, experiments and search ranges."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator
from rich.filesize import decimal

from vidclf import config
from vidclf.config import Choice, Dimension, PathKey, Range, Section
from vidclf.data import cache
from vidclf.models import networks
from vidclf.models.base import ExperimentConfig, ModelConfig
from vidclf.models.networks import FrozenNorm, Pooling, Preprocessing, spec_of
from vidclf.models.train_config import TrainConfig


class NetworkConfig(ModelConfig):
    """The keys of ``[model]`` that all neural kinds share."""

    network: Annotated[str, PathKey(prefix="hf:")]
    """A key of `vidclf.models.networks.NETWORKS` of this kind, or another library's, as ``timm:NAME``."""
    weights: Annotated[str, PathKey(keywords=("pretrained", "none"))] = "pretrained"
    """``pretrained`` (those published for it), ``none``, or a file of the network's weights."""
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
        networks.check_network(self.network, self.weights, dims)
        stages = spec_of(self.network).stages
        if self.frozen_stages > len(stages):
            raise ValueError(
                f"frozen_stages = {self.frozen_stages}, but {self.network} has {len(stages)} stages: "
                f"{', '.join(stages)}"
            )


class Frames2dConfig(NetworkConfig):
    """``[model]`` of a 2D network over single frames, pooled over time."""

    kind: Literal["frames2d"]
    """``frames2d``."""
    network: Annotated[str, PathKey(prefix="hf:")] = "resnet18"
    """``resnet18``, ``resnet50``, ``squeezenet1_1``, ``efficientnet_b0``, ``mobilenet_v3_small``, ``tiny2d``,
    ``timm:NAME``, a backbone of timm, for which ``@224`` behind it sets another size, or ``hf:ORG/NAME``, an
    image encoder of the Hugging Face hub, or of a folder as ``hf:./FOLDER``."""
    pooling: Pooling = "avg"
    """How the features of frames become those of the clip; ``attention`` learns each frame's weight,
    ``gru``, ``conv`` and ``transformer`` what the frames' order says."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_network(dims=2)
        return self


class Volume3dConfig(NetworkConfig):
    """``[model]`` of a 3D network over the clip as a volume."""

    kind: Literal["volume3d"]
    """``volume3d``."""
    network: Annotated[str, PathKey(prefix="hf:")] = "r3d_18"
    """``r3d_18``, ``mc3_18``, ``r2plus1d_18``, ``s3d``, ``swin3d_t``, ``swin3d_s``, ``swin3d_b``,
    ``mvit_v1_b``, ``mvit_v2_s``, ``tiny3d``, or ``hf:ORG/NAME``, a video transformer of the Hugging Face
    hub, or of a folder as ``hf:./FOLDER``."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_network(dims=3)
        return self


class AugmentConfig(Section):
    """The ``[augment]`` section: how training views of a clip differ."""

    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    scale: Annotated[tuple[float, float], Field(strict=False)] = (0.6, 1.0)
    """Smallest and largest share of the frame's area that a crop takes."""
    brightness: float = Field(0.2, ge=0, le=1)
    """Brightness is multiplied by up to 1 +- this."""
    contrast: float = Field(0.2, ge=0, le=1)
    """Contrast is multiplied by up to 1 +- this."""
    saturation: float = Field(0.2, ge=0, le=1)
    """Saturation is multiplied by up to 1 +- this."""
    hue: float = Field(0.0, ge=0, le=0.5)
    """Hue is shifted by up to +- this share of the colour circle."""
    rotation: float = Field(0.0, ge=0, le=180)
    """Frames are rotated by up to +- this many degrees."""
    temporal: bool = True
    """Each frame is a random one of its part of the grid; off: the part's middle."""
    per_frame: bool = False
    """Draw anew for every frame, which destroys motion: only to reproduce a published baseline."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"scale = [{low}, {high}]: expected 0 < low <= high <= 1")
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
        if precision != "fp32":
            from vidclf.models.precision import resolved  # torch takes seconds

            precision = resolved(precision)
        data = self.data.model_copy(update={"size": size, "resize": resize, "normalize": normalize})
        stop_monitor = self.train.stop_monitor or self.train.monitor
        train = self.train.model_copy(update={"precision": precision, "stop_monitor": stop_monitor})
        return self.model_copy(update={"data": data, "train": train})

    def own_range(self, path: str) -> Dimension | None:
        spec = spec_of(self.model.network)
        if path == "data.frames" and spec.max_frames == spec.min_frames:
            return Choice(choices=(spec.min_frames,))
        if path != "model.frozen_stages":
            return None
        return Range(low=0, high=len(spec.stages))

    def notes(self, train: int, val: int) -> list[str]:
        """Under which licence weights stand, and what the activation cache will hold of so many clips."""
        model, settings = self.model, self.train
        notes = networks.licence_notes(model.network, model.weights)
        if settings.cache == "off" or model.frozen_stages == 0 or model.frozen_norm == "train":
            return notes
        from vidclf.models.neural import kept_bytes  # torch takes seconds

        views = settings.views * train + model.eval_views * val
        needed = views * kept_bytes(self)
        room = cache.free_bytes()
        stages = list(spec_of(model.network).stages)[: model.frozen_stages]
        note = f"frozen {', '.join(stages)}: run once for each of {views} views and kept, {decimal(needed)}"
        if needed > room:
            note += f", of which {decimal(room)} fit (VIDCLF_CACHE_GB); the rest is computed in each epoch"
        if settings.views == 0:
            note += "; training views are new in each epoch: train.views = 4 would give four a clip to keep"
        return [*notes, note]

    def check_weights(self) -> None:
        if self.model.weights != "none":
            from vidclf.models.weights import load_backbone  # torch takes seconds

            load_backbone(self.model.network, self.model.weights)

    def shape(self) -> Mapping[str, Any]:
        flat = config.flatten(config.dump(self.resolved()))
        keys = (
            *("model.kind", "model.network", "model.pooling", "model.eval_views", "train.precision"),
            *("data.frames", "data.size", "data.resize", "data.grid", "data.store_side"),
        )
        return {key: flat[key] for key in keys if key in flat}  # volumes have no pooling


class Frames2dExperiment(NeuralExperiment):
    """An experiment with a 2D network over single frames."""

    model: Frames2dConfig
    """The network."""

    def own_range(self, path: str) -> Dimension | None:
        return Choice(choices=get_args(Pooling)) if path == "model.pooling" else super().own_range(path)


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
