"""Finds and repairs differences between Optuna's database, the attempt folders and MLflow."""

import json
from collections.abc import Container, Iterable, Iterator
from contextlib import closing
from datetime import datetime
from functools import partial

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from vidclf import config
from vidclf.exceptions import InputError
from vidclf.labels import plural, trial_name
from vidclf.runs.folder import SEARCHED_TAG, Attempt, Identity, Outcome, Status, now_ms
from vidclf.runs.store import TRAIN, Store, without_password
from vidclf.runs.store_checks import (
    SETTLING_MS,
    STALE_MS,
    Note,
    Problem,
    age_ms,
    files_below,
    filled,
    read_only,
    readable_attempts,
    temporary_below,
)
from vidclf.search.execution.recovery import reconcile
from vidclf.search.record.owners import Ownership, live_owners
from vidclf.search.record.storage import open_storage
from vidclf.search.record.study import BASE, DEFINITION, INTERRUPTED, OWNER, STOPPED, OpenStudy, counts
from vidclf.tracking.consistency import disagreeing_runs, is_running, runs_by_attempt
from vidclf.tracking.deliverer import Deliverer, prepare

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def unreachable(store: Store, note: Note) -> Iterator[Problem]:
    """A database of studies that cannot be opened."""
    try:
        if _exists(store):
            open_storage(store)
    except (InputError, SQLAlchemyError, RuntimeError, optuna.exceptions.OptunaError) as error:
        reason = str(error).splitlines()[0]
        where = without_password(store.optuna_uri)
        yield Problem(where, f"Optuna cannot use it: {reason}", blocks=frozenset(("optuna",)))


def doubled_numbers(store: Store, note: Note) -> Iterator[Problem]:
    """Studies of an embedded database in which two trials have one number, and so one folder."""
    path = store.databases.get("optuna")
    if path is None or not filled(path):
        return
    with closing(read_only(path)) as connection:  # Optuna itself shows one of them only
        doubled = connection.execute(
            "SELECT study_name, number FROM trials JOIN studies USING (study_id) "
            "GROUP BY study_id, number HAVING count(*) > 1"
        ).fetchall()
    for study, number in doubled:
        yield Problem(
            f"study {study}, trial {number}",
            "several trials have this number, and their folder and run hold a mixture: do not trust it; run "
            "the file again under another name",
            blocks=frozenset(("optuna",)),
        )


def lost_studies(store: Store, note: Note) -> Iterator[Problem]:
    """Folders of studies that Optuna does not have."""
    known = {opened.series for opened in _studies(store, note)}
    where = without_password(store.optuna_uri)
    for definition in sorted(store.attempts.glob("*/study/artifacts/study.toml")):
        folder = definition.parents[2]
        if folder.name not in known:
            trials = sum(path.parent.name != "study" for path in folder.glob("*/attempt.json"))
            yield Problem(
                str(folder),
                f"holds {plural(trials, 'trial')} of a study that {where} does not have: put a backup of "
                "that database in its place, or name the right one in VIDCLF_STUDY_STORAGE; if the study was "
                "deleted on purpose, delete the folder too",
            )


def abandoned_trials(store: Store, note: Note) -> Iterator[Problem]:
    """Studies with running trials that no live supervisor owns."""
    for opened in _idle_studies(store, note):
        running = [trial.number for trial in opened.trials([TrialState.RUNNING])]
        own = opened.own_attempt
        open_ = own.exists() and own.outcome() is None
        if running or open_:
            numbers = f"; trials {', '.join(map(str, running))} are shown as running" if running else ""
            yield Problem(
                f"study {opened.name}",
                f"its supervisor died{numbers}: to be marked as interrupted, and run again by the next tune",
                partial(_take_over, opened),
            )


def disagreeing_trials(store: Store, note: Note) -> Iterator[Problem]:
    """Finished trials whose folder says something else; Optuna decides."""
    for opened in _idle_studies(store, note):
        yield from _disagreements(opened)


def trials_without_run(store: Store, note: Note) -> Iterator[Problem]:
    """Finished trials that lack a folder or a run; those that never started are none."""
    for opened in _idle_studies(store, note):
        yield from _without_run(opened)


def attempts_without_trial(store: Store, note: Note) -> Iterator[Problem]:
    """Unfinished attempts of trials that Optuna does not have: their study was deleted, or is elsewhere."""
    left = [
        (attempt, identity)
        for attempt, identity, outcome in readable_attempts(store)
        if outcome is None and attempt.folder.parent.name != TRAIN and _idle_ms(attempt) > STALE_MS
    ]
    known = {
        name
        for opened in (_studies(store, note) if left else ())
        for name in (opened.attempt_id(), *(opened.attempt_id(trial.number) for trial in opened.trials()))
    }
    for attempt, identity in left:
        if identity.id not in known:
            yield Problem(
                str(attempt.folder),
                "never ended, and Optuna has no such trial: to be marked as interrupted",
                partial(_interrupt, attempt, "Optuna has no such trial"),
            )


def mend_study(opened: OpenStudy) -> int:
    """Mends what a dead supervisor left of the study's trials and folders; the caller owns the study.

    Returns:
        How many trials were queued again.
    """
    requeued = reconcile(opened)
    _mend(_disagreements(opened))
    _mend(temporary_below(opened.own_attempt.folder.parent))
    return requeued


def mend_runs(opened: OpenStudy, live: Container[str] = ()) -> None:
    """Mends what MLflow, which must answer, shows of the finished trials; the caller leads the study.

    Args:
        opened: The study.
        live: Other supervisors, by uuid: they are about to deliver their own.
    """
    attempts = (opened.attempt(trial.number) for trial in opened.trials(_FINISHED))
    _mend(disagreeing_runs(opened.store, lambda _: None, attempts))
    _mend(_without_run(opened, live))


