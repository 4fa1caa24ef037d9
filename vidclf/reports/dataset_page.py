"""A data set as one HTML page: what it holds, what is wrong with it, and what to do about that."""

import html
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
from plotly.graph_objects import Figure

from vidclf.data import video
from vidclf.data.check import ClipCheck, check_clips, decodable, find_leaks
from vidclf.data.manifest import SPLITS, Entry
from vidclf.data.splitting import group_advice, group_of, loose_groups
from vidclf.labels import plural
from vidclf.progress import Advance, silent
from vidclf.reports import html as pages

SAMPLES = 3
"""Clips shown of each class."""
FRAMES = 4
"""Frames shown of each of them."""
_GROUPS = 40
"""Groups shown, at most: the largest."""
_OF_GROUP = 8
"""Clips shown of each group, at most, one frame of each."""
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
_STYLE = "img{margin:2px}.bad{color:#a00}"


def write_report(
    entries: Sequence[Entry], title: str, path: Path, progress: Advance = silent
) -> list[ClipCheck]:
    """Checks every clip and writes the page; it needs no network.

    Args:
        entries: The data set; labels, groups and splits may be empty.
        title: Heading of the page.
        path: The HTML file.
        progress: Called after each clip.

    Returns:
        The checks, one a clip.
    """
    checks = check_clips([entry.clip_path for entry in entries], progress)
    parts = [f"<h1>{html.escape(title)}</h1>", *_summary(entries, checks), *_figures(entries, checks)]
    parts += _problems(entries, checks)
    parts += _samples(entries, checks)
    parts += _alike(entries, checks)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(pages.document(title, parts, _STYLE), encoding="utf-8")
    return checks


def _summary(entries: Sequence[Entry], checks: Sequence[ClipCheck]) -> Iterator[str]:
    groups = {group_of(entry) for entry in entries}
    seconds = sum(check.facts.seconds for check in checks if check.facts)
    bad = sum(check.verdict != "ok" for check in checks)
    labels = sorted({entry.label for entry in entries})
    classes = len(set(labels) - {""})
    within = f"in {len(groups)} groups" if any(entry.group for entry in entries) else "that name no group"
    yield f"<p>{len(entries)} clips of {classes} classes {within}, "
    verdict = f"{bad} {'is' if bad == 1 else 'are'} not ok" if bad else "all are ok"
    yield f'{seconds / 60:.1f} minutes; {verdict}.</p><table><tr><th class="text">class</th>'
    yield "".join(f"<th>{split or _UNSPLIT}</th>" for split in _splits(entries)) + "<th>groups</th></tr>"
    counts = Counter((entry.label, entry.split) for entry in entries)
    for label in labels:
        of_class = {group_of(entry) for entry in entries if entry.label == label}
        cells = "".join(f"<td>{counts[label, split]}</td>" for split in _splits(entries))
        name = html.escape(label or _UNLABELLED)
        yield f'<tr><td class="text">{name}</td>{cells}<td>{len(of_class)}</td></tr>'
    yield "</table>"
    for text in advice(entries):
        yield f'<p class="warn">{html.escape(text)}</p>'


def _splits(entries: Sequence[Entry]) -> list[str]:
    present = {entry.split for entry in entries}
    return [split for split in (*SPLITS, "") if split in present]


def advice(entries: Sequence[Entry]) -> list[str]:
    """What the numbers of clips and groups call for, in words."""
    found = _class_advice(Counter(entry.label for entry in entries if entry.label))
    found += group_advice(entries)
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


def _figures(entries: Sequence[Entry], checks: Sequence[ClipCheck]) -> Iterator[str]:
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
        return
    table = pd.DataFrame(rows)
    yield "<h2>Clips per class</h2>" + pages.drawn(_by_split(table), "classes")
    which = "All clips" if len(rows) == len(entries) else "All clips that decode"
    for number, (heading, verb, values, figure) in enumerate(_quantities(table)):
        yield f"<h2>{heading}</h2>"
        one = len(set(values)) == 1
        yield f"<p>{which} {verb} {values[0]}.</p>" if one else pages.drawn(figure, f"figure{number}")


def _quantities(table: pd.DataFrame) -> list[tuple[str, str, Sequence[str], Figure]]:
    """Heading, verb, what each clip has in words, and the figure, to be shown where clips differ."""
    sizes = table.groupby(["width", "height"], as_index=False).size()
    rates = table.assign(fps=rates_of(table))
    return [
        (
            "Duration",
            "last",
            [f"{seconds:.2f} s" for seconds in table["seconds"]],
            px.histogram(table, x="seconds", marginal="rug", hover_data=["clip"], **_by_class(table)),
        ),
        (
            "Frames",
            "have",
            [plural(frames, "frame") for frames in table["frames"]],
            whole_numbers(table, "frames"),
        ),
        (
            "Frames a second",
            "have",
            [f"{rate} frames a second" for rate in rates["fps"]],
            px.histogram(rates, x="fps", **_by_class(table)).update_xaxes(
                categoryorder="array", categoryarray=sorted(set(rates["fps"]), key=float)
            ),
        ),
        (
            "Frame sizes",
            "are",
            [f"{row.width} x {row.height}" for row in sizes.itertuples()],
            px.scatter(sizes, x="width", y="height", size="size", color_discrete_sequence=pages.COLOURS),
        ),
    ]


