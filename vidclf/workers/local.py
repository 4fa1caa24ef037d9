"""A worker that is a process of this machine, and the code that runs in it.

It knows neither Optuna nor MLflow, and it ends when its supervisor does.
"""

import contextlib
import functools
import gc
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import MappingProxyType
from typing import Any, cast

from vidclf import system
from vidclf.exceptions import InputError
from vidclf.models import devices
from vidclf.runs.folder import Outcome
from vidclf.system import Connection
from vidclf.workers.protocol import (
    Finished,
    FinishTask,
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
    own_version,
)

PRELOADED = ["vidclf.workers.preloaded"]
_CONTEXT = system.process_context(PRELOADED)
_DEVICE_FAILED = 75
_HIP = "HIP_VISIBLE_DEVICES"


def preload() -> None:
    """Has the server that forks workers import what they need: all start at once and share memory."""
    system.start_server()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Processes that are started meanwhile do not run the caller's script: it would start the study again."""
    main = sys.modules["__main__"]
    kept: dict[str, Any] = {name: vars(main)[name] for name in ("__spec__", "__file__") if name in vars(main)}
    try:
        main.__spec__ = None
        vars(main).pop("__file__", None)
        yield
    finally:
        vars(main).update(kept)


class LocalWorker:
    """A worker that is a process of this machine."""

    machine: Mapping[str, str] | None = MappingProxyType({})
    """Tasks can be sent at once: they wait in the pipe."""

    def __init__(self, threads: int, gpu: str | None = None, sharing: int = 1) -> None:
        """Starts the process.

        Args:
            threads: Cores that it may use.
            gpu: The one GPU that it may use, as `visible_gpus` names it; ``None``: those of this process.
            sharing: Workers that share the GPU's memory.
        """
        self._threads, self._gpu, self._sharing = threads, gpu, sharing
        self.connection, theirs = _CONTEXT.Pipe()
        environment = {**os.environ}  # the server has that of when it was started
        if gpu is not None:
            environment[_visible_variable()] = gpu
        if sharing > 1:
            environment[devices.SHARING] = str(sharing)
        self._interrupt = system.Interrupt()
        self.process: BaseProcess = _CONTEXT.Process(
            target=work, args=(theirs, threads, environment, self._interrupt), daemon=True
        )
        preload()
        with _without_main():
            self.process.start()
        theirs.close()

    def replacement(self) -> "LocalWorker":
        self.stop()
        return LocalWorker(self._threads, self._gpu, self._sharing)

    def send(self, message: Task | StepDecision | Resume) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def receive(self) -> Message | None:
        # OSError also where it died in the middle of a message.
        with contextlib.suppress(EOFError, OSError):
            return cast(Message, self.connection.recv())
        return None

    def pause(self) -> None:
        if self.process.pid is not None:
            self._interrupt.send(self.process.pid)

    def exit_reason(self) -> str:
        self.process.join(timeout=10)
        code = self.process.exitcode
        if code == _DEVICE_FAILED:
            return "the worker ended, as its GPU no longer computed: artifacts/traceback.txt says why"
        if code is not None and code < 0:
            return f"the worker died: {signal.Signals(-code).name}"
        return f"the worker died: exit code {code}"

    def waiting_reason(self, waited: float) -> str:
        return f"its process has been starting for {waited:.0f} s"

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, each as the value that shows a worker that one alone.

    That is an index, or what ``CUDA_VISIBLE_DEVICES`` says here: an index, a GPU's or a MIG instance's UUID.
    Empty where there is no GPU of CUDA or ROCm, and where ``VIDCLF_DEVICE`` names one device.
    """
    import torch

    if os.environ.get(devices.VARIABLE, "cuda") != "cuda" or not torch.cuda.is_available():
        return []
    count = torch.cuda.device_count()
    given = os.environ.get(_visible_variable(), "")
    return [name.strip() for name in given.split(",")][:count] if given else [str(n) for n in range(count)]


def _visible_variable() -> str:
    """The variable by which a process is shown GPUs; ROCm's own counts before the common one."""
    import torch

    return _HIP if torch.version.hip and _HIP in os.environ else "CUDA_VISIBLE_DEVICES"


def work(
    connection: Connection, threads: int, environment: Mapping[str, str], interrupt: system.Interrupt
) -> None:
    """The worker process: receives tasks and sends reports and outcomes until the pipe closes."""
    os.environ.clear()
    os.environ.update(environment)
    system.leave_terminal_to_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    line = _Line(connection)
    interrupt.handle(line.on_signal)
    _end_with_parent()
    from vidclf.inference import profiling

    profiling.use_cores(threads)
    gc.freeze()  # else looking through half a million imported objects takes 0.25 s after each trial
    while True:
        line.send(_answer(line.receive(), line))


