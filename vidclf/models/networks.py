"""Neural networks as named stages and a head, with torchvision's weights where it has some."""

import contextlib
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import (
    ResNet18_Weights,
    SqueezeNet1_1_Weights,
    WeightsEnum,
    resnet18,
    squeezenet1_1,
    video,
)
from torchvision.models.video import R3D_18_Weights

from vidclf.config import InputError

FrozenNorm = Literal["eval", "train"]


@dataclass(frozen=True)
class NetworkSpec:
    """What must be known of a network to take it apart.

    Attributes:
        dims: 2 for a network of single frames, 3 for one of volumes.
        build: The network with random weights.
        weights: torchvision's weights for it, with their preprocessing.
        stages: Submodules of each stage, in order.
        head: Submodule that classifies; it is dropped.
        width: Pooled features.
        min_frames: Fewest frames a clip; a volume of one frame holds no motion.
        min_size: Smallest edge in pixels whose last feature map still has more than one
            position, without which batch norm cannot train on a batch of one.
    """

    dims: Literal[2, 3]
    build: Callable[[], nn.Module]
    weights: WeightsEnum | None
    stages: Mapping[str, tuple[str, ...]]
    head: str
    width: int
    min_frames: int
    min_size: int


def _tiny2d() -> nn.Module:
    def stage(inputs: int, outputs: int) -> nn.Module:
        convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    return nn.Sequential(OrderedDict(stage1=stage(3, 16), stage2=stage(16, 32), stage3=stage(32, 64)))


class _Motion(nn.Module):
    """Takes the mean frame away: what stands still disappears. Shape (clips, channels, T, H, W)."""

    def forward(self, volumes: Tensor) -> Tensor:
        return volumes - volumes.mean(dim=2, keepdim=True)


def _tiny3d() -> nn.Module:
    def stage(inputs: int, outputs: int, stride: tuple[int, int, int]) -> nn.Module:
        convolution = nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm3d(outputs), nn.ReLU(inplace=True))

    return nn.Sequential(
        OrderedDict(
            stage1=nn.Sequential(_Motion(), stage(3, 16, (1, 2, 2))),
            stage2=stage(16, 32, (2, 2, 2)),
            stage3=stage(32, 64, (2, 2, 2)),
        )
    )


_TINY_STAGES = {name: (name,) for name in ("stage1", "stage2", "stage3")}
_RESNET_LAYERS = {name: (name,) for name in ("layer1", "layer2", "layer3", "layer4")}

NETWORKS: dict[str, NetworkSpec] = {
    "resnet18": NetworkSpec(
        dims=2,
        build=resnet18,
        weights=ResNet18_Weights.IMAGENET1K_V1,
        stages={"stem": ("conv1", "bn1", "relu", "maxpool"), **_RESNET_LAYERS},
        head="fc",
        width=512,
        min_frames=1,
        min_size=33,
    ),
    "squeezenet1_1": NetworkSpec(
        dims=2,
        build=squeezenet1_1,
        weights=SqueezeNet1_1_Weights.IMAGENET1K_V1,
        stages={
            "stem": tuple(f"features.{index}" for index in range(3)),
            "fire2-3": tuple(f"features.{index}" for index in range(3, 6)),
            "fire4-5": tuple(f"features.{index}" for index in range(6, 9)),
            "fire6-9": tuple(f"features.{index}" for index in range(9, 13)),
        },
        head="classifier",
        width=512,
        min_frames=1,
        min_size=17,
    ),
    "tiny2d": NetworkSpec(
        dims=2,
        build=_tiny2d,
        weights=None,
        stages=_TINY_STAGES,
        head="fc",
        width=64,
        min_frames=1,
        min_size=16,
    ),
    "r3d_18": NetworkSpec(
        dims=3,
        build=video.r3d_18,
        weights=R3D_18_Weights.KINETICS400_V1,
        stages={"stem": ("stem",), **_RESNET_LAYERS},
        head="fc",
        width=512,
        min_frames=2,
        min_size=17,
    ),
    "tiny3d": NetworkSpec(
        dims=3,
        build=_tiny3d,
        weights=None,
        stages=_TINY_STAGES,
        head="fc",
        width=64,
        min_frames=2,
        min_size=16,
    ),
}


