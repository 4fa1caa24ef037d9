"""Who is tried again, and on which clips: a study's finalists, fresh seeds, and folds to judge them by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vidclf import ranking
from vidclf.config import InputError
from vidclf.data.manifest import Entry, Manifest, read_manifest
from vidclf.data.splitting import split_by_fold
from vidclf.experiment import ExperimentConfig, divided, experiment_of
from vidclf.finish import check_clips
from vidclf.ranking import TrialRow
from vidclf.registry.fetch import fetch_trial
from vidclf.search.ownership import live_owners
from vidclf.search.record import OpenStudy

FIRST_SEED = 1000
"""Seeds of the search are far below."""
_MOST_FOLDS = 5


@dataclass(frozen=True)
class Fold:
    """One division of the clips.

    Attributes:
        train: To train on.
        val: To choose the epoch by.
        scored: To judge by; in no other fold.
    """

    train: Sequence[Entry]
    val: Sequence[Entry]
    scored: Sequence[Entry]


@dataclass(frozen=True)
class Plan:
    """What there is to do.

    Attributes:
        rows: The finalists.
        seeds: Fresh ones.
        folds: Of each finalist, by its number: bases may divide clips differently.
        optimistic: Whether the search has scored these clips before.
    """

    rows: Sequence[TrialRow]
    seeds: Sequence[int]
    folds: Mapping[int, Sequence[Fold]]
    optimistic: bool

    @property
    def fits(self) -> int:
        """How many models there are to train."""
        return len(self.seeds) * sum(map(len, self.folds.values()))

    @property
    def seconds(self) -> float:
        """How long they will take at most, by what the trials took; 0 where that is not known."""
        return len(self.seeds) * sum(
            row.metrics.get("cost/fit_seconds", 0.0) * len(self.folds[row.number]) for row in self.rows
        )


def plan(opened: OpenStudy, top: int, seeds: int) -> Plan:
    """Chooses finalists and divides the clips.

    Args:
        opened: The study.
        top: How many of its best trials are tried again.
        seeds: How often each.

    Raises:
        InputError: The study runs, has nothing complete, searches for what no chance decides, or its clips
            cannot be divided.
    """
    if not opened.objective.metric.startswith("val/"):
        raise InputError(
            f"the study {opened.name} searches for the best {opened.objective.metric}, which other seeds and "
            "clips do not change: there is nothing to confirm"
        )
    owners = live_owners(opened)
    if owners:
        raise InputError(
            f"the study {opened.name} is running ({', '.join(map(str, owners))}): latencies are "
            "measured with nothing else running, so wait for its end"
        )
    rows = ranking.ranked(opened.rows(), opened.objective.direction)[:top]
    if not rows:
        raise InputError(
            f"the study {opened.name} has no complete, feasible trial yet; run vidclf tune first"
        )
    if not (opened.own_attempt.folder / "attempt.json").exists():
        raise InputError(
            f"the study {opened.name} ran in another store than {opened.store.folder}, and what is confirmed "
            "is written beside it: confirm it with --store where it ran; promote works from anywhere"
        )
    for row in rows:
        check_clips(fetch_trial(opened, row.number))
    by_fold = opened.repeats is not None and opened.repeats.by == "fold"
    experiments = {row.number: experiment_of(opened.attempt(row.number)) for row in rows}
    folds = {
        number: _searched_folds(opened, made) if by_fold else _fresh_folds(made)
        for number, made in experiments.items()
    }
    return Plan(rows, range(FIRST_SEED, FIRST_SEED + seeds), folds, by_fold)


def _searched_folds(opened: OpenStudy, experiment: ExperimentConfig) -> list[Fold]:
    """The folds of the search: fold i chose the epoch there, and does here."""
    assert opened.repeats is not None
    found = []
    for index in range(opened.repeats.count):
        splits = divided(opened.repeats.variant(experiment, index), manifest_of(experiment))
        found.append(Fold(splits["train"], splits["val"], splits["val"]))
    return found


def _fresh_folds(experiment: ExperimentConfig) -> list[Fold]:
    """Folds over train, as many as its groups allow; val stands beside each."""
    splits = divided(experiment, manifest_of(experiment))
    own = splits["train"]
    problem = ""
    for count in range(min(_MOST_FOLDS, len(own)), 1, -1):
        try:
            divisions = [split_by_fold(own, count, fold, seed=0) for fold in range(count)]
        except InputError as error:
            problem = str(error)
            continue
        return [
            Fold(
                [entry for entry in entries if entry.split == "train"],
                splits["val"],
                [entry for entry in entries if entry.split == "val"],
            )
            for entries in divisions
        ]
    raise InputError(f"the clips of train cannot be divided into folds: {problem or 'there are too few'}")


def manifest_of(experiment: ExperimentConfig) -> Manifest:
    """The clips that an experiment is about."""
    return read_manifest(experiment.data.manifest)
