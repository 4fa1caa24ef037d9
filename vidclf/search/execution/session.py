"""One session of a study: runs its trials, finishes them, and delivers the results to MLflow."""

import contextlib
import dataclasses
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

from vidclf import config, system
from vidclf.evaluation.ranking import TrialRow
from vidclf.exceptions import DatabaseUnavailableError, InputError
from vidclf.labels import plural
from vidclf.runs.folder import Attempt, Identity, Outcome, Status, now_ms
from vidclf.runs.store import locked
from vidclf.search.definition.pruners import build_pruner
from vidclf.search.definition.samplers import build_sampler
from vidclf.search.definition.study_file import StudyFile
from vidclf.search.execution.budget import Ending
from vidclf.search.execution.consistency import mend_runs
from vidclf.search.execution.context import SessionContext
from vidclf.search.execution.finalize import StudyFinalizer, mark, show_in_ui
from vidclf.search.execution.recovery import POLL_SECONDS
from vidclf.search.execution.supervisor import Supervisor
from vidclf.search.record.owners import Ownership
from vidclf.search.record.retry import stop_waiting
from vidclf.search.record.study import OpenStudy
from vidclf.tracking.background import DelivererThread
from vidclf.tracking.consistency import MlflowError
from vidclf.tracking.deliverer import Deliverer
from vidclf.tracking.model_package import deliver_model
from vidclf.workers.protocol import Worker

logger = logging.getLogger(__name__)

_REFRESH_SECONDS = 30.0
"""Fewest seconds between two refreshes of a study's page."""
_REFRESH_SHARE = 20
"""A refresh comes this many times its own duration after the last one, at the earliest."""


def run_session(session: SessionContext, deliverer: DelivererThread, workers: list[Worker]) -> Ending:
    """Searches, measures and delivers.

    The supervisor that leads keeps the study's own run and page, and ends last.

    Args:
        session: The session.
        deliverer: Delivers its attempts to MLflow.
        workers: What it runs on; kept up to date.
    """
    opened, definition, ownership = session.opened, session.definition, session.ownership
    refresher = PageRefresher(opened)
    session = dataclasses.replace(session, trial_ended=refresher.request)
    ending: Ending = "interrupted"
    try:
        if ownership.leads:
            _begin_leading(session)
        start = [len(opened.trials())] if ownership.leads else [len(opened.trials()), ownership.uuid]
        opened.study.sampler = build_sampler(definition.file.sampler, definition.space, *start)
        repeats = definition.file.objectives[0].repeats
        opened.study.pruner = build_pruner(definition.file.pruner, definition.space, repeats)
        supervisor = Supervisor(session)
        with _stop_signals(supervisor.stop), refresher if ownership.leads else contextlib.nullcontext():
            ending, workers[:] = supervisor.run(workers)
        if ending != "interrupted":
            _succeed(session)
            # One at a time: latencies are measured with nothing else running.
            lock = session.opened.store.lock("finishing")
            with locked(lock, "waiting for another study of this store to measure its latencies …"):
                StudyFinalizer(session, workers, session.clock.left_to_finish).run()
            _wait_for_others(ownership)
    except KeyboardInterrupt:
        ending = "interrupted"
    except DatabaseUnavailableError:
        ending = "interrupted"
        raise
    finally:
        if ending != "interrupted":
            _succeed(session)
        _close(session, deliverer, ending)
    return ending


def _succeed(session: SessionContext) -> None:
    """Takes the lead where the leading supervisor has left and this one is next."""
    if not session.ownership.leads and session.ownership.first():
        session.ownership.lead()
        _begin_leading(session)


def _begin_leading(session: SessionContext) -> None:
    """Opens the study's own run, and repairs what dead supervisors left of the trials' runs."""
    opened = session.opened
    own = _open_own_attempt(session)
    # At once, so that the study can be watched from its first trial.
    show_in_ui(opened, session.definition, Deliverer(opened.store).deliver(own), standing=False)
    with contextlib.suppress(MlflowError):  # it is away: the next session mends
        mend_runs(opened, session.ownership.others())
    session.register(own)
    _register_trials(session)


def _wait_for_others(ownership: Ownership) -> None:
    """The last supervisor writes the study's page: it waits until the others have delivered their models."""
    logged = False
    while ownership.first() and (others := ownership.others()):
        if not logged:
            logger.info(f"waiting for {', '.join(map(str, others.values()))} to deliver their models …")
            logged = True
        time.sleep(POLL_SECONDS)


def _register_trials(session: SessionContext) -> None:
    """Has all trials delivered but those of other live supervisors."""
    own = session.own_trials()
    for trial in session.opened.trials():
        if own(trial):
            session.register(session.opened.attempt(trial.number))


