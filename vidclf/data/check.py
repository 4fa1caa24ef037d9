"""Checks clips by decoding each of them completely, in child processes with limits.

Fingerprints are made on the way (`fingerprints.examine`). What was found of a file that decodes to its end is
kept by its content, so that no other command decodes it again.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
from joblib import cpu_count

from vidclf.data import remote, video
from vidclf.data.fingerprints import examine, known_facts
from vidclf.data.guarded import Child
from vidclf.data.manifest import Entry, read_entries, readable_digest, relative_path
from vidclf.data.remote import named
from vidclf.data.tables import read_table
from vidclf.data.video import Verdict, VideoInfo
from vidclf.exceptions import ClipError, GuardError, InputError
from vidclf.progress import Advance, Progress, silent

if TYPE_CHECKING:  # half a second, which mistyped names do without
    import pandas as pd

CheckVerdict = Verdict | Literal["ok", "short", "slow"]

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
        seconds: Time that decoding took; 0 where it was known before.
        facts: What the file says of itself, ``None`` where it could not be decoded to its end.
    """

    clip_path: Path
    verdict: CheckVerdict
    reason: str
    seconds: float
    facts: VideoInfo | None = None

    @property
    def name(self) -> str:
        """What people know the clip by: its path or URL."""
        return named(self.clip_path)

    def as_dict(self) -> dict[str, Any]:
        """All of it, flat; facts of a file that could not be decoded to its end are null."""
        names = [item.name for item in fields(VideoInfo) if item.name != "seconds"]
        known = {name: getattr(self.facts, name, None) for name in names}
        return {
            "clip_path": self.name,
            "verdict": self.verdict,
            "reason": self.reason,
            "seconds": self.seconds,
            "duration": self.facts.seconds if self.facts else None,
            **known,
        }


Inspect = Callable[[Path], ClipCheck]


def check_clips(
    paths: Sequence[Path],
    progress: Advance = silent,
    *,
    time_limit_s: float = TIME_LIMIT_S,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
    inspect: Inspect | None = None,
) -> list[ClipCheck]:
    """Decodes every clip on all cores; a crash, a hang or a flood of memory costs one child process.

    Args:
        paths: The clips.
        progress: Called after each clip.
        time_limit_s: Seconds that one clip may take.
        memory_limit_mb: MiB that one clip may take, on top of what a child has loaded.
        inspect: What a child does with a clip, `inspect_clip` unless given; importable by name.

    Returns:
        One check a clip, in the order given.

    Raises:
        GuardError: A child process did not start.
    """
    known = {} if inspect else {index: _known(path) for index, path in enumerate(paths)}
    found = {index: check for index, check in known.items() if check}
    for _ in found:
        progress()
    pending = [(index, path) for index, path in enumerate(paths) if index not in found][::-1]
    inspectors: list[_Inspector] = []
    try:
        while len(found) < len(paths):
            inspectors += [  # all at once, as most of their start is imports
                _Inspector(Child(inspect or _inspect_on_one_core, time_limit_s, memory_limit_mb))
                for _ in range(min(cpu_count(), len(paths) - len(found)) - len(inspectors))
            ]
            for inspector in inspectors:
                if inspector.task is None and pending:
                    inspector.give(*pending.pop())
            for inspector in _ready(inspectors):
                index, check = inspector.take()
                found[index] = check
                progress()
            inspectors = [inspector for inspector in inspectors if inspector.child.lives]
    finally:
        for inspector in inspectors:
            inspector.child.stop()
    return [found[index] for index in range(len(paths))]


def read_clip_list(source: str | Path, progress: Progress = silent) -> tuple["pd.DataFrame", list[Entry]]:
    """A CSV file of clips, of which only ``clip_path`` is required.

    Args:
        source: Its path or URL, from which its clips' paths go.
        progress: Called with (clips fetched, clips to fetch).

    Returns:
        The table as it is, and an entry for each row; missing columns are empty.

    Raises:
        InputError: The file is missing, no CSV, or has no column ``clip_path``.
    """
    path = remote.local_file(str(source))
    table = read_table(path)
    if "clip_path" not in table.columns:
        raise InputError(f"{named(path)}: column clip_path is missing")
    if table.empty:
        raise InputError(f"{named(path)}: holds no clips")
    return table, read_entries(table, remote.parent(str(source)), progress)


def write_clean(table: "pd.DataFrame", checks: Sequence[ClipCheck], path: Path) -> list[ClipCheck]:
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


@dataclass
class _Inspector:
    """A child process, and the clip that it inspects."""

    child: Child
    task: tuple[int, Path] | None = None

    def give(self, index: int, path: Path) -> None:
        self.task = index, path
        self.child.give(path)

    def take(self) -> tuple[int, ClipCheck]:
        """The check of the clip, also where it has taken the process down."""
        assert self.task is not None
        index, path = self.task
        self.task = None
        try:
            check: ClipCheck = self.child.take()
        except GuardError as error:
            verdict: CheckVerdict = "slow" if error.how == "time" else "damaged"
            check = ClipCheck(path, verdict, str(error), 0.0)
        return index, replace(check, seconds=self.child.seconds)


def _ready(inspectors: Iterable[_Inspector]) -> list[_Inspector]:
    """Those that have answered, died, or run out of time, of which it waits for the first.

    Args:
        inspectors: At least one of them with a clip.
    """
    busy = [inspector for inspector in inspectors if inspector.task is not None]
    answered = wait(
        [inspector.child.connection for inspector in busy],
        timeout=min(inspector.child.seconds_left for inspector in busy),
    )
    return [
        inspector
        for inspector in busy
        if inspector.child.connection in answered or inspector.child.seconds_left == 0
    ]


def inspect_clip(path: Path) -> ClipCheck:
    """Decodes a clip to its end, in this process and without limits."""
    if not path.is_file():
        return ClipCheck(path, "unreadable", "no such file", 0.0)
    try:
        return _judged(path, examine(path))
    except ClipError as error:
        return ClipCheck(path, error.verdict, error.reason, 0.0)


def _inspect_on_one_core(path: Path) -> ClipCheck:
    cv2.setNumThreads(1)  # there is a child for each core
    return inspect_clip(path)


def _known(path: Path) -> ClipCheck | None:
    facts = known_facts(path) if readable_digest(path) else None
    return _judged(path, facts) if facts else None


def _judged(path: Path, facts: VideoInfo) -> ClipCheck:
    if missing := video.shortfall(facts.declared, facts.decoded):
        return ClipCheck(path, "short", missing, 0.0, facts)
    return ClipCheck(path, "ok", "", 0.0, facts)


def decodable(checks: Iterable[ClipCheck]) -> list[Path]:
    """The clips that a child process has decoded to their end, and so may be decoded without limits."""
    return [check.clip_path for check in checks if check.facts]
