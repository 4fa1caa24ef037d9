"""Copies between main memory and a device that nothing waits for."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidclf.data.pictures import Grid


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A copy on the device that nothing waits for: a CUDA device reads it from pinned memory."""
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def staged(clips: Sequence[tuple[Grid, NDArray[np.int64]]], device: torch.device) -> Tensor:
    """Chosen frames of clips in one copy to the device.

    Args:
        clips: The stored frames of each, and which are chosen, as many of each clip.
        device: Where to.

    Returns:
        uint8 (clips, frames, height, width, 3) of the largest clip; the others fill its upper left.
    """
    height, width = (max(grid.shape[axis] for grid, _ in clips) for axis in (1, 2))
    shape = (len(clips), len(clips[0][1]), height, width, 3)
    batch = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for (grid, chosen), place in zip(clips, batch.numpy(), strict=True):
        place[:, : grid.shape[1], : grid.shape[2]] = grid[chosen]
    return to_device(batch, device)


def to_host(values: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Copies in main memory, of tensors of one device: the function that comes back waits for them."""
    copies = [each.to("cpu", non_blocking=each.device.type == "cuda", copy=True) for each in values]
    device = next((each.device for each in values if each.device.type == "cuda"), None)
    if device is None:
        return lambda: copies
    copied = torch.Event(device)
    copied.record(torch.cuda.current_stream(device))

    def arrived() -> list[Tensor]:
        copied.synchronize()
        return copies

    return arrived
