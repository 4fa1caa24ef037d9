"""Augmentation: random views in training, one fixed view in evaluation.

A view draws its parameters once for the whole clip, so that the frames keep
their motion. All draws come from a generator of the view's own: no global
random state is read or changed, so views may be made in any thread and order.
What was drawn is applied a clip at a time on a CPU, which then computes in its
caches, and to a whole batch at once on other devices, in as many kernels as for
one clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from vidclf.config import digest
from vidclf.data import sampling
from vidclf.data.pictures import Frames, Grid
from vidclf.data.resampling import resampled
from vidclf.data.staging import staged, to_device

_ASPECT_RATIOS = (3 / 4, 4 / 3)
"""Width to height of random crops, as in torchvision's `RandomResizedCrop`."""
_CROP_ATTEMPTS = 10
_GREY = np.array([0.2989, 0.587, 0.114])
"""Share of each channel in a picture's grey, as in torchvision."""


@dataclass(frozen=True)
class DrawnView:
    """What a view of a clip draws: one row for all of its frames, or one for each.

    Attributes:
        frames: Indices of the frames of the grid, shape (T,).
        boxes: Top, left, height and width of the crop in pixels, int (rows, 4).
        flips: Whether it is mirrored, shape (rows,).
        colours: Of each step of its recolouring the matrix that a pixel is multiplied by, row by row, the
            factors of the picture's mean red, green and blue that are added, and the shift of its hue as a
            share of the circle, float32 (rows, steps, 13).
        turns: Degrees counter-clockwise, float32 (rows, 1); (rows, 0) where nothing turns.
    """

    frames: NDArray[np.int64]
    boxes: NDArray[np.int64]
    flips: NDArray[np.bool_]
    colours: NDArray[np.float32]
    turns: NDArray[np.float32]


def draw_view(
    shape: Sequence[int],
    frames: int,
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
) -> DrawnView:
    """Draws an augmented view, which depends on the clip, ``seed``, ``view`` and the settings alone.

    Args:
        shape: Of the clip's grid: frames, height, width ….
        frames: How many frames to take.
        seed: Of all views, ``data.augment_seed``.
        clip: What identifies the clip's content.
        view: Number of the view.
        flip: See `vidclf.models.neural_config.AugmentConfig`, as for all further arguments.
    """
    generator = np.random.default_rng(int(digest([seed, clip, view]), 16))
    available, height, width = shape[:3]
    chosen = sampling.sample_indices(available, frames, generator if temporal else None)
    strengths = (brightness, contrast, saturation, hue)
    boxes, flips, colours, turns = [], [], [], []
    for _ in range(frames if per_frame else 1):
        boxes.append(_crop_box(height, width, generator, scale))
        flips.append(generator.random() < flip)
        colours.append(_colour_steps(generator, strengths))
        turns.append(generator.uniform(-rotation, rotation))
    return DrawnView(
        chosen,
        np.array(boxes),
        np.array(flips),
        np.array(colours, np.float32).reshape(len(boxes), -1, 13),
        np.array(turns, np.float32)[:, None][:, : rotation > 0],
    )


