"""The manifest: one CSV row a clip, with its label, group and split."""

import functools
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from vidclf import config
from vidclf.config import is_url
from vidclf.data import remote
from vidclf.data.remote import named
from vidclf.data.tables import COLUMNS, GROUP_BY, SPLIT_BY, read_table
from vidclf.exceptions import ClipError, InputError
from vidclf.progress import Progress, silent

if TYPE_CHECKING:  # half a second, which predictions and mistyped names do without
    import pandas as pd

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_SHOWN_ABSENT = 100
"""Missing clips that are named."""


@dataclass(frozen=True, order=True)
class Entry:
    """One clip of a manifest.

    Attributes:
        clip_path: The video file, absolute; the copy of one behind a URL.
        label: The class.
        group: What must not be cut by a split (a person, a scene); empty: the clip is its own group.
        split: ``train``, ``val`` or ``test``.
        split_by: ``random`` where the clip was split without regard to groups.
        group_by: ``scenes`` where the group was guessed from how the clip looks.
    """

    clip_path: Path
    label: str
    group: str
    split: str
    split_by: str = ""
    group_by: str = ""

    @property
    def name(self) -> str:
        """What people know the clip by: its path or URL."""
        return named(self.clip_path)


@dataclass(frozen=True)
class Manifest:
    """A checked manifest; every clip exists, every non-empty split has every class.

    Attributes:
        path: The CSV file; the copy of one behind a URL.
        entries: Its rows, in the file's order.
    """

    path: Path
    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        """What people know it by: its path or URL."""
        return named(self.path)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels, sorted: index i of every probability vector is ``classes[i]``."""
        return tuple(sorted({entry.label for entry in self.entries}))

    def split(self, name: Split) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.split == name)

    @property
    def grouped(self) -> bool:
        """Whether every clip names its group."""
        return all(entry.group for entry in self.entries)

    @property
    def leaks(self) -> bool:
        """Whether a group is on two sides, or clips were split at random."""
        if any(entry.split_by == "random" for entry in self.entries):
            return True
        sides = {(entry.group, entry.split) for entry in self.entries if entry.group}
        return len(sides) > len({group for group, _ in sides})

    def digest(self, splits: Iterable[Split] = SPLITS) -> str:
        """SHA-256 over content, label, group and split of each clip; independent of paths and order."""
        chosen = set(splits)
        rows = [
            (content_digest(entry.clip_path), entry.label, entry.group, entry.split)
            for entry in self.entries
            if entry.split in chosen
        ]
        return config.digest(sorted(rows))


def read_manifest(source: str | Path, progress: Progress = silent) -> Manifest:
    """Reads and checks a manifest; what lies behind URLs is fetched where that was not done before.

    Args:
        source: Its path or URL, from which its clips' paths go.
        progress: Called with (clips fetched, clips to fetch).

    Raises:
        InputError: Missing file, columns or clips, unknown splits, or a split that lacks a class.
    """
    path = remote.local_file(str(source))
    table = read_table(path)
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise InputError(
            f"{named(path)}: column {', '.join(missing)} is missing; a manifest has {', '.join(COLUMNS)}"
        )
    entries = tuple(read_entries(table, remote.parent(str(source)), progress))
    sound = [entry for entry in entries if entry.label and entry.split in SPLITS]
    found = [*_row_problems(entries, table.index), *split_problems(sound)]
    problems = [f"{named(path)}: {problem}" for problem in found]
    if problems:
        raise InputError(*problems)
    return Manifest(path, entries)


def read_entries(
    table: "pd.DataFrame",
    folder: str,
    progress: Progress = silent,
) -> list[Entry]:
    """An entry for each row, unchecked: texts are empty for missing columns, and clips may be missing.

    Args:
        table: Texts, with a column ``clip_path``.
        folder: Path or URL from which relative clip paths go.
        progress: Called with (clips fetched, clips to fetch).
    """
    columns = table.reindex(columns=[*COLUMNS, SPLIT_BY, GROUP_BY], fill_value="")
    # A blank at an end belongs to the name where there is such a file.
    texts = [
        text if text == text.strip() or Path(remote.join(folder, text)).is_file() else text.strip()
        for text in columns["clip_path"]
    ]
    paths = remote.local_files([remote.join(folder, text) for text in texts], progress)
    rest = columns[[*COLUMNS[1:], SPLIT_BY, GROUP_BY]].itertuples(index=False)
    return [Entry(path, *row) for path, row in zip(paths, rest, strict=True)]


def _row_problems(entries: Sequence[Entry], lines: Iterable[int]) -> list[str]:
    if not entries:
        return ["holds no clips"]
    problems = []
    for number, entry in zip(lines, entries, strict=True):
        if problem := label_problem(entry.label):
            problems.append(f"line {number}: {problem}")
        if entry.split not in SPLITS:
            problems.append(f"line {number}: split {entry.split!r} is none of {', '.join(SPLITS)}")
    absent = [entry.name for entry in entries if not entry.clip_path.is_file()]
    if absent:
        rest = len(absent) - _SHOWN_ABSENT
        more = f" and {rest} more" if rest > 0 else ""
        shown = ", ".join(absent[:_SHOWN_ABSENT])
        problems.append(f"{len(absent)} of {len(entries)} clips are missing: {shown}{more}")
    return problems + repetitions(entries)


def label_problem(label: str) -> str:
    """Why a text cannot be the name of a class; empty where it can."""
    if not label:
        return "the label is empty"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in label):
        return f"the label {label!a} holds a character that is no text; give the class another name"
    return ""


def repetitions(entries: Iterable[Entry]) -> list[str]:
    """The problem of clips that are listed more than once."""
    counts = Counter(entry.clip_path for entry in entries)
    repeated = [path for path, count in counts.items() if count > 1]
    return [f"{len(repeated)} clips are listed more than once: {named(repeated[0])}"] if repeated else []


def split_problems(entries: Iterable[Entry]) -> list[str]:
    """Non-empty splits that lack a class, and a data set of fewer than two classes."""
    entries = list(entries)
    counts = Counter((entry.split, entry.label) for entry in entries)
    labels = sorted({entry.label for entry in entries})
    problems = []
    if len(labels) == 1:
        problems.append(f"only one class ({labels[0]}); a classifier needs two")
    for split in SPLITS:
        lacking = [label for label in labels if not counts[split, label]]
        if lacking and len(lacking) < len(labels):
            problems.append(f"split {split} has no clip of {', '.join(lacking)}")
    return problems


def write_manifest(entries: Iterable[Entry], path: Path) -> None:
    """Writes the CSV, sorted, with paths relative to its folder where the clips lie below that."""
    import pandas as pd

    rows = [
        (
            relative_path(entry.clip_path, path.parent),
            *(entry.label, entry.group, entry.split, entry.split_by, entry.group_by),
        )
        for entry in in_order(entries)
    ]
    table = pd.DataFrame(rows, columns=[*COLUMNS, SPLIT_BY, GROUP_BY])
    needless = [column for column in (SPLIT_BY, GROUP_BY) if not table[column].any()]
    path.parent.mkdir(parents=True, exist_ok=True)
    table.drop(columns=needless).to_csv(path, index=False, lineterminator="\n")


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """The entries by name: places of copies have no order that would be the same elsewhere."""
    return sorted(entries, key=lambda entry: (PurePosixPath(entry.name), entry))


def relative_path(clip_path: Path, folder: Path) -> str:
    """The clip's path from ``folder`` where it lies below it, else its absolute path, or its URL."""
    if is_url(name := named(clip_path)):
        return name
    try:
        relative = clip_path.absolute().relative_to(folder.absolute()).as_posix()
    except ValueError:
        return clip_path.absolute().as_posix()
    # At the start of a line a table's readers skip a blank and take a # for a comment.
    return f"./{relative}" if relative[0] == "#" or relative[0].isspace() else relative


def content_digest(path: Path) -> str:
    """SHA-256 of the file's bytes; computed once per process while the file stays as it is.

    Raises:
        ClipError: It cannot be read, as on a failing disk.
    """
    stat = path.stat()
    return _content_digest(path, stat.st_size, stat.st_mtime_ns)


@functools.cache
def _content_digest(path: Path, size: int, modified_ns: int) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ClipError(path, "unreadable", error.strerror or str(error)) from None


def readable_digest(path: Path) -> str:
    """As `content_digest`; empty where there is no such file, or it cannot be read."""
    try:
        return content_digest(path)
    except (ClipError, OSError):
        return ""
