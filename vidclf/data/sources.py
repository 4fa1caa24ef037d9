"""From clips as users have them to a manifest: reading folders, and splitting by group."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vidclf import config
from vidclf.config import InputError
from vidclf.data.manifest import SPLITS, Entry, write_manifest

GroupScope = Literal["dataset", "class"]

VIDEO_SUFFIXES = frozenset({".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"})
_UCF_NAME = re.compile(r"v_.+_(g\d+)_c\d+")
"""UCF-101's naming: class, group, clip."""
_FEW_GROUPS = 3
"""Groups below which a split's figures are mostly luck; no interval can be given then."""
_SWAP_LIMIT = 200
"""Groups up to which the split is also improved by exchanging two of them."""


@dataclass(frozen=True)
class Imported:
    """What an import wrote.

    Attributes:
        entries: Every clip.
        notes: What a user should know of it.
    """

    entries: tuple[Entry, ...]
    notes: tuple[str, ...]

    def counts(self) -> dict[str, dict[str, int]]:
        """Clips by class and split."""
        found = Counter((entry.label, entry.split) for entry in self.entries)
        labels = sorted({entry.label for entry in self.entries})
        return {label: {split: found[label, split] for split in SPLITS} for label in labels}

    def groups(self) -> dict[str, int]:
        """Groups by split; a clip without one is its own."""
        return {
            split: len({group for group in map(_group, self.entries) if group[1] == split})
            for split in SPLITS
        }


def import_clips(
    sources: Sequence[Path],
    to: Path,
    *,
    classes: Sequence[str] | None,
    shares: str,
    seed: int,
    group_scope: GroupScope,
) -> Imported:
    """Reads folders of classes, splits by group, and writes the manifest.

    Args:
        sources: Folders with a folder per class.
        to: The manifest to write; the same clips give the same bytes.
        classes: Only these; ``None``: all.
        shares: Train, val and test, as ``70,15,15``.
        seed: Another seed gives another split.
        group_scope: Whether equal group names in different classes are one group.

    Raises:
        InputError: Every problem of the sources, the shares, or the split; nothing was written then.
    """
    fractions = parse_shares(shares)
    entries: list[Entry] = []
    problems: list[str] = []
    for source in sources:
        try:
            entries += import_folder(source, classes, group_scope)
        except InputError as error:
            problems += error.problems
    labels = sorted({entry.label for entry in entries})
    if not problems and len(labels) < 2:
        problems.append(f"only one class ({labels[0]}); a classifier needs two")
    if problems:
        raise InputError(*problems)
    entries = split_by_group(entries, fractions, seed)
    write_manifest(entries, to)
    notes = []
    without = sum(not entry.group for entry in entries)
    if without:
        notes.append(
            f"{without} of {len(entries)} clips name no group, so each is its own. If several show one scene "
            "or person, the split leaks: write the groups into the manifest's column and import again."
        )
    imported = Imported(tuple(sorted(entries)), tuple(notes))
    few = [f"{split} {count}" for split, count in imported.groups().items() if 0 < count < _FEW_GROUPS]
    if few:
        note = f"few groups ({', '.join(few)}): figures on them say little about groups never seen"
        imported = replace(imported, notes=(*imported.notes, note))
    return imported


def import_folder(source: Path, classes: Sequence[str] | None, group_scope: GroupScope) -> list[Entry]:
    """The clips of a folder per class, not split yet.

    A group is read from UCF-101's naming (``v_PullUps_g03_c02.avi``: ``g03``), else it is empty.

    Raises:
        InputError: Every problem of the folder: missing, without classes, an empty or unknown class.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder")
    folders = {
        child.name: child for child in sorted(source.iterdir()) if child.is_dir() and child.name[0] != "."
    }
    if not folders:
        raise InputError(f"{source}: holds no folders; expected one for each class")
    if set(folders) <= {*SPLITS, "valid", "validation"}:
        raise InputError(
            f"{source}: holds {', '.join(folders)} and no classes; reading a given split is not in this "
            "version of vidclf: import a folder with a folder per class"
        )
    problems = [
        f"{source}: no class {name}{config.did_you_mean(name, list(folders))} (it has {', '.join(folders)})"
        for name in classes or ()
        if name not in folders
    ]
    entries = []
    for label in classes or folders:
        if label not in folders:
            continue
        clips = sorted(path for path in folders[label].iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
        if not clips:
            problems.append(
                f"{folders[label]}: the class is empty; add clips, or leave it out with --classes"
            )
        entries += [
            Entry(path.absolute(), label, _named_group(path, label, group_scope), "") for path in clips
        ]
    if problems:
        raise InputError(*problems)
    return entries


def _named_group(path: Path, label: str, group_scope: GroupScope) -> str:
    named = _UCF_NAME.fullmatch(path.stem)
    if named is None:
        return ""
    return named[1] if group_scope == "dataset" else f"{label}/{named[1]}"


def parse_shares(text: str) -> tuple[float, float, float]:
    """``70,15,15`` as fractions of train, val and test.

    Raises:
        InputError: Not three numbers of at least 0, or no share for train.
    """
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--shares {text}: expected train,val,test in percent, as 70,15,15") from None
    total = train + val + test
    if not (min(train, val, test) >= 0 and train > 0 and np.isfinite(total)):
        raise InputError(f"--shares {text}: shares are at least 0, and train's is above 0")
    return train / total, val / total, test / total


def split_by_group(entries: Sequence[Entry], shares: tuple[float, float, float], seed: int) -> list[Entry]:
    """The entries with their splits: no group on two sides, classes in proportion.

    Groups are placed one by one, the largest first, where they bring the
    splits nearest to their shares of every class; then single groups move, and
    few groups change places, while that helps. A class that a split lacks
    weighs more than any deviation.

    Args:
        entries: Clips with label and group; an empty group is the clip alone.
        shares: Fractions of train, val and test; a split with share 0 stays empty.
        seed: Decides between groups of equal size.

    Raises:
        InputError: A class has too few groups to be in every split.
    """
    used = [index for index, share in enumerate(shares) if share > 0]
    labels = sorted({entry.label for entry in entries})
    groups = sorted({_group(entry)[0] for entry in entries})
    row = {group: index for index, group in enumerate(groups)}
    sizes = np.zeros((len(groups), len(labels)), dtype=np.int64)
    for entry in entries:
        sizes[row[_group(entry)[0]], labels.index(entry.label)] += 1
    _check_groups(sizes, labels, len(used))

    placement = _Placement(sizes, np.array([shares[index] for index in used]))
    generator = np.random.default_rng(seed)
    order = sorted(generator.permutation(len(groups)), key=lambda group: -int(sizes[group].sum()))
    placement.place(order)
    placement.improve(order)
    _check_splits(placement, labels, [SPLITS[index] for index in used])
    split_of = {group: SPLITS[used[placement.sides[row[group]]]] for group in groups}
    return [replace(entry, split=split_of[_group(entry)[0]]) for entry in entries]


def _group(entry: Entry) -> tuple[str, str]:
    """A clip's group, its own path where it names none, with its split."""
    return entry.group or f"/{entry.clip_path.as_posix()}", entry.split


