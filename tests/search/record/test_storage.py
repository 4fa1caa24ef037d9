"""Optuna's database on a server: every call survives that the connection breaks before, in or after it."""

import contextlib
import inspect
import os
import re
import shutil
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import optuna
import pytest
from optuna.storages import BaseStorage, RDBStorage, _CachedStorage
from optuna.storages._grpc.auto_generated import api_pb2_grpc
from optuna.storages._grpc.servicer import OptunaStorageProxyService
from optuna.trial import TrialState, create_trial
from typer.testing import CliRunner

from tests.rounds import rounds
from tests.services import free_port
from vidclf.cli.app import app
from vidclf.exceptions import DatabaseUnavailableError, InputError
from vidclf.runs.store import Store, locked, open_store, without_password
from vidclf.search.execution import session
from vidclf.search.record import retry, storage
from vidclf.search.record.names import study_names
from vidclf.search.record.retry import ServerRetry
from vidclf.search.record.storage import open_storage

X = optuna.distributions.FloatDistribution(0.0, 1.0)


def search(opened: BaseStorage) -> list[Any]:
    """What a session does with a study, and what is in the database then."""
    study = optuna.create_study(study_name="s", storage=opened, sampler=optuna.samplers.RandomSampler(0))
    study.set_user_attr("definition", "d")
    for value in (1.0, 2.0):
        trial = study.ask()
        trial.set_user_attr("owner", "me")
        trial.suggest_float("x", 0.0, 1.0)
        trial.report(value, 1)
        study.tell(trial, value)
    study.add_trial(
        create_trial(
            state=TrialState.WAITING, params={"x": 0.5}, distributions={"x": X}, user_attrs={"retry_of": 0}
        )
    )
    taken = study.ask()
    assert study.ask().number == 3, "a trial that was taken is taken once"
    opened.set_trial_state_values(taken._trial_id, TrialState.WAITING)
    again = study.ask()
    assert again.number == taken.number
    again.set_constraint("size", -1.0)
    study.tell(again, state=TrialState.PRUNED)
    study.tell(3, state=TrialState.FAIL)
    assert opened.get_all_studies()[0].study_name == "s"
    return [
        (t.number, t.state, t.values, t.params, t.user_attrs, t.intermediate_values, t.constraints)
        for t in study.get_trials()
    ]


