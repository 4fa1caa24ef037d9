"""``vidclf bench``: latency, throughput, size and memory of a saved model on this machine."""

import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from joblib import cpu_count

from vidclf import config
from vidclf.data import remote, video
from vidclf.data.demo import render_demo
from vidclf.data.remote import named
from vidclf.inference import profiling
from vidclf.models import load_model
from vidclf.models.saved import SavedModel

_RUNS = 100
"""Measured runs: enough for a 95th percentile."""
_USUAL_SIDE = 240
"""Short side of a rendered clip in pixels, that of UCF-101's clips."""


@dataclass(frozen=True)
class Bench:
    """What was measured, and under which conditions.

    Attributes:
        clip: The clip, in words.
        conditions: Threads, device, precision, layout and versions, as text by name.
        metrics: ``latency/...`` as of `profiling.measure_latency`, ``throughput/clips_per_s`` with
            ``throughput/batch``, ``size/...`` and ``cost/...``.
    """

    clip: str
    conditions: Mapping[str, str]
    metrics: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def bench(model: Path, clip: str | Path | None, batch: int) -> Bench:
    """Measures a saved model, with all cores and with nothing looked up in a cache.

    Args:
        model: Its folder.
        clip: A video file, as path or URL; ``None``: one is rendered.
        batch: Clips that go through the model together for the throughput.

    Raises:
        InputError: The folder holds no model.
        ClipError: The clip gives no frames.
    """
    saved = load_model(model)
    profiling.reset_peak_memory()
    with clip_or_rendered(clip) as (path, words):
        metrics = profiling.measure_latency(saved, path, runs=_RUNS)
        metrics["throughput/batch"] = float(batch)
        metrics["throughput/clips_per_s"] = profiling.measure_throughput(saved, path, batch)
    metrics |= {
        **saved.classifier.describe(),
        "size/file_mb": profiling.folder_size_mb(model),
        "cost/peak_memory_mb": profiling.peak_memory_mb(),
        **profiling.cuda_memory_mb(),
    }
    return Bench(words, _conditions(saved), metrics)


@contextmanager
def clip_or_rendered(given: str | Path | None) -> Iterator[tuple[Path, str]]:
    """The clip to measure on, and what it is."""
    if given is not None:
        path = remote.local_file(str(given))
        yield path, _described(path, named(path))
        return
    with tempfile.TemporaryDirectory(prefix="vidclf-") as folder:
        small = render_demo(Path(folder, "small"), subjects=1, takes=1)[0]
        frames = video.decode(small, grid=10**6, store_side=10**4).frames
        factor = _USUAL_SIDE // min(frames.shape[1:3])
        path = Path(folder, "clip.avi")
        video.write_video(path, frames.repeat(factor, axis=1).repeat(factor, axis=2))
        yield path, _described(path, "a rendered clip (--clip FILE measures with one of yours)")


def _described(path: Path, name: str) -> str:
    facts = video.inspect(path)
    return f"{name}: {facts.codec}, {facts.width} x {facts.height}, {facts.decoded} frames"


def _conditions(saved: SavedModel) -> dict[str, str]:
    environment = profiling.environment()
    flat = config.flatten(saved.card.experiment)
    names = ("model.network", "model.features", "data.frames", "data.size")
    conditions = {"model": saved.card.kind, **{name: str(flat[name]) for name in names if name in flat}}
    return conditions | {
        "host": platform.node(),
        "cpu": environment["cpu"],
        "threads": str(cpu_count()),
        "device": environment["device"],
        **saved.classifier.computation(),
        **{name: environment[name] for name in ("python", "torch", "scikit-learn", "opencv-python-headless")},
    }