@dataclass(frozen=True)
class Preprocessing:
    """How frames become a network's input.

    Attributes:
        size: Edge of the square crop in pixels.
        resize: Short side, or (height, width), before the crop.
        mean: Of each channel, for values 0 to 1.
        std: Standard deviation of each channel.
    """

    size: int
    resize: int | tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of_weights(cls, weights: WeightsEnum) -> Self:
        transforms = weights.transforms()
        edges = tuple(transforms.resize_size)
        return cls(
            size=transforms.crop_size[0],
            resize=edges[0] if len(edges) == 1 else edges,
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
        )


IMAGENET = Preprocessing.of_weights(ResNet18_Weights.IMAGENET1K_V1)
KINETICS = Preprocessing.of_weights(R3D_18_Weights.KINETICS400_V1)
UNTRAINED = Preprocessing(size=112, resize=112, mean=IMAGENET.mean, std=IMAGENET.std)


def preprocessing(network: str, weights: str) -> Preprocessing:
    """What the weights of a network want; a local file wants what torchvision's own weights do.

    Raises:
        InputError: ``pretrained`` where torchvision has no weights.
    """
    spec = NETWORKS[network]
    if weights == "pretrained":
        return Preprocessing.of_weights(_published_weights(network))
    return UNTRAINED if weights == "none" or spec.weights is None else Preprocessing.of_weights(spec.weights)


def _published_weights(network: str) -> WeightsEnum:
    weights = NETWORKS[network].weights
    if weights is None:
        raise InputError(f'{network} has no pretrained weights: set model.weights = "none"')
    return weights


class VideoNetwork(nn.Module):
    """Named stages, pooling over space and time, and a linear head.

    A network of frames pools each frame over space and averages over time; one
    of volumes pools over both at once.

    Args:
        stages: The backbone, in order.
        dims: 2 for a network of single frames, 3 for one of volumes.
        width: Pooled features.
        classes: Outputs.
        dropout: Probability that a pooled feature is dropped in training.
        frozen_stages: How many stages from the input on never change.
        frozen_norm: ``eval`` keeps the frozen stages in evaluation mode for good; ``train``
            lets their batch norm drift, only to reproduce a published baseline.
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        *,
        dims: Literal[2, 3],
        width: int,
        classes: int,
        dropout: float,
        frozen_stages: int,
        frozen_norm: FrozenNorm,
    ) -> None:
        super().__init__()
        self.stages = nn.Sequential(OrderedDict(stages))
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, classes))
        self.dims, self.frozen_stages, self.frozen_norm = dims, frozen_stages, frozen_norm
        self.stages[:frozen_stages].requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of all but the frozen stages, which stay in evaluation mode."""
        super().train(mode)
        if self.frozen_norm == "eval":
            self.stages[: self.frozen_stages].eval()
        return self

    def forward(self, clips: Tensor) -> Tensor:
        """Logits (B, classes) of normalised clips (B, T, C, H, W)."""
        logits: Tensor = self.head(self.pooled(self.prefix(clips)))
        return logits

    def prefix(self, clips: Tensor) -> Tensor:
        """Normalised clips (B, T, C, H, W) through the frozen stages.

        Returns:
            (B, T, C', H', W') for a network of frames, (B, C', T', H', W') for one of volumes.
        """
        with torch.no_grad():
            if self.dims == 2:
                return self._per_frame(self.stages[: self.frozen_stages], clips)
            activations: Tensor = self.stages[: self.frozen_stages](clips.transpose(1, 2))
            return activations

    def pooled(self, activations: Tensor) -> Tensor:
        """What `prefix` gave through the trained stages, pooled to (B, width)."""
        if self.dims == 2:
            return self._per_frame(self.stages[self.frozen_stages :], activations).mean(dim=(1, 3, 4))
        volumes: Tensor = self.stages[self.frozen_stages :](activations)
        return volumes.mean(dim=(2, 3, 4))

    def _per_frame(self, stages: nn.Module, clips: Tensor) -> Tensor:
        frames: Tensor = stages(clips.flatten(0, 1))
        return frames.reshape(*clips.shape[:2], *frames.shape[1:])


