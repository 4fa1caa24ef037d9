"""What a worker and its supervisor say to each other, whatever comes at the same moment."""

import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.clips import write_experiment
from tests.scripted_study import in_memory
from vidclf import config
from vidclf.data.manifest import Manifest
from vidclf.exceptions import InputError
from vidclf.models import devices
from vidclf.models.classifier import NeuralClassifier
from vidclf.runs.experiment import load_experiment
from vidclf.runs.folder import Attempt, Identity, now_ms
from vidclf.search.execution import worker_pool
from vidclf.search.execution.context import SessionContext
from vidclf.search.execution.display import Display
from vidclf.search.execution.finalize import StudyFinalizer
from vidclf.search.execution.latency import LatencyMeter, measure_latencies
from vidclf.workers import local
from vidclf.workers.local import LocalWorker, _Line, _run
from vidclf.workers.protocol import (
    Finished,
    HelloTask,
    LatencyTask,
    Measured,
    Message,
    Paused,
    Ready,
    Resume,
    RunTask,
    StepDecision,
    StepReport,
    Task,
)

TIMED = {"latency/p50_ms": 5.0}


@pytest.mark.parametrize(
    ("visible", "workers", "expected"),
    [
        (None, 3, ["0", "1", "0"]),
        ("2,3", 2, ["2", "3"]),
        ("3, 2,7", 3, ["3", "2", "3"]),
        ("GPU-aaaa,GPU-bbbb", 2, ["GPU-aaaa", "GPU-bbbb"]),
        ("MIG-1,MIG-2", 4, ["MIG-1", "MIG-2", "MIG-1", "MIG-2"]),
    ],
)
def test_workers_spread_over_the_gpus_that_the_user_chose(
    visible: str | None, workers: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    shown: list[str | None] = []
    sharing = set()

    def start(_: int, gpu: str | None, count: int) -> None:
        shown.append(gpu)
        sharing.add(count)

    monkeypatch.setattr(worker_pool, "LocalWorker", start)
    definition: Any = SimpleNamespace(ray=None, file=SimpleNamespace(workers=workers))
    worker_pool.start_workers(definition, workers)
    assert (shown, sharing) == (expected, {(workers + 1) // 2})
    assert worker_pool.gpu_count() == 2
    monkeypatch.setenv("VIDCLF_DEVICE", "cuda:1")
    shown.clear()
    worker_pool.start_workers(definition, 1)
    assert shown == [None]
    with pytest.raises(InputError, match="--per-gpu: VIDCLF_DEVICE = cuda:1 leaves no GPUs to choose from"):
        worker_pool.gpu_count()


@pytest.mark.parametrize("given", [None, "GPU-aaaa"])
def test_a_worker_is_shown_its_gpu_or_those_of_its_parent(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    environments: list[Mapping[str, str]] = []

    class Process:
        def __init__(self, args: Any, **_: object) -> None:
            environments.append(args[2])

        def start(self) -> None: ...

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")  # as Ray sets it for an actor
    monkeypatch.setattr(local._CONTEXT, "Process", Process)
    LocalWorker(1, given, sharing=2)
    assert environments[0]["CUDA_VISIBLE_DEVICES"] == (given or "5")
    assert environments[0]["VIDCLF_GPU_WORKERS"] == "2"


class Late:
    """A worker that was asked to pause when it had just ended its last task, and says so at its next one."""

    machine: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self.told: list[object] = []
        threading.Thread(target=self._work, args=(theirs,), daemon=True).start()

    def _work(self, connection: Connection) -> None:
        task: Task = connection.recv()
        connection.send(Paused())
        self.told.append(connection.recv())
        connection.send(Measured(TIMED) if isinstance(task, LatencyTask) else Finished())

    def send(self, message: Any) -> None:
        self.connection.send(message)

    def receive(self) -> Message:
        message: Message = self.connection.recv()
        return message

    def exit_reason(self) -> str:
        return "it did not die"


@pytest.mark.parametrize("when", ["search", "end"])
def test_a_worker_that_pauses_late_is_told_to_go_on_and_timed(
    when: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Late()
    if when == "search":
        opened = in_memory(tmp_path)
        task = LatencyTask(Path("clip"), Path("model"))
        assert LatencyMeter(opened).measure(worker, task, "shape", [], alone=True) == []  # type: ignore[arg-type]
        assert opened.latency("shape") == TIMED
    else:
        found = measure_latencies({"shape": Path("model")}, Path("clip"), worker)  # type: ignore[arg-type]
        assert list(found) == [("shape", TIMED)]
    assert worker.told == [Resume()]
    assert not [record for record in caplog.records if record.name.startswith("vidclf")]


def test_a_worker_that_pauses_late_is_told_to_go_on_and_finishes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Late()
    session = SessionContext(in_memory(tmp_path), None, None, Display(), lambda _: None)  # type: ignore[arg-type]
    StudyFinalizer(session, [worker]).run_tasks(  # type: ignore[list-item]
        [Attempt(tmp_path / "00003")], "drawn"
    )
    assert worker.told == [Resume()]
    assert [re.sub(r"\d+\.\d s", "N s", line) for line in caplog.messages[-1:]] == [
        "trial 3 drawn, N s (1 of 1)"
    ]


def test_what_does_not_fit_into_the_time_is_left_out_at_the_end_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "vidclf")
    worker, opened = Late(), in_memory(tmp_path)
    session = SessionContext(opened, None, None, Display(), lambda _: None)  # type: ignore[arg-type]
    opened.set_finishing({"drawn": 3.0})
    attempts = [Attempt(tmp_path / "00003"), Attempt(tmp_path / "00004")]
    left = iter([6.0, -1.0])
    StudyFinalizer(session, [worker], lambda: next(left)).run_tasks(  # type: ignore[list-item]
        attempts, "drawn"
    )
    said = [record.getMessage() for record in caplog.records if record.name.startswith("vidclf")]
    assert [re.sub(r"\d+\.\d s", "N s", line) for line in said] == [
        "trial 3 drawn, N s (1 of 2)",
        "1 kept trial not drawn, as budget.seconds is used up",
    ]


def test_no_shape_is_measured_for_which_there_is_no_time(tmp_path: Path) -> None:
    worker, left = Late(), iter([30.0, 4.0])
    models = {"first": Path("model"), "second": Path("model")}
    found = measure_latencies(models, Path("clip"), worker, lambda: next(left))  # type: ignore[arg-type]
    assert list(found) == [("first", TIMED)]


def test_a_pause_right_after_a_message_does_not_take_the_answer_for_its_end() -> None:
    here, there = multiprocessing.Pipe()
    line, answers = _Line(there), list[object]()

    def work() -> None:
        line.send(StepReport(1, {}))
        line.on_signal()
        answers.append(line.receive())

    thread = threading.Thread(target=work)
    thread.start()
    assert here.recv() == StepReport(1, {})
    here.send(StepDecision("enough"))  # before it is known that it pauses
    assert here.recv() == Paused()
    here.send(Resume())
    thread.join(10)
    assert answers == [StepDecision("enough")]


@pytest.mark.slow
def test_a_supervisor_that_has_gone_is_no_failure_of_the_trial(tmp_path: Path, squares: Manifest) -> None:
    path = write_experiment(tmp_path / "a.toml", "frames2d", squares.path, train="epochs = 1")
    attempt = Attempt(tmp_path / "00000")
    attempt.create(Identity("id", "e", "name", "parent", now_ms()))
    here, there = multiprocessing.Pipe()
    here.close()
    with pytest.raises(SystemExit):
        _run(RunTask(config.dump(load_experiment(path)), attempt.folder), _Line(there))
    assert attempt.outcome() is None


@pytest.mark.slow
def test_a_worker_whose_gpu_has_failed_ends_and_its_trial_runs_again(
    tmp_path: Path, squares: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    path = write_experiment(tmp_path / "a.toml", "frames2d", squares.path, train="epochs = 1")
    task = RunTask(config.dump(load_experiment(path)), tmp_path / "00000")
    attempt = Attempt(task.folder)
    attempt.create(Identity("id", "e", "name", "parent", now_ms()))
    monkeypatch.setattr(NeuralClassifier, "fit", fit)
    monkeypatch.setattr(devices, "failed", lambda: True)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as ended:
        local._answer(task, _Line(multiprocessing.Pipe()[0]))
    assert attempt.outcome() is None
    assert "illegal memory access" in (attempt.artifacts / "traceback.txt").read_text()
    worker = object.__new__(LocalWorker)
    worker.process = SimpleNamespace(join=lambda timeout: None, exitcode=ended.value.code)  # type: ignore[assignment]
    assert worker.exit_reason().startswith("the worker ended, as its GPU no longer computed")
    monkeypatch.setattr(devices, "failed", lambda: False)
    assert local._answer(task, _Line(multiprocessing.Pipe()[0])) == attempt.outcome()


def test_a_worker_that_is_paused_while_it_starts_pauses() -> None:
    worker = LocalWorker(1)
    try:
        worker.pause()
        worker.send(HelloTask())
        assert isinstance(worker.receive(), Paused)
        worker.send(Resume())
        assert isinstance(worker.receive(), Ready)
    finally:
        worker.stop()
