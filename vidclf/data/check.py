"""Decoding every clip to its end, where nothing it does can hurt: in child processes with limits."""

import contextlib
import multiprocessing
import os
import resource
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from vidclf.config import InputError
from vidclf.data import video
from vidclf.data.manifest import COLUMNS, Entry, content_digest, read_table, relative_path
from vidclf.data.scenes import copies_of
from vidclf.data.video import ClipError, Facts

CheckVerdict = Literal["ok", "short", "damaged", "empty", "unreadable", "slow"]

TIME_LIMIT_S = 60.0
"""Seconds that one clip may take; one that takes longer is ``slow``."""
MEMORY_LIMIT_MB = 4096
"""Address space that decoding one clip may take on top of the process's own, in MiB."""


@dataclass(frozen=True)
class ClipCheck:
    """What decoding a clip to its end has shown.

    Attributes:
        clip_path: The file.
        verdict: ``ok``, ``short``, ``damaged``, ``empty``, ``unreadable`` or ``slow``.
        reason: Why it is not ok; empty otherwise.
        seconds: Time that decoding took.
        facts: What the file says of itself, ``None`` where it could not be opened.
    """

    clip_path: Path
    verdict: CheckVerdict
    reason: str
    seconds: float
    facts: Facts | None = None

    def as_dict(self) -> dict[str, Any]:
        """All of it, flat; facts of a file that could not be opened are null."""
        names = [item.name for item in fields(Facts) if item.name not in ("errors", "seconds")]
        known = {name: getattr(self.facts, name, None) for name in names}
        return {
            "clip_path": str(self.clip_path),
            "verdict": self.verdict,
            "reason": self.reason,
            "seconds": self.seconds,
            "duration": self.facts.seconds if self.facts else None,
            **known,
        }


Inspect = Callable[[Path], ClipCheck]


@dataclass(frozen=True)
class Leak:
    """Two clips of different splits that are too alike.

    Attributes:
        a: One clip.
        b: The other.
        splits: Their splits.
        why: ``same group``, ``same file`` or ``nearly identical``.
    """

    a: Path
    b: Path
    splits: tuple[str, str]
    why: str

    def as_dict(self) -> dict[str, Any]:
        return {"a": str(self.a), "b": str(self.b), "splits": list(self.splits), "why": self.why}


def check_clips(
    paths: Sequence[Path],
    progress: Callable[[], None] = lambda: None,
    *,
    time_limit_s: float = TIME_LIMIT_S,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
    inspect: Inspect | None = None,
) -> list[ClipCheck]:
    """Decodes every clip on all cores; a crash, a hang or a flood of memory costs one child process.

    Args:
        paths: The clips.
        progress: Called after each clip.
        time_limit_s: Seconds a clip.
        memory_limit_mb: MiB a clip, on top of what a child has loaded.
        inspect: What a child does with a clip, `inspect_clip` unless given; importable by name.

    Returns:
        One check a clip, in the order given.
    """
    found: dict[int, ClipCheck] = {}
    pending = list(enumerate(paths))[::-1]
    children: list[_Child] = []
    try:
        while len(found) < len(paths):
            while pending and len(children) < (os.cpu_count() or 1):
                children.append(_Child(memory_limit_mb, inspect or inspect_clip))
            for child in children:
                if child.task is None and pending:
                    child.give(*pending.pop())
            for child in _ready(children, time_limit_s):
                index, check = child.take(time_limit_s)
                found[index] = check
                progress()
            children = [child for child in children if child.lives]
    finally:
        for child in children:
            child.stop()
    return [found[index] for index in range(len(paths))]


def read_clip_list(path: Path) -> tuple[pd.DataFrame, list[Entry]]:
    """A CSV file of clips, of which only ``clip_path`` is required.

    Returns:
        The table as it is, and an entry for each row; missing columns are empty.

    Raises:
        InputError: The file is missing, no CSV, or has no column ``clip_path``.
    """
    table = read_table(path)
    if "clip_path" not in table.columns:
        raise InputError(f"{path}: column clip_path is missing")
    if table.empty:
        raise InputError(f"{path}: holds no clips")
    rows = table.reindex(columns=list(COLUMNS), fill_value="")
    entries = [
        Entry((path.parent / clip_path).absolute(), label, group, split)
        for clip_path, label, group, split in rows.itertuples(index=False)
    ]
    return table, entries


