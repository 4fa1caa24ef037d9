"""What a user is asked about clips, in the order of worth: doubtful labels, pairs, clips without a label."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vidclf.comparison.label_errors import pool_tables, worst_doubts
from vidclf.data.answers import Answers, certain_pairs
from vidclf.data.leaks import find_leaks
from vidclf.data.manifest import Entry, readable_digest
from vidclf.data.remote import named
from vidclf.data.scenes import copies_of, find_scenes
from vidclf.data.splitting import group_of
from vidclf.evaluation.predictions import PROBABILITY
from vidclf.progress import Advance, silent
from vidclf.review.journal import Kind

MOST_UNLABELLED = 50
"""Clips without a label that are asked about, at most: the least certain."""

Opinion = tuple[str, Mapping[str, float]]
"""What a model is called, and the probability that it gives to each class."""
Tables = Sequence[tuple[str, pd.DataFrame]]
"""Out-of-fold predictions by what the model is called; see `predictions_table`."""


@dataclass(frozen=True)
class Question:
    """What is asked, and all that is shown with it.

    Attributes:
        kind: What it is about.
        clips: One clip, or the two of a pair; a clip without a label has an empty one.
        why: Why it is asked, in words.
        suggested: The class that the models find the most probable; empty for a pair.
        opinions: What each model that has not seen the clip says of it; none for a pair.
    """

    kind: Kind
    clips: tuple[Entry, ...]
    why: str
    suggested: str = ""
    opinions: tuple[Opinion, ...] = ()


def label_questions(entries: Sequence[Entry], judged: Sequence[Tables]) -> list[Question]:
    """Labels that look wrong; then clips that no model gets right; of both the least likely label first.

    Pages of comparisons go by the gap to the suggested class: of labels that were flipped on purpose that
    finds somewhat more where models are good, and fewer where they are weak (`benchmarks/review.py`).

    Args:
        entries: The manifest's clips.
        judged: One or more sets of predictions, each of the same models for the same clips, out of fold.
    """
    known = {entry.name: entry for entry in entries}
    opinions: dict[str, list[Opinion]] = defaultdict(list)
    for name, table in (each for tables in judged for each in tables):
        for clip, says in _said(table):
            opinions[clip].append((name, says))
    pools = [pool_tables(tables) for tables in judged if tables]
    found: dict[str, Question] = {}

    def ask(clip: str, why: str, suggested: str) -> None:
        question = Question("label", (known[clip],), why, suggested, tuple(opinions[clip]))
        found.setdefault(clip, question)

    for doubt in sorted(worst_doubts(pools), key=lambda doubt: doubt.given):
        why = f"models give {doubt.label} {_percent(doubt.given)}, {doubt.suggested} {_percent(doubt.other)}"
        ask(doubt.clip_path, why, doubt.suggested)
    for pooled in pools:
        count = "the model says" if pooled.models == 1 else f"all {pooled.models} models say"
        wrong = pooled.always_wrong().iterrows()
        for path, row in sorted(wrong, key=lambda each: each[1][PROBABILITY + each[1]["label"]]):
            suggested = max(pooled.classes, key=lambda label: row[PROBABILITY + label])
            ask(str(path), f"{count} {row['said']}", suggested)
    return list(found.values())


def _said(table: pd.DataFrame) -> Iterator[tuple[str, Mapping[str, float]]]:
    classes = [name for name in table.columns if name.startswith(PROBABILITY)]
    names = [name.removeprefix(PROBABILITY) for name in classes]
    for clip, row in zip(table["clip_path"], table[classes].to_numpy().tolist(), strict=True):
        yield clip, dict(zip(names, row, strict=True))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def pair_questions(entries: Sequence[Entry], answers: Answers, progress: Advance = silent) -> list[Question]:
    """Pairs of clips that are copies, or that show one scene, where that matters.

    First what `vidclf data check` finds: what stands in two splits or seems to. Then copies of other labels
    or groups, and where groups were guessed, scenes that were made one only just.

    Args:
        entries: The manifest's clips.
        answers: What a user has said of pairs of clips.
        progress: Called after each clip that was looked at.
    """
    place = {entry.clip_path: index for index, entry in enumerate(entries)}
    leaks = find_leaks(entries, answers=answers, progress=progress)
    found: dict[tuple[int, int], str] = {}

    def ask(a: int, b: int, why: str) -> None:
        splits = sorted({entries[a].split, entries[b].split})
        found.setdefault((min(a, b), max(a, b)), f"{why}, in {' and '.join(splits)}")

    for leak in leaks.leaks:
        ask(place[leak.a], place[leak.b], leak.why)
    for a, b, why in _unlike_copies(entries):
        ask(a, b, why)
    for leak in leaks.suspected:
        ask(place[leak.a], place[leak.b], f"perhaps the {leak.why}")
    if leaks.doubt:
        paths = [entry.clip_path for entry in entries]
        for pair in find_scenes(paths, certain_pairs(answers, paths)).borderline:
            if pair.merged and group_of(entries[pair.a]) == group_of(entries[pair.b]):
                ask(pair.a, pair.b, f"one group, confidence that it is one scene {pair.confidence:.2f}")
    return [Question("pair", (entries[a], entries[b]), why) for (a, b), why in found.items()]


def _unlike_copies(entries: Sequence[Entry]) -> Iterator[tuple[int, int, str]]:
    """Copies that the manifest gives another class, or another group, than the first of them."""
    same: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, entry in enumerate(entries):
        if content := readable_digest(entry.clip_path):
            same["same file", content].append(index)
    for index, number in enumerate(copies_of([entry.clip_path for entry in entries])):
        same["nearly identical", str(number)].append(index)
    for (why, _), (first, *others) in same.items():
        for other in others:
            if entries[first].label != entries[other].label:
                yield first, other, f"{why}, of two classes"
            elif group_of(entries[first]) != group_of(entries[other]):
                yield first, other, f"{why}, of two groups"


def unlabelled_questions(found: Sequence[tuple[Path, str, Mapping[str, float]]]) -> list[Question]:
    """The clips without a label that a model is the least sure of: their two best classes are the closest.

    Args:
        found: Each clip, its group by its name, and the probability that the model gives to each class.
    """
    questions = []
    for path, group, says in found:
        first, second, *_ = sorted(says, key=lambda name: -says[name])
        why = f"between {first} {_percent(says[first])} and {second} {_percent(says[second])}"
        entry = Entry(path, "", group, "")
        question = Question("unlabelled", (entry,), why, first, (("the model", says),))
        questions.append((says[first] - says[second], named(path), question))
    return [question for _, _, question in sorted(questions, key=lambda each: each[:2])[:MOST_UNLABELLED]]
