"""Every test has a cache and a store of its own, and no way to the user's."""

import contextlib
import functools
import multiprocessing
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, settings
from sqlalchemy import Engine, event

from tests.rounds import LONG

# What takes seconds to import is imported by processes that run tests, not by the one that hands them out.
if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from mlflow import MlflowClient

    from tests.memory import Memory
    from tests.scripted_study import ScriptedStudy
    from vidclf.data.manifest import Manifest
    from vidclf.runs.store import Store

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share two cores

settings.register_profile("vidclf", deadline=None)  # a time is no property of the code
settings.register_profile("mutants", deadline=None, phases=[Phase.explicit, Phase.generate])  # no shrinking
settings.load_profile("vidclf")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "slow" not in item.keywords)  # the quick ones fill what is left of the time
    if not LONG:
        for item in items:
            if "long" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="make test-long runs it"))


def pytest_collectstart() -> None:
    from alembic.script import ScriptDirectory

    from tests import brief  # before any module takes what it replaces
    from vidclf.models import estimators
    from vidclf.workers import local

    os.environ[estimators.COMMAND] = "1"
    estimators.import_skops()  # as commands do, before a test module imports it whole
    multiprocessing.get_context("forkserver").set_forkserver_preload([*local.PRELOADED, brief.__name__])
    ScriptDirectory.from_config = _scripts  # type: ignore[method-assign]


def _scripts(config: "Config") -> "ScriptDirectory":
    """Migrations, of which every new connection to a store would read every file."""
    return _scripts_at(str(config.get_main_option("script_location")))


@functools.cache
def _scripts_at(location: str) -> "ScriptDirectory":
    from alembic.script import ScriptDirectory

    return ScriptDirectory(location)


@event.listens_for(Engine, "connect")
def unsynced(connection: object, _: object) -> None:
    """No test cuts the power, so that SQLite need not wait for the disk."""
    if isinstance(connection, sqlite3.Connection):
        with contextlib.suppress(sqlite3.DatabaseError):  # MLflow would try such a file for 100 s
            connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture(autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    home: Path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDCLF_CACHE", str(home / "cache"))
        patch.setenv("VIDCLF_STORE", str(home / "store"))
        for variable in ("MLFLOW_TRACKING_URI", "VIDCLF_STUDY_STORAGE", "VIDCLF_DATA"):
            patch.delenv(variable, raising=False)
        yield


@pytest.fixture(autouse=True)
def checked_in_one_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips are checked in this process, which need not start, but where a test is marked `guarded`."""
    from tests.inline_child import InlineChild
    from vidclf.data import check

    if not request.node.get_closest_marker("guarded"):
        monkeypatch.setattr(check, "Child", InlineChild)


@pytest.fixture(autouse=True)
def drawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn, and not blank, where a test is marked so."""
    if request.node.get_closest_marker("drawn"):
        from tests import brief
        from vidclf.reports import plots

        monkeypatch.setattr(plots, "write_png", brief.write_drawn)


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> "Manifest":
    """Moving squares: 6 clips to train on, 4 to judge by, 2 to test."""
    from tests.clips import write_squares
    from vidclf.data.manifest import read_manifest

    return read_manifest(write_squares(tmp_path_factory.mktemp("squares"), groups=6))


@pytest.fixture
def store(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> "Store":
    """The commands' own store, empty, whose MLflow database need not be made first."""
    from tests.attempts import fresh_store

    made = fresh_store(tmp_path, tmp_path_factory)
    monkeypatch.setenv("VIDCLF_STORE", str(made.folder))
    return made


@pytest.fixture
def client(store: "Store") -> "MlflowClient":
    from vidclf.tracking.deliverer import Deliverer

    return Deliverer(store).client


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator["Memory"]:
    """An empty memory:// file system."""
    from tests.memory import Memory

    made = Memory(monkeypatch)
    yield made
    made.clear()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and threads of several test processes wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "ScriptedStudy":
    """A study over two bases, and a supervisor whose workers do what a test says."""
    from tests.scripted_study import ScriptedStudy
    from vidclf.runs.store import open_store

    return ScriptedStudy(tmp_path, open_store(), monkeypatch)
