"""Lists of clips as users have them: tables with or without names of columns, UCF-101's lists, JSON."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from vidclf.config import is_url
from vidclf.data import remote
from vidclf.data.class_names import NUMBER, folder_name, name_labels
from vidclf.data.manifest import SPLITS, label_problem
from vidclf.data.sources import (
    HMDB_LIST,
    HMDB_SPLITS,
    SPLIT_NAMES,
    Found,
    SourceClip,
    few,
    is_video,
    named_group,
    not_asked_for,
    ucf_line,
    unknown_classes,
    walk,
)
from vidclf.data.tables import FILE_NAME, GROUP_BY, SPLIT_BY, Row, check_width, read_rows, read_text
from vidclf.exceptions import InputError
from vidclf.labels import plural

LIST_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".json"})
_COLUMNS = {
    "clip": "clip_path path filepath file_path video_path filename file_name file video video_file "
    "video_name clip clip_name youtube_id video_id id",
    "label": "template label_name class_name label class classname class_label labels category action "
    "action_label activity tag label_id class_id class_index",
    "group": "group",
    "split": "split subset set partition",
    "start": "time_start start_time start",
    "end": "time_end end_time end",
    SPLIT_BY: SPLIT_BY,
    GROUP_BY: GROUP_BY,
}
"""Usual names of columns, the surest first; also those of Kinetics' and Something-Something's lists."""
_EXPECTED = (
    "expected a first line with the columns clip_path and label (or path, filename, video …; class, "
    "label_name …), lines of a file and its class, or a list of UCF-101, Kinetics or Something-Something"
)
_KNOWN = frozenset(" ".join(_COLUMNS.values()).split())
_SHALLOW = 4
"""Parts of a path from which on the folder above is searched for clips too: not a whole disk."""
_SHOWN_PROBLEMS = 10


@dataclass(frozen=True)
class _Item:
    """What a line says of a clip; empty where it says nothing."""

    line: int
    clip: str
    label: str
    group: str = ""
    split: str = ""
    start: str = ""
    end: str = ""
    split_by: str = ""
    group_by: str = ""


def read_list(source: str, classes: Sequence[str] | None) -> Found:
    """The clips of a list; they may be missing.

    The split is the list's own, else that of the file's name (``train.csv``, ``trainlist01.txt``); the group
    its own, else that of UCF-101's naming. Labels that are numbers are named by `name_labels`. A path is
    relative to the list's folder or, on this machine, the one above; a name without a suffix, as an id of
    Kinetics, is that of a video somewhere below, and left out where there is none.

    Raises:
        InputError: Every problem of the list.
    """
    path = remote.local_file(source)
    items, notes = _json_items(path) if path.suffix.lower() == ".json" else _table_items(path)
    if not items:
        raise InputError(f"{source}: holds no clips; {_EXPECTED}")
    labels, origin = name_labels([item.label for item in items], [item.clip for item in items], source)
    problems = unknown_classes(source, classes, sorted({*labels}))
    chosen = [
        (item, label)
        for item, label in zip(items, labels, strict=True)
        if classes is None or label in classes
    ]
    of_file, places = _split_of_name(source), _Places(remote.parent(source))
    found, wrong, absent = [], [], []
    for item, label in chosen:
        given = item.split or of_file
        split = SPLIT_NAMES.get(given.casefold(), "")
        if problem := label_problem(label) if item.clip.strip() else "it names no clip":
            wrong.append(f"{source}: line {item.line}: {problem}")
        if given and not split:
            wrong.append(f"{source}: line {item.line}: split {given!r} is none of {', '.join(SPLITS)}")
        name = places.find(item, label)
        if name:
            group = item.group or named_group(name)
            found.append(SourceClip(name, label, group, split, item.split_by, item.group_by))
        else:
            absent.append(item.clip)
    problems += wrong[:_SHOWN_PROBLEMS]
    if len(wrong) > _SHOWN_PROBLEMS:
        problems.append(f"{source}: and {len(wrong) - _SHOWN_PROBLEMS} more lines")
    problems += [f"{source}: {problem}" for problem in places.problems]
    if absent and not found:
        count = plural(len(absent), "clip")
        problems.append(f"{source}: no file in {places.searched} for any of its {count}, as {absent[0]}")
    if problems:
        raise InputError(*problems)
    notes += origin + not_asked_for(len(items) - len(chosen)) + places.notes
    if absent:
        notes.append(f"left out, as there is no such file: {plural(len(absent), 'clip')}, as {absent[0]}")
    return found, [f"{source}: {note}" for note in notes]


def _split_of_name(source: str) -> str:
    """The split that a list's name says, as that of ``trainlist01.txt``; empty where it says none."""
    words = re.split(r"[^a-z]+", PurePath(source).stem.lower())
    return next((word for word in (word.removesuffix("list") for word in words) if word in SPLIT_NAMES), "")


