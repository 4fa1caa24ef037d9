"""Imports clips as users have them into a manifest."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Literal

from vidclf.data import remote
from vidclf.data.answers import Answers, add_answers, read_answers
from vidclf.data.class_names import label_findings
from vidclf.data.clip_lists import LIST_SUFFIXES, read_list
from vidclf.data.leaks import find_leaks
from vidclf.data.manifest import (
    SPLITS,
    Entry,
    Split,
    in_order,
    read_manifest,
    repetitions,
    split_problems,
    write_manifest,
)
from vidclf.data.scenes import group_by_scene, looks_of
from vidclf.data.sources import SPLIT_NAMES, Found, read_folder, read_official
from vidclf.data.splitting import (
    Shares,
    carve_val,
    group_advice,
    group_of,
    parse_shares,
    split_at_random,
    split_by_group,
)
from vidclf.exceptions import InputError
from vidclf.progress import Progress, counted, silent

GroupScope = Literal["dataset", "class"]

_OFFICIAL = re.compile(r"official:([1-9])")
_NO_TEXT = re.compile("[\r\ud800-\udfff]")
"""Of names of files: a carriage return, and bytes that are no UTF-8."""
_FEW_GROUPS = 3
"""Groups below which a split's figures are mostly luck; no interval can be given then."""
_SHOWN_FINDINGS = 10
"""Findings about labels."""


@dataclass(frozen=True)
class ImportResult:
    """What an import wrote.

    Attributes:
        entries: Every clip.
        notes: What a user should know of it.
        leaks: The first of the notes, where it is of leaks; else empty.
        unreadable: How many clips cannot be read, as which; empty where all can.
    """

    entries: tuple[Entry, ...]
    notes: tuple[str, ...]
    leaks: str = ""
    unreadable: str = ""

    def counts(self) -> dict[str, dict[str, int]]:
        """Clips by class and split."""
        found = Counter((entry.label, entry.split) for entry in self.entries)
        labels = sorted({entry.label for entry in self.entries})
        return {label: {split: found[label, split] for split in SPLITS} for label in labels}

    def groups(self) -> dict[str, int]:
        """Groups by split; a clip without one is its own."""
        pairs = {(group_of(entry), entry.split) for entry in self.entries}
        return {split: sum(side == split for _, side in pairs) for split in SPLITS}


def read_sources(
    sources: Sequence[str],
    classes: Sequence[str] | None = None,
    group_scope: GroupScope = "dataset",
    split: str | None = None,
    progress: Progress = silent,
) -> tuple[list[Entry], list[str]]:
    """Clips of every source, with the splits that it gives; arguments as those of `import_clips`.

    Returns:
        The clips, and what a user should know of the sources: above all what was not taken, and why.

    Raises:
        InputError: Every problem of the sources.
    """
    official = _OFFICIAL.fullmatch(split or "")
    if split not in (None, "group", "file", "random") and not official:
        raise InputError(f"--split {split}: one of group, file, official:1, official:2, official:3, random")
    entries: list[Entry] = []
    notes: list[str] = []
    problems: list[str] = []
    for source in sources:
        try:
            if PurePath(source).suffix.lower() in LIST_SUFFIXES or Path(source).is_file():
                found = read_list(source, classes)
            elif official:
                found = read_official(source, int(official[1]), classes)
            else:
                found = read_folder(source, classes)
            entries += _entries(source, found, group_scope, progress)
            notes += found[1]
        except InputError as error:
            problems += error.problems
    problems += repetitions(entries)
    labels = sorted({entry.label for entry in entries})
    if not problems and len(labels) < 2:
        problems += [f"only one class ({labels[0]}); a classifier needs two", *notes]
    if problems:
        raise InputError(*problems)
    return entries, notes


def _entries(source: str, found: Found, group_scope: GroupScope, progress: Progress) -> list[Entry]:
    """The clips on this machine, in groups of the scope that is asked for.

    Raises:
        InputError: Clips are missing, or have names that no table can hold.
    """
    clips, _ = found
    if odd := [clip.name for clip in clips if _NO_TEXT.search(clip.name)]:
        raise InputError(f"{source}: the name {odd[0]!a} is no text that a table can hold; rename the file")
    paths = remote.local_files([clip.name for clip in clips], progress)
    absent = [clip.name for path, clip in zip(paths, clips, strict=True) if not path.is_file()]
    if absent:
        raise InputError(f"{source}: {len(absent)} of {len(clips)} clips are missing, as {absent[0]}")
    scoped = group_scope == "class"
    return [
        Entry(
            path,
            clip.label,
            f"{clip.label}/{clip.group}" if clip.group and scoped else clip.group,
            clip.split,
            clip.split_by,
            clip.group_by,
        )
        for path, clip in zip(paths, clips, strict=True)
    ]


