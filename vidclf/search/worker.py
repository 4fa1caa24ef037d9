"""A worker process: runs one attempt after another as its supervisor asks.

It knows neither Optuna nor MLflow, and it ends when its supervisor does.
"""

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from vidclf.repeats import Repeats
from vidclf.store import Outcome


@dataclass(frozen=True)
class RunTask:
    """Train the resolved experiment into the attempt's folder."""

    experiment: Mapping[str, Any]
    folder: Path
    repeats: Repeats | None = None


@dataclass(frozen=True)
class LatencyTask:
    """Time the model in ``folder`` on one clip, with all cores."""

    folder: Path
    clip: Path


Task = RunTask | LatencyTask


@dataclass(frozen=True)
class Progress:
    """A report of the running attempt; the worker waits for a `Verdict`."""

    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Verdict:
    """The answer to `Progress`: go on, or stop for a reason."""

    prune: str = ""


@dataclass(frozen=True)
class Measured:
    """Latency metrics, the answer to a `LatencyTask`; an error where it could not be timed."""

    metrics: Mapping[str, float]
    error: str = ""


Message = Progress | Outcome | Measured


class Worker:
    """The supervisor's end of a worker process."""

    def __init__(self, threads: int, gpu: int | None = None) -> None:
        """Starts the process.

        Args:
            threads: Cores that it may use.
            gpu: The GPU that it may use, ``None``: as the system has it.
        """
        self._threads, self._gpu = threads, gpu
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=work, args=(theirs, threads, gpu), daemon=True)
        self.process.start()
        theirs.close()

    def replacement(self) -> "Worker":
        """Ends this process, where it still lives, and starts another in its place."""
        self.stop()
        return Worker(self._threads, self._gpu)

    def send(self, message: Task | Verdict) -> None:
        """Sends; a worker that has died is noticed when it is read from."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def receive(self) -> Message | None:
        """The next message, ``None`` where the worker has died."""
        try:
            message: Message = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return None
        return message

    def death(self) -> str:
        """How the process ended, in words."""
        self.process.join(timeout=10)
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"the worker died: {signal.Signals(-code).name}"
        return f"the worker died: exit code {code}"

    def stop(self) -> None:
        """Ends the process at once, whatever it is doing."""
        self.connection.close()
        self.process.kill()
        self.process.join()


def work(connection: Connection, threads: int, gpu: int | None) -> None:
    """The process's whole life: tasks in, progress and outcomes out, until the pipe closes."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _end_with_parent()
    # Slow imports: after the signals are set, and before the first task arrives.
    import vidclf.experiment  # noqa: F401, PLC0415
    from vidclf import profiling  # noqa: PLC0415

    profiling.use_cores(threads)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task: Task = connection.recv()
            connection.send(_run(task, connection) if isinstance(task, RunTask) else _measure(task))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()


def _run(task: RunTask, connection: Connection) -> Outcome:
    from vidclf.experiment import Pruned, parse_experiment, run_experiment  # noqa: PLC0415
    from vidclf.store import Attempt  # noqa: PLC0415

    def report(step: int, metrics: Mapping[str, float]) -> None:
        connection.send(Progress(step, dict(metrics)))
        verdict: Verdict = connection.recv()
        if verdict.prune:
            raise Pruned(verdict.prune)

    experiment = parse_experiment(task.experiment, str(task.folder))
    try:
        return run_experiment(experiment, Attempt(task.folder), report, task.repeats)
    finally:
        _free_memory()


def _free_memory() -> None:
    """Gives back what the last trial took: a network's cycles, and what torch keeps for its like."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _measure(task: LatencyTask) -> Measured:
    from vidclf import profiling  # noqa: PLC0415
    from vidclf.models import load_model  # noqa: PLC0415

    try:
        return Measured(profiling.measure_latency(load_model(task.folder), task.clip))
    except Exception as error:
        return Measured({}, f"{type(error).__name__}: {error}")
