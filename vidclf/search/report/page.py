"""A study as one HTML page that needs no network, and the files beside it, refreshed as it goes."""

import html
import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from plotly.graph_objects import Figure

from vidclf.evaluation import ranking
from vidclf.evaluation.ranking import LATENCY, SIZE
from vidclf.reports import html as pages
from vidclf.runs.folder import Attempt
from vidclf.search.record.study import OpenStudy
from vidclf.search.report import figures
from vidclf.search.report.data import FEWEST, StudyData, best_config, trials_csv
from vidclf.search.report.text import description


@dataclass(frozen=True)
class PageSection:
    """A heading with its figures.

    Attributes:
        title: The heading.
        reading: How to read the figures.
        figures: What is shown.
        lacking: What is missing, where there are no figures.
    """

    title: str
    reading: str
    figures: Sequence[Figure]
    lacking: str


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
    best = best_config(overview)
    if best:
        _replace(own.artifacts / "best.toml", best)
    _replace(own.artifacts / "study.html", _page(overview))


def _replace(path: Path, text: str) -> None:
    """A reader sees the file before or after; an unchanged one is left, so that it is not sent again."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _page(overview: StudyData) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sections = list(_sections(overview))
    body = [*_top(overview, sections), *_shown(sections)]
    return pages.document(overview.opened.name, body)


def _top(overview: StudyData, sections: Sequence[PageSection]) -> Iterator[str]:
    """Everything above the figures."""
    yield f"<h1>{html.escape(overview.opened.name)}</h1>"
    yield f'<p class="lead">{html.escape(overview.opened.stored["question"])}</p>'
    yield f"<p>{html.escape(overview.counts())}</p>"
    if overview.ranked:
        best = overview.ranked[0]
        facts = {
            f"best {overview.metric}": ranking.figure(best.value, ".4f"),
            "trial": str(best.number),
            "base": best.base,
            "ms a clip": ranking.figure(best.metrics.get(LATENCY), ".1f"),
            "MB": ranking.figure(best.metrics.get(SIZE), ".2f"),
        }
        cells = (
            f"<div><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>"
            for name, value in facts.items()
        )
        yield f'<div class="facts">{"".join(cells)}</div>'
    yield f'<p class="warn">{html.escape(overview.optimistic)}</p>'
    links = (
        f'<a href="#s{number}">{html.escape(section.title)}</a>' for number, section in enumerate(sections)
    )
    yield f"<nav>{''.join(links)}</nav>"
    if overview.ranked:
        yield from _leaderboard(overview)
        yield "<details><summary>The best configuration, as a file for <code>experiments/</code></summary>"
        yield f"<pre>{html.escape(best_config(overview) or '')}</pre></details>"


def _leaderboard(overview: StudyData) -> Iterator[str]:
    front = {row.number for row in overview.front}
    shown = ranking.leaders(overview.rows, overview.opened.objective.direction, overview.front, top=10)
    yield "<h2>The best trials</h2>"
    yield '<p class="note">The ten best, the best of each base, and, shaded, the Pareto front: no other '
    yield "trial is better, faster and smaller at once, to two digits."
    hidden = len(overview.ranked) - len(shown)
    yield f" {hidden} more are in trials.csv.</p>" if hidden else "</p>"
    yield '<table><tr><th>rank</th><th>trial</th><th class="text">base</th>'
    yield f"<th>{html.escape(overview.metric)}</th><th>ms a clip</th><th>MB</th>"
    yield '<th class="text">searched values</th></tr>'
    for rank, row in shown:
        values = ", ".join(
            f"{key.rpartition('.')[2]} {ranking.short(value)}" for key, value in row.params.items()
        )
        shade = ' class="front"' if row.number in front else ""
        yield f"<tr{shade}><td>{rank}</td><td>{row.number}</td>"
        yield f'<td class="text">{html.escape(row.base)}</td><td>{ranking.figure(row.value, ".4f")}</td>'
        yield f"<td>{ranking.figure(row.metrics.get(LATENCY), '.1f')}</td>"
        yield f"<td>{ranking.figure(row.metrics.get(SIZE), '.2f')}</td>"
        yield f'<td class="text">{html.escape(values)}</td></tr>'
    yield "</table>"


def _shown(sections: Sequence[PageSection]) -> Iterator[str]:
    ids = itertools.count()
    for number, section in enumerate(sections):
        yield f'<h2 id="s{number}">{html.escape(section.title)}</h2>'
        yield f'<p class="note">{html.escape(section.reading if section.figures else section.lacking)}</p>'
        for figure in section.figures:
            yield pages.drawn(figure, f"figure{next(ids)}")


def _sections(overview: StudyData) -> Iterator[PageSection]:
    metric, some = overview.metric, bool(overview.judged())
    yield PageSection(
        "How the search went",
        f"Each point is a complete trial, the line the best {metric} so far. Where it has long been flat, "
        "more trials of this space promise little. Open circles repeat an earlier configuration, crosses "
        "break a constraint and cannot win.",
        [figures.history(overview)] if some else [],
        "Needs a complete trial.",
    )
    costs = [cost for cost in (LATENCY, SIZE) if any(cost in row.metrics for row in overview.ranked)]
    late = "" if LATENCY in costs else " Latency is measured when the study stops."
    yield PageSection(
        "What accuracy costs",
        "The Pareto front is drawn large: no other trial is better, faster and smaller than one of these at "
        f"once. Latency is per clip, its median on this machine.{late}",
        [figures.pareto(overview, costs)] if costs else [],
        "Needs complete trials whose size or latency is known.",
    )
    shares = figures.importances(overview)
    yield PageSection(
        "Which values mattered",
        "How far each searched value sets the best trials of its base apart from the rest (PED-ANOVA), in "
        "shares of 100 %. For the direction see the slices below.",
        [shares] if shares else [],
        f"Needs {FEWEST} complete trials of a base with different {metric}.",
    )
    for stem in overview.stems:
        title = f"Inside {stem}" if len(overview.stems) > 1 else "The searched values"
        inside = figures.inside(overview, stem)
        yield PageSection(
            title,
            " ".join(inside),
            list(itertools.chain(*inside.values())),
            "Needs two complete trials of this base with different values.",
        )
    curves = figures.curves(overview)
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
