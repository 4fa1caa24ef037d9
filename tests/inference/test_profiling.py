"""Profiling: bounded, uncached, in the units it names."""

import itertools
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from joblib import cpu_count

from vidclf.data.clips import ClipSet
from vidclf.data.video import write_video
from vidclf.inference import profiling
from vidclf.models.saved import ModelMetadata, SavedModel

MEDIAN = ("p50_ms", "p50_low_ms", "p50_high_ms")
KEYS = {*MEDIAN, *(f"file_{name}" for name in MEDIAN), "runs", "other_load"}


class Sleeper:
    """A classifier that takes a given time and remembers what it was given."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.stores: list[object] = []
        self.grids: list[int] = []

    def predict_proba(self, clips: ClipSet) -> np.ndarray:
        self.stores.append(clips.store)
        self.grids.append(id(clips.grid(0)))
        time.sleep(self.seconds)
        return np.full((len(clips), 2), 0.5)


def saved(sleeper: Sleeper) -> SavedModel:
    return SavedModel(ModelMetadata("svm", ("a", "b"), 8, 64, {}, (), {}), sleeper)  # type: ignore[arg-type]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    write_video(path, np.zeros((8, 64, 64, 3), dtype=np.uint8))
    return path


def test_latency_by_known_durations(clip: Path) -> None:
    sleeper = Sleeper(0.005)
    measured = profiling.measure_latency(saved(sleeper), clip, runs=6, warmup=2)
    assert set(measured) == {f"latency/{key}" for key in KEYS}
    assert measured["latency/runs"] == 6
    assert len(sleeper.stores) == 2 * (6 + 2)
    assert 5 <= measured["latency/p50_ms"] < 50
    assert measured["latency/p50_low_ms"] <= measured["latency/p50_ms"] <= measured["latency/p50_high_ms"]
    assert measured["latency/file_p50_ms"] >= 5


@pytest.mark.parametrize(
    ("runs", "ends", "p95"),
    [(5, None, None), (6, (1, 6), None), (30, (10, 21), None), (58, (22, 37), None), (59, (22, 38), 56.1)],
)
def test_a_median_has_an_interval_and_many_runs_a_95th_percentile(
    clip: Path, monkeypatch: pytest.MonkeyPatch, runs: int, ends: tuple[int, int] | None, p95: float | None
) -> None:
    """The interval's ends are the binomial's order statistics (Conover 1999, table A3)."""
    times = np.random.default_rng(0).permutation(np.arange(1.0, runs + 1))
    monkeypatch.setattr(profiling, "_milliseconds", lambda *_: times)
    measured = profiling.measure_latency(saved(Sleeper(0)), clip)
    for prefix in ("latency/", "latency/file_"):
        assert measured[f"{prefix}p50_ms"] == (runs + 1) / 2
        found = measured.get(f"{prefix}p50_low_ms"), measured.get(f"{prefix}p50_high_ms")
        assert found == (ends or (None, None))
        assert measured.get(f"{prefix}p95_ms") == (p95 and pytest.approx(p95))
    assert measured["latency/runs"] == runs


def test_models_are_timed_in_turn(clip: Path) -> None:
    order: list[str] = []

    class Named(Sleeper):
        def __init__(self, name: str, seconds: float) -> None:
            super().__init__(seconds)
            self.name = name

        def predict_proba(self, clips: ClipSet) -> np.ndarray:
            order.append(self.name)
            return super().predict_proba(clips)

    models = {"a": saved(Named("a", 0.001)), "b": saved(Named("b", 0.004))}
    found = profiling.measure_side_by_side(models, clip, rounds=2, runs=3)
    assert [name for name, _ in itertools.groupby(order)] == ["a", "b", "a", "b"]
    assert [found[name]["latency/runs"] for name in "ab"] == [6, 6]
    assert found["a"]["latency/p50_ms"] < found["b"]["latency/p50_ms"]


def test_latency_never_meets_a_store_and_decodes_once_for_memory(clip: Path) -> None:
    sleeper = Sleeper(0)
    profiling.measure_latency(saved(sleeper), clip, runs=4, warmup=1)
    assert set(sleeper.stores) == {None}
    assert len(set(sleeper.grids[:5])) == 1


@pytest.mark.slow
def test_what_others_compute_meanwhile_is_told(clip: Path) -> None:
    def load(seconds: float) -> float:
        measured = profiling.measure_latency(saved(Sleeper(seconds)), clip, runs=5, warmup=1)
        return measured["latency/other_load"]

    # Other tests want the cores too, and whatever happens it ends.
    spin = "import os, time; os.nice(19)\nwhile time.process_time() < 30: pass"
    spinning = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(cpu_count())]
    try:
        assert load(0.1) > 0.5
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def test_what_the_model_itself_computes_is_no_other_load(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter([10.0, 14.0])  # seconds of the machine's two cores, and of this process

    class Times(NamedTuple):
        user: float
        idle: float

    def machine() -> Times:
        return Times(next(used), 20.0)

    class Own:
        user = system = 0.0

        def cpu_times(self) -> "Own":
            own = Own()
            own.user, self.user = self.user, 3.0
            return own

    monkeypatch.setattr(psutil, "cpu_times", machine)
    monkeypatch.setattr(psutil, "Process", Own)
    with profiling._other_load() as share:
        assert share() == pytest.approx((4.0 - 3.0) / 4.0)


def test_a_slow_model_has_fewer_runs(clip: Path) -> None:
    sleeper = Sleeper(0.05)
    measured = profiling.measure_latency(saved(sleeper), clip, runs=30, warmup=3, limit_s=0)
    assert measured["latency/runs"] == 3
    assert len(sleeper.stores) == 8


def test_folder_size(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(bytes(2**20))
    (tmp_path / "deep" / "b").write_bytes(bytes(2**19))
    assert profiling.folder_size_mb(tmp_path) == 1.5


@pytest.mark.slow
def test_peak_memory_is_at_least_what_is_held() -> None:
    before = profiling.peak_memory_mb()
    resident = psutil.Process().memory_info().rss / 2**20
    assert resident * 0.9 < before < psutil.virtual_memory().total / 2**20
    np.ones((int(before) + 100) * 2**17)
    assert profiling.peak_memory_mb() > before + 90


def test_environment_outside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = profiling.environment()
    assert found["git_commit"] == found["git_dirty"] == ""
    assert all(
        found[key] for key in ("python", "platform", "cpu", "cores", "device", "torch", "av", "mlflow")
    )


def test_environment_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    clean = profiling.environment()
    assert len(clean["git_commit"]) == 40
    assert clean["git_dirty"] == "false"
    (tmp_path / "new").touch()
    assert profiling.environment()["git_dirty"] == "true"
