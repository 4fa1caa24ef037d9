"""The Ray actor: one worker process on another machine, with the files that it needs and makes."""

import contextlib
import csv
import io
import json
import multiprocessing
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vidclf import config, system
from vidclf.exceptions import InputError
from vidclf.runs.folder import Attempt, Outcome
from vidclf.workers.local import LocalWorker
from vidclf.workers.protocol import (
    Finished,
    FinishTask,
    HelloTask,
    LatencyTask,
    Measured,
    Message,
    Paused,
    Resume,
    RunTask,
    StepDecision,
    StepReport,
    Task,
    refusal,
)
from vidclf.workers.sync import FolderChanges, FolderChangeTracker, read_folder, write_folder

_TEXTS = (".toml", ".json", ".jsonl", ".txt", ".csv")
"""Files in which paths of the scratch folder are told as those of the supervisor's machine."""
_QUOTED = (".toml", ".json", ".jsonl")
_LOCK = "used.lock"
_YOUNG_SECONDS = 60.0


@dataclass(frozen=True)
class TaskFiles:
    """What travels with a task.

    Attributes:
        files: Content of the task's folder by path.
        shared: ``digest/name`` of the contents that come along; they are kept for later tasks.
        places: For each path of the supervisor's machine that the task names: its ``digest/name``.
        paths: These paths by the key of the experiment that names them.
        manifest: ``digest/name`` of the manifest among them.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    manifest: str | None = None


@dataclass(frozen=True)
class WorkerMessage:
    """A message of a worker, and the file changes to apply before it.

    Attributes:
        message: ``None``: its process has died.
        changes: What has changed in the task's folder.
        exit_reason: How it died.
    """

    message: Message | None
    changes: FolderChanges | None = None
    exit_reason: str = ""


class RemoteWorker:
    """Holds one worker process, and gives it in its own folder what it needs of the supervisor's."""

    def __init__(self, threads: int, gpus: float) -> None:
        """Starts the process and asks what it is.

        Args:
            threads: Cores that it may use.
            gpus: Its share of GPUs; 0: it is shown none.
        """
        if gpus == 0:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._scratch, self._lock = _make_scratch()
        # Ray never splits a share of a GPU over two, so that one of 0.4 is one of two.
        self._worker = LocalWorker(threads, sharing=int(1 / gpus) if 0 < gpus < 1 else 1)
        self._own, self._aside = multiprocessing.Pipe(duplex=False)
        self._checked: set[str] = set()
        self._original: dict[str, str] = {}
        self._sender: FolderChangeTracker | None = None
        self._worker.send(HelloTask())

    def send(
        self, message: Task | StepDecision | Resume, task_files: TaskFiles | None = None, *contents: bytes
    ) -> None:
        """Hands a message on; a task that cannot be begun is answered in the worker's place.

        Args:
            message: Its paths are those of the supervisor's machine.
            task_files: What comes with a task.
            contents: Of ``task_files.shared``.
        """
        if task_files is None or not isinstance(message, RunTask | LatencyTask | FinishTask):
            self._worker.send(message)
            return
        try:
            for name, content in zip(task_files.shared, contents, strict=True):
                write_folder({name: content}, self._scratch / "shared")
            self._check_clips(task_files)
            self._worker.send(self._localized(message, task_files))
        except Exception as error:
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            self._aside.send(refusal(message, reason))

    def receive(self) -> WorkerMessage:
        """Waits for the worker's next message."""
        if self._own in wait([self._worker.connection, self._own]):
            return WorkerMessage(self._own.recv())
        message = self._worker.receive()
        if message is None:
            changes = self._sender.changes(checkpoint=True) if self._sender else None
            return WorkerMessage(None, changes, self._worker.exit_reason())
        if isinstance(message, Paused) or self._sender is None:
            return WorkerMessage(message)  # paused in the middle of anything: files may be half written
        changes = self._sender.changes()
        if not isinstance(message, StepReport):
            self._sender = None
        return WorkerMessage(self._with_own_paths(message), changes)

    def node(self) -> str:
        """Name of this machine."""
        return socket.gethostname()

    def pause(self) -> None:
        self._worker.pause()

    def close(self) -> None:
        """Ends the process and leaves nothing behind."""
        self._worker.process.kill()
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._lock.release()

    def _check_clips(self, task_files: TaskFiles) -> None:
        """Raises:
        InputError: A clip of the manifest is not there on this machine; says what to do.
        """
        if task_files.manifest is None or task_files.manifest in self._checked:
            return
        text = (self._scratch / "shared" / task_files.manifest).read_text(encoding="utf-8")
        clips = [row["clip_path"] for row in csv.DictReader(io.StringIO(text))]
        absent = [clip for clip in clips if "://" not in clip and not Path(clip).is_file()]
        if absent:
            raise InputError(
                f"{len(absent)} of {len(clips)} clips are missing on the node {socket.gethostname()}: "
                f"{absent[0]}; put the clips at the same path on every node, or behind an address as s3://…"
            )
        self._checked.add(task_files.manifest)

    def _localized(self, task: RunTask | LatencyTask | FinishTask, task_files: TaskFiles) -> Task:
        """The task in paths of this machine, its folder filled."""
        folder = self._scratch / "task"
        shutil.rmtree(folder, ignore_errors=True)
        Attempt(folder).artifacts.mkdir(parents=True)
        write_folder(task_files.files, folder)
        places = {path: str(self._scratch / "shared" / name) for path, name in task_files.places.items()}
        values = {key: places[path] for key, path in task_files.paths.items()}
        self._original = {place: path for path, place in places.items()}
        self._sender = None
        if isinstance(task, LatencyTask):
            experiment = task.experiment and config.override(task.experiment, values)
            clip = Path(places.get(str(task.clip), str(task.clip)))
            return LatencyTask(clip, folder if task.folder else None, experiment)
        self._original[str(folder)] = str(task.folder)
        if isinstance(task, FinishTask):
            attempt = Attempt(folder)
            config.write_toml(config.override(config.read_toml(attempt.config), values), attempt.config)
        self._sender = FolderChangeTracker(folder, self._translate)
        if isinstance(task, RunTask):
            return RunTask(config.override(task.experiment, values), folder, task.repeats)
        return replace(task, folder=folder)

    def _translate(self, path: str, content: bytes) -> bytes:
        suffix = Path(path).suffix
        if suffix not in _TEXTS or str(self._scratch).encode() not in content:
            return content
        for place, original in self._original.items():
            written = json.dumps(original, ensure_ascii=False)[1:-1] if suffix in _QUOTED else original
            content = content.replace(place.encode(), written.encode())
        return content

    def _with_own_paths(self, message: Message) -> Message:
        """The message with the paths of this machine replaced by those of the supervisor's."""
        if isinstance(message, Outcome):
            return replace(message, reason=self._own_paths(message.reason))
        if isinstance(message, Measured | Finished):
            return replace(message, error=self._own_paths(message.error))
        return message

    def _own_paths(self, text: str) -> str:
        for place, original in self._original.items():
            text = text.replace(place, original)
        return text


