"""Clips in folders: one for each class, also below train, val and test, or with official lists."""

import itertools
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath, PureWindowsPath

from vidclf import config
from vidclf.config import is_url
from vidclf.data import remote
from vidclf.data.formats import CONTAINERS
from vidclf.data.manifest import Split, label_problem
from vidclf.data.tables import is_comment, read_text
from vidclf.exceptions import InputError
from vidclf.labels import plural

VIDEO_SUFFIXES = frozenset(itertools.chain.from_iterable(CONTAINERS.values()))
_PICTURES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
"""How names of videos end, in lower case."""
_UCF_NAME = re.compile(r"v_.+_(g\d+)_c\d+")
"""UCF-101's naming: class, group, clip."""
_HMDB_NAME = re.compile(r"(.+)_[fhul]_(?:cm|nm)_np\d_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+")
"""HMDB-51's naming: source video and class, then codes of body parts, camera, people, view and quality."""
HMDB_LIST = re.compile(r"(.+)_test_split(\d)")
"""The name of one of HMDB-51's lists, which begins with its class."""
HMDB_SPLITS: dict[str, Split] = {"1": "train", "2": "test"}
"""What its lines say of a clip; 0: it is in neither."""
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What folders, files and columns call a split."""
_HMDB_LISTS = "testTrainMulti_7030_splits"
"""The folder that HMDB-51's lists unpack to."""
_SHOWN = 8
"""Names in a message, at most."""


@dataclass(frozen=True)
class SourceClip:
    """A clip of a source: its path or URL, and what the source says of it."""

    name: str
    label: str
    group: str
    split: str
    split_by: str = ""
    group_by: str = ""


Found = tuple[list[SourceClip], list[str]]
"""The clips of a source, and what a user should know of it: above all what was not taken, and why."""


