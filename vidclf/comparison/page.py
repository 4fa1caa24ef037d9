"""A comparison as one HTML page that needs no network, for readers new to studies, and as a run in MLflow."""

import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from plotly.graph_objects import Figure

from vidclf.comparison import summary
from vidclf.comparison.data import MOST_NOTES, Comparison, GroupReport
from vidclf.comparison.figures import (
    MAX_CLASSES,
    confusion,
    family_colours,
    learning_curves,
    pareto,
    projections,
    roc,
)
from vidclf.comparison.label_errors import PooledPredictions, pool, worst_doubts
from vidclf.comparison.rows import ModelRow, RowGroup
from vidclf.comparison.verdict_text import INTERVAL, interval_words, judged_on, metric_words, values_of
from vidclf.evaluation import ranking
from vidclf.evaluation.abstention import COVERAGE, ERROR
from vidclf.evaluation.intervals import Interval
from vidclf.evaluation.ranking import FILE_LATENCY, FIT_SECONDS, LATENCY, PEAK_MEMORY, SIZE
from vidclf.reports.loops import Loops
from vidclf.reports.rendering import PageSection, render
from vidclf.reports.tables import (
    BarCell,
    Column,
    HtmlTable,
    MarkedCell,
    cost_columns,
    html_table,
    score_column,
)
from vidclf.runs.folder import Identity, Outcome, now_ms
from vidclf.runs.store import open_store
from vidclf.search.record.settings import Gates
from vidclf.search.report.data import MIN_TRIALS, StudyData
from vidclf.search.report.figures import importances
from vidclf.tracking.deliverer import Deliverer, prepare

_MAX_CLIPS = 24
"""Clips that are shown with a picture, at most."""
_FIRST_CLIPS = 4
"""Mistakes that the first screen shows."""
_NEAR = 0.2
"""Difference of two probabilities below which a clip was nearly called otherwise."""
_MAX_ROWS = 200
"""Models of a table, at most; a file for spreadsheets has all."""


def write_page(comparison: Comparison, path: Path) -> None:
    """Writes the page.

    Raises:
        OSError: It cannot be written.
    """
    loops = Loops()
    groups = [_group(report, comparison.every, loops) for report in comparison.reports]
    page = render("comparison.html.j2", title="Which classifier to ship", groups=groups)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _group(report: GroupReport, every: bool, loops: Loops) -> dict[str, Any]:
    """What the page shows of models that were judged on the same clips."""
    group = report.group
    rows = report.rows(every=every, most=_MAX_ROWS)
    pooled, confirmed = pool(group.best), pool(group.ranked, "confirm")
    asked = summary.gates_of(report)
    figures, importance = _figures(report, asked), list(_importances(group))
    chosen = _judged(group.choice) if group.choice else None
    mistaken = _wrong_cards(chosen, _FIRST_CLIPS, loops) if chosen else []
    borderline = _borderline_cards(chosen, loops) if chosen else []
    wrong = _wrong_clips(pooled, loops) if pooled else None
    doubts = _doubted_labels([each for each in (pooled, confirmed) if each], loops)
    return {
        "name": report.name,
        "sentence": summary.sentence(report),
        "answer": report.answer,
        "facts": _facts(report),
        "doubt": report.doubt,
        "gated": asked is not None,
        "requirements": list(summary.requirements(report, asked)) if asked else [],
        "mistakes": summary.mistakes(group.choice) if group.choice else [],
        "mistaken": mistaken,
        "borderline": borderline,
        "advice": list(summary.advice(report, doubts["count"] if doubts else 0)),
        "notes": report.notes[:MOST_NOTES],
        "further_notes": report.notes[MOST_NOTES:],
        "leaderboard": leaderboard(report, rows),
        "hidden": len(report.rows(every=every)) - len(rows),
        **figures,
        "wrong": wrong,
        "doubts": doubts,
        "importances": importance,
        "left_out": list(_left_out([*figures.values(), *importance], wrong, doubts)),
    }


def _left_out(
    sections: Sequence[PageSection], wrong: Mapping[str, Any] | None, doubts: Mapping[str, Any] | None
) -> Iterator[str]:
    """What the page has no section for, and why."""
    for section in sections:
        if not section.figures:
            yield f"{section.title}{'' if section.title.endswith('?') else ':'} {section.lacking}"
    if wrong and not wrong["clips"]:
        yield f"No val clip of {wrong['of']} is got wrong by every family."
    if doubts and not doubts["clips"]:
        yield f"None of {doubts['of']} labels looks wrong."


