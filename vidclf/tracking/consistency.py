"""Checks for differences between MLflow and the attempt folders."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from mlflow.entities import LifecycleStage, LoggedModelStatus, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from sqlalchemy.exc import SQLAlchemyError

from vidclf.runs.folder import Attempt, Outcome, now_ms
from vidclf.runs.store import Store, without_password
from vidclf.runs.store_checks import SETTLING_MS, STALE_MS, Note, Problem, readable_attempts
from vidclf.tracking.deliverer import (
    PARENT_TAG,
    REASON_TAG,
    RUNNING,
    STATUS_TAG,
    Deliverer,
    prepare,
)
from vidclf.tracking.delivery_state import STATUS, PendingDelivery
from vidclf.tracking.lookup import ATTEMPT_TAG, embedded, mlflow_exists

MlflowError = MlflowException
"""What MLflow's refusals and absence raise."""
T = TypeVar("T")
_OURS = f"tags.`{ATTEMPT_TAG}` LIKE '%'"


def unreachable(store: Store, note: Note) -> Iterator[Problem]:
    """An MLflow that does not answer, or a database that it refuses."""
    try:
        if mlflow_exists(store):
            Deliverer(store).client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        where = without_password(store.mlflow_uri)
        yield Problem(where, f"MLflow cannot be used: {reason}", blocks=frozenset(("mlflow",)))


def undelivered_attempts(store: Store, note: Note) -> Iterator[Problem]:
    """Finished attempts that MLflow lacks, or has only a part of; not those that the user deleted there."""
    lost = not mlflow_exists(store)
    candidates = [
        (attempt, identity)
        for attempt, identity, outcome in readable_attempts(store)
        if outcome and not _is_settling(outcome) and (lost or _has_news(store, attempt))
    ]
    if not candidates:
        return
    runs = runs_by_attempt(store)
    deleted = [] if lost else Deliverer(store).client.search_experiments(ViewType.DELETED_ONLY)
    gone = {experiment.name for experiment in deleted}
    # Studies first: a trial's run names its study's, and must not be given that of a lost MLflow.
    for attempt, identity in sorted(candidates, key=lambda candidate: candidate[1].parent is not None):
        receipt = Deliverer(store).receipt(attempt)
        run = runs.get(identity.id)
        hidden = run is not None and run.info.lifecycle_stage != LifecycleStage.ACTIVE
        purged = run is None and receipt.run_id is not None and not lost
        if not hidden and not purged and identity.experiment not in gone:
            missing = "a part of it" if run else "it"
            yield Problem(
                str(attempt.folder),
                f"has ended and MLflow lacks {missing}",
                partial(_deliver, store, attempt, lost),
            )


def _is_settling(outcome: Outcome) -> bool:
    """Whether its own process is about to deliver it; one that was cut may have none."""
    return outcome.status != "interrupted" and now_ms() - outcome.ended_ms < SETTLING_MS


def _deliver(store: Store, attempt: Attempt, anew: bool) -> None:
    if anew:  # what the receipt names was lost with MLflow's database
        prepare(store)
        (attempt.folder / "delivery.json").unlink(missing_ok=True)
    Deliverer(store).deliver(attempt)


def half_sent_models(store: Store, note: Note) -> Iterator[Problem]:
    """Kept models whose upload was cut short."""
    if not mlflow_exists(store):
        return
    deliverer = Deliverer(store)
    attempts = {deliverer.receipt(attempt).run_id: attempt for attempt, _, _ in readable_attempts(store)}
    experiments = [found.experiment_id for found in deliverer.client.search_experiments()]
    if not experiments:
        return
    for model in _all_pages(partial(deliverer.client.search_logged_models, experiments)):
        attempt = attempts.get(str(model.source_run_id))
        stale = now_ms() - model.creation_timestamp > STALE_MS
        if model.status == LoggedModelStatus.PENDING and stale and attempt and attempt.model.is_dir():
            detail = "the upload of its model to MLflow was cut short"
            yield Problem(str(attempt.folder), detail, partial(_deliver_model, store, attempt))


