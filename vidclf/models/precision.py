"""In which precision networks compute, and what torch is told so that a seed repeats its figures."""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from vidclf.models import devices
from vidclf.models.frame_gradients import FrameGradients
from vidclf.models.train_config import Precision

HALVES: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Those of half the bits: weights stay in fp32, products and convolutions are rounded."""

_TOLERANCE = 0.02
"""Of the largest value. bf16 rounds by up to 2**-9 of a value, the rest is room for sums."""
_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def resolved(asked: Literal["auto"] | Precision) -> Precision:
    """What a precision means here: fp16 and TF32 are of CUDA GPUs, elsewhere they mean fp32."""
    if asked == "auto":
        return cast(Precision, devices.fact("precision", _automatic))
    return "fp32" if asked in ("fp16", "tf32") and devices.kind() != "cuda" else asked


def served(trained_in: Precision) -> Precision:
    """In which precision a network computes here that was trained elsewhere, maybe."""
    return resolved("auto" if trained_in in HALVES else trained_in)


def _automatic() -> Precision:
    halves: tuple[Precision, ...] = ("bf16", "fp16")
    return next((half for half in halves if is_native(half) and agrees(half)), "fp32")


def is_native(half: Precision) -> bool:
    """Whether the device that computes has arithmetic of its own for bf16 or fp16."""
    device = devices.current()
    if device.type == "cuda":
        if half == "bf16":
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        capability = torch.cuda.get_device_capability(device)
        return capability >= (7, 0) or capability == (6, 0)  # 6.1 has a 64th of the units
    if device.type != "cpu" or half != "bf16":
        return False
    if not hasattr(torch.cpu, "get_capabilities"):  # torch 2.10
        return bool(torch.cpu._is_avx512_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@functools.cache
def agrees(half: Precision) -> bool:
    """Whether convolutions and their gradients are those of fp32, up to rounding, in the layouts in use.

    With some versions of cuDNN they do not (pytorch#163539).
    """
    with devices.forked_rng(torch.device("cpu")):  # layers draw weights when they are made
        checked: list[nn.Conv2d | nn.Conv3d] = [
            nn.Conv3d(3, 16, (3, 7, 7), (1, 2, 2), (1, 3, 3)),
            nn.Conv3d(16, 16, 3, 1, 1),
            nn.Conv3d(16, 32, 3, 2, 1),
            nn.Conv3d(16, 32, 1, 2),
            nn.Conv3d(16, 16, (3, 1, 1), 1, (1, 0, 0)),
            nn.Conv2d(3, 16, 7, 2, 3),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.Conv2d(16, 16, 3, 1, 1, groups=16),
        ]
    return all(_layer_agrees(layer, half) for layer in checked)


def _layer_agrees(layer: nn.Conv2d | nn.Conv3d, half: Precision) -> bool:
    generator, device = torch.Generator().manual_seed(0), devices.current()
    three = isinstance(layer, nn.Conv3d)
    layout = torch.channels_last_3d if three else torch.channels_last

    def drawn(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator).to(device)
        return values.to(memory_format=layout) if len(shape) == layer.weight.ndim else values

    inputs = drawn(2, layer.in_channels, *([8] if three else []), 28, 28).requires_grad_()
    layer = layer.to(device)
    with torch.no_grad():
        layer.weight.copy_(drawn(*layer.weight.shape))
    found: list[tuple[Tensor, ...]] = []
    for precision in ("fp32", half):
        with reproducible(precision), computing(device, precision):
            outputs = layer(inputs).float()
        if not found:
            gradient = drawn(*outputs.shape)
        of_inputs, of_weight = torch.autograd.grad(outputs, [inputs, layer.weight], gradient)
        found.append((outputs.detach(), of_inputs, of_weight))
    return all(
        bool((exact - rounded).abs().max() < _TOLERANCE * exact.abs().max())
        for exact, rounded in zip(*found, strict=True)
    )


@contextlib.contextmanager
def computing(device: torch.device, precision: Precision, *, long_kernels: bool = False) -> Iterator[None]:
    """Matrix products and convolutions are computed in a precision meanwhile.

    Args:
        device: Where.
        precision: Which.
        long_kernels: See `vidclf.models.frame_gradients.has_long_kernels`.
    """
    by_frames = device.type == "cpu" and (precision == "bf16" or long_kernels)
    gradients = FrameGradients() if by_frames else contextlib.nullcontext()
    half = HALVES.get(precision, torch.bfloat16)
    with torch.autocast(device.type, half, enabled=precision in HALVES), gradients:
        yield


@contextlib.contextmanager
def reproducible(precision: Precision) -> Iterator[None]:
    """cuDNN and torch compute the same each time, and use TF32 where that is asked for alone.

    On CUDA torch warns of an operation that it cannot repeat.
    """
    matmul, deterministic = torch.backends.cuda.matmul, cast(Any, torch.utils.deterministic)
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filled, tf32 = deterministic.fill_uninitialized_memory, matmul.allow_tf32
    cudnn = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=precision == "tf32"
    )
    with cudnn:
        try:
            if devices.kind() == "cuda":
                os.environ.setdefault(_CUBLAS, ":4096:8")
                torch.use_deterministic_algorithms(True, warn_only=True)
                deterministic.fill_uninitialized_memory = False
            matmul.allow_tf32 = precision == "tf32"
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            deterministic.fill_uninitialized_memory = filled
            matmul.allow_tf32 = tf32
