"""Decodes untrusted files in child processes with limits on time and memory."""

import contextlib
import json
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, Self

import numpy as np

from vidclf import system
from vidclf.data import video
from vidclf.data.container import DecodeLimits
from vidclf.data.pictures import Frames
from vidclf.data.remote import named
from vidclf.data.video import Verdict
from vidclf.exceptions import ClipError, GuardError, InputError, ItemError

START_LIMIT_S = 120.0
"""Seconds in which a child must have imported what its work needs."""
_LONGEST_TO_SHORTEST = 16
"""Of a stranger's picture: enlarged to fill a model's crop, its long side may be so many times the crop."""
_GRACE_S = 1.0
"""Seconds by which the system's own limit on a task comes after ours; it ends children of a dead parent."""
_BOOT = (
    "import json, sys; fd, sys.path[:] = json.loads(sys.argv[1]); "
    "from vidclf.data import guarded; guarded.run_child(fd)"
)
"""A child of `multiprocessing`, and so of pools as those of `concurrent.futures` and pebble, would import the
parent's main script, which may be anybody's here."""


class Child:
    """A process that does one task after another; one that crashes or takes too long is over.

    Args:
        work: What it does with a task; importable by name, as its answer must be.
        time_limit_s: Seconds that one task may take.
        memory_limit_mb: Address space in MiB on top of what the process has loaded; only on Linux.
        scratch: A folder that the process deletes where this one is killed.

    Attributes:
        connection: Readable when the task is done, or its process dead.
        lives: Whether it takes another task.
    """

    def __init__(
        self,
        work: Callable[[Any], Any],
        time_limit_s: float,
        memory_limit_mb: int,
        scratch: Path | None = None,
    ) -> None:
        self.connection, theirs = Pipe()
        self.lives = True
        self._ready = False
        self._time_limit_s = time_limit_s
        self._started = 0.0
        command = [sys.executable, "-c", _BOOT, json.dumps([theirs.fileno(), sys.path])]
        self._process = system.start_child(command, theirs)
        theirs.close()
        with contextlib.suppress(BrokenPipeError):
            self.connection.send((work, time_limit_s, memory_limit_mb, scratch))

    def wait_until_ready(self) -> None:
        """Waits until the process has imported what its work needs: no task must pay for that.

        Raises:
            GuardError: The process did not start.
        """
        if self._ready:
            return
        try:
            if not self.connection.poll(START_LIMIT_S):
                raise GuardError("time", f"a child process did not start in {START_LIMIT_S:g} s")
            self.connection.recv()
            self._ready = True
        except (EOFError, OSError):
            self.stop()
            raise GuardError("crash", "a child process did not start") from None
        except BaseException:
            self.stop()
            raise

    def give(self, task: Any, waited_s: float = 0.0) -> None:
        """Begins a task, as soon as the process is ready; seconds that it has waited count as its own."""
        self.wait_until_ready()
        self._started = time.monotonic() - waited_s
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(task)

    @property
    def seconds(self) -> float:
        """How long the task has taken so far."""
        return time.monotonic() - self._started

    @property
    def seconds_left(self) -> float:
        """How much longer it may take; 0 where its time is used up."""
        return max(0.0, self._time_limit_s - self.seconds)

    def take(self) -> Any:
        """The task's answer, for which it waits; ends the process where there is none.

        Raises:
            GuardError: There is none.
        """
        try:
            if not self.connection.poll(self.seconds_left):
                self.stop()
                raise GuardError("time", f"over the limit of {self._time_limit_s:g} s")
            done, answer = self.connection.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            self.stop()
            if code == system.TIMED_OUT:
                raise GuardError("time", f"over the limit of {self._time_limit_s:g} s") from None
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise GuardError("crash", f"the decoder crashed: {how}") from None
        except BaseException:
            self.stop()  # its answer would be taken for that of the next task
            raise
        if not done:
            raise GuardError("memory", "decoding it takes more memory than the limit")
        return answer

    def stop(self) -> None:
        """Ends the process, whatever it does."""
        self.lives = False
        self._process.kill()
        self._process.wait()
        self.connection.close()


def run_child(fd: int) -> None:
    """A child's life: it ends when its parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = system.inherited(fd)
    with (
        contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError),
        contextlib.ExitStack() as stack,
    ):
        work, time_limit_s, memory_limit_mb, scratch = connection.recv()
        if scratch is not None:
            stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        system.limit_memory(memory_limit_mb)
        connection.send(None)
        while True:
            task = connection.recv()
            with system.deadline(time_limit_s + _GRACE_S):
                answer = _answer(work, task)
            connection.send(answer)


def _answer(work: Callable[[Any], Any], task: Any) -> tuple[bool, Any]:
    try:
        return True, work(task)
    except MemoryError:
        return False, None


@dataclass(frozen=True)
class Limits:
    """Limits on untrusted clips; a variable of the environment is named by each field's default.

    Attributes:
        seconds: That one clip may take, with what it waits for a decoder.
        memory_mb: Address space of a decoder in MiB.
        pixels: Of one picture.
        frames: Of the clip.
        file_mb: Size of the file in MiB.
        items: Of one request.
        request_mb: Size of a request's items in MiB.
        decoders: Processes that decode at the same time. A few slow clips hold up the others only where they
            hold all of them.
        queue: Clips that may wait for a decoder; more are refused at once.
    """

    seconds: float = field(default=30, metadata={"variable": "VIDCLF_SERVE_SECONDS"})
    memory_mb: float = field(default=2048, metadata={"variable": "VIDCLF_SERVE_MEMORY_MB"})
    pixels: float = field(default=4096 * 2304, metadata={"variable": "VIDCLF_SERVE_PIXELS"})
    frames: float = field(default=36_000, metadata={"variable": "VIDCLF_SERVE_FRAMES"})
    file_mb: float = field(default=64, metadata={"variable": "VIDCLF_SERVE_FILE_MB"})
    items: float = field(default=256, metadata={"variable": "VIDCLF_SERVE_ITEMS"})
    request_mb: float = field(default=256, metadata={"variable": "VIDCLF_SERVE_REQUEST_MB"})
    decoders: float = field(default=8, metadata={"variable": "VIDCLF_SERVE_DECODERS"})
    queue: float = field(default=32, metadata={"variable": "VIDCLF_SERVE_QUEUE"})

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The defaults, or what the variables say.

        Raises:
            InputError: A variable holds no number above 0.
        """
        values = {}
        for item in fields(cls):
            text = environment.get(item.metadata["variable"])
            if text is not None:
                values[item.name] = _positive(item.metadata["variable"], text)
        return cls(**values)


