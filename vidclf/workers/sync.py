"""Synchronises a growing folder between machines, change by change."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

CHECKPOINT = "checkpoint"
"""The subfolder that travels as a whole, or not at all: half of it is worth nothing."""
_REST = 20
"""After the checkpoint has taken t seconds to travel, it stays where it is for this many times t."""
_HERE_ONLY = ("delivery.json", "running.lock")
"""What the supervisor's machine knows alone."""
_RESULT = "result.json"
"""Written last: whoever sees it takes the folder for complete."""
_INCOMING = ".incoming"
_RACY_SECONDS = 0.1
"""A file changed so shortly before it was read may change again under the same time stamp."""

Translate = Callable[[str, bytes], bytes]
"""(path in the folder, content) -> the content as the other side is to have it."""


@dataclass(frozen=True)
class FolderChanges:
    """What has changed in a folder.

    Attributes:
        files: (offset, content) by path: from there on the file is that; 0: the whole file is.
        gone: Files that are no more.
        checkpoint: All files of the checkpoint, where it travels; empty: there is none any more.
    """

    files: Mapping[str, tuple[int, bytes]] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    checkpoint: Mapping[str, bytes] | None = None


@dataclass(frozen=True)
class _KnownFile:
    """A file as the other side has it."""

    stamp: tuple[int, int, int]
    settled: bool
    length: int
    digest: bytes


class FolderChangeTracker:
    """Tells what has changed in a folder since it was last asked; nobody else writes there meanwhile."""

    def __init__(self, folder: Path, translate: Translate = lambda _, content: content) -> None:
        """Args:
        folder: As it stands, the other side has it already.
        translate: Applied to all that leaves.
        """
        self._folder, self._translate = folder, translate
        self._known: dict[str, _KnownFile] = {}
        self._checkpoint = self._state()
        self._sent_at: float | None = None
        self._rest_until = 0.0
        for path in self._paths():
            self._look(path)

    def changes(self, *, checkpoint: bool | None = None) -> FolderChanges:
        """What the other side lacks.

        Args:
            checkpoint: Whether the checkpoint is included; ``None``: if its turn has come.
        """
        self._note_rest()
        files: dict[str, tuple[int, bytes]] = {}
        paths = list(self._paths())
        for path in paths:
            change = self._look(path)
            if change is not None:
                files[path] = change
        gone = tuple(sorted(self._known.keys() - set(paths)))
        for path in gone:
            del self._known[path]
        return FolderChanges(files, gone, self._checkpoint_changes(checkpoint))

    def _note_rest(self) -> None:
        """The last checkpoint has arrived by now, as there is a next question."""
        if self._sent_at is not None:
            now = time.monotonic()
            self._rest_until = now + _REST * (now - self._sent_at)
            self._sent_at = None

    def _checkpoint_changes(self, wanted: bool | None) -> Mapping[str, bytes] | None:
        state = self._state()
        if state == self._checkpoint:
            return None
        if state and (time.monotonic() < self._rest_until if wanted is None else not wanted):
            return None
        self._checkpoint, self._sent_at = state, time.monotonic()
        return {path: self._read(path) for path, *_ in state}

    def _paths(self) -> Iterator[str]:
        """All files but those of the checkpoint and those that are still being written."""
        return (path for path in _files(self._folder) if not path.startswith(f"{CHECKPOINT}/"))

    def _state(self) -> tuple[tuple[str, int, int, int], ...]:
        paths = (path for path in _files(self._folder) if path.startswith(f"{CHECKPOINT}/"))
        return tuple((path, *_stamp(self._folder / path)) for path in paths)

    def _read(self, path: str) -> bytes:
        return self._translate(path, (self._folder / path).read_bytes())

    def _look(self, path: str) -> tuple[int, bytes] | None:
        """Remembers the file as it is now; what the other side lacks of it."""
        known, stamp = self._known.get(path), _stamp(self._folder / path)
        if known is not None and known.settled and known.stamp == stamp:
            return None
        settled = time.time_ns() - stamp[1] > _RACY_SECONDS * 1e9
        content = self._read(path)
        digest = _digest(content)
        self._known[path] = _KnownFile(stamp, settled, len(content), digest)
        if known is None or known.length > len(content):
            return 0, content
        if known.digest == digest:
            return None
        grown = known.length > 0 and known.digest == _digest(content[: known.length])
        return (known.length, content[known.length :]) if grown else (0, content)


def _stamp(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _files(folder: Path) -> list[str]:
    """Plain files that are not being written, as sorted paths from the folder."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path.suffix != ".partial"
    )


def read_folder(folder: Path) -> dict[str, bytes]:
    """Content by path of all that another machine must have to go on in this folder."""
    skipped = (*_HERE_ONLY, f"{_INCOMING}/")
    return {path: (folder / path).read_bytes() for path in _files(folder) if not path.startswith(skipped)}


def write_folder(files: Mapping[str, bytes], folder: Path) -> None:
    """Writes what `read_folder` gave.

    Raises:
        ValueError: A path leads out of the folder.
    """
    for path, content in files.items():
        target = _inside(folder, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def apply(changes: FolderChanges, folder: Path) -> None:
    """Makes the changes, each file at once and the result last; a reader never sees half of one.

    Raises:
        ValueError: A path leads out of the folder, or what a file is to be added to is not there.
    """
    incoming = folder / _INCOMING
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(parents=True)
    for path in changes.gone:
        _inside(folder, path).unlink(missing_ok=True)
    if changes.checkpoint is not None:
        _swap_checkpoint(changes.checkpoint, folder, incoming)
    for path in sorted(changes.files, key=lambda path: path == _RESULT):
        offset, content = changes.files[path]
        target = _inside(folder, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if offset:
            _append(target, offset, content)
        else:
            _replace(target, content, incoming / "file")
    shutil.rmtree(incoming)
    for path in changes.gone:
        _drop_empty(_inside(folder, path).parent, folder)


def _inside(folder: Path, path: str) -> Path:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise ValueError(f"{path!r} leads out of {folder}")
    return folder.joinpath(*parts)


def _append(target: Path, offset: int, content: bytes) -> None:
    with target.open("r+b") as file:
        if file.seek(0, os.SEEK_END) < offset:
            raise ValueError(f"{target} is shorter than it was")
        file.seek(offset)
        file.write(content)
        file.truncate()


def _replace(target: Path, content: bytes, partial: Path) -> None:
    with partial.open("wb") as file:
        file.write(content)
        if target.name == _RESULT:
            file.flush()
            os.fsync(file.fileno())
    partial.replace(target)


def _swap_checkpoint(files: Mapping[str, bytes], folder: Path, incoming: Path) -> None:
    old, new = folder / CHECKPOINT, incoming / CHECKPOINT
    if any(not path.startswith(f"{CHECKPOINT}/") for path in files):
        raise ValueError(f"{', '.join(files)} is no checkpoint")
    write_folder(files, incoming)
    if old.exists():
        old.rename(incoming / "old")
    if new.exists():
        new.rename(old)


def _drop_empty(path: Path, folder: Path) -> None:
    """Removes a folder whose last file has gone; the parts of an attempt's own layout stay."""
    while path not in (folder, folder / "artifacts") and path.is_dir() and not any(path.iterdir()):
        path.rmdir()
        path = path.parent
