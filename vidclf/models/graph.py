"""A network as a graph: what an exporter needs of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


class ProbabilityGraph(nn.Module):
    """A network with its softmax, from normalised clips to probabilities."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        """Args:
        network: From clips, float32 (B, T, 3, size, size), to logits (B, classes).
        temperature: By which the logits are divided.
        """
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
        graph: From ``views`` to probabilities, in single precision.
        views: The evaluation views of one clip, normalised: float32 (views, T, 3, size, size).
        settings: What the network was made with: ``network``, ``frames`` (T), ``size``, ``resize``,
            ``interpolation``, ``mean``, ``std`` ….
        temperature: For the mean over several views, which is formed outside of the graph; 1: none is left.
    """

    graph: ProbabilityGraph
    views: Tensor
    settings: Mapping[str, Any]
    temperature: float
