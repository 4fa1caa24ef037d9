"""Rows of a comparison: trials from Optuna's database, and the folders of single runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import pandas as pd

from vidclf.evaluation import ranking
from vidclf.evaluation.predictions import read_predictions, val_answers
from vidclf.evaluation.ranking import TrialRow
from vidclf.runs.folder import Attempt, Identity
from vidclf.search.record.study import OpenStudy

if TYPE_CHECKING:
    from vidclf.registry.confirm_report import FinalistReport

Origin = Literal["trial", "run", "majority", "published"]
PredictionSource = Literal["val", "confirm"]
"""Predictions for the clips of val, or those of `vidclf confirm`, out of fold for the clips of train."""
FOLDS = " folds"


@dataclass(frozen=True)
class EvaluationClips:
    """What a row was judged on: only rows of equal clips are ranked together.

    Attributes:
        name: The data set's folder.
        digest: Of its manifest: content, label, group and split of every clip.
        folds: How train and val were divided anew, as ``fold 0 of 5``, or ``5 folds`` where each was val
            once; empty: as the manifest says.
    """

    name: str
    digest: str
    folds: str = ""

    @property
    def out_of_fold(self) -> int:
        """The number of folds of which each was val once; 0 where there is one val."""
        return int(self.folds.removesuffix(FOLDS)) if self.folds.endswith(FOLDS) else 0


@dataclass(frozen=True)
class ModelRow(TrialRow):
    """A row of the comparison; of a single run, ``study`` is empty and ``base`` its name.

    Attributes:
        clips: What it was judged on.
        origin: A ``trial`` of a study, a single ``run``, the ``majority`` class, or a ``published`` figure.
        attempt: Its folder; ``None`` for baselines.
        source: Where a published figure comes from.
        named: Whether it was asked for by itself.
        confirmed: What `vidclf confirm` found; ``None`` where it was not asked, or judged by another metric.
    """

    clips: EvaluationClips = EvaluationClips("", "")
    origin: Origin = "trial"
    network: str = ""
    attempt: Attempt | None = None
    manifest: str = ""
    source: str = ""
    named: bool = False
    confirmed: "FinalistReport | None" = None

    @property
    def won(self) -> bool:
        """Whether `vidclf confirm` found it the best of its study, by what is ranked here."""
        return self.confirmed is not None and self.confirmed.won

    @property
    def score(self) -> float:
        """Of a ranked row: what `vidclf confirm` gave it, else the figure that it is ranked by."""
        return self.confirmed.mean if self.confirmed else self.value or 0.0

    @property
    def family(self) -> str:
        """``model.kind`` and the network."""
        return f"{self.model} {self.network}".strip()

    @property
    def label(self) -> str:
        """Which one it is, in words."""
        if self.origin == "trial":
            return f"trial {self.number} of {self.study}"
        return {"run": f"run {self.base}", "majority": "always the most frequent class"}.get(
            self.origin, f"published, {self.base}"
        )

    @property
    def marked(self) -> str:
        """The same for a table, where the winner of a confirmation is to be seen."""
        if self.confirmed is None or not self.confirmed.won:
            return self.label
        return f"{self.label}, confirmed{self.confirmed.reservation}"

    def identity(self) -> Identity | None:
        """What its attempt recorded when it began; ``None`` where that is not on this machine."""
        if self.attempt is None or not self.attempt.exists():
            return None
        return self.attempt.identity()

    def answers(self) -> object:
        """What it predicts of val, to be compared; ``None`` where that is not on this machine."""
        return None if self.attempt is None else val_answers(self.attempt.artifacts)

    def predictions(self, source: PredictionSource) -> pd.DataFrame | None:
        """As `read_predictions`, with a column ``repeat`` from confirm; ``None`` where none are on disk.

        After a search by folds val is every fold's: each clip was judged by the model that had not seen it.
        Of repeats by seed the first stands for all.
        """
        if self.attempt is None:
            return None
        if source == "val" and self.clips.out_of_fold:
            return self.repeats()
        try:
            return read_predictions(self.attempt.artifacts / source / "predictions.csv")
        except FileNotFoundError:
            return None

    def repeats(self) -> pd.DataFrame | None:
        """Predictions for val of all repeats, which the score is the mean of, numbered as ``repeat``."""
        if self.attempt is None:
            return None
        artifacts = self.attempt.artifacts
        folders = [artifacts, *sorted((artifacts / "repeats").glob("*"))]
        try:
            tables = [read_predictions(folder / "val" / "predictions.csv") for folder in folders]
        except FileNotFoundError:
            return None
        return pd.concat(
            [table.assign(repeat=place) for place, table in enumerate(tables)], ignore_index=True
        )


@dataclass(frozen=True)
class RowGroup:
    """Rows that were judged on the same clips, ranked by one metric.

    Attributes:
        rows: Every trial and run.
        studies: Those that have a row here, by name.
        floor: What the most frequent class scores; ``None`` where that is not known.
    """

    clips: EvaluationClips
    metric: str
    direction: str
    rows: Sequence[ModelRow]
    studies: Mapping[str, OpenStudy]
    floor: float | None = None

    @cached_property
    def ranked(self) -> list[ModelRow]:
        """Complete, feasible rows, best first."""
        return ranking.ranked(self.rows, self.direction)

    @cached_property
    def front(self) -> list[ModelRow]:
        """Those above the floor that no other beats in score, latency and size at once."""
        return [row for row in ranking.pareto_front(self.rows, self.direction) if self.useful(row)]

    @cached_property
    def choice(self) -> ModelRow | None:
        """What to ship, if anything: what `vidclf confirm` found best, else what val puts ahead.

        All studies of a group are confirmed on the same clips, so that the winners of several can be
        compared. What was not confirmed comes after them, however far ahead: its figure chose it.
        """
        sign = -1.0 if self.direction == "maximize" else 1.0
        winners = sorted((row for row in self.ranked if row.won), key=lambda row: sign * row.score)
        others = [row for row in self.ranked if row.study not in self.settled]
        candidates = [*winners[:1], *others[:1]]
        return next(filter(self.useful, candidates), candidates[0] if candidates else None)

    @cached_property
    def settled(self) -> set[str]:
        """Studies whose confirmed winner is here, so that val no longer decides among their trials."""
        return {row.study for row in self.ranked if row.won}

    @cached_property
    def choice_first(self) -> list[ModelRow]:
        """`choice`, then the other ranked rows as they rank."""
        return sorted(self.ranked, key=lambda row: row is not self.choice)

    @cached_property
    def best(self) -> list[ModelRow]:
        """The best of each family, best first."""
        first: dict[str, ModelRow] = {}
        for row in self.choice_first:
            first.setdefault(row.family, row)
        return list(first.values())

    @cached_property
    def leaders(self) -> list[ModelRow]:
        """The best of each family and study, the front, what won a confirmation, and what was asked for by
        itself, in the order of their ranks."""
        first: dict[tuple[str, str, str], ModelRow] = {}
        for row in self.ranked:
            first.setdefault((row.study, row.base if row.origin == "run" else "", row.family), row)
        chosen = {id(row) for row in (*first.values(), *self.front)}
        unranked = [row for row in self.rows if row.named and self.rank(row) is None]
        return [row for row in self.ranked if row.named or row.won or id(row) in chosen] + unranked

    @cached_property
    def twins(self) -> dict[int, list[ModelRow]]:
        """By `id` of a row: the ranked rows after it that say the same of every clip of val."""
        found: dict[int, list[ModelRow]] = {}
        for row, first in ranking.with_twins(self.ranked[: ranking.MOST_TWINS], ModelRow.answers):
            if first is not row:
                found.setdefault(id(first), []).append(row)
        return found

    @cached_property
    def tries(self) -> int:
        """Ranked models; those that predict the same are one."""
        return len(self.ranked) - sum(map(len, self.twins.values()))

    def rank(self, row: ModelRow) -> int | None:
        """From 1; ``None`` where the row is not ranked."""
        return self._ranks.get(id(row))

    @cached_property
    def _ranks(self) -> dict[int, int]:
        return {id(row): rank for rank, row in enumerate(self.ranked, start=1)}

    def useful(self, row: ModelRow) -> bool:
        """Whether a ranked row scores better than the most frequent class does on val: by the figure that
        did not choose it, where there is one."""
        return self.floor is None or self.better(row.score, self.floor)

    def better(self, value: float, than: float) -> bool:
        """Whether one score beats another, in this group's direction."""
        return value > than if self.direction == "maximize" else value < than
