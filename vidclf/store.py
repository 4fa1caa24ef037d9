"""The embedded store: where databases, artifacts and attempt folders lie.

An attempt is a folder, and the folder is the record::

    attempts/<series>/<name>/
        attempt.json     identity, written first
        config.toml      the resolved experiment
        metrics.jsonl    one line a report, append-only
        artifacts/       files under their final MLflow names
        checkpoint/      the state after the last epoch, while it runs
        model/           the saved model
        result.json      written last: status, reason, final metrics
        delivery.json    what MLflow already has (the deliverer's own)

Optuna decides, the folder is the record, MLflow is the mirror.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from filelock import FileLock, Timeout

from vidclf.config import InputError

Status = Literal["complete", "pruned", "failed", "interrupted"]
"""How an attempt ended. A study's own folder uses ``complete``, ``failed`` and ``interrupted``."""
Record = TypeVar("Record", "Identity", "Outcome")
FORMAT = 1
"""Of the store's own files; ``store.json`` keeps it, and a store of a later one is refused."""
SEARCHED_TAG = "vidclf.searched"
"""A trial's searched values by dotted path, as JSON."""
_LONGEST_NAME = 200
"""Bytes; file systems take 255, and suffixes come on top."""
TRAIN = "train"
"""Folder of the attempts that belong to no study."""


class DatabaseAway(Exception):  # noqa: N818  (a state, not an error)
    """The server of a study's database went away and was not waited for any longer; the study goes on later.

    Attributes:
        interrupted: The user stopped the waiting.
    """

    def __init__(self, message: str, interrupted: bool = False) -> None:
        super().__init__(message)
        self.interrupted = interrupted


def without_password(uri: str) -> str:
    """An address as it may be shown; hides up to the last @, as a password may hold an unquoted one."""
    hidden = re.sub(r"(?<=://)([^:/@]*):.*@", r"\1:***@", uri)
    return re.sub(r"(?<=[?&]password=)[^&]*", "***", hidden)


def now_ms() -> int:
    """Milliseconds since the epoch, MLflow's unit of time."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Identity:
    """What an attempt is, known before it starts.

    Attributes:
        id: Unique for ever; MLflow's run carries it as the tag ``vidclf.attempt``.
        experiment: MLflow experiment.
        run_name: Shown in the UI.
        parent: ``id`` of the study's own attempt, ``None`` outside studies.
        started_ms: Milliseconds since the epoch.
        tags: Further MLflow tags.
        params: MLflow params; empty: the flattened ``config.toml``.
        dataset: What it was made from: ``name``, ``digest`` (up to 36 characters), ``source`` and
            ``profile`` (clips by split and class); empty: not logged.
    """

    id: str
    experiment: str
    run_name: str
    parent: str | None
    started_ms: int
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        status: See `Status`.
        reason: Why it is not complete; empty otherwise.
        metrics: The final metrics.
        ended_ms: Milliseconds since the epoch.
        fingerprint: Type and place of the exception where one ended it.
    """

    status: Status
    reason: str
    metrics: Mapping[str, float]
    ended_ms: int
    fingerprint: str = ""


