"""Checks of a store's own files and of the caches; needs neither Optuna nor MLflow."""

import contextlib
import importlib.util
import math
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from vidclf.data import cache
from vidclf.exceptions import InputError
from vidclf.runs.folder import Attempt, Identity, Outcome, journal_entry, now_ms
from vidclf.runs.store import FORMAT, TRAIN, Store

Part = Literal["store", "mlflow", "optuna"]
"""What a check reads: the folders, or a database."""
Note = Callable[[str], None]
"""Told of what was left out, and why."""

STALE_MS = 3_600_000
"""Files that were not touched for so long are no longer being written."""
SETTLING_MS = 60_000
"""What began or ended so recently is still on its way."""
_MIGRATIONS = {
    "mlflow": ("store", "db_migrations", "versions"),
    "optuna": ("storages", "_rdb", "alembic", "versions"),
}
"""Where a library keeps its migrations, each in a file that its revision's name begins."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: Study, run or path.
        detail: What is wrong and what would mend it, in words.
        mend: Mends it, and may be called again; ``None`` where only the user can.
        blocks: What cannot be looked into until it is mended.
    """

    where: str
    detail: str
    mend: Callable[[], object] | None = None
    blocks: frozenset[Part] = frozenset()


def newer_stores(store: Store, note: Note) -> Iterator[Problem]:
    """A store whose files a later vidclf wrote."""
    everything: frozenset[Part] = frozenset(("store", "mlflow", "optuna"))
    try:
        found = store.format()
    except InputError as error:
        yield Problem(str(store.format_file), str(error), blocks=everything)
        return
    if found > FORMAT:
        detail = f"a later vidclf made this store: format {found}, this version reads {FORMAT}; install that"
        yield Problem(str(store.folder), detail, blocks=everything)


def damaged_databases(store: Store, note: Note) -> Iterator[Problem]:
    """Embedded databases that SQLite cannot read from end to end."""
    for name in ("mlflow", "optuna"):
        path = store.databases.get(name)
        if path is None:
            note(f"{name}'s database is a server's: whether it is whole is not checked")
        elif filled(path) and (damage := _damage(path)):
            yield Problem(
                str(path),
                f"SQLite cannot read it: {damage}; keep a copy, then put a backup in its place, or save "
                f"what is left with: sqlite3 {path.name} .recover",
                blocks=frozenset((_part(name),)),
            )


def unknown_versions(store: Store, note: Note) -> Iterator[Problem]:
    """Embedded databases that a later MLflow or Optuna than the installed one has written."""
    for name, path in store.databases.items():
        package = importlib.util.find_spec(name)
        if not filled(path) or package is None or package.origin is None:
            continue
        migrations = Path(package.origin).parent.joinpath(*_MIGRATIONS[name])
        with closing(read_only(path)) as connection:
            try:
                revisions = [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]
            except sqlite3.DatabaseError:
                continue  # damaged, and reported as such, or of no version at all
        for revision in revisions:
            if migrations.is_dir() and not any(migrations.glob(f"{revision}*.py")):
                yield Problem(
                    str(path),
                    f"made by a newer {name} (schema {revision}) than the one installed here: install that "
                    f"one with: pip install --upgrade {name}",
                    blocks=frozenset((_part(name),)),
                )


def torn_files(store: Store, note: Note) -> Iterator[Problem]:
    """Files of attempts that do not hold what they should."""
    for folder in sorted(store.attempts.glob("*/*/")):
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            yield from _torn(Attempt(folder))


def _torn(attempt: Attempt) -> Iterator[Problem]:
    folder = attempt.folder
    if not attempt.exists():
        if (folder / "result.json").exists() or attempt.journal.exists():
            yield Problem(str(folder), "an attempt without attempt.json: nothing says what it is")
        return
    for name, read, then in (
        ("attempt.json", attempt.identity, "restore it, or move the folder away"),
        ("result.json", attempt.outcome, "delete it, and the attempt counts as unfinished"),
    ):
        try:
            read()
        except InputError:
            yield Problem(str(folder / name), f"is damaged; {then}")
    for number in _bad_lines(attempt.journal):
        yield Problem(
            f"{attempt.journal}:{number}", "is no record of metrics; delete the line, MLflow goes without"
        )


