"""Latency, size and memory of a model, and the machine they were measured on."""

import contextlib
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import psutil
from joblib import cpu_count
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from vidclf import system
from vidclf.evaluation.ranking import OTHER_LOAD
from vidclf.models import devices
from vidclf.models.saved import SavedModel

Key = TypeVar("Key")

MEBIBYTE = 2**20
MACHINE = ("cpu", "cores", "device", "torch")
"""Keys of `environment` that a latency depends on."""
_FEWEST_RUNS = 3
_FEWEST_FOR_INTERVAL = 6
"""Runs from which on the least and the most hold the median at 95 %: 1 - 2 / 2**6 is 0.97."""
_FEWEST_FOR_P95 = 59
"""Runs of which the most exceeds the 95th percentile with a probability of 1 - 0.95**59 = 0.95."""
_LIBRARIES = (
    "torch",
    "torchvision",
    "scikit-learn",
    "numpy",
    "opencv-python-headless",
    "av",
    "mlflow",
    "optuna",
)


@dataclass(frozen=True)
class _Durations:
    """Milliseconds of calls with the decoded clip in memory and from its file, and others' load meanwhile."""

    decoded: NDArray[np.float64]
    files: NDArray[np.float64]
    other_load: float

    def summary(self) -> dict[str, float]:
        return {
            **_summary(self.decoded, "latency/"),
            **_summary(self.files, "latency/file_"),
            "latency/runs": float(len(self.decoded)),
            OTHER_LOAD: self.other_load,
        }


def measure_latency(
    saved_model: SavedModel, clip_path: Path, runs: int = 30, warmup: int = 3, limit_s: float = 60.0
) -> dict[str, float]:
    """Milliseconds that one clip takes, alone in its batch, with all cores of the machine.

    Args:
        saved_model: The model.
        clip_path: A video file.
        runs: Measured runs.
        warmup: Runs before them that do not count.
        limit_s: Seconds after which no further run begins; a slow model has fewer, three at least.

    Returns:
        ``latency/p50_ms``: the median from the decoded clip in memory to probabilities;
        ``latency/file_p50_ms``: from the file, decoding included. Of each from 6 runs on ``…p50_low_ms`` and
        ``…p50_high_ms``, a 95 % interval by order statistics, and from 59 on ``…p95_ms``: of fewer, the
        largest is below the true 95th percentile in more than 5 % of measurements. ``latency/runs``: measured
        runs of the first kind; ``latency/other_load``: the share of the machine's cores that other processes
        used meanwhile, in [0, 1].

    Raises:
        ClipError: The file gives no frames.
    """
    return _durations(saved_model, clip_path, runs, warmup, limit_s).summary()


def measure_side_by_side(
    models: Mapping[Key, SavedModel], clip_path: Path, rounds: int = 3, runs: int = 10
) -> dict[Key, dict[str, float]]:
    """As `measure_latency`, of several models in turn and in several rounds: all meet the same machine.

    Args:
        models: By any key.
        clip_path: A video file.
        rounds: How often each model has its turn.
        runs: Measured runs of a turn, of 10 s at most.
    """
    turns: dict[Key, list[_Durations]] = {key: [] for key in models}
    for _ in range(rounds):
        for key, model in models.items():
            turns[key].append(_durations(model, clip_path, runs, warmup=2, limit_s=10))
    return {
        key: _Durations(
            np.concatenate([turn.decoded for turn in each]),
            np.concatenate([turn.files for turn in each]),
            max(turn.other_load for turn in each),
        ).summary()
        for key, each in turns.items()
    }


def _durations(
    saved_model: SavedModel, clip_path: Path, runs: int, warmup: int, limit_s: float
) -> _Durations:
    from_file = saved_model.clips([clip_path])
    grid = from_file.read(clip_path)
    in_memory = replace(from_file, read=lambda _: grid)
    predict = saved_model.classifier.predict_proba
    with _all_cores(), _other_load() as other_load:
        decoded = _milliseconds(lambda: predict(in_memory), runs, warmup, limit_s / 2)
        files = _milliseconds(lambda: predict(from_file), runs, warmup, limit_s / 2)
    return _Durations(decoded, files, other_load())


def _summary(milliseconds: NDArray[np.float64], prefix: str) -> dict[str, float]:
    found = {"p50": float(np.median(milliseconds))}
    if len(milliseconds) >= _FEWEST_FOR_INTERVAL:
        from scipy.stats import quantile_test  # a second to import

        ends = quantile_test(milliseconds, q=found["p50"], p=0.5).confidence_interval(0.95)
        found |= {"p50_low": float(ends.low), "p50_high": float(ends.high)}
    if len(milliseconds) >= _FEWEST_FOR_P95:
        found["p95"] = float(np.percentile(milliseconds, 95))
    return {f"{prefix}{name}_ms": value for name, value in found.items()}


