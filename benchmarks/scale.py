"""How many workers a study can have: python benchmarks/scale.py [--only sqlite,postgresql,proxy].

The real supervisor hands out trials; its workers sleep in place of training, report 12 epochs and finish, so
that what is measured is everything but training: Optuna's sampler and pruner, its database, the attempt
folders. MLflow is not part of it, as a thread of its own delivers to it. Starts PostgreSQL and Optuna's proxy
by itself.
"""

import argparse
import functools
import json
import math
import multiprocessing
import os
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from optuna.trial import create_trial
from rich.console import Console
from rich.table import Table

from tests.clips import write_experiment, write_squares, write_study
from tests.scripted_study import ScriptedWorker
from tests.services import OptunaProxy, PostgreSQL
from vidclf.runs.folder import Outcome, now_ms
from vidclf.runs.store import open_store
from vidclf.search.definition.pruners import build_pruner
from vidclf.search.definition.samplers import build_sampler
from vidclf.search.definition.space import Space
from vidclf.search.definition.study_file import StudyDefinition, load_study, open_study
from vidclf.search.execution.context import SessionContext
from vidclf.search.execution.display import Display
from vidclf.search.execution.supervisor import Supervisor
from vidclf.search.record.owners import Ownership
from vidclf.search.record.study import OpenStudy
from vidclf.workers.protocol import RunTask, StepReport

EPOCHS = 12
WORKERS = (1, 2, 4, 8, 16, 32, 64)
HISTORY = 500
"""Trials that the larger study has already."""
SEARCHED = """
"train.lr" = { low = 1e-5, high = 1e-1, log = true }
"train.weight_decay" = { low = 1e-6, high = 1e-1, log = true }
"train.label_smoothing" = { low = 0.0, high = 0.5 }
"model.dropout" = { low = 0.0, high = 0.9 }
"""


def sleeping_workers(number: int, seconds: float) -> list[ScriptedWorker]:
    """Workers whose trials take as long as they are told to; the supervisor sees no difference."""

    def sleep(task: RunTask, connection: Connection) -> Outcome:
        for step in range(1, EPOCHS + 1):
            time.sleep(seconds / EPOCHS)
            connection.send(StepReport(step, {"epoch/val/macro_f1": 0.5}))
            connection.recv()
        # All alike, so that none is pruned and each takes as long.
        return Outcome("complete", "", {"val/macro_f1": 0.5, "val/accuracy": 0.5}, now_ms())

    class SleepingWorker(ScriptedWorker):
        script = staticmethod(sleep)

    return [SleepingWorker() for _ in range(number)]


