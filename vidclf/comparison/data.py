"""All data of one comparison, read once for the table, the page and the notes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vidclf.comparison.baselines import Baselines, baselines
from vidclf.comparison.rows import ModelRow, RowGroup, gather, run_ids
from vidclf.comparison.significance import separate
from vidclf.comparison.verdict_text import Recommendation, answer, name_of, notes
from vidclf.progress import Progress, counted
from vidclf.runs.store import Store

if TYPE_CHECKING:
    from vidclf.comparison.learning_curve import LearningCurve


_EXPERIMENTS = Path("experiments")
"""Files whose published figures are looked at; where there is no such folder, none are."""


@dataclass(frozen=True)
class GroupReport:
    """A block with what is said of it.

    Attributes:
        block: Its lines.
        measured: Its baselines.
        answer: What to ship.
        notes: How sure that is.
        growth: Scores by training groups, where that was asked for.
    """

    block: RowGroup
    measured: Baselines
    answer: Recommendation
    notes: Sequence[str]
    growth: "Sequence[LearningCurve]"

    def lines(self, *, every: bool, most: int | None = None) -> list[ModelRow]:
        """What a table shows, best first: ``most`` of the leaders or of every line, then the baselines."""
        shown = list(self.block.leaders)
        if every:
            unranked = [line for line in self.block.lines if self.block.rank(line) is None]
            shown = [*self.block.ranked, *unranked]
        floor = [self.measured.majority] if self.measured.majority else []
        return [*shown[:most], *floor, *self.measured.published]


@dataclass(frozen=True)
class Comparison:
    """All blocks, those with most lines first.

    Attributes:
        parts: One for each set of clips.
        every: Whether tables show every line.
        store: Where the runs lie.
    """

    parts: Sequence[GroupReport]
    every: bool
    store: Store

    @property
    def notes(self) -> list[str]:
        """What holds for all, then for each block with its name where there are several."""
        if len(self.parts) == 1:
            return list(self.parts[0].notes)
        blocks = [part.block for part in self.parts]
        said = [
            f"{len(blocks)} sets of clips are compared, each by itself: "
            f"{'; '.join(name_of(block, blocks) for block in blocks)}."
        ]
        return said + [f"{name_of(part.block, blocks)}: {note}" for part in self.parts for note in part.notes]

    def as_table(self) -> pd.DataFrame:
        """The rows of ``--json``, with a column for every metric and searched value; there may be none."""
        rows = self.as_dict()["rows"]
        plain = [key for key in (rows[0] if rows else ()) if key not in ("metrics", "params")]
        nested = [sorted({key for row in rows for key in row[part]}) for part in ("metrics", "params")]
        flat = [{**row, **row["params"], **row["metrics"]} for row in rows]
        return pd.DataFrame(flat, columns=[*plain, *nested[0], *nested[1]])

    def as_dict(self) -> dict[str, Any]:
        """In the shape of ``--json``."""
        blocks = [part.block for part in self.parts]
        rows = [(part, line) for part in self.parts for line in part.lines(every=self.every)]
        runs = run_ids([line for _, line in rows], self.store)
        fronts = [runs.get(id(line)) for block in blocks for line in block.front]
        return {
            "rows": [
                _row(part.block, name_of(part.block, blocks), line, runs.get(id(line))) for part, line in rows
            ],
            "pareto": [run for run in fronts if run is not None],
            "notes": self.notes,
            "answers": [
                {
                    "dataset": name_of(part.block, blocks),
                    "metric": part.block.metric,
                    "headline": part.answer.headline,
                    "others": list(part.answer.others),
                    "val_clips": part.measured.val_clips,
                    "learning_curves": [_curve(curve) for curve in part.growth],
                }
                for part in self.parts
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
        every: Whether tables are to show every line.
        progress: Progress of the learning curves, called with (fits done, fits in all); ``None``: none are
            drawn.

    Raises:
        InputError: A name means nothing here, or there is nothing to compare.
    """
    from vidclf.tracking.ledger import Ledger  # noqa: PLC0415  (imports mlflow: some seconds)

    ledger = Ledger(store)
    measurements = [(block, baselines(block, _EXPERIMENTS)) for block in gather(names, store, metric)]
    blocks = [
        replace(block, floor=measured.majority.value if measured.majority else None)
        for block, measured in measurements
    ]
    curves = _curves(blocks, progress) if progress else {}
    parts = []
    for block, (_, measured) in zip(blocks, measurements, strict=True):
        verdicts = separate(block.choice_first, block.metric.rpartition("/")[2])
        said = notes(block, measured, verdicts, lambda digest: len(ledger.reads(digest)))
        parts.append(GroupReport(block, measured, answer(block, measured), said, curves.get(id(block), [])))
    return Comparison(parts, every, store)


def _curves(blocks: Sequence[RowGroup], progress: Progress) -> "Mapping[int, list[LearningCurve]]":
    """Learning curves by `id` of the block."""
    from vidclf.comparison.learning_curve import DRAWS, SHARES, chosen, grow  # noqa: PLC0415  (imports torch)

    plan = [(block, line) for block in blocks for line in chosen(block)]
    advance = counted(progress, len(plan) * DRAWS * len(SHARES))
    curves: dict[int, list[LearningCurve]] = {}
    for block, line in plan:
        curves.setdefault(id(block), []).append(grow(line, block.metric, advance))
    return curves


def _curve(curve: "LearningCurve") -> dict[str, Any]:
    return {
        "model": curve.line.model,
        "line": curve.line.label,
        "groups": list(curve.groups),
        "scores": [list(draws) for draws in curve.scores],
        "words": curve.words,
    }


def _row(block: RowGroup, dataset: str, line: ModelRow, run_id: str | None) -> dict[str, Any]:
    trial = line.origin == "trial"
    return {
        "study": line.study if trial else None,
        "trial": line.number if trial else None,
        "run_id": run_id,
        "model": line.model,
        "params": dict(line.params),
        "metrics": dict(line.metrics),
        "network": line.network or None,
        "origin": line.origin,
        "name": line.label,
        "dataset": dataset,
        "rank": block.rank(line),
        "confirmed": line.confirmed.mean if line.confirmed else None,
        "ship": line is block.choice and block.useful(line),
        "pareto": any(line is other for other in block.front),
        "state": line.state,
        "feasible": line.feasible,
        "source": line.source or None,
    }