class Faults:
    """Names the moments at which a connection can break, and breaks it at one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.moments = at, list[str]()

    def moment(self, name: str) -> bool:
        self.moments.append(name)
        return len(self.moments) - 1 == self.at

    def chosen(self) -> list[int]:
        """All at which an answer is lost, every seventh of the others; in brief, a sixth of these."""
        moments = [at for at, name in enumerate(self.moments) if name == "answer" or at % 7 == 0]
        return moments[:: rounds(6, 1)]


def break_statements(opened: RDBStorage, faults: Faults) -> None:
    """A connection that is lost before a statement, before a commit, or after one that went through."""
    dialect = opened.engine.dialect
    execute, commit = dialect.do_execute, dialect.do_commit

    def check(name: str) -> None:
        if faults.moment(name):
            raise sqlite3.OperationalError("the connection is lost")

    def do_execute(*args: Any, **options: Any) -> None:
        check("statement")
        execute(*args, **options)

    def do_commit(connection: Any) -> None:
        check("commit")
        commit(connection)
        check("answer")

    dialect.do_execute, dialect.do_commit = do_execute, do_commit  # type: ignore[method-assign]


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_FIRST_PAUSE", 0.0)
    monkeypatch.setattr("optuna.storages._rdb.storage.random.random", lambda: 0.0)  # its own, in create


def database(path: Path, faults: Faults) -> RDBStorage:
    opened = storage._Database(f"sqlite:///{path}", {}, ServerRetry("db", storage.database_is_away))
    break_statements(opened, faults)
    return opened


@pytest.mark.slow
def test_a_connection_lost_at_any_moment_loses_and_doubles_nothing(tmp_path: Path, no_pauses: None) -> None:
    empty, faults = tmp_path / "empty.db", Faults()
    RDBStorage(f"sqlite:///{empty}").engine.dispose()
    whole = search(database(Path(shutil.copy(empty, tmp_path / "whole.db")), faults))
    assert [entry[1].name for entry in whole] == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL"]
    assert faults.moments.count("answer") > 20
    for at in faults.chosen():
        path = Path(shutil.copy(empty, tmp_path / f"{at}.db"))
        assert search(database(path, Faults(at))) == whole, f"lost at moment {at}, {faults.moments[at]}"
        path.unlink()


class Interceptor(grpc.ServerInterceptor):
    """A proxy that is restarted before it has done something, or before it could say so."""

    def __init__(self, faults: Faults, restart: Callable[[], None]) -> None:
        self.faults, self.restart = faults, restart

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)

        def behave(request: Any, context: Any) -> Any:
            if self.faults.moment("request"):
                self.restart()
                context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            answer = handler.unary_unary(request, context)
            if self.faults.moment("answer"):
                self.restart()
                context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            return answer

        return grpc.unary_unary_rpc_method_handler(
            behave, handler.request_deserializer, handler.response_serializer
        )


@contextlib.contextmanager
def proxy(database: Path, faults: Faults) -> Iterator[BaseStorage]:
    """Optuna's proxy in this process, and vidclf's storage over it."""
    port = free_port()
    service = OptunaStorageProxyService(optuna.storages.get_storage(f"sqlite:///{database}"))

    def restart() -> None:  # it has forgotten which trials there are
        service._backend = optuna.storages.get_storage(f"sqlite:///{database}")

    server = grpc.server(ThreadPoolExecutor(2), interceptors=[Interceptor(faults, restart)])
    api_pb2_grpc.add_StorageServiceServicer_to_server(service, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        opened = storage._Proxy("127.0.0.1", port, ServerRetry("proxy", storage.proxy_is_away))
        yield opened
        opened.close()
    finally:
        server.stop(None).wait()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_proxy_that_is_gone_at_any_moment_loses_and_doubles_nothing(
    tmp_path: Path, no_pauses: None
) -> None:
    empty, faults = tmp_path / "empty.db", Faults()
    RDBStorage(f"sqlite:///{empty}").engine.dispose()
    with proxy(Path(shutil.copy(empty, tmp_path / "whole.db")), faults) as opened:
        whole = search(opened)
    assert [entry[1].name for entry in whole] == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL"]
    assert faults.moments.count("answer") > 40
    for at in faults.chosen():
        path = Path(shutil.copy(empty, tmp_path / f"{at}.db"))
        with proxy(path, Faults(at)) as opened:
            assert search(opened) == whole, f"lost at moment {at}, {faults.moments[at]}"


def test_every_method_of_a_storage_waits() -> None:
    special = {"create_new_study", "delete_study", "create_new_trial", "set_trial_state_values"}
    no_calls = {"remove_session", "check_trial_is_updatable"}
    methods = {name for name in vars(BaseStorage) if not name.startswith("_")} - no_calls
    assert methods == special | {name for name in storage._IDEMPOTENT if not name.startswith("_")}
    used = set(re.findall(r"_backend\.(_?\w+)\(", inspect.getsource(_CachedStorage)))
    heartbeat = {name for name in used if "heartbeat" in name or "stale" in name}
    assert used - heartbeat <= methods | set(storage._IDEMPOTENT) | {"_create_new_trial"}


class Away(Exception):  # noqa: N818
    pass


def waiting() -> ServerRetry:
    return ServerRetry("pg", lambda error: isinstance(error, Away))


def test_the_user_is_told_once_that_the_database_is_away_and_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retry, "_FIRST_PAUSE", 0.0)
    shared, answers = waiting(), iter([Away(), Away(), Away(), 7, Away(), 8])

    def ask(again: bool) -> int:
        answer = next(answers)
        asked.append(again)
        if isinstance(answer, Away):
            raise answer
        return answer

    asked: list[bool] = []
    assert shared.call(ask) == 7
    assert asked == [False, True, True, True]
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("the study's database pg is away; waiting up to 10 minutes")
    assert caplog.messages[1].startswith("the study's database is back after")
    assert shared.call(ask) == 8
    assert len(caplog.messages) == 2, "a connection that was only stale is not worth a word"


def test_other_errors_are_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ZeroDivisionError):
        waiting().call(lambda _: 1 // 0)
    assert caplog.messages == []


def test_waiting_ends_after_its_time_for_all_threads(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retry, "LONGEST_SECONDS", 0.3)
    monkeypatch.setattr(retry, "_LONGEST_PAUSE", 0.1)
    shared, ended = waiting(), list[str]()

    def gone(_: bool) -> None:
        raise Away

    def wait() -> None:
        with pytest.raises(DatabaseUnavailableError) as caught:
            shared.call(gone)
        ended.append(f"{caught.value} {caught.value.interrupted}")

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(ended) == 3
    assert all("pg is away" in words and words.endswith("False") for words in ended)
    assert len(caplog.messages) == 1
    with pytest.raises(DatabaseUnavailableError):
        shared.call(lambda _: 1)


def test_ctrl_c_ends_the_waiting_and_does_what_it_did(caplog: pytest.LogCaptureFixture) -> None:
    heard = list[int]()
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))

    def gone(again: bool) -> None:
        if again and caplog.messages:
            os.kill(os.getpid(), signal.SIGINT)
        raise Away

    try:
        ours = signal.getsignal(signal.SIGINT)
        with pytest.raises(DatabaseUnavailableError) as caught:
            waiting().call(gone)
        assert caught.value.interrupted
        assert heard == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is ours
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_ctrl_c_is_heard_while_another_thread_waits_and_holds_a_lock() -> None:
    """Optuna's cache holds its lock while it reads: the main thread may wait for that, not for the server."""
    waiting = ServerRetry("db", lambda error: isinstance(error, ConnectionError))
    lock, begun, ended = threading.Lock(), threading.Event(), threading.Event()

    def away(_: bool) -> None:
        begun.set()
        raise ConnectionError

    def read() -> None:
        with lock, contextlib.suppress(DatabaseUnavailableError):
            waiting.call(away)
        ended.set()

    stopped: list[bool] = []
    threading.Thread(target=read, daemon=True).start()
    assert begun.wait(10)
    with session._stop_signals(lambda: stopped.append(True)):
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        assert lock.acquire(timeout=30)
    assert stopped == [True]
    assert ended.wait(10)
    with pytest.raises(DatabaseUnavailableError, match="you stopped waiting"):
        waiting.call(lambda _: None)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (
            "postgresql://me:secret@127.0.0.1:{port}/db",
            ["VIDCLF_STUDY_STORAGE=", "me:***@127.0.0.1:{port}", "cannot be used", "refused"],
        ),
        ("grpc://127.0.0.1:{port}", ["VIDCLF_STUDY_STORAGE=grpc", "answers at 127.0.0.1, port {port}"]),
        ("nosuch://me:secret@host/db", ["nosuch://me:***@host/db", "driver is missing"]),
        ("somewhere", ["is no address", "postgresql://user:password@host/database"]),
    ],
)
def test_a_server_that_cannot_be_used_is_one_clear_message(
    uri: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setattr(storage, "_CONNECT_SECONDS", 1)
    monkeypatch.setenv("VIDCLF_STUDY_STORAGE", uri.format(port=port))
    with pytest.raises(InputError) as caught:
        open_storage(Store(tmp_path))
    for word in words:
        assert word.format(port=port) in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("uri", "module"), [("postgresql://h/d", "psycopg"), ("grpc://h:1", "grpc")])
