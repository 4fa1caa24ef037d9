"""One session of a study, from its first trial to what is delivered of it."""

import contextlib
import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from filelock import FileLock
from optuna.trial import FrozenTrial

from vidclf import config
from vidclf.data.manifest import read_manifest
from vidclf.evaluation import ranking
from vidclf.evaluation.ranking import TrialRow
from vidclf.exceptions import DatabaseUnavailableError, InputError
from vidclf.labels import plural
from vidclf.runs.experiment import dataset_record, provenance
from vidclf.runs.folder import Attempt, Identity, Outcome, now_ms
from vidclf.search.definition.pruners import build_pruner
from vidclf.search.definition.samplers import build_sampler
from vidclf.search.definition.study_file import StudyDefinition, StudyFile
from vidclf.search.execution.budget import Ending
from vidclf.search.execution.consistency import mend_runs
from vidclf.search.execution.display import Display, StudyState
from vidclf.search.execution.finalize import StudyFinalizer, a_clip, mark, show_in_ui
from vidclf.search.execution.recovery import LOOK_SECONDS
from vidclf.search.execution.supervisor import Supervisor
from vidclf.search.execution.trials import TrialStarter
from vidclf.search.record.owners import Ownership
from vidclf.search.record.retry import stop_waiting
from vidclf.search.record.study import OWNER, OpenStudy
from vidclf.search.report import page
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


def run_session(
    opened: OpenStudy, definition: StudyDefinition, ownership: Ownership, crew: list[Worker], shown: Display
) -> Ending:
    """Searches, measures and delivers; ``crew`` is kept up to date.

    The supervisor that leads keeps the study's own run and page, and ends last.
    """
    deliverer = DelivererThread(opened.store)
    ending: Ending = "interrupted"
    try:
        if ownership.leads:
            _begin_leading(opened, definition, ownership, deliverer)
        refresher = PageRefresher(opened) if ownership.leads else None
        supervisor = _supervisor(
            opened, definition, ownership, shown, deliverer=deliverer, refresher=refresher
        )
        with _stop_signals(supervisor.stop), refresher or contextlib.nullcontext():
            ending, crew[:] = supervisor.run(crew)
        if ending != "interrupted":
            _succeed(opened, definition, ownership, deliverer)
            with _finishing():
                StudyFinalizer(opened, definition, crew, _own_trials(opened, ownership)).run()
            _wait_for_others(ownership)
    except KeyboardInterrupt:
        ending = "interrupted"
    except DatabaseUnavailableError:
        ending = "interrupted"
        raise
    finally:
        if ending != "interrupted":
            _succeed(opened, definition, ownership, deliverer)
        _close(opened, definition, ending, deliverer=deliverer, ownership=ownership)
    return ending


def _succeed(
    opened: OpenStudy, definition: StudyDefinition, ownership: Ownership, deliverer: DelivererThread
) -> None:
    """Leads from now on where the supervisor that led has gone and this one is next."""
    if not ownership.leads and ownership.first():
        ownership.lead()
        _begin_leading(opened, definition, ownership, deliverer)


def _begin_leading(
    opened: OpenStudy, definition: StudyDefinition, ownership: Ownership, deliverer: DelivererThread
) -> None:
    """Opens the study's own run, and mends what dead supervisors left of the trials' runs."""
    own = _open_own_attempt(opened, definition)
    # At once, so that the study can be watched from its first trial.
    show_in_ui(opened, definition, Deliverer(opened.store).deliver(own), standing=False)
    with contextlib.suppress(MlflowError):  # it is away: the next session mends
        mend_runs(opened, ownership.others())
    deliverer.register(own)
    _register(opened, ownership, deliverer)


def _own_trials(opened: OpenStudy, ownership: Ownership) -> Callable[[FrozenTrial], bool]:
    """Which trials this supervisor finishes: its own, and those of dead ones whose folders are here."""
    others = ownership.others()

    def own(trial: FrozenTrial) -> bool:
        here = (opened.attempt(trial.number).folder / "attempt.json").exists()
        return here and trial.user_attrs.get(OWNER) not in others

    return own


@contextlib.contextmanager
def _finishing() -> Iterator[None]:
    """One supervisor of a host at a time: latencies are measured with nothing else running."""
    with FileLock(Path(tempfile.gettempdir(), f"vidclf-{os.getuid()}-finishing.lock")):
        yield


def _wait_for_others(ownership: Ownership) -> None:
    """Who ends last writes the study's page: it waits until the others have delivered their models."""
    told = False
    while ownership.first() and (others := ownership.others()):
        if not told:
            logger.info(f"waiting for {', '.join(map(str, others.values()))} to deliver their models …")
            told = True
        time.sleep(LOOK_SECONDS)


def _register(opened: OpenStudy, ownership: Ownership, deliverer: DelivererThread) -> None:
    """Has the deliverer look after all trials but those of other live supervisors."""
    own = _own_trials(opened, ownership)
    for trial in opened.trials():
        if own(trial):
            deliverer.register(opened.attempt(trial.number))


