"""CUDA devices without a GPU: tensors that claim ``cuda`` and have their values in main memory.

A pytest plugin that is imported before torch: ``python -m pytest -n0 -p tests.gpu.standin FILE``. A small C
library answers the CUDA calls of torch's host code (streams, events, device numbers), so that torch's CUDA
dispatch, autocast lists and autograd threads are the real ones; a tensor subclass computes on the CPU. It
raises where tensors of different devices meet, and records waits, copies, kernels and memory with the line of
vidclf that caused them. It knows nothing of cuDNN's kernels, of streams that run at the same time, of races
and of fragmented memory; bf16 convolutions are computed in fp32 and rounded.
"""

import contextlib
import ctypes
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar
from unittest.mock import patch

DEVICES = 2
_PACKAGE = f"{os.sep}vidclf{os.sep}"

_DRIVER = r"""
static __thread int current;
static long made;
#define OK(name) int name() { return 0; }
int cudaGetDeviceCount(int *n) { *n = DEVICES; return 0; }
int cudaGetDevice(int *d) { *d = current; return 0; }
int cudaSetDevice(int d) { current = d; return 0; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return 0; }
int cudaStreamIsCapturing(void *s, int *is) { *is = 0; return 0; }
int cudaStreamCreateWithPriority(void **s, unsigned f, int p) { *s = (void *)(4096 + 16 * ++made); return 0; }
int cudaEventCreateWithFlags(void **e, unsigned f) { *e = (void *)(4096 + 16 * ++made); return 0; }
OK(cudaEventRecord) OK(cudaEventQuery) OK(cudaEventSynchronize) OK(cudaEventDestroy) OK(cudaStreamQuery)
OK(cudaStreamWaitEvent) OK(cudaStreamSynchronize) OK(cudaDeviceSynchronize) OK(cudaGetLastError) OK(cuInit)
int cudaDriverGetVersion(int *v) { *v = 13020; return 0; }
int cuDevicePrimaryCtxGetState(int d, unsigned *flags, int *active) { *flags = 0; *active = 1; return 0; }
"""


def _replace_driver() -> None:
    """Loads a library of CUDA calls, in which all that is loaded later finds them first."""
    if "torch" in sys.modules:
        raise ImportError("to be imported before torch: python -m pytest -n0 -p tests.gpu.standin FILE")
    package = importlib.util.find_spec("torch")
    assert package is not None and package.origin is not None
    # What torch calls of the driver, which only machines with a GPU have.
    stub = Path(package.origin).with_name("lib") / "libcaffe2_nvrtc.so"
    names = {match.decode() for match in re.findall(rb"\0(cu[A-Z]\w+)(?=\0)", stub.read_bytes())}
    answers = [
        f"OK({name})" for name in sorted(names) if f" {name}(" not in _DRIVER and f"({name})" not in _DRIVER
    ]
    with tempfile.TemporaryDirectory(prefix="vidclf-standin-") as folder:
        source, library = Path(folder, "driver.c"), Path(folder, "libcuda.so.1")
        source.write_text(_DRIVER + " ".join(answers))
        options = ["-shared", "-fPIC", "-w", f"-DDEVICES={DEVICES}", "-Wl,-soname,libcuda.so.1"]
        subprocess.run(["cc", *options, "-o", library, source], check=True)
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


_replace_driver()
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing  # noqa: E402

from vidclf.models import devices  # noqa: E402
from vidclf.models.frame_gradients import Geometry, is_long, weight_gradient  # noqa: E402

torch.cuda.is_available = lambda: False  # outside of `gpu`

Result = TypeVar("Result")
aten = torch.ops.aten
_WAITING = {
    *(aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.bincount),
    *(aten.repeat_interleave, aten.unique_dim, aten.unique_consecutive, aten.is_nonzero),
}
_COPIES = {aten._to_copy, aten.copy_}
_CROSSING = {*_COPIES, aten.index, aten.index_put_, aten._index_put_impl_}
"""Operations that take tensors of several devices."""
_NO_KERNEL = {
    aten._unsafe_view,
    *(aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.detach),
    *(aten.lift_fresh, aten.alias, aten._local_scalar_dense),
}
_TWO_KERNELS = {aten.convolution_backward, aten.native_batch_norm_backward}


