"""Which finished attempt a name on the command line means."""

from collections.abc import Mapping
from dataclasses import dataclass

from vidclf import compare
from vidclf.config import InputError
from vidclf.repeats import Repeats
from vidclf.search.record import find_study, study_names
from vidclf.store import Attempt, Store
from vidclf.tracking.deliverer import Deliverer


@dataclass(frozen=True)
class Candidate:
    """A complete attempt; its model may have been dropped.

    Attributes:
        attempt: Its folder.
        label: What it is, in words.
        metrics: Its final metrics.
        repeats: How often its study ran each configuration.
    """

    attempt: Attempt
    label: str
    metrics: Mapping[str, float]
    repeats: Repeats | None = None


def find_candidate(study_or_run: str, store: Store) -> Candidate:
    """The best feasible trial of a study, or the attempt of an MLflow run.

    Raises:
        InputError: No such study or run, or it has nothing complete to promote.
    """
    names = study_names(store)
    if study_or_run in names or study_or_run.endswith(".toml"):
        return _best_of_study(study_or_run, store)
    deliverer = Deliverer(store)
    for attempt in store.all_attempts():
        if deliverer.receipt(attempt).run_id == study_or_run:
            outcome = attempt.outcome()
            if outcome is None or outcome.status != "complete" or not attempt.config.exists():
                raise InputError(f"run {study_or_run} has no finished model ({attempt.folder})")
            identity = attempt.identity()
            study = identity.tags.get("vidclf.study")
            repeats = find_study(study, store).repeats if study in names else None
            return Candidate(attempt, identity.run_name, outcome.metrics, repeats)
    known = f"studies here: {', '.join(names)}" if names else "there is no study here yet"
    raise InputError(f"{study_or_run}: no study or run of {store.folder} ({known})")


def _best_of_study(name: str, store: Store) -> Candidate:
    opened = find_study(name, store)
    best = compare.ranked(opened.rows(), opened.objective.direction)
    if not best:
        raise InputError(
            f"the study {opened.name} has no complete, feasible trial yet; run vidclf tune first"
        )
    row = best[0]
    label = f"trial {row.number} of {opened.name} ({row.base}, {opened.objective.metric} {row.value:.4f})"
    return Candidate(opened.attempt(row.number), label, row.metrics, opened.repeats)
