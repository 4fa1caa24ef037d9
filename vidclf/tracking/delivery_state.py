"""The delivery state of an attempt: what MLflow has of it, and what is pending."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vidclf import config
from vidclf.runs.folder import Attempt, Outcome

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "interrupted": "KILLED", "failed": "FAILED"}
"""MLflow's names of a run's end, written out: importing MLflow takes seconds."""

FileStamp = tuple[int, int]
"""Size in bytes and modification time in nanoseconds."""


@dataclass
class DeliveryState:
    """What MLflow has of an attempt (``delivery.json``).

    Attributes:
        uri: The MLflow that this is about.
        run_id: The attempt's run, ``None`` before it was created or found.
        config: Stamp of the ``config.toml`` whose params were sent.
        offset: Bytes of the journal that were sent.
        files: Stamps of the artifacts that were sent, by relative path.
        ended: Status and end time that were sent.
        model_id: The logged model, where the attempt's model was sent.
        note: The description that was sent: where MLflow has another one now, the user wrote it.
    """

    uri: str
    run_id: str | None = None
    config: FileStamp | None = None
    offset: int = 0
    files: dict[str, FileStamp] = field(default_factory=dict)
    ended: tuple[str, int] | None = None
    model_id: str | None = None
    note: str | None = None

    @classmethod
    def load(cls, attempt: Attempt, uri: str) -> "DeliveryState":
        """The attempt's receipt; an empty one where there is none, or one for another MLflow."""
        try:
            fields = json.loads((attempt.folder / "delivery.json").read_text(encoding="utf-8"))
            fields["files"] = {name: tuple(stamp) for name, stamp in fields["files"].items()}
            fields["config"] = fields["config"] and tuple(fields["config"])
            fields["ended"] = fields["ended"] and tuple(fields["ended"])
            receipt = cls(**fields)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return cls(uri)
        return receipt if receipt.uri == uri else cls(uri)

    def save(self, attempt: Attempt) -> None:
        """Writes it into the attempt's folder; a reader sees the whole file or the one before."""
        config.write_text(json.dumps(asdict(self), indent=1) + "\n", attempt.folder / "delivery.json")


@dataclass(frozen=True)
class PendingDelivery:
    """What an attempt folder has beyond its receipt, read in an order that makes it consistent.

    Attributes:
        outcome: Read first: once it stands, the rest of the folder is complete.
        config: Stamp of ``config.toml`` where its params were not sent yet.
        lines: Complete lines of the journal, each with the offset after it.
        files: New and changed artifacts by relative path.
        ended: The end that MLflow should show.
    """

    outcome: Outcome | None
    config: FileStamp | None
    lines: Sequence[tuple[int, bytes]]
    files: Mapping[str, tuple[Path, FileStamp]]
    ended: tuple[str, int] | None

    @classmethod
    def of(cls, attempt: Attempt, receipt: DeliveryState) -> "PendingDelivery":
        """Compares the folder with its receipt; costs a look at each file, and reads the journal's new part.

        Raises:
            InputError: The attempt's result is damaged.
        """
        outcome = attempt.outcome()
        stamp = file_stamp(attempt.config)
        files = {
            name: (path, found)
            for name, path in _artifacts(attempt)
            if (found := file_stamp(path)) is not None and receipt.files.get(name) != found
        }
        return cls(
            outcome=outcome,
            config=stamp if stamp != receipt.config else None,
            lines=_new_lines(attempt.journal, receipt.offset),
            files=files,
            ended=(_ended_status(attempt, outcome), outcome.ended_ms) if outcome else None,
        )

    def any(self, receipt: DeliveryState) -> bool:
        """Whether there is anything to send."""
        return bool(
            receipt.run_id is None or self.config or self.lines or self.files or self.ended != receipt.ended
        )


def _ended_status(attempt: Attempt, outcome: Outcome) -> str:
    """MLflow's word for an end; an interrupted trial is FAIL in Optuna, and both must agree."""
    in_study = attempt.identity().parent is not None
    return STATUS["failed" if outcome.status == "interrupted" and in_study else outcome.status]


def file_stamp(path: Path) -> FileStamp | None:
    """Changes with the file; ``None`` where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


def _artifacts(attempt: Attempt) -> Iterator[tuple[str, Path]]:
    if attempt.config.exists():
        yield attempt.config.name, attempt.config
    for folder, _, names in os.walk(attempt.artifacts):
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix != ".partial":
                yield path.relative_to(attempt.artifacts).as_posix(), path


def _new_lines(journal: Path, offset: int) -> list[tuple[int, bytes]]:
    try:
        with journal.open("rb") as file:
            if file.seek(0, os.SEEK_END) < offset:
                offset = 0
            file.seek(offset)
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    ends = []
    for line in lines:
        offset += len(line)
        if line.endswith(b"\n"):
            ends.append((offset, line))
    return ends
