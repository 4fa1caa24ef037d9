"""In which precision networks compute; GPUs are those of the stand-in's tests."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vidclf.models import devices, precision
from vidclf.models.networks import NETWORKS
from vidclf.models.video_network import VideoNetwork

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("kind", "native", "agrees", "expected"),
    [
        ("cuda", ("bf16", "fp16"), ("bf16", "fp16"), "bf16"),
        ("cuda", ("bf16", "fp16"), ("fp16",), "fp16"),
        ("cuda", ("fp16",), ("bf16", "fp16"), "fp16"),
        ("cuda", ("fp16",), (), "fp32"),
        ("cuda", (), ("bf16", "fp16"), "fp32"),
        ("cpu", ("bf16",), ("bf16",), "bf16"),
    ],
)
def test_auto_is_the_first_that_is_native_and_agrees(
    kind: str,
    native: tuple[str, ...],
    agrees: tuple[str, ...],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "kind", lambda: kind)
    monkeypatch.setattr(precision, "is_native", lambda half: half in native)
    monkeypatch.setattr(precision, "agrees", lambda half: half in agrees)
    assert precision.resolved("auto") == expected
    # A network is served in what the machine has; one that was trained in fp32 stays as it was scored.
    assert [precision.served(half) for half in ("bf16", "fp16", "fp32")] == [expected, expected, "fp32"]
    own = [precision.resolved(asked) for asked in ("fp32", "tf32", "bf16", "fp16")]
    assert own == (["fp32", "tf32", "bf16", "fp16"] if kind == "cuda" else ["fp32", "fp32", "bf16", "fp32"])


@pytest.mark.parametrize(
    ("capability", "fp16"), [((6, 0), True), ((6, 1), False), ((7, 0), True), ((7, 5), True), ((9, 0), True)]
)
def test_gpus_with_units_for_fp16_are_known(
    capability: tuple[int, int], fp16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "current", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert precision.is_native("fp16") == fp16


@pytest.fixture
def anew() -> None:
    precision.agrees.cache_clear()


@pytest.mark.usefixtures("anew")
def test_the_check_leaves_the_random_state_of_the_program_as_it_was() -> None:
    before = torch.get_rng_state()
    precision.agrees("bf16")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("anew")
def test_bf16_of_a_cpu_agrees() -> None:
    assert precision.agrees("bf16")


class Wrong(TorchDispatchMode):
    """One of a convolution's results is off by a twentieth of its largest value, in bf16."""

    def __init__(self, operation: str, place: int, ndim: int) -> None:
        super().__init__()
        self.operation, self.place, self.ndim = operation, place, ndim

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ != self.operation or args[0].dtype != torch.bfloat16:
            return results
        result = results[self.place] if isinstance(results, tuple) else results
        if result is not None and args[0].ndim == self.ndim:
            result[(0,) * result.ndim] += 0.05 * result.abs().max()
        return results


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize(
    ("operation", "place", "ndim"),
    [
        *(("convolution", 0, 4), ("convolution", 0, 5)),
        *(("convolution_backward", 0, 4), ("convolution_backward", 0, 5)),
        ("convolution_backward", 1, 4),  # on a CPU the weights of volumes, too, see `FrameGradients`
    ],
)
def test_a_wrong_output_or_gradient_is_noticed(operation: str, place: int, ndim: int) -> None:
    with Wrong(operation, place, ndim):
        assert not precision.agrees("bf16")
    precision.agrees.cache_clear()


@pytest.mark.parametrize("asked", ["fp32", "tf32"])
def test_tf32_is_used_where_it_is_asked_for_alone(asked: Any) -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with precision.reproducible(asked):
        flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        assert flags == (asked == "tf32",) * 2
        assert torch.backends.cudnn.deterministic
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


UNREPEATABLE = {
    *("adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d", "avg_pool3d", "cumsum"),
    *("embedding_bag", "fractional_max_pool2d", "grid_sampler_2d", "kthvalue", "max_pool3d_with_indices"),
    *("max_unpool2d", "median", "nll_loss2d", "put", "reflection_pad2d", "replication_pad3d"),
    *("upsample_bilinear2d", "upsample_trilinear3d"),
}
"""Operations of `torch.use_deterministic_algorithms` that CUDA cannot repeat, or whose gradient it cannot."""


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__.strip("_"))
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
def test_cuda_repeats_the_training_of_all_networks_but_those_that_pool_volumes() -> None:
    found = set()
    for name, spec in NETWORKS.items():
        with torch.device("meta"):
            network = VideoNetwork(name, weights="none", classes=2, dropout=0, frozen_stages=0)
            inputs = torch.empty(2, spec.min_frames, 3, spec.min_size, spec.min_size)
        with Operations() as operations:
            network(inputs).sum().backward()
        assert "convolution_backward" in operations.names
        if operations.names & (UNREPEATABLE | {f"{each}_backward" for each in UNREPEATABLE}):
            found.add(name)
    assert found == {"s3d", "mvit_v1_b", "mvit_v2_s"}
