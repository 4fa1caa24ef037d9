"""Weight gradients frame by frame are those of the convolution over volumes."""

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vidclf.models.frame_gradients import FrameGradients, Geometry, has_long_kernels, is_long, weight_gradient
from vidclf.models.networks import NETWORKS
from vidclf.models.own_networks import build_network

pytestmark = pytest.mark.usefixtures("one_thread")
small = st.integers(1, 3)


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 2), st.just(4), st.integers(1, 6), st.integers(4, 7), st.integers(4, 7)),
    kernel=st.tuples(small, small, small),
    stride=st.tuples(small, small, small),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 1)),
    options=st.fixed_dictionaries(
        {
            "dilation": st.sampled_from([(1, 1, 1), (2, 1, 1)]),
            "groups": st.sampled_from([1, 2]),
            "bias": st.booleans(),
        }
    ),
)
def test_equal_torchs_own_in_double_precision(
    shape: tuple[int, ...],
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int],
    padding: tuple[int, int, int],
    options: dict[str, Any],
) -> None:
    assume(shape[2] + 2 * padding[0] > options["dilation"][0] * (kernel[0] - 1))
    layer = torch.nn.Conv3d(4, 6, kernel, stride, padding, dtype=torch.float64, **options)
    generator = torch.Generator().manual_seed(0)
    volumes = torch.randn(*shape, generator=generator, dtype=torch.float64)
    found = []
    for mode in (False, True):
        layer.zero_grad()
        inputs = volumes.clone().requires_grad_()
        with FrameGradients() if mode else torch.enable_grad():
            outputs = layer(inputs)
        (outputs**3).sum().backward()
        found.append([outputs.detach(), inputs.grad, *(p.grad.clone() for p in layer.parameters())])
    geometry = Geometry(stride, padding, options["dilation"], options["groups"])
    of_weight = weight_gradient(3 * outputs.detach() ** 2, volumes, layer.weight.detach(), geometry)
    torch.testing.assert_close(of_weight, found[0][2], rtol=1e-9, atol=1e-9)
    for plain, by_frames in zip(*found, strict=True):
        torch.testing.assert_close(by_frames, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("frames", [5, 6, 7, 8])
def test_of_a_kernel_as_long_as_the_clip_they_are_true_in_single_precision_too(frames: int) -> None:
    """As S3D has at its fewest frames: with AVX-512, oneDNN's were off by half, or the process ended."""
    layer = torch.nn.Conv3d(16, 16, (7, 1, 1), (2, 1, 1), (3, 0, 0), bias=False)
    layer = layer.to(memory_format=torch.channels_last_3d)
    volumes = torch.randn(2, 16, frames, 12, 12, generator=torch.Generator().manual_seed(0))
    assert is_long(layer.weight, volumes, layer.stride) == (frames < 8)
    found = []
    for exact in (False, True):
        precise = layer.to(torch.float64) if exact else layer
        layer.zero_grad()
        with FrameGradients():
            outputs = precise(volumes.to(precise.weight.dtype))
        outputs.square().mean().backward()
        found.append(precise.weight.grad.double().clone())
    assert (found[0] - found[1]).abs().max() < 1e-4 * found[1].abs().max()


def test_a_frozen_input_and_a_frozen_layer_get_none() -> None:
    layer = torch.nn.Conv3d(2, 2, 3, padding=1)
    volumes = torch.randn(1, 2, 3, 5, 5)
    with FrameGradients():
        layer(volumes).sum().backward()
        assert layer.weight.grad is not None
        layer.requires_grad_(False)
        assert not layer(volumes).requires_grad


def test_in_autocast_they_round_as_bf16_does() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Conv3d(8, 8, 3, padding=1, bias=False)
    volumes = torch.randn(2, 8, 4, 9, 9, requires_grad=True)
    layer(volumes).square().mean().backward()
    exact, exact_input = layer.weight.grad.clone(), volumes.grad.clone()
    layer.zero_grad()
    volumes.grad = None
    with torch.autocast("cpu", torch.bfloat16), FrameGradients():
        outputs = layer(volumes)
        assert outputs.dtype == torch.bfloat16
    outputs.float().square().mean().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert (layer.weight.grad - exact).abs().max() < 0.02 * exact.abs().max()
    assert (volumes.grad - exact_input).abs().max() < 0.02 * exact_input.abs().max()


def test_of_torchvisions_networks_s3d_alone_has_such_kernels() -> None:
    with torch.device("meta"):
        found = {
            name
            for name, spec in NETWORKS.items()
            if spec.dims == 3 and has_long_kernels(build_network(name))
        }
    assert found == {"s3d"}
