"""All data of one comparison, read once for the table, the page and the notes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vidclf.comparison.baselines import Baselines, baselines
from vidclf.comparison.gathering import gather, run_ids
from vidclf.comparison.learning_curve import DRAWS, SHARES, LearningCurve, chosen, grow
from vidclf.comparison.parents import parent_notes
from vidclf.comparison.rows import ModelRow, PredictionSource, RowGroup
from vidclf.comparison.verdict_text import (
    Recommendation,
    answer,
    apart,
    champion_words,
    chance_within,
    leak_doubt,
    name_of,
    notes,
    tags,
)
from vidclf.evaluation import intervals, ranking
from vidclf.evaluation.chance import Chance, by_chance
from vidclf.evaluation.intervals import CONFIDENCE, Interval
from vidclf.evaluation.significance import PairedComparison, best_among, paired
from vidclf.progress import Progress, counted
from vidclf.runs.store import Store
from vidclf.tracking.lookup import ATTEMPT_TAG, AliasedVersion, aliased_versions, ledger_begun

_EXPERIMENTS = Path("experiments")
"""Files whose published figures are looked at; where there is no such folder, none are."""
MOST_NOTES = 5
"""Notes that are shown at once; the others are folded, or in the page."""
_ALPHA = 0.05
"""How often any verdict on confirmed models is wrong where all are equal."""
_KEYS = ["clip_path", "repeat"]
_MOST_TRIES = 100
"""Models whose predictions are permuted, at most: evenly from the best to the last."""


@dataclass(frozen=True)
class GroupReport:
    """A group with what is said of it.

    Attributes:
        name: Of its clips, unlike any other group's.
        intervals: Where the score of each leader lies on new groups, by `id` of the row; those of confirm
            where it gave one, else of val.
        learning_curves: Empty where they were not asked for.
        chance: See `chance_of`.
    """

    name: str
    group: RowGroup
    baselines: Baselines
    answer: Recommendation
    notes: Sequence[str]
    intervals: Mapping[int, Interval]
    learning_curves: Sequence[LearningCurve]
    chance: Chance | None = None

    @property
    def doubt(self) -> str:
        """See `leak_doubt`."""
        return leak_doubt(tags(self.group))

    def rows(self, *, every: bool, most: int | None = None) -> list[ModelRow]:
        """What a table shows, best first: ``most`` of the leaders or of every row, then the baselines.

        Of leaders that predict the same the first stands for all, beside the front, the confirmed, and what
        was asked for by itself.
        """
        group = self.group
        unranked = [row for row in group.rows if group.rank(row) is None]
        front = {id(row) for row in group.front}
        twins = {id(row) for rows in group.twins.values() for row in rows if not row.named and not row.won}
        leaders = [row for row in group.leaders if id(row) not in twins - front]
        shown = [*group.ranked, *unranked] if every else leaders
        majority = [self.baselines.majority] if self.baselines.majority else []
        return [*shown[:most], *majority, *self.baselines.published]

    def marked(self, row: ModelRow) -> str:
        """Which row it is, and how many others predict the same."""
        others = len(self.group.twins.get(id(row), ()))
        return (
            f"{row.marked}, and {others} that predict{'s' * (others == 1)} the same" if others else row.marked
        )


@dataclass(frozen=True)
class Comparison:
    """All groups, those with most rows first.

    Attributes:
        every: Whether tables show every row.
    """

    reports: Sequence[GroupReport]
    every: bool
    store: Store

    @property
    def notes(self) -> list[str]:
        """What holds for all, then for each group with its name where there are several."""
        if len(self.reports) == 1:
            return list(self.reports[0].notes)
        names = "; ".join(report.name for report in self.reports)
        return [
            f"{len(self.reports)} sets of clips are compared, each by itself: {names}.",
            *(f"{report.name}: {note}" for report in self.reports for note in report.notes),
        ]

    def as_table(self) -> pd.DataFrame:
        """The rows of ``--json``, with a column for every metric and searched value; there may be none."""
        rows = self.as_dict()["rows"]
        plain = [key for key in (rows[0] if rows else ()) if key not in ("metrics", "params")]
        nested = [sorted({key for row in rows for key in row[column]}) for column in ("metrics", "params")]
        flat = [{**row, **row["params"], **row["metrics"]} for row in rows]
        return pd.DataFrame(flat, columns=[*plain, *nested[0], *nested[1]])

    def as_dict(self) -> dict[str, Any]:
        """In the shape of ``--json``."""
        rows = [(report, row) for report in self.reports for row in report.rows(every=self.every)]
        runs = run_ids([row for _, row in rows], self.store)
        fronts = [runs.get(id(row)) for report in self.reports for row in report.group.front]
        return {
            "rows": [_row(report, row, runs.get(id(row))) for report, row in rows],
            "pareto": [run for run in fronts if run is not None],
            "notes": self.notes,
            "answers": [
                {
                    "dataset": report.name,
                    "metric": report.group.metric,
                    "headline": report.answer.headline,
                    "doubt": report.doubt or None,
                    "others": list(report.answer.others),
                    "val_clips": report.baselines.val_clips,
                    "learning_curves": [_curve(curve) for curve in report.learning_curves],
                }
                for report in self.reports
            ],
        }


def build(
    names: Sequence[str],
    store: Store,
    *,
    metric: str | None,
    every: bool,
    progress: Progress | None = None,
) -> Comparison:
    """Gathers, measures and judges; trains nothing unless asked for.

    Args:
        names: Studies and runs; none: all of the store.
        store: Where they lie.
        metric: What to rank by; ``None``: see `gather`.
        every: Whether tables are to show every row.
        progress: Of the learning curves, called with (fits done, fits in all); ``None``: none are drawn.

    Raises:
        InputError: A name means nothing here, or there is nothing to compare.
    """
    measured = [(group, baselines(group, _EXPERIMENTS)) for group in gather(names, store, metric)]
    groups = [
        replace(group, floor=found.majority.value if found.majority else None) for group, found in measured
    ]
    curves = _curves(groups, progress) if progress else {}
    champions = aliased_versions(store, "champion")
    reports = []
    for group, (_, found) in zip(groups, measured, strict=True):
        verdicts = separate(group.choice_first, group.metric.rpartition("/")[2])
        name, chance = name_of(group, groups), chance_of(group)
        shipped = answer(group, found, apart(group, groups), chance)
        shipped = replace(shipped, others=[*_promoted(group, champions), *shipped.others])
        ranges = {id(row): reached for row in group.leaders if (reached := interval_of(row, group))}
        said = [*parent_notes(group)]
        said += notes(group, found, verdicts, lambda digest: _test_reads(store, digest))
        if chance and (reached := ranges.get(id(group.choice))):
            said += chance_within(chance, reached)
        reports.append(
            GroupReport(name, group, found, shipped, said, ranges, curves.get(id(group), []), chance)
        )
    return Comparison(reports, every, store)


def _promoted(group: RowGroup, champions: Sequence[AliasedVersion]) -> Iterator[str]:
    """The rows that are somebody's champion, with what they reached on test then."""
    for champion in champions:
        tags = champion.tags
        study, trial = tags.get("vidclf.study", ""), tags.get("vidclf.trial")
        for row in group.rows:  # thousands, of which few are looked at on disk
            alike = row.study == study and trial in (None, str(row.number))
            if alike and (identity := row.identity()) and identity.id == tags.get(ATTEMPT_TAG):
                yield champion_words(champion.alias, champion.version, row, group.metric, tags)


