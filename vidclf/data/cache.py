"""The caches on disk: where they lie, how much they may take, and entries that are whole or not there."""

import functools
import os
import shutil
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import platformdirs
from numpy.typing import NDArray

from vidclf.config import InputError

_SHARE_OF_DISK = 5
"""The default limit is the free disk, what the caches hold counted as free, divided by this."""


def folder() -> Path:
    """Where caches live: ``VIDCLF_CACHE``, else the user's cache folder."""
    return Path(os.environ.get("VIDCLF_CACHE") or platformdirs.user_cache_path("vidclf"))


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
    """Counts every file of every cache."""
    entries: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for cache in sorted(folder().iterdir()) if folder().is_dir() else ():
        files = [path.stat().st_size for path in cache.rglob("*") if path.is_file()]
        entries[cache.name], sizes[cache.name] = len(files), sum(files)
    return Usage(entries, sizes)


def clear() -> Usage:
    """Empties the caches; what runs meanwhile decodes anew.

    Returns:
        What they held.
    """
    held = usage()
    for name in held.entries:
        shutil.rmtree(folder() / name, ignore_errors=True)
    _room(folder()).used = 0
    return held


def limit_bytes() -> int:
    """What the caches may take: ``VIDCLF_CACHE_GB`` (10**9 bytes each), else a fifth of the free disk.

    Raises:
        InputError: ``VIDCLF_CACHE_GB`` is no number.
    """
    text = os.environ.get("VIDCLF_CACHE_GB")
    if text is None:
        existing = next(path for path in (folder(), *folder().absolute().parents) if path.exists())
        return (shutil.disk_usage(existing).free + _room(folder()).used) // _SHARE_OF_DISK
    try:
        return round(float(text) * 1e9)
    except ValueError:
        raise InputError(f"VIDCLF_CACHE_GB = {text!r}: expected a number of gigabytes") from None


def free_bytes() -> int:
    """What still fits into the caches."""
    return max(0, limit_bytes() - _room(folder()).used)


def keep(entry: Path, size: int, write: Callable[[IO[bytes]], Any]) -> bool:
    """Writes an entry under a name of its own and renames it when it is whole and on the disk.

    Two writers of one entry harm nothing: the later one wins with the same content.

    Args:
        entry: The file.
        size: How much it will take, in bytes.
        write: Writes its content.

    Returns:
        Whether there was room for it.
    """
    room = _room(folder())
    if not room.take(size, limit_bytes()):
        return False
    entry.parent.mkdir(parents=True, exist_ok=True)
    partial = entry.with_name(f"{entry.stem}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(entry)
    except OSError:
        # A full disk is no reason to fail: the entry is computed at each access then.
        room.take(-size, 0)
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True


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
    """The array that was kept; ``None`` where none was, or anything else, which is deleted then.

    Args:
        entry: The file.
        mmap_mode: As of `numpy.load`.
    """
    values: NDArray[Any] | None = None
    try:
        values = np.load(entry, mmap_mode=mmap_mode, allow_pickle=False)
        if not isinstance(values, np.ndarray):  # an archive of arrays
            values.close()
            raise TypeError(f"{entry} holds no array")
    except FileNotFoundError:
        pass
    except OSError:
        raise
    except Exception:  # a torn or foreign file makes numpy raise anything
        values = None
        _discard(entry)
    lookups.count(values is not None)
    return values


def _discard(entry: Path) -> None:
    room = _room(folder())
    try:
        size = entry.stat().st_size
        entry.unlink()
    except FileNotFoundError:
        return  # another process was faster
    room.take(-size, 0)


class _Room:
    """Bytes in use, counted once per process and then kept up with its own writes."""

    def __init__(self) -> None:
        self.used = usage().total
        self._lock = threading.Lock()

    def take(self, size: int, limit: int) -> bool:
        """Counts ``size`` in where it fits; a negative one always does."""
        with self._lock:
            if size > 0 and self.used + size > limit:
                return False
            self.used += size
            return True


@functools.cache
def _room(_: Path) -> _Room:
    """The room of a cache folder, counted when it is first asked for."""
    return _Room()