def _make_scratch() -> tuple[Path, FileLock]:
    """A new folder, locked while this process lives; those that dead ones have left are removed."""
    home = Path(tempfile.gettempdir()) / f"vidclf-workers-{system.user_id()}"
    home.mkdir(mode=0o700, exist_ok=True)
    for old in home.iterdir():
        with contextlib.suppress(Timeout, OSError):  # the latter also where another removes it just now
            if time.time() - old.stat().st_mtime < _YOUNG_SECONDS:
                continue  # its lock may be about to be taken
            with FileLock(old / _LOCK, blocking=False):
                shutil.rmtree(old, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(dir=home))
    lock = FileLock(scratch / _LOCK, blocking=False)
    lock.acquire()
    return scratch, lock


def load(task: RunTask | LatencyTask | FinishTask) -> tuple[dict[str, bytes], dict[str, str]]:
    """Reads on the supervisor's machine what a task needs of it.

    Returns:
        Content of the files of its folder by path; path by key of every file that its experiment names.

    Raises:
        InputError: The folder's ``config.toml`` cannot be read.
        OSError: Another file cannot.
    """
    from vidclf.runs.experiment import parse_experiment

    files = read_folder(task.folder) if task.folder else {}
    tree: Mapping[str, Any] = {}
    if isinstance(task, FinishTask):
        tree = config.read_toml(Attempt(task.folder).config)
    elif task.experiment:
        tree = task.experiment
    if not tree:
        return files, {}
    flat = config.flatten(tree)
    keys = config.path_keys(type(parse_experiment(tree, "to be run elsewhere")))
    paths = {key: str(flat[key]) for key in keys if key in flat}
    return files, {key: path for key, path in paths.items() if Path(path).is_file()}
