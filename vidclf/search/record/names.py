"""Names of a store's studies; a local database is read without Optuna, which takes a second to import."""

import sqlite3
from contextlib import closing
from pathlib import Path

from vidclf import config
from vidclf.exceptions import InputError
from vidclf.runs.store import Store, without_password
from vidclf.runs.store_checks import filled, read_only


def study_names(store: Store) -> list[str]:
    """Names of all studies of the store, oldest first; asking creates no database."""
    if (database := store.databases.get("optuna")) is not None:
        if not filled(database):
            return []
        try:
            with closing(read_only(database)) as connection:
                rows = connection.execute("SELECT study_name FROM studies ORDER BY study_id").fetchall()
            return [name for (name,) in rows]
        except sqlite3.Error:
            pass  # being made, or damaged: Optuna makes it, or says so
    from vidclf.search.record.storage import existing_storage

    storage = existing_storage(store)
    return [study.study_name for study in storage.get_all_studies()] if storage else []


def name_of_study(name_or_file: str, store: Store) -> str:
    """Name of the existing study of that name, or that a study file names.

    Raises:
        InputError: There is none; says which there are.
    """
    name = name_or_file
    if name_or_file.endswith(".toml"):
        path = Path(name_or_file)
        tree = config.read_toml(path)
        if "model" in tree and "space" not in tree:
            raise InputError(
                f"{path}: this is an experiment; name a study or a run (vidclf compare lists both)"
            )
        name = str(tree.get("name") or path.stem)
    names = study_names(store)
    if name not in names:
        raise InputError(unknown_study(name, names, store))
    return name


def unknown_study(name: str, names: list[str], store: Store) -> str:
    """What is said of a name that is none of ``names``."""
    known = f"it has {', '.join(names)}" if names else "it has none yet: vidclf tune STUDY.toml makes one"
    where = store.folder if "optuna" in store.databases else without_password(store.optuna_uri)
    return f"{where}: no study {name}{config.did_you_mean(name, names)} ({known})"