def _by_split(table: pd.DataFrame) -> Figure:
    """Clips by class; splits have the palette's last colours, as classes begin with its first."""
    splits = (*SPLITS, _UNSPLIT)
    return px.histogram(
        table,
        x="class",
        color="split",
        category_orders={"class": sorted(set(table["class"])), "split": splits},
        color_discrete_map=dict(zip(splits, pages.COLOURS[-len(splits) :], strict=True)),
    )


def _by_class(table: pd.DataFrame) -> dict[str, Any]:
    """Arguments of a histogram that shows the classes in their colours."""
    return {
        "color": "class",
        "category_orders": {"class": sorted(set(table["class"]))},
        "color_discrete_sequence": pages.COLOURS,
    }


def whole_numbers(table: pd.DataFrame, column: str) -> Figure:
    """A histogram whose bars each hold as many numbers as the next."""
    low, high = int(table[column].min()), int(table[column].max())
    size = math.ceil((high - low + 1) / _BINS)
    figure = px.histogram(table, x=column, **_by_class(table))
    figure.update_yaxes(**pages.whole([0, int(((table[column] - low) // size).value_counts().max())]))
    return figure.update_traces(xbins={"start": low - 0.5, "end": high + size, "size": size}, autobinx=False)


def rates_of(table: pd.DataFrame) -> "pd.Series[Any]":
    """Frame rates in order, as words where they are few: a bar each."""
    rates = table["fps"].round(2)
    known = sorted(set(rates))
    if len(known) > _BINS:
        return rates
    return pd.Series(pd.Categorical(rates.map("{:g}".format), [f"{rate:g}" for rate in known], ordered=True))


def _problems(entries: Sequence[Entry], checks: Sequence[ClipCheck]) -> Iterator[str]:
    bad = [check for check in checks if check.verdict != "ok"]
    yield "<h2>Files</h2>" + ("" if bad else "<p>Every clip decodes to its end.</p>")
    for check in bad:
        text = f"{check.name}: {check.verdict}: {check.reason}"
        yield f'<p class="bad">{html.escape(text)}</p>'
    yield "<h2>Leakage</h2>"
    if len(_splits(entries)) == 1:
        yield "<p>All clips are in one split, or in none: nothing was looked for.</p>"
        return
    leaks, loose = find_leaks(entries, decodable(checks)), loose_groups(entries)
    for leak in leaks:
        yield f'<p class="bad">{html.escape(str(leak))}</p>'
    if not leaks:
        yield f"<p>No {'' if loose else 'group and no '}copy of a clip was found in two splits.</p>"
    if loose:
        yield "<p>Of a clip alone in its group only copies can be found, not others of the same scene or "
        yield f"person: {html.escape(loose)}.</p>"


def _samples(entries: Sequence[Entry], checks: Sequence[ClipCheck]) -> Iterator[str]:
    """Frames of some clips of each class, of different groups where there are several."""
    yield "<h2>Samples</h2>"
    good: dict[str, dict[str, Entry]] = defaultdict(dict)
    for entry in _sound(entries, checks):
        good[entry.label].setdefault(group_of(entry), entry)
    for label in sorted(good):
        yield f"<h3>{html.escape(label or _UNLABELLED)}</h3>"
        for entry in list(good[label].values())[:SAMPLES]:
            picture = np.hstack(list(video.decode(entry.clip_path, FRAMES, _FRAME_HEIGHT).frames))
            yield f"<div>{pages.picture(picture, entry.clip_path.name)}</div>"


def _alike(entries: Sequence[Entry], checks: Sequence[ClipCheck]) -> Iterator[str]:
    """A frame of some clips of each group, to see whether they belong together."""
    members: dict[str, list[Entry]] = defaultdict(list)
    for entry in _sound(entries, checks):
        if entry.group:
            members[entry.group].append(entry)
    several = sorted((group for group in members if len(members[group]) > 1), key=lambda g: -len(members[g]))
    if not several:
        return
    more = f"; the {_GROUPS} largest of {len(several)}" if len(several) > _GROUPS else ""
    yield "<h2>Groups</h2><p>A row should show one person or scene, and no other row the same"
    yield f"{more}. A group that is wrong is mended in the manifest's column <code>group</code>.</p>"
    for group in several[:_GROUPS]:
        sides = ", ".join(sorted({entry.split or _UNSPLIT for entry in members[group]}))
        yield from _row(group, members[group], f"; {sides}")
    lonely = [member for group in members.values() if len(group) == 1 for member in group]
    if lonely:
        yield from _row("Alone in their group", lonely, "")


def _row(heading: str, entries: Sequence[Entry], more: str) -> Iterator[str]:
    counts = Counter(entry.label or _UNLABELLED for entry in entries)
    of_classes = ", ".join(f"{label} {count}" for label, count in sorted(counts.items()))
    yield f"<h3>{html.escape(heading)}</h3><p>{html.escape(of_classes + more)}</p><div>"
    for entry in _of_all_classes(entries)[:_OF_GROUP]:
        frame = next(iter(video.decode(entry.clip_path, 1, _FRAME_HEIGHT).frames))
        yield pages.picture(frame, entry.clip_path.name)
    yield "</div>"


def _of_all_classes(entries: Sequence[Entry]) -> list[Entry]:
    """The clips in turn by class, so that the first ones are of as many classes as there are."""
    by_class: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_class[entry.label].append(entry)
    return [
        entry for turn in itertools.zip_longest(*by_class.values()) for entry in turn if entry is not None
    ]


def _sound(entries: Sequence[Entry], checks: Sequence[ClipCheck]) -> Iterator[Entry]:
    return (entry for entry, check in zip(entries, checks, strict=True) if check.verdict == "ok")
