"""Names of classes: those that numbers stand for, those that are hardly two, and clips that have two."""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePath, PureWindowsPath

from vidclf.config import is_url
from vidclf.data import remote
from vidclf.data.manifest import Entry, readable_digest
from vidclf.data.tables import FILE_NAME, read_rows, read_text
from vidclf.exceptions import InputError
from vidclf.labels import plural

_LIST = re.compile(
    r"(.*[^a-z])?(class|label|categor|action)(es|s|y|ies)?([ _-]?(ind|name|list|map|id|to|2)\w*)?|id2label",
    re.IGNORECASE,
)
"""What lists of classes are called: UCF-101's classInd, labels, classes, class_names, label_map."""
_SUFFIXES = (".txt", ".csv", ".tsv", ".json")
_HEADINGS = {"class", "class_name", "label", "label_name", "name"}
NUMBER = re.compile(r"\d{1,9}")
_NUMBERED = re.compile(r"(\d+)\s+(.+)|(.+?)\s+(\d+)")
_SHOWN = 4


def name_labels(labels: Sequence[str], clips: Sequence[str], source: str) -> tuple[list[str], list[str]]:
    """Names for labels that are numbers: those of the clips' folders or of a list of classes.

    Args:
        labels: As a list of clips has them, one a clip.
        clips: Paths as the list has them.
        source: The list's path or URL; the list of classes lies in its folder or the one above.

    Returns:
        The names, and what a user should know of them; labels that are texts stay as they are.

    Raises:
        InputError: A number is not in the list of classes, or that may begin with 0 or with 1.
    """
    if not all(map(NUMBER.fullmatch, labels)):
        return list(labels), []
    folders, numbers = list(map(folder_name, clips)), list(map(int, labels))
    pairs = set(zip(numbers, folders, strict=True))
    of_folders = dict(pairs)
    by_folder = all(folders) and len(pairs) == len(of_folders) == len({*of_folders.values()})
    file, listed = _class_list(source, set(numbers))
    if by_folder and (not listed or {*of_folders.values()} <= {*listed.values()}):
        names, origin = of_folders, "the clips' folders"
    elif listed:
        names, origin = listed, file
    else:
        advice = "a file classes.txt beside the list, with lines as 0 jump, would name them"
        return list(labels), [f"labels are numbers; {advice}"]
    unknown = sorted({*numbers} - names.keys())
    if unknown:
        raise InputError(f"{source}: label {unknown[0]} is not in {file} ({min(names)} to {max(names)})")
    shown = ", ".join(f"{number} = {names[number]}" for number in sorted(names)[:_SHOWN])
    more = ", …" if len(names) > _SHOWN else ""
    return [names[number] for number in numbers], [f"labels are numbers, named by {origin}: {shown}{more}"]


def folder_name(clip: str) -> str:
    """The name of a clip's folder; empty where its path has none."""
    return PureWindowsPath(clip).parent.name


def _class_list(source: str, numbers: set[int]) -> tuple[str, dict[int, str]]:
    """The path of the list of classes, and its names by number; empty where there is none."""
    folder = remote.parent(source)
    for place in (folder,) if is_url(folder) else (folder, str(Path(folder).absolute().parent)):
        for file in remote.children(place)[1]:
            name = PurePath(file)
            if name.suffix.lower() not in _SUFFIXES or not _LIST.fullmatch(name.stem):
                continue
            path = remote.join(place, file)
            if path == remote.join(folder, PurePath(source).name):
                continue
            listed = _read_class_list(remote.local_file(path))
            if listed:
                return path, listed if isinstance(listed, dict) else _counted(listed, numbers, path)
    return "", {}


def _counted(names: Sequence[str], numbers: set[int], path: str) -> dict[int, str]:
    """The names by number, from 0 or from 1, whichever the numbers in use tell."""
    if not {0, len(names)} & numbers:
        raise InputError(
            f"{path}: whether its {len(names)} classes count from 0 or 1 cannot be told; write the numbers "
            f"into it, as: 0 {names[0]}"
        )
    return dict(enumerate(names, 0 if 0 in numbers else 1))


def _read_class_list(path: Path) -> dict[int, str] | list[str]:
    """Names by number, or in order where the file has no numbers; empty where it is no list of classes."""
    if path.suffix.lower() == ".json":
        return _json_class_list(path)
    separator, rows = read_rows(path)
    lines = [[text.strip() for text in values] for _, values in rows]
    if separator:
        return _by_number(lines) or _by_number(lines[1:])
    if lines and lines[0][0].casefold() in _HEADINGS:
        del lines[0]
    names = [text for (text,) in lines]
    if len({*names}) < len(names) or any(FILE_NAME.search(name.split()[0]) for name in names):
        return {}
    numbered = [_NUMBERED.fullmatch(name) for name in names]
    pairs = [[text for text in match.groups() if text] for match in numbered if match]
    return (len(pairs) == len(names) and _by_number(pairs)) or names


def _json_class_list(path: Path) -> dict[int, str]:
    try:
        read = json.loads(read_text(path))
    except ValueError:
        return {}
    if isinstance(read, dict):
        return _by_number([[str(value) for value in pair] for pair in read.items()])
    texts = isinstance(read, list) and all(isinstance(name, str) for name in read)
    return dict(enumerate(read)) if texts else {}


def _by_number(pairs: Sequence[Sequence[str]]) -> dict[int, str]:
    """Names by number of pairs in either order; empty where they are no such pairs."""
    for number, name in ((0, 1), (1, 0)):
        if all(len(pair) == 2 and NUMBER.fullmatch(pair[number]) for pair in pairs):
            found = {int(pair[number]): pair[name] for pair in pairs}
            return found if len(found) == len(pairs) == len({*found.values()}) else {}
    return {}


def label_findings(entries: Sequence[Entry]) -> list[str]:
    """Classes whose names are hardly two, and files that are of two classes."""
    return [*alike_classes(entries), *files_of_two_classes(entries)]


def alike_classes(entries: Sequence[Entry]) -> list[str]:
    """Classes whose names differ only in case, composition, or blanks and the like."""
    clips = Counter(entry.label for entry in entries if entry.label)
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in sorted(clips):
        plain = unicodedata.normalize("NFC", label).casefold()
        spellings[re.sub(r"[\s_-]+", "", plain) or plain].append(label)
    found = []
    for labels in filter(lambda labels: len(labels) > 1, spellings.values()):
        composed = {unicodedata.normalize("NFC", label) for label in labels}
        if len(composed) < len(labels):
            how, shown = "how accents are composed (Unicode NFC and NFD)", map(ascii, labels)
        else:
            case = len({label.casefold() for label in composed}) == 1
            how, shown = "case" if case else "blanks, hyphens, underscores or case", map(repr, labels)
        most = max(labels, key=lambda label: clips[label])
        counts = " and ".join(
            f"{text} ({plural(clips[label], 'clip')})" for text, label in zip(shown, labels, strict=True)
        )
        found.append(f"the classes {counts} differ only in {how}; if they are one, call them all {most!r}")
    return found


def files_of_two_classes(entries: Sequence[Entry]) -> list[str]:
    """Files of one content under several labels."""
    same: dict[str, dict[str, Entry]] = defaultdict(dict)
    for entry in entries:
        if entry.label and (content := readable_digest(entry.clip_path)):
            same[content].setdefault(entry.label, entry)
    return [
        f"one file under {len(by_label)} labels: "
        + " and ".join(f"{entry.name} ({label})" for label, entry in by_label.items())
        + "; keep the right one"
        for by_label in same.values()
        if len(by_label) > 1
    ]
