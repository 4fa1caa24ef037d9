"""Mirrors attempt folders to MLflow: idempotent, so it may stop anywhere and start again."""

import contextlib
import importlib.util
import json
import logging
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    InputTag,
    LifecycleStage,
    Metric,
    Param,
    Run,
    RunStatus,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.tracking._tracking_service import utils as mlflow_utils
from sqlalchemy.exc import SQLAlchemyError

from vidclf import config
from vidclf.exceptions import InputError
from vidclf.runs.folder import Attempt, Identity
from vidclf.runs.store import Store, locked, without_password
from vidclf.tracking.delivery_state import DeliveryState, PendingDelivery
from vidclf.tracking.lookup import ATTEMPT_TAG, embedded
from vidclf.tracking.relocation import adopt
from vidclf.tracking.run_description import run_note

log = logging.getLogger(__name__)

REASON_TAG = "vidclf.reason"
STATUS_TAG = "vidclf.status"
"""The attempt's own status: MLflow shows a pruned run and a failed one with the same sign."""
PARENT_TAG = "mlflow.parentRunId"
IMAGES_TAG = "mlflow.loggedImages"
NOTE_TAG = "mlflow.note.content"
"""The run's description, in Markdown."""
NOTE_FILE = "README.md"
"""The artifact that is also the description: when it changes, so does that."""
NOTE_CUT = 8000
"""Characters of a tag's value that MLflow keeps."""

BATCH = 1000
"""Most metrics that one MLflow request takes."""
_REFUSED_IN_KEYS = re.compile(r"[^/\w.\- :]|(?<![^/])\.+(?![^/])|(?<![^/])/|/$")
"""Characters that MLflow has in no key, and parts between slashes that are empty or only dots."""
_DIGITS = 6
"""Significant digits of a metric in MLflow, whose table cuts what is longer; the run's folder has all."""
_KEY_CUT = 250
"""Characters of a key that MLflow keeps."""
PARAM_CUT = 6000
"""Characters of a param's value that MLflow keeps."""
RUNNING = RunStatus.to_string(RunStatus.RUNNING)


def prepare(store: Store) -> None:
    """Creates the database, before several processes open it: a fresh SQLite does not survive that.

    Costs some seconds on a fresh store, milliseconds later. A database is never seen half made.

    Raises:
        InputError: MLflow cannot be reached, or its database belongs to another version.
    """
    try:
        with locked(store.folder):
            database = store.folder / "mlflow.db"
            if embedded(store) and not database.exists():
                with tempfile.TemporaryDirectory(prefix=".new-", dir=store.folder) as scratch:
                    fresh = Path(scratch, database.name)
                    MlflowClient(f"sqlite:///{fresh}").search_experiments(max_results=1)
                    fresh.replace(database)
            MlflowClient(store.mlflow_uri).search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError) as error:
        raise InputError(f"{without_password(store.mlflow_uri)}: MLflow cannot be used: {error}") from None


def check_reachable(location: str) -> None:
    """Refuses a place of files that this process has no means to read and write.

    Raises:
        InputError: It is in S3, and boto3 is not installed.
    """
    if location.startswith("s3:") and importlib.util.find_spec("boto3") is None:
        raise InputError(f'MLflow keeps files in {location}, which needs pip install "vidclf[server]"')


