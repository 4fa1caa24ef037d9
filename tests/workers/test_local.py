"""What a worker and its supervisor say to each other, whatever comes at the same moment."""

import multiprocessing
import re
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests.clips import write_experiment
from tests.scripted_study import in_memory
from vidclf import config
from vidclf.data.manifest import Manifest
from vidclf.runs.experiment import load_experiment
from vidclf.runs.folder import Attempt, Identity, now_ms
from vidclf.search.execution.context import SessionContext
from vidclf.search.execution.display import Display
from vidclf.search.execution.finalize import StudyFinalizer
from vidclf.search.execution.latency import LatencyMeter, measure_latencies
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
