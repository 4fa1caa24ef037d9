"""What a study found, in words."""

import itertools
import json
import re
import shlex
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from vidclf import config
from vidclf.evaluation import ranking
from vidclf.evaluation.ranking import LATENCY, TrialRow
from vidclf.exceptions import InputError
from vidclf.labels import plural
from vidclf.reports.tables import markdown_table, trial_columns
from vidclf.search.record.study import BASE, OpenStudy
from vidclf.search.report.data import MIN_TRIALS, StudyData

_CLEAR = 0.5
"""Rank correlation from which on a direction is named."""


def description(overview: StudyData) -> str:
    """What was asked, searched and found, as Markdown."""
    opened = overview.opened
    question = opened.stored["question"]
    parts = [f"**Question:** {escaped(question)}"] if question else []
    parts += ["## What was found", *_found(overview)]
    if len(overview.front) > 1:
        columns = trial_columns(overview.metric, overview.ranked)
        parts += [
            "## Pareto front",
            "No other trial is better, faster and smaller than one of these at once.",
            markdown_table(columns, overview.front, escaped),
        ]
    parts += ["## How sure this is", _bullets(_doubts(overview))]
    parts += ["## What was searched", *_searched(overview)]
    name = shlex.quote(opened.name)
    commands = f"vidclf status {name}\nvidclf promote {name} --as NAME"
    parts += ["## Next", f"```bash\n{commands}\n```"]
    if best := overview.best_config:
        parts += ["## The best configuration", "A file for `experiments/`:", f"```toml\n{best}```"]
    return "\n\n".join(parts) + "\n"


def _found(overview: StudyData) -> Iterator[str]:
    if not overview.ranked:
        yield f"Nothing yet. {overview.counts()}"
        return
    best = overview.ranked[0]
    yield f"The best is {_words(overview, best)}."
    leaders = list({row.base: row for row in reversed(overview.ranked)}.values())[::-1]
    if len(leaders) > 1:
        yield "The best of each base:"
        columns = trial_columns(overview.metric, overview.ranked)
        yield markdown_table(columns, sorted(leaders, key=overview.ranked.index), escaped)
    for stem in overview.stems:
        yield from _mattered(overview, stem)


def _words(overview: StudyData, row: TrialRow) -> str:
    score = f"{escaped(overview.metric)} **{ranking.figure(row.value, '.4f')}**"
    figures = ", ".join(filter(None, [score, ranking.cost_words(row.metrics)]))
    values = ", ".join(f"{_code(key)} {escaped(ranking.short(value))}" for key, value in row.params.items())
    return f"trial {row.number} of {escaped(row.base)}: {figures}" + (f"; {values}" if values else "")


def _mattered(overview: StudyData, stem: str) -> Iterator[str]:
    """Which searched values of a base mattered, and which way."""
    rows = overview.completed(stem)
    if not rows:
        return
    shares = overview.importances[stem]
    where = f"In {escaped(stem)}" if len(overview.stems) > 1 else "In this study"
    if not shares:
        why = "too few" if len(rows) < MIN_TRIALS else "too much alike"
        yield f"{where}: {plural(len(rows), 'trial')} complete, {why} to say which values mattered."
        return
    top = ", ".join(f"{_code(name)} ({share:.0%})" for name, share in itertools.islice(shares.items(), 3))
    yield f"{where}, what most set the best trials apart was {top}, over {len(rows)} trials (PED-ANOVA)."
    trends = [trend for name in itertools.islice(shares, 3) if (trend := _trend(overview, rows, name))]
    yield _bullets(trends or ["No value shows a clear direction."])


def _trend(overview: StudyData, rows: Sequence[TrialRow], name: str) -> str:
    """Which way a value pulls, where enough trials agree; empty otherwise."""
    pairs = [(row.params[name], row.value) for row in rows if name in row.params and row.value is not None]
    kind = overview.trials[next(row.number for row in rows if name in row.params)].distributions[name]
    if isinstance(kind, CategoricalDistribution):
        groups = {
            choice: [value for chosen, value in pairs if chosen == choice]
            for choice in dict.fromkeys(chosen for chosen, _ in pairs)
        }
        medians = {choice: statistics.median(values) for choice, values in groups.items() if len(values) > 2}
        if len(medians) < 2:
            return ""
        shown = ", ".join(
            f"{median:.4f} with {escaped(ranking.short(choice))} ({len(groups[choice])})"
            for choice, median in sorted(medians.items(), key=lambda item: str(item[0]))
        )
        return f"{_code(name)}: median {escaped(overview.metric)} {shown}."
    given, values = zip(*pairs, strict=True)
    if len(pairs) < MIN_TRIALS or len(set(values)) == 1 or len(set(given)) == 1:
        return ""
    from scipy.stats import spearmanr  # it takes a second

    correlation = float(spearmanr(given, values).statistic)
    if abs(correlation) < _CLEAR:
        return ""
    way = "larger" if correlation > 0 else "smaller"
    return (
        f"{_code(name)}: the {way}, the higher {escaped(overview.metric)} "
        f"(rank correlation {correlation:+.2f} over {len(pairs)} trials)."
    )