def _test_reads(store: Store, split: str) -> int | None:
    """How often a test split was read; ``None`` where MLflow is away."""
    if not ledger_begun(store):
        return 0
    from vidclf.tracking.ledger import reads_of  # imports mlflow: some seconds

    return reads_of(store, split)


def chance_of(group: RowGroup) -> Chance | None:
    """What the ranked rows would reach without signal; of confirmed ones on the clips of confirm.

    ``None`` where no predictions are on disk, or the metric is none of val.
    """
    if not group.metric.startswith("val/") or group.choice is None:
        return None
    source: PredictionSource = "confirm" if group.choice.won else "val"
    rows = [row for row in group.ranked if row.confirmed] if group.choice.won else group.ranked
    tables: list[pd.DataFrame] = []
    others = [row for row in rows if row is not group.choice]
    for row in [group.choice, *ranking.thinned(others, _MOST_TRIES - 1)]:
        if (table := row.predictions(source)) is not None:
            first = table.drop_duplicates("clip_path").sort_values("clip_path", ignore_index=True)
            if not tables or list(first["clip_path"]) == list(tables[0]["clip_path"]):
                tables.append(first)
    if not tables:
        return None
    names = sorted(set().union(*({*table["label"], *table["predicted"]} for table in tables)))
    index = {name: place for place, name in enumerate(names)}
    labels = tables[0]["label"].map(index).to_numpy(np.int64)
    guesses = np.stack([table["predicted"].map(index).to_numpy(np.int64) for table in tables])
    metric = intervals.comparable(group.metric.partition("/")[2])
    folds = tables[0]["repeat"].to_numpy(np.int64) if source == "val" and group.clips.out_of_fold else None
    return by_chance(metric, labels, guesses, list(tables[0]["group"]), folds)


