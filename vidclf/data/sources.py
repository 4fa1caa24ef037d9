"""Clips as users have them: folders by class, CSV files, UCF-101's lists."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from vidclf import config
from vidclf.config import is_url
from vidclf.data import remote
from vidclf.data.manifest import (
    GROUP_BY,
    SPLIT_BY,
    SPLITS,
    Entry,
    Split,
    read_table,
    repetitions,
)
from vidclf.exceptions import InputError
from vidclf.progress import Progress, silent

GroupScope = Literal["dataset", "class"]

VIDEO_SUFFIXES = frozenset({".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"})
_UCF_NAME = re.compile(r"v_.+_(g\d+)_c\d+")
"""UCF-101's naming: class, group, clip."""
_OFFICIAL = re.compile(r"official:([1-9])")
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What folders, files and columns call a split."""
_LABEL_COLUMNS = ("label", "class", "class_name", "category", "action")
_SHOWN_FOLDERS = 3


def read_sources(
    sources: Sequence[str],
    classes: Sequence[str] | None = None,
    group_scope: GroupScope = "dataset",
    split: str | None = None,
    progress: Progress = silent,
) -> list[Entry]:
    """Clips of every source, with the splits that it gives; arguments as those of `importing.import_clips`.

    Raises:
        InputError: Every problem of the sources.
    """
    official = _OFFICIAL.fullmatch(split or "")
    if split not in (None, "group", "file", "random") and not official:
        raise InputError(f"--split {split}: one of group, file, official:1, official:2, official:3, random")
    entries: list[Entry] = []
    problems: list[str] = []
    for source in sources:
        try:
            if PurePath(source).suffix.lower() == ".csv":
                found = read_csv(source, classes, group_scope, progress)
            elif official:
                found = read_official(source, int(official[1]), classes, group_scope, progress)
            else:
                found = read_folder(source, classes, group_scope, progress)
            problems += _missing(source, found)
            entries += found
        except InputError as error:
            problems += error.problems
    problems += repetitions(entries)
    labels = sorted({entry.label for entry in entries})
    if not problems and len(labels) < 2:
        problems.append(f"only one class ({labels[0]}); a classifier needs two")
    if problems:
        raise InputError(*problems)
    return entries


@dataclass(frozen=True)
class _SourceClip:
    """A clip of a source: its path or URL, and what the source says of it."""

    name: str
    label: str
    group: str
    split: str
    split_by: str = ""
    group_by: str = ""


def _entries(found: Sequence[_SourceClip], group_scope: GroupScope, progress: Progress) -> list[Entry]:
    """The clips on this machine, in groups of the scope that is asked for."""
    paths = remote.local_files([clip.name for clip in found], progress)
    return [
        Entry(
            path,
            clip.label,
            _scoped(clip.group, clip.label, group_scope),
            clip.split,
            clip.split_by,
            clip.group_by,
        )
        for path, clip in zip(paths, found, strict=True)
    ]


def read_folder(
    source: str, classes: Sequence[str] | None, group_scope: GroupScope, progress: Progress = silent
) -> list[Entry]:
    """The clips of a folder per class, or of such folders below ``train``, ``val`` and ``test``.

    A group is read from UCF-101's naming (``v_PullUps_g03_c02.avi``: ``g03``), else it is empty.

    Raises:
        InputError: Every problem of the folder: missing, without classes, an empty or unknown class.
    """
    folders = _subfolders(source)
    if not set(map(str.lower, folders)) <= SPLIT_NAMES.keys():
        return _entries(_in_classes(source, folders, classes, ""), group_scope, progress)
    found = []
    for name in folders:
        below = remote.join(source, name)
        found += _in_classes(below, _subfolders(below), classes, SPLIT_NAMES[name.lower()])
    return _entries(found, group_scope, progress)


def _subfolders(source: str) -> list[str]:
    folders = [name for name in remote.children(source)[0] if name[0] != "."]
    if not folders:
        raise InputError(f"{source}: holds no folders; expected one for each class")
    return folders


def _in_classes(
    source: str, folders: Sequence[str], classes: Sequence[str] | None, split: str
) -> list[_SourceClip]:
    problems = _unknown_classes(source, classes, folders)
    found = []
    for label in [name for name in dict.fromkeys(classes or folders) if name in folders]:
        folder = remote.join(source, label)
        clips = [
            name
            for name in remote.children(folder)[1]
            if PurePath(name).suffix.lower() in VIDEO_SUFFIXES and name[0] != "."
        ]
        if not clips:
            problems.append(f"{folder}: {_emptiness(folder, source)}")
        found += [_SourceClip(remote.join(folder, name), label, _named_group(name), split) for name in clips]
    if problems:
        raise InputError(*problems)
    return found


def _emptiness(folder: str, source: str) -> str:
    below = [name for name in remote.children(folder)[0] if name[0] != "."]
    if below:
        shown = f"{', '.join(below[:_SHOWN_FOLDERS])}{', …' if len(below) > _SHOWN_FOLDERS else ''}"
        return f"holds folders ({shown}) and no clips; if these are the classes, name it in place of {source}"
    return "the class is empty; add clips, or leave it out with --classes"


def _unknown_classes(source: str, classes: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    return [
        f"{source}: no class {name}{config.did_you_mean(name, known)} (it has {', '.join(known)})"
        for name in classes or ()
        if name not in known
    ]


def read_official(
    source: str,
    number: int,
    classes: Sequence[str] | None,
    group_scope: GroupScope,
    progress: Progress = silent,
) -> list[Entry]:
    """UCF-101's folder with the splits train and test of its list ``number``; clips may be missing.

    The lists (``trainlist01.txt``, ``testlist01.txt``) lie in the folder, in
    ``ucfTrainTestlist`` below it, or beside it, as UCF's archives unpack.

    Raises:
        InputError: A list is missing.
    """
    places = [remote.join(source, place) for place in ("", "ucfTrainTestlist", "../ucfTrainTestlist")]
    found: list[_SourceClip] = []
    labels: set[str] = set()
    for split in ("train", "test"):
        name = f"{split}list{number:02}.txt"
        lists = remote.local_files([remote.join(place, name) for place in places])
        path = next((path for path in lists if path.is_file()), None)
        if path is None:
            raise InputError(f"{source}: {name} is not in {', '.join(places)}")
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.strip():
                continue
            clip = PurePath(line.split()[0])
            label = clip.parent.name
            labels.add(label)
            if classes is None or label in classes:
                found.append(
                    _SourceClip(remote.join(source, str(clip)), label, _named_group(clip.name), split)
                )
    problems = _unknown_classes(source, classes, sorted(labels))
    if problems:
        raise InputError(*problems)
    return _entries(found, group_scope, progress)


def read_csv(
    source: str, classes: Sequence[str] | None, group_scope: GroupScope, progress: Progress = silent
) -> list[Entry]:
    """Clips of a CSV file with ``clip_path`` and a label; clips may be missing.

    The split is its column ``split``, else the file's name (``train.csv``); the
    group its column ``group``, else UCF-101's naming. A path is relative to the
    file's folder or, on this machine, the one above, with or without a leading slash.

    Raises:
        InputError: Missing columns, empty labels, unknown splits or classes.
    """
    table = read_table(remote.local_file(source))
    label_column = next((name for name in _LABEL_COLUMNS if name in table.columns), None)
    if "clip_path" not in table.columns or label_column is None:
        raise InputError(
            f"{source}: needs the columns clip_path and {' or '.join(_LABEL_COLUMNS)} "
            f"(it has {', '.join(table.columns)})"
        )
    words = re.split(r"[^a-z]+", PurePath(source).stem.lower())
    of_file = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")
    problems = _unknown_classes(source, classes, sorted(set(table[label_column])))
    found = []
    for number, row in zip(table.index, table.to_dict("records"), strict=True):
        label, given = row[label_column], row.get("split", of_file)
        if classes is not None and label not in classes:
            continue
        if not label:
            problems.append(f"{source}: line {number}: the label is empty")
        split = SPLIT_NAMES.get(given.lower(), "")
        if given and not split:
            problems.append(f"{source}: line {number}: split {given!r} is none of {', '.join(SPLITS)}")
        name = _located(row["clip_path"], remote.parent(source))
        group = row.get("group") or _named_group(PurePath(name).name)
        found.append(_SourceClip(name, label, group, split, row.get(SPLIT_BY, ""), row.get(GROUP_BY, "")))
    if problems:
        raise InputError(*problems)
    return _entries(found, group_scope, progress)


def _located(text: str, folder: str) -> str:
    """The clip that a path of a CSV file means; the first guess where there is none."""
    relative = text.lstrip("/")
    if is_url(text) or is_url(folder):
        return remote.join(folder, relative)
    guesses = [Path(folder, text), Path(folder, relative), Path(folder).parent / relative]
    return str(next((guess for guess in guesses if guess.is_file()), Path(folder, relative)).absolute())


def _missing(source: str, entries: Sequence[Entry]) -> list[str]:
    absent = [entry.name for entry in entries if not entry.clip_path.is_file()]
    if not absent:
        return []
    return [f"{source}: {len(absent)} of {len(entries)} clips are missing, as {absent[0]}"]


def _named_group(file: str) -> str:
    named = _UCF_NAME.fullmatch(PurePath(file).stem)
    return named[1] if named else ""


def _scoped(group: str, label: str, group_scope: GroupScope) -> str:
    return f"{label}/{group}" if group and group_scope == "class" else group
