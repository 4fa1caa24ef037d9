"""Where networks compute; what torch finds is made up."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vidclf.exceptions import InputError
from vidclf.models import devices, precision

Found = Callable[..., None]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Found:
    """Makes torch find so many CUDA devices, and another accelerator."""
    monkeypatch.delenv(devices.VARIABLE, raising=False)
    monkeypatch.setattr(devices, "_used", [])

    def find(cuda: int = 0, other: str | None = None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: cuda - 1)
        accelerator = None if other is None else SimpleNamespace(type=other)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: accelerator)
        for module in (torch.mps, torch.xpu):
            monkeypatch.setattr(module, "device_count", lambda: 1)
        monkeypatch.setattr(torch.xpu, "current_device", lambda: 0)

    return find


@pytest.mark.parametrize(
    ("here", "asked", "device"),
    [
        ({}, "", "cpu"),
        ({"cuda": 2}, "", "cuda:1"),
        ({"cuda": 2, "other": "cuda"}, "cuda:0", "cuda:0"),
        ({"cuda": 1}, "cuda", "cuda:0"),
        ({"cuda": 1, "other": "xpu"}, "", "cuda:0"),
        ({"other": "mps"}, "", "mps:0"),
        ({"other": "xpu"}, "", "xpu:0"),
        ({"cuda": 1, "other": "xpu"}, "xpu", "xpu:0"),
        ({"other": "mps"}, "cpu", "cpu"),
        ({"other": "hpu"}, "", "cpu"),
    ],
)
def test_the_device_is_the_best_that_is_here_or_the_one_that_is_asked_for(
    here: dict[str, Any], asked: str, device: str, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(**here)
    monkeypatch.setenv(devices.VARIABLE, asked)
    assert devices.current() == torch.device(device)


@pytest.mark.parametrize("asked", ["cuda:2", "xpu", "gpu", "cuda:", "cuda:-1", "cpu:0"])
def test_a_device_that_is_not_here_is_refused(
    asked: str, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(cuda=2)
    monkeypatch.setenv(devices.VARIABLE, asked)
    with pytest.raises(InputError, match=rf"^VIDCLF_DEVICE = {asked}: torch finds cuda:0, cuda:1, cpu here$"):
        devices.current()


@pytest.mark.parametrize("sharing", ["0", "half", "-1", "1.5"])
def test_a_number_of_processes_that_share_a_gpu_is_a_number(
    sharing: str, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(cuda=1)
    monkeypatch.setenv(devices.SHARING, sharing)
    with pytest.raises(InputError, match=f"^VIDCLF_GPU_WORKERS = {sharing}: expected a number of processes"):
        devices.current()


def test_a_process_that_leaves_the_device_alone_is_told_of_it(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(*_: object) -> None:
        raise AssertionError

    found(cuda=1)
    for name in ("current_device", "get_device_name", "is_bf16_supported", "_lazy_init"):
        monkeypatch.setattr(torch.cuda, name, touched)
    with devices.left_alone(lambda: {"device": "a GPU", "precision": "bf16"}):
        assert (devices.name(), precision.resolved("auto")) == ("a GPU", "bf16")
    with pytest.raises(AssertionError):
        devices.name()


def test_only_a_cpu_need_not_be_asked_of(found: Found) -> None:
    found()
    with devices.left_alone(dict):
        assert devices.name() == devices.used_name() == "cpu"
        assert precision.resolved("auto") in ("fp32", "bf16")


def test_other_accelerators_compute_in_fp32(found: Found) -> None:
    found(other="mps")
    assert precision.resolved("auto") == "fp32"


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("stand-in"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: RuntimeError, is_memory: bool) -> None:
    assert devices.is_out_of_memory(error) == is_memory


def test_a_device_has_failed_where_it_computes_no_more(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[RuntimeError] = []

    def zeros(*_: object, device: torch.device) -> torch.Tensor:
        for error in raised:
            raise error
        return torch.ones(())

    found(cuda=1)
    monkeypatch.setattr(torch, "zeros", zeros)
    raised.append(torch.AcceleratorError("CUDA error: device-side assert triggered"))
    assert not devices.failed(), "nothing has been computed on it"
    devices.current()
    assert devices.failed()
    raised[0] = torch.OutOfMemoryError("CUDA out of memory")
    assert not devices.failed()
    raised.clear()
    assert not devices.failed()