def _positive(variable: str, text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < float("inf"):
            return value
    raise InputError(f"{variable} = {text!r}: expected a number above 0")


class GuardedDecoder:
    """Decodes clips in child processes, several at once; one that dies is replaced. Threads may share it.

    Args:
        grid: As of `video.decode`.
        store_side: As of `video.decode`.
        limits: What a clip may take; beyond them it is refused.
        apart: As of `video.decode`.

    Attributes:
        scratch: A folder for files that need not outlive this process, and do not, however it ends.
    """

    def __init__(self, grid: int, store_side: int, limits: Limits, apart: float = 0.0) -> None:
        self._grid, self._store_side, self._limits, self._apart = grid, store_side, limits, apart
        self._bounds = DecodeLimits(limits.pixels, limits.frames)
        decoders = max(1, int(limits.decoders))
        self._places = threading.BoundedSemaphore(decoders + int(limits.queue))
        self._folder = tempfile.TemporaryDirectory(prefix="vidclf-", ignore_cleanup_errors=True)
        self.scratch = Path(self._folder.name)
        self._idle: queue.LifoQueue[Child | None] = queue.LifoQueue()  # the last one that worked comes first
        for _ in range(decoders - 1):
            self._idle.put(None)  # started once it is needed
        self._idle.put(self._start())

    def decode(self, path: Path, seconds: float | None = None) -> Frames:
        """The clip's grid, as `video.decode` gives it.

        Args:
            path: A file of this machine.
            seconds: What is left of the time of whoever asks, where that is less than the limit.

        Raises:
            ClipError: It gives none, or not within the limits.
            ItemError: Too many clips wait already.
        """
        try:
            size = path.stat().st_size
        except OSError as error:
            raise ClipError(path, "unreadable", str(error.strerror), named(path)) from None
        if size > self._limits.file_mb * 2**20:
            raise ClipError(path, "oversized", f"over the limit of {self._limits.file_mb:g} MiB", named(path))
        if not self._places.acquire(blocking=False):
            raise ItemError(f"busy: {self._limits.queue:g} clips wait for a decoder already; try again")
        try:
            return self._decode(path, min(self._limits.seconds, seconds or self._limits.seconds))
        except GuardError as error:
            verdict: Verdict = "damaged" if error.how == "crash" else "oversized"
            raise ClipError(path, verdict, str(error), named(path)) from None
        finally:
            self._places.release()

    def _decode(self, path: Path, seconds: float) -> Frames:
        asked = time.monotonic()
        try:
            child = self._idle.get(timeout=seconds)
        except queue.Empty:
            raise ItemError(f"busy: no decoder became free in {seconds:.3g} s; try again") from None
        waited = time.monotonic() - asked + self._limits.seconds - seconds
        try:
            if child is None or not child.lives:
                child = self._start()
            answer = self.scratch / f"{id(child)}.npy"
            child.give((answer, path, self._grid, self._store_side, self._bounds, self._apart), waited)
            problem = child.take()
            if problem is not None:
                verdict, reason = problem
                raise ClipError(path, verdict, reason, named(path))
            frames: Frames = np.load(answer)
            return frames
        finally:
            self._idle.put(child)

    def close(self) -> None:
        """Ends the child processes, once they are idle."""
        for _ in range(max(1, int(self._limits.decoders))):
            child = self._idle.get()
            if child is not None:
                child.stop()
        self._folder.cleanup()

    def _start(self) -> Child:
        child = Child(decode_task, self._limits.seconds, int(self._limits.memory_mb), self.scratch)
        child.wait_until_ready()
        return child


def decode_task(task: tuple[Path, Path, int, int, DecodeLimits, float]) -> tuple[Verdict, str] | None:
    """What the child of a `GuardedDecoder` does: writes the frames, or says why there are none.

    Frames go by a file: through a pipe they take as long as the decoding itself.
    """
    answer, path, grid, store_side, bounds, apart = task
    try:
        frames = video.decode(path, grid, store_side, bounds, apart=apart).frames
    except ClipError as error:
        return error.verdict, error.reason
    short, long = sorted(frames.shape[1:3])
    if long > _LONGEST_TO_SHORTEST * short:
        return "oversized", f"one side of the pictures is over {_LONGEST_TO_SHORTEST} times the other"
    np.save(answer, frames)
    return None