def _open_own_attempt(opened: OpenStudy, definition: StudyDefinition) -> Attempt:
    """The folder behind the study's parent run, made or reopened."""
    own, file = opened.own_attempt, definition.file
    if (own.folder / "attempt.json").exists():
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
                    **{f"space: {key}": _short_json(value) for key, value in file.space.items()},
                },
                dataset=_dataset(definition),
            )
        )
    for stem, base in definition.space.bases.items():
        config.write_toml(config.dump(base), own.artifacts / f"{stem}.toml")
    config.write_toml(config.dump(file), own.artifacts / "study.toml")
    trials = max(file.budget.trials, opened.logical())
    session = {
        "started_ms": now_ms(),
        "trials": trials,
        "workers": file.workers,
        **_strategies(file),
    }
    with (own.artifacts / "sessions.jsonl").open("a", encoding="utf-8") as sessions:
        sessions.write(json.dumps(session) + "\n")
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


def _dataset(definition: StudyDefinition) -> dict[str, str]:
    base = next(iter(definition.space.bases.values()))
    return dataset_record(base, read_manifest(base.data.manifest))


def _short_json(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value


def _supervisor(
    opened: OpenStudy,
    definition: StudyDefinition,
    ownership: Ownership,
    shown: Display,
    *,
    deliverer: DelivererThread,
    refresher: "PageRefresher | None",
) -> Supervisor:
    file = definition.file
    start = [len(opened.trials())] if ownership.leads else [len(opened.trials()), ownership.uuid]
    opened.study.sampler = build_sampler(file.sampler, definition.space, *start)
    opened.study.pruner = build_pruner(file.pruner, definition.space, file.objectives[0].repeats)
    state = StudyState(
        opened.name, file.question, opened.objective.metric, total=file.budget.trials, workers=file.workers
    )
    tags = {
        stem: provenance(base, read_manifest(base.data.manifest))
        for stem, base in definition.space.bases.items()
    }
    return Supervisor(
        opened=opened,
        space=definition.space,
        budget=file.budget,
        keep=file.keep,
        ask_ahead_from=file.sampler.options.get("startup_trials", 0),
        ownership=ownership,
        shown=shown,
        state=state,
        opening=TrialStarter(opened, definition.space, tags, _dataset(definition)),
        register=deliverer.register,
        clip=a_clip(definition),
        settled=refresher.settled if refresher else lambda: None,
    )


@contextlib.contextmanager
def _stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Turns Ctrl-C and SIGTERM into a clean stop."""

    def stop_all(*_: object) -> None:
        stop()
        stop_waiting()

    before = {number: signal.signal(number, stop_all) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _close(
    opened: OpenStudy,
    definition: StudyDefinition,
    ending: Ending,
    *,
    deliverer: DelivererThread,
    ownership: Ownership,
) -> None:
    """Delivers everything, keeps the best models, and writes the study's page where this supervisor leads."""
    try:
        rows = opened.rows()
    except DatabaseUnavailableError:  # what can be delivered is; the next session does the rest
        rows = []
    if ownership.leads:
        _finish_own_attempt(opened, ending, rows)
        with contextlib.suppress(DatabaseUnavailableError):
            _register(opened, ownership, deliverer)
    deliverer.close(timeout=30.0)
    if deliverer.undelivered:
        logger.info(
            f"{plural(deliverer.undelivered, 'run')} could not be delivered to MLflow; the next tune does it"
        )
    elif ending != "interrupted":
        stay = ranking.kept(rows, opened.objective.direction, definition.file.keep)
        _keep_models(opened, rows, stay, _own_trials(opened, ownership))
        try:
            if ownership.leads and ownership.shared:
                mend_runs(opened)  # of those that died meanwhile
            if ownership.leads:
                mark(opened, definition, rows, stay)
        except MlflowError as error:
            logger.warning("the best trials are not marked in MLflow: %s", error)


def _finish_own_attempt(opened: OpenStudy, ending: Ending, rows: list[TrialRow]) -> None:
    own = opened.own_attempt
    _refresh(opened)
    status = {"interrupted": "interrupted", "errors": "failed"}.get(ending, "complete")
    own.finish(Outcome(status, "" if status == "complete" else ending, _best_metrics(opened, rows), now_ms()))  # type: ignore[arg-type]


def _keep_models(
    opened: OpenStudy,
    rows: list[TrialRow],
    stay: list[TrialRow],
    own: Callable[[FrozenTrial], bool],
) -> None:
    """Delivers the models of the trials that stay, and deletes the others."""
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


def _best_metrics(opened: OpenStudy, rows: list[TrialRow]) -> dict[str, float]:
    best = ranking.ranked(rows, opened.objective.direction)
    return {"study/best": best[0].value} if best and best[0].value is not None else {}


class PageRefresher:
    """Rewrites the study's page, table and description in a thread as trials end, now and then."""

    def __init__(self, opened: OpenStudy) -> None:
        self._opened = opened
        self._news, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="vidclf-refresher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._news.set()
        self._thread.join()

    def settled(self) -> None:
        """A trial has ended."""
        self._news.set()

    def _work(self) -> None:
        while True:
            self._news.wait()
            if self._closing.is_set():
                return
            self._news.clear()
            begun = time.monotonic()
            if not _refresh(self._opened):
                return
            self._closing.wait(max(_REFRESH_SECONDS, _REFRESH_SHARE * (time.monotonic() - begun)))


def _refresh(opened: OpenStudy) -> bool:
    """Rewrites the study's page; one that cannot be drawn, or a full disk, ends no study."""
    try:
        page.refresh(opened, opened.own_attempt)
    except DatabaseUnavailableError:
        return False
    except Exception as error:
        logger.info("the study's page is not refreshed: %s: %s", type(error).__name__, error)
        return False
    return True