@dataclass
class Memory:
    """Bytes of one device.

    Attributes:
        alive: Held now.
        peak: The most that were held since the log was reset.
        limit: More raises `torch.OutOfMemoryError`.
    """

    alive: int = 0
    peak: int = 0
    limit: int | None = None


class _Token:
    """Lives as long as the storage that it stands for."""


def _mapped(kind: type, function: Callable[[Any], Any], item: Any) -> Any:
    """``function`` of all of a kind among an operation's arguments; torch's `tree_map` takes much longer."""
    if isinstance(item, kind):
        return function(item)
    if isinstance(item, list | tuple):
        return type(item)([_mapped(kind, function, each) for each in item])
    if isinstance(item, dict):
        return {key: _mapped(kind, function, each) for key, each in item.items()}
    return item


class Log:
    """What happened since `reset`.

    Attributes:
        events: How often, by kind (``sync``, ``h2d``, ``d2h``, ``kernel``), thread (``main``, ``prefetch``,
            ``backward``) and place (file:line of vidclf).
        operations: How often, by kind, thread and operation.
        memory: Of each device.
        copied: Bytes between main memory and devices.
    """

    def __init__(self) -> None:
        self.events, self.operations = Counter[tuple[str, str, str]](), Counter[tuple[str, str, str]]()
        self.memory = [Memory() for _ in range(DEVICES)]
        self.copied = 0
        self._tokens: weakref.WeakValueDictionary[int, _Token] = weakref.WeakValueDictionary()
        self._pinned: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()

    def reset(self) -> None:
        self.events.clear()
        self.operations.clear()
        self.copied = 0
        for memory in self.memory:
            memory.peak = memory.alive

    def count(self, kind: str, thread: str | None = None) -> int:
        """Events of a kind, of one thread or of all."""
        return sum(n for (each, of, _), n in self.events.items() if each == kind and thread in (None, of))

    def note(self, kind: str, operation: object) -> None:
        thread = threading.current_thread()
        known = "prefetch" if thread.name.startswith("ThreadPool") else "backward"
        by = "main" if thread is threading.main_thread() else known
        self.events[kind, by, _place()] += 1
        self.operations[kind, by, str(operation)] += 1

    def hold(self, values: Tensor, device: torch.device) -> _Token:
        """The token of a tensor's storage, which takes memory of the device while it lives."""
        storage = values.untyped_storage()
        token = self._tokens.get(storage.data_ptr())
        if token is None:
            memory, size = self.memory[device.index], storage.nbytes()
            if memory.limit is not None and memory.alive + size > memory.limit:
                raise torch.OutOfMemoryError(
                    f"stand-in: {memory.alive + size} bytes of {memory.limit} wanted"
                )
            memory.alive += size
            memory.peak = max(memory.peak, memory.alive)
            token = self._tokens[storage.data_ptr()] = _Token()
            weakref.finalize(token, _free, memory, size)
        return token

    def pin(self, values: Tensor) -> Tensor:
        self._pinned[values.untyped_storage().data_ptr()] = values
        return values

    def pinned(self, values: Tensor) -> bool:
        return values.untyped_storage().data_ptr() in self._pinned


def _free(memory: Memory, size: int) -> None:
    memory.alive -= size


def _place() -> str:
    """The innermost line of vidclf that is being run."""
    frame = sys._getframe(2)
    while frame:
        if _PACKAGE in frame.f_code.co_filename:
            return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"  # noqa: PTH119  # quicker
        frame = frame.f_back
    return "?"


log = Log()