def build_network(
    network: str,
    *,
    weights: str,
    classes: int,
    dropout: float,
    frozen_stages: int,
    frozen_norm: FrozenNorm = "eval",
) -> VideoNetwork:
    """A network with a fresh head.

    Args:
        network: Key into `NETWORKS`.
        weights: ``pretrained``, ``none``, or a file of the torchvision network.
        classes: Outputs.
        dropout: Probability that a pooled feature is dropped in training.
        frozen_stages: How many stages from the input on never change.
        frozen_norm: See `VideoNetwork`.

    Raises:
        InputError: The weights cannot be had, or don't fit.
    """
    spec = NETWORKS[network]
    backbone = load_backbone(network, weights)
    return VideoNetwork(
        {name: _joined(backbone, paths) for name, paths in spec.stages.items()},
        dims=spec.dims,
        width=spec.width,
        classes=classes,
        dropout=dropout,
        frozen_stages=frozen_stages,
        frozen_norm=frozen_norm,
    )


def _joined(backbone: nn.Module, paths: tuple[str, ...]) -> nn.Module:
    modules = [backbone.get_submodule(path) for path in paths]
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def load_backbone(network: str, weights: str) -> nn.Module:
    """The torchvision network with all weights but its head's taken from ``weights``.

    Raises:
        InputError: The weights cannot be had, or don't fit.
    """
    backbone = NETWORKS[network].build()
    if weights == "none":
        return backbone
    given = _downloaded_weights(network) if weights == "pretrained" else _read_weights(Path(weights))
    head = f"{NETWORKS[network].head}."
    given = {name: values for name, values in given.items() if not name.startswith(head)}
    wanted = {name: values for name, values in backbone.state_dict().items() if not name.startswith(head)}
    # Files older than torch 0.4.1 don't count batches; torch fills the counters in.
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in wanted]
    misshapen = [name for name in wanted if name in given and wanted[name].shape != given[name].shape]
    if missing or unexpected or misshapen:
        groups = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
        details = "; ".join(f"{word}: {_some(names)}" for word, names in groups.items() if names)
        raise InputError(f"model.weights = {weights!r} does not fit model.network = {network!r}: {details}")
    backbone.load_state_dict(given, strict=False)
    return backbone


def _some(names: list[str]) -> str:
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")


def _downloaded_weights(network: str) -> Mapping[str, Tensor]:
    weights = _published_weights(network)
    name = weights.url.rpartition("/")[2]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        # torch.hub prints to stdout, which belongs to the command's result.
        with contextlib.redirect_stdout(sys.stderr):
            state: Mapping[str, Tensor] = weights.get_state_dict(
                progress=sys.stderr.isatty(), check_hash=True
            )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"the pretrained weights {weights} of {network} could not be downloaded or read ({error}); "
            f"download {name} elsewhere and put it into {folder}, or set model.weights to a local file "
            'of them, or to "none"'
        ) from None
    return state


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise InputError(f'model.weights: {path}: no such file (nor is it "pretrained" or "none")')
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        pickle.UnpicklingError,
        safetensors.SafetensorError,
    ) as error:
        first_line = str(error).partition("\n")[0]
        raise InputError(f"model.weights: {path}: not a file of weights: {first_line}") from None
    if not (isinstance(state, Mapping) and all(isinstance(value, Tensor) for value in state.values())):
        raise InputError(
            f"model.weights: {path}: not a state dict: expected what torch.save(network.state_dict()) writes"
        )
    return state
