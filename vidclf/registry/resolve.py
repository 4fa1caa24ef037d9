"""Resolves a model reference: registered name with alias or version, run id, or folder."""

import tempfile
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

from vidclf.config import did_you_mean, digest
from vidclf.data import cache
from vidclf.exceptions import InputError
from vidclf.runs.store import Store, locked
from vidclf.search.record.names import study_names
from vidclf.tracking.lookup import attempt_of, is_known, registered_models

if TYPE_CHECKING:  # a folder's model, and one of a run that is here, need no MLflow, which takes seconds
    from mlflow.entities import Run

    from vidclf.tracking.deliverer import Deliverer

CARD_TAG = "vidclf.card_digest"
"""Tag of a version: `card_digest` of its model when it was registered."""
PACKAGED = Path("artifacts", "model")
"""Where a logged model holds the folder that `vidclf.models.load_model` reads."""


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
    registered = "@" in reference or "/" in reference
    if not registered and (attempt := attempt_of(store, reference)) and attempt.model.is_dir():
        return attempt.model
    if not is_known(store, reference.rpartition("@" if "@" in reference else "/")[0], reference):
        raise InputError(_unknown(store, reference))
    from vidclf.tracking.deliverer import Deliverer

    return (_registered if registered else _of_run)(Deliverer(store), reference)


def _registered(deliverer: "Deliverer", reference: str) -> Path:
    from mlflow.exceptions import MlflowException

    client = deliverer.client
    name, at, alias = reference.rpartition("@")
    try:
        if at:
            found = client.get_model_version_by_alias(name, alias)
        else:
            name, _, number = reference.rpartition("/")
            found = client.get_model_version(name, number)
    except MlflowException:
        raise InputError(_unknown(deliverer.store, reference)) from None
    return version_folder(deliverer, found.name, int(found.version))


def version_folder(deliverer: "Deliverer", name: str, version: int) -> Path:
    """The local folder of a registered version's saved model.

    Raises:
        InputError: Its card is not the one that was registered: the classes may have been edited.
    """
    from vidclf.models.saved import CARD, card_digest

    folder = _download(deliverer, deliverer.client.get_model_version_download_uri(name, str(version)))
    registered = deliverer.client.get_model_version(name, str(version)).tags.get(CARD_TAG)
    if registered is not None and (folder / CARD).exists() and card_digest(folder) != registered:
        raise InputError(
            f"{folder / CARD} was changed after it was registered as {name} version {version}: its classes "
            "may not be those that the model has learned; put the file back, or train and promote again"
        )
    return folder


def _of_run(deliverer: "Deliverer", run_id: str) -> Path:
    from mlflow.exceptions import MlflowException

    try:
        run = deliverer.client.get_run(run_id)
    except MlflowException:
        raise InputError(_unknown(deliverer.store, run_id)) from None
    return model_of_run(deliverer, run)


def model_of_run(deliverer: "Deliverer", run: "Run") -> Path:
    """The local folder of the saved model that a run's logged model holds.

    Raises:
        InputError: It has none.
    """
    outputs = run.outputs.model_outputs if run.outputs else []
    if not outputs:
        raise InputError(f"{run.info.run_id}: this run kept no model")
    return _download(deliverer, deliverer.client.get_logged_model(outputs[-1].model_id).artifact_location)


def _download(deliverer: "Deliverer", location: str) -> Path:
    """The packaged model's folder; files that lie on this machine are not copied."""
    import mlflow.artifacts

    from vidclf.tracking.deliverer import check_reachable

    check_reachable(location)
    url = urllib.parse.urlsplit(location)
    if url.scheme == "file":
        return Path(urllib.parse.unquote(url.path)) / PACKAGED
    folder = cache.folder() / "models" / digest([deliverer.store.mlflow_uri, location])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent):  # who comes second waits, and finds it there
        if not folder.exists():
            with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as scratch:
                downloaded = mlflow.artifacts.download_artifacts(
                    artifact_uri=location, dst_path=scratch, tracking_uri=deliverer.store.mlflow_uri
                )
                Path(downloaded).replace(folder)
    return folder / PACKAGED


def _unknown(store: Store, reference: str) -> str:
    study = reference.removesuffix(".toml").rpartition("/")[2]
    if study in study_names(store):
        return f"{reference}: a study, not a model; register its best first: vidclf promote {study} --as NAME"
    models = registered_models(store)
    known = [f"{name}@{alias}" for name, aliases in models.items() for alias in aliases]
    exists = (
        f"registered: {', '.join(known)}" if known else "nothing is registered yet: vidclf promote does it"
    )
    name, names = reference.partition("/")[0], list(models)
    alike = did_you_mean(reference, known) or ("" if name in names else did_you_mean(name, names))
    return (
        f"{reference}: no such model, run or folder{alike} ({exists}; "
        "else give NAME/VERSION, a run id or a folder)"
    )
