"""Leaks between splits: which are certain, which are suspected, and whether more can be excluded."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vidclf.data.answers import Answers, certain_pairs
from vidclf.data.manifest import Entry, readable_digest
from vidclf.data.remote import named
from vidclf.data.scenes import copies_of, find_scenes
from vidclf.data.splitting import group_doubt
from vidclf.labels import plural
from vidclf.progress import Advance, silent

_SHOWN = 3
"""Pairs that are named where a line must do."""


@dataclass(frozen=True)
class Leak:
    """Two clips of different splits that are too alike.

    Attributes:
        a: One clip.
        b: The other.
        splits: Their splits.
        why: ``same group``, ``same file``, ``nearly identical``, or for a suspicion ``same scene``.
    """

    a: Path
    b: Path
    splits: tuple[str, str]
    why: str

    def as_dict(self) -> dict[str, Any]:
        return {"a": named(self.a), "b": named(self.b), "splits": list(self.splits), "why": self.why}

    def __str__(self) -> str:
        return self._words(named(self.a), named(self.b))

    @property
    def short(self) -> str:
        """The same on half a line: of the clips the last two parts of their paths."""
        a, b = ("/".join(Path(named(path)).parts[-2:]) for path in (self.a, self.b))
        return self._words(a, b)

    def _words(self, a: str, b: str) -> str:
        """Where and why, with the clips' names as given."""
        splits = " and ".join(dict.fromkeys(filter(None, self.splits)))
        return f"{self.why}{f' in {splits}' if splits else ''}: {a} and {b}"


@dataclass(frozen=True)
class LeakReport:
    """What a search for leaks has found.

    Attributes:
        doubt: Why leaks cannot be excluded whatever was found, as ``groups unknown``; empty where every clip
            is of a known group.
        leaks: Certain ones; of each group, file or set of copies one pair of clips for a pair of splits.
        suspected: Pairs in two splits that seem to show one scene, where groups are not known; where all
            clips are in one split, every such pair that a division could cut.
    """

    doubt: str
    leaks: tuple[Leak, ...]
    suspected: tuple[Leak, ...]

    @property
    def headline(self) -> str:
        """What holds of the whole data set; empty where groups are known and nothing was found."""
        found = f"the split leaks, {plural(len(self.leaks), 'pair')}" if self.leaks else ""
        if not self.doubt:
            return found
        pairs = plural(len(self.suspected), "suspected pair")
        return "; ".join(filter(None, [f"{self.doubt}: leaks cannot be excluded", found, pairs]))

    def as_dict(self) -> dict[str, Any]:
        return {
            "leak_notice": self.headline,
            "leaks": [leak.as_dict() for leak in self.leaks],
            "suspected": [leak.as_dict() for leak in self.suspected],
        }

    @property
    def summary(self) -> str:
        """The headline with the first pairs, on one line."""
        pairs = [*self.leaks, *self.suspected]
        if not pairs:
            return self.headline
        more = f"; and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
        return f"{self.headline}: {'; '.join(pair.short for pair in pairs[:_SHOWN])}{more}"


def find_leaks(
    entries: Sequence[Entry],
    readable: Sequence[Path] | None = None,
    answers: Answers = MappingProxyType({}),
    progress: Advance = silent,
) -> LeakReport:
    """Looks for clips that stand in two splits, and for those that seem to.

    Args:
        entries: The clips.
        readable: Those to look at, as they decode; ``None``: all.
        answers: What a user has said of pairs of clips.
        progress: Called after each clip that was looked at.
    """
    known = set(readable) if readable is not None else None
    seen = [entry for entry in entries if known is None or entry.clip_path in known]
    copies = copies_of([entry.clip_path for entry in seen], progress)
    kinds: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.group:
            kinds["same group", entry.group].append(entry)
        if content := readable_digest(entry.clip_path):
            kinds["same file", content].append(entry)
    for entry, number in zip(seen, copies, strict=True):
        kinds["nearly identical", str(number)].append(entry)
    leaks = []
    for (why, _), members in sorted(kinds.items()):
        first = {entry.split: entry.clip_path for entry in reversed(members)}
        leaks += [Leak(first[a], first[b], (a, b), why) for a, b in combinations(sorted(first), 2)]
    same = {(leak.a, leak.b) for leak in leaks if leak.why == "same file"}
    leaks = [leak for leak in leaks if leak.why != "nearly identical" or (leak.a, leak.b) not in same]
    doubt = group_doubt(entries)
    return LeakReport(doubt, tuple(leaks), tuple(_suspected(seen, answers)) if doubt else ())


def _suspected(entries: Sequence[Entry], answers: Answers) -> Iterator[Leak]:
    """Clips of one scene in two splits; where groups were guessed, those that are of one scene only just.

    Where all clips are in one split, every pair that a division could cut.
    """
    paths = [entry.clip_path for entry in entries]
    certain = certain_pairs(answers, paths)
    scenes = find_scenes(paths, certain)
    undivided = len({entry.split for entry in entries}) == 1
    members: dict[int, list[int]] = defaultdict(list)
    for index, number in enumerate(scenes.numbers):
        members[number].append(index)
    together = [pair for each in members.values() for pair in combinations(each, 2)]
    doubtful = [(pair.a, pair.b) for pair in scenes.borderline]
    for i, j in dict.fromkeys([*together, *doubtful]):
        a, b = sorted((entries[i], entries[j]), key=lambda entry: (entry.split, entry.clip_path))
        apart = a.split != b.split or undivided
        if apart and (a.group != b.group or not a.group) and certain[i, j] >= 0:
            yield Leak(a.clip_path, b.clip_path, (a.split, b.split), "same scene")