@contextlib.contextmanager
def _leaving() -> Iterator[None]:
    """Ends the process where the supervisor has gone; an `Exception` would count as the attempt's failure."""
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise SystemExit from None


class _Line:
    """The worker's end of the pipe; a pause never cuts a message in two, nor takes one for a `Resume`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._busy = self._wanted = False
        self._early: deque[Any] = deque()
        """What came during a pause: answers to what had been sent just before it."""

    def on_signal(self, *_: object) -> None:
        """A pause is wanted: at once, or when the message under way is through."""
        if self._busy:
            self._wanted = True
        else:
            self._pause()

    def send(self, message: Message) -> None:
        self._through(lambda: self._connection.send(message))

    def receive(self) -> Any:
        return self._through(lambda: self._early.popleft() if self._early else self._connection.recv())

    def _through(self, transfer: Callable[[], Any]) -> Any:
        self._busy = True
        try:
            with _leaving():
                return transfer()
        finally:
            self._busy = False
            if self._wanted:
                self._wanted = False
                self._pause()

    def _pause(self) -> None:
        self._busy = True
        try:
            with _leaving():
                self._connection.send(Paused())
                while not isinstance(message := self._connection.recv(), Resume):
                    self._early.append(message)
        finally:
            self._busy = False


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()


def _answer(task: Task, line: _Line) -> Message:
    """Does a task; ends the process where its device has failed, as nothing could be computed after it."""
    try:
        return _do(task, line)
    finally:
        if devices.failed():
            os._exit(_DEVICE_FAILED)


def _do(task: Task, line: _Line) -> Message:
    if isinstance(task, RunTask):
        return _run(task, line)
    if isinstance(task, HelloTask):
        return _introduce()
    return _measure(task) if isinstance(task, LatencyTask) else _finish(task)


def _introduce() -> Ready:
    from vidclf.inference import profiling
    from vidclf.models.precision import resolved

    machine = {**profiling.environment(), "device": devices.name(), "precision": resolved("auto")}
    return Ready(socket.gethostname(), own_version(), machine)


@functools.cache
def describe_machine() -> Mapping[str, str]:
    """What a worker finds out of this machine, so that its supervisor need not touch the GPU.

    Raises:
        InputError: The worker died of it.
    """
    worker = LocalWorker(1)
    try:
        worker.send(HelloTask())
        answer = worker.receive()
        if isinstance(answer, Ready):
            return answer.machine
        raise InputError(f"the GPU cannot be used: {worker.exit_reason()}")
    finally:
        worker.stop()


def _run(task: RunTask, line: _Line) -> Outcome:
    from vidclf.exceptions import TrialPruned
    from vidclf.runs.experiment import parse_experiment, run_experiment
    from vidclf.runs.folder import Attempt

    def report(step: int, metrics: Mapping[str, float]) -> None:
        line.send(StepReport(step, dict(metrics)))
        verdict: StepDecision = line.receive()
        if verdict.prune:
            raise TrialPruned(verdict.prune)

    experiment = parse_experiment(task.experiment, str(task.folder))
    try:
        return run_experiment(experiment, Attempt(task.folder), report, task.repeats)
    finally:
        _free_memory()


def _free_memory() -> None:
    """Frees the last trial's memory: reference cycles of networks, and what torch holds in reserve."""
    gc.collect()
    devices.release_memory()


def _measure(task: LatencyTask) -> Measured:
    from vidclf.inference import profiling
    from vidclf.models import load_model, untrained_model
    from vidclf.runs.experiment import parse_experiment

    try:
        if task.folder is not None:
            model = load_model(task.folder)
        else:
            model = untrained_model(parse_experiment(task.experiment or {}, "to be timed").resolved())
        return Measured(profiling.measure_latency(model, task.clip, limit_s=task.limit_s))
    except Exception as error:
        return Measured({}, f"{type(error).__name__}: {error}")


def _finish(task: FinishTask) -> Finished:
    from vidclf.runs import retrain
    from vidclf.runs.folder import Attempt

    attempt = Attempt(task.folder)
    try:
        if attempt.model.is_dir():
            retrain.draw(attempt, task.repeats)
        else:
            retrain.train_model(attempt, task.repeats)
        return Finished()
    except Exception as error:
        return Finished(f"{type(error).__name__}: {error}")
    finally:
        _free_memory()