def _table_items(path: Path) -> tuple[list[_Item], list[str]]:
    separator, rows = read_rows(path)
    if not rows:
        return [], []
    name, (_, first) = remote.named(path), rows[0]
    if not separator and is_video(ucf_line(first[0])[0]):
        lines = [(line, *ucf_line(text)) for line, (text,) in rows]
        if hmdb := HMDB_LIST.fullmatch(path.stem):
            used = [
                (line, clip, HMDB_SPLITS[number]) for line, clip, number in lines if number in HMDB_SPLITS
            ]
            unused = (
                f"left out, as the list has them in neither split: {plural(len(lines) - len(used), 'clip')}"
            )
            items = [_Item(line, clip, hmdb[1], split=split) for line, clip, split in used]
            return items, [unused] if len(used) < len(lines) else []
        return _by_folder([_Item(line, clip, number) for line, clip, number in lines])
    nameless = any(map(NUMBER.fullmatch, first)) and not _KNOWN & set(map(_plain, first))
    if nameless or any(map(is_video, first)):
        return _by_folder(_headless(name, rows))
    check_width(name, [text.strip() for text in first], rows[1:])
    records = [
        (line, dict(zip(first, _filled(values, len(first)), strict=True))) for line, values in rows[1:]
    ]
    return _items(name, records, first)


def _by_folder(items: list[_Item]) -> tuple[list[_Item], list[str]]:
    """The items, with their folders' names as labels where some have no label and none a name."""
    folders = [folder_name(item.clip) for item in items]
    labels = {item.label for item in items}
    if "" not in labels or not all(map(NUMBER.fullmatch, labels - {""})) or not all(folders):
        return items, []
    named = [replace(item, label=folder) for item, folder in zip(items, folders, strict=True)]
    return named, ["labels are the names of the clips' folders"]


def _filled(values: Sequence[str], width: int) -> list[str]:
    return [*values, *[""] * (width - len(values))][:width]


def _headless(name: str, rows: Sequence[Row]) -> list[_Item]:
    """Lines of a file or a number that is its name, its class, and a split or none, in any order."""
    width = max(len(values) for _, values in rows)
    columns = [
        column
        for column in zip(*(_filled(values, width) for _, values in rows), strict=True)
        if any(map(str.strip, column))
    ]
    clips = [column for column in columns if all(map(is_video, filter(None, column)))]
    clips = clips or [column for column in columns if all(map(NUMBER.fullmatch, column))]
    splits = [
        column for column in columns if {text.strip().casefold() for text in column} <= SPLIT_NAMES.keys()
    ]
    labels = [column for column in columns if column not in (*clips, *splits)]
    if (len(clips), len(labels)) not in ((1, 0), (1, 1)) or len(splits) > 1:
        seen = " | ".join(text.strip() for text in rows[0][1])
        raise InputError(
            f"{name}: which value of its first line is the class, as it names no columns: {seen}; {_EXPECTED}"
        )
    none = [("",) * len(rows)]
    values = zip(rows, clips[0], *(labels or none), *(splits or none), strict=True)
    return [_Item(line, clip, label.strip(), split=split.strip()) for (line, _), clip, label, split in values]


def _json_items(path: Path) -> tuple[list[_Item], list[str]]:
    """Something-Something's lists, any list of objects with such keys, and annotations of Kinetics.

    These are objects by video, below ``database`` in ActivityNet's form, each with one annotation or several.
    """
    name = remote.named(path)
    try:
        read = json.loads(read_text(path))
    except ValueError as error:
        raise InputError(f"{name}: not readable as JSON: {error}") from None
    notes = []
    if isinstance(read, dict):
        videos = read.get("database", read)
        read = [*_annotated(videos)] or read
        if bare := len(videos) - len({record["id"] for record in read}) if isinstance(read, list) else 0:
            notes = [f"left out, as nothing is said of them: {plural(bare, 'video')}"]
    if not (isinstance(read, list) and all(isinstance(record, dict) for record in read)):
        raise InputError(f'{name}: expected a list of clips, as [{{"id": "78687", "label": "…"}}, …]')
    keys = list(dict.fromkeys(key for record in read for key in record))
    records = [{key: _text(record.get(key)) for key in keys} for record in read]
    items, unread = _items(name, list(enumerate(records, 1)), keys) if records else ([], [])
    return items, notes + unread


def _annotated(videos: object) -> Iterator[dict[str, Any]]:
    """A record for each annotation of videos that have some."""
    for name, video in videos.items() if isinstance(videos, dict) else ():
        annotations = video.get("annotations", []) if isinstance(video, dict) else []
        for each in annotations if isinstance(annotations, list) else [annotations]:
            if isinstance(each, dict):
                segment = each.get("segment")
                start, end = segment if isinstance(segment, list) and len(segment) == 2 else (None, None)
                label, subset = each.get("label"), video.get("subset")
                yield {"id": name, "label": label, "subset": subset, "start": start, "end": end}


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _plain(column: str) -> str:
    return re.sub(r"[\s-]+", "_", column.strip().casefold())


