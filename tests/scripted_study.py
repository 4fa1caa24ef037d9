"""A study over two bases, and a supervisor whose workers follow a script."""

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.clips import write_experiment, write_squares
from tests.studies import fabricated
from vidclf.runs.folder import Attempt, Outcome, now_ms
from vidclf.runs.store import Store
from vidclf.search.definition import study_file
from vidclf.search.definition.pruners import build_pruner
from vidclf.search.definition.samplers import build_sampler
from vidclf.search.execution import recovery
from vidclf.search.execution.context import SessionContext
from vidclf.search.execution.display import Display
from vidclf.search.execution.supervisor import Supervisor
from vidclf.search.record import names, owners, study
from vidclf.search.record.owners import Ownership
from vidclf.search.record.study import OpenStudy
from vidclf.workers.protocol import Message, Task, Worker

Script = Callable[[Any, Connection], Message | None]


class ScriptedWorker:
    """A worker whose process is a thread: it answers each task as the script says; ``None`` is its death."""

    script: Script
    machine: Mapping[str, str] | None = {}

    def __init__(self, threads: int = 1) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        threading.Thread(target=self._work, args=(theirs,), daemon=True).start()

    def _work(self, connection: Connection) -> None:
        with connection, contextlib.suppress(EOFError, OSError):
            while (outcome := type(self).script(task := connection.recv(), connection)) is not None:
                if isinstance(outcome, Outcome):
                    Attempt(task.folder).finish(outcome)
                connection.send(outcome)

    def send(self, message: Any) -> None:
        self.connection.send(message)

    def pause(self) -> None:
        """A thread answers no signals: whoever is computing stays busy."""

    def receive(self) -> Any:
        try:
            return self.connection.recv()
        except EOFError:
            return None

    def exit_reason(self) -> str:
        return "the worker died: SIGKILL"

    def replacement(self) -> Worker:
        self.stop()
        return ScriptedWorker()

    def waiting_reason(self, waited: float) -> str:
        raise AssertionError("it never waits")

    def stop(self) -> None:
        self.connection.close()


def complete(value: float, **metrics: float) -> Outcome:
    return Outcome("complete", "", {"val/macro_f1": value, **metrics}, now_ms())


def in_memory(folder: Path) -> OpenStudy:
    """A study with nothing in it; its store is the folder."""
    return fabricated(Store(folder), optuna.storages.InMemoryStorage())


STUDY = """
base = ["svm.toml", "tiny.toml"]
[objective]
metric = "val/macro_f1"
direction = "maximize"
[budget]
trials = 4

[space]
"model.C" = { low = 0.1, high = 10.0, log = true }
"""


class ScriptedStudy:
    """A study on two bases, and a supervisor over it whose workers follow a script."""

    def __init__(self, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        manifest = write_squares(folder / "squares", groups=3)
        write_experiment(folder / "svm.toml", "svm", manifest)
        write_experiment(folder / "tiny.toml", "frames2d", manifest)
        self.path, self.store = folder / "s.toml", store
        self.text = STUDY
        self.stop_when: Callable[[OpenStudy], bool] = lambda _: True
        monkeypatch.setattr(owners, "SETTLING_SECONDS", 0.0)  # nobody else joins at the same moment
        # In memory: what is tested is not the database.
        storage = optuna.storages.InMemoryStorage()
        monkeypatch.setattr(study_file, "open_storage", lambda _: storage)
        for opener in ("open_storage", "existing_storage"):
            monkeypatch.setattr(study, opener, lambda _: storage)
        for module in (names, study, study_file):
            monkeypatch.setattr(
                module, "study_names", lambda _: [each.study_name for each in storage.get_all_studies()]
            )

    def only_svm(self) -> None:
        """Leaves the base whose every sample is another configuration."""
        self.text = self.text.replace('["svm.toml", "tiny.toml"]', '"svm.toml"')

    def open(self) -> OpenStudy:
        self.path.write_text(self.text)
        self.definition = study_file.load_study(self.path, {}, self.store)
        return study_file.open_study(self.definition, self.store)

    def run(
        self, script: Script, workers: int = 1, stop_after: int | None = None, *, join: bool = False
    ) -> tuple[OpenStudy, str]:
        """Runs a session.

        Args:
            script: What a worker does with a task.
            workers: How many there are.
            stop_after: Begun trials after which the supervisor is stopped, as soon as `stop_when` holds.
            join: Run beside other supervisors, whose trials are left alone.
        """
        opened = self.open()
        file = self.definition.file
        ownership = Ownership(opened, join=join)
        if not join:
            recovery.reconcile(opened)
        opened.study.sampler = build_sampler(file.sampler, self.definition.space, len(opened.trials()))
        opened.study.pruner = build_pruner(file.pruner, self.definition.space, file.objectives[0].repeats)
        opened.own_attempt.artifacts.mkdir(parents=True, exist_ok=True)
        started: list[Attempt] = []
        session = SessionContext(opened, self.definition, ownership, Display(), started.append)
        supervisor = Supervisor(session)

        def scripted(task: Task, connection: Connection) -> Message | None:
            if stop_after is not None and len(started) > stop_after:
                while not self.stop_when(opened):
                    time.sleep(0.01)
                supervisor.stop()
                threading.Event().wait(5)
            return script(task, connection)

        ScriptedWorker.script = staticmethod(scripted)
        try:
            ending, _ = supervisor.run([ScriptedWorker() for _ in range(workers)])
            return opened, ending
        finally:
            self.state, self.uuid = session.state, ownership.uuid
            ownership.release()

    def states(self, opened: OpenStudy) -> list[str]:
        return [row.state for row in opened.rows()]
