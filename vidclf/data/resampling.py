"""Crops and resizes of whole batches on a device.

A view resized with antialiasing is two products of matrices a clip, one down and
one across, whatever the crops: as few kernels for a batch as for a clip. On a CPU
torchvision's resizing of bytes is ten times as fast.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def _linear(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' kernel for a = -1/2, as torch has it where it resizes with antialiasing."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0))


_FILTERS: Mapping[str, Callable[[Tensor], Tensor]] = {"bilinear": _linear, "bicubic": _cubic}
"""Weight of a pixel by its distance from the middle, in pixels of the coarser of both pictures."""


def resampled(pictures: Tensor, axes: Tensor, size: int, interpolation: str) -> Tensor:
    """Crops of pictures, resized with antialiasing as torchvision does.

    Args:
        pictures: uint8 (clips, frames, H, W, 3).
        axes: Down and across, for all frames of a clip or for each: where the view begins, pixels a pixel of
            the view, and the first pixel that counts and the one after the last; float32
            (clips, 1 or frames, 2, 4). A view with negative steps is mirrored.
        size: Edge of the view in pixels.
        interpolation: ``bilinear`` or ``bicubic``.

    Returns:
        Whole numbers 0 to 255, float32 (clips, frames, 3, size, size).
    """
    begin, step, first, end = axes[..., None, None].unbind(dim=3)
    height, width = pictures.shape[2:4]
    middles = torch.addcmul(begin, step, torch.arange(0.5, size, device=axes.device)[:, None])
    pixels = torch.arange(0.5, max(height, width), device=axes.device)
    weights = _FILTERS[interpolation]((pixels - middles).abs() / step.abs().clamp(min=1))
    weights = weights * ((pixels > first) & (pixels < end))
    down, across = (weights / weights.sum(dim=-1, keepdim=True)).unbind(dim=2)
    rows = down[..., :height] @ pictures.float().flatten(3)
    lines = rows.view(*rows.shape[:3], width, 3).permute(0, 1, 4, 2, 3)
    views: Tensor = lines @ across[:, :, None, :, :width].mT
    return views.round_() if interpolation == "bilinear" else views.round_().clamp_(0, 255)
