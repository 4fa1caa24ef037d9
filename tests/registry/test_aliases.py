"""Where aliases point to, whoever moves them, and what is written down of it."""

import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.rounds import rounds
from tests.services import MlflowServer
from vidclf.exceptions import AliasMovedError, InputError
from vidclf.registry import aliases
from vidclf.registry.aliases import AliasChange
from vidclf.runs.store import Store
from vidclf.tracking.deliverer import Deliverer

NAME = "gestures"


def with_versions(client: MlflowClient, count: int) -> MlflowClient:
    client.create_registered_model(NAME)
    for _ in range(count):
        client.create_model_version(NAME, "file:///nowhere")
    return client


@pytest.fixture
def client(store: Store) -> MlflowClient:
    """Of a registry that holds four versions of one model, without an alias."""
    return with_versions(Deliverer(store).client, 4)


def promoted(client: MlflowClient, *versions: int) -> None:
    for version in versions:
        now = aliases.current(client, NAME, "champion")
        aliases.move(client, NAME, "champion", version, "promote", expected=now)


def state(client: MlflowClient) -> tuple[int | None, int | None, list[int]]:
    """Champion and previous one, and the champions by the history."""
    champion, previous = (aliases.current(client, NAME, alias) for alias in ("champion", "previous"))
    return champion, previous, aliases.champions(aliases.history(client, NAME))


def test_a_rollback_takes_the_last_champion_away() -> None:
    def move(version: int, action: str = "promote", alias: str = "champion") -> AliasChange:
        return AliasChange(alias, version, None, action, 0)  # type: ignore[arg-type]

    moves = [move(1), move(2), move(7, alias="candidate"), move(1, "rollback"), move(3)]
    assert aliases.champions(moves) == [1, 3]
    assert aliases.champions([]) == []


@pytest.mark.slow
def test_a_champion_that_was_moved_by_hand_is_gone_back_to(store: Store, client: MlflowClient) -> None:
    promoted(client, 1, 2)
    client.set_registered_model_alias(NAME, "champion", "4")
    promoted(client, 3)
    assert state(client) == (3, 4, [1, 2, 4, 3])
    assert aliases.rollback(store, client, NAME).version == 4
    assert state(client) == (4, 2, [1, 2, 4])
    client.set_registered_model_alias(NAME, "champion", "1")
    assert aliases.rollback(store, client, NAME).version == 4
    assert [each.action for each in aliases.history(client, NAME)] == [
        *("promote", "promote", "by hand", "promote", "rollback", "by hand", "rollback"),
    ]


@pytest.mark.slow
def test_a_version_that_was_deleted_by_hand_is_not_gone_back_to(store: Store, client: MlflowClient) -> None:
    promoted(client, 1, 2, 3)
    client.delete_model_version(NAME, "2")
    assert aliases.rollback(store, client, NAME).version == 1
    assert state(client)[:2] == (1, None)
    with pytest.raises(InputError, match="version 1 is the only champion"):
        aliases.rollback(store, client, NAME)
    client.delete_model_version(NAME, "1")
    with pytest.raises(InputError, match="it has no champion"):
        aliases.rollback(store, client, NAME)
    promoted(client, 4)
    assert state(client)[:2] == (4, None)


@pytest.mark.slow
def test_a_champion_that_was_deleted_by_hand_gives_way_to_the_one_before(
    store: Store, client: MlflowClient
) -> None:
    promoted(client, 1, 2, 3)
    client.delete_model_version(NAME, "3")
    assert aliases.rollback(store, client, NAME).version == 2
    assert state(client) == (2, 1, [1, 2])


@pytest.mark.parametrize("edited", ["", "{", "[]", '{"alias": "champion"}', '{"alias": 3, "version": "x"}'])
@pytest.mark.slow
def test_a_tag_that_was_edited_by_hand_does_not_count(
    store: Store, client: MlflowClient, edited: str, caplog: pytest.LogCaptureFixture
) -> None:
    promoted(client, 1, 2, 3)
    key = sorted(key for key in client.get_registered_model(NAME).tags if key.startswith("vidclf.history."))[
        1
    ]
    client.set_registered_model_tag(NAME, key, edited)
    client.set_registered_model_tag(NAME, "vidclf.history.soon", "no move")
    assert aliases.rollback(store, client, NAME).version == 1
    assert aliases.current(client, NAME, "champion") == 1
    assert f"the tag {key} is no move" in caplog.text


class CutError(Exception):
    """The process ended here."""


@pytest.mark.parametrize("write", range(6))
@pytest.mark.slow
def test_a_move_that_was_cut_anywhere_is_mended_by_the_next(
    store: Store, client: MlflowClient, write: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(client, 1, 2)
    done = 0

    def cut(original: Any) -> Any:
        def write_or_end(*arguments: Any) -> None:
            nonlocal done
            if done == write:
                raise CutError
            done += 1
            original(*arguments)

        return write_or_end

    with monkeypatch.context() as patch:
        for name in (
            "set_registered_model_tag",
            "set_registered_model_alias",
            "delete_registered_model_alias",
        ):
            patch.setattr(client, name, cut(getattr(client, name)))
        with contextlib.suppress(CutError):
            promoted(client, 3)
    now = aliases.current(client, NAME, "champion")
    assert now in (2, 3)
    promoted(client, 4)
    assert state(client) == (4, now, [1, 2, 4] if now == 2 else [1, 2, 3, 4])
    assert aliases.rollback(store, client, NAME).version == now


def test_what_others_are_about_to_take_back_is_not_the_previous_champion(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(client, 1)
    monkeypatch.setattr(MlflowClient, "tracking_uri", "http://127.0.0.1:1")  # of a server: moves may cross

    def two_others_move(_: float) -> None:
        for version in (3, 4):
            late = AliasChange("champion", version, 1, "promote", 2**60 + version)
            client.set_registered_model_tag(NAME, f"vidclf.history.{late.when_ms}", json.dumps(asdict(late)))

    monkeypatch.setattr(time, "sleep", two_others_move)
    promoted(client, 2)
    assert state(client)[:2] == (2, 1)


@pytest.mark.slow
def test_of_clients_of_a_server_that_move_at_once_one_succeeds(tmp_path: Path) -> None:
    with MlflowServer(tmp_path / "server") as server:
        for round_ in range(rounds(1, 20)):
            clients = [MlflowClient(server.uri) for _ in range(3)]
            name = f"{NAME}{round_}"
            clients[0].create_registered_model(name)
            for _ in range(4):
                clients[0].create_model_version(name, "s3://nowhere/model")
            aliases.move(clients[0], name, "champion", 1, "promote", expected=None)
            barrier = threading.Barrier(3)

            def move(client: MlflowClient, version: int, name: str = name, barrier: Any = barrier) -> int:
                barrier.wait()
                try:
                    aliases.move(client, name, "champion", version, "promote", expected=1)
                except AliasMovedError:
                    return 0
                return version

            with ThreadPoolExecutor() as pool:
                succeeded = [version for version in pool.map(move, clients, (2, 3, 4)) if version]
            assert len(succeeded) == 1
            assert aliases.current(clients[0], name, "champion") == succeeded[0]
            assert aliases.champions(aliases.history(clients[0], name)) == [1, *succeeded]
            assert aliases.current(clients[0], name, "previous") == 1
