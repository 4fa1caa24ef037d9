"""Aliases of registered models, with the history that MLflow does not keep.

The alias says what is true, the history how it came about. People edit both in MLflow's UI, and a move is
several writes that may be cut: so each move also writes down where the alias was, if the history lacks it.
"""

import logging
import time
import uuid
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from pydantic import TypeAdapter, ValidationError

from vidclf.config import did_you_mean, digest
from vidclf.exceptions import AliasMovedError, InputError
from vidclf.runs.folder import now_ms
from vidclf.runs.store import Store, locked

logger = logging.getLogger(__name__)

CHAMPION, PREVIOUS = "champion", "previous"
_PREFIX = "vidclf.history."
"""Tags of a registered model, one for each move of an alias; the rest of the key is the time, and a token."""
_SETTLE_SECONDS = 2.0
"""After which two clients of a server that moved an alias at the same moment both see both moves."""
Action = Literal["promote", "rollback", "by hand"]


@dataclass(frozen=True)
class AliasChange:
    """One move of an alias.

    Attributes:
        before: Where it pointed, ``None`` where it was new.
        when_ms: Milliseconds since the epoch.
    """

    alias: str
    version: int
    before: int | None
    action: Action
    when_ms: int


_STORED = TypeAdapter(AliasChange)


@contextmanager
def taking_turns(store: Store, name: str) -> Iterator[None]:
    """Lets one promotion or rollback of a name run at a time, of all processes that share this store."""
    with locked(
        store.lock(f"registry-{digest(name)[:16]}"), f"waiting for another promotion or rollback of {name} …"
    ):
        yield


def history(client: MlflowClient, name: str) -> list[AliasChange]:
    """All moves, the first one first; tags that are no moves, as after an edit by hand, are left out.

    Raises:
        InputError: There is no such registered model.
    """
    return list(_moves(_registered(client, name)).values())


def _registered(client: MlflowClient, name: str) -> RegisteredModel:
    try:
        return client.get_registered_model(name)
    except MlflowException:
        known = [model.name for model in client.search_registered_models()]
        exists = f" (there are {', '.join(known)})" if known else ""
        raise InputError(f"{name}: no such registered model{did_you_mean(name, known)}{exists}") from None


def _moves(model: RegisteredModel) -> dict[str, AliasChange]:
    """The moves by the keys of their tags, in order."""
    moves = {}
    for key in sorted(key for key in model.tags if key.startswith(_PREFIX)):
        try:
            moves[key] = _STORED.validate_json(model.tags[key])
        except ValidationError:
            logger.warning(f"{model.name}: the tag {key} is no move of an alias any more; it does not count")
    return dict(sorted(moves.items(), key=lambda item: (item[1].when_ms, item[0])))


def current(client: MlflowClient, name: str, alias: str) -> int | None:
    """The version that an alias points to."""
    try:
        return int(client.get_model_version_by_alias(name, alias).version)
    except MlflowException:
        return None


def move(
    client: MlflowClient, name: str, alias: str, version: int, action: Action, *, expected: int | None
) -> AliasChange:
    """Points an alias to a version, `PREVIOUS` to the champion before it, and writes it down.

    Args:
        client: Of the registry.
        name: The registered model.
        alias: The alias.
        version: Where it is to point to.
        action: Why.
        expected: Where it points now, as far as the caller knows.

    Raises:
        AliasMovedError: Another client has moved it meanwhile: what was decided holds no more.
        InputError: There is no such registered model.
    """
    moves = _moves(_registered(client, name))
    before = current(client, name, alias)
    if before != expected:
        raise AliasMovedError(name, alias, before)
    known = next((each.version for each in reversed(moves.values()) if each.alias == alias), None)
    changes = [AliasChange(alias, version, before, action, _later(moves))]
    if before is not None and before != known:
        changes.insert(0, AliasChange(alias, before, known, "by hand", changes[0].when_ms - 1))
    client.set_registered_model_alias(name, alias, str(version))
    own = [key for each in changes if (key := _write(client, name, each))]
    embedded = client.tracking_uri.startswith("sqlite")  # it has one client at a time, by its lock
    if not embedded:
        time.sleep(_SETTLE_SECONDS)
        _yield_to_first(client, name, own, moves, changes[-1])
    if alias == CHAMPION:
        _point_previous(client, name, own[-1] if own else "")
    return changes[-1]


