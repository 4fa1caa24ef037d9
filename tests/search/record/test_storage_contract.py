"""Optuna's own tests of a storage, over each kind of database that studies lie in."""

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import BaseStorage
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import FrozenTrial

from tests.services import OptunaProxy, PostgreSQL, Server
from vidclf.runs.store import Store, open_store
from vidclf.search.record.storage import CALL, open_storage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without studies."""
    store = open_store(tmp_path_factory.mktemp("tables"))
    open_storage(store)
    return store.folder / "optuna.db"


@pytest.mark.long  # all Optuna's own
class TestFile(StorageTestCase):
    """A file of the store."""

    @pytest.fixture
    def storage(self, tables: Path, tmp_path: Path) -> BaseStorage:
        store = open_store(tmp_path)
        shutil.copy(tables, store.folder / "optuna.db")
        return open_storage(store)


class WithoutTokens:
    """A storage without the attributes by which a server's trials tell the calls that made them."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._stripped(self._storage.get_trial(trial_id))

    def get_all_trials(self, *args: Any, **options: Any) -> list[FrozenTrial]:
        return [self._stripped(trial) for trial in self._storage.get_all_trials(*args, **options)]

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        return self.get_trial(trial_id).system_attrs

    def _stripped(self, trial: FrozenTrial) -> FrozenTrial:
        attributes = dict(trial.system_attrs)
        assert attributes.pop(CALL)
        stripped = copy.copy(trial)
        stripped.system_attrs = attributes
        return stripped


class ServerTestCase(StorageTestCase):
    test_pickle_storage = None  # a storage of a server stays in its process; it has a lock

    @pytest.fixture
    def storage(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> WithoutTokens:
        monkeypatch.setenv("VIDCLF_STUDY_STORAGE", server.uri)
        opened = open_storage(Store(server.folder))
        for study in opened.get_all_studies():  # of the test before
            opened.delete_study(study._study_id)
        return WithoutTokens(opened)


@pytest.mark.xdist_group("storage-postgresql")
class TestPostgreSQL(ServerTestCase):
    """A database server."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        with PostgreSQL(tmp_path_factory.mktemp("postgresql")) as server:
            yield server


@pytest.mark.long  # in brief, test_storage.py asks the proxy what a session asks
@pytest.mark.xdist_group("storage-proxy")
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
class TestProxy(ServerTestCase):
    """Optuna's gRPC proxy before a database."""

    # A map of protobuf has no order, in Optuna's own client neither; nothing of vidclf relies on one.
    test_get_all_trials_params_order = None

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        folder = tmp_path_factory.mktemp("proxy")
        with OptunaProxy(folder, f"sqlite:///{shutil.copy(tables, folder / 'optuna.db')}") as server:
            yield server
