"""The caches on disk: location, size limit, and writing entries that are complete or absent."""

import contextlib
import functools
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import platformdirs
from numpy.typing import NDArray

from vidclf import config, system
from vidclf.exceptions import InputError

CACHES = ("activations", "clips", "features", "files", "fingerprints", "likeness", "models")
"""Folders below `folder`; what else lies there is not ours."""
_FORMAT = "2"
"""Of arrays that are kept; raise it where those of the last version are never asked for again."""
_SHARE_OF_DISK = 5
"""The default limit is the free disk, what the caches hold counted as free, divided by this."""
parsing = threading.Lock()
"""To hold in `numpy.load`: in Python 3.11 two threads that parse its headers at once fail (gh-106905)."""


def folder() -> Path:
    """Where caches live: ``VIDCLF_CACHE``, else the user's cache folder."""
    return Path(os.environ.get("VIDCLF_CACHE") or platformdirs.user_cache_path("vidclf"))


def folders() -> list[Path]:
    """Those of the caches that are there."""
    return [path for name in CACHES if (path := folder() / name).is_dir()]


@dataclass(frozen=True)
class Usage:
    """What the caches hold.

    Attributes:
        entries: Files by cache, as ``clips``.
        bytes: Their sizes by cache.
    """

    entries: dict[str, int]
    bytes: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.bytes.values())


def usage() -> Usage:
    """Counts every file of every cache; those that other processes delete meanwhile may count or not."""
    entries: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for cache in folders():
        found = list(_sizes(cache))
        entries[cache.name], sizes[cache.name] = len(found), sum(found)
    return Usage(entries, sizes)


def _sizes(cache: Path) -> Iterator[int]:
    """Bytes of each file below a folder."""
    for below, _, names in os.walk(cache):  # unlike Path.rglob it bears folders that vanish
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                yield Path(below, name).stat().st_size


def clear() -> Usage:
    """Empties the caches but those that a process holds; what runs meanwhile decodes anew.

    Returns:
        What all of them held before.
    """
    held = usage()
    for name in held.entries:
        with contextlib.closing(system.Lock(lock_file(name), create=True)) as lock:
            if lock.acquire(wait=False):
                shutil.rmtree(folder() / name, ignore_errors=True)
    _room(folder()).count()
    return held


def hold(name: str) -> None:
    """Keeps `clear` from a cache while this process lives: for one whose files are used where they lie."""
    lock = lock_file(name)
    if lock not in _held:
        _held[lock] = system.Lock(lock, create=True)
        _held[lock].acquire(shared=True)


_held: dict[Path, system.Lock] = {}


