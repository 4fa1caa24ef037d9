"""Which finished attempt a name on the command line means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vidclf import config, ranking
from vidclf.attempt import Attempt
from vidclf.config import InputError
from vidclf.registry.confirm_report import finalists_of
from vidclf.registry.fetch import fetch_run, fetch_study_file, fetch_trial
from vidclf.repeats import Repeats
from vidclf.search.gates import Gates
from vidclf.search.record import OpenStudy, find_study, study_names
from vidclf.store import Store
from vidclf.tracking.deliverer import Deliverer


@dataclass(frozen=True)
class Candidate:
    """A complete attempt; its model may have been dropped.

    Attributes:
        attempt: Its folder.
        label: What it is, in words.
        metrics: Its final metrics.
        repeats: How often its study ran each configuration.
        metric: What models are compared by, as ``macro_f1``.
        gates: Those of its study.
    """

    attempt: Attempt
    label: str
    metrics: Mapping[str, float]
    repeats: Repeats | None = None
    metric: str = "macro_f1"
    gates: Gates = field(default_factory=Gates)


def find_candidate(study_or_run: str, store: Store) -> Candidate:
    """The best feasible trial of a study, or the attempt of an MLflow run.

    Of a study that `vidclf confirm` has looked at, it is the trial that came out best there.

    Raises:
        InputError: No such study or run, or it has nothing complete to promote.
    """
    names = study_names(store)
    if study_or_run in names or study_or_run.endswith(".toml"):
        return _best_of_study(study_or_run, store)
    deliverer = Deliverer(store)
    for attempt in store.all_attempts():
        if deliverer.receipt(attempt).run_id == study_or_run:
            return _of_run(attempt, study_or_run, store, names)
    fetched = fetch_run(store, study_or_run)
    if fetched is not None:
        return _of_run(fetched, study_or_run, store, names)
    known = f"studies here: {', '.join(names)}" if names else "there is no study here yet"
    raise InputError(f"{study_or_run}: no study or run of {store.folder} ({known})")


def _of_run(attempt: Attempt, run_id: str, store: Store, names: Sequence[str]) -> Candidate:
    outcome, identity = attempt.outcome(), attempt.identity()
    trained = attempt.config.exists() and "vidclf.role" not in identity.tags
    if outcome is None or outcome.status != "complete" or not trained:
        raise InputError(f"run {run_id} has no finished model ({attempt.folder})")
    study = identity.tags.get("vidclf.study")
    if study is None or study not in names:
        return Candidate(attempt, identity.run_name, outcome.metrics)
    opened = find_study(study, store)
    return _in_study(opened, attempt, identity.run_name, outcome.metrics)


def _in_study(opened: OpenStudy, attempt: Attempt, label: str, metrics: Mapping[str, float]) -> Candidate:
    metric = opened.objective.metric.removeprefix("val/")
    return Candidate(attempt, label, metrics, opened.repeats, metric, _gates(opened))


def _gates(opened: OpenStudy) -> Gates:
    """The gates of the study's file, as it was when the study last ran."""
    path = opened.own_attempt.artifacts / "study.toml"
    fetch_study_file(opened, path.name)
    tree = config.read_toml(path) if path.exists() else {}
    return config.validate(Gates, tree.get("gates", {}), str(path))


def _best_of_study(name: str, store: Store) -> Candidate:
    opened = find_study(name, store)
    best = ranking.ranked(opened.rows(), opened.objective.direction)
    if not best:
        raise InputError(
            f"the study {opened.name} has no complete, feasible trial yet; run vidclf tune first"
        )
    judged = finalists_of(opened)
    winner = next((row for row in best if row.number in judged and judged[row.number].won), None)
    row = winner or best[0]
    value = f"{opened.objective.metric} {row.value:.4f}"
    seal = ", confirmed" if winner else ""
    if seal and best[0].number not in judged:
        seal += f"; trial {best[0].number} has come since, vidclf confirm judges it"
    label = f"trial {row.number} of {opened.name} ({row.base}, {value}{seal})"
    return _in_study(opened, fetch_trial(opened, row.number), label, row.metrics)