def _deliver_model(store: Store, attempt: Attempt) -> None:
    from vidclf.tracking.model_package import deliver_model  # imports mlflow.pyfunc: a second

    deliver_model(Deliverer(store), attempt)


def disagreeing_runs(
    store: Store, note: Note, attempts: Iterable[Attempt] | None = None
) -> Iterator[Problem]:
    """Runs that ended otherwise in MLflow than in their folder, or did not end there at all."""
    runs = runs_by_attempt(store)
    chosen = None if attempts is None else {attempt.folder for attempt in attempts}
    for attempt, identity, outcome in readable_attempts(store) if runs else ():
        run = runs.get(identity.id)
        if run is None or outcome is None or run.info.lifecycle_stage != LifecycleStage.ACTIVE:
            continue
        if (chosen is not None and attempt.folder not in chosen) or _has_news(store, attempt):
            continue
        receipt = Deliverer(store).receipt(attempt)
        if receipt.run_id == run.info.run_id and receipt.ended and run.info.status != receipt.ended[0]:
            detail = f"is {run.info.status} in MLflow, its folder says {receipt.ended[0]} ({outcome.status})"
            yield Problem(
                f"run {run.info.run_id} ({identity.run_name})", detail, partial(_end_again, store, attempt)
            )


def _end_again(store: Store, attempt: Attempt) -> None:
    deliverer = Deliverer(store)
    receipt = deliverer.receipt(attempt)
    receipt.ended = None
    receipt.save(attempt)
    deliverer.deliver(attempt)


def unended_runs(store: Store, note: Note) -> Iterator[Problem]:
    """Runs that MLflow shows as running and whose folder is gone."""
    if not embedded(store):
        note("MLflow is a server: running runs without a folder here may be other stores' and are left alone")
        return
    known = {identity.id for _, identity, _ in readable_attempts(store)}
    running = _search(store, f"{_OURS} AND attributes.status = '{RUNNING}'", ViewType.ACTIVE_ONLY)
    for run in running:
        if run.data.tags[ATTEMPT_TAG] not in known and now_ms() - run.info.start_time > STALE_MS:
            yield Problem(
                f"run {run.info.run_id} ({run.info.run_name})",
                "is shown as running and has no folder: to be marked as interrupted",
                partial(_end_run, store, run),
            )


def _end_run(store: Store, run: Run) -> None:
    client = Deliverer(store).client
    client.set_tag(run.info.run_id, STATUS_TAG, "interrupted")
    client.set_tag(run.info.run_id, REASON_TAG, "interrupted: its folder is gone")
    client.set_terminated(run.info.run_id, STATUS["failed" if PARENT_TAG in run.data.tags else "interrupted"])


def runs_by_attempt(store: Store) -> dict[str, Run]:
    """Every run that mirrors an attempt, deleted ones among them, by the attempt's id."""
    return {run.data.tags[ATTEMPT_TAG]: run for run in _search(store, _OURS, ViewType.ALL)}


def is_running(run: Run) -> bool:
    """Whether MLflow shows it as running."""
    return bool(run.info.status == RUNNING and run.info.lifecycle_stage == LifecycleStage.ACTIVE)


def _search(store: Store, condition: str, view: int) -> Iterator[Run]:
    if not mlflow_exists(store):
        return
    client = Deliverer(store).client
    experiments = [found.experiment_id for found in client.search_experiments(ViewType.ALL)]
    if experiments:
        yield from _all_pages(partial(client.search_runs, experiments, condition, view, 1000))


def _all_pages(search: Callable[..., PagedList[T]]) -> Iterator[T]:
    """The results of a search that takes a ``page_token``."""
    page = search()
    yield from page
    while page.token:
        page = search(page_token=page.token)
        yield from page


def _has_news(store: Store, attempt: Attempt) -> bool:
    receipt = Deliverer(store).receipt(attempt)
    try:
        return PendingDelivery.of(attempt, receipt).any(receipt)
    except FileNotFoundError:  # deleted at this moment, as that of a proposal that is not run
        return False