def _doubts(overview: StudyData) -> Iterator[str]:
    yield overview.optimistic
    clips = _val_clips(overview.opened)
    score = overview.metric.startswith("val/") and overview.metric != "val/loss"
    if clips and score:
        yield ranking.clips_words(clips)
    if clips and score and len(overview.ranked) > 1:
        best = overview.ranked[0].value or 0.0
        near = [row for row in overview.ranked[1:] if abs(best - (row.value or 0.0)) <= 1 / clips]
        bases = ", ".join(sorted({escaped(row.base) for row in near}))
        if near:
            others = f"{plural(len(near), 'trial')} of {bases}"
            yield f"No more than one clip lies between the best and {others}, which is chance."
    if overview.ranked and not any(LATENCY in row.metrics for row in overview.ranked):
        yield "Latency is not known yet: it is measured when the study stops."
    busy = [row for row in overview.ranked if ranking.disturbed(row.metrics)]
    if busy:
        words = f"trial {busy[0].number}'s while {ranking.disturbed(busy[0].metrics)}"
        yield f"Latencies of {plural(len(busy), 'trial')} are too high, measured beside other work: {words}."
    seeds = {config.lookup(base, "seed") for base in overview.opened.stored["bases"].values()}
    if repeats := overview.opened.repeats:
        yield f"Each value is the mean of {repeats.count} runs that differ by {repeats.by}."
    elif len(seeds) == 1:
        yield "Every configuration was run once, with one seed."


def _val_clips(opened: OpenStudy) -> int | None:
    """Clips of val as the manifest splits them; ``None`` where that is not what was judged on."""
    folds = any(config.lookup(base, "data.folds") for base in opened.stored["bases"].values())
    if folds or (opened.repeats and opened.repeats.by == "fold"):
        return None
    try:
        profile = json.loads(opened.own_attempt.identity().dataset["profile"])
    except (FileNotFoundError, KeyError, ValueError):
        return None
    return sum(profile.get("val", {}).values()) or None


def _searched(overview: StudyData) -> Iterator[str]:
    opened = overview.opened
    yield overview.counts()
    trials = [overview.trials[row.number] for row in overview.rows]
    starts = [trial.datetime_start for trial in trials if trial.datetime_start]
    ends = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    spent = sum(overview.seconds(row) or 0.0 for row in overview.rows)
    if starts and ends:
        first, last = min(starts), max(ends)
        yield (
            f"From {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}; "
            f"all trials together took {timedelta(seconds=round(spent))}."
        )
    try:
        file = config.read_toml(opened.file)
    except InputError:
        file = {}
    settings = [f"{objective.direction} {escaped(objective.metric)}" for objective in opened.objectives]
    settings += [f"keep {_bound(constraint)}" for constraint in opened.stored["constraints"]]
    if file:
        total = config.lookup(file, "budget.trials")
        settings += [
            f"sampler {config.lookup(file, 'sampler.name')}, pruner {config.lookup(file, 'pruner.name')}",
            f"budget: {opened.logical()} trials used" + (f" of {total}" if total else ""),
        ]
    yield _bullets(settings)
    ranges: dict[str, dict[str, None]] = {}
    for row in overview.rows:
        for name, kind in overview.trials[row.number].distributions.items():
            if name != BASE:
                ranges.setdefault(f"{_code(name)}: {_range(kind)}", {})[row.base] = None
    yield _bullets(
        text + (f" (in {', '.join(map(escaped, stems))})" if len(overview.stems) > 1 else "")
        for text, stems in sorted(ranges.items())
    )


def _bound(constraint: Mapping[str, Any]) -> str:
    limits = [
        f"{word} {constraint[key]:g}"
        for key, word in (("min", "at least"), ("max", "at most"))
        if key in constraint
    ]
    return f"{constraint['metric']} {' and '.join(limits)}"


def _range(kind: BaseDistribution) -> str:
    if isinstance(kind, CategoricalDistribution):
        return " or ".join(escaped(ranking.short(choice)) for choice in kind.choices)
    assert isinstance(kind, FloatDistribution | IntDistribution)
    return f"{kind.low:g} to {kind.high:g}" + (", logarithmic" if kind.log else "")


def _bullets(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def escaped(text: str) -> str:
    """One line of Markdown that shows the text as it is."""
    return re.sub(r"[\\`*{}\[\]<>#|~$!&]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))


def _code(text: str) -> str:
    return f"`{text.replace('`', '')}`"
