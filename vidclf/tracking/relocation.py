"""Repairs the absolute artifact paths in MLflow's database after a store was moved or copied."""

import logging
import sqlite3
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from vidclf.exceptions import InputError
from vidclf.runs.folder import Attempt
from vidclf.runs.store import Store, locked
from vidclf.runs.store_checks import Note, Problem, filled, read_only
from vidclf.tracking.delivery_state import DeliveryState

logger = logging.getLogger(__name__)

_PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)
"""Tables and columns that hold them."""


def moved_stores(store: Store, note: Note) -> Iterator[Problem]:
    """Places that the store was at before, as MLflow's database remembers them."""
    database = store.databases.get("mlflow")
    if database is None:
        note("MLflow is a server: where its artifacts lie is not checked")
        return
    if not filled(database):
        return
    for old, folders in sorted(_old_places(store, database).items()):
        here = [name for name in folders if (store.artifacts / name).is_dir()]
        left = [name for name in folders if name not in here and (old / "artifacts" / name).is_dir()]
        if left:
            yield Problem(
                str(old),
                f"MLflow looks for {', '.join(left)} there and not in {store.folder}: move "
                f"{old / 'artifacts'} to {store.artifacts}",
                blocks=frozenset(("mlflow",)),
            )
        else:
            yield Problem(
                str(old),
                f"MLflow looks for artifacts there, but the store is at {store.folder}: its paths are to be "
                "rewritten, after a backup of mlflow.db",
                partial(_follow, store, database, old),
                frozenset(("mlflow",)),
            )


def adopt(store: Store) -> None:
    """Makes a moved or copied store its own, with a word to the user: it would use the original's files.

    Raises:
        InputError: Some of its artifacts were left behind, or MLflow's database is damaged.
    """
    try:
        moved = list(moved_stores(store, lambda _: None))
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"{store.databases['mlflow']}: cannot be read ({error}); vidclf doctor says what can be done"
        ) from None
    for problem in moved:
        if problem.mend is None:
            raise InputError(f"{store.folder}: {problem.detail}")
        logger.warning(f"{store.folder} was moved or copied from {problem.where}: its paths are rewritten")
        problem.mend()


def _old_places(store: Store, database: Path) -> dict[Path, list[str]]:
    """Folders of experiments by the store's folder that MLflow takes them to be in, where it is another."""
    places: dict[Path, list[str]] = {}
    with closing(read_only(database)) as connection:
        for name, location in connection.execute("SELECT name, artifact_location FROM experiments"):
            url = urllib.parse.urlsplit(location or "")
            path = Path(urllib.parse.unquote(url.path))
            if url.scheme != "file" or path.parent.name != "artifacts":
                continue
            ours = path.name == store.artifact_folder(name).name or (store.artifacts / path.name).is_dir()
            if ours and not _same(path.parent, store.artifacts):
                places.setdefault(path.parent.parent, []).append(path.name)
    return places


def _same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder, through links or mounts too."""
    return one.resolve() == other.resolve() or (one.is_dir() and other.is_dir() and one.samefile(other))


def _follow(store: Store, database: Path, old: Path) -> None:
    """Rewrites the paths in one transaction, and takes the receipts along."""
    before, after = f"{(old / 'artifacts').as_uri()}/", f"{store.artifacts.as_uri()}/"
    with locked(store.folder):
        if old not in _old_places(store, database):
            return  # another process has been quicker
        backup = database.with_name(f"mlflow-{time.strftime('%Y%m%d-%H%M%S')}.backup.db")
        with closing(sqlite3.connect(database, timeout=60)) as connection:
            with closing(sqlite3.connect(backup)) as copy:
                connection.backup(copy)
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                for table, column in _PATHS:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE substr({column}, 1, ?) = ?",
                        (after, len(before) + 1, len(before), before),
                    )
    # Else every attempt would be delivered once more: a receipt names the database that it is about.
    for path in store.attempts.glob("*/*/delivery.json"):
        attempt = Attempt(path.parent)
        receipt = DeliveryState.load(attempt, f"sqlite:///{old / 'mlflow.db'}")
        if receipt.run_id is not None:
            receipt.uri = store.mlflow_uri
            receipt.save(attempt)