class Clock:
    """Adds up what the calls to a study's database take."""

    def __init__(self, storage: Any) -> None:
        self.seconds, self.calls = 0.0, 0
        self._depth = 0
        names = [name for name in dir(storage) if name.startswith(("get_", "set_", "create_"))]
        for name in (*names, "_create_new_trial", "_set_trial_param", "_get_trials"):
            if callable(getattr(storage, name, None)):
                setattr(storage, name, self._timed(getattr(storage, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*args: Any, **options: Any) -> Any:
            self._depth += 1
            begun = time.perf_counter()
            try:
                return method(*args, **options)
            finally:
                self._depth -= 1
                if self._depth == 0:  # not what one of them asks of another
                    self.seconds += time.perf_counter() - begun
                    self.calls += 1

        return timed


@dataclass(frozen=True)
class Load:
    """What one supervisor process is to do.

    Attributes:
        file: The study's file.
        store: Folder of the store.
        workers: Of this supervisor.
        seconds: That a trial takes.
    """

    file: Path
    store: Path
    workers: int
    seconds: float


def supervise(load: Load, start: Any, results: Any) -> None:
    """The life of one supervisor process: all start at once, when all are ready."""
    store = open_store(load.store)
    definition = load_study(load.file, {}, store)
    opened = open_study(definition, store)
    opened.own_attempt.folder.mkdir(parents=True, exist_ok=True)
    session = _session(opened, definition)
    supervisor = Supervisor(session)
    pool: Any = sleeping_workers(load.workers, load.seconds)
    start.wait()
    clock = Clock(getattr(opened.storage, "_backend", opened.storage))  # below Optuna's cache
    begun, busy = time.perf_counter(), time.process_time()
    supervisor.run(pool)
    results.put(
        {
            "trials": session.state.finished_here,
            "wall": time.perf_counter() - begun,
            "processor": time.process_time() - busy,
            "storage": clock.seconds,
            "calls": clock.calls,
        }
    )


def _session(opened: OpenStudy, definition: StudyDefinition) -> SessionContext:
    file = definition.file
    opened.study.sampler = build_sampler(file.sampler, definition.space, len(opened.trials()))
    opened.study.pruner = build_pruner(file.pruner, definition.space, 1)
    return SessionContext(opened, definition, Ownership(opened, join=True), Display(), lambda _: None)


@dataclass(frozen=True)
class Figures:
    """What one load came to, over all its supervisors.

    Attributes:
        rate: Trials a second.
        storage_ms: In calls to the database, a trial.
        calls: To the database, a trial.
        processor_ms: Of the supervisor's own processor time, a trial.
    """

    rate: float
    storage_ms: float
    calls: float
    processor_ms: float


def measure(
    uri: str, folder: Path, seconds: float, *, workers: int, supervisors: int, history: int
) -> Figures:
    """Runs a study in which each worker has a few trials."""
    trials = min(160, max(6, 3 * workers))
    name = f"scale-{uuid.uuid4().hex[:8]}"
    file = folder / f"{name}.toml"
    top = f'name = "{name}"\nworkers = {workers}'
    write_study(file, "tiny.toml", trials=history + trials, top=top, space=SEARCHED)
    os.environ["VIDCLF_STUDY_STORAGE"] = uri
    stores = [folder / f"{name}-{number}" for number in range(supervisors)]
    store = open_store(stores[0])
    definition = load_study(file, {}, store)
    opened = open_study(definition, store)
    if history:
        _add_history(opened, definition.space, history)
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(supervisors), context.Queue()
    loads = [Load(file, store, workers // supervisors, seconds) for store in stores]
    processes = [
        context.Process(target=supervise, args=(load, start, results), daemon=True) for load in loads
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    done = sum(each["trials"] for each in found)
    return Figures(
        rate=done / max(each["wall"] for each in found),
        storage_ms=1000 * sum(each["storage"] for each in found) / done,
        calls=sum(each["calls"] for each in found) / done,
        processor_ms=1000 * sum(each["processor"] for each in found) / done,
    )


def _add_history(opened: OpenStudy, space: Space, count: int) -> None:
    draw = random.Random(0)
    trial = opened.study.ask()
    space.suggest(trial)
    for _ in range(count):
        params = {name: draw.uniform(1e-4, 1e-2) for name in trial.params}
        opened.study.add_trial(create_trial(value=0.4, params=params, distributions=trial.distributions,
                                            user_attrs={"metrics": {"val/macro_f1": 0.4}}))  # fmt: skip
    opened.study.tell(trial, 0.4)


def loads(only: Sequence[str]) -> Iterator[tuple[str, int, int, int]]:
    """Backend, workers, supervisors and trials before, of each line."""
    for backend in only:
        for workers in WORKERS:
            yield backend, workers, 1, 0
        yield backend, 64, 1, HISTORY
        if backend != "sqlite":
            yield backend, 64, 2, 0
            yield backend, 64, 4, 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="that a trial sleeps")
    parser.add_argument("--only", default="sqlite,postgresql,proxy")
    parser.add_argument("--to", type=Path, help="JSON file for the figures")
    asked = parser.parse_args()
    table = Table("database", "supervisors", "workers", "before", "trials/s", "of ideal", "storage ms/trial",
                  "calls/trial", "processor ms/trial", box=None)  # fmt: skip
    best: dict[str, float] = {}
    lines = []
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as services:
        folder = Path(scratch)
        write_experiment(
            folder / "tiny.toml", "frames2d", write_squares(folder / "squares"), train=f"epochs = {EPOCHS}"
        )
        uris = {"sqlite": f"sqlite:///{folder / 'optuna.db'}"}
        if asked.only != "sqlite":
            uris["postgresql"] = services.enter_context(PostgreSQL(folder / "pg")).uri
            proxy = OptunaProxy(folder / "proxy", uris["postgresql"])
            uris["proxy"] = services.enter_context(proxy).uri
        for backend, workers, supervisors, history in loads(asked.only.split(",")):
            found = measure(
                uris[backend],
                folder,
                asked.seconds,
                workers=workers,
                supervisors=supervisors,
                history=history,
            )
            ideal = workers / asked.seconds
            numbers = (found.storage_ms, found.calls, found.processor_ms)
            cells = (supervisors, workers, history or "–", f"{found.rate:.2f}", f"{found.rate / ideal:.0%}",
                     *(f"{number:.0f}" for number in numbers))  # fmt: skip
            print(backend, *cells, sep="\t", flush=True)
            table.add_row(backend, *map(str, cells))
            lines.append({"backend": backend, "workers": workers, "supervisors": supervisors,
                          "history": history, **vars(found)})  # fmt: skip
            if supervisors == 1 and not history:
                best[backend] = max(best.get(backend, 0.0), found.rate)
    Console(width=140).print(table)
    print(f"load of this machine, 1 and 15 minutes: {os.getloadavg()[0]:.1f}, {os.getloadavg()[2]:.1f}")
    for backend, rate in best.items():
        print(
            f"{backend}: one supervisor settles {rate:.1f} trials/s here. An estimate from that, for 1,000 "
            f"workers: trials of {1000 / rate / 60:.1f} minutes keep it busy; trials of one minute want "
            f"{math.ceil(1000 / 60 / rate)} supervisors"
        )
    if asked.to:
        asked.to.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
