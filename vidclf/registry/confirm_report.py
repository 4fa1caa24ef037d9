"""The report of a confirmation: metrics of the finalists, their comparison, and where both are stored."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidclf.evaluation.intervals import Interval
from vidclf.evaluation.ranking import OTHER_LOAD, TrialRow, disturbed
from vidclf.evaluation.significance import BestAmong
from vidclf.labels import plural
from vidclf.runs.folder import Attempt
from vidclf.search.record.study import OpenStudy

REPORT = "confirm.json"
"""Artifact of the study's own run: what was found."""


@dataclass(frozen=True)
class Finalist:
    """A trial that was tried again.

    Attributes:
        row: The trial.
        attempt: Where its new figures are.
        scores: The objective of each seed.
        reached: Where the objective's true value lies, whichever finalist is chosen by it; ``None`` where
            there are too few groups, or where no intervals are known for that metric.
        figures: Means over the seeds as ``confirm/…``, and latencies.
        guesses: Predicted classes, shape (seeds, clips).
        basis: What intervals are for and rest on, in words.
    """

    row: TrialRow
    attempt: Attempt
    scores: Sequence[float]
    reached: Interval | None
    figures: Mapping[str, float]
    guesses: NDArray[np.int64]
    basis: str = ""

    @property
    def mean(self) -> float:
        """Of the scores; the finalists are ranked by it."""
        return float(np.mean(self.scores))


@dataclass(frozen=True)
class Confirmation:
    """What `confirm` found.

    Attributes:
        metric: The objective's name without its split, as ``macro_f1``.
        compared: What the finalists are compared by: the objective, or macro F1 in its place.
        finalists: By mean, the winner first.
        best: Which of them may be the best; ``None`` with too few groups, or one finalist.
        leader: Who was ahead in the search.
        optimistic: Whether the clips had chosen the finalists before.
        grouped: Whether every clip names its group.
    """

    study: str
    metric: str
    compared: str
    finalists: Sequence[Finalist]
    best: BestAmong | None
    leader: Finalist
    optimistic: bool
    grouped: bool

    @property
    def winner(self) -> Finalist:
        return self.finalists[0]

    @property
    def notes(self) -> list[str]:
        """What it means, in words."""
        return list(_notes(self))


def _notes(found: Confirmation) -> Iterator[str]:
    winner, best = found.winner, found.leader
    clips, seeds = winner.guesses.shape[1], len(winner.scores)
    basis = f"mean of {plural(seeds, 'fresh seed')}" if seeds > 1 else "one fit a fold"
    judged = "mean over the folds of the search" if found.optimistic else "out of fold"
    yield f"Trial {winner.row.number} is first: {found.metric} over {clips} clips, {judged}, {basis}."
    if found.optimistic:
        yield (
            "The search has scored these clips: at most the seeds are new, and the figures stay selected and "
            "optimistic. This can tell the finalists apart and times them side by side; what new clips give "
            "only test can tell."
        )
    if not found.grouped:
        yield "Clips name no groups, so each counts as one: they mislead if several show one scene or person."
    yield f"Intervals and verdicts are {winner.basis}."
    names = [f"trial {each.row.number}" for each in found.finalists]
    if found.best is not None:
        yield from found.best.words(names, found.compared)
    elif len(names) > 1:
        yield f"Which of {', '.join(names)} is the best cannot be told: too few groups."
    if winner.reached is not None and len(names) > 1:
        yield f"Lower ends of the intervals count that the best of {len(names)} is chosen by these clips."
    if winner.row.number != best.row.number:
        yield f"In the search trial {best.row.number} was ahead; that was luck, or too little to tell."
    why = ": fewer clips to train on, and others to judge by"
    if found.optimistic:
        why = ": other seeds, the same folds"
    yield f"In the search it had {winner.row.value:.4f}, here {winner.mean:.4f}{why}."
    load = max(each.figures.get(OTHER_LOAD, 0.0) for each in found.finalists)
    if busy := disturbed({OTHER_LOAD: load}):
        yield f"Latencies were measured while {busy}: too high, all alike."
    yield (
        f"Its own weights would ship (trial {winner.row.number}, trained on all of train): the fits here "
        "only judged its configuration."
    )


def as_dict(found: Confirmation) -> dict[str, object]:
    """As printed with ``--json`` and kept beside the study."""
    return {
        "study": found.study,
        "metric": found.metric,
        "optimistic": found.optimistic,
        "winner": found.winner.row.number,
        "finalists": [
            {
                "trial": each.row.number,
                "base": each.row.base,
                "params": dict(each.row.params),
                "searched": each.row.value,
                "mean": each.mean,
                "scores": list(each.scores),
                "low": each.reached.low if each.reached else None,
                "high": each.reached.high if each.reached else None,
                "figures": dict(each.figures),
                "may_be_best": place in found.best.candidates if found.best else None,
                "behind": list(found.best.behind[place]) if found.best else None,
            }
            for place, each in enumerate(found.finalists)
        ],
        "notes": found.notes,
    }


def write_report(opened: OpenStudy, found: Confirmation) -> None:
    """Keeps it beside the study, for `finalists_of` to find."""
    text = json.dumps(as_dict(found), indent=1) + "\n"
    (opened.own_attempt.artifacts / REPORT).write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class FinalistReport:
    """What the report says of a finalist.

    Attributes:
        mean: Of the objective over the fresh seeds.
        won: Whether no other finalist has a better one.
        optimistic: Whether the search had scored the same clips.
        low: Lower end of its interval; ``None`` where it has none.
        high: Upper end.
    """

    mean: float
    won: bool
    optimistic: bool
    low: float | None = None
    high: float | None = None

    @property
    def reservation(self) -> str:
        """What ``confirmed`` must not be said without, as `` on the clips that chose it``."""
        return " on the clips that chose it" if self.optimistic else ""


def finalists_of(opened: OpenStudy) -> dict[int, FinalistReport]:
    """The trials that `confirm` has judged, the best first; empty where it was not asked.

    Of a study that ran in another store, MLflow tells.
    """
    if not opened.own_attempt.exists():
        from vidclf.registry.download import fetch_study_file  # imports mlflow: some seconds

        fetch_study_file(opened, REPORT)
    path = opened.own_attempt.artifacts / REPORT
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {
            int(each["trial"]): FinalistReport(
                float(each["mean"]), place == 0, bool(found["optimistic"]), each.get("low"), each.get("high")
            )
            for place, each in enumerate(found["finalists"])
        }
    except (FileNotFoundError, ValueError, KeyError):
        return {}
