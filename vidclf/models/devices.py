"""Where networks compute, and what is known of that device.

GPUs of CUDA and ROCm come first, then Apple's MPS and Intel's XPU, then the CPU; ``VIDCLF_DEVICE`` overrides.
torch, which takes seconds to import, is imported where it is first needed.
"""

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from vidclf.exceptions import InputError

if TYPE_CHECKING:
    import torch

VARIABLE = "VIDCLF_DEVICE"
SHARING = "VIDCLF_GPU_WORKERS"
"""The variable that says how many processes share the GPU's memory."""

_OTHERS = ("mps", "xpu")
"""torch's accelerators that are used where no GPU of CUDA or ROCm is."""
_OWN_MEMORY = ("cuda", "xpu")
_OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory"),
    *("CUDNN_STATUS_ALLOC_FAILED", "DEVICE_ALLOCATION_FAILED", "CUBLAS_STATUS_ALLOC_FAILED"),
)
_used: "list[torch.device]" = []
_informant: Callable[[], Mapping[str, str]] | None = None


def current() -> "torch.device":
    """The device that computes for this process from now on, with its index.

    Raises:
        InputError: ``VIDCLF_DEVICE`` names none that is here.
    """
    import torch

    kind, index = _chosen()
    if kind == "cpu":
        return torch.device(kind)
    if index is None:
        index = 0 if kind == "mps" else int(_module(kind).current_device())
    device = torch.device(kind, index)
    if device not in _used:
        _used.append(device)
        if _share() < 1 and kind in _OWN_MEMORY:  # else who comes first leaves the others none
            _module(kind).set_per_process_memory_fraction(_share(), device)
    return device


def kind() -> str:
    """The type of the device that is to compute; found without touching it."""
    return _chosen()[0]


def _chosen() -> tuple[str, int | None]:
    """Type and, where it is asked for, index of the device; found without touching it."""
    import torch

    kinds = ["cuda"] if torch.cuda.is_available() else []
    other = torch.accelerator.current_accelerator(check_available=True)
    kinds += [other.type] if other is not None and other.type in _OTHERS else []
    asked = os.environ.get(VARIABLE, "")
    if not asked:
        return (*kinds, "cpu")[0], None
    if asked == "cpu":
        return asked, None
    counts = {kind: _module(kind).device_count() for kind in kinds}
    kind, colon, index = asked.partition(":")
    if kind in counts and (not colon or (index.isdecimal() and int(index) < counts[kind])):
        return kind, int(index) if colon else None
    here = [f"{kind}:{index}" for kind, count in counts.items() for index in range(count)]
    raise InputError(f"{VARIABLE} = {asked}: torch finds {', '.join([*here, 'cpu'])} here")


def _module(kind: str) -> Any:
    """torch's module for a type of device, as `torch.cuda`."""
    return importlib.import_module(f"torch.{kind}")


@contextlib.contextmanager
def left_alone(informant: Callable[[], Mapping[str, str]]) -> Iterator[None]:
    """Meanwhile this process touches no device, and takes each `fact` from what ``informant`` says."""
    global _informant  # noqa: PLW0603
    before, _informant = _informant, informant
    try:
        yield
    finally:
        _informant = before


def fact(name: str, find: Callable[[], str]) -> str:
    """What ``find`` finds out of the device; see `left_alone`."""
    return find() if _informant is None or kind() == "cpu" else _informant()[name]


def name() -> str:
    """The model of the device that is to compute; ``cpu`` for the CPU."""
    return fact("device", lambda: model(current()))


def used_name() -> str:
    """The model of the device that has computed in this process; ``cpu`` where none but the CPU has."""
    return model(_used[-1]) if _used else "cpu"


def model(device: "torch.device") -> str:
    """The model of a GPU; its type for another device."""
    if device.type in _OWN_MEMORY:
        return str(_module(device.type).get_device_name(device))
    return device.type


def cache_bytes(device: "torch.device") -> int:
    """Bytes of the device's memory that caches of this process may take; 0 where it has none of its own."""
    if device.type not in _OWN_MEMORY:
        return 0
    free, total = _module(device.type).mem_get_info(device)
    return int(min(free, total * _share()) / 4)


def _share() -> float:
    """The share of a device's memory that is for this process."""
    sharing = os.environ.get(SHARING) or "1"
    if not sharing.isdecimal() or int(sharing) == 0:
        raise InputError(f"{SHARING} = {sharing}: expected a number of processes, 1 or more")
    return 1 / int(sharing)


@contextlib.contextmanager
def forked_rng(device: "torch.device") -> Iterator[None]:
    """Leaves torch's global random state as it was; MPS's own state cannot be kept."""
    import torch

    indices = [device.index] if device.type in _OWN_MEMORY else []
    with torch.random.fork_rng(indices, device_type=device.type if indices else "cuda"):
        yield


def finish() -> None:
    """Waits until all that is queued on the devices is done."""
    for device in _used:
        _module(device.type).synchronize()


def release_memory() -> None:
    """Gives the memory that torch holds in reserve back to the devices."""
    for device in _used:
        _module(device.type).empty_cache()


def reset_peak_memory() -> None:
    """Has `peak_memory` count from now on."""
    for device in _used:
        if device.type == "cuda":
            _module("cuda").reset_peak_memory_stats(device)


def peak_memory(kind: Literal["allocated", "reserved"]) -> int | None:
    """Bytes that torch's tensors took at most, or its allocator held; ``None`` where no CUDA GPU was used."""
    devices = [device for device in _used if device.type == "cuda"]
    return sum(map(getattr(_module("cuda"), f"max_memory_{kind}"), devices)) if devices else None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory has run out: torch's, or that of a library below it."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)


def failed() -> bool:
    """Whether a device no longer computes in this process: some errors of CUDA stay until it ends."""
    import torch

    try:
        for device in _used:
            torch.zeros(1, device=device).item()
    except RuntimeError as error:
        return not is_out_of_memory(error)
    return False
