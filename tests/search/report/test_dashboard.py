"""Optuna's dashboard on a store: it shows the studies that are there."""

import json
import socket
import threading
import urllib.request
from collections.abc import Mapping

import pytest

from tests.studies import make_optuna_study
from vidclf.exceptions import InputError
from vidclf.runs.store import Store
from vidclf.search.report.dashboard import serve_dashboard


@pytest.mark.slow
def test_the_dashboard_shows_the_study_that_is_asked_for(store: Store) -> None:
    make_optuna_study(store)
    told: list[str] = []
    ready = threading.Event()

    def announce(link: str, others: Mapping[str, str]) -> None:
        told.append(link)
        ready.set()

    arguments = {"study": "search"}
    threading.Thread(target=serve_dashboard, args=(store, 0, announce), kwargs=arguments, daemon=True).start()
    assert ready.wait(60)
    server, _, page = told[0].partition("/dashboard/studies/")
    with urllib.request.urlopen(told[0], timeout=20) as shown:
        assert b"<html" in shown.read().lower()
    with urllib.request.urlopen(f"{server}/api/studies/{page}", timeout=20) as answer:
        found = json.load(answer)
    assert found["name"] == "search"
    assert [trial["values"] for trial in found["trials"]] == [[0.5]]


def test_without_a_study_or_a_free_port_the_dashboard_says_so(store: Store) -> None:
    def announce(link: str, others: Mapping[str, str]) -> None:
        raise AssertionError(link)

    with pytest.raises(InputError, match="no study here yet"):
        serve_dashboard(store, 0, announce)
    make_optuna_study(store)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}: .*; choose another with --port"):
            serve_dashboard(store, port, announce)