def _figures(report: GroupReport, asked: Gates | None) -> dict[str, PageSection]:
    group = report.group
    better = "up" if group.direction == "maximize" else "down"
    return {
        "pareto": _section(
            "What accuracy costs",
            f"Each point is a finished model; {better} and to the left is better. Diamonds are the Pareto "
            "front: no other model is better, faster and smaller at once, to two digits. Upright bars are "
            f"{INTERVAL}s. The thin line is the best score for at most that cost, the dotted one what always "
            "saying the most frequent class scores, the dash-dotted one what the best reaches without any "
            "signal; dashed red ones are the study's gates.",
            pareto(
                group,
                report.baselines.majority,
                reached=report.intervals,
                chance=report.chance,
                gates=asked,
            ),
            "Needs a finished model whose size or latency is known.",
        ),
        "confusion": _section(
            "What each confuses",
            "The best of each family on the same val clips: rows are the true classes, columns what the "
            "model said, numbers are clips.",
            confusion(group.best),
            "No predictions are on disk.",
        ),
        "roc": _section(
            "How well each tells a class from the rest",
            "ROC curves of the best of each family on the val clips: up and left is better, the dotted "
            f"line is guessing. Of many classes the {MAX_CLASSES} are shown that are told apart worst.",
            roc(group.best),
            "No probabilities are on disk.",
        ),
        "projections": _section(
            "What each decides on",
            "The features of each kept model on their first two principal components: classes that lie apart "
            "for train's clips (circles) and mixed for val's (diamonds) were learned by heart. Unlike in "
            "t-SNE, distances mean something.",
            projections(group.best),
            "No kept model has its projection on disk.",
        ),
        "learning_curves": _section(
            "Would more clips help?",
            " ".join(curve.words for curve in report.learning_curves),
            learning_curves(report.learning_curves) if report.learning_curves else None,
            "Not measured: vidclf compare --learning-curve trains each family on ever more of the groups.",
        ),
    }


def _section(title: str, reading: str, figure: Figure | None, lacking: str) -> PageSection:
    return PageSection(title, reading, [] if figure is None else [figure], lacking)


def _facts(report: GroupReport) -> Mapping[str, str]:
    group, best = report.group, report.group.choice
    facts = {"models compared": f"{group.tries:,}"}
    if best is not None:
        facts = {
            f"{metric_words(group.metric)}{judged_on(group)}": ranking.figure(best.value, ".3f"),
            "ms a clip": ranking.figure(best.metrics.get(LATENCY), ".1f"),
            "MB": ranking.figure(best.metrics.get(SIZE), ".2f"),
            **facts,
        }
        if best.confirmed is not None:
            source = "on fresh seeds" if best.confirmed.optimistic else "by confirm"
            facts = {f"{metric_words(group.metric)} {source}": f"{best.score:.3f}", **facts}
    if report.baselines.val_clips:
        facts["clips judged on"] = f"{report.baselines.val_clips:,}"
    majority = report.baselines.majority
    if majority is not None and majority.value is not None:
        facts["most frequent class"] = f"{majority.value:.3f}"
    return facts


def leaderboard(report: GroupReport, rows: Sequence[ModelRow]) -> HtmlTable:
    """The table of a page: models as they rank, the Pareto front shaded, baselines in italics."""
    group = report.group
    front, colours = {id(row) for row in group.front}, family_colours(group)

    def model(row: ModelRow) -> MarkedCell:
        ours = row.origin in ("trial", "run")
        state = f", {row.state}" if ours and row.state != "complete" else ""
        state += "" if row.feasible else ", outside a constraint"
        colour = colours.get(row.family, "transparent") if ours else "transparent"
        return MarkedCell(row.family, colour, report.marked(row) + state)

    def classes(row: ModelRow) -> str:
        baseline = row.origin not in ("trial", "run")
        marks = {"front": id(row) in front, "best": row is group.choice, "base": baseline}
        return " ".join(mark for mark, holds in marks.items() if holds)

    may_abstain = any(COVERAGE in row.metrics for row in rows)
    abstain = [Column("answers, of these wrong", _answers)] if may_abstain else []
    columns = [
        Column("rank", lambda row: str(group.rank(row) or "")),
        Column("model", model, left=True),
        score_column(metric_words(group.metric)),
        Column(INTERVAL, lambda row: _bar(report.intervals.get(id(row)))),
        Column("accuracy", _accuracy),
        *abstain,
        *cost_columns(LATENCY, FILE_LATENCY, SIZE, FIT_SECONDS, PEAK_MEMORY),
        Column("searched values", values_of, left=True),
    ]
    return html_table(columns, rows, classes)


def _bar(reached: Interval | None) -> BarCell | str:
    if reached is None:
        return "–"
    return BarCell(interval_words(reached), reached.low, reached.estimate, reached.high)


def _answers(row: ModelRow) -> str:
    """The share of new clips that a model which may say nothing answers, and how many of these wrong."""
    coverage, error = row.metrics.get(COVERAGE), row.metrics.get(ERROR)
    return "–" if coverage is None or error is None else f"{coverage:.0%}, {error:.1%}"


