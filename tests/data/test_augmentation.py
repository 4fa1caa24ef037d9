import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import ResNet18_Weights
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from vidclf import config
from vidclf.data import augmentation, sampling
from vidclf.data.augmentation import as_tensor, draw_view, eval_view, eval_views, train_views
from vidclf.data.pictures import Frames
from vidclf.exceptions import InputError
from vidclf.models.neural_config import AugmentConfig

OFF: dict[str, Any] = AugmentConfig(
    flip=0, scale=(1.0, 1.0), brightness=0, contrast=0, saturation=0, temporal=False
).model_dump()
STRONG: dict[str, Any] = AugmentConfig(
    scale=(0.3, 1.0), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2, rotation=20
).model_dump()
IDENTITY = {"seed": 0, "clip": "a", "view": 1}


def noise(frames: int = 12, height: int = 48, width: int = 64) -> Frames:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def still(frames: int = 12) -> Frames:
    return np.repeat(noise(1), frames, axis=0)


def train_view(grid: Frames, frames: int, size: int, **settings_: Any) -> torch.Tensor:
    return augmentation.train_view(grid, size, draw_view(grid.shape, frames, **settings_))


def test_one_draw_for_all_frames_of_a_clip() -> None:
    views = [train_view(still(), 8, 32, seed=0, clip="a", view=view, **STRONG) for view in range(8)]
    assert all(torch.equal(view, view[:1].expand_as(view)) for view in views)
    assert len({view[0].numpy().tobytes() for view in views}) == 8


def test_per_frame_draws_anew_for_every_frame() -> None:
    view = train_view(still(), 8, 32, **IDENTITY, **STRONG | {"per_frame": True})
    assert view.shape == (8, 3, 32, 32)
    assert len({frame.numpy().tobytes() for frame in view}) == 8


def test_a_view_depends_on_seed_clip_and_view_alone() -> None:
    first = train_view(noise(), 8, 32, **IDENTITY, **STRONG)
    torch.manual_seed(5)
    np.random.seed(5)
    train_view(noise(), 8, 32, seed=9, clip="b", view=2, **STRONG)
    assert torch.equal(train_view(noise(), 8, 32, **IDENTITY, **STRONG), first)
    for other in ({"seed": 1}, {"clip": "b"}, {"view": 2}):
        assert not torch.equal(train_view(noise(), 8, 32, **IDENTITY | other, **STRONG), first)


def test_global_random_states_are_neither_read_nor_changed() -> None:
    before_torch, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    train_view(noise(), 8, 32, **IDENTITY, **STRONG | {"per_frame": True})
    assert torch.equal(torch.get_rng_state(), before_torch)
    assert np.array_equal(np.random.get_state()[1], before_numpy)


def test_temporal_jitter_stays_inside_each_frames_part() -> None:
    grid = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None, None], (64, 20, 20, 3))
    jittered = [
        train_view(grid, 8, 20, seed=0, clip="a", view=view, **OFF | {"temporal": True})[:, 0, 10, 10]
        for view in range(20)
    ]
    assert all(torch.equal(view // 8, torch.arange(8)) for view in jittered)
    assert len({tuple(view.tolist()) for view in jittered}) > 1
    fixed = train_view(grid, 8, 20, **IDENTITY, **OFF)
    assert fixed[:, 0, 10, 10].tolist() == sampling.sample_indices(64, 8).tolist()


def test_certain_flip_mirrors_and_leaves_the_other_draws_alone() -> None:
    settings_ = STRONG | {"rotation": 0.0}
    plain = train_view(noise(), 4, 32, **IDENTITY, **settings_ | {"flip": 0.0})
    mirrored = train_view(noise(), 4, 32, **IDENTITY, **settings_ | {"flip": 1.0})
    # Contrast shifts around a mean that is summed in another order.
    assert (mirrored.flip(-1).int() - plain.int()).abs().max() <= 1


def test_read_only_pictures_become_a_tensor_without_a_warning() -> None:
    pictures = noise(2, 5, 7)
    assert as_tensor(pictures).data_ptr() == pictures.ctypes.data
    pictures.flags.writeable = False
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tensor = as_tensor(pictures)
    finally:
        torch.set_warn_always(False)
    np.testing.assert_array_equal(tensor.permute(0, 2, 3, 1), pictures)


@pytest.mark.parametrize("strength", ["brightness", "contrast", "saturation", "hue", "rotation"])
def test_every_strength_changes_pixels(strength: str) -> None:
    plain = train_view(noise(), 4, 32, **IDENTITY, **OFF)
    assert not torch.equal(train_view(noise(), 4, 32, **IDENTITY, **OFF | {strength: 0.4}), plain)


def test_crops_take_the_share_of_area_asked_for() -> None:
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, None, :, None], (4, 200, 200, 3))
    spans = []
    for view in range(40):
        crop = train_view(ramp, 2, 50, seed=0, clip="a", view=view, **OFF | {"scale": (0.25, 0.25)}).float()
        spans.append(float(crop[0, 0, 0, -1] - crop[0, 0, 0, 0]) * 50 / 49)
    # A quarter of 200 x 200, at ratios from 3/4 to 4/3: widths from 87 to 115.
    assert 83 < min(spans) < 95
    assert 105 < max(spans) < 119


