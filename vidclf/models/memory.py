"""What is done where a device's memory runs out."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vidclf.models import devices

Saving = Literal["cache", "clips", "inputs"]


class MemorySaver:
    """Makes do with less of the device's memory each time that it runs out.

    The cache is given up first; then fewer clips are computed at once, down to one; at last inputs are
    made and wait in main memory.

    Args:
        drop_cache: Gives up outputs that are kept on the device; whether there were any.
        move_inputs: Moves inputs to main memory, those that are still to be made, too.

    Attributes:
        at_once: Clips that are computed at once at most, where no gradients are wanted.
    """

    def __init__(self, drop_cache: Callable[[], bool], move_inputs: Callable[[], None]) -> None:
        self._drop_cache, self._move_inputs = drop_cache, move_inputs
        self._inputs_moved = False
        self.at_once: int | None = None

    def save(self, error: RuntimeError, clips: int) -> Saving | None:
        """What is given up after an error, so that the same may be tried again.

        Args:
            error: Was raised while so many clips were computed at once.
            clips: See ``error``.

        Returns:
            ``cache`` and ``inputs`` are given up here, ``clips`` by the caller; ``None``: there is nothing,
            or it was another error.
        """
        if not devices.is_out_of_memory(error):
            return None
        if self._drop_cache():
            return "cache"
        if clips > 1:
            return "clips"
        if self._inputs_moved:
            return None
        self._inputs_moved = True
        self._move_inputs()
        return "inputs"

    def compute(self, function: Callable[[Any], Tensor], clips: Sequence[Any] | Tensor) -> Tensor:
        """``function`` of the clips, of fewer at once where memory runs out; rows of clips come back."""
        while True:
            size = min(self.at_once or len(clips), len(clips))
            try:
                made = [function(clips[start : start + size]) for start in range(0, len(clips), size)]
                return made[0] if len(made) == 1 else torch.cat(made)
            except RuntimeError as error:
                saved = self.save(error, size)
                if saved is None:
                    raise
                if saved == "clips":
                    self.at_once = (size + 1) // 2
            # Out here, as inside the handler the traceback would still hold the failed attempt's tensors.
            devices.release_memory()


class BatchNormStatistics:
    """The running statistics that a forward pass changes, as they are when this is made."""

    def __init__(self, network: nn.Module) -> None:
        changing = [each for each in network.modules() if isinstance(each, _BatchNorm) and each.training]
        self._live = [buffer for module in changing for buffer in module.buffers()]
        self._kept = [buffer.clone() for buffer in self._live]

    def restore(self) -> None:
        for live, kept in zip(self._live, self._kept, strict=True):
            live.copy_(kept)