def _bad_lines(journal: Path) -> Iterator[int]:
    """Numbers of complete lines that are no records; a last line that was cut short is not complete."""
    if not journal.exists():
        return
    for number, line in enumerate(journal.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            return
        if journal_entry(line) is None:
            yield number


def abandoned_runs(store: Store, note: Note) -> Iterator[Problem]:
    """Attempts of `vidclf train` whose process died."""
    for attempt, identity, outcome in readable_attempts(store):
        young = now_ms() - identity.started_ms < SETTLING_MS
        if outcome is None and attempt.folder.parent.name == TRAIN and not young and not attempt.is_running():
            yield Problem(
                str(attempt.folder), "its process died: to be marked as interrupted", attempt.settle_dead
            )


def temporary_files(store: Store, note: Note) -> Iterator[Problem]:
    """Files that were being written when their process died, in the store and in the caches."""
    for own in (store.folder, cache.folder()):
        paths = sorted(own.iterdir()) if own.is_dir() else []
        yield from _left_behind(path for path in paths if _is_temporary(path.name))
    yield from temporary_below(store.attempts)
    for folder in cache.folders():
        yield from temporary_below(folder)


def files_below(folder: Path) -> Iterator[Path]:
    """Files at any depth; folders that others delete meanwhile are passed over, at which `rglob` fails."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def temporary_below(folder: Path) -> Iterator[Problem]:
    """Those of `temporary_files` in one folder, at any depth."""
    for parent, folders, files in os.walk(folder):
        names = [name for name in sorted((*folders, *files)) if _is_temporary(name)]
        folders[:] = [name for name in folders if name not in names]
        yield from _left_behind(Path(parent, name) for name in names)


def _left_behind(paths: Iterable[Path]) -> Iterator[Problem]:
    for path in paths:
        if age_ms(path) > STALE_MS:
            yield Problem(str(path), "left by a process that died while it wrote", partial(_delete, path))


def leftover_checkpoints(store: Store, note: Note) -> Iterator[Problem]:
    """States of fits that have ended, from which nothing will go on."""
    for folder in sorted(store.attempts.glob("*/*/checkpoint/")):
        attempt = Attempt(folder.parent)
        try:
            outcome = attempt.outcome()
        except InputError:
            continue
        if (
            outcome
            and outcome.status != "interrupted"
            and now_ms() - max(outcome.ended_ms, 0) > STALE_MS
            and age_ms(folder) > STALE_MS
        ):
            yield Problem(str(folder), f"its attempt is {outcome.status}", attempt.drop_checkpoint)


def cut_cache_entries(store: Store, note: Note) -> Iterator[Problem]:
    """Cached arrays shorter than they say they are; reads their headers only."""
    files = (path for folder in cache.folders() for path in files_below(folder))
    for path in sorted(path for path in files if path.suffix == ".npy"):
        try:
            whole = _is_whole(path)
        except FileNotFoundError:
            continue  # evicted meanwhile
        if not whole:
            yield Problem(str(path), "is cut short: to be deleted and computed anew", partial(_delete, path))


def _is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
            shape, _, dtype = (header or np.lib.format.read_array_header_2_0)(file)
        except ValueError:
            return False
        return path.stat().st_size == file.tell() + dtype.itemsize * math.prod(shape)


def readable_attempts(store: Store) -> Iterator[tuple[Attempt, Identity, Outcome | None]]:
    """Every attempt with its identity and outcome, but for those of `torn_files`."""
    for attempt, identity in store.all_attempts():
        with contextlib.suppress(InputError):
            yield attempt, identity, attempt.outcome()


def filled(database: Path) -> bool:
    """Whether a SQLite file was begun; an empty one is made anew by whoever opens it."""
    return database.exists() and database.stat().st_size > 0


def read_only(database: Path) -> sqlite3.Connection:
    """A connection that cannot change it."""
    return sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=60)


def _damage(database: Path) -> str:
    """What SQLite finds wrong with it; empty where nothing is."""
    try:
        with closing(read_only(database)) as connection:
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if answer == "ok" else str(answer)


def _part(name: str) -> Part:
    return "mlflow" if name == "mlflow" else "optuna"


def _is_temporary(name: str) -> bool:
    return name.endswith(".partial") or name.startswith((".writable-", ".new-"))


def age_ms(path: Path) -> float:
    """Since it last changed; none where it is gone."""
    try:
        return (time.time() - path.stat().st_mtime) * 1000
    except FileNotFoundError:
        return 0.0


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