def walk(folder: str, below: str = "", above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Relative paths of what is in a folder, a path or URL, and below; those of folders end in ``/``.

    What is in hidden folders is not looked at, nor a link to a folder that the link is in.

    Raises:
        InputError: There is no such folder, or it cannot be listed.
    """
    folders, files = remote.children(remote.join(folder, below) if below else folder)
    yield from (below + name for name in files)
    for name in folders:
        inside = f"{below}{name}/"
        yield inside
        real = inside if is_url(folder) else os.path.realpath(remote.join(folder, inside))
        if name[0] != "." and real not in above:
            yield from walk(folder, inside, above | {real})


def is_video(name: str) -> bool:
    """Whether it is called as a video is; what the system hides, as ``._a.mp4``, is none."""
    file = re.split(r"[\\/]", name)[-1]
    return PurePath(file).suffix.rstrip().lower() in VIDEO_SUFFIXES and file[0] != "."


def read_folder(source: str, classes: Sequence[str] | None) -> Found:
    """The clips of a folder per class, or of such folders below ``train``, ``val`` and ``test``.

    A clip belongs to the class in whose folder it lies, however deep. A group is read from UCF-101's naming
    (``v_PullUps_g03_c02.avi``: ``g03``) or HMDB-51's, else it is empty.

    Raises:
        InputError: Every problem of the folder: missing, without classes, an unknown class.
    """
    below = list(walk(source))
    clips = list(filter(is_video, below))
    tops = {name.partition("/")[0] for name in clips if "/" in name}
    splits = {name for name in tops if name.lower() in SPLIT_NAMES}
    if len(splits) > 1 and splits < tops:
        raise InputError(
            f"{source}: holds the splits {few(splits)}, and clips in {few(tops - splits)} too; move these "
            "away, or name the folders to take in place of it"
        )
    depth = 1 if tops and splits == tops else 0
    folders = {name: name.split("/")[depth] for name in clips if name.count("/") > depth}
    labels = {name: folder.strip() for name, folder in folders.items()}
    notes = _not_taken(below, labels.keys(), depth)
    if not labels:
        if any(_kind(name) in _PICTURES for name in below):
            notes.append("pictures are not read: make a clip of each series, as ffmpeg -i %04d.png clip.mp4")
        seen = "".join(f"; {note}" for note in notes)
        raise InputError(f"{source}: holds no folders of clips; expected one for each class{seen}")
    problems = unknown_classes(source, classes, sorted({*labels.values()}))
    problems += [f"{source}: {why}" for label in sorted({*labels.values()}) if (why := label_problem(label))]
    if problems:
        raise InputError(*problems)
    found = [
        SourceClip(
            remote.join(source, name),
            label,
            named_group(name),
            SPLIT_NAMES[name.partition("/")[0].lower()] if depth else "",
        )
        for name, label in labels.items()
        if classes is None or label in classes
    ]
    if blank := sorted({name for name in folders.values() if name != name.strip()}):
        notes.append(
            f"blanks around the names of folders are no part of a class's name: {few(map(repr, blank))}"
        )
    notes += not_asked_for(len(labels) - len(found))
    return found, [f"{source}: {note}" for note in notes]


def _not_taken(below: Sequence[str], taken: Collection[str], depth: int) -> list[str]:
    """What of a folder is no clip of a class, counted, and how many clips lie deeper than in its folder."""
    rest = [name for name in below if name not in taken]
    outside = list(filter(is_video, rest))
    files = [name for name in rest if name[-1] != "/" and not is_video(name)]
    kinds = Counter(_kind(name) for name in files)
    counts = [f"{count} {kind}" for kind, count in kinds.most_common()]
    if outside:
        counts.insert(0, f"{plural(len(outside), 'clip')} outside of the classes' folders, as {outside[0]}")
    notes = [f"not taken: {', '.join(counts)}"] if counts else []
    parents = {parent.as_posix() for name in taken for parent in PurePath(name).parents}
    folders = [name[:-1] for name in rest if name[-1] == "/"]
    if hidden := [name for name in folders if _kind(name) == "hidden"]:
        notes.append(f"hidden folders, not looked into: {few(hidden)}")
    if empty := [name for name in folders if name.count("/") <= depth and name not in {*parents, *hidden}]:
        notes.append(f"folders without clips: {few(empty)}")
    if deep := [name for name in taken if name.count("/") > depth + 1]:
        notes.append(
            f"{plural(len(deep), 'clip')} of {len(taken)} in folders below their class's, as {deep[0]}; if "
            "those are the classes, name the folder that holds them"
        )
    return notes


def _kind(name: str) -> str:
    path = PurePath(name)
    return "hidden" if path.name[0] == "." else path.suffix.lower() or "without a suffix"


def not_asked_for(clips: int) -> list[str]:
    """What is said of clips of other classes than those asked for."""
    return [f"left out by --classes: {plural(clips, 'clip')}"] if clips else []


def few(names: Iterable[str]) -> str:
    """Some of the names."""
    first, *more = itertools.islice(sorted(names), _SHOWN + 1)
    return ", ".join([first, *more[: _SHOWN - 1], *["…"] * (len(more) >= _SHOWN)])


def unknown_classes(source: str, classes: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The problem of each class asked for that a source lacks."""
    return [
        f"{source}: no class {name}{config.did_you_mean(name, known)} (it has {', '.join(known)})"
        for name in classes or ()
        if name not in known
    ]


def read_official(source: str, number: int, classes: Sequence[str] | None) -> Found:
    """UCF-101's or HMDB-51's folder with the splits train and test of list ``number``; clips may be missing.

    The lists lie in the folder, below it, or beside it, as the archives unpack: UCF-101's
    ``trainlist01.txt`` and ``testlist01.txt`` in ``ucfTrainTestlist``, HMDB-51's ``CLASS_test_split1.txt``
    in ``testTrainMulti_7030_splits``.

    Raises:
        InputError: A list is missing.
    """
    found = _hmdb_official(source, number) or _ucf_official(source, number)
    problems = unknown_classes(source, classes, sorted({clip.label for clip in found}))
    if problems:
        raise InputError(*problems)
    chosen = [clip for clip in found if classes is None or clip.label in classes]
    listed = {clip.name for clip in found}
    unlisted = [name for name in walk(source) if is_video(name) and remote.join(source, name) not in listed]
    notes = not_asked_for(len(found) - len(chosen))
    notes += (
        [f"not taken: {plural(len(unlisted), 'clip')} in neither list, as {unlisted[0]}"] if unlisted else []
    )
    return chosen, [f"{source}: {note}" for note in notes]


def _ucf_official(source: str, number: int) -> list[SourceClip]:
    places = [remote.join(source, place) for place in ("", "ucfTrainTestlist", "../ucfTrainTestlist")]
    found: list[SourceClip] = []
    for split in ("train", "test"):
        name = f"{split}list{number:02}.txt"
        lists = remote.local_files([remote.join(place, name) for place in places])
        path = next((path for path in lists if path.is_file()), None)
        if path is None:
            raise InputError(
                f"{source}: {name} is not in {', '.join(places)}, "
                f"nor is CLASS_test_split{number}.txt below {_HMDB_LISTS} there"
            )
        for line in read_text(path).splitlines():
            if line.strip() and not is_comment(line):
                clip = PureWindowsPath(ucf_line(line)[0])
                where = remote.join(source, clip.as_posix())
                found.append(SourceClip(where, clip.parent.name, named_group(clip.name), split))
    return found


def _hmdb_official(source: str, number: int) -> list[SourceClip]:
    """The clips that HMDB-51's lists have in a split; none where there are no such lists."""
    for place in ("", _HMDB_LISTS, f"../{_HMDB_LISTS}"):
        folder = remote.join(source, place) if place else source
        try:
            names = remote.children(folder)[1]
        except InputError:
            continue
        lists = [(name, named) for name in names if (named := HMDB_LIST.fullmatch(PurePath(name).stem))]
        chosen = [(remote.join(folder, name), named[1]) for name, named in lists if named[2] == str(number)]
        paths = remote.local_files([name for name, _ in chosen])
        if chosen:
            return [
                SourceClip(remote.join(source, file), label, named_group(file), HMDB_SPLITS[code])
                for path, (_, label) in zip(paths, chosen, strict=True)
                for clip, code in map(ucf_line, read_text(path).splitlines())
                if code in HMDB_SPLITS
                for file in [f"{label}/{clip}"]
            ]
    return []


def ucf_line(text: str) -> tuple[str, str]:
    """The path and the number of the class, empty where there is none, of a line of UCF-101's lists."""
    path, _, number = text.strip().rpartition(" ")
    return (path.strip(), number) if path and number.isdecimal() else (text.strip(), "")


def named_group(file: str) -> str:
    """The group that UCF-101's or HMDB-51's naming gives a file; empty where it has another name.

    HMDB-51's is the source video, whose name stands before that of the class, which is the folder's too.
    """
    path = PurePath(file)
    if ucf := _UCF_NAME.fullmatch(path.stem):
        return ucf[1]
    hmdb = _HMDB_NAME.fullmatch(path.stem)
    return hmdb[1].removesuffix(f"_{path.parent.name}") if hmdb else ""
