"""Milliseconds of one core for an augmented view: ours, and by the same steps of torchvision, one by one.

python benchmarks/augmentation.py
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from vidclf.data.augmentation import as_tensor, draw_view, train_view
from vidclf.data.pictures import Frames
from vidclf.models.neural_config import AugmentConfig

ROUNDS = 9
FRAMES = 16


def by_torchvision(grid: Frames, size: int, hue: float, rotation: float) -> None:
    height, width = (round(0.9 * edge) for edge in grid.shape[1:3])
    seen = functional.resized_crop(
        as_tensor(grid[:FRAMES]), 5, 5, height, width, [size, size], antialias=True
    )
    seen = functional.adjust_brightness(seen, 1.1)
    seen = functional.adjust_saturation(functional.adjust_contrast(seen, 1.1), 1.1)
    seen = functional.adjust_hue(seen, hue) if hue else seen
    seen = functional.rotate(seen, rotation, InterpolationMode.BILINEAR) if rotation else seen
    seen.contiguous()


def milliseconds(calls: list[Callable[[], object]]) -> list[float]:
    """Medians; they take turns, so that a noisy moment hits all of them."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, durations in zip(calls, taken, strict=True):
            started = time.thread_time()
            call()
            durations.append(1e3 * (time.thread_time() - started))
    return [statistics.median(durations[1:]) for durations in taken]


def main() -> None:
    torch.set_num_threads(1)
    grid = np.random.default_rng(0).integers(0, 256, (64, 256, 342, 3), dtype=np.uint8)
    print(f"{'augmentation':<20}{'size':>6}{'torchvision':>13}{'ours':>8}{'ratio':>8}")
    cases: dict[str, dict[str, Any]] = {
        "default": {},
        "with hue": {"hue": 0.1},
        "with rotation": {"rotation": 10.0},
    }
    for name, keys in cases.items():
        for size in (112, 224):
            augment = AugmentConfig(**keys).model_dump()

            def ours(size: int = size, augment: dict[str, Any] = augment) -> None:
                drawn = draw_view(grid.shape, FRAMES, seed=0, clip="a", view=1, **augment)
                train_view(grid, size, drawn)

            def theirs(size: int = size, augment: dict[str, Any] = augment) -> None:
                by_torchvision(grid, size, augment["hue"], augment["rotation"])

            old, new = milliseconds([theirs, ours])
            print(f"{name:<20}{size:>6}{old:>13.1f}{new:>8.1f}{old / new:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
