"""A data set as one HTML page: what it holds, what is wrong with it, and what to do about that."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import plotly.express as px
from plotly.graph_objects import Figure

from vidclf.data import video
from vidclf.data.answers import Answers, certain_pairs
from vidclf.data.check import ClipCheck, check_clips, decodable
from vidclf.data.class_names import label_findings
from vidclf.data.leaks import find_leaks
from vidclf.data.manifest import SPLITS, Entry
from vidclf.data.scenes import find_scenes
from vidclf.data.splitting import group_advice, group_doubt, group_of
from vidclf.labels import plural
from vidclf.progress import Advance, silent
from vidclf.reports.charts import COLOURS, whole_number_ticks
from vidclf.reports.loops import Loop, Loops
from vidclf.reports.rendering import render
from vidclf.reports.tables import HtmlTable

SAMPLES = 3
"""Clips shown of each class."""
_GROUPS = 40
"""Groups shown, at most: the largest."""
_CLIPS_OF_GROUP = 8
"""Clips shown of each group, at most, one frame of each."""
_QUESTIONS = 24
"""Pairs of clips shown side by side, at most: the least certain."""
_BINS = 40
"""Bars of a histogram of whole numbers, at most."""
_FRAME_HEIGHT = 96
_UNLABELLED, _UNSPLIT = "unlabelled", "unsplit"
_IMBALANCE = 3.0
"""Times that the largest class outnumbers the smallest from which on advice is given."""
_FEW_CLIPS = 20
"""Clips of a class below which it is said how much each of them counts."""
_FEW_GROUPS = 5
"""Groups of val or test below which it is said that they are few."""


def write_report(
    entries: Sequence[Entry],
    title: str,
    path: Path,
    progress: Advance = silent,
    answers: Answers = MappingProxyType({}),
) -> list[ClipCheck]:
    """Checks every clip and writes the page; labels, groups and splits may be empty.

    ``progress`` is called after each clip; ``answers`` are what a user has said of pairs of clips. Returns
    the checks, one a clip.
    """
    checks, loops = check_clips([entry.clip_path for entry in entries], progress), Loops()
    page = render(
        "dataset.html.j2",
        title=title,
        summary=_summary(entries, checks),
        counts=_counts(entries),
        advice=advice(entries),
        quantities=_quantities(entries, checks),
        bad_files=[f"{each.name}: {each.verdict}: {each.reason}" for each in checks if each.verdict != "ok"],
        leakage=_leakage(entries, checks, answers),
        questions=_questions(entries, checks, answers, loops),
        samples=_samples(entries, checks, loops),
        **_groups(entries, checks),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return checks


def _summary(entries: Sequence[Entry], checks: Sequence[ClipCheck]) -> str:
    groups = {group_of(entry) for entry in entries}
    seconds = sum(check.facts.seconds for check in checks if check.facts)
    bad = sum(check.verdict != "ok" for check in checks)
    classes = len({entry.label for entry in entries} - {""})
    within = f"in {len(groups)} groups" if any(entry.group for entry in entries) else "that name no group"
    verdict = f"{bad} {'is' if bad == 1 else 'are'} not ok" if bad else "all are ok"
    return f"{len(entries)} clips of {classes} classes {within}, {seconds / 60:.1f} minutes; {verdict}."


def _counts(entries: Sequence[Entry]) -> HtmlTable:
    """Clips of each class by split, and groups of each class."""
    splits = _splits(entries)
    counts = Counter((entry.label, entry.split) for entry in entries)
    groups = defaultdict(set)
    for entry in entries:
        groups[entry.label].add(group_of(entry))
    headings = ["class", *(split or _UNSPLIT for split in splits), "groups"]
    rows = [
        [label or _UNLABELLED, *(str(counts[label, split]) for split in splits), str(len(groups[label]))]
        for label in sorted(groups)
    ]
    return HtmlTable(headings, {"class"}, [("", cells) for cells in rows])


def _splits(entries: Sequence[Entry]) -> list[str]:
    present = {entry.split for entry in entries}
    return [split for split in (*SPLITS, "") if split in present]


def advice(entries: Sequence[Entry]) -> list[str]:
    """What the numbers of clips and groups call for, in words."""
    found = _class_advice(Counter(entry.label for entry in entries if entry.label))
    found += [*label_findings(entries), *group_advice(entries)]
    groups = defaultdict(set)
    for entry in entries:
        groups[entry.split].add(group_of(entry))
    for split in ("val", "test"):
        if 0 < len(groups[split]) < _FEW_GROUPS:
            count = plural(len(groups[split]), "group")
            found.append(f"{split} has {count}: its figures say little about new ones.")
    return found


def _class_advice(clips: Counter[str]) -> list[str]:
    """What the numbers of clips of each class call for; nothing where no clip has a label."""
    if not clips:
        return []
    (large, most), (small, fewest) = clips.most_common()[0], clips.most_common()[-1]
    found = []
    if most >= _IMBALANCE * fewest:
        found.append(
            f"{large} has {most / fewest:.1f} times the clips of {small}: judge by val/macro_f1 rather than "
            'accuracy, and try train.balance = "sampler" or "loss" (model.class_weight for a classical one).'
        )
    if fewest < _FEW_CLIPS:
        found.append(
            f"{small} has only {fewest} clips: its figures move by {100 / fewest:.0f} % with each of them."
        )
    return found


@dataclass(frozen=True)
class Quantity:
    """The distribution of a quantity over clips; ``shared`` says what all have, empty where they differ."""

    title: str
    figure: Figure
    shared: str = ""


def _quantities(entries: Sequence[Entry], checks: Sequence[ClipCheck]) -> list[Quantity]:
    """What is drawn of the clips that decode; nothing where none does."""
    rows = [
        {
            "class": entry.label or _UNLABELLED,
            "split": entry.split or _UNSPLIT,
            "seconds": check.facts.seconds,
            "fps": check.facts.fps,
            "width": check.facts.width,
            "height": check.facts.height,
            "frames": check.facts.decoded,
            "clip": entry.clip_path.name,
        }
        for entry, check in zip(entries, checks, strict=True)
        if check.facts
    ]
    if not rows:
        return []
    return quantities(pd.DataFrame(rows), all_decode=len(rows) == len(entries))


def quantities(table: pd.DataFrame, *, all_decode: bool = True) -> list[Quantity]:
    """Clips per class, durations, frames, frame rates and frame sizes.

    Args:
        table: A row for each clip: ``class``, ``split``, ``seconds``, ``fps``, ``width``, ``height``,
            ``frames`` and ``clip``, its name.
        all_decode: Whether these are all clips of the data set.
    """
    which = "All clips" if all_decode else "All clips that decode"
    sizes = table.groupby(["width", "height"], as_index=False).size()
    rates = table.assign(fps=rounded_rates(table))

    def quantity(title: str, verb: str, words: Sequence[str], figure: Figure) -> Quantity:
        return Quantity(title, figure, f"{which} {verb} {words[0]}." if len(set(words)) == 1 else "")

    return [
        Quantity("Clips per class", clips_per_class(table)),
        quantity(
            "Duration",
            "last",
            [f"{seconds:.2f} s" for seconds in table["seconds"]],
            px.histogram(table, x="seconds", marginal="rug", hover_data=["clip"], **_by_class(table)),
        ),
        quantity(
            "Frames",
            "have",
            [plural(frames, "frame") for frames in table["frames"]],
            whole_number_histogram(table, "frames"),
        ),
        quantity(
            "Frames a second",
            "have",
            [f"{rate} frames a second" for rate in rates["fps"]],
            px.histogram(rates, x="fps", **_by_class(table)).update_xaxes(
                categoryorder="array", categoryarray=sorted(set(rates["fps"]), key=float)
            ),
        ),
        quantity(
            "Frame sizes",
            "are",
            [f"{row.width} x {row.height}" for row in sizes.itertuples()],
            px.scatter(sizes, x="width", y="height", size="size", color_discrete_sequence=COLOURS),
        ),
    ]


def clips_per_class(table: pd.DataFrame) -> Figure:
    """Clips by class; splits have the palette's last colours, as classes begin with its first."""
    splits = (*SPLITS, _UNSPLIT)
    return px.histogram(
        table,
        x="class",
        color="split",
        category_orders={"class": sorted(set(table["class"])), "split": splits},
        color_discrete_map=dict(zip(splits, COLOURS[-len(splits) :], strict=True)),
    ).update_xaxes(type="category")  # classes may be called 1 and 2