class Deliverer:
    """Sends attempt folders' news to MLflow.

    A run is found by its attempt's tag, so delivering again after an interruption at any point neither
    repeats nor loses anything. What the user deleted stays deleted.
    """

    def __init__(self, store: Store) -> None:
        adopt(store)
        # MLflow keeps these by run alone, and a copied store has the same runs.
        getattr(mlflow_utils, "_artifact_repos_cache", {}).clear()
        self.store = store
        self._experiments: dict[str, Experiment] = {}
        self._runs: dict[str, str] = {}
        self._checked: set[Path] = set()

    @cached_property
    def client(self) -> MlflowClient:
        """Connects on first use, so that MLflow may be away before."""
        return MlflowClient(self.store.mlflow_uri)

    def deliver(self, attempt: Attempt) -> str | None:
        """Sends what is new.

        Costs a look at the folder where nothing is.

        Returns:
            The run's id; ``None`` where there was news and the user had deleted the run or its experiment.
        """
        identity = attempt.identity()
        with locked(attempt.folder):
            receipt = DeliveryState.load(attempt, self.store.mlflow_uri)
            news = PendingDelivery.of(attempt, receipt)
            open_and_unchecked = news.outcome is None and attempt.folder not in self._checked
            if not news.any(receipt) and not open_and_unchecked:
                return receipt.run_id
            run = self._run(attempt, identity, receipt)
            if run is None or run.info.lifecycle_stage != LifecycleStage.ACTIVE:
                return None
            self._send(attempt, identity, receipt, news, run)
            self._checked.add(attempt.folder)
            return receipt.run_id

    def receipt(self, attempt: Attempt) -> DeliveryState:
        """What this store's MLflow has of the attempt."""
        return DeliveryState.load(attempt, self.store.mlflow_uri)

    def experiment(self, name: str) -> Experiment | None:
        """The experiment, created where it does not exist; ``None`` where the user deleted it."""
        if name not in self._experiments:
            found = self.client.get_experiment_by_name(name) or self._create_experiment(name)
            if found.lifecycle_stage != LifecycleStage.ACTIVE:
                log.warning("the experiment %s was deleted in MLflow; its runs are not delivered", name)
                return None
            check_reachable(found.artifact_location)
            self._experiments[name] = found
        return self._experiments[name]

    def _create_experiment(self, name: str) -> Experiment:
        location = None
        if embedded(self.store):
            location = self.store.artifact_folder(name).as_uri()
        # Another process may create it at the same moment; the name is unique in MLflow.
        with contextlib.suppress(MlflowException):
            self.client.create_experiment(name, artifact_location=location)
        created = self.client.get_experiment_by_name(name)
        if created is None:
            raise MlflowException(f"the experiment {name} cannot be created")
        return created

    def _parent_run(self, identity: Identity) -> str | None:
        """The run of the study that the attempt belongs to, delivered first where MLflow lacks it.

        Returns:
            Its id; ``None`` outside studies, and where the supervisor that leads the study has not delivered
            it yet.
        """
        if identity.parent is None:
            return None
        if identity.parent not in self._runs:
            for attempt, whose in self.store.all_attempts():
                if whose.id == identity.parent:
                    self.deliver(attempt)
                    run_id = self.receipt(attempt).run_id
                    if run_id is not None:
                        self._runs[identity.parent] = run_id
        if identity.parent not in self._runs and (experiment := self.experiment(identity.experiment)):
            found = self._find(experiment, identity.parent)
            if found is not None:
                self._runs[identity.parent] = found.info.run_id
        return self._runs.get(identity.parent)

    def _find(self, experiment: Experiment, attempt_id: str) -> Run | None:
        found = self.client.search_runs(
            [experiment.experiment_id], f"tags.`{ATTEMPT_TAG}` = '{attempt_id}'", ViewType.ALL, 1
        )
        return found[0] if found else None

    def _run(self, attempt: Attempt, identity: Identity, receipt: DeliveryState) -> Run | None:
        """The attempt's run: remembered, found by its tag, or created; ``None`` where it is gone."""
        if receipt.run_id is not None:
            try:
                return self.client.get_run(receipt.run_id)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise
        experiment = self.experiment(identity.experiment)
        if experiment is None:
            return None
        run = self._find(experiment, identity.id) or self._create_run(experiment, attempt, identity)
        receipt.run_id = run.info.run_id
        receipt.save(attempt)
        return run

    def _create_run(self, experiment: Experiment, attempt: Attempt, identity: Identity) -> Run:
        parent = self._parent_run(identity)
        tags = {
            ATTEMPT_TAG: identity.id,
            "mlflow.source.name": "vidclf",
            "mlflow.source.type": "LOCAL",
            **({PARENT_TAG: parent} if parent else {}),
            **({IMAGES_TAG: "True"} if _has_images(attempt) else {}),
            **identity.tags,
        }
        return self.client.create_run(
            experiment.experiment_id, identity.started_ms, tags, run_name=identity.run_name
        )

    def _send(
        self, attempt: Attempt, identity: Identity, receipt: DeliveryState, news: PendingDelivery, run: Run
    ) -> None:
        if news.config or (identity.params and not run.data.params):
            self._send_params(attempt, identity, run)
            receipt.config = news.config
            receipt.save(attempt)
        self._send_metrics(attempt, receipt, news.lines)
        if identity.dataset and not (run.inputs and run.inputs.dataset_inputs):
            self.client.log_inputs(run.info.run_id, [_dataset_input(identity.dataset)])
        for name, (path, stamp) in news.files.items():
            with contextlib.suppress(FileNotFoundError):
                folder = Path(name).parent.as_posix()
                self.client.log_artifact(run.info.run_id, str(path), None if folder == "." else folder)
                receipt.files[name] = stamp
        self._send_tags(attempt, identity, receipt, news, run)
        self._send_status(news, run)
        receipt.ended = news.ended
        receipt.save(attempt)

    def _send_params(self, attempt: Attempt, identity: Identity, run: Run) -> None:
        params = identity.params or config.flatten(config.read_toml(attempt.config))
        missing = [
            Param(key, (value if isinstance(value, str) else json.dumps(value, default=str))[:PARAM_CUT])
            for key, value in params.items()
            if key not in run.data.params
        ]
        self.client.log_batch(run.info.run_id, params=missing)

    def _send_metrics(
        self, attempt: Attempt, receipt: DeliveryState, lines: Sequence[tuple[int, bytes]]
    ) -> None:
        """Sends journal lines; MLflow's database drops a metric that it already has."""
        batch: list[Metric] = []
        end = receipt.offset
        for offset, line in lines:
            metrics = _metrics(line, attempt.journal)
            if batch and len(batch) + len(metrics) > BATCH:
                self._send_batch(attempt, receipt, batch, end)
                batch = []
            batch += metrics
            end = offset
        if lines:
            self._send_batch(attempt, receipt, batch, end)

    def _send_batch(self, attempt: Attempt, receipt: DeliveryState, batch: list[Metric], offset: int) -> None:
        if batch:
            self.client.log_batch(str(receipt.run_id), metrics=batch)
        receipt.offset = offset
        receipt.save(attempt)

    def _send_tags(
        self, attempt: Attempt, identity: Identity, receipt: DeliveryState, news: PendingDelivery, run: Run
    ) -> None:
        outcome = news.outcome
        tags = {
            REASON_TAG: outcome.reason if outcome else "",
            STATUS_TAG: outcome.status if outcome else "running",
        }
        if _has_images(attempt):
            tags[IMAGES_TAG] = "True"
        if PARENT_TAG not in run.data.tags and (parent := self._parent_run(identity)):
            tags[PARENT_TAG] = parent
        if NOTE_FILE in news.files:  # else what the user has written there stays
            tags[NOTE_TAG] = _note(news.files[NOTE_FILE][0])
        elif outcome and NOTE_FILE not in receipt.files and run.data.tags.get(NOTE_TAG) == receipt.note:
            receipt.note = tags[NOTE_TAG] = run_note(self.store, attempt, identity, outcome)
        changed = [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key, "") != value]
        if changed:
            self.client.log_batch(run.info.run_id, tags=changed)

    def _send_status(self, news: PendingDelivery, run: Run) -> None:
        if news.ended is None:
            if run.info.status != RUNNING:
                self.client.update_run(run.info.run_id, status=RUNNING)
        elif (run.info.status, run.info.end_time) != news.ended:
            status, ended_ms = news.ended
            self.client.set_terminated(run.info.run_id, status, ended_ms)


