"""Augmentation: random views in training, one fixed view in evaluation.

A view draws its parameters once for the whole clip, so that the frames keep
their motion. All draws come from a generator of the view's own: no global
random state is read or changed, so views may be made in any thread and order.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from vidclf.config import digest
from vidclf.data import sampling
from vidclf.data.video import Frames

_ASPECT_RATIOS = (3 / 4, 4 / 3)
"""Width to height of random crops, as in torchvision's `RandomResizedCrop`."""
_CROP_ATTEMPTS = 10


def train_view(
    grid: Frames | Tensor,
    frames: int,
    size: int,
    *,
    seed: int,
    clip: str,
    view: int,
    flip: float,
    scale: Sequence[float],
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    rotation: float,
    temporal: bool,
    per_frame: bool,
) -> Tensor:
    """An augmented view of a clip, which depends on the clip, ``seed``, ``view`` and the settings alone.

    Args:
        grid: The clip's stored frames, uint8: an array (T, H, W, 3), or a tensor (T, 3, H, W) on
            the device that is to make the view.
        frames: How many of them to take.
        size: Edge of the view in pixels.
        seed: Of all views, ``data.augment_seed``.
        clip: What identifies the clip's content.
        view: Number of the view.
        flip: See `vidclf.models.neural_config.AugmentConfig`, as for all further arguments.

    Returns:
        uint8 (frames, 3, size, size), where the grid is.
    """
    generator = np.random.default_rng(int(digest([seed, clip, view]), 16))
    chosen = sampling.sample_indices(len(grid), frames, generator if temporal else None)
    pictures = _taken(grid, chosen)
    parts = torch.split(pictures, 1) if per_frame else (pictures,)
    views = []
    for part in parts:
        cropped = _random_crop(part, size, generator, flip, scale)
        coloured = _colour_jitter(
            cropped, generator, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue
        )
        angle = generator.uniform(-rotation, rotation)
        views.append(
            functional.rotate(coloured, angle, InterpolationMode.BILINEAR) if rotation > 0 else coloured
        )
    return torch.cat(views).contiguous()


def eval_view(
    grid: Frames | Tensor,
    frames: int,
    size: int,
    resize: int | Sequence[int],
    *,
    interpolation: str = "bilinear",
    instant: float = 0.5,
) -> Tensor:
    """A view that validation, test and serving see: fixed frames, the centre of the picture.

    Args:
        grid: As for `train_view`.
        frames: How many of them to take.
        size: Edge of the view in pixels.
        resize: Short side, or (height, width), before the crop; at least ``size``.
        interpolation: Of the resizing, by torchvision's name.
        instant: Where in its equal part of the clip each frame is taken, 0 to 1.

    Returns:
        uint8 (frames, 3, size, size), where the grid is.
    """
    pictures = _taken(grid, sampling.sample_indices(len(grid), frames, instant=instant))
    edges = [resize] if isinstance(resize, int) else list(resize)
    resized = functional.resize(pictures, edges, InterpolationMode(interpolation), antialias=True)
    cropped: Tensor = functional.center_crop(resized, [size, size])
    return cropped.contiguous()


def as_tensor(pictures: Frames) -> Tensor:
    """Pictures (T, H, W, 3) as a tensor (T, 3, H, W), over the same memory unless that is read-only."""
    # torch warns of read-only memory, as that of stored clips is.
    return torch.from_numpy(np.require(np.asarray(pictures), requirements="W")).permute(0, 3, 1, 2)


def _taken(grid: Frames | Tensor, indices: NDArray[np.int64]) -> Tensor:
    """Some of the grid's frames, (T, 3, H, W)."""
    if isinstance(grid, Tensor):
        return grid[torch.from_numpy(indices).to(grid.device)]
    return as_tensor(grid[indices])


def _random_crop(
    pictures: Tensor, size: int, generator: np.random.Generator, flip: float, scale: Sequence[float]
) -> Tensor:
    height, width = pictures.shape[-2:]
    top, left, crop_height, crop_width = _crop_box(height, width, generator, scale)
    cropped = functional.resized_crop(
        pictures, top, left, crop_height, crop_width, [size, size], antialias=True
    )
    flipped: Tensor = functional.horizontal_flip(cropped) if generator.random() < flip else cropped
    return flipped


def _crop_box(
    height: int, width: int, generator: np.random.Generator, scale: Sequence[float]
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop; where none fits, of the largest central one."""
    low, high = _ASPECT_RATIOS
    for _ in range(_CROP_ATTEMPTS):
        area = height * width * generator.uniform(scale[0], scale[1])
        ratio = np.exp(generator.uniform(np.log(low), np.log(high)))
        crop_width, crop_height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(generator.integers(height - crop_height + 1))
            left = int(generator.integers(width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_width, crop_height = min(width, round(height * high)), min(height, round(width / low))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _colour_jitter(
    pictures: Tensor,
    generator: np.random.Generator,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> Tensor:
    """Jitters colours in random order; always draws alike, so that one strength leaves the others alone."""
    steps: list[tuple[Callable[[Tensor, float], Tensor], float, float]] = [
        (functional.adjust_brightness, 1.0, brightness),
        (functional.adjust_contrast, 1.0, contrast),
        (functional.adjust_saturation, 1.0, saturation),
        (functional.adjust_hue, 0.0, hue),
    ]
    drawn = [
        (adjust, strength, centre + strength * generator.uniform(-1, 1)) for adjust, centre, strength in steps
    ]
    for index in generator.permutation(len(drawn)):
        adjust, strength, amount = drawn[index]
        if strength > 0:
            pictures = adjust(pictures, amount)
    return pictures