def import_clips(
    sources: Sequence[str | Path],
    to: Path,
    *,
    classes: Sequence[str] | None = None,
    split: str | None = None,
    shares: str = "70,15,15",
    seed: int = 0,
    group_scope: GroupScope = "dataset",
    extend: str | Path | None = None,
    by_scene: bool = False,
    merge: Sequence[str] = (),
    apart: Sequence[str] = (),
    progress: Progress = silent,
) -> ImportResult:
    """Reads clips, splits them, and writes the manifest.

    Args:
        sources: Folders with a folder per class, also below ``train``, ``val`` and ``test``; UCF-101's
            folder; CSV files of clips and labels, with a column ``split`` or one file per split; as
            paths or URLs.
        to: The manifest to write; the same clips give the same bytes.
        classes: Only these; ``None``: all.
        split: ``group``; ``file``: as the sources say; ``official:N``: list N of UCF-101 or HMDB-51, with
            val carved out of train by group; ``random``: clip by clip. ``None``: ``file`` where all say,
            else ``group``.
        shares: Train, val and test, as ``70,15,15``.
        seed: Another seed gives another split.
        group_scope: Whether equal group names in different classes are one group.
        extend: A manifest whose clips are kept, its groups in their splits; new clips are placed by group.
        by_scene: Groups are scenes, found by how the clips look, in place of what their names say; clips of
            a scene that ``extend`` knows get its group there.
        merge: Pairs of clips that are of one scene, as ``A,B``; kept beside ``to`` and read again.
        apart: Pairs of clips that are of two; likewise.
        progress: Called with (clips fetched, clips to fetch), then from the first one again with those that
            were looked at for leaks.

    Raises:
        InputError: Every problem of the sources, the shares, or the split; nothing was written then.
    """
    fractions = parse_shares(shares)
    read, notes = read_sources(list(map(str, sources)), classes, group_scope, split, progress)
    entries: Sequence[Entry] = read
    if (merge or apart) and not by_scene:
        raise InputError("--merge, --apart: they answer what --groups scenes asks; add that option")
    answers = add_answers(to, merge, apart, entries) if by_scene else {}
    if extend is not None:
        if split in ("file", "random"):
            raise InputError(f"--split {split}: --extend places new clips by group; leave --split out")
        entries = _extended(entries, extend, fractions, seed, answers, by_scene=by_scene)
    else:
        said = sum(bool(entry.split) for entry in entries)
        if split is None and 0 < said < len(entries):
            notes.append(f"{said} of {len(entries)} clips name their split, so that all are split by group")
        if by_scene:
            entries = group_by_scene(entries, answers=answers, progress=counted(progress, len(entries)))
        entries = _split(entries, split, fractions, seed)
    return _written(entries, to, notes, progress)


def divide_clips(
    entries: Sequence[Entry], to: Path, shares: str = "70,15,15", notes: Sequence[str] = ()
) -> ImportResult:
    """Splits clips, by group where they do not all say their split, and writes their manifest.

    ``notes`` are those of `read_sources`, to which others are added.

    Raises:
        InputError: Every problem of the shares or the split; nothing was written then.
    """
    return _written(_split(entries, None, parse_shares(shares), seed=0), to, notes)


def _written(
    entries: Sequence[Entry], to: Path, notes: Sequence[str], progress: Progress = silent
) -> ImportResult:
    ordered = in_order(entries)
    looked_at = counted(progress, len(ordered))
    leaks = find_leaks(ordered, answers=read_answers(to), progress=looked_at).summary
    unreadable = _unreadable(ordered)
    write_manifest(entries, to)
    imported = ImportResult(tuple(ordered), (), leaks, unreadable)
    return replace(imported, notes=(*filter(None, [leaks]), *_notes(imported), *notes))


def _unreadable(entries: Sequence[Entry]) -> str:
    """See `ImportResult`; `find_leaks` has looked at all of them."""
    paths = [entry.clip_path for entry in entries]
    lost = sorted(set(range(len(paths))) - set(looks_of(paths).readable))
    if not lost:
        return ""
    first = paths[lost[0]]
    return f"{len(lost)} of {len(paths)} clips cannot be read, as {first}: vidclf data check says why"


def _split(entries: Sequence[Entry], split: str | None, shares: Shares, seed: int) -> Sequence[Entry]:
    """The entries with their splits; arguments as those of `import_clips`."""
    given = all(entry.split for entry in entries)
    match split or ("file" if given else "group"):
        case "group":
            return split_by_group(entries, shares, seed)
        case "random":
            return split_at_random(entries, shares, seed)
        case "file" if not given:
            raise InputError("--split file: the source gives no split; use --split group")
        case "file":
            return entries
        case _:  # official, without val
            train, val, _ = shares
            return carve_val(entries, val / (train + val), seed)


def _extended(
    entries: Sequence[Entry],
    extend: str | Path,
    shares: Shares,
    seed: int,
    answers: Answers,
    *,
    by_scene: bool,
) -> list[Entry]:
    """The old manifest's clips in their splits, and the new ones placed around them."""
    old = read_manifest(extend).entries
    fixed: dict[str, Split] = {group_of(entry): SPLIT_NAMES[entry.split] for entry in old}
    known = {entry.clip_path.resolve() for entry in old}  # the same file may be called by other names
    new = [replace(entry, split="") for entry in entries if entry.clip_path.resolve() not in known]
    if by_scene:
        alone = sum(not entry.group for entry in old)
        if alone:
            raise InputError(
                f"--groups scenes: {alone} of {len(old)} clips of {remote.public(str(extend))} name no group "
                "that new clips could join; import all clips anew, without --extend"
            )
        new = group_by_scene(new, old, answers)
    placed = split_by_group([*old, *new], shares, seed, fixed)
    return [*old, *placed[len(old) :]]


def _notes(imported: ImportResult) -> list[str]:
    notes = group_advice(imported.entries)
    if any(entry.split_by == "random" for entry in imported.entries):
        notes.append("the clips are split clip by clip: every run on them is marked split/leak = true")
    notes += [
        f"{problem}: train and tune refuse such a manifest; --split group divides the clips anew"
        for problem in split_problems(imported.entries)
    ]
    findings = label_findings(imported.entries)
    notes += findings[:_SHOWN_FINDINGS]
    if len(findings) > _SHOWN_FINDINGS:
        notes.append(
            f"and {len(findings) - _SHOWN_FINDINGS} more findings about labels; vidclf data check lists them"
        )
    few = [f"{split} {count}" for split, count in imported.groups().items() if 0 < count < _FEW_GROUPS]
    if few:
        notes.append(f"few groups ({', '.join(few)}): figures on them say little about groups never seen")
    return notes
