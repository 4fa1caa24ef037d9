"""Access to the studies in Optuna's database; light to import, so that `vidclf status` is quick."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.trial import FrozenTrial, TrialState

from vidclf import config
from vidclf.evaluation import ranking
from vidclf.evaluation.ranking import CONTENDED, TrialRow
from vidclf.exceptions import InputError
from vidclf.runs.folder import Attempt
from vidclf.runs.repeats import Repeats
from vidclf.runs.store import Store, without_password
from vidclf.search.record.names import name_of_study, study_names, unknown_study
from vidclf.search.record.settings import Constraint, Gates, Objective
from vidclf.search.record.storage import existing_storage, open_storage

BASE = "base"
"""Name of the categorical parameter over the stems of several bases."""
DEFINITION = "vidclf/definition"
"""Study attribute that holds what the study was made from."""
SEEDED_FROM = "seeded_from"
"""Trial attribute: the trial of another study whose value it carries; it has no run and does not count."""
START = "start"
"""Trial attribute of a point that was not sampled: ``base`` or ``given``."""
OWNER = "owner"
"""Trial attribute: uuid of the supervisor that runs it."""
AHEAD = "ahead"
"""Trial attribute: asked for before a worker was free."""
RELEASED = "released"
"""Trial attribute: asked for when the budget was used up already; it is left out of all counts."""
REPEATS = "repeats"
"""Trial attribute: the earlier trial of its configuration; it was not run and is left out of all counts."""
FIXED = "fixed_params"
"""Optuna's own attribute of a trial that was queued with its values."""
SECONDS = "seconds"
"""Trial attribute: how long a worker had it."""
INTERRUPTED, DIED, STOPPED = "interrupted", "died", "stopped"
RUN_AGAIN = (INTERRUPTED, DIED, STOPPED)
"""Kinds of failure after which the same configuration runs again, so that they do not count."""
_TRIALS = "vidclf/trials"
"""Study attribute: the budget that its supervisors keep together."""
_SECONDS = "vidclf/seconds"
"""Study attribute: wall time of all sessions."""
_FINISHING = "vidclf/finishing"
"""Study attribute: what each step after the trials took, in seconds."""
_LATENCY = "vidclf/latency"
"""Prefix of the study attributes that hold latency metrics by shape."""


def stored_definition(store: Store, name: str) -> dict[str, Any] | None:
    """What the study ``name`` was made from, ``None`` where there is no such study."""
    storage = existing_storage(store)
    if storage is None or name not in optuna.get_all_study_names(storage):
        return None
    return _definition(optuna.load_study(study_name=name, storage=storage), store)


def _definition(study: optuna.Study, store: Store) -> dict[str, Any] | None:
    """What the study was made from, ``None`` where it was cut off while it was made."""
    attributes = study.user_attrs
    if DEFINITION not in attributes and all(
        START in trial.user_attrs for trial in study.get_trials(deepcopy=False)
    ):
        return None
    if DEFINITION not in attributes:
        raise InputError(
            f"the study {study.study_name} in {without_password(store.optuna_uri)} was not made by vidclf; "
            "choose another name"
        )
    return cast(dict[str, Any], json.loads(attributes[DEFINITION]))