def train_view(grid: Grid, size: int, drawn: DrawnView) -> Tensor:
    """An augmented view, made on the CPU.

    Args:
        grid: The clip's stored frames.
        size: Edge of the view in pixels.
        drawn: Which view.

    Returns:
        uint8 (frames, 3, size, size).
    """
    pictures = as_tensor(grid[drawn.frames])
    parts = torch.split(pictures, len(pictures) // len(drawn.boxes))
    cropped = []
    for part, box, flip in zip(parts, drawn.boxes.tolist(), drawn.flips, strict=True):
        resized = functional.resized_crop(part, *box, [size, size], antialias=True)
        cropped.append(resized.flip(-1) if flip else resized)
    view = cropped[0] if len(cropped) == 1 else torch.cat(cropped)
    if not drawn.colours.shape[1] and not drawn.turns.shape[1]:
        return view.contiguous()
    steps, turns = torch.from_numpy(drawn.colours), torch.from_numpy(drawn.turns)
    values = view.to(torch.float32, memory_format=torch.contiguous_format)
    return _rotated(_recoloured(values, steps, _effects(drawn.colours)), turns).to(torch.uint8)


def train_views(grids: Sequence[Grid], size: int, drawn: Sequence[DrawnView], device: torch.device) -> Tensor:
    """The augmented views of a batch of clips, made on a device all at once.

    Args:
        grids: The clips' stored frames, each uint8 (T, H, W, 3).
        size: Edge of the views in pixels.
        drawn: Which views, drawn with the same settings.
        device: Where to make them.

    Returns:
        uint8 (clips, frames, 3, size, size).
    """
    pictures = staged([(grid, view.frames) for grid, view in zip(grids, drawn, strict=True)], device)
    clips, frames = pictures.shape[:2]
    rows, steps, _ = drawn[0].colours.shape
    # What was drawn is few values: they go in one copy.
    packed = np.stack(
        [
            np.column_stack([_crop_axes(view, size), view.colours.reshape(rows, 13 * steps), view.turns])
            for view in drawn
        ]
    )
    there = to_device(torch.from_numpy(packed.astype(np.float32)), device)
    axes, colours = (
        there[..., :8].view(clips, rows, 2, 4),
        there[..., 8:].expand(-1, frames, -1).flatten(0, 1),
    )
    values = resampled(pictures, axes, size, "bilinear").flatten(0, 1)
    effects = _effects(np.concatenate([view.colours for view in drawn]))
    values = _recoloured(values, colours[:, : 13 * steps].view(clips * frames, steps, 13), effects)
    turned = _rotated(values, colours[:, 13 * steps :])
    return turned.to(torch.uint8).view(clips, frames, 3, size, size)


def eval_view(
    grid: Grid,
    frames: int,
    size: int,
    resize: int | Sequence[int],
    *,
    interpolation: str = "bilinear",
    instant: float = 0.5,
) -> Tensor:
    """A view that validation, test and serving see: fixed frames, the centre of the picture; on the CPU.

    Args:
        grid: The clip's stored frames.
        frames: How many of them to take.
        size: Edge of the view in pixels.
        resize: Short side, or (height, width), before the crop; at least ``size``.
        interpolation: Of the resizing, by torchvision's name.
        instant: Where in its equal part of the clip each frame is taken, 0 to 1.

    Returns:
        uint8 (frames, 3, size, size).
    """
    pictures = as_tensor(grid[sampling.sample_indices(len(grid), frames, instant=instant)])
    edges = [resize] if isinstance(resize, int) else list(resize)
    resized = functional.resize(pictures, edges, InterpolationMode(interpolation), antialias=True)
    cropped: Tensor = functional.center_crop(resized, [size, size])
    return cropped.contiguous()


def eval_views(
    grids: Sequence[Grid],
    frames: int,
    size: int,
    resize: int | Sequence[int],
    device: torch.device,
    *,
    interpolation: str,
    instant: float,
) -> Tensor:
    """The evaluation views of a batch of clips, made on a device all at once; else as `eval_view`."""
    chosen = [sampling.sample_indices(len(grid), frames, instant=instant) for grid in grids]
    pictures = staged(list(zip(grids, chosen, strict=True)), device)
    axes = torch.tensor([[_centre_axes(grid.shape[1:3], size, resize)] for grid in grids])
    return resampled(pictures, to_device(axes, device), size, interpolation).to(torch.uint8)


def as_tensor(pictures: Frames) -> Tensor:
    """Pictures (T, H, W, 3) as a tensor (T, 3, H, W), over the same memory unless that is read-only."""
    # torch warns of read-only memory, as that of stored clips is.
    return torch.from_numpy(np.require(np.asarray(pictures), requirements="W")).permute(0, 3, 1, 2)


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


def _crop_axes(view: DrawnView, size: int) -> NDArray[np.float64]:
    """The crops as `resampled` wants them, (rows, 2 * 4); what is flipped begins at the right."""
    first, length = view.boxes[:, :2], view.boxes[:, 2:]
    flipped = np.stack([np.zeros_like(view.flips), view.flips], axis=1)
    begin, step = np.where(flipped, first + length, first), np.where(flipped, -length, length) / size
    return np.stack([begin, step, first, first + length], axis=2).reshape(len(view.boxes), 8)


def _centre_axes(shape: Sequence[int], size: int, resize: int | Sequence[int]) -> list[list[float]]:
    """The central square of resized pictures (height, width) as `resampled` wants it, (2, 4)."""
    short = min(shape)
    edges = [int(resize * edge / short) for edge in shape] if isinstance(resize, int) else resize
    steps = [edge / resized for edge, resized in zip(shape, edges, strict=True)]
    starts = [round((resized - size) / 2) * step for resized, step in zip(edges, steps, strict=True)]
    return [[start, step, 0.0, edge] for start, step, edge in zip(starts, steps, shape, strict=True)]


def _colour_steps(generator: np.random.Generator, strengths: Sequence[float]) -> list[list[float]]:
    """Steps that change brightness, contrast, saturation and hue, in random order.

    Always draws alike, so that one strength leaves the others alone.
    """
    brightness, contrast, saturation, hue = (strength * generator.uniform(-1, 1) for strength in strengths)
    one, none = np.eye(3), np.zeros(3)
    steps = [
        [*((1 + brightness) * one).flat, *none, 0],
        [*((1 + contrast) * one).flat, *(-contrast * _GREY), 0],
        [*((1 + saturation) * one - saturation * _GREY).flat, *none, 0],
        [*one.flat, *none, hue],
    ]
    return [steps[index] for index in generator.permutation(len(steps)) if strengths[index] > 0]


class _Effect(NamedTuple):
    """Whether a step changes any picture's colours, mixes channels, adds of the mean, or changes hue."""

    colour: bool
    mix: bool
    mean: bool
    hue: bool


def _effects(steps: NDArray[np.float32]) -> list[_Effect]:
    """Of each step of pictures, (pictures, steps, 13)."""
    mix, mean, hue = (steps[..., column] != 0 for column in (1, 9, 12))
    columns = [part.any(axis=0).tolist() for part in (~hue, mix, mean, hue)]
    return list(map(_Effect, *columns))


def _recoloured(pictures: Tensor, steps: Tensor, effects: Sequence[_Effect]) -> Tensor:
    """Pictures after each step, cut off to whole numbers 0 to 255 as of bytes; float32 (N, 3, H, W).

    Args:
        pictures: float32 (N, 3, H, W); may be overwritten.
        steps: As in `DrawnView`, for all pictures or each, (1 or N, steps, 13).
        effects: What `_effects` says of them, which only the CPU knows without waiting.
    """
    values = pictures.flatten(2)
    matrices = steps[..., :9].reshape(*steps.shape[:2], 3, 3)
    of_means, shifts = steps[..., None, 9:12], steps[..., 12:, None]
    for place, effect in enumerate(effects):
        matrix, shift = matrices[:, place], shifts[:, place]
        hued = _with_hue(values, shift) if effect.hue else values
        if effect.colour:
            added = of_means[:, place] @ values.mean(dim=2, keepdim=True) if effect.mean else 0.0
            values = matrix @ values if effect.mix else values.mul_(matrix[:, :1, :1])
            values = (values.add_(added) if effect.mean else values).clamp_(0, 255).floor_()
        if effect.hue:
            values = torch.where(shift != 0, hued, values)
    return values.view_as(pictures)


def _with_hue(values: Tensor, shift: Tensor) -> Tensor:
    """Pixels (N, 3, values) whose hue is shifted by a share of the circle, (N, 1, 1)."""
    red, green, blue = torch.split(values, 1, dim=1)
    largest, smallest = values.amax(dim=1, keepdim=True), values.amin(dim=1, keepdim=True)
    range_ = largest - smallest
    by_red, by_green, by_blue = green - blue, blue - red, red - green
    sixths = torch.where(
        largest == red,
        by_red / range_,
        torch.where(largest == green, 2 + by_green / range_, 4 + by_blue / range_),
    )
    of_channels = torch.arange(5, 0, -2, device=values.device)[:, None]
    places = (sixths.nan_to_num(0) + 6 * shift + of_channels) % 6
    return (largest - range_ * torch.minimum(places, 4 - places).clamp(0, 1)).mul(255.999 / 255).floor()


def _rotated(pictures: Tensor, turns: Tensor) -> Tensor:
    """Pictures (N, 3, H, H) turned by degrees (1 or N, 1), black where nothing was.

    (N, 0) leaves them alone.
    """
    if not turns.shape[1]:
        return pictures
    angle = turns.deg2rad()
    zero = torch.zeros_like(angle)
    rows = [torch.cat([angle.cos(), -angle.sin(), zero], 1), torch.cat([angle.sin(), angle.cos(), zero], 1)]
    places = affine_grid(torch.stack(rows, 1), [len(angle), *pictures.shape[1:]], align_corners=False)
    places = places.expand(len(pictures), -1, -1, -1)
    return grid_sample(pictures, places, align_corners=False).round_()
