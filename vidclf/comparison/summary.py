"""The first screen of a comparison: the answer, what is asked of it, its mistakes, and what would help."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from vidclf.comparison.data import GroupReport
from vidclf.comparison.rows import ModelRow
from vidclf.comparison.verdict_text import INTERVAL, interval_words, metric_words
from vidclf.evaluation import ranking
from vidclf.evaluation.intervals import Interval
from vidclf.labels import plural
from vidclf.models import MODELS
from vidclf.search.record.settings import Gates

_MOST_MISTAKES = 3
"""Pairs of classes that are named."""
_WIDE = 0.2
"""Width of an interval from which more groups come before all else."""


@dataclass(frozen=True)
class Requirement:
    """What a study's ``[gates]`` ask of the model to ship, as far as it is known without the test split.

    Attributes:
        asked: As ``test macro F1 at least 0.8``.
        found: What is known.
        verdict: ``kept``, ``missed`` or ``open``.
    """

    asked: str
    found: str
    verdict: str


def sentence(report: GroupReport) -> str:
    """The answer without the numbers of trials."""
    best, answer = report.group.choice, report.answer
    if best is None or not answer.worth:
        return f"{answer.short}."
    score = f"{metric_words(report.group.metric)} {best.score:.2f}"
    if reached := report.intervals.get(id(best)):
        score += f" ({interval_words(reached)} on new groups, {INTERVAL})"
    return f"{answer.short}: {', '.join(filter(None, (score, ranking.cost_words(best.metrics))))}."


def gates_of(report: GroupReport) -> Gates | None:
    """The gates of the study whose model is to be shipped; ``None`` where it is of none."""
    best = report.group.choice
    study = report.group.studies.get(best.study) if best is not None else None
    return study.gates() if study is not None else None


def requirements(report: GroupReport, asked: Gates) -> Iterator[Requirement]:
    """Each bound of the gates, on what was measured of the model to ship; test is not read."""
    best = report.group.choice
    assert best is not None
    for word, sign, bounds in (("at least", 1, asked.min), ("at most", -1, asked.max)):
        for metric, limit in bounds.items():
            split, _, name = metric.partition("/")
            on_val = f"val/{name}"
            shown = f"test {metric_words(metric)}" if split == "test" else metric
            value = best.metrics.get(on_val if split == "test" else metric)
            reached, source = None, "on val"
            if on_val == report.group.metric:
                reached = report.intervals.get(id(best))
                if best.confirmed is not None:
                    value, source = best.score, "by confirm"
            text = f"{shown} {word} {limit:g}"
            if value is None:
                yield Requirement(text, "not known", "open")
            elif split != "test":
                yield Requirement(text, f"{value:.4g}", "kept" if sign * (value - limit) >= 0 else "missed")
            else:
                found = f"{source} {value:.3f}" + (f", {interval_words(reached)}" if reached else "")
                yield Requirement(text, found, _verdict(reached, limit, sign))
    if asked.class_recall is not None and (table := _judged(best)) is not None:
        recall = (table["predicted"] == table["label"]).groupby(table["label"]).mean()
        found = f"the lowest on val is that of {recall.idxmin()}, {recall.min():.2f}"
        yield Requirement(f"test recall of each class at least {asked.class_recall:g}", found, "open")


def _verdict(reached: Interval | None, limit: float, sign: int) -> str:
    if reached is None:
        return "open"
    near, far = (reached.low, reached.high) if sign > 0 else (reached.high, reached.low)
    return "kept" if sign * (near - limit) >= 0 else "missed" if sign * (far - limit) < 0 else "open"


def mistakes(row: ModelRow) -> list[str]:
    """The classes that a model takes for another, the largest share of a class first, a sentence each."""
    table = _judged(row)
    if table is None:
        return []
    counts = pd.crosstab(table["label"], table["predicted"])
    of = counts.sum(axis=1)
    found = [
        (counts.loc[label, said] / of[label], label, said)
        for label in counts.index
        for said in counts.columns
        if said != label and counts.loc[label, said]
    ]
    found.sort(key=lambda each: (-each[0], each[1], each[2]))
    return [
        f"{share:.0%} of {label} is called {said}: {counts.loc[label, said]} of {of[label]} clips."
        for share, label, said in found[:_MOST_MISTAKES]
    ]


def _judged(row: ModelRow) -> pd.DataFrame | None:
    """Its predictions of what it was not trained on: confirm's where that chose it, else those of val.

    confirm has one of each seed: the first stands for all.
    """
    if not row.won:
        return row.predictions("val")
    table = row.predictions("confirm")
    return None if table is None else table.drop_duplicates("clip_path")


def advice(report: GroupReport, doubted: int) -> Iterator[str]:
    """What would help most, as far as this comparison tells.

    Args:
        doubted: Labels that look wrong.
    """
    best = report.group.choice
    if best is None:
        return
    reached, table = report.intervals.get(id(best)), _judged(best)
    if table is not None and (reached is None or reached.high - reached.low > _WIDE):
        groups = plural(table["group"].nunique(), "group")
        yield (
            f"Clips of new groups (other people, other places): {groups} give "
            f"{'a wide interval' if reached else 'no interval'}, and more clips of the same do not help that."
        )
    if doubted:
        where = f"vidclf review {best.study} goes through them" if best.study else "below, to be looked at"
        yield f"{plural(doubted, 'label')} that look{'s' * (doubted == 1)} wrong: {where}."
    if report.learning_curves:
        yield from (curve.words for curve in report.learning_curves[:1])
    else:
        yield "Whether more groups would raise the score: vidclf compare --learning-curve measures it."
    kinds = {row.model for row in report.group.rows if row.model in MODELS and row.model != "majority"}
    kinds = {kind for kind in kinds if MODELS[kind].learns}
    networks = {kind for kind in kinds if MODELS[kind].initialise is not None}
    if not networks:
        yield 'A network: none was tried. A light head on a frozen one (kind = "frames2d") is the cheapest.'
    elif networks == kinds:
        yield "Hand-made features: none were tried. An SVM on motion fits in seconds."