def _open_own_attempt(session: SessionContext) -> Attempt:
    """The folder behind the study's parent run, made or reopened."""
    opened, definition = session.opened, session.definition
    own, file = opened.own_attempt, definition.file
    if own.exists():
        own.reopen()
    else:
        own.create(
            Identity(
                id=opened.attempt_id(),
                experiment=opened.stored["experiment"],
                run_name=opened.name,
                parent=None,
                started_ms=now_ms(),
                tags={
                    "vidclf.study": opened.name,
                    "vidclf.role": "study",
                    "mlflow.note.content": file.question,
                },
                params={
                    "objective": file.aims(),
                    "bases": ", ".join(definition.space.bases),
                    **_strategies(file),
                    **{
                        f"space: {key}": value if isinstance(value, str) else json.dumps(value)
                        for key, value in file.space.items()
                    },
                },
                dataset=session.dataset,
            )
        )
    for stem, base in definition.space.bases.items():
        config.write_toml(config.dump(base), own.artifacts / f"{stem}.toml")
    config.write_toml(config.dump(file), own.artifacts / "study.toml")
    trials = max(file.budget.trials, opened.logical())
    record = {
        "started_ms": now_ms(),
        "trials": trials,
        "workers": file.workers,
        **_strategies(file),
    }
    with (own.artifacts / "sessions.jsonl").open("a", encoding="utf-8") as sessions:
        sessions.write(json.dumps(record) + "\n")
    return own


def _strategies(file: StudyFile) -> dict[str, Any]:
    """Sampler and pruner with all their options, those that the file leaves at their defaults too."""
    sampler = {"seed": file.sampler.seed, **file.sampler.options}
    return {
        "sampler": file.sampler.name,
        **{f"sampler.{name}": value for name, value in sampler.items() if value is not None},
        "pruner": file.pruner.name,
        **{f"pruner.{name}": value for name, value in file.pruner.options.items() if value is not None},
    }


@contextlib.contextmanager
def _stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Turns Ctrl-C, SIGTERM and a closed terminal into a clean stop."""

    def stop_all(*_: object) -> None:
        stop()
        stop_waiting()

    before = {number: signal.signal(number, stop_all) for number in system.stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _close(session: SessionContext, deliverer: DelivererThread, ending: Ending) -> None:
    """Delivers everything, keeps the best models, and writes the study's page where this supervisor leads."""
    opened, ownership, began = session.opened, session.ownership, time.monotonic()
    try:
        ownership.renew()  # or finds that another has taken the study over: then nothing of it is written
        rows = opened.rows()
    except DatabaseUnavailableError:  # what can be delivered is; the next session does the rest
        rows = []
    if ownership.leads:
        _finish_own_attempt(session, ending, rows)
        with contextlib.suppress(DatabaseUnavailableError):
            _register_trials(session)
    deliverer.close(timeout=30.0)
    if deliverer.undelivered:
        logger.info(
            f"{plural(deliverer.undelivered, 'run')} could not be delivered to MLflow; the next tune does it"
        )
    elif ending != "interrupted":
        stay = session.kept(rows)
        _keep_models(session, rows, stay)
        try:
            if ownership.leads and ownership.shared:
                mend_runs(opened)  # of those that died meanwhile
            if ownership.leads:
                mark(opened, session.definition, rows, stay)
        except MlflowError as error:
            logger.warning("the best trials are not marked in MLflow: %s", error)
    if rows:
        with contextlib.suppress(DatabaseUnavailableError):
            opened.set_finishing({**opened.finishing(), "closed": time.monotonic() - began})
            session.clock.save()


def _finish_own_attempt(session: SessionContext, ending: Ending, rows: list[TrialRow]) -> None:
    own = session.opened.own_attempt
    _refresh(session.opened)
    status: Status = (
        "failed" if ending == "errors" else "interrupted" if ending == "interrupted" else "complete"
    )
    reason = "" if status == "complete" else ending
    best = session.opened.ranked(rows)
    value = best[0].value if best else None
    metrics = {} if value is None else {"study/best": value}
    own.finish(Outcome(status, reason, metrics, now_ms()))


def _keep_models(session: SessionContext, rows: list[TrialRow], stay: list[TrialRow]) -> None:
    """Delivers the models of the trials that stay, and deletes the others."""
    opened, own = session.opened, session.own_trials()
    here = {trial.number for trial in opened.trials() if own(trial)}
    for row in rows:
        if row.number not in here:
            continue
        if row not in stay:
            opened.attempt(row.number).drop_model()
            continue
        try:
            deliver_model(Deliverer(opened.store), opened.attempt(row.number))
        except InputError as error:
            logger.warning(error)


class PageRefresher:
    """Rewrites the study's page, table and description in a thread as trials end, at limited intervals."""

    def __init__(self, opened: OpenStudy) -> None:
        self._opened = opened
        self._requested, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="vidclf-refresher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._requested.set()
        self._thread.join()

    def request(self) -> None:
        """Has the page rewritten soon."""
        self._requested.set()

    def _work(self) -> None:
        while True:
            self._requested.wait()
            if self._closing.is_set():
                return
            self._requested.clear()
            begun = time.monotonic()
            if not _refresh(self._opened):
                return
            self._closing.wait(max(_REFRESH_SECONDS, _REFRESH_SHARE * (time.monotonic() - begun)))


def _refresh(opened: OpenStudy) -> bool:
    """Rewrites the study's page; a failure, as on a full disk, does not end the study."""
    try:
        from vidclf.search.report import page  # plotly and scikit-learn take seconds

        page.refresh(opened, opened.own_attempt)
    except DatabaseUnavailableError:
        return False
    except Exception as error:
        logger.info("the study's page is not refreshed: %s: %s", type(error).__name__, error)
        return False
    return True
