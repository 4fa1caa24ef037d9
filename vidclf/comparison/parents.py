"""Models that were made out of another one, as graphs in fewer bits, beside that parent."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from vidclf import config
from vidclf.comparison.rows import ModelRow, RowGroup
from vidclf.evaluation import intervals, ranking
from vidclf.evaluation.intervals import CONFIDENCE
from vidclf.evaluation.predictions import read_predictions
from vidclf.evaluation.ranking import LATENCY, SIZE
from vidclf.evaluation.significance import PairedComparison, paired
from vidclf.runs.folder import PARENT, Attempt

_TOLD = 1.05
"""Ratio of two costs from which on it is told."""


@dataclass(frozen=True)
class BesideParent:
    """A model and its parent on the same clips of val, which may have chosen the parent, but not the model.

    Attributes:
        metric: What they are compared by, as ``macro_f1``.
        score: The model's.
        parent: The parent's.
        clips: Clips of val.
        alike: Those that both label the same.
        found: The paired test over groups; ``None`` where there are too few.
        costs: The model's final metrics.
        parent_costs: The parent's, timed in turn with the model.
    """

    metric: str
    score: float
    parent: float
    clips: int
    alike: int
    found: PairedComparison | None
    costs: dict[str, float]
    parent_costs: dict[str, float]

    @property
    def cheaper(self) -> list[str]:
        """What it saves and costs, as ``2.1 times faster``; of latencies only what their intervals tell."""
        words = []
        pairs = (("faster", "slower", LATENCY), ("smaller", "larger", SIZE))
        for less, more, key in pairs:
            mine, theirs = self.costs.get(key), self.parent_costs.get(key)
            if not mine or not theirs:
                continue
            if key == LATENCY and not self._told_apart:
                words.append(self._untold)
            elif max(mine, theirs) / min(mine, theirs) >= _TOLD:
                words.append(
                    f"{max(mine, theirs) / min(mine, theirs):.1f} times {less if mine < theirs else more}"
                )
        return words

    @property
    def _told_apart(self) -> bool:
        mine, theirs = self.costs, self.parent_costs
        return ranking.is_faster(mine, theirs) or ranking.is_faster(theirs, mine)

    @property
    def _untold(self) -> str:
        busy = ranking.disturbed(self.costs) or ranking.disturbed(self.parent_costs)
        return f"not told faster nor slower{f', as {busy}' if busy else ''}"

    @property
    def pays(self) -> bool | None:
        """Whether it saves something, and is told neither slower nor worse.

        ``None`` where it looks slower or worse, and too busy a machine or too few groups cannot tell.
        """
        slower = ranking.is_faster(self.parent_costs, self.costs)
        smaller = self.costs.get(SIZE, np.inf) < self.parent_costs.get(SIZE, 0.0)
        saves = smaller or ranking.is_faster(self.costs, self.parent_costs)
        if not saves or slower or (self.found is not None and self.found.verdict == "worse"):
            return False
        seems_slower = self.costs.get(LATENCY, 0.0) > _TOLD * self.parent_costs.get(LATENCY, np.inf)
        seems_worse = self.found is None and self.score < self.parent
        return None if (seems_slower and not self._told_apart) or seems_worse else True

    @property
    def verdict(self) -> str:
        """Whether it is as good on clips of new groups, in words."""
        if self.found is None:
            return "no interval, from too few groups"
        ends = f"{self.found.low:+.3f} to {self.found.high:+.3f} at {100 * CONFIDENCE:.0f} %"
        told = (
            "no difference can be told"
            if self.found.verdict == "cannot tell"
            else f"it is {self.found.verdict}"
        )
        return f"{ends}: {told}"

    def words(self, label: str, parent: str) -> str:
        """One sentence."""
        name = self.metric.replace("_", " ").replace("f1", "F1")
        costs = f"; {', '.join(self.cheaper)}" if self.cheaper else ""
        return (
            f"{label} beside its parent, {parent}: {name} {self.score:.3f} and {self.parent:.3f} on val, "
            f"{self.alike} of {self.clips} clips labelled alike, {self.verdict}{costs}."
        )


def beside_parent(attempt: Attempt, metric: str) -> BesideParent | None:
    """How a run compares with what it was made of; ``None`` where it was made of nothing.

    Args:
        attempt: A complete run.
        metric: As ``macro_f1``; what no interval is known for is compared by macro F1.
    """
    try:
        own, theirs = (
            read_predictions(attempt.artifacts / name / "predictions.csv") for name in ("val", PARENT)
        )
    except FileNotFoundError:
        return None
    outcome = attempt.outcome()
    figures = dict(outcome.metrics) if outcome else {}
    both = own.merge(theirs[["clip_path", "predicted"]], on="clip_path", suffixes=("", "_parent"))
    classes = sorted(set(both[["label", "predicted", "predicted_parent"]].to_numpy().ravel()))
    labels, guesses, parents = (
        pd.Categorical(both[column], classes).codes.astype(np.int64)
        for column in ("label", "predicted", "predicted_parent")
    )
    name, prefix = intervals.comparable(metric), f"{PARENT}/"
    return BesideParent(
        metric=name,
        score=figures.get(f"val/{name}", np.nan),
        parent=figures.get(f"{PARENT}/val/{name}", np.nan),
        clips=len(both),
        alike=int((guesses == parents).sum()),
        found=paired(name, labels, guesses, parents, list(both["group"])),
        costs={key: value for key, value in figures.items() if not key.startswith(prefix)},
        parent_costs={
            key.removeprefix(prefix): value for key, value in figures.items() if key.startswith(prefix)
        },
    )


def parent_notes(group: RowGroup) -> Iterator[str]:
    """A sentence on each model of a group that was made out of another one."""
    for row in group.ranked:
        if row.origin == "run" and row.attempt is not None:
            found = beside_parent(row.attempt, group.metric.partition("/")[2])
            if found is not None:
                yield found.words(row.label, _parent_of(row))


def parent_model(attempt: Attempt) -> Path | None:
    """Folder of the model that a run was made of; ``None`` where it was made of nothing."""
    if not (attempt.artifacts / PARENT).is_dir():
        return None
    return Path(str(config.lookup(config.read_toml(attempt.config), "model.parent")))


def _parent_of(row: ModelRow) -> str:
    """By the name of its run, else its folder."""
    assert row.attempt is not None
    folder = parent_model(row.attempt)
    assert folder is not None
    attempt = Attempt(folder.parent)
    return attempt.identity().run_name if attempt.exists() else str(folder)
