"""Weight gradients of convolutions over volumes, computed frame by frame.

oneDNN's own (of torch 2.15) fails in two cases, and its two-dimensional one in neither:

- In bf16 on a CPU with AMX it never returns for some shapes where it may use two threads or more: for
  256 to 256 channels, 3 x 3 x 3, over 4 x 28 x 28, as R3D-18 has at 224 pixels.
- In fp32 on a CPU with AVX-512, a kernel of 7 frames with a stride of 2 over 5 to 7 frames, as S3D has at
  its fewest, gets a wrong gradient, or the process ends.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_LONG = 7
"""Frames of a kernel from which on oneDNN was found to fail; 5 and fewer are right."""


class Geometry(NamedTuple):
    """How a convolution over volumes moves: triples for time, height and width, and groups of channels."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int


class FrameGradients(TorchFunctionMode):
    """Has every `torch.conv3d` on a CPU whose weight gradient oneDNN fails at compute it frame by frame."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv3d and torch.is_grad_enabled() and args[1].requires_grad and not kwargs:
            volumes, weight, bias, *moves = args
            geometry = Geometry(*moves)
            if torch.is_autocast_enabled("cpu") or is_long(weight, volumes, geometry.stride):
                return _convolve(volumes, weight, bias, geometry)
        return func(*args, **(kwargs or {}))


def is_long(weight: Tensor, volumes: Tensor, stride: Sequence[int]) -> bool:
    """Whether a kernel that skips frames is at least as long as the volumes: see above."""
    return stride[0] > 1 and weight.shape[2] >= volumes.shape[2]


def has_long_kernels(network: nn.Module) -> bool:
    """Whether a network has a kernel that `is_long` for some clips, and that oneDNN fails at then."""
    return any(
        isinstance(each, nn.Conv3d) and each.stride[0] > 1 and each.kernel_size[0] >= _LONG
        for each in network.modules()
    )


def _convolve(volumes: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        volumes, weight = volumes.to(torch.bfloat16), weight.to(torch.bfloat16)
    result: Tensor = _Convolution.apply(volumes, weight, geometry)
    return result if bias is None else result + bias.to(result.dtype).view(-1, 1, 1, 1)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, volumes: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(volumes, weight)
        ctx.geometry = geometry
        return torch.conv3d(volumes, weight, None, *geometry)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None]:
        volumes, weight = ctx.saved_tensors
        (gradient,) = gradients
        of_volumes = None
        if ctx.needs_input_grad[0]:
            of_volumes = _backward(gradient, volumes, weight, ctx.geometry, of_weight=False)
        return of_volumes, weight_gradient(gradient, volumes, weight, ctx.geometry), None


def _backward(
    gradient: Tensor, inputs: Tensor, weight: Tensor, geometry: Geometry, *, of_weight: bool
) -> Tensor:
    """The gradient of a convolution's inputs or of its weight, by torch's own kernels."""
    stride, padding, dilation, groups = geometry
    gradients = torch.ops.aten.convolution_backward(
        gradient,
        inputs,
        weight,
        None,
        stride,
        padding,
        dilation,
        False,
        [0] * len(stride),
        groups,
        [not of_weight, of_weight, False],
    )
    found: Tensor = gradients[int(of_weight)]
    return found


def weight_gradient(gradient: Tensor, volumes: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of a three-dimensional convolution's weight, as a sum of two-dimensional ones.

    Each slice of the kernel in time sees pairs of an input and an output frame;
    over all pairs of all volumes it is the kernel of a convolution of frames.

    Args:
        gradient: Of the output, (B, out, T', H', W').
        volumes: The input, (B, in, T, H, W).
        weight: (out, in / groups, kT, kH, kW).
        geometry: Of the convolution.

    Returns:
        Shaped like ``weight``.
    """
    stride, padding, dilation, groups = geometry
    in_plane = Geometry(stride[1:], padding[1:], dilation[1:], groups)
    times, outputs = volumes.shape[2], gradient.shape[2]
    slices = []
    for place in range(weight.shape[2]):
        shift = place * dilation[0] - padding[0]
        first = max(0, -(shift // stride[0]))
        last = min(outputs, (times - 1 - shift) // stride[0] + 1)
        if last <= first:
            slices.append(torch.zeros_like(weight[:, :, place]))
            continue
        begin = first * stride[0] + shift
        frames = _frames(volumes[:, :, begin : begin + (last - first - 1) * stride[0] + 1 : stride[0]])
        kernel = weight[:, :, place].contiguous(memory_format=torch.channels_last)
        outputs_seen = _frames(gradient[:, :, first:last])
        slices.append(_backward(outputs_seen, frames, kernel, in_plane, of_weight=True))
    return torch.stack(slices, dim=2)


def _frames(volumes: Tensor) -> Tensor:
    """(B, C, T, H, W) as (B * T, C, H, W), channels last."""
    return volumes.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
