"""Aliases of registered models, with the history that MLflow does not keep."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from vidclf.config import did_you_mean
from vidclf.exceptions import InputError
from vidclf.runs.folder import now_ms

CHAMPION, PREVIOUS = "champion", "previous"
_PREFIX = "vidclf.history."
"""Tags of a registered model, one for each move of an alias; the rest of the key is the time."""
Action = Literal["promote", "rollback"]


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


def history(client: MlflowClient, name: str) -> list[AliasChange]:
    """All moves, the first one first.

    Raises:
        InputError: There is no such registered model.
    """
    try:
        tags = client.get_registered_model(name).tags
    except MlflowException:
        known = [model.name for model in client.search_registered_models()]
        exists = f" (there are {', '.join(known)})" if known else ""
        raise InputError(f"{name}: no such registered model{did_you_mean(name, known)}{exists}") from None
    keys = sorted((key for key in tags if key.startswith(_PREFIX)), key=lambda key: int(key[len(_PREFIX) :]))
    return [AliasChange(**json.loads(tags[key])) for key in keys]


def move(client: MlflowClient, name: str, alias: str, version: int, action: Action) -> None:
    """Points an alias to a version, `previous` to the champion before it, and writes it down."""
    past = history(client, name)
    before = next((each.version for each in reversed(past) if each.alias == alias), None)
    made = AliasChange(alias, version, before, action, max(now_ms(), past[-1].when_ms + 1 if past else 0))
    client.set_registered_model_tag(name, f"{_PREFIX}{made.when_ms}", json.dumps(asdict(made)))
    client.set_registered_model_alias(name, alias, str(version))
    if alias == CHAMPION:
        reigns = champions([*past, made])
        if len(reigns) > 1:
            client.set_registered_model_alias(name, PREVIOUS, str(reigns[-2]))
        else:
            client.delete_registered_model_alias(name, PREVIOUS)


def champions(moves: Sequence[AliasChange]) -> list[int]:
    """The champions one after another, the present one last; a rollback takes the last one away."""
    reigns: list[int] = []
    for each in moves:
        if each.alias != CHAMPION:
            continue
        if each.action == "rollback":
            reigns.pop()
        else:
            reigns.append(each.version)
    return reigns


def rollback(client: MlflowClient, name: str) -> AliasChange:
    """Makes the champion before the present one champion again.

    Raises:
        InputError: There was none before, or no such registered model.
    """
    reigns = champions(history(client, name))
    if len(reigns) < 2:
        now = f"version {reigns[-1]} is the only champion it has had" if reigns else "it has no champion"
        raise InputError(f"{name}: there is nothing to go back to: {now}")
    move(client, name, CHAMPION, reigns[-2], "rollback")
    return history(client, name)[-1]