@dataclass(frozen=True)
class OpenStudy:
    """An Optuna study with what it was made from.

    Attributes:
        study: The study in Optuna's database.
        storage: That database.
        stored: Its definition, as recorded when it was made.
        store: Where its attempts lie.
    """

    study: optuna.Study
    storage: optuna.storages.BaseStorage
    stored: Mapping[str, Any]
    store: Store

    @property
    def name(self) -> str:
        return self.study.study_name

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        return tuple(Objective(**objective) for objective in self.stored["objectives"])

    @property
    def objective(self) -> Objective:
        """The first objective: what trials are ranked by."""
        return self.objectives[0]

    @property
    def repeats(self) -> Repeats | None:
        """How often each configuration is run, where that is more than once."""
        return self.objective.repetition

    @cached_property
    def constraints(self) -> tuple[Constraint, ...]:
        return tuple(Constraint(**constraint) for constraint in self.stored["constraints"])

    @property
    def series(self) -> str:
        """Folder of its attempts; unique even if the study is deleted and made anew."""
        return f"{self.name}-{self.stored['uuid'][:8]}"

    def attempt(self, number: int) -> Attempt:
        return self.store.attempt(self.series, f"{number:05d}")

    @property
    def own_attempt(self) -> Attempt:
        """The folder that mirrors to the study's parent run."""
        return self.store.attempt(self.series, "study")

    @property
    def file(self) -> Path:
        """The study's file as it was when the study last ran, on the machine where it did."""
        return self.own_attempt.artifacts / "study.toml"

    def gates(self) -> Gates:
        """Those of its file; none where that is not here."""
        tree = config.read_toml(self.file) if self.file.exists() else {}
        return config.validate(Gates, tree.get("gates", {}), str(self.file))

    def attempt_id(self, number: int | None = None) -> str:
        return f"{self.stored['uuid']}/{'study' if number is None else number}"

    def trials(self, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=tuple(states) if states else None)

    def trial(self, number: int) -> optuna.Trial:
        """The handle of an unfinished trial."""
        return optuna.Trial(self.study, self.trial_id(number))

    def frozen(self, number: int) -> FrozenTrial:
        """The trial as it stands in the database now."""
        return self.storage.get_trial(self.trial_id(number))

    def trial_id(self, number: int) -> int:
        """Optuna's own key of a trial."""
        return self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    @cached_property
    def _study_id(self) -> int:
        return self.storage.get_study_id_from_name(self.name)

    def latencies(self) -> dict[str, dict[str, float]]:
        """Latency metrics of every shape that was measured."""
        attributes, prefix = self.study.user_attrs, f"{_LATENCY}/"
        return {key.removeprefix(prefix): attributes[key] for key in attributes if key.startswith(prefix)}

    def latency(self, shape: str) -> dict[str, float] | None:
        """Latency metrics of a shape, ``None`` where they were not measured yet."""
        return self.latencies().get(shape)

    def set_latency(self, shape: str, metrics: Mapping[str, float]) -> None:
        self.study.set_user_attr(f"{_LATENCY}/{shape}", dict(metrics))

    def replace_latency(self, shape: str, metrics: Mapping[str, float]) -> None:
        """Puts newer latency metrics in the place of older ones, in the folders of the trials too."""
        self.set_latency(shape, metrics)
        for attempt in self.of_shape(shape):
            attempt.add_metrics(metrics, instead="latency/")

    def of_shape(self, shape: str) -> list[Attempt]:
        """Folders of the complete trials of a shape that are on this machine."""
        alike = (
            self.attempt(trial.number)
            for trial in self.trials((TrialState.COMPLETE,))
            if trial.user_attrs.get("shape") == shape
        )
        return [attempt for attempt in alike if attempt.exists() and attempt.outcome() is not None]

    def budget(self) -> int | None:
        """Trials in all, as the latest session that led had it; ``None`` before the first."""
        trials = self.study.user_attrs.get(_TRIALS)
        return None if trials is None else int(trials)

    def set_budget(self, trials: int) -> None:
        self.study.set_user_attr(_TRIALS, trials)

    def seconds(self) -> float:
        """Wall time of all sessions so far."""
        return float(self.study.user_attrs.get(_SECONDS, 0.0))

    def set_seconds(self, seconds: float) -> None:
        self.study.set_user_attr(_SECONDS, seconds)

    def finishing(self) -> dict[str, float]:
        """Seconds that each step after the trials took, as last measured, by its name."""
        return dict(self.study.user_attrs.get(_FINISHING, {}))

    def set_finishing(self, seconds: Mapping[str, float]) -> None:
        self.study.set_user_attr(_FINISHING, dict(seconds))

    def repeated(self, trial: FrozenTrial) -> int | None:
        """The earlier trial of the very same configuration that is complete, pruned or running.

        What failed may be tried again, and what runs again is no repetition of itself.
        """
        known = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        for other in self.trials(known):
            if other.number >= trial.number:
                break
            alike = other.params == trial.params and root_of(other) != root_of(trial)
            if alike and _is_own(other):
                return other.number
        return None

    def logical(self, trials: Sequence[FrozenTrial] | None = None) -> int:
        """Trials that count against the budget: complete, pruned and given up; of all, or of these."""
        return sum(counts(trial) for trial in (self.trials() if trials is None else trials))

    def admitted(self, trials: Sequence[FrozenTrial], below: int | None = None) -> int:
        """Configurations that the budget has let in: ended, running or queued; of trials below a number."""
        return sum(_is_new(trial) for trial in (trials if below is None else trials[:below]))

    def rows(self, trials: Sequence[FrozenTrial] | None = None) -> list[TrialRow]:
        """Every attempt, in order, from its summary in Optuna's database; of all trials, or of these."""
        latencies = self.latencies()
        trials = self.trials() if trials is None else trials
        return [self._row(trial, latencies) for trial in trials if _is_own(trial)]

    def ranked(self, rows: Sequence[TrialRow] | None = None) -> list[TrialRow]:
        """Complete, feasible trials, best first; of all attempts, or of these."""
        return ranking.ranked(self.rows() if rows is None else rows, self.objective.direction)

    def answers(self, row: TrialRow) -> object:
        """What a trial predicts of val, to be compared; ``None`` where its folder is not on this machine."""
        from vidclf.evaluation.predictions import val_answers  # imports pandas

        return val_answers(self.attempt(row.number).artifacts)

    def require_ranked(self) -> list[TrialRow]:
        """As `ranked`.

        Raises:
            InputError: There is none; says which constraints all break.
        """
        rows = self.rows()
        if best := self.ranked(rows):
            return best
        reason = self.nothing_feasible(rows) or "no trial is complete yet; run vidclf tune first"
        raise InputError(f"the study {self.name}: {reason}")

    def nothing_feasible(self, rows: Sequence[TrialRow]) -> str:
        """What no trial keeps, in words; empty where one keeps all, or none is far enough to tell."""
        known = [row for row in rows if not row.feasible or row.state == "complete"]
        if not known or any(row.feasible for row in known):
            return ""
        broken = []
        for constraint in self.constraints:
            values = [row.metrics[constraint.metric] for row in known if constraint.metric in row.metrics]
            values = [value for value in values if constraint.violation(value) > 0]
            if values:
                shown = " to ".join(f"{value:g}" for value in sorted({min(values), max(values)}))
                broken.append(
                    f"{constraint.metric} is {shown} in {len(values)} of {len(known)} ({constraint.limits()})"
                )
        return f"no trial keeps all constraints: {'; '.join(broken)}"

    def _row(self, trial: FrozenTrial, latencies: Mapping[str, Mapping[str, float]]) -> TrialRow:
        stems = list(self.stored["bases"])
        queued = trial.system_attrs.get(FIXED, {})  # a waiting trial has no values of its own yet
        stem = trial.params.get(BASE, queued.get(BASE, stems[0]))
        latency = latencies.get(trial.user_attrs.get("shape", ""), {})
        metrics = {**trial.user_attrs.get("metrics", {}), **latency}
        violations = dict(trial.constraints)
        doubtful = set(latency) if CONTENDED in latency else set()
        for constraint in self.constraints:
            if constraint.metric in metrics.keys() - doubtful:
                # Of the saved model; what was known before may differ a little.
                violations[constraint.metric] = constraint.violation(metrics[constraint.metric])
        return TrialRow(
            study=self.name,
            number=trial.number,
            state=_row_state(trial),
            base=stem,
            model=self.stored["bases"][stem]["model"]["kind"],
            value=trial.values[0] if trial.state == TrialState.COMPLETE else None,
            params={key: value for key, value in trial.params.items() if key != BASE},
            metrics=metrics,
            feasible=all(value <= 0 for value in violations.values()),
            reason=trial.user_attrs.get("reason", ""),
            shape=trial.user_attrs.get("shape") or "",
        )


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial uses up budget: complete, pruned, or failed for good."""
    if not _is_own(trial):
        return False
    if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
        return True
    return trial.state == TrialState.FAIL and trial.user_attrs.get("reason_kind") not in RUN_AGAIN


def _is_own(trial: FrozenTrial) -> bool:
    """Whether the trial is an attempt of its study: not another's, and not ended before it began."""
    return not trial.user_attrs.keys() & {SEEDED_FROM, RELEASED, REPEATS}


