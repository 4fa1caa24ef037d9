"""An attempt: one training as a folder, and the folder is the record::

attempts/<series>/<name>/
    attempt.json     identity, written first
    config.toml      the resolved experiment
    metrics.jsonl    one line a report, append-only
    artifacts/       files under their final MLflow names
    checkpoint/      the state after one of the last epochs, while it runs
    model/           the saved model
    result.json      written last: status, reason, final metrics
    delivery.json    what MLflow already has (the deliverer's own)
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from filelock import FileLock, Timeout

from vidclf.exceptions import InputError

Status = Literal["complete", "pruned", "failed", "interrupted"]
"""How an attempt ended. A study's own folder uses ``complete``, ``failed`` and ``interrupted``."""
Record = TypeVar("Record", "Identity", "Outcome")
PARENT = "parent"
"""Folder of artifacts with what the model that a run was made of predicts of val; prefix of its figures."""
SEARCHED_TAG = "vidclf.searched"
"""A trial's searched values by dotted path, as JSON."""


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

    def exists(self) -> bool:
        """Whether it was begun, on this machine."""
        return (self.folder / "attempt.json").exists()

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
        """Marks an attempt of `vidclf train` as interrupted if its process has died; no other command does.

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

    def add_metrics(self, metrics: Mapping[str, float], instead: str | None = None) -> None:
        """Adds final metrics that were measured after the attempt ended.

        Args:
            metrics: By name.
            instead: What those that they replace begin with, as ``latency/``; ``None``: only equal names.
        """
        outcome = self.outcome()
        if outcome is None:
            raise FileNotFoundError(f"{self.folder} has no result yet")
        self.record(0, metrics)
        kept = {
            name: value
            for name, value in outcome.metrics.items()
            if instead is None or not name.startswith(instead)
        }
        self.finish(replace(outcome, metrics={**kept, **metrics}))


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