def lock_file(name: str) -> Path:
    """A file to lock for a cache or a part of one; it lies among the caches and belongs to none."""
    path = folder() / ".locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def writable() -> bool:
    """Whether files can be written below `folder`."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder()):
            return True
    except OSError:
        return False


def limit_bytes() -> int:
    """What the caches may take: ``VIDCLF_CACHE_GB`` (10**9 bytes each), else a fifth of the free disk.

    Raises:
        InputError: ``VIDCLF_CACHE_GB`` is no number of at least 0.
    """
    text = os.environ.get("VIDCLF_CACHE_GB")
    if text is None:
        existing = next(path for path in (folder(), *folder().absolute().parents) if path.exists())
        return (shutil.disk_usage(existing).free + _room(folder()).used) // _SHARE_OF_DISK
    with contextlib.suppress(ValueError, OverflowError):  # not a number, nan; infinite
        if (limit := round(float(text) * 1e9)) >= 0:
            return limit
    raise InputError(f"VIDCLF_CACHE_GB = {text!r}: expected a number of gigabytes, 0 or more")


def free_bytes() -> int:
    """What still fits into the caches."""
    return max(0, limit_bytes() - _room(folder()).used)


def keep(entry: Path, size: int, write: Callable[[IO[bytes]], Any]) -> bool:
    """Writes an entry under a name of its own and renames it when it is whole and on the disk.

    Two writers of one entry harm nothing: the later one wins with the same content.

    Args:
        entry: The file.
        size: How much it will take, in bytes, as far as that is known.
        write: Writes its content; an `OSError` that it raises is taken for a full disk.

    Returns:
        Whether there was room for it, in the caches and on the disk.
    """
    room, limit, kept = _room(folder()), limit_bytes(), False
    if not room.take(size, limit):
        return False
    partial = entry.with_name(f"{entry.stem}.{uuid.uuid4().hex}.partial")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            rest = os.fstat(file.fileno()).st_size - size
        if room.take(rest, limit):
            size += rest
            partial.replace(entry)
            kept = True
    except OSError:
        pass  # a full disk is no reason to fail: the entry is then computed at each access
    finally:
        if not kept:
            room.take(-size, 0)
        with contextlib.suppress(OSError):  # there may not even be a folder
            partial.unlink()
    return kept


def entry(cache: str, *made_from: Any) -> Path:
    """The file of an array, whether it exists or not.

    Args:
        cache: Its cache, as ``clips``.
        made_from: Everything that its values depend on, as JSON values.
    """
    if cache not in CACHES:
        raise ValueError(f"{cache}: there are {', '.join(CACHES)}")
    key = config.digest(list(made_from))
    return folder() / cache / key[:2] / f"{key}.npy"


def save(entry: Path, values: NDArray[Any]) -> bool:
    """Keeps an array for `load`; whether there was room for it."""
    return keep(entry, values.nbytes, lambda file: np.save(file, values))


@dataclass
class Lookups:
    """How often this process asked for an entry, and how often it was there."""

    asked: int = 0
    found: int = 0

    def count(self, found: bool) -> None:
        self.asked += 1
        self.found += found


lookups = Lookups()


def load(entry: Path, mmap_mode: Literal["r", "c"] | None = None) -> NDArray[Any] | None:
    """The array that was kept; ``None`` where there is none, or a file that holds none, which is deleted.

    Args:
        entry: The file.
        mmap_mode: As of `numpy.load`.
    """
    values: NDArray[Any] | None = None
    try:
        with parsing:
            values = np.load(entry, mmap_mode=mmap_mode, allow_pickle=False)
        if not isinstance(values, np.ndarray):  # an archive of arrays
            values.close()
            raise TypeError(f"{entry} holds no array")
    except FileNotFoundError:
        pass
    except OSError:
        raise
    except MemoryError:
        if _is_whole(entry):
            raise
        discard(entry)
    except Exception:  # a torn or foreign file makes numpy raise anything
        values = None
        discard(entry)
    lookups.count(values is not None)
    return values


def _is_whole(entry: Path) -> bool:
    """Whether the file is as long as it says, for which nothing of it needs memory."""
    with contextlib.suppress(ValueError), parsing:
        np.load(entry, mmap_mode="r", allow_pickle=False)
        return True
    return False


def discard(entry: Path) -> None:
    """Deletes an entry that holds something else than it should."""
    room = _room(folder())
    try:
        size = entry.stat().st_size
        entry.unlink()
    except FileNotFoundError:
        return  # another process was faster
    room.take(-size, 0)


class _DiskBudget:
    """Bytes in use: a number beside the caches, which all processes of the machine keep together.

    A process that starts while no other uses the caches counts the files: so nothing stays wrong that a
    killed one left. Beside others it does not: what they are just writing would count twice, or not at all.
    """

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            self._uses = system.Lock(lock_file("users"), create=True)  # held as long as this object lives
            if self._uses.acquire(wait=False):
                self._drop_outdated()
                self.count()
            self._uses.acquire(shared=True)

    @staticmethod
    def _drop_outdated() -> None:
        """Drops arrays that another version of vidclf has kept, none of which would be found again."""
        version = lock_file("users").with_name("format")
        if not version.exists() or version.read_text(encoding="utf-8") != _FORMAT:
            for cache in folders():
                for entry in cache.glob("[0-9a-f][0-9a-f]/*"):
                    if entry.suffix in (".npy", ".txt"):  # as what is wrong with a clip
                        entry.unlink(missing_ok=True)
            version.write_text(_FORMAT, encoding="utf-8")

    def count(self) -> None:
        """Counts every file anew."""
        with contextlib.suppress(OSError), self._number() as number:
            self._write(number, usage().total)

    @property
    def used(self) -> int:
        try:
            with self._number() as number:
                return self._read(number)
        except OSError:
            return usage().total

    def take(self, size: int, limit: int) -> bool:
        """Counts ``size`` in where it fits; a negative one always does, none where nothing can be written."""
        try:
            with self._number() as number:
                used = self._read(number)
                if size > 0 and used + size > limit:
                    return False
                self._write(number, used + size)
                return True
        except OSError:
            return False

    @contextlib.contextmanager
    def _number(self) -> Iterator[IO[bytes]]:
        """The file, locked."""
        path = lock_file("used")
        with contextlib.closing(system.Lock(path, create=True)) as lock, path.open("a+b") as number:
            lock.acquire()
            yield number

    @staticmethod
    def _write(number: IO[bytes], used: int) -> None:
        number.seek(0)
        number.truncate()
        number.write(str(used).encode())

    @staticmethod
    def _read(number: IO[bytes]) -> int:
        number.seek(0)
        text = number.read()
        return int(text) if text.isdigit() else usage().total


@functools.lru_cache(4)
def _room(_: Path) -> _DiskBudget:
    """The room of a cache folder, counted when it is first asked for."""
    return _DiskBudget()