class GpuTensor(Tensor):
    """Claims a CUDA device; ``values`` is on the CPU."""

    __torch_function__: ClassVar[Any] = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor, device: torch.device) -> "GpuTensor":
        token = log.hold(values, device)
        made = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=device,
        )
        made.values, made.token = values, token
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"GpuTensor({self.values!r}, {self.device})"

    def __reduce_ex__(self, protocol: int) -> Any:
        """As plain values: what CUDA tensors in a file become with ``map_location="cpu"``."""
        return self.detach().cpu().__reduce_ex__(protocol)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"can't convert {self.device} device type tensor to numpy")
        return self.detach().cpu().numpy()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class StandIn(TorchDispatchMode):
    """Operations that make tensors, too, make them on a device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _cudnn_norm(x: Tensor, *others: Any) -> Any:
    return (*aten.native_batch_norm(x, *others), x.new_empty(0, dtype=torch.uint8))


def _cudnn_norm_backward(x: Tensor, grad: Tensor, *others: Any) -> Any:
    *others, eps, _ = others
    return aten.native_batch_norm_backward(grad, x, *others, True, eps, [True] * 3)


def _in_fp32(func: Callable[..., Any]) -> Callable[..., Any]:
    """In fp32 and then rounded, as tensor cores sum; oneDNN's own gradients of volumes are too far off."""

    def computed(*args: Any) -> Any:
        halves = {x.dtype for x in args if isinstance(x, Tensor)} & {torch.bfloat16, torch.float16}
        out = func(*_mapped(Tensor, Tensor.float, args))
        return _mapped(Tensor, lambda x: x.to(*halves), out) if halves else out

    return computed


def _convolution_backward(gradient: Tensor, inputs: Tensor, weight: Tensor, *others: Any) -> Any:
    """Of a kernel that oneDNN fails at, the weight's by frames."""
    *_, stride, padding, dilation, _, _, groups, wanted = others
    if weight.ndim != 5 or not wanted[1] or not is_long(weight, inputs, stride):
        return aten.convolution_backward(gradient, inputs, weight, *others)
    of_inputs, _, of_bias = aten.convolution_backward(
        gradient, inputs, weight, *others[:-1], [wanted[0], False, wanted[2]]
    )
    geometry = Geometry(stride, padding, dilation, groups)
    return of_inputs, weight_gradient(gradient, inputs, weight, geometry), of_bias


_REPLACED: dict[Any, Callable[..., Any]] = {
    aten.convolution: _in_fp32(aten.convolution),
    aten.convolution_backward: _in_fp32(_convolution_backward),
    aten.cudnn_batch_norm: _cudnn_norm,
    aten.cudnn_batch_norm_backward: _cudnn_norm_backward,
}


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    packet = func.overloadpacket
    tensors: list[Tensor] = []
    _mapped(Tensor, tensors.append, (args, kwargs))
    ours = [item for item in tensors if isinstance(item, GpuTensor)]
    if packet is aten._pin_memory or kwargs.get("pin_memory"):
        made = (
            args[0].clone() if packet is aten._pin_memory else func(*args, **{**kwargs, "pin_memory": False})
        )
        return log.pin(made)
    if packet is aten.is_pinned:
        return log.pinned(args[0])
    wanted = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    if not ours and (wanted is None or wanted.type != "cuda"):
        return func(*args, **kwargs)
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        with StandIn():  # so it arrives in inference mode
            return func.decompose(*args, **kwargs)
    plain = [item for item in tensors if item.dim() and not isinstance(item, GpuTensor)]
    places = {item.device for item in (*ours, *plain)}
    if len(places) > 1 and packet not in _CROSSING:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {func} got {sorted(map(str, places))}"
        )
    if wanted is not None:
        current = torch._C._cuda_getDevice()
        device = torch.device("cuda", current) if wanted == torch.device("cuda") else wanted
        kwargs = {**kwargs, "device": torch.device("cpu")}
    else:
        device = (args[0] if packet is aten.copy_ else ours[0]).device
    _note(func, args, kwargs, tensors, device)
    args_there, kwargs_there = _mapped(GpuTensor, lambda item: item.values, (args, kwargs))
    out = _REPLACED.get(packet, func)(*args_there, **kwargs_there)
    if device.type != "cuda":
        return out.clone() if packet is aten._to_copy and any(out is item.values for item in ours) else out
    there = _mapped(Tensor, lambda item: GpuTensor(item, device), out)
    return (
        return_and_correct_aliasing(func, args, kwargs, there) if ours and packet not in _REPLACED else there
    )


