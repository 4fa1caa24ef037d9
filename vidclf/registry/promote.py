"""Registers a run's model under a name, and finds registered models again."""

import contextlib
import tempfile
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from vidclf.config import InputError, did_you_mean, digest
from vidclf.data import cache
from vidclf.search.record import SCORES
from vidclf.store import Attempt, Store
from vidclf.tracking.deliverer import Deliverer
from vidclf.tracking.package import deliver_model

PACKAGED = Path("artifacts", "model")
"""Where a logged model holds the folder that `vidclf.models.load_model` reads."""


class GateRefused(Exception):  # noqa: N818  (a verdict, not an error)
    """A model may not be promoted; the command line prints why and exits 3."""


@dataclass(frozen=True)
class Promotion:
    """A registered version and the alias that now points to it.

    Attributes:
        name: Registered model.
        version: Its version.
        alias: The alias that was set.
        run_id: MLflow run of the model.
        created: False where this run's model was registered before.
    """

    name: str
    version: int
    alias: str
    run_id: str
    created: bool


def promote(store: Store, attempt: Attempt, name: str, alias: str = "champion") -> Promotion:
    """Registers the attempt's model as the first version of ``name``.

    Raises:
        GateRefused: ``name`` already has a version made from another run.
        InputError: The attempt kept no model, or MLflow does not take the name.
    """
    deliverer = Deliverer(store)
    client = deliverer.client
    versions = _versions(client, name)
    known = deliverer.receipt(attempt).run_id
    own = [version for version in versions if version.run_id == known]
    if versions and not own:
        newest = max(int(version.version) for version in versions)
        raise GateRefused(
            f"{name} already has version {newest}, made from another run, and comparing a model with a "
            "champion is not in this version of vidclf: choose another --as NAME"
        )
    model_id = deliver_model(deliverer, attempt)
    run_id = str(deliverer.receipt(attempt).run_id)
    try:
        version = own[0] if own else _register(client, attempt, name, model_id, run_id)
        client.set_registered_model_alias(name, alias, str(version.version))
    except MlflowException as error:
        raise InputError(f"{name}@{alias}: MLflow does not take it: {error.message}") from None
    return Promotion(name, int(version.version), alias, run_id, created=not own)


def _register(client: MlflowClient, attempt: Attempt, name: str, model_id: str, run_id: str) -> ModelVersion:
    with contextlib.suppress(MlflowException):  # it exists, without a version
        client.create_registered_model(name)
    identity = attempt.identity()
    outcome = attempt.outcome()
    scores = (
        {
            f"val/{name}": str(outcome.metrics[f"val/{name}"])
            for name in SCORES
            if f"val/{name}" in outcome.metrics
        }
        if outcome
        else {}
    )
    tags = {**identity.tags, **scores, "vidclf.attempt": identity.id, "test": "not read"}
    # Not models:/ID, which an embedded registry looks up in mlflow's global tracking store, not in this one.
    source = client.get_logged_model(model_id).artifact_location
    return client.create_model_version(name, source, run_id, tags=tags, model_id=model_id)


def _versions(client: MlflowClient, name: str) -> Sequence[ModelVersion]:
    quoted = name.replace("'", "''")
    return client.search_model_versions(f"name = '{quoted}'")


def resolve_model(store: Store, reference: str) -> Path:
    """The local folder of a saved model.

    Args:
        store: Where runs and the registry are.
        reference: ``NAME@alias``, ``NAME/3``, a run id, or a folder.

    Raises:
        InputError: There is no such model; says what there is.
    """
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return folder / "model" if (folder / "attempt.json").exists() else folder
    deliverer = Deliverer(store)
    if "@" in reference or "/" in reference:
        return _registered(deliverer, reference)
    return _of_run(deliverer, reference)


def _registered(deliverer: Deliverer, reference: str) -> Path:
    client = deliverer.client
    name, at, alias = reference.rpartition("@")
    try:
        if at:
            found = client.get_model_version_by_alias(name, alias)
        else:
            name, _, number = reference.rpartition("/")
            found = client.get_model_version(name, number)
    except MlflowException:
        raise InputError(_unknown(client, reference)) from None
    return _download(deliverer, client.get_model_version_download_uri(found.name, str(found.version)))


def _of_run(deliverer: Deliverer, run_id: str) -> Path:
    for attempt in deliverer.store.all_attempts():
        if deliverer.receipt(attempt).run_id == run_id and attempt.model.is_dir():
            return attempt.model
    try:
        run = deliverer.client.get_run(run_id)
    except MlflowException:
        raise InputError(_unknown(deliverer.client, run_id)) from None
    outputs = run.outputs.model_outputs if run.outputs else []
    if not outputs:
        raise InputError(f"{run_id}: this run kept no model")
    return _download(deliverer, deliverer.client.get_logged_model(outputs[-1].model_id).artifact_location)


def _download(deliverer: Deliverer, location: str) -> Path:
    """The packaged model's folder; files that lie on this machine are not copied."""
    url = urllib.parse.urlsplit(location)
    if url.scheme == "file":
        return Path(urllib.parse.unquote(url.path)) / PACKAGED
    folder = cache.folder() / "models" / digest([deliverer.store.mlflow_uri, location])
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as scratch:
            downloaded = mlflow.artifacts.download_artifacts(
                artifact_uri=location, dst_path=scratch, tracking_uri=deliverer.store.mlflow_uri
            )
            Path(downloaded).replace(folder)
    return folder / PACKAGED


def _unknown(client: MlflowClient, reference: str) -> str:
    known = [
        f"{model.name}@{alias}"
        for model in client.search_registered_models()
        for alias in sorted(model.aliases)
    ]
    exists = (
        f"registered: {', '.join(known)}" if known else "nothing is registered yet: vidclf promote does it"
    )
    return (
        f"{reference}: no such model, run or folder{did_you_mean(reference, known)} ({exists}; "
        "else give NAME/VERSION, a run id or a folder)"
    )