def _later(moves: dict[str, AliasChange]) -> int:
    """Now, or just after the last move where a clock is wrong."""
    return max([now_ms(), *(each.when_ms + 2 for each in moves.values())])


def _write(client: MlflowClient, name: str, change: AliasChange) -> str:
    """The key of the move's tag; empty where it cannot be written, which the next move mends."""
    key = f"{_PREFIX}{change.when_ms}-{uuid.uuid4().hex[:8]}"
    try:
        client.set_registered_model_tag(name, key, _STORED.dump_json(change).decode())
    except MlflowException as error:
        logger.warning(f"{name}@{change.alias} is version {change.version}; its history: {error.message}")
        return ""
    return key


def _yield_to_first(
    client: MlflowClient, name: str, own: Sequence[str], seen: Container[str], change: AliasChange
) -> None:
    """Of moves away from the same version, made by several clients at once, the first one holds.

    Their clocks may differ by less than `_SETTLE_SECONDS`.

    Raises:
        AliasMovedError: That is another client's.
    """
    rivals = [
        (key, each)
        for key, each in _moves(_registered(client, name)).items()
        if key not in seen and key not in own
        if (each.alias, each.before) == (change.alias, change.before)
    ]
    first = min([(each.when_ms, key, each.version) for key, each in rivals], default=None)
    if first is None or (own and first[:2] > (change.when_ms, own[-1])):
        holds = change.version
    else:
        holds = first[2]
        for key in own:
            client.delete_registered_model_tag(name, key)
    if current(client, name, change.alias) != holds:
        client.set_registered_model_alias(name, change.alias, str(holds))
    if holds != change.version:
        raise AliasMovedError(name, change.alias, holds)


def _point_previous(client: MlflowClient, name: str, key: str) -> None:
    """Points `PREVIOUS` to the champion before the one of a move, where that is still there.

    Moves after that one are other clients', who are about to take them back.
    """
    try:
        existing, moves = _numbers(client, name), _moves(_registered(client, name))
        keys = list(moves)
        until = keys.index(key) + 1 if key in moves else len(keys)
        reigns = champions([moves[each] for each in keys[:until]])
        earlier = [version for version in reigns[:-1] if version in existing]
        if earlier:
            client.set_registered_model_alias(name, PREVIOUS, str(earlier[-1]))
        else:
            client.delete_registered_model_alias(name, PREVIOUS)
    except MlflowException as error:  # the champion has moved, and the next move mends this
        logger.warning(f"{name}@{PREVIOUS} could not be set: {error.message}")


def versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """The versions of a registered model that have not been deleted; none where there is no such model."""
    quoted = name.replace("'", "''")
    return list(client.search_model_versions(f"name = '{quoted}'"))


def _numbers(client: MlflowClient, name: str) -> set[int]:
    return {int(found.version) for found in versions(client, name)}


def champions(moves: Sequence[AliasChange]) -> list[int]:
    """The champions in order, the present one last; a rollback takes those after its version away."""
    reigns: list[int] = []
    for each in moves:
        if each.alias != CHAMPION:
            continue
        if each.action == "rollback" and each.version in reigns:
            while reigns[-1] != each.version:
                reigns.pop()
        elif reigns[-1:] != [each.version]:
            reigns.append(each.version)
    return reigns


def rollback(store: Store, client: MlflowClient, name: str) -> AliasChange:
    """Makes the champion before the present one champion again.

    Raises:
        InputError: There was none before that is still there, or no such registered model.
        AliasMovedError: Another client of the server moved the alias at the same moment.
    """
    with taking_turns(store, name):
        reigns = champions(history(client, name))
        now, existing = current(client, name, CHAMPION), _numbers(client, name)
        if now is not None and reigns[-1:] != [now]:
            reigns.append(now)  # moved by hand
        earlier = [version for version in reigns[: -1 if now else None] if version in existing - {now}]
        if not earlier:
            state = f"version {now} is the only champion there is of it" if now else "it has no champion"
            raise InputError(f"{name}: there is nothing to go back to: {state}")
        return move(client, name, CHAMPION, earlier[-1], "rollback", expected=now)