def _mend(problems: Iterable[Problem]) -> None:
    for problem in list(problems):
        if problem.mend:
            problem.mend()


def _without_run(opened: OpenStudy, live: Container[str] = ()) -> Iterator[Problem]:
    """Finished trials without a folder here whose run is missing, or still open: their supervisor died."""
    missing = [
        trial
        for trial in opened.trials(_FINISHED)
        if not opened.attempt(trial.number).exists() and trial.user_attrs.get(OWNER) not in live
    ]
    runs = runs_by_attempt(opened.store) if missing else {}
    for trial in missing:
        run = runs.get(opened.attempt_id(trial.number))
        where = f"study {opened.name}, trial {trial.number}"
        mend = partial(_rebuild, opened, trial)
        if run is None and counts(trial):
            yield Problem(
                where, "has neither a folder nor a run: both are to be made anew from Optuna's record", mend
            )
        elif trial.state == TrialState.COMPLETE and counts(trial) and "optuna" in opened.store.databases:
            yield Problem(where, "its folder is gone: it is to be made anew, without model and files", mend)
        elif run is not None and is_running(run):
            yield Problem(where, "has ended, but its run is open: to be ended as Optuna's record says", mend)


def _disagreements(opened: OpenStudy) -> Iterator[Problem]:
    for trial in opened.trials(_FINISHED):
        attempt = opened.attempt(trial.number)
        if not attempt.exists():
            continue
        try:
            outcome = attempt.outcome()
        except InputError:
            continue  # torn, and reported as such
        told = _told(opened, trial)
        if outcome is None or outcome.status != told.status:
            said = f"says {outcome.status}" if outcome else "never ended"
            yield Problem(
                f"study {opened.name}, trial {trial.number}",
                f"is {told.status} in Optuna and its folder {said}: Optuna decides",
                partial(attempt.finish, told),
            )


def _told(opened: OpenStudy, trial: FrozenTrial) -> Outcome:
    """How the trial ended, from Optuna's record alone."""
    interrupted = trial.user_attrs.get("reason_kind") in (INTERRUPTED, STOPPED)
    states: dict[TrialState, Status] = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}
    status = states.get(trial.state, "interrupted" if interrupted else "failed")
    metrics = dict(trial.user_attrs.get("metrics") or {})
    if trial.state == TrialState.COMPLETE:
        metrics |= {
            objective.metric: value for objective, value in zip(opened.objectives, trial.values, strict=True)
        }
    return Outcome(status, trial.user_attrs.get("reason", ""), metrics, _ms(trial.datetime_complete))


def _rebuild(opened: OpenStudy, trial: FrozenTrial) -> None:
    attempt, outcome = opened.attempt(trial.number), _told(opened, trial)
    base = str(trial.params.get(BASE, next(iter(opened.stored["bases"]))))
    searched = {key: value for key, value in trial.params.items() if key != BASE}
    identity = Identity(
        id=opened.attempt_id(trial.number),
        experiment=opened.stored["experiment"],
        run_name=trial_name(trial.number, opened.stored["bases"][base], trial.params),
        parent=opened.attempt_id(),
        started_ms=_ms(trial.datetime_start),
        tags={
            "vidclf.study": opened.name,
            "vidclf.trial": str(trial.number),
            "vidclf.base": base,
            "vidclf.rebuilt": "from Optuna's record",
            SEARCHED_TAG: json.dumps(searched),
        },
    )
    attempt.create(identity)
    config.write_toml(config.override(opened.stored["bases"][base], searched), attempt.config)
    if outcome.metrics:
        attempt.record(0, outcome.metrics)
    attempt.finish(outcome)
    prepare(opened.store)
    Deliverer(opened.store).deliver(attempt)


def _take_over(opened: OpenStudy) -> None:
    """Does what the study's supervisor would have done at its end."""
    ownership = Ownership(opened)
    try:
        reconcile(opened)
        own = opened.own_attempt
        if own.exists() and own.outcome() is None:
            total = opened.budget()
            if total is not None and opened.logical() >= total:  # others have finished it
                own.finish(Outcome("complete", "", {}, now_ms()))
            else:
                _interrupt(own, "its supervisor died")
    finally:
        ownership.release()


def _interrupt(attempt: Attempt, why: str) -> None:
    if attempt.outcome() is None:  # it may have ended since it was found
        attempt.finish(Outcome("interrupted", f"interrupted: {why}", {}, now_ms()))


def _idle_studies(store: Store, note: Note) -> Iterator[OpenStudy]:
    """Studies that nobody runs."""
    for opened in _studies(store, note):
        owners = live_owners(opened)
        if not owners:
            yield opened
        else:
            note(f"the study {opened.name} is being run by {', '.join(map(str, owners))}: it is left alone")


def _studies(store: Store, note: Note) -> Iterator[OpenStudy]:
    """Every study of vidclf's; the database is opened once, and asking creates none."""
    if not _exists(store):
        return
    storage = open_storage(store)
    for name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
        stored = study.user_attrs.get(DEFINITION)
        if stored is not None:
            yield OpenStudy(study, storage, json.loads(stored), store)
        elif study.get_trials(deepcopy=False):
            note(f"the study {name} was not made by vidclf and is left alone")


def _exists(store: Store) -> bool:
    return "optuna" not in store.databases or filled(store.databases["optuna"])


def _idle_ms(attempt: Attempt) -> float:
    """Since anything in the folder changed."""
    return min((age_ms(path) for path in (attempt.folder, *files_below(attempt.folder))), default=0.0)


def _ms(instant: datetime | None) -> int:
    return int(instant.timestamp() * 1000) if instant else now_ms() - SETTLING_MS