def measure_throughput(saved_model: SavedModel, clip_path: Path, batch: int) -> float:
    """Clips a second, from decoded clips in memory to probabilities, so many at once, with all cores.

    Raises:
        ClipError: The file gives no frames.
    """
    clips = saved_model.clips([clip_path] * batch)
    grid = clips.read(clip_path)
    in_memory = replace(clips, read=lambda _: grid)
    classifier = saved_model.classifier.batched(batch)
    with _all_cores():
        durations = _milliseconds(
            lambda: classifier.predict_proba(in_memory), runs=10, warmup=2, limit_s=30.0
        )
    return float(batch / np.median(durations) * 1e3)


def _milliseconds(call: Callable[[], object], runs: int, warmup: int, limit_s: float) -> NDArray[np.float64]:
    """Durations of at most ``runs`` calls; after the limit the warm-up too is cut short, to one call."""
    durations: list[float] = []
    end = time.perf_counter() + limit_s
    while len(durations) < warmup + runs:
        begin = time.perf_counter()
        if begin > end and len(durations) > _FEWEST_RUNS:
            break
        call()
        durations.append((time.perf_counter() - begin) * 1e3)
    return np.array(durations[min(warmup, len(durations) - _FEWEST_RUNS) :])


def folder_size_mb(folder: Path) -> float:
    """Size of all files below ``folder``, in units of 2**20 bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MEBIBYTE


@contextlib.contextmanager
def _all_cores() -> Iterator[None]:
    """Lets torch, OpenCV, BLAS and OpenMP use every core, and takes them back after."""
    import cv2

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1, cv2.getNumThreads()
    cores = cpu_count()
    with threadpool_limits(cores):
        _set_threads(cores, cores)
        try:
            yield
        finally:
            _set_threads(*before)


def _set_threads(of_torch: int, of_cv2: int) -> None:
    """Sets the threads of torch, where it is loaded, and of OpenCV."""
    import cv2

    if torch := sys.modules.get("torch"):
        torch.set_num_threads(of_torch)
    cv2.setNumThreads(of_cv2)


@contextlib.contextmanager
def _other_load() -> Iterator[Callable[[], float]]:
    """Counts what other processes compute; gives the share of all cores that they have used until then."""
    process = psutil.Process()

    def counted() -> tuple[float, float]:
        times, own = psutil.cpu_times(), process.cpu_times()
        # As psutil.cpu_percent counts: Linux has a guest's time in the user's, too.
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        idle = times.idle + getattr(times, "iowait", 0.0)
        return total, total - idle - own.user - own.system

    begin = counted()

    def share() -> float:
        total, others = (after - before for after, before in zip(counted(), begin, strict=True))
        return min(max(others / total, 0.0), 1.0) if total > 0 else 0.0

    yield share


def use_cores(threads: int) -> None:
    """Limits torch, OpenCV, BLAS and OpenMP to so many threads; more than the cores would spin idly."""
    _set_threads(threads, threads)
    threadpool_limits(threads)


def reset_peak_memory() -> None:
    """Has `peak_memory_mb` count from now on, where the system can: Linux, and CUDA."""
    system.reset_peak_memory()
    devices.reset_peak_memory()


def peak_memory_mb() -> float:
    """The most memory that this process has ever held, in units of 2**20 bytes.

    That is resident main memory, and in addition what torch's tensors took on
    CUDA devices. A process that has trained several models gives the largest.
    """
    return system.peak_memory() / MEBIBYTE + cuda_memory_mb().get("cost/cuda_allocated_mb", 0.0)


def cuda_memory_mb() -> dict[str, float]:
    """What CUDA devices held at most, in units of 2**20 bytes.

    Returns:
        ``cost/cuda_allocated_mb``: what torch's tensors took; ``cost/cuda_reserved_mb``: what its allocator
        held for them. Empty in a process that has used no CUDA device.
    """
    kinds: tuple[Literal["allocated", "reserved"], ...] = ("allocated", "reserved")
    peaks = {f"cost/cuda_{kind}_mb": devices.peak_memory(kind) for kind in kinds}
    return {name: peak / MEBIBYTE for name, peak in peaks.items() if peak is not None}


def environment() -> dict[str, str]:
    """The machine, the libraries and the code's version, as text by name; empty where unknown."""
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = ""
    commit = git_commit()
    dirty = "" if not commit else str(bool(system.output_of("git", "status", "--porcelain"))).lower()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": system.cpu_name(),
        "cores": str(os.cpu_count() or ""),
        "device": devices.used_name(),
        **versions,
        "git_commit": commit,
        "git_dirty": dirty,
    }


def machine() -> dict[str, str]:
    """What a latency depends on, beside the model."""
    here = {**environment(), "device": devices.name()}
    return {key: here[key] for key in MACHINE}


def git_commit() -> str:
    """The commit that is checked out in the current folder; empty outside of a repository."""
    return system.output_of("git", "rev-parse", "HEAD")
