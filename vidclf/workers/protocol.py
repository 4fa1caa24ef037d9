"""The protocol between a supervisor and its workers: tasks, messages, and the interface of a worker."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from pydantic import Field, model_validator

from vidclf import config
from vidclf.config import Section
from vidclf.runs.folder import Outcome, now_ms
from vidclf.runs.repeats import Repeats
from vidclf.system import Connection


@dataclass(frozen=True)
class RunTask:
    """Train the resolved experiment into the attempt's folder."""

    experiment: Mapping[str, Any]
    folder: Path
    repeats: Repeats | None = None


@dataclass(frozen=True)
class LatencyTask:
    """Time a model on one clip, with all cores.

    Attributes:
        clip: The clip.
        folder: The saved model.
        experiment: In place of it: an experiment whose model is as fast untrained.
        limit_s: Seconds that it may take, see `vidclf.inference.profiling.measure_latency`.
    """

    clip: Path
    folder: Path | None = None
    experiment: Mapping[str, Any] | None = None
    limit_s: float = 60.0


@dataclass(frozen=True)
class FinishTask:
    """Train the model of a complete trial that has none, or else draw the one that it has."""

    folder: Path
    repeats: Repeats | None = None


@dataclass(frozen=True)
class HelloTask:
    """Say what you are."""


Task = RunTask | LatencyTask | FinishTask | HelloTask


@dataclass(frozen=True)
class StepReport:
    """A report of the running attempt; the worker waits for a `StepDecision`."""

    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class StepDecision:
    """The answer to `StepReport`: go on, or stop for a reason."""

    prune: str = ""


@dataclass(frozen=True)
class Measured:
    """Latency metrics, the answer to a `LatencyTask`; an error where it could not be timed."""

    metrics: Mapping[str, float]
    error: str = ""


@dataclass(frozen=True)
class Finished:
    """The answer to a `FinishTask`; an error where it could not be done."""

    error: str = ""


@dataclass(frozen=True)
class Paused:
    """The answer to a pause: the worker computes nothing until it gets a `Resume`."""


@dataclass(frozen=True)
class Resume:
    """Go on after a pause."""


@dataclass(frozen=True)
class Ready:
    """The answer to a `HelloTask`: what a worker on another machine is, once it can be given tasks.

    Attributes:
        node: Name of its machine.
        version: See `own_version`.
        machine: See `vidclf.inference.profiling.environment`, and ``precision``: what ``auto`` means there.
    """

    node: str
    version: str
    machine: Mapping[str, str]


Message = StepReport | Outcome | Measured | Finished | Paused | Ready


def refusal(task: Task, reason: str) -> Message:
    """The answer to a task that could not even be begun."""
    if isinstance(task, RunTask):
        return Outcome("failed", reason, {}, now_ms(), "a task that could not be begun")
    return Measured({}, reason) if isinstance(task, LatencyTask) else Finished(reason)


def own_version() -> str:
    """Of vidclf, with a digest of its code: between two checkouts the number need not differ."""
    try:
        number = importlib.metadata.version("vidclf")
    except importlib.metadata.PackageNotFoundError:
        number = "from a folder"
    package = Path(__file__).parents[1]
    sources = sorted(package.rglob("*.py"))
    code = config.digest([(path.relative_to(package).as_posix(), path.read_text()) for path in sources])
    return f"{number} (code {code[:8]})"


class Worker(Protocol):
    """The supervisor's end of a worker."""

    connection: Connection
    """Readable when there is something to `receive`."""
    machine: Mapping[str, str] | None
    """In what its machine differs from this one, see `Ready`; ``None``: it cannot be given tasks yet."""

    def send(self, message: Task | StepDecision | Resume) -> None:
        """Sends; a worker that has died is noticed when it is read from."""

    def receive(self) -> Message | None:
        """The next message, ``None`` where the worker has died."""

    def pause(self) -> None:
        """Asks it to answer `Paused` as soon as it can, and to wait then."""

    def exit_reason(self) -> str:
        """How it died."""

    def waiting_reason(self, waited: float) -> str:
        """Why it cannot be given tasks after so many seconds.

        Raises:
            InputError: It never will be.
        """

    def stop(self) -> None:
        """Ends the worker at once, whatever it is doing."""

    def replacement(self) -> "Worker":
        """Ends this worker, where it still lives, and starts another in its place."""


def answer(worker: Worker) -> Message | None:
    """What a worker answers to a task, ``None`` where it has died.

    One that was asked to pause when it had just ended its last task says so only now, and is told to go on.
    """
    while isinstance(message := worker.receive(), Paused):
        worker.send(Resume())
    return message


class Resources(Section):
    """What a worker takes of a machine, for `--ray`."""

    cpus: float = Field(1.0, gt=0)
    """Cores of each worker; of one and more, a whole number."""
    gpus: float = Field(0.0, ge=0)
    """GPUs of each worker: 0.25 packs four of them on one; of one and more, a whole number."""
    max_workers: int | None = Field(None, ge=1)
    """Most workers at once, also when the cluster grows; unset: as many as it holds when the study starts."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, value in (("cpus", self.cpus), ("gpus", self.gpus)):
            if value > 1 and value != int(value):  # Ray's rule
                raise ValueError(f"{name} = {value:g}: more than one is a whole number")
        return self

    @property
    def threads(self) -> int:
        """Of each worker."""
        return max(1, int(self.cpus))

    def words(self) -> str:
        """As ``2 CPU, 0.5 GPU``."""
        return f"{self.cpus:g} CPU" + (f", {self.gpus:g} GPU" if self.gpus else "")
