"""A study as one HTML page that needs no network, and the files beside it, refreshed as it goes."""

import functools
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vidclf import config
from vidclf.evaluation import ranking
from vidclf.evaluation.predictions import read_predictions
from vidclf.evaluation.ranking import LATENCY, SIZE
from vidclf.reports.loops import Loop, Loops
from vidclf.reports.rendering import PageSection, render
from vidclf.reports.tables import html_table, params_column, trial_columns
from vidclf.runs.folder import Attempt
from vidclf.search.record.study import OpenStudy
from vidclf.search.report import figures
from vidclf.search.report.data import MIN_TRIALS, StudyData, trials_csv
from vidclf.search.report.text import description

_MAX_CLIPS = 12
"""Wrong clips that are shown, at most."""


def refresh(opened: OpenStudy, own: Attempt) -> None:
    """Writes what is known of the study now into its own folder, from where it reaches the parent run.

    ``study.html``, ``trials.csv``, ``README.md`` (the run's description) and ``best.toml`` are each
    replaced as a whole, and only where they change. Costs half a second for twenty trials and two seconds
    for a thousand.
    """
    overview = StudyData.of(opened)
    own.artifacts.mkdir(parents=True, exist_ok=True)
    _replace(own.artifacts / "trials.csv", trials_csv(overview))
    _replace(own.artifacts / "README.md", description(overview))
    if overview.best_config:
        _replace(own.artifacts / "best.toml", overview.best_config)
    _replace(own.artifacts / "study.html", _page(overview))


def _replace(path: Path, text: str) -> None:
    """Writes a file; an unchanged one is left, so that it is not sent again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        config.write_text(text, path)


def _page(overview: StudyData) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sections = list(_sections(overview))
    twins = ranking.twins(overview.ranked, overview.opened.answers)
    others = [row for row in overview.rows if row.number not in twins]
    shown = ranking.leaders(others, overview.opened.objective.direction, overview.front, top=10)
    front = {row.number for row in overview.front}
    columns = [*trial_columns(overview.metric, overview.ranked), params_column(twins)]
    board = html_table(columns, shown, lambda row: "front" if row.number in front else "")
    return render(
        "study.html.j2",
        title=overview.opened.name,
        question=overview.opened.stored["question"],
        counts=overview.counts(),
        facts=_facts(overview),
        warning=overview.optimistic,
        sections=sections,
        leaderboard=board if shown else None,
        hidden=len(overview.ranked) - len(shown),
        best_config=overview.best_config,
        wrong=_wrong_clips(overview),
    )


def _wrong_clips(overview: StudyData) -> list[dict[str, Any]]:
    """Clips of val that the best trial gets wrong, the surest mistakes first."""
    if not overview.ranked:
        return []
    file = overview.opened.attempt(overview.ranked[0].number).artifacts / "val" / "wrong_clips.csv"
    if not file.exists():
        return []
    rows = read_predictions(file).head(_MAX_CLIPS)[["clip_path", "group", "label", "predicted", "confidence"]]
    clips = [dict(zip(rows.columns, row, strict=True)) for row in rows.itertuples(index=False)]
    return [{**clip, "loop": loop} for clip in clips if (loop := _loop(str(clip["clip_path"])))]


@functools.lru_cache(4 * _MAX_CLIPS)
def _loop(clip_path: str) -> Loop | None:
    """The page is written again and again while the study runs."""
    return Loops().of(clip_path)


def _facts(overview: StudyData) -> dict[str, str]:
    """What is said of the best trial above all else; empty without one."""
    if not overview.ranked:
        return {}
    best = overview.ranked[0]
    return {
        f"best {overview.metric}": ranking.figure(best.value, ".4f"),
        "trial": str(best.number),
        "base": best.base,
        "ms a clip": ranking.figure(best.metrics.get(LATENCY), ".1f"),
        "MB": ranking.figure(best.metrics.get(SIZE), ".2f"),
    }


def _sections(overview: StudyData) -> Iterator[PageSection]:
    metric, some = overview.metric, bool(overview.completed())
    yield PageSection(
        "How the search went",
        f"Each point is a complete trial, the line the best {metric} so far. Where it has long been flat, "
        "more trials of this space promise little. Open circles repeat an earlier configuration, crosses "
        "break a constraint and cannot win.",
        [figures.history(overview)] if some else [],
        "Needs a complete trial.",
    )
    pareto = figures.pareto(overview)
    timed = any(LATENCY in row.metrics for row in overview.ranked)
    late = "" if timed else " Latency is measured when the study stops."
    yield PageSection(
        "What accuracy costs",
        "The Pareto front is drawn large: no other trial is better, faster and smaller than one of these at "
        f"once. Latency is per clip, its median on this machine.{late}",
        [pareto] if pareto else [],
        "Needs complete trials whose size or latency is known.",
    )
    shares = figures.importances(overview)
    yield PageSection(
        "Which values mattered",
        "How far each searched value sets the best trials of its base apart from the rest (PED-ANOVA), in "
        "shares of 100 %. For the direction see the slices below.",
        [shares] if shares else [],
        f"Needs {MIN_TRIALS} complete trials of a base with different {metric}.",
    )
    for stem in overview.stems:
        title = f"Inside {stem}" if len(overview.stems) > 1 else "The searched values"
        inside = figures.parameter_figures(overview, stem)
        yield PageSection(
            title,
            " ".join(inside),
            list(itertools.chain(*inside.values())),
            "Needs two complete trials of this base with different values.",
        )
    curves = figures.intermediate_values(overview)
    yield PageSection(
        f"{metric} while it ran",
        "What the pruner saw: the mean after each repeat. Dotted lines were stopped early by the pruner; a "
        "solid one that ends sooner than others has not finished."
        if overview.opened.repeats
        else "What the pruner saw: the best value so far after each epoch. Dotted lines were stopped early "
        "by the pruner; a solid one that ends sooner than others stopped by itself, having gained nothing "
        "for train.patience epochs, or had fewer epochs to go, or has not finished.",
        [curves] if curves else [],
        "No trial has reported after an epoch; models without epochs never do.",
    )
    timeline = figures.timeline(overview)
    yield PageSection(
        "When each trial ran",
        "A bar from start to end of each attempt; bars above each other ran at the same time.",
        [timeline] if timeline else [],
        "Needs a trial that has started.",
    )