def _accuracy(row: ModelRow) -> str:
    value = row.metrics.get("val/accuracy")
    if value is None and "test/accuracy" in row.metrics:
        return f"{row.metrics['test/accuracy']:.3f} (test)"
    return ranking.figure(value, ".3f")


def _wrong_clips(pooled: PooledPredictions, loops: Loops) -> dict[str, Any]:
    """Clips that every model gets wrong, the surest mistakes first."""
    wrong = pooled.always_wrong()
    clips = _wrong_cards(pooled, _MAX_CLIPS, loops)
    return {"models": pooled.models, "count": len(wrong), "of": len(pooled.table), "clips": clips}


def _judged(row: ModelRow) -> PooledPredictions | None:
    """What one model says of clips that it was not trained on."""
    return pool([row], "confirm" if row.won else "val")


def _borderline_cards(pooled: PooledPredictions, loops: Loops) -> list[dict[str, Any]]:
    """The clips that a model gets right, but nearly not."""
    near = pooled.borderline()
    near = near[near["ahead"] < _NEAR].head(_FIRST_CLIPS)
    return [
        {**_card(str(path), [pooled], loops), "label": row["label"], "second": row["second"]}
        for path, row in near.iterrows()
    ]


def _wrong_cards(pooled: PooledPredictions, most: int, loops: Loops) -> list[dict[str, Any]]:
    return [
        {**_card(str(path), [pooled], loops), "label": row["label"], "said": row["said"]}
        for path, row in pooled.always_wrong().head(most).iterrows()
    ]


def _doubted_labels(judged: Sequence[PooledPredictions], loops: Loops) -> dict[str, Any] | None:
    """Labels that look wrong: of val, and where `vidclf confirm` has judged the clips of train, of train."""
    if not judged:
        return None
    worst = worst_doubts(judged)
    clips = [{**_card(doubt.clip_path, judged, loops), **vars(doubt)} for doubt in worst[:_MAX_CLIPS]]
    of = len(set().union(*(pooled.table.index for pooled in judged)))
    return {"count": len(worst), "of": of, "clips": clips}


def _card(clip_path: str, judged: Sequence[PooledPredictions], loops: Loops) -> dict[str, Any]:
    """A clip that plays, its group, and what each model says of it."""
    rows = [pooled.table.loc[clip_path] for pooled in judged if clip_path in pooled.table.index]
    return {
        "name": Path(clip_path).name,
        "loop": loops.of(clip_path),
        "group": rows[0]["group"],
        "said_by": [words for row in rows for words in row["each"]],
    }


def _importances(group: RowGroup) -> Iterator[PageSection]:
    for name, study in group.studies.items():
        yield _section(
            f"Which values mattered in {name}",
            "How far each searched value sets the best trials of its base apart from the rest (PED-ANOVA), "
            "in shares of 100 %. More is on the study's own page.",
            importances(StudyData.of(study)),
            f"Needs {MIN_TRIALS} complete trials of a base with different values.",
        )


def log_page(comparison: Comparison, page: Path) -> str | None:
    """Keeps the page and all its figures as an attempt of the store, and delivers it.

    The run is in the experiment of the first group's data set and carries the tag ``vidclf.role``.

    Returns:
        The run's id.

    Raises:
        InputError: MLflow cannot be used; the folder is there, and `vidclf doctor --fix` delivers it.
    """
    store = open_store(comparison.store.folder)
    reports, first = comparison.reports, comparison.reports[0]
    recorded = next((identity for row in first.group.rows if (identity := row.identity())), None)
    attempt = store.attempt("compare", f"{now_ms()}-{uuid.uuid4().hex[:6]}")
    studies = sorted({name for report in reports for name in report.group.studies})
    attempt.create(
        Identity(
            id=uuid.uuid4().hex,
            experiment=recorded.experiment if recorded else first.group.clips.name or "compare",
            run_name=f"compare · {first.answer.headline[:80]}",
            parent=None,
            started_ms=now_ms(),
            tags={"vidclf.role": "compare"},
            params={
                "studies": ", ".join(studies),
                "lines": sum(len(report.group.rows) for report in reports),
                "metric": first.group.metric,
                "data": "; ".join(report.name for report in reports),
            },
        )
    )
    shutil.copyfile(page, attempt.artifacts / "compare.html")
    comparison.as_table().to_csv(attempt.artifacts / "compare.csv", index=False, lineterminator="\n")
    headlines = [f"**{report.name}**: {report.answer.headline}" for report in reports]
    notes = [f"- {note}" for note in comparison.notes]
    text = "\n\n".join([*headlines, "## How sure this is", "\n".join(notes)])
    (attempt.artifacts / "README.md").write_text(text + "\n", encoding="utf-8")
    attempt.finish(Outcome("complete", "", {}, now_ms()))
    prepare(store)
    return Deliverer(store).deliver(attempt)