def _by_class(table: pd.DataFrame) -> dict[str, Any]:
    """Arguments of a histogram that shows the classes in their colours."""
    return {
        "color": "class",
        "category_orders": {"class": sorted(set(table["class"]))},
        "color_discrete_sequence": COLOURS,
    }


def whole_number_histogram(table: pd.DataFrame, column: str) -> Figure:
    """A histogram whose bars each hold as many numbers as the next."""
    low, high = int(table[column].min()), int(table[column].max())
    size = math.ceil((high - low + 1) / _BINS)
    figure = px.histogram(table, x=column, **_by_class(table))
    figure.update_yaxes(**whole_number_ticks([0, int(((table[column] - low) // size).value_counts().max())]))
    return figure.update_traces(xbins={"start": low - 0.5, "end": high + size, "size": size}, autobinx=False)


def rounded_rates(table: pd.DataFrame) -> "pd.Series[Any]":
    """Frame rates in order, as words where they are few: a bar each."""
    rates = table["fps"].round(2)
    known = sorted(set(rates))
    if len(known) > _BINS:
        return rates
    return pd.Series(pd.Categorical(rates.map("{:g}".format), [f"{rate:g}" for rate in known], ordered=True))


def _leakage(entries: Sequence[Entry], checks: Sequence[ClipCheck], answers: Answers) -> dict[str, Any]:
    """What stands in two splits or seems to, and whether more can be excluded."""
    found = find_leaks(entries, decodable(checks), answers)
    nothing = "No group and no copy of a clip was found in two splits."
    if len(_splits(entries)) == 1:
        nothing = "All clips are in one split, or in none: nothing was looked for."
    return {
        "doubt": found.doubt,
        "headline": found.headline or nothing,
        "leaks": [str(leak) for leak in found.leaks],
        "suspected": [str(leak) for leak in found.suspected],
    }


def _questions(
    entries: Sequence[Entry], checks: Sequence[ClipCheck], answers: Answers, loops: Loops
) -> list[dict[str, Any]]:
    """Pairs of clips whose scenes were made one or kept apart only just, with what says so for good."""
    if not group_doubt(entries):
        return []
    readable = set(decodable(checks))
    seen = [entry for entry in entries if entry.clip_path in readable]
    paths = [entry.clip_path for entry in seen]
    borderline = find_scenes(paths, certain_pairs(answers, paths)).borderline
    return [
        {
            "words": f"{'one scene' if pair.merged else 'two scenes'}, confidence that it is one "
            f"{pair.confidence:.2f}",
            "pair": f"{seen[pair.a].name},{seen[pair.b].name}",
            "clips": [loop for index in (pair.a, pair.b) if (loop := loops.of(seen[index].clip_path))],
        }
        for pair in borderline[:_QUESTIONS]
    ]


def _samples(entries: Sequence[Entry], checks: Sequence[ClipCheck], loops: Loops) -> dict[str, list[Loop]]:
    """Some clips of each class, of different groups where there are several."""
    first_of_group: dict[str, dict[str, Entry]] = defaultdict(dict)
    for entry in _intact(entries, checks):
        first_of_group[entry.label].setdefault(group_of(entry), entry)
    return {
        label or _UNLABELLED: [
            loop
            for entry in list(first_of_group[label].values())[:SAMPLES]
            if (loop := loops.of(entry.clip_path))
        ]
        for label in sorted(first_of_group)
    }


def _groups(entries: Sequence[Entry], checks: Sequence[ClipCheck]) -> dict[str, Any]:
    """A frame of some clips of each group, to see whether they belong together."""
    members: dict[str, list[Entry]] = defaultdict(list)
    for entry in _intact(entries, checks):
        if entry.group:
            members[entry.group].append(entry)
    several = sorted((group for group in members if len(members[group]) > 1), key=lambda g: -len(members[g]))
    more = f"; the {_GROUPS} largest of {len(several)}" if len(several) > _GROUPS else ""
    rows = []
    for group in several[:_GROUPS]:
        sides = ", ".join(sorted({entry.split or _UNSPLIT for entry in members[group]}))
        rows.append(_group(group, members[group], f"; {sides}"))
    alone = [clips[0] for clips in members.values() if len(clips) == 1]
    if rows and alone:
        rows.append(_group("Alone in their group", alone, ""))
    return {"groups": rows, "groups_left_out": more}


def _group(title: str, entries: Sequence[Entry], more: str) -> dict[str, Any]:
    counts = Counter(entry.label or _UNLABELLED for entry in entries)
    content = ", ".join(f"{label} {count}" for label, count in sorted(counts.items())) + more
    clips = [
        Loop(entry.clip_path.name, video.decode(entry.clip_path, 1, _FRAME_HEIGHT).frames[0], None)
        for entry in _by_class_in_turn(entries)[:_CLIPS_OF_GROUP]
    ]
    return {"title": title, "content": content, "clips": clips}


def _by_class_in_turn(entries: Sequence[Entry]) -> list[Entry]:
    """The clips in turn by class, so that the first ones are of as many classes as there are."""
    by_class: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_class[entry.label].append(entry)
    return [
        entry for turn in itertools.zip_longest(*by_class.values()) for entry in turn if entry is not None
    ]


def _intact(entries: Sequence[Entry], checks: Sequence[ClipCheck]) -> Iterator[Entry]:
    return (entry for entry, check in zip(entries, checks, strict=True) if check.verdict == "ok")