def _has_images(attempt: Attempt) -> bool:
    folder = attempt.artifacts / "images"
    return folder.is_dir() and any(folder.iterdir())


def _note(path: Path) -> str:
    """The description; a long one ends with its last whole line that fits."""
    text = path.read_text(encoding="utf-8")
    if len(text) <= NOTE_CUT:
        return text
    rest = f"\n\n*The rest is in the artifact {NOTE_FILE}.*"
    shown = text[: NOTE_CUT - len(rest) - len("\n```")].rpartition("\n")[0]
    return shown + ("\n```" if shown.count("```") % 2 else "") + rest


def _dataset_input(dataset: Mapping[str, str]) -> DatasetInput:
    source = json.dumps({"uri": dataset["source"]})
    logged = Dataset(dataset["name"], dataset["digest"], "local", source, profile=dataset["profile"])
    return DatasetInput(logged, [InputTag("mlflow.data.context", "training")])


def metric_key(key: str) -> str:
    """The key as MLflow takes it: with ``_`` for what it refuses, as brackets in the name of a class.

    A changed key ends in a digest of the whole, so that the classes ``a+b`` and ``a=b`` keep a metric each.
    """
    plain = _REFUSED_IN_KEYS.sub("_", key)
    if plain == key and len(key) <= _KEY_CUT:
        return key
    ending = f":{config.digest(key)[:8]}"
    return plain[: _KEY_CUT - len(ending)] + ending


def _metrics(line: bytes, journal: Path) -> list[Metric]:
    try:
        entry = json.loads(line)
        return [
            Metric(metric_key(key), float(f"{value:.{_DIGITS}g}"), entry["time_ms"], entry["step"])
            for key, value in entry["metrics"].items()
            if math.isfinite(value)
        ]
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s: a line is not a record of metrics and is left out: %s", journal, error)
        return []