def test_a_missing_driver_says_what_to_install(
    uri: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDCLF_STUDY_STORAGE", uri)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r'pip install "vidclf\[server\]"'):
        open_storage(Store(tmp_path))


@pytest.mark.parametrize("command", [["status"], ["compare", "s"], ["doctor"]])
def test_commands_say_in_a_line_that_the_database_is_away(
    command: list[str], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDCLF_STUDY_STORAGE", f"postgresql://me:secret@127.0.0.1:{free_port()}/db")
    found = CliRunner().invoke(app, command)
    assert found.exit_code == (1 if command == ["doctor"] else 2), found.output
    assert "refused" in found.output
    assert "secret" not in found.output
    assert "Traceback" not in found.output


def test_passwords_are_not_shown() -> None:
    shown = {
        "postgresql://me:pw@host:5432/db": "postgresql://me:***@host:5432/db",
        "postgresql://me:p@ss:w/ord@host/db": "postgresql://me:***@host/db",
        "postgresql://host/db?user=me&password=pw&a=b": "postgresql://host/db?user=me&password=***&a=b",
        "http://me:pw@host:5000": "http://me:***@host:5000",
        "http://host:5000": "http://host:5000",
        "sqlite:////a/b.db": "sqlite:////a/b.db",
    }
    assert {uri: without_password(uri) for uri in shown} == shown


def test_braces_in_the_path_of_a_store_are_a_path(tmp_path: Path) -> None:
    store = open_store(tmp_path / "{a}")
    open_storage(store)
    assert (store.folder / "optuna.db").exists()
    assert study_names(store) == []


def test_of_several_processes_only_one_makes_the_tables_of_a_fresh_store(tmp_path: Path) -> None:
    """Two at once would break each other's."""
    store = open_store(tmp_path)
    with ThreadPoolExecutor() as pool:
        with locked(store.folder):  # as another process has it that makes them
            opened = pool.submit(open_storage, store)
            with pytest.raises(TimeoutError):
                opened.result(timeout=0.3)
            assert not (store.folder / "optuna.db").exists()
        assert opened.result().get_all_studies() == []


def test_a_database_that_was_cut_is_named(tmp_path: Path) -> None:
    store = open_store(tmp_path / "whole")
    open_storage(store)
    content = (store.folder / "optuna.db").read_bytes()
    named = 0
    for at in range(4096, len(content), 4 * 4096 - 5):
        cut = open_store(tmp_path / str(at))
        (cut.folder / "optuna.db").write_bytes(content[:at])
        try:
            open_storage(cut)
        except InputError as error:
            assert str(error).startswith(f"{cut.folder / 'optuna.db'}: SQLite cannot read it: ")
            named += 1
    assert named
