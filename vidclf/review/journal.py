"""What a user has decided about clips: an append-only file beside the manifest, one line a decision.

A decision is on the disk before it is answered, so that a killed browser, server or machine loses none.
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import TypeAdapter, ValidationError

from vidclf import system
from vidclf.data.manifest import content_digest
from vidclf.exceptions import InputError
from vidclf.runs.store import locked

Kind = Literal["label", "pair", "unlabelled"]
Action = Literal["keep", "relabel", "drop", "merge", "split"]
FORMAT = 1
_UNDO = {"undo": True}
"""The line that takes the last decision back."""


@dataclass(frozen=True)
class Decision:
    """An answer to one question.

    Attributes:
        kind: What was asked: about a clip's label, a pair of clips, or a clip without a label.
        clips: The clips that were shown, as the manifest names them from its folder.
        action: What was decided.
        value: The class of ``relabel``, the clip of ``drop``; empty otherwise.
        why: Why it was asked.
        who: Who decided.
        when: The time in UTC, ISO 8601.
    """

    kind: Kind
    clips: tuple[str, ...]
    action: Action
    value: str
    why: str
    who: str
    when: str

    @property
    def question(self) -> tuple[Kind, tuple[str, ...]]:
        """What tells questions apart."""
        return self.kind, self.clips


def journal_file(manifest: Path) -> Path:
    """Where the decisions about a manifest's clips lie."""
    return manifest.with_suffix(".review.jsonl")


class Journal:
    """The decisions about one manifest, open for more; see `opened`.

    Attributes:
        path: The file.
        decisions: Those that were not taken back, in their order.
    """

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path, self._file = path, file
        self.decisions = list(_replayed(path))

    @classmethod
    @contextlib.contextmanager
    def opened(cls, manifest: Path) -> Iterator[Self]:
        """The journal beside a manifest, begun where there is none; nobody else may write it meanwhile.

        Raises:
            InputError: It was begun for another content of the manifest, or is no journal.
        """
        path = journal_file(manifest)
        waiting = f"waiting for the end of another vidclf review of {manifest} …"
        with path.open("ab+", buffering=0) as file, locked(path, waiting):
            begun = {"format": FORMAT, "manifest": manifest.name, "sha256": content_digest(manifest)}
            if not _first_line(path):
                file.truncate(0)  # its first line was cut short
                _write_line(file, begun)
                system.sync_folder(path.parent)
            journal = cls(path, file)
            journal.check(manifest)
            try:
                yield journal
            finally:
                if path.read_bytes().count(b"\n") == 1:  # nothing was ever decided
                    file.close()  # Windows deletes no open file
                    path.unlink()

    def check(self, manifest: Path) -> None:
        """Refuses a manifest that is not the one whose clips were decided about.

        Raises:
            InputError: It was changed since.
        """
        if json.loads(_first_line(self.path)).get("sha256") == content_digest(manifest):
            return
        count = len(self.decisions)
        raise InputError(
            f"{manifest}: was changed since its review began, so the {count} decisions in {self.path.name} "
            f"may mean other clips. Put the manifest back, or begin anew: mv {self.path} {self.path}.old"
        )

    def add(self, decision: Decision) -> None:
        """Keeps a decision; it is on the disk when this returns."""
        _write_line(self._file, asdict(decision))
        self.decisions.append(decision)

    def undo(self) -> Decision | None:
        """Takes the last decision back; ``None`` where there is none."""
        if not self.decisions:
            return None
        _write_line(self._file, _UNDO)
        return self.decisions.pop()


def _first_line(path: Path) -> bytes:
    """The line that says what a journal is about; empty where it was not written to its end.

    Raises:
        InputError: The file is something else.
    """
    with path.open("rb") as file:
        line = file.readline()
    if not line.endswith(b"\n"):
        return b""
    with contextlib.suppress(ValueError):
        if isinstance(found := json.loads(line), dict) and found.get("format") == FORMAT:
            return line
    raise InputError(f"{path}: not a journal that this vidclf reads; move it away to begin anew")


def _replayed(path: Path) -> list[Decision]:
    """What the lines come to; one that was cut short by a crash was never answered, and does not count.

    Raises:
        InputError: A whole line is no decision.
    """
    decisions: list[Decision] = []
    for number, line in enumerate(path.read_bytes().splitlines()[1:], start=2):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry == _UNDO:
            decisions = decisions[:-1]
            continue
        try:
            decisions.append(TypeAdapter(Decision).validate_python(entry))
        except ValidationError:
            raise InputError(f"{path}: line {number} is no decision; mend it or take it out") from None
    return decisions


def _write_line(file: FileIO, entry: dict[str, Any]) -> None:
    """Appends a line and waits for the disk; what a crash or a full disk left before it is ended first."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
    torn = file.read() not in (b"", b"\n")
    line = b"\n" * torn + json.dumps(entry, ensure_ascii=False).encode() + b"\n"
    written = file.write(line)
    os.fsync(file.fileno())
    if written < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