def _check_groups(sizes: NDArray[np.int64], labels: Sequence[str], splits: int) -> None:
    found = (sizes > 0).sum(axis=0)
    problems = [
        f"class {label} has {count} group{'s' if count > 1 else ''}, too few for {splits} splits; "
        "record more, ask for fewer splits (--shares 70,30,0), or leave the class out with --classes"
        for label, count in zip(labels, found, strict=True)
        if count < splits
    ]
    if problems:
        raise InputError(*problems)


def _check_splits(placement: "_Placement", labels: Sequence[str], splits: Sequence[str]) -> None:
    problems = [
        f"no split by group was found in which {split} has a clip of {label}; "
        "try another --seed, fewer splits (--shares 70,30,0), or --group-scope class"
        for side, split in enumerate(splits)
        for label, count in zip(labels, placement.counts[side], strict=True)
        if not count
    ]
    if problems:
        raise InputError(*problems)


class _Placement:
    """Groups on sides, with what it costs.

    Attributes:
        sides: Side of each group, -1 before it is placed.
        counts: Clips by side and class.
    """

    def __init__(self, sizes: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
        self._sizes = sizes
        self._targets = shares[:, None] * sizes.sum(axis=0)
        self.sides = np.full(len(sizes), -1)
        self.counts = np.zeros((len(shares), sizes.shape[1]), dtype=np.int64)

    def _cost(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Squared deviation relative to the targets, and 1e6 for each class missing, per option."""
        deviation = ((counts - self._targets) / self._targets) ** 2
        cost: NDArray[np.float64] = (deviation + 1e6 * (counts == 0)).sum(axis=(-2, -1))
        return cost

    def place(self, order: Sequence[int]) -> None:
        for group in order:
            options = np.stack([self._with(group, side) for side in range(len(self.counts))])
            self._put(group, int(self._cost(options).argmin()))

    def improve(self, order: Sequence[int]) -> None:
        """Moves groups, and exchanges few, until nothing helps."""
        helped = True
        while helped:
            helped = self._move_each(order)
            if not helped and len(order) <= _SWAP_LIMIT:
                helped = self._swap_one(order)

    def _move_each(self, order: Sequence[int]) -> bool:
        helped = False
        for group in order:
            here = int(self.sides[group])
            options = np.stack([self._with(group, side) for side in range(len(self.counts))])
            costs = self._cost(options)
            best = int(costs.argmin())
            if costs[best] < costs[here] - 1e-9:
                self._put(group, best)
                helped = True
        return helped

    def _swap_one(self, order: Sequence[int]) -> bool:
        cost = self._cost(self.counts)
        for position, one in enumerate(order):
            others = [other for other in order[position + 1 :] if self.sides[other] != self.sides[one]]
            if not others:
                continue
            change = self._sizes[others] - self._sizes[one]
            options = np.repeat(self.counts[None], len(others), axis=0)
            options[:, self.sides[one]] += change
            options[np.arange(len(others)), self.sides[others]] -= change
            costs = self._cost(options)
            best = int(costs.argmin())
            if costs[best] < cost - 1e-9:
                here, there = int(self.sides[one]), int(self.sides[others[best]])
                self._put(one, there)
                self._put(others[best], here)
                return True
        return False

    def _with(self, group: int, side: int) -> NDArray[np.int64]:
        """The counts if ``group`` were on ``side``."""
        counts = self.counts.copy()
        if self.sides[group] >= 0:
            counts[self.sides[group]] -= self._sizes[group]
        counts[side] += self._sizes[group]
        return counts

    def _put(self, group: int, side: int) -> None:
        self.counts = self._with(group, side)
        self.sides[group] = side
