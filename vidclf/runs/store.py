"""The embedded store: where databases, artifacts and attempt folders lie.

Optuna decides, the folder is the record, MLflow is the mirror.
"""

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vidclf import system
from vidclf.exceptions import InputError
from vidclf.runs.folder import Attempt, Identity

logger = logging.getLogger(__name__)

FORMAT = 1
"""Of the store's own files; ``store.json`` keeps it, and a store of a later one is refused."""
_LONGEST_NAME = 200
"""Bytes; file systems take 255, and suffixes come on top."""
_SILENT_SECONDS, _POLL_SECONDS = 2.0, 0.02
"""How long one waits for a lock without a word, and how often it is tried."""
TRAIN = "train"
"""Folder of the attempts that belong to no study."""


def without_password(uri: str) -> str:
    """An address as it may be shown; hides up to the last @, as a password may hold an unquoted one."""
    hidden = re.sub(r"(?<=://)([^:/@]*):.*@", r"\1:***@", uri)
    return re.sub(r"(?<=[?&]password=)[^&]*", "***", hidden)


@dataclass(frozen=True)
class Store:
    """The folder of the embedded store (``--store``, ``VIDCLF_STORE``, default ``./mlruns``)."""

    folder: Path

    @property
    def mlflow_uri(self) -> str:
        """``MLFLOW_TRACKING_URI``, else the embedded database."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def optuna_uri(self) -> str:
        """``VIDCLF_STUDY_STORAGE``, else the embedded database."""
        return os.environ.get("VIDCLF_STUDY_STORAGE") or f"sqlite:///{self.folder / 'optuna.db'}"

    @property
    def databases(self) -> dict[str, Path]:
        """The embedded databases by library; one that a server stands in for is not among them."""
        paths = {name: self.folder / f"{name}.db" for name in ("mlflow", "optuna")}
        uris = {"mlflow": self.mlflow_uri, "optuna": self.optuna_uri}
        return {name: path for name, path in paths.items() if uris[name] == f"sqlite:///{path}"}

    @property
    def format_file(self) -> Path:
        return self.folder / "store.json"

    def format(self) -> int:
        """Format of the store's files; this version's where ``store.json``, which keeps it, does not exist.

        Raises:
            InputError: That file cannot be read.
        """
        try:
            return int(json.loads(self.format_file.read_text(encoding="utf-8"))["format"])
        except FileNotFoundError:
            return FORMAT
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f'{self.format_file} cannot be read; it should say {{"format": {FORMAT}}}'
            ) from None

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    def artifact_folder(self, experiment: str) -> Path:
        """Where MLflow keeps the artifacts of an experiment, whether it exists or not."""
        return self.artifacts / (re.sub(r"[^\w.-]+", "_", experiment).strip(".") or "experiment")

    @property
    def attempts(self) -> Path:
        return self.folder / "attempts"

    def lock(self, name: str) -> Path:
        """A file for `locked`, made where it does not exist."""
        path = self.folder / f"{name}.lock"
        path.touch()
        return path

    def attempt(self, series: str, name: str) -> Attempt:
        """The folder of an attempt, whether it exists or not.

        Raises:
            InputError: A name could lead out of the store.
        """
        check_name(series)
        check_name(name)
        return Attempt(self.attempts / series / name)

    def all_attempts(self) -> Iterator[tuple[Attempt, Identity]]:
        """Every attempt folder and whose it is, sorted by path.

        One that is deleted meanwhile is left out, as is one whose identity is damaged: `torn_files` tells.
        """
        for path in sorted(self.attempts.glob("*/*/attempt.json")):
            attempt = Attempt(path.parent)
            with contextlib.suppress(FileNotFoundError, InputError):
                yield attempt, attempt.identity()


@contextlib.contextmanager
def locked(path: Path, waiting: str = "") -> Iterator[None]:
    """Holds a lock against other threads and processes of this host; it falls with its holder.

    Args:
        path: The file or folder to lock.
        waiting: What is told to a user who waits; by default that another process works on it.

    Raises:
        InputError: Its file system has no locks.
    """
    with contextlib.closing(system.Lock(path)) as lock:
        begun, told = time.monotonic(), False
        while not _acquire(lock, path):
            if not told and time.monotonic() - begun > _SILENT_SECONDS:
                told = True
                logger.info(waiting or f"waiting for another vidclf process that works on {path} …")
            time.sleep(_POLL_SECONDS)
        yield


def _acquire(lock: system.Lock, path: Path) -> bool:
    try:
        return lock.acquire(wait=False)
    except OSError as error:
        raise InputError(
            f"{path}: its file system has no locks ({error.strerror}); choose a local folder with --store"
        ) from None


def check_name(name: str) -> None:
    """Refuses a name of a study or run that is not also one of a folder.

    Raises:
        InputError: It leads elsewhere, or is longer than file systems take.
    """
    if name in ("", ".", "..") or set("/\\\0") & set(name) or len(name.encode()) > _LONGEST_NAME:
        raise InputError(
            f"{name[:80]!r} cannot be a name: it must be one of a folder, without / and not '..'"
        )


def locate_store(folder: Path | None = None) -> Store:
    """The store at ``folder``, else ``VIDCLF_STORE``, else ``./mlruns``, whatever is in it.

    Raises:
        InputError: The path is a file, or holds a character that database addresses give a meaning to.
    """
    path = (folder or Path(os.environ.get("VIDCLF_STORE") or "mlruns")).absolute()
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: the store cannot be written: this is a file, not a folder")
    if set("?#%") & set(str(path)):
        raise InputError(f"{path}: a store's path cannot hold ?, # or %; choose another with --store")
    return Store(path)


def find_store(folder: Path | None = None) -> Store:
    """The store of `locate_store`, if this version can read it; nothing is created.

    Raises:
        InputError: Also where a later version made it.
    """
    store = locate_store(folder)
    if store.format() > FORMAT:
        raise InputError(
            f"{store.folder}: a later vidclf made this store (format {store.format()}, this version reads "
            f"{FORMAT}); install that, or choose another with --store"
        )
    return store


def open_store(folder: Path | None = None) -> Store:
    """The store of `find_store`, created where it does not exist.

    Raises:
        InputError: It cannot be written to.
    """
    store = find_store(folder)
    try:
        store.attempts.mkdir(parents=True, exist_ok=True)
        store.artifacts.mkdir(exist_ok=True)
        probe = store.folder / f".writable-{os.getpid()}"
        probe.write_text(json.dumps({"format": FORMAT}) + "\n", encoding="utf-8")
        if store.format_file.exists():
            probe.unlink()
        else:
            probe.replace(store.format_file)
    except OSError as error:
        raise InputError(
            f"{store.folder}: the store cannot be written: {error.strerror}; choose another with --store"
        ) from None
    return store