def by_torchvision(
    grid: Frames, frames: int, size: int, *, seed: int, clip: str, view: int, **augment: Any
) -> torch.Tensor:
    """A view in torchvision's own steps, each rounded to bytes."""
    generator = np.random.default_rng(int(config.digest([seed, clip, view]), 16))
    chosen = sampling.sample_indices(len(grid), frames, generator if augment["temporal"] else None)
    pictures = as_tensor(grid[chosen])
    views = []
    for part in pictures.split(1 if augment["per_frame"] else frames):
        box = augmentation._crop_box(*grid.shape[1:3], generator, augment["scale"])
        seen = functional.resized_crop(part, *box, [size, size], antialias=True)
        seen = functional.horizontal_flip(seen) if generator.random() < augment["flip"] else seen
        steps = [
            (functional.adjust_brightness, 1, augment["brightness"]),
            (functional.adjust_contrast, 1, augment["contrast"]),
            (functional.adjust_saturation, 1, augment["saturation"]),
            (functional.adjust_hue, 0, augment["hue"]),
        ]
        drawn = [(step, at + by * generator.uniform(-1, 1), by) for step, at, by in steps]
        for place in generator.permutation(4):
            step, amount, by = drawn[place]
            seen = step(seen, amount) if by > 0 else seen
        angle = generator.uniform(-augment["rotation"], augment["rotation"])
        bilinear = InterpolationMode.BILINEAR
        views.append(functional.rotate(seen, angle, bilinear) if augment["rotation"] > 0 else seen)
    return torch.cat(views)