def _items(
    name: str, records: Sequence[tuple[int, Mapping[str, str]]], columns: Sequence[str]
) -> tuple[list[_Item], list[str]]:
    """What records say, by the usual names of their columns."""
    plain = {_plain(column): column for column in columns}
    known = {key: [plain[name] for name in names.split() if name in plain] for key, names in _COLUMNS.items()}
    if not known["clip"]:
        known["clip"] = [
            column for column in columns if records and all(is_video(record[column]) for _, record in records)
        ]
    lacking = [word for key, word in (("clip", "clip"), ("label", "class")) if not known[key]]
    if lacking:
        raise InputError(
            f"{name}: no column for the {' or the '.join(lacking)} (it has {', '.join(columns)}); {_EXPECTED}"
        )
    used = {key: names[0] for key, names in known.items() if names}
    texts = (
        column
        for column in known["label"]
        if not all(NUMBER.fullmatch(record[column].strip()) for _, record in records)
    )
    used["label"] = next(texts, known["label"][0])
    brackets = {ord("["): None, ord("]"): None} if used["label"] == plain.get("template") else {}
    items = [
        _Item(
            line,
            record[used["clip"]],
            record[used["label"]].translate(brackets).strip(),
            **{key: record[used[key]].strip() for key in used if key not in ("clip", "label")},
        )
        for line, record in records
    ]
    unread = [
        column for name, column in plain.items() if name and name not in {*_KNOWN, _plain(used["clip"])}
    ]
    return items, [f"columns that were not read: {', '.join(unread)}"] if unread else []


class _Places:
    """Finds the files that a list means.

    Attributes:
        searched: The folder, a path or URL, that holds the list.
        problems: Names that are those of several files.
    """

    def __init__(self, folder: str) -> None:
        self.searched = folder
        self._folder = Path(folder).absolute()
        self.problems: list[str] = []
        self._moved: list[str] = []

    @property
    def notes(self) -> list[str]:
        """What a user should know of where clips were found."""
        if not self._moved:
            return []
        count = plural(len(self._moved), "path")
        return [f"{count} found by how they end, as {self._moved[0]}"]

    def find(self, item: _Item, label: str) -> str:
        """The clip's path or URL; where there is none, the first guess, of a name without a suffix empty."""
        if (place := self._folder / item.clip).is_file():
            return str(place)
        text = item.clip.strip()
        if is_url(text):
            return text
        guess = remote.join(self.searched, _relative(text).as_posix()) if FILE_NAME.search(text) else ""
        if guess and is_url(self.searched):
            return guess
        return self._by_path(text, label) or self._by_name(item, text, label) or guess

    def _by_path(self, text: str, label: str) -> str:
        if is_url(self.searched):
            return ""
        relative = _relative(text)
        bases = [base / inside for inside in ("", label) for base in (self._folder, self._folder.parent)]
        guesses = [self._folder / text, *(base / relative for base in bases)]
        if found := next((guess for guess in guesses if guess.is_file()), None):
            return str(found)
        if PureWindowsPath(text).anchor:
            ends = [PurePath(*relative.parts[start:]) for start in range(1, len(relative.parts))]
            guesses = [base / end for end in ends for base in bases]
            if found := next((guess for guess in guesses if guess.is_file()), None):
                self._moved.append(text)
                return str(found)
        return ""

    def _by_name(self, item: _Item, text: str, label: str) -> str:
        """The video whose path ends so, or so and a suffix; names of Kinetics carry their seconds."""
        try:
            start, end = int(float(item.start)), int(float(item.end))
        except ValueError:
            names = [text]
        else:
            names = [f"{text}_{start:06}_{end:06}", f"{text}_{start}_{end}", text]
        ends = [f"/{_relative(name).as_posix()}" for name in names]
        found = next((paths for end in ends if (paths := self._ending_in(end))), [])
        if found and FILE_NAME.search(text):
            self._moved.append(text)
        of_label = [path for path in found if PurePath(path).parent.name == label]
        if len(found) > 1 and len(of_label) != 1:
            self.problems.append(f"line {item.line}: {text} is the name of several files: {few(found)}")
        return next(iter(of_label or found), "")

    def _ending_in(self, end: str) -> list[str]:
        alike = self._videos.get(PurePath(end).name, []) + self._videos.get(PurePath(end).stem, [])
        return [
            path
            for path in dict.fromkeys(alike)
            if path.endswith(end) or path.rpartition(".")[0].endswith(end)
        ]

    @cached_property
    def _videos(self) -> Mapping[str, list[str]]:
        """Videos below the list's folder, else on this machine the one above, by name without suffix."""
        shallow = is_url(self.searched) or len(self._folder.parts) < _SHALLOW
        above = [] if shallow else [str(self._folder.parent)]
        videos: dict[str, list[str]] = defaultdict(list)
        for folder in [self.searched, *above]:
            for name in filter(is_video, walk(folder)):
                videos[PurePath(name).stem].append(remote.join(folder, name))
            if videos:
                break
        return videos


def _relative(text: str) -> PurePath:
    """The path without the root or drive that it begins with, its folders parted by slashes."""
    path = PureWindowsPath(text)
    return PurePath(*path.parts[bool(path.anchor) :])
