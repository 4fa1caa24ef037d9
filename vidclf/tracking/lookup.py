"""What can be known of MLflow without importing it, which takes seconds."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from vidclf.runs.folder import Attempt
from vidclf.runs.store import Store
from vidclf.runs.store_checks import filled, read_only
from vidclf.tracking.delivery_state import DeliveryState
from vidclf.tracking.relocation import adopt

ATTEMPT_TAG = "vidclf.attempt"
"""On runs and versions of models: the attempt that they mirror."""
LEDGER = "vidclf ledger"
"""The MLflow experiment whose runs are the reads of test splits, see `vidclf.tracking.ledger`."""


def embedded(store: Store) -> bool:
    """Whether MLflow's database and artifacts lie in the store's own folder."""
    return "mlflow" in store.databases


def mlflow_exists(store: Store) -> bool:
    """Whether there is an MLflow to ask; asking an embedded database that is not there would create it."""
    return not embedded(store) or filled(store.databases["mlflow"])


def run_id_of(store: Store, attempt: Attempt) -> str | None:
    """The run that mirrors an attempt in this store's MLflow, as its receipt says; see `adopt`."""
    return DeliveryState.load(attempt, store.mlflow_uri).run_id


def attempt_of(store: Store, run_id: str) -> Attempt | None:
    """The attempt that a run mirrors; ``None`` where this store has none."""
    adopt(store)
    attempts = store.all_attempts()
    return next((attempt for attempt, _ in attempts if run_id_of(store, attempt) == run_id), None)


def registered_models(store: Store) -> dict[str, list[str]]:
    """The aliases of each registered model, by its name."""
    found: dict[str, list[str]] = {}
    if not embedded(store):
        from mlflow import MlflowClient

        models = MlflowClient(store.mlflow_uri).search_registered_models()
        return {model.name: sorted(model.aliases) for model in models}
    for name, alias in _rows(
        store,
        "SELECT name, alias FROM registered_models LEFT JOIN registered_model_aliases USING (name) "
        "ORDER BY name, alias",
    ):
        found.setdefault(name, []).extend([alias] if alias else [])
    return found


@dataclass(frozen=True)
class AliasedVersion:
    """A version of a registered model that an alias points to.

    Attributes:
        alias: As ``exercises@champion``.
        tags: What it was registered with: figures of test, costs, gates.
    """

    alias: str
    version: int
    tags: Mapping[str, str]


def aliased_versions(store: Store, alias: str) -> list[AliasedVersion]:
    """What the alias points to in every model that has it, by name; nothing where the server is away."""
    if not embedded(store):
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient(store.mlflow_uri)
        try:
            models = [model for model in client.search_registered_models() if alias in model.aliases]
            found = [client.get_model_version_by_alias(model.name, alias) for model in models]
        except MlflowException:
            return []
        return [AliasedVersion(f"{each.name}@{alias}", int(each.version), each.tags) for each in found]
    tags: dict[tuple[str, int], dict[str, str]] = {}
    for name, version, key, value in _rows(
        store,
        "SELECT name, version, key, value FROM registered_model_aliases LEFT JOIN model_version_tags "
        "USING (name, version) WHERE alias = ? ORDER BY name",
        alias,
    ):
        tags.setdefault((name, version), {})[key] = value
    return [AliasedVersion(f"{name}@{alias}", version, each) for (name, version), each in tags.items()]


def is_known(store: Store, model: str, run_id: str) -> bool:
    """Whether there may be a registered model or a run of that name; a server has to be asked."""
    if not embedded(store):
        return True
    runs = _rows(store, "SELECT 1 FROM runs WHERE run_uuid = ?", run_id)
    return bool(runs or _rows(store, "SELECT 1 FROM registered_models WHERE name = ?", model))


def ledger_begun(store: Store) -> bool:
    """Whether test splits may have been read; of a server, which has to be asked, that is always so."""
    return not embedded(store) or bool(_rows(store, "SELECT 1 FROM experiments WHERE name = ?", LEDGER))


def _rows(store: Store, query: str, *values: str) -> list[Any]:
    """What an embedded database answers; nothing where there is none."""
    if not mlflow_exists(store):
        return []
    adopt(store)
    with closing(read_only(store.databases["mlflow"])) as connection:
        return connection.execute(query, values).fetchall()


def words(reads: int | None) -> str:
    """How often a test split was read, for reports; ``None``: nobody knows."""
    if reads is None:
        return "how often test was read is not known, as MLflow is away"
    if reads == 0:
        return "test was not read"
    return f"test read {reads} times" if reads > 1 else "test read once"
