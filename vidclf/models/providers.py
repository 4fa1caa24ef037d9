"""Libraries of networks that are not always installed, by the prefix of their networks' names."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn  # torch takes seconds

    from vidclf.models.networks import NetworkSpec


class Provider(Protocol):
    """A module that knows the networks of a library that is not always installed."""

    def spec(self, network: str) -> "NetworkSpec":
        """The network's row.

        Raises:
            InputError: There is no such network, or the library is missing.
        """

    def build(self, network: str) -> "nn.Module":
        """The network without its head, with random weights."""

    def published(self, network: str) -> "Mapping[str, Tensor]":
        """Its published weights, by their names in `build`'s.

        Raises:
            InputError: They cannot be had.
        """

    def fitted(self, backbone: "nn.Module", state: "Mapping[str, Tensor]") -> "Mapping[str, Tensor]":
        """A file's weights by their names in the backbone, as far as they are those of another form of it."""

    def stages(self, backbone: "nn.Module") -> "Mapping[str, nn.Module]":
        """The stages of what `build` gave, in order; the last one's maps have one position."""

    def check_input(self, network: str, frames: int, size: int) -> None:
        """Raises `ValueError` where the network does not take clips of so many frames and pixels."""

    def identity(self, network: str) -> str:
        """All that its outputs depend on beside its weights."""

    def save(self, network: str, directory: Path) -> None:
        """Writes what the network is built from, where its name does not say it, into an existing folder."""

    def saved(self, network: str, directory: Path) -> str:
        """The name by which the network is built from what `save` wrote."""


PROVIDERS = {"timm": "vidclf.models.timm_networks", "hf": "vidclf.models.hf_networks"}
"""Modules that are a `Provider`, by the prefix of their networks' names."""


_PACKAGES = {"timm": ("timm", "huggingface-hub"), "hf": ("transformers", "huggingface-hub")}


def packages(network: str | None) -> tuple[str, ...]:
    """What a model with this network needs beside what vidclf always needs, as pip names it."""
    return _PACKAGES.get((network or "").partition(":")[0], ())


def provider(network: str) -> Provider | None:
    """Who knows a network that is in no row of `NETWORKS`; ``None``: the table, or nobody."""
    prefix, colon, _ = network.partition(":")
    if not colon or prefix not in PROVIDERS:
        return None
    module: Any = importlib.import_module(PROVIDERS[prefix])
    known: Provider = module
    return known