def interval_of(row: ModelRow, group: RowGroup) -> Interval | None:
    """Where a row's score lies on new groups; ``None`` where no interval is known or it has no predictions.

    The score of several repeats is their mean, and so is what the interval is for. The lower end counts that
    one of all finalists, or on val one of all ranked rows, is chosen.
    """
    done = row.confirmed
    if done is not None and done.low is not None and done.high is not None:
        return Interval(done.mean, done.low, done.high)
    split, _, name = group.metric.partition("/")
    if split != "val" or intervals.comparable(name) != name or (table := row.repeats()) is None:
        return None
    table = table.sort_values(_KEYS[::-1], ignore_index=True)
    classes = {label: index for index, label in enumerate(sorted({*table["label"], *table["predicted"]}))}
    labels, guesses = (table[column].map(classes).to_numpy(np.int64) for column in ("label", "predicted"))
    tries, groups, folds = max(group.tries, 1), list(table["group"]), table["repeat"].to_numpy(np.int64)
    if group.clips.out_of_fold:
        return intervals.interval(name, labels, guesses, groups, CONFIDENCE, tries, folds)
    clips = table["clip_path"].nunique()
    rows = guesses.reshape(-1, clips)
    return intervals.interval(name, labels[:clips], rows, groups[:clips], CONFIDENCE, tries)


def _curves(groups: Sequence[RowGroup], progress: Progress) -> Mapping[int, list[LearningCurve]]:
    """Learning curves by `id` of the group."""
    plan = [(group, row) for group in groups for row in chosen(group)]
    advance = counted(progress, len(plan) * DRAWS * len(SHARES))
    curves: dict[int, list[LearningCurve]] = {}
    for group, row in plan:
        curves.setdefault(id(group), []).append(grow(row, group.metric, advance))
    return curves


def _curve(curve: LearningCurve) -> dict[str, Any]:
    return {
        "model": curve.row.model,
        "line": curve.row.label,
        "groups": list(curve.groups),
        "scores": [list(draws) for draws in curve.scores],
        "words": curve.words,
    }


def _row(report: GroupReport, row: ModelRow, run_id: str | None) -> dict[str, Any]:
    group, trial, reached = report.group, row.origin == "trial", report.intervals.get(id(row))
    return {
        "study": row.study if trial else None,
        "trial": row.number if trial else None,
        "run_id": run_id,
        "model": row.model,
        "params": dict(row.params),
        "metrics": dict(row.metrics),
        "network": row.network or None,
        "origin": row.origin,
        "name": row.label,
        "dataset": report.name,
        "rank": group.rank(row),
        "confirmed": row.confirmed.mean if row.confirmed else None,
        "low": reached.low if reached else None,
        "high": reached.high if reached else None,
        "twins": [other.label for other in group.twins.get(id(row), ())],
        "ship": report.answer.ship is row,
        "pareto": any(row is other for other in group.front),
        "state": row.state,
        "feasible": row.feasible,
        "source": row.source or None,
    }


def separate(rows: Sequence[ModelRow], metric: str) -> list[str]:
    """Which of the confirmed rows may be the best, by the clips of the same repeats; a sentence each.

    Figures on val were selected and allow no verdict, so rows without predictions of `vidclf confirm` are
    left out.

    Args:
        rows: Best first.
        metric: What to compare, as ``macro_f1``, which also stands in for what no interval is known for.
    """
    tables = [(row, table) for row in rows if (table := row.predictions("confirm")) is not None]
    tables = [(row, table) for row, table in tables if len(_both(table, tables[0][1]))]
    if len(tables) < 2:
        return []
    metric = intervals.comparable(metric)

    def compare(one: int, other: int, alpha: float) -> PairedComparison | None:
        labels, first, second, groups, folds = _arrays(_both(tables[one][1], tables[other][1]))
        return paired(metric, labels, first, second, groups, alpha, folds)

    found = best_among(len(tables), compare, _ALPHA)
    if found is None:
        return []
    labels, _, guesses, groups, _ = _arrays(_both(tables[1][1], tables[0][1]))
    first, *others = found.words([row.label for row, _ in tables], metric)
    return [f"{first[:-1]}; {intervals.basis(metric, labels, guesses, groups)}.", *others]


def _both(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Predictions of two models for the same clips of the same repeats."""
    return one.merge(other[[*_KEYS, "predicted"]], on=_KEYS, suffixes=("", "_other"))


def _arrays(
    both: pd.DataFrame,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], list[str], NDArray[np.int64] | None]:
    """Labels (clips,), guesses of the one and the other model (repeats, clips), groups, and folds (clips,).

    Only confirmations of a search by folds are means over them. Where repeats are of different clips, each
    prediction counts as a clip of its own.
    """
    texts = both[["label", "predicted", "predicted_other"]]
    classes = sorted(set(texts.to_numpy().ravel()))
    labels, one, other = (
        np.array([classes.index(name) for name in texts[column]], dtype=np.int64) for column in texts.columns
    )
    order = np.lexsort((both["clip_path"], both["repeat"]))
    repeats, clips = both["repeat"].nunique(), both["clip_path"].nunique()
    if repeats * clips != len(both):
        return labels, one, other, list(both["group"]), None
    first, shape = both.iloc[order[:clips]], (repeats, clips)
    return (
        labels[order[:clips]],
        one[order].reshape(shape),
        other[order].reshape(shape),
        list(first["group"]),
        first["fold"].to_numpy(np.int64) if "fold" in first else None,  # older ones have none
    )
