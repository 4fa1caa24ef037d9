"""Optuna's database: a file of the store, a server's, or one behind Optuna's proxy.

A server may go away while a study runs. Each call to it waits, and is then asked again; since the answer that
was lost may have been to a call that was carried out, those that would do something twice carry a token.
"""

import contextlib
import copy
import functools
import json
import sqlite3
import uuid
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage, get_storage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.engine import URL
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from vidclf.exceptions import InputError
from vidclf.runs.store import Store, locked, without_password
from vidclf.search.record.retry import ServerRetry

Storage = TypeVar("Storage", bound="_RetryingStorage")
CALL = "vidclf/call"
"""System attribute of a trial on a server: the call that created it, or that took it from the queue."""
_CONNECT_SECONDS = 5
_ANSWER_SECONDS = 120.0
"""Longest that the proxy may take over one answer: a study of ten thousand trials takes it seconds."""
_PROXY_PORT = 13000
"""Optuna's default."""
_LIBPQ = {
    "connect_timeout": _CONNECT_SECONDS,
    # Without these a network that drops packets is noticed after two hours.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""What psycopg is told beside the address; https://www.postgresql.org/docs/current/libpq-connect.html."""
# The tables of a fresh database: other processes may be making them, too.
_making_tables = Retrying(
    retry=retry_if_exception_type((IntegrityError, ProgrammingError)),
    wait=wait_fixed(0.5),
    stop=stop_after_attempt(5),
    reraise=True,
)


def open_storage(store: Store) -> BaseStorage:
    """Optuna's database, created and migrated where needed: once, before any worker starts.

    A database comes with Optuna's cache over it, so that whoever asks it by itself also gets what is known.

    Raises:
        InputError: It is a server that cannot be reached or used, or a damaged file; says where and why.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    uri = store.optuna_uri
    if uri.startswith("sqlite:"):
        return get_storage(_open_file(uri))
    return _open_server(uri)


def _open_file(uri: str) -> RDBStorage:
    file = Path(uri.removeprefix("sqlite:///"))
    # Two processes that make the tables of a fresh file at once break each other's.
    with locked(file.parent) if file.parent.is_dir() else contextlib.nullcontext():
        try:
            return RDBStorage(_literal(uri), engine_kwargs={"connect_args": {"timeout": 60}})
        except DBAPIError as error:
            if type(error.orig) is sqlite3.DatabaseError:  # not one of its kinds, as of a full disk
                raise InputError(
                    f"{file}: SQLite cannot read it: {error.orig}; vidclf doctor says what can be done"
                ) from None
            raise


def existing_storage(store: Store) -> BaseStorage | None:
    """Optuna's database, ``None`` where there is none yet: asking creates none."""
    uri = store.optuna_uri
    if uri.startswith("sqlite:") and not Path(uri.removeprefix("sqlite:///")).exists():
        return None
    return open_storage(store)


# All that a process does with a server shares its connections and one ServerRetry.
@functools.lru_cache(maxsize=4)
def _open_server(uri: str) -> BaseStorage:
    shown = without_password(uri)
    try:
        url = sqlalchemy.make_url(uri)
    except (ArgumentError, ValueError):
        raise InputError(
            f"VIDCLF_STUDY_STORAGE={shown} is no address; it looks like postgresql://user:password@host/database"
            " or grpc://host:port"
        ) from None
    return get_storage(_open_proxy(url, shown) if url.drivername == "grpc" else _open_database(url, shown))


def _open_database(url: URL, shown: str) -> BaseStorage:
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    options = {key: value for key, value in _LIBPQ.items() if key not in url.query}
    arguments = {"connect_args": options} if url.drivername.startswith("postgresql+psycopg") else {}
    address = _literal(url.render_as_string(hide_password=False))
    try:
        return _making_tables(lambda: _Database(address, arguments, ServerRetry(shown, database_is_away)))
    except (ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
        advice = 'pip install "vidclf[server]"'
        if not url.drivername.startswith("postgresql"):
            advice = "name an installed driver, as in mysql+pymysql://…"
        raise InputError(f"VIDCLF_STUDY_STORAGE={shown}: its driver is missing: {advice} ({error})") from None
    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise InputError(f"VIDCLF_STUDY_STORAGE={shown}: cannot be used: {reason}") from None
    except RuntimeError as error:  # tables of another Optuna
        raise InputError(f"VIDCLF_STUDY_STORAGE={shown}: cannot be used: {error}") from None


def _open_proxy(url: URL, shown: str) -> BaseStorage:
    host, port = url.host or "localhost", url.port or _PROXY_PORT
    try:
        import grpc  # noqa: F401
    except ImportError:
        raise InputError(
            f'VIDCLF_STUDY_STORAGE={shown}: gRPC is missing: pip install "vidclf[server]"'
        ) from None
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        storage = _Proxy(host, port, ServerRetry(shown, proxy_is_away))
    try:
        storage.wait_server_ready(timeout=_CONNECT_SECONDS)
    except ConnectionError:
        raise InputError(
            f"VIDCLF_STUDY_STORAGE={shown}: no proxy of Optuna answers at {host}, port {port}"
        ) from None
    return storage


def _literal(uri: str) -> str:
    """The address as Optuna takes it, which fills in what stands in braces."""
    return uri.replace("{", "{{").replace("}", "}}")


def database_is_away(error: Exception) -> bool:
    """Whether SQLAlchemy, perhaps through Optuna, says that a statement may work when it is asked again.

    That is a connection that was refused or lost, a server that is starting or stopping, a deadlock.
    """
    cause: BaseException | None = error
    if not isinstance(error, SQLAlchemyError | optuna.exceptions.StorageInternalError):
        return False
    while cause is not None:
        if isinstance(cause, OperationalError | InterfaceError):
            return True
        if isinstance(cause, DBAPIError) and cause.connection_invalidated:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def proxy_is_away(error: Exception) -> bool:
    """Whether gRPC says that the proxy, or the database behind it, did not answer."""
    import grpc

    if not isinstance(error, grpc.RpcError) or not isinstance(error, grpc.Call):
        return False
    if error.code() == grpc.StatusCode.UNKNOWN:  # the proxy's own exceptions come as their text
        return any(words in (error.details() or "") for words in _BEHIND_PROXY)
    return error.code() in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    )


_BEHIND_PROXY = ("An exception is raised during the commit", "OperationalError", "InterfaceError")
"""What Optuna and SQLAlchemy say in the proxy when the database behind it is away."""


class _RetryingStorage(BaseStorage):
    """A storage that retries; for the methods that must not be carried out twice."""

    retry: ServerRetry

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        def ask(again: bool) -> int:
            try:
                return super(_RetryingStorage, self).create_new_study(directions, study_name)  # type: ignore[safe-super]
            except DuplicatedStudyError:
                if again and study_name is not None:
                    return self.get_study_id_from_name(study_name)
                raise

        return self.retry.call(ask)

    def delete_study(self, study_id: int) -> None:
        def ask(again: bool) -> None:
            try:
                super(_RetryingStorage, self).delete_study(study_id)  # type: ignore[safe-super]
            except KeyError:
                if not again:
                    raise

        self.retry.call(ask)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As Optuna's; also true where it was done by a call whose answer was lost."""
        call = uuid.uuid4().hex
        if state == TrialState.RUNNING:
            self.set_trial_system_attr(trial_id, CALL, call)

        def ask(again: bool) -> bool:
            try:
                done = super(_RetryingStorage, self).set_trial_state_values(trial_id, state, values)  # type: ignore[safe-super]
            except UpdateFinishedTrialError:
                if again and _has_outcome(self.get_trial(trial_id), state, values):
                    return True
                raise
            return done or (again and self.get_trial(trial_id).system_attrs.get(CALL) == call)

        return self.retry.call(ask)


def _has_outcome(trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> bool:
    return trial.state == state and (values is None or list(values) == trial.values)


def _with_token(template: FrozenTrial | None) -> FrozenTrial:
    """The trial to be made, a running one where none is given, marked by a token of its own."""
    if template is None:
        marked = create_trial(state=TrialState.RUNNING)
        marked.datetime_start = datetime.now()  # local time, as Optuna has it
    else:
        marked = copy.copy(template)
    marked.system_attrs = {**marked.system_attrs, CALL: uuid.uuid4().hex}
    return marked


_IDEMPOTENT = (
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "set_trial_param",
    "get_trial_id_from_study_id_trial_number",
    "get_trial_number_from_id",
    "get_trial_param",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial",
    "get_all_trials",
    "get_n_trials",
    "get_best_trial",
    "get_trial_params",
    "get_trial_user_attrs",
    "get_trial_system_attrs",
    # What Optuna's cache over a database calls:
    "_set_trial_param",
    "_get_trials",
    "_get_best_trial_id",
)
"""Methods that change nothing when they are carried out again."""


def _with_retries(kind: type[Storage]) -> type[Storage]:
    """Class decorator: the methods of `_IDEMPOTENT` are retried while the server is away."""
    for name in _IDEMPOTENT:
        if hasattr(kind, name):
            setattr(kind, name, _retried(getattr(kind, name)))
    return kind


def _retried(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def retried(self: _RetryingStorage, *args: Any, **options: Any) -> Any:
        return self.retry.call(lambda _: method(self, *args, **options))

    return retried


@_with_retries
class _Database(_RetryingStorage, RDBStorage):
    """A database server. Optuna's own cache lies over it, and calls methods with an underscore."""

    def __init__(self, url: str, engine_kwargs: dict[str, Any], retry: ServerRetry) -> None:
        self.retry = retry
        self._sent: set[str] = set()
        super().__init__(url, engine_kwargs)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        marked = _with_token(template_trial)
        create = super()._create_new_trial
        try:
            return self.retry.call(lambda _: create(study_id, marked))
        finally:
            self._sent.discard(marked.system_attrs[CALL])

    def _get_prepared_new_trial(self, study_id: int, template_trial: FrozenTrial | None, session: Any) -> Any:
        """What Optuna does within one transaction, and repeats by itself: at most once for a token.

        The study's row is locked, so that a transaction that was cut off is through or undone by now.
        """
        assert template_trial is not None
        call = template_trial.system_attrs[CALL]
        made = self._made_by(call, study_id, session) if call in self._sent else None
        self._sent.add(call)
        return made or super()._get_prepared_new_trial(study_id, template_trial, session)

    @staticmethod
    def _made_by(call: str, study_id: int, session: Any) -> Any:
        attribute = models.TrialSystemAttributeModel
        return (
            session.query(models.TrialModel)
            .join(attribute, attribute.trial_id == models.TrialModel.trial_id)
            .filter(models.TrialModel.study_id == study_id)
            .filter(attribute.key == CALL, attribute.value_json == json.dumps(call))
            .first()
        )


@_with_retries
class _Proxy(_RetryingStorage, GrpcStorageProxy):
    """Optuna's proxy."""

    def __init__(self, host: str, port: int, retry: ServerRetry) -> None:
        self.retry = retry
        super().__init__(host=f"[{host}]" if ":" in host else host, port=port)

    def _setup(self) -> None:
        """Optuna's channel tries again after up to two minutes, and waits for an answer without end."""
        import grpc
        from optuna.storages._grpc.auto_generated.api_pb2_grpc import StorageServiceStub
        from optuna.storages._grpc.client import GrpcClientCache

        deadline = {"methodConfig": [{"name": [{}], "timeout": f"{_ANSWER_SECONDS:.0f}s"}]}
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.service_config", json.dumps(deadline)),
        ]
        self._channel = grpc.insecure_channel(f"{self._host}:{self._port}", options)
        self._stub = StorageServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._cache = GrpcClientCache(self._stub)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        marked = _with_token(template_trial)
        create = super().create_new_trial

        def ask(again: bool) -> int:
            made = self._made_by(marked.system_attrs[CALL], study_id) if again else None
            return create(study_id, marked) if made is None else made

        return self.retry.call(ask)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """As Optuna's; a proxy that was restarted knows no trial (`KeyError`) until it has listed all."""
        ask = functools.partial(
            super().set_trial_param, trial_id, param_name, param_value_internal, distribution
        )
        try:
            ask()
        except KeyError:
            for study in self.get_all_studies():
                self.get_all_trials(study._study_id, deepcopy=False)
            ask()

    def _made_by(self, call: str, study_id: int) -> int | None:
        trials = self.get_all_trials(study_id, deepcopy=False)
        return next((trial._trial_id for trial in trials if trial.system_attrs.get(CALL) == call), None)