@dataclass(frozen=True)
class Attempt:
    """Reads and writes one attempt folder."""

    folder: Path

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def journal(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def drawn(self) -> Path:
        """Marks that the pictures of its model are among the artifacts."""
        return self.folder / "drawn"

    def create(self, identity: Identity) -> None:
        self.artifacts.mkdir(parents=True, exist_ok=True)
        _write_json(asdict(identity), self.folder / "attempt.json")

    def identity(self) -> Identity:
        return _read_record(self.folder / "attempt.json", Identity)

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line of metrics to the journal."""
        line = json.dumps({"time_ms": now_ms(), "step": step, "metrics": dict(metrics)})
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def records(self) -> Iterator[tuple[int, Mapping[str, float]]]:
        """(step, metrics) of every complete line of the journal."""
        if self.journal.exists():
            for line in self.journal.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    entry = journal_entry(line)
                    if entry is not None:
                        yield entry["step"], entry["metrics"]

    def finish(self, outcome: Outcome) -> None:
        _write_json(asdict(outcome), self.folder / "result.json")

    def drop_checkpoint(self) -> None:
        """Forgets the state of a fit that nothing will go on from."""
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    def drop_model(self) -> None:
        """Deletes the model; what it was made from stays, so that it can be trained again."""
        shutil.rmtree(self.model, ignore_errors=True)

    def take_checkpoint(self, other: "Attempt") -> None:
        """Goes on from where another attempt at the same run was cut short, if that finished an epoch."""
        if other.checkpoint.is_dir():
            other.checkpoint.rename(self.checkpoint)

    def running(self) -> FileLock:
        """Held while `vidclf train` runs the attempt; the system lets go of it when its process dies."""
        return FileLock(self.folder / "running.lock", blocking=False)

    def is_running(self) -> bool:
        """Whether `vidclf train` runs it now; asking writes nothing."""
        lock = self.running()
        if not Path(lock.lock_file).exists():
            return False
        try:
            with lock:
                return False
        except Timeout:
            return True

    def settle_dead(self) -> bool:
        """Marks an attempt of `vidclf train` as interrupted if its process has died: nobody else would.

        Returns:
            Whether it had died.
        """
        try:
            with self.running():
                self.finish(Outcome("interrupted", "interrupted: its process died", {}, now_ms()))
        except Timeout:
            return False
        return True

    def reopen(self) -> None:
        """Takes the result back: a study goes on."""
        (self.folder / "result.json").unlink(missing_ok=True)

    def outcome(self) -> Outcome | None:
        """How it ended, ``None`` while it has not.

        Raises:
            InputError: The file is damaged.
        """
        try:
            return _read_record(self.folder / "result.json", Outcome)
        except FileNotFoundError:
            return None

    def add_metrics(self, metrics: Mapping[str, float]) -> None:
        """Adds final metrics that were measured after the attempt ended."""
        outcome = self.outcome()
        if outcome is None:
            raise FileNotFoundError(f"{self.folder} has no result yet")
        self.record(0, metrics)
        merged = {**outcome.metrics, **metrics}
        self.finish(Outcome(outcome.status, outcome.reason, merged, outcome.ended_ms, outcome.fingerprint))


def journal_entry(line: bytes) -> dict[str, Any] | None:
    """A complete line of a journal; ``None`` where a crash of the machine has left it damaged."""
    try:
        entry: dict[str, Any] = json.loads(line)
        _ = entry["time_ms"], entry["step"], dict(entry["metrics"])
    except (ValueError, KeyError, TypeError):
        return None
    return entry


def _read_record(path: Path, kind: type[Record]) -> Record:
    text = path.read_bytes()
    try:
        return kind(**json.loads(text))
    except (ValueError, TypeError):
        raise InputError(f"{path} is damaged; vidclf doctor tells what can be done") from None


def _write_json(value: Any, path: Path) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@dataclass(frozen=True)
class Store:
    """The folder of the embedded store (``--store``, ``VIDCLF_STORE``, default ``./mlruns``)."""

    folder: Path

    @property
    def mlflow_uri(self) -> str:
        """``MLFLOW_TRACKING_URI``, else the embedded database."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def optuna_uri(self) -> str:
        """``VIDCLF_STUDY_STORAGE``, else the embedded database."""
        return os.environ.get("VIDCLF_STUDY_STORAGE") or f"sqlite:///{self.folder / 'optuna.db'}"

    @property
    def databases(self) -> dict[str, Path]:
        """The embedded databases by library; one that a server stands in for is not among them."""
        paths = {name: self.folder / f"{name}.db" for name in ("mlflow", "optuna")}
        uris = {"mlflow": self.mlflow_uri, "optuna": self.optuna_uri}
        return {name: path for name, path in paths.items() if uris[name] == f"sqlite:///{path}"}

    @property
    def format_file(self) -> Path:
        return self.folder / "store.json"

    def format(self) -> int:
        """Format of the store's files; this version's where ``store.json``, which keeps it, does not exist.

        Raises:
            InputError: That file cannot be read.
        """
        try:
            return int(json.loads(self.format_file.read_text(encoding="utf-8"))["format"])
        except FileNotFoundError:
            return FORMAT
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f'{self.format_file} cannot be read; it should say {{"format": {FORMAT}}}'
            ) from None

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def attempts(self) -> Path:
        return self.folder / "attempts"

    def attempt(self, series: str, name: str) -> Attempt:
        """The folder of an attempt, whether it exists or not.

        Raises:
            InputError: A name could lead out of the store.
        """
        check_name(series)
        check_name(name)
        return Attempt(self.attempts / series / name)

    def all_attempts(self) -> Iterator[Attempt]:
        """Every attempt folder, sorted by path."""
        for identity in sorted(self.attempts.glob("*/*/attempt.json")):
            yield Attempt(identity.parent)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, against other threads and processes of this host."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def check_name(name: str) -> None:
    """Refuses a name of a study or run that is not also one of a folder.

    Raises:
        InputError: It leads elsewhere, or is longer than file systems take.
    """
    if name in ("", ".", "..") or set("/\\\0") & set(name) or len(name.encode()) > _LONGEST_NAME:
        raise InputError(
            f"{name[:80]!r} cannot be a name: it must be one of a folder, without / and not '..'"
        )


def locate_store(folder: Path | None = None) -> Store:
    """The store at ``folder``, else ``VIDCLF_STORE``, else ``./mlruns``, whatever is in it.

    Raises:
        InputError: The path is a file, or holds a character that database addresses give a meaning to.
    """
    path = (folder or Path(os.environ.get("VIDCLF_STORE") or "mlruns")).absolute()
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: the store cannot be written: this is a file, not a folder")
    if set("?#%") & set(str(path)):
        raise InputError(f"{path}: a store's path cannot hold ?, # or %; choose another with --store")
    return Store(path)


def find_store(folder: Path | None = None) -> Store:
    """The store of `locate_store`, if this version can read it; nothing is created.

    Raises:
        InputError: Also where a later version made it.
    """
    store = locate_store(folder)
    if store.format() > FORMAT:
        raise InputError(
            f"{store.folder}: a later vidclf made this store (format {store.format()}, this version reads "
            f"{FORMAT}); install that, or choose another with --store"
        )
    return store


def open_store(folder: Path | None = None) -> Store:
    """The store of `find_store`, created where it does not exist.

    Raises:
        InputError: It cannot be written to.
    """
    store = find_store(folder)
    try:
        store.attempts.mkdir(parents=True, exist_ok=True)
        store.artifacts.mkdir(exist_ok=True)
        probe = store.folder / f".writable-{os.getpid()}"
        probe.write_text(json.dumps({"format": FORMAT}) + "\n", encoding="utf-8")
        if store.format_file.exists():
            probe.unlink()
        else:
            probe.replace(store.format_file)
    except OSError as error:
        raise InputError(
            f"{store.folder}: the store cannot be written: {error.strerror}; choose another with --store"
        ) from None
    return store