def _note(func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor], device: torch.device) -> None:
    """Records what an operation does."""
    packet = func.overloadpacket
    crosses = packet in _COPIES and len({item.device.type for item in tensors} | {device.type}) > 1
    if crosses:
        source = tensors[-1] if packet is aten.copy_ else tensors[0]
        kind = "h2d" if device.type == "cuda" else "d2h"
        log.note(kind, packet)
        log.copied += source.nbytes
        queued = kwargs.get("non_blocking") or (packet is aten.copy_ and len(args) > 2 and args[2])
        if not queued or (kind == "h2d" and not log.pinned(source)):
            log.note("sync", f"{packet} {kind}")
    elif packet in _CROSSING - _COPIES and any(
        item.dtype == torch.bool or (item.device.type == "cpu" and item.dim()) for item in tensors[1:]
    ):
        log.note("sync", f"{packet} by a mask or by indices in main memory")
    if packet in _WAITING:
        log.note("sync", packet)
    if packet not in _NO_KERNEL and not func.is_view and not crosses:
        for _ in range(1 + (packet in _TWO_KERNELS)):
            log.note("kernel", packet)


def _submit(
    self: ThreadPoolExecutor, function: Callable[..., Result], /, *args: Any, **kwargs: Any
) -> "Future[Result]":
    def inside() -> Result:
        with StandIn():
            return function(*args, **kwargs)

    return _submit_plain(self, inside)


_submit_plain = ThreadPoolExecutor.submit


@contextlib.contextmanager
def gpu(total: int = 16 << 30, major: int = 9) -> Iterator[Log]:
    """torch finds CUDA devices that have not computed yet; so do threads of `ThreadPoolExecutor`.

    Args:
        total: Bytes of each device.
        major: Of its compute capability.
    """
    facts = SimpleNamespace(
        name="stand-in", major=major, minor=0, total_memory=total, multi_processor_count=1
    )

    def memory(device: Any = None) -> Memory:
        index = device if isinstance(device, int) else None if device is None else torch.device(device).index
        return log.memory[torch._C._cuda_getDevice() if index is None else index]

    def reset_peak(device: Any = None) -> None:
        memory(device).peak = memory(device).alive

    replaced: dict[str, Callable[..., Any]] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: DEVICES,
        "current_device": torch._C._cuda_getDevice,
        "set_device": lambda device: torch._C._cuda_setDevice(torch.device(device).index),
        "get_device_properties": lambda *_: facts,
        "get_device_name": lambda *_: facts.name,
        "mem_get_info": lambda device=None: (total - memory(device).alive, total),
        "memory_allocated": lambda device=None: memory(device).alive,
        "memory_reserved": lambda device=None: memory(device).alive,
        "max_memory_allocated": lambda device=None: memory(device).peak,
        "max_memory_reserved": lambda device=None: memory(device).peak,
        "reset_peak_memory_stats": reset_peak,
        "set_per_process_memory_fraction": lambda share, device: setattr(
            memory(device), "limit", int(share * total)
        ),
        "empty_cache": lambda: None,
        "manual_seed_all": lambda _: None,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda *_: None,
    }
    lifted = torch._C._only_lift_cpu_tensors()
    with contextlib.ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        stack.enter_context(patch.object(devices, "_used", []))
        stack.enter_context(patch.object(ThreadPoolExecutor, "submit", _submit))
        stack.enter_context(
            patch.object(torch, "inference_mode", torch.no_grad)
        )  # its views cannot be wrapped
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            with StandIn():
                yield log
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)
            torch._C._set_only_lift_cpu_tensors(lifted)