def write_clean(table: pd.DataFrame, checks: Sequence[ClipCheck], path: Path) -> list[ClipCheck]:
    """Writes the rows whose clips are ok, with paths relative to ``path``.

    Returns:
        The checks of the rows that were left out.
    """
    good = [check.verdict == "ok" for check in checks]
    clean = table[good].assign(
        clip_path=[relative_path(check.clip_path, path.parent) for check in checks if check.verdict == "ok"]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    clean.to_csv(path, index=False, lineterminator="\n")
    return [check for check in checks if check.verdict != "ok"]


class _Child:
    """A process that inspects one clip after another."""

    def __init__(self, memory_limit_mb: int, inspect: Inspect) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_inspect_forever, args=(theirs, memory_limit_mb, inspect), daemon=True
        )
        self._process.start()
        theirs.close()
        self.task: tuple[int, Path] | None = None
        self.lives = True
        self._started = 0.0
        # The first clip must not pay for the process's imports.
        self.connection.recv()

    def give(self, index: int, path: Path) -> None:
        self.task = index, path
        self._started = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(path)

    @property
    def seconds(self) -> float:
        """How long the clip has taken so far."""
        return time.monotonic() - self._started

    def take(self, time_limit_s: float) -> tuple[int, ClipCheck]:
        """The check of the clip; ends the process where it has died or taken too long."""
        assert self.task is not None
        index, path = self.task
        self.task = None
        seconds = self.seconds
        if not self.connection.poll():
            self.stop()
            return index, ClipCheck(path, "slow", f"over the limit of {time_limit_s:g} s", seconds)
        try:
            check: ClipCheck = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode or 0
            self.stop()
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return index, ClipCheck(path, "damaged", f"the decoder crashed: {how}", seconds)
        return index, replace(check, seconds=seconds)

    def stop(self) -> None:
        self.lives = False
        self.connection.close()
        self._process.kill()
        self._process.join()


def _ready(children: Iterable[_Child], time_limit_s: float) -> list[_Child]:
    """Children that have answered, died, or run out of time; waits for the first."""
    busy = [child for child in children if child.task is not None]
    left = max(0.0, min(time_limit_s - child.seconds for child in busy))
    answered = set(map(id, wait([child.connection for child in busy], timeout=left)))
    return [child for child in busy if id(child.connection) in answered or child.seconds >= time_limit_s]


def _inspect_forever(connection: Connection, memory_limit_mb: int, inspect: Inspect) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit_memory(memory_limit_mb)
    connection.send(None)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            connection.send(_inspected(inspect, connection.recv()))


def _limit_memory(megabytes: int) -> None:
    """Refuses allocations beyond the limit; on systems without such a limit the time limit must do."""
    status = Path("/proc/self/statm")
    if status.exists():
        own = int(status.read_text().split()[0]) * resource.getpagesize()
        limit = own + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _inspected(inspect: Inspect, path: Path) -> ClipCheck:
    try:
        return inspect(path)
    except MemoryError:
        return ClipCheck(path, "damaged", "decoding it takes more memory than the limit", 0.0)


def inspect_clip(path: Path) -> ClipCheck:
    """Decodes a clip to its end, in this process and without limits."""
    if not path.is_file():
        return ClipCheck(path, "unreadable", "no such file", 0.0)
    try:
        facts = video.inspect(path)
    except ClipError as error:
        return ClipCheck(path, error.verdict, error.reason, 0.0)
    if facts.errors:
        return ClipCheck(path, "damaged", f"the decoder reports: {facts.errors[0]}", 0.0, facts)
    if facts.declared is not None and facts.decoded < facts.declared - 1:
        reason = f"{facts.decoded} of {facts.declared} declared frames"
        return ClipCheck(path, "short", reason, 0.0, facts)
    return ClipCheck(path, "ok", "", 0.0, facts)


def find_leaks(entries: Sequence[Entry], *, by_look: bool = False) -> list[Leak]:
    """Clips of one group, of byte-identical files, or nearly identical ones, in different splits.

    Of each group, file or set of copies, one pair of clips stands for a pair of splits.

    Args:
        entries: The clips.
        by_look: Also decode the clips and find copies by how they look.
    """
    kinds: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.group:
            kinds["same group", entry.group].append(entry)
        if entry.clip_path.is_file():
            kinds["same file", content_digest(entry.clip_path)].append(entry)
    if by_look and len({entry.split for entry in entries}) > 1:
        for entry, number in zip(entries, copies_of(entries), strict=True):
            kinds["nearly identical", str(number)].append(entry)
    leaks = []
    for (why, _), alike in sorted(kinds.items()):
        first = {entry.split: entry.clip_path for entry in reversed(alike)}
        leaks += [Leak(first[a], first[b], (a, b), why) for a, b in combinations(sorted(first), 2)]
    same = {(leak.a, leak.b) for leak in leaks if leak.why == "same file"}
    return [leak for leak in leaks if leak.why != "nearly identical" or (leak.a, leak.b) not in same]