def _is_new(trial: FrozenTrial) -> bool:
    """Whether it was the first attempt at its configuration."""
    return _is_own(trial) and "retry_of" not in trial.user_attrs


def _row_state(trial: FrozenTrial) -> str:
    if trial.state == TrialState.FAIL and not counts(trial):
        return str(trial.user_attrs["reason_kind"])
    if trial.state == TrialState.RUNNING and trial.user_attrs.get(AHEAD):
        return "waiting"
    return {TrialState.FAIL: "failed"}.get(trial.state, trial.state.name.lower())


def find_study(name_or_file: str, store: Store) -> OpenStudy:
    """The existing study of that name, or that a study file names.

    Raises:
        InputError: There is none; says which there are.
    """
    name = name_of_study(name_or_file, store)
    stored = stored_definition(store, name)
    if stored is None:  # cut off while it was made
        raise InputError(unknown_study(name, [other for other in study_names(store) if other != name], store))
    storage = open_storage(store)
    return OpenStudy(optuna.load_study(study_name=name, storage=storage), storage, stored, store)


def all_studies(store: Store) -> list[OpenStudy]:
    """Every study that vidclf made, oldest first, through one connection; others are left out."""
    storage = existing_storage(store)
    if storage is None:
        return []
    studies = (
        optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)
    )
    return [
        OpenStudy(study, storage, json.loads(attributes[DEFINITION]), store)
        for study in studies
        if DEFINITION in (attributes := study.user_attrs)
    ]


def root_of(trial: FrozenTrial) -> int:
    """The first trial of a configuration that was run again; the trial itself where it was not."""
    return int(trial.user_attrs.get("root", trial.number))
