"""A study over two bases, and a supervisor whose workers do what a test says."""

import multiprocessing
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests.clips import write_experiment, write_squares
from tests.search.definition.test_study_file import STUDY
from vidclf.runs.folder import Attempt, Outcome, now_ms
from vidclf.runs.store import Store
from vidclf.search.definition.pruners import build_pruner
from vidclf.search.definition.samplers import build_sampler
from vidclf.search.definition.study_file import load_study, open_study
from vidclf.search.execution import recovery, supervisor
from vidclf.search.execution.display import NoDisplay, StudyState
from vidclf.search.execution.trials import TrialStarter
from vidclf.search.record.owners import Ownership
from vidclf.search.record.study import OpenStudy
from vidclf.workers.protocol import RunTask

Script = Callable[[RunTask, Connection], Outcome | None]


class ScriptedWorker:
    """A worker whose process is a thread: it answers each task as the script says; ``None`` is its death."""

    script: Script
    machine: Mapping[str, str] = {}

    def __init__(self, threads: int = 1) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        threading.Thread(target=self._work, args=(theirs,), daemon=True).start()

    def _work(self, connection: Connection) -> None:
        try:
            while True:
                task = connection.recv()
                outcome = type(self).script(task, connection)
                if outcome is None:
                    connection.close()
                    return
                if isinstance(outcome, Outcome):
                    Attempt(task.folder).finish(outcome)
                connection.send(outcome)
        except (EOFError, OSError):
            return

    def send(self, message: Any) -> None:
        self.connection.send(message)

    def pause(self) -> None:
        """A thread answers no signals: whoever is computing stays busy."""

    def receive(self) -> Any:
        try:
            return self.connection.recv()
        except EOFError:
            return None

    def death(self) -> str:
        return "the worker died: SIGKILL"

    def replacement(self) -> "ScriptedWorker":
        self.stop()
        return ScriptedWorker()

    def stop(self) -> None:
        self.connection.close()


def complete(value: float, **metrics: float) -> Outcome:
    return Outcome("complete", "", {"val/macro_f1": value, **metrics}, now_ms())


def folder_clip(folder: Path) -> Path:
    return next((folder / "squares").rglob("*.avi"))


class Bench:
    """A study on two bases, and a supervisor over it."""

    def __init__(self, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        manifest = write_squares(folder / "squares", groups=3)
        write_experiment(folder / "svm.toml", "svm", manifest)
        write_experiment(folder / "tiny.toml", "frames2d", manifest)
        self.path, self.store = folder / "s.toml", store
        self.text = STUDY.format(base='["svm.toml", "tiny.toml"]', more="")
        monkeypatch.setattr(supervisor, "Worker", ScriptedWorker)
        self.ask_ahead_from = 99
        self.stop_delay = 0.0

    def only_svm(self) -> None:
        """Leaves the base whose every sample is another configuration."""
        self.text = self.text.replace('["svm.toml", "tiny.toml"]', '"svm.toml"')

    def open(self) -> OpenStudy:
        self.path.write_text(self.text)
        self.definition = load_study(self.path, {}, self.store)
        return open_study(self.definition, self.store)

    def run(self, script: Script, workers: int = 1, stop_after: int | None = None) -> tuple[OpenStudy, str]:
        opened = self.open()
        file = self.definition.file
        held = Ownership(opened)
        recovery.reconcile(opened)
        opened.study.sampler = build_sampler(file.sampler, self.definition.space, len(opened.trials()))
        opened.study.pruner = build_pruner(file.pruner, self.definition.space, file.objectives[0].repeats)
        opened.own_attempt.artifacts.mkdir(parents=True, exist_ok=True)
        started: list[Attempt] = []
        boss = supervisor.Supervisor(
            opened=opened,
            space=self.definition.space,
            budget=file.budget,
            keep=file.keep,
            ask_ahead_from=self.ask_ahead_from,
            clip=folder_clip(self.path.parent),
            ownership=held,
            shown=NoDisplay(),
            state=StudyState(opened.name, "", file.objectives[0].metric, file.budget.trials, workers),
            opening=TrialStarter(opened, self.definition.space, {"svm": {}, "tiny": {}}, {}),
            register=started.append,
        )

        def scripted(task: RunTask, connection: Connection) -> Outcome | None:
            if stop_after is not None and len(started) > stop_after:
                threading.Event().wait(self.stop_delay)
                boss.stop()
                threading.Event().wait(5)
            return script(task, connection)

        ScriptedWorker.script = staticmethod(scripted)
        try:
            ending, _ = boss.run([ScriptedWorker() for _ in range(workers)])  # type: ignore[misc]
            return opened, ending
        finally:
            held.release()

    def states(self, opened: OpenStudy) -> list[str]:
        return [row.state for row in opened.rows()]
