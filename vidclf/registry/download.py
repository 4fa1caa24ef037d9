"""Downloads the record of an attempt that ran on another machine from MLflow."""

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import cast

import mlflow.artifacts
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from vidclf.exceptions import InputError
from vidclf.registry.resolve import model_of_run
from vidclf.runs.folder import Attempt, Identity, Outcome, Status
from vidclf.runs.store import TRAIN, Store, open_store, without_password
from vidclf.search.record.study import OpenStudy
from vidclf.tracking.background import REFUSALS
from vidclf.tracking.deliverer import (
    NOTE_TAG,
    PARENT_TAG,
    REASON_TAG,
    STATUS_TAG,
    Deliverer,
)
from vidclf.tracking.delivery_state import DeliveryState, file_stamp
from vidclf.tracking.lookup import ATTEMPT_TAG, embedded, mlflow_exists
from vidclf.tracking.views import STANDING_TAG

_COURSE = re.compile(r"(repeat/\d+/)?epoch/|repeat/val/|mean/")
"""Metrics of the course of a run, which are not among its final ones."""


def fetch_trial(opened: OpenStudy, number: int) -> Attempt:
    """A trial's folder; where the study ran in another store, made from what its MLflow has of it.

    Costs a download of the run's artifacts and of its model, once.

    Raises:
        InputError: MLflow does not have it either.
    """
    attempt = opened.attempt(number)
    if attempt.exists():
        return attempt
    deliverer = Deliverer(opened.store)
    run = _run(deliverer, opened.attempt_id(number), opened.stored["experiment"])
    if run is None:
        raise InputError(
            f"trial {number} of {opened.name} ran in another store: its folder is not in "
            f"{opened.store.folder}, and {without_password(opened.store.mlflow_uri)} has no run of it; "
            "repeat this with --store where the study ran"
        )
    _fetch(deliverer, run, attempt)
    return attempt


def fetch_run(store: Store, run_id: str) -> Attempt | None:
    """A run's folder, made from what a tracking server has of it; ``None`` where that knows no such run."""
    if embedded(store):
        return None
    deliverer = Deliverer(store)
    try:
        run = deliverer.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in REFUSALS:
            return None
        raise
    tags = run.data.tags
    if ATTEMPT_TAG not in tags or "vidclf.role" in tags:
        return None
    series, name = TRAIN, f"fetched-{run_id}"
    if "vidclf.trial" in tags:
        series = f"{tags['vidclf.study']}-{tags[ATTEMPT_TAG][:8]}"
        name = f"{int(tags['vidclf.trial']):05d}"
    attempt = store.attempt(series, name)
    _fetch(deliverer, run, attempt)
    return attempt


def fetch_study_file(opened: OpenStudy, name: str) -> None:
    """Has a file of the study's own folder as MLflow has it now, where the study ran in another store."""
    own = opened.own_attempt
    if own.exists():
        return
    deliverer = Deliverer(opened.store)
    run = _run(deliverer, opened.attempt_id(), opened.stored["experiment"])
    if run is None or name not in {file.path for file in deliverer.client.list_artifacts(run.info.run_id)}:
        return
    own.artifacts.mkdir(parents=True, exist_ok=True)
    deliverer.client.download_artifacts(run.info.run_id, name, str(own.artifacts))


def _run(deliverer: Deliverer, attempt_id: str, experiment: str) -> Run | None:
    if not mlflow_exists(deliverer.store):
        return None
    found = deliverer.client.get_experiment_by_name(experiment)
    if found is None:
        return None
    condition = f"tags.`{ATTEMPT_TAG}` = '{attempt_id}'"
    runs = deliverer.client.search_runs([found.experiment_id], condition, ViewType.ACTIVE_ONLY, 1)
    return runs[0] if runs else None


def _fetch(deliverer: Deliverer, run: Run, attempt: Attempt) -> None:
    """Makes the folder as a whole, as what MLflow has already."""
    open_store(deliverer.store.folder)  # what only looks at models makes none
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=deliverer.store.folder) as scratch:
        made = Attempt(Path(scratch, "attempt"))
        made.create(_identity(deliverer, run))
        mlflow.artifacts.download_artifacts(
            run_id=run.info.run_id, dst_path=str(made.artifacts), tracking_uri=deliverer.store.mlflow_uri
        )
        files = {
            path.relative_to(made.artifacts).as_posix(): stamp
            for path in made.artifacts.rglob("*")
            if path.is_file() and (stamp := file_stamp(path)) is not None
        }
        (made.artifacts / made.config.name).rename(made.config)
        outputs = run.outputs.model_outputs if run.outputs else []
        if outputs:
            shutil.copytree(model_of_run(deliverer, run), made.model)
        made.finish(_outcome(run))
        DeliveryState(
            uri=deliverer.store.mlflow_uri,
            run_id=run.info.run_id,
            config=file_stamp(made.config),
            files=files,
            ended=(run.info.status, run.info.end_time),
            model_id=outputs[-1].model_id if outputs else None,
            note=run.data.tags.get(NOTE_TAG),
        ).save(made)
        attempt.folder.parent.mkdir(parents=True, exist_ok=True)
        made.folder.rename(attempt.folder)


def _identity(deliverer: Deliverer, run: Run) -> Identity:
    tags = run.data.tags
    parent = tags.get(PARENT_TAG)
    later = {ATTEMPT_TAG, REASON_TAG, STATUS_TAG, STANDING_TAG}  # what MLflow's run is given beside them
    inputs = run.inputs.dataset_inputs if run.inputs else []
    dataset = inputs[0].dataset if inputs else None
    return Identity(
        id=tags[ATTEMPT_TAG],
        experiment=deliverer.client.get_experiment(run.info.experiment_id).name,
        run_name=str(run.info.run_name),
        parent=deliverer.client.get_run(parent).data.tags.get(ATTEMPT_TAG) if parent else None,
        started_ms=run.info.start_time,
        tags={key: value for key, value in tags.items() if key not in later and not _is_mlflows(key)},
        dataset={
            "name": dataset.name,
            "digest": dataset.digest,
            "source": json.loads(dataset.source)["uri"],
            "profile": str(dataset.profile),
        }
        if dataset
        else {},
    )


def _is_mlflows(tag: str) -> bool:
    """Whether MLflow or its mirror wrote a tag; the commit comes from the attempt."""
    return tag.startswith("mlflow.") and not tag.startswith("mlflow.source.git.")


def _outcome(run: Run) -> Outcome:
    tags = run.data.tags
    status = cast(Status, tags.get(STATUS_TAG, "failed"))
    metrics = {key: value for key, value in run.data.metrics.items() if not _COURSE.match(key)}
    return Outcome(status, tags.get(REASON_TAG, ""), metrics, run.info.end_time)
