"""``vidclf train``: one tracked run."""

import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlflow.utils.autologging_utils import disable_autologging

from vidclf import config
from vidclf.data.manifest import Manifest
from vidclf.evaluation.ranking import LATENCY
from vidclf.exceptions import InputError
from vidclf.inference import profiling
from vidclf.labels import train_name
from vidclf.models import load_model
from vidclf.models.base import Report
from vidclf.progress import Progress, silent
from vidclf.runs.experiment import (
    ExperimentConfig,
    dataset_record,
    divided,
    experiment_name,
    portable,
    prepare,
    provenance,
    run_experiment,
)
from vidclf.runs.folder import Attempt, Identity, Outcome, now_ms
from vidclf.runs.store import TRAIN, Store
from vidclf.tracking.background import DelivererThread
from vidclf.tracking.deliverer import Deliverer
from vidclf.tracking.deliverer import prepare as prepare_mlflow
from vidclf.tracking.model_package import deliver_model

logger = logging.getLogger(__name__)

_FINGERPRINT = "vidclf.fingerprint"


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        run_id: Its MLflow run, ``None`` where it was not delivered yet.
        reused: Whether it is an earlier run of the same config and data.
    """

    attempt: Attempt
    outcome: Outcome
    run_id: str | None
    reused: bool = False


def train(
    experiment: ExperimentConfig,
    name: str,
    store: Store,
    *,
    again: bool,
    report: Report,
    progress: Progress = silent,
) -> TrainResult:
    """Trains one experiment and mirrors it to MLflow.

    Args:
        experiment: What to train, and on what.
        name: Of the run and its folder: the stem of the experiment's file.
        store: Where the run lies.
        again: Train even where the same config was trained on the same clips before.
        report: Told of each epoch.
        progress: Progress of decoding, called with (clips done, clips in all).

    Raises:
        InputError: Before anything was written.
        KeyboardInterrupt: The run was stopped; its folder says so.
    """
    manifest, warnings = prepare(experiment, progress)
    for warning in warnings:
        logger.warning(warning)
    fingerprint = config.digest([portable(experiment.resolved()), manifest.digest()])
    tags = {**provenance(experiment, manifest), _FINGERPRINT: fingerprint}
    earlier = None if again else _earlier(store, fingerprint)
    if earlier and LATENCY in earlier.outcome.metrics:
        return earlier
    prepare_mlflow(store)
    dead = [] if earlier else _settle_dead(store, fingerprint)
    attempt = earlier.attempt if earlier else _open_attempt(store, name, experiment, manifest, tags)
    deliverer = DelivererThread(store)
    for each in (*dead, attempt):
        deliverer.register(each)
    try:
        if earlier is None:
            _run(experiment, attempt, [] if again else dead, report)
        outcome = attempt.outcome()
        if outcome and outcome.status == "complete":
            clip = divided(experiment, manifest)["val"][0].clip_path
            attempt.add_metrics(profiling.measure_latency(load_model(attempt.model), clip))
    except (
        KeyboardInterrupt
    ):  # a run that was complete, and not timed yet, is timed when it is asked for again
        if attempt.outcome() is None:
            attempt.finish(Outcome("interrupted", "interrupted: asked to stop", {}, now_ms()))
        raise
    finally:
        deliverer.close()
    return _delivered(attempt, store, deliverer, reused=earlier is not None)


def _run(experiment: ExperimentConfig, attempt: Attempt, dead: Sequence[Attempt], report: Report) -> None:
    """Trains, from where the newest of these runs was cut that has finished an epoch."""
    with attempt.running():
        unfinished = next((left for left in dead if left.checkpoint.is_dir()), None)
        if unfinished:
            attempt.take_checkpoint(unfinished)
            logger.info("going on from the last epoch of the same run, which was cut short")
        with disable_autologging():  # of a program that calls this
            run_experiment(experiment, attempt, report)


def _delivered(attempt: Attempt, store: Store, deliverer: DelivererThread, *, reused: bool) -> TrainResult:
    """Makes the model known to MLflow, where that has taken the run."""
    outcome = attempt.outcome()
    assert outcome is not None
    if deliverer.undelivered:
        logger.info("MLflow did not take the run: it is in its folder only")
    elif outcome.status == "complete":
        try:
            deliver_model(Deliverer(store), attempt)
        except InputError as error:  # the run's folder still has it
            logger.warning(error)
    return TrainResult(attempt, outcome, Deliverer(store).receipt(attempt).run_id, reused)


def _open_attempt(
    store: Store, name: str, experiment: ExperimentConfig, manifest: Manifest, tags: Mapping[str, str]
) -> Attempt:
    """A new attempt folder with its identity."""
    attempt = store.attempt(TRAIN, f"{name}-{now_ms()}-{uuid.uuid4().hex[:6]}")
    attempt.create(
        Identity(
            id=uuid.uuid4().hex,
            experiment=experiment_name(experiment),
            run_name=train_name(name, config.dump(experiment)),
            parent=None,
            started_ms=now_ms(),
            tags={**tags, "vidclf.file": name},
            dataset=dataset_record(experiment, manifest),
        )
    )
    return attempt


def _settle_dead(store: Store, fingerprint: str) -> list[Attempt]:
    """Marks runs of the same config and clips whose process has died as interrupted; no other command does.

    Returns:
        All that were interrupted, the newest first.
    """
    dead = []
    for attempt in _runs(store, fingerprint):
        outcome = attempt.outcome()
        if outcome is None and not attempt.settle_dead():
            continue  # it is running
        if outcome is None or outcome.status == "interrupted":
            dead.append(attempt)
    return dead


def _runs(store: Store, fingerprint: str) -> Iterator[Attempt]:
    """Runs of the same config on the same clips, the newest first."""
    found = [
        (identity.started_ms, attempt)
        for attempt, identity in store.all_attempts()
        if attempt.folder.parent.name == TRAIN and identity.tags.get(_FINGERPRINT) == fingerprint
    ]
    for _, attempt in sorted(found, key=lambda run: -run[0]):
        yield attempt


def _earlier(store: Store, fingerprint: str) -> TrainResult | None:
    """The newest complete run of the same config on the same clips."""
    for attempt in _runs(store, fingerprint):
        outcome = attempt.outcome()
        if outcome and outcome.status == "complete" and attempt.model.exists():
            return TrainResult(attempt, outcome, Deliverer(store).receipt(attempt).run_id, reused=True)
    return None
