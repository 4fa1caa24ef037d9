"""Networks as named stages, a pooling and a fresh head, their graph, and how much they compute."""

import functools
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vidclf.models.networks import FrozenNorm, Pooling, spec_of
from vidclf.models.pooling import pooling_steps
from vidclf.models.providers import provider
from vidclf.models.weights import load_backbone


class VideoNetwork(nn.Module):
    """Named stages, pooling over space and time, and a linear head.

    A network of frames averages each frame over space and pools over time; one
    of volumes averages over both at once.

    Args:
        network: Its name, see `spec_of`.
        weights: ``pretrained``, ``none``, or a file of the network's.
        classes: Outputs.
        dropout: Probability that a pooled feature is dropped in training.
        frozen_stages: How many stages from the input on never change.
        frozen_norm: ``eval`` keeps the frozen stages in evaluation mode for good; ``train``
            lets their batch norm drift, only to reproduce a published baseline.
        pooling: How the features of frames become those of the clip; ``avg`` for volumes.

    Raises:
        InputError: The weights cannot be had, or don't fit.

    Attributes:
        name: ``network``.
        memory_format: Layout in which the stages compute.
        fixed_poolings: Steps of the pooling that belong to what training leaves as it is.
        kept: What `prefix` gives: ``maps``, features of ``frames``, or those of clips by their pooling.
    """

    def __init__(
        self,
        network: str,
        *,
        weights: str,
        classes: int,
        dropout: float,
        frozen_stages: int,
        frozen_norm: FrozenNorm = "eval",
        pooling: Pooling = "avg",
    ) -> None:
        super().__init__()
        spec, backbone = spec_of(network), load_backbone(network, weights)
        self.stages = nn.Sequential(OrderedDict(_stages(network, backbone)))
        self.pooling = pooling_steps(spec.dims, pooling, spec.width)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(spec.width, classes))
        self.name, self.dims, self.width = network, spec.dims, spec.width
        self.frozen_stages, self.frozen_norm = frozen_stages, frozen_norm
        self.memory_format = torch.channels_last if spec.dims == 2 else torch.channels_last_3d
        learned = any(True for _ in self.pooling.parameters())
        self.fixed_poolings = len(self.pooling) - learned if frozen_stages == len(self.stages) else 0
        self.kept = ("frames" if learned else pooling) if self.fixed_poolings else "maps"
        self.stages[:frozen_stages].requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of all but the frozen stages, which stay in evaluation mode."""
        super().train(mode)
        if self.frozen_norm == "eval":
            self.stages[: self.frozen_stages].eval()
        return self

    def fresh_parameters(self) -> list[nn.Parameter]:
        """Those of the pooling and the head, which no weights file holds."""
        return [*self.pooling.parameters(), *self.head.parameters()]

    def fixed_names(self) -> set[str]:
        """What training leaves as it is, by its name in the state dict."""
        frozen = self.stages[: self.frozen_stages]
        kept = frozen.state_dict() if self.frozen_norm == "eval" else dict(frozen.named_parameters())
        return {f"stages.{name}" for name in kept}

    def sizes(self) -> dict[str, float]:
        """``size/parameters`` and ``size/trainable_parameters``."""
        counts = [(values.numel(), values.requires_grad) for values in self.parameters()]
        trained = sum(count for count, changes in counts if changes)
        return {
            "size/parameters": float(sum(count for count, _ in counts)),
            "size/trainable_parameters": float(trained),
        }

    def forward(self, clips: Tensor) -> Tensor:
        """Logits (B, classes) of normalised clips (B, T, C, H, W)."""
        logits: Tensor = self.head(self.features(self.prefix(clips)))
        return logits

    def prefix(self, clips: Tensor) -> Tensor:
        """Normalised clips (B, T, C, H, W) through all that training leaves as it is.

        Returns:
            (B, T, C', H', W') for a network of frames, (B, C', T', H', W') for one of volumes.
            Where all stages are frozen (B, width), or (B, T, width) before a pooling that is trained.
        """
        inputs = clips if self.dims == 2 else clips.transpose(1, 2)
        if self.frozen_stages == 0:
            return inputs  # torch cannot export a part without gradients that computes nothing
        with torch.no_grad():
            maps = self._through(self.stages[: self.frozen_stages], inputs)
            activations: Tensor = self.pooling[: self.fixed_poolings](maps)
            return activations

    def features(self, activations: Tensor) -> Tensor:
        """What `prefix` gave through the rest of the stages and the pooling: (B, width)."""
        maps = self._through(self.stages[self.frozen_stages :], activations)
        features: Tensor = self.pooling[self.fixed_poolings :](maps)
        return features

    def _through(self, stages: nn.Sequential, inputs: Tensor) -> Tensor:
        if not len(stages):
            return inputs
        if self.dims == 3:
            volumes: Tensor = stages(self._laid_out(inputs))
            return volumes
        frames: Tensor = stages(self._laid_out(inputs.flatten(0, 1)))
        return frames.reshape(*inputs.shape[:2], *frames.shape[1:])

    def _laid_out(self, maps: Tensor) -> Tensor:
        """Maps in the layout of the network; tokens, which have no channels before positions, as they are."""
        if maps.dim() != self.dims + 2:
            return maps
        return maps.contiguous(memory_format=self.memory_format)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights in main memory, as a file of them wants it."""
    return {
        name: values.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, values in module.state_dict().items()
    }


class ProbabilityGraph(nn.Module):
    """A network with its softmax; ``temperature`` is what its logits are divided by."""

    def __init__(self, network: VideoNetwork, temperature: float) -> None:
        super().__init__()
        self.network = network.eval()
        self.temperature = temperature

    def forward(self, clips: Tensor) -> Tensor:
        """Probabilities (B, classes) of normalised clips (B, T, 3, size, size)."""
        probabilities: Tensor = (self.network(clips) / self.temperature).softmax(dim=1)
        return probabilities


@dataclass(frozen=True)
class ExportableNetwork:
    """A network, an example of its input, and how that input is made.

    Attributes:
        graph: From ``views`` to probabilities, on the CPU, in single precision.
        views: The evaluation views of one clip there, normalised: float32 (views, T, 3, size, size).
        settings: What the network was made with: ``network``, ``frames`` (T), ``size``, ``resize``,
            ``interpolation``, ``mean``, ``std`` ….
        temperature: For the mean over several views, which is formed outside of the graph; 1: none is left.
    """

    graph: ProbabilityGraph
    views: Tensor
    settings: Mapping[str, Any]
    temperature: float


@functools.cache
def multiply_accumulates(network: str, pooling: Pooling, classes: int, frames: int, size: int) -> int:
    """Multiply-accumulate operations of one view of a clip: those of convolutions and matrix products.

    Counted from shapes alone, which takes no memory; once a process for each shape.
    """
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        built = VideoNetwork(
            network, weights="none", classes=classes, dropout=0, frozen_stages=0, pooling=pooling
        )
        built.eval()(torch.empty(1, frames, 3, size, size))
    # It counts a multiplication and the addition after it as two.
    return int(counter.get_total_flops()) // 2


def _stages(network: str, backbone: nn.Module) -> Mapping[str, nn.Module]:
    if known := provider(network):
        return known.stages(backbone)
    return {name: _joined(backbone, paths) for name, paths in spec_of(network).stages.items()}


def _joined(backbone: nn.Module, paths: tuple[str, ...]) -> nn.Module:
    modules = [backbone.get_submodule(path) for path in paths]
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)
