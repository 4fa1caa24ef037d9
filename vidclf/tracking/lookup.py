"""What can be known of MLflow without importing it, which takes seconds."""

from contextlib import closing

from vidclf.runs.folder import Attempt
from vidclf.runs.store import Store
from vidclf.runs.store_checks import filled, read_only
from vidclf.tracking.delivery_state import DeliveryState
from vidclf.tracking.relocation import adopt

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


def ledger_begun(store: Store) -> bool:
    """Whether test splits may have been read; of a server, which has to be asked, that is always so."""
    if not embedded(store) or not mlflow_exists(store):
        return not embedded(store)
    adopt(store)
    with closing(read_only(store.databases["mlflow"])) as connection:
        found = connection.execute("SELECT 1 FROM experiments WHERE name = ?", (LEDGER,)).fetchone()
    return found is not None


def words(reads: int) -> str:
    """How often a test split was read, for reports."""
    if reads == 0:
        return "test was not read"
    return f"test read {reads} times" if reads > 1 else "test read once"