def photographs() -> list[Frames]:
    """Smooth clips of different lengths and sizes, with some noise."""
    generator = np.random.default_rng(0)
    found = []
    for frames, height, width in ((20, 60, 80), (9, 80, 60), (6, 45, 45)):
        coarse = torch.from_numpy(generator.uniform(0, 255, (frames, 3, height // 9, width // 9)))
        smooth = functional.resize(coarse, [height, width]).permute(0, 2, 3, 1).numpy()
        noisy = smooth + generator.normal(0, 4, smooth.shape)
        found.append(noisy.clip(0, 255).astype(np.uint8))
    return found


@pytest.mark.parametrize("size", [24, 64])
@pytest.mark.parametrize(
    "augment",
    [
        AugmentConfig().model_dump(),
        AugmentConfig(per_frame=True, temporal=False).model_dump(),
        STRONG,
        STRONG | {"per_frame": True},
        OFF | {"scale": (0.3, 1.0), "flip": 0.5},
    ],
)
def test_views_are_torchvisions_within_rounding(augment: dict[str, Any], size: int) -> None:
    grids = photographs()
    for view in range(3):
        names = [{"seed": 3, "clip": str(place), "view": view} for place in range(len(grids))]
        pairs = list(zip(grids, names, strict=True))
        expected = torch.stack([by_torchvision(grid, 8, size, **name, **augment) for grid, name in pairs])
        alone = torch.stack([train_view(grid, 8, size, **name, **augment) for grid, name in pairs])
        drawn = [draw_view(grid.shape, 8, **name, **augment) for grid, name in pairs]
        at_once = train_views(grids, size, drawn, torch.device("cpu"))
        for found in (alone, at_once):
            # A byte more or less before a step is a few after it, most of all for the hue of what is grey.
            difference = (found.int() - expected.int()).abs()
            assert difference.max() <= 12
            assert difference.float().mean() < 0.4
            assert (difference > 2).float().mean() < 0.03


@pytest.mark.parametrize(
    ("size", "resize", "interpolation"),
    [(24, 30, "bilinear"), (40, (50, 64), "bilinear"), (24, 30, "bicubic"), (80, 100, "bicubic")],
)
def test_evaluation_views_of_a_batch_are_those_of_its_clips(
    size: int, resize: Any, interpolation: str
) -> None:
    grids, how = photographs(), {"interpolation": interpolation, "instant": 0.3}
    expected = torch.stack([eval_view(grid, 8, size, resize, **how) for grid in grids])
    found = eval_views(grids, 8, size, resize, torch.device("cpu"), **how)
    difference = (found.int() - expected.int()).abs()
    assert difference.max() <= 3  # torchvision has weights of 16 bits here
    assert (difference > 1).float().mean() < 1e-3


class Operations(TorchDispatchMode):
    """Counts the kernels that torch is asked for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("augment", [AugmentConfig().model_dump(), STRONG, STRONG | {"per_frame": True}])
def test_a_large_batch_takes_as_many_kernels_as_a_small_one(augment: dict[str, Any]) -> None:
    counts = []
    for clips in (30, 60):
        drawn = [
            draw_view((12, 48, 64), 2, seed=0, clip=str(clip), view=1, **augment) for clip in range(clips)
        ]
        with Operations() as operations:
            train_views([noise()] * clips, 16, drawn, torch.device("cpu"))
        counts.append(operations.count)
    assert 10 < counts[0] == counts[1]


@settings(max_examples=40)
@given(
    st.integers(1, 6),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.integers(1, 8),
    st.integers(0, 2**32),
    st.booleans(),
)
@pytest.mark.slow
def test_views_of_any_clip_have_the_shape_asked_for(
    available: int, edges: tuple[int, int], frames: int, view: int, per_frame: bool
) -> None:
    grid = noise(available, *edges)
    strong = STRONG | {"per_frame": per_frame}
    trained = train_view(grid, frames, 24, seed=0, clip="a", view=view, **strong)
    evaluated = eval_view(grid, frames, 24, 27)
    drawn = draw_view(grid.shape, frames, seed=0, clip="a", view=view, **strong)
    (at_once,) = train_views([grid], 24, [drawn], torch.device("cpu"))
    assert at_once.shape == trained.shape
    assert trained.shape == evaluated.shape == (frames, 3, 24, 24)
    assert trained.dtype == evaluated.dtype == torch.uint8


def test_eval_view_is_torchvisions_own_preprocessing() -> None:
    grid = noise(20, 300, 400)
    chosen = torch.from_numpy(grid[sampling.sample_indices(20, 4)]).permute(0, 3, 1, 2)
    transforms = ResNet18_Weights.IMAGENET1K_V1.transforms()
    ours = functional.normalize(eval_view(grid, 4, 224, 256) / 255, transforms.mean, transforms.std)
    one_grey_level = 1 / 255 / min(transforms.std)
    assert torch.allclose(ours, transforms(chosen), atol=1.01 * one_grey_level)


def test_eval_view_resizes_to_height_and_width_and_crops_the_centre() -> None:
    grid = np.zeros((3, 90, 60, 3), np.uint8)
    grid[:, 40:50, 25:35] = 255
    view = eval_view(grid, 3, 112, (128, 171))
    rows, columns = (view[0, 0] > 127).nonzero(as_tuple=True)
    assert abs(float(rows.float().mean()) - 55.5) < 1
    assert abs(float(columns.float().mean()) - 55.5) < 1
    assert int(columns.max() - columns.min()) + 1 == pytest.approx(10 * 171 / 60, abs=2)


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.8, 0.6), (0.5, 1.2)])
def test_impossible_scales_are_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="expected 0 < low <= high <= 1"):
        config.validate(AugmentConfig, {"scale": list(scale)}, "x.toml")


def test_defaults() -> None:
    assert AugmentConfig().model_dump() == {
        "flip": 0.5, "scale": (0.6, 1.0), "brightness": 0.2, "contrast": 0.2, "saturation": 0.2,
        "hue": 0.0, "rotation": 0.0, "temporal": True, "per_frame": False,
    }  # fmt: skip
