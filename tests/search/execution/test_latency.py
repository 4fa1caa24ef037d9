"""Latency as a constraint: what is timed before, while and after it is trained."""

import multiprocessing
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests.scripted_study import ScriptedStudy, complete
from vidclf.search.execution import latency, supervisor
from vidclf.workers.local import _Line
from vidclf.workers.protocol import LatencyTask, Measured, Paused, Resume, RunTask, StepDecision, StepReport


class Clock:
    """Answers `LatencyTask`s and counts them."""

    def __init__(self, milliseconds: dict[str, float]) -> None:
        self.milliseconds, self.timed = milliseconds, []

    def __call__(self, task: RunTask | LatencyTask, connection: Connection) -> Any:
        if isinstance(task, LatencyTask):
            kind = "svm" if task.experiment is None else task.experiment["model"]["kind"]
            self.timed.append((kind, task.folder is None))
            return Measured({"latency/p50_ms": self.milliseconds[kind]})
        (task.folder / "model").mkdir()
        return complete(0.5)


def test_a_network_that_is_too_slow_is_not_trained_and_a_classical_model_is_timed_when_fitted(
    scripted: ScriptedStudy,
) -> None:
    scripted.text += '\n[[constraint]]\nmetric = "latency/p50_ms"\nmax = 10.0\n'
    clock = Clock({"frames2d": 50.0, "svm": 5.0})
    opened, ending = scripted.run(clock)  # type: ignore[arg-type]
    assert ending == "finished"
    assert sorted(clock.timed) == [("frames2d", True), ("svm", False)]
    for row in opened.rows():
        if row.base == "tiny":
            assert (row.state, row.reason) == ("pruned", "infeasible: latency/p50_ms = 50 (max 10)")
            assert not opened.attempt(row.number).model.exists()
        else:
            assert (row.state, row.feasible) == ("complete", True)
            assert opened.trials()[row.number].constraints["latency/p50_ms"] <= 0


@pytest.mark.parametrize("other", ["waits", "ends", "dies"])
@pytest.mark.slow
def test_workers_that_speak_at_once_are_all_heard_though_one_of_them_is_timed(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    scripted.only_svm()
    scripted.text += '\n[[constraint]]\nmetric = "latency/p50_ms"\nmax = 10.0\n'
    really_wait, both = multiprocessing.connection.wait, threading.Barrier(2)

    def wait(connections: Any, timeout: float | None = None) -> list[Any]:
        time.sleep(0.3)  # busy, so that both have spoken when it listens
        return really_wait(connections, timeout)

    def script(task: RunTask | LatencyTask, connection: Connection) -> Any:
        if isinstance(task, LatencyTask):
            return Measured({"latency/p50_ms": 5.0})
        (task.folder / "model").mkdir()
        if task.folder.name in ("00000", "00001"):
            both.wait(20)
        if task.folder.name == "00001" and other == "dies":
            return None
        if task.folder.name == "00001" and other == "waits":
            connection.send(StepReport(1, {"epoch/val/macro_f1": 0.5}))
            if not connection.poll(5):
                return None  # nobody answers
            connection.recv()
        return complete(0.5)

    monkeypatch.setattr(supervisor.multiprocessing.connection, "wait", wait)
    opened, ending = scripted.run(script, workers=2)
    assert ending == "finished"
    assert scripted.states(opened).count("died") == (other == "dies")
    (known,) = opened.latencies().values()
    assert known == {"latency/p50_ms": 5.0}, "whoever waits for an answer computes nothing"


@pytest.mark.slow
def test_a_latency_measured_beside_other_work_rejects_nothing(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "PAUSE_SECONDS", 0.1)
    scripted.text += '\n[[constraint]]\nmetric = "latency/p50_ms"\nmax = 10.0\n'
    clock, timed = Clock({"frames2d": 50.0, "svm": 50.0}), threading.Event()

    def slow(task: Any, connection: Connection) -> Any:
        if isinstance(task, RunTask) and task.experiment["model"]["kind"] == "svm":
            timed.wait(20)  # it computes while the other one is timed
        answer = clock(task, connection)
        if isinstance(task, LatencyTask):
            timed.set()
        return answer

    opened, _ = scripted.run(slow, workers=2)
    tiny = next(row for row in opened.rows() if row.base == "tiny")
    assert (tiny.state, tiny.feasible) == ("complete", True)
    assert tiny.metrics["latency/contended"] == 1.0


def test_a_real_worker_pauses_between_two_messages(tmp_path: Path) -> None:
    here, there = multiprocessing.Pipe()
    line = _Line(there)
    answers: list[object] = []

    def work() -> None:
        line.on_signal()  # as at work
        answers.append("went on")
        line._busy = True
        line.on_signal()  # as in the middle of a message
        line._busy = False
        line.send(StepReport(1, {}))
        answers.append(line.receive())

    thread = threading.Thread(target=work)
    thread.start()
    assert here.recv() == Paused()
    assert answers == []
    here.send(Resume())
    assert here.recv() == StepReport(1, {})
    assert here.recv() == Paused()
    here.send(Resume())
    here.send(StepDecision("enough"))
    thread.join(10)
    assert answers == ["went on", StepDecision("enough")]
