"""The kind ``onnx`` as a file describes it: a trained network as a graph, maybe in eight bits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from vidclf import config
from vidclf.config import PathKey
from vidclf.exceptions import InputError
from vidclf.models.base import ExperimentConfig, ModelConfig
from vidclf.models.saved import ModelMetadata, read_card

Bits = Literal["int8", "fp32"]

_SEEN = ("frames", "size", "resize", "normalize", "grid", "store_side")
"""Keys of ``[data]`` that say what the parent sees."""


class OnnxConfig(ModelConfig):
    """``[model]`` of a graph that computes what a trained network does."""

    kind: Literal["onnx"]
    """``onnx``."""
    parent: Annotated[str, PathKey()]
    """Folder of the saved model of a network."""
    precision: Bits = "int8"
    """``int8``: weights and activations in eight bits, whose ranges are taken from clips of train."""
    network: str | None = None
    """The parent's; read from it where unset."""


class OnnxExperiment(ExperimentConfig):
    """An experiment that trains nothing: it turns a trained network into a graph, and judges that."""

    model: OnnxConfig
    """The graph."""

    @property
    def seeded(self) -> bool:
        return False

    def resolved(self) -> Self:
        """With what its parent says of the pictures and of itself."""
        if self.model.network is not None and self.data.size is not None:
            return self
        flat = config.flatten(parent_of(self.model).experiment)
        seen = {key: flat[f"data.{key}"] for key in _SEEN}
        model = self.model.model_copy(update={"network": flat["model.network"]})
        return self.model_copy(update={"data": self.data.model_copy(update=seen), "model": model})

    def check_weights(self) -> None:
        """Looks whether the parent is there, of a network, and sees what this experiment says.

        Raises:
            InputError: It is not, or ONNX is not installed.
        """
        from vidclf.models.graphs import check_onnx  # torch takes seconds

        check_onnx()
        flat = config.flatten(parent_of(self.model).experiment)
        asked = {f"data.{key}": getattr(self.data, key) for key in _SEEN if key in self.data.model_fields_set}
        asked["model.network"] = self.model.network
        problems = [
            f"{key} = {value}, but of {self.model.parent} it is {flat[key]}"
            for key, value in asked.items()
            if value is not None and value != _tupled(flat[key])
        ]
        if problems:
            raise InputError(*problems)

    def shape(self) -> Mapping[str, Any]:
        """As of its parent, in its own precision."""
        flat = config.flatten(config.dump(self.resolved()))
        keys = ("model.kind", "model.network", "model.precision", *(f"data.{key}" for key in _SEEN))
        return {key: flat[key] for key in keys}


def parent_of(model: OnnxConfig) -> ModelMetadata:
    """The card of the parent.

    Raises:
        InputError: There is none, or it is of no network.
    """
    from vidclf.models import MODELS  # which knows this module

    card = read_card(Path(model.parent))
    if card.kind not in MODELS or MODELS[card.kind].initialise is None:
        raise InputError(
            f"{model.parent}: is of the kind {card.kind!r}, which has no network to be written as ONNX; "
            "frames2d and volume3d have"
        )
    return card


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
