"""Serves MLflow's UI on a store, with links to a study's ranked trials."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

from vidclf import system
from vidclf.exceptions import InputError
from vidclf.runs.store import Store
from vidclf.tracking.deliverer import Deliverer, prepare
from vidclf.tracking.views import runs_view, study_view

START_LIMIT = 60.0
"""Seconds that the server may take to answer."""


def serve_ui(
    store: Store,
    port: int,
    announce: Callable[[str, Mapping[str, str]], None],
    *,
    study: str | None = None,
    host: str = "127.0.0.1",
) -> None:
    """Serves the UI until Ctrl-C or SIGTERM.

    Args:
        store: What to show; where MLflow is a server already, its links are announced and that is all.
        port: Port to serve on.
        announce: Called once, as soon as they can be opened, with the link to the ranked trials, and with
            further ones by what they show.
        study: What to open; ``None``: the newest study, and where there is none all runs.
        host: Address to serve on.

    Raises:
        InputError: The port is taken, the server does not start, or MLflow has no such study.
    """
    if served_elsewhere(store):
        announce(*links(store, store.mlflow_uri.rstrip("/"), study))
        return
    _check_free(host, port)
    prepare(store)
    # What listens everywhere is reached here by the loopback address.
    near = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    announced = links(store, f"http://{near}:{port}", study)
    with _interruptible(), _server(store, host, port) as server:
        _wait_until_healthy(server, near, port)
        announce(*announced)
        server.wait()


def served_elsewhere(store: Store) -> bool:
    """Whether MLflow is a server, which has its UI already."""
    return store.mlflow_uri.startswith("http")


def links(store: Store, server: str, study: str | None) -> tuple[str, dict[str, str]]:
    """The link to a study's ranked trials, and further ones by what they show.

    Raises:
        InputError: MLflow has no such study.
    """
    deliverer = Deliverer(store)
    view = study_view(deliverer, study)
    if view:
        return f"{server}{view.table}", {name: f"{server}{link}" for name, link in view.named().items()}
    if study is not None:
        raise InputError(f"MLflow does not have the study {study}; vidclf doctor --fix may deliver it")
    return f"{server}{runs_view(deliverer)}", {}


def _check_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(f"{host}, port {port}: {error.strerror}; choose another with --port") from None


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ends quietly on Ctrl-C, and on SIGTERM alike."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _server(store: Store, host: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The server in a session of its own: its workers end with it, and Ctrl-C reaches it once."""
    arguments = {
        "--backend-store-uri": store.mlflow_uri,
        "--default-artifact-root": store.artifacts.as_uri(),
        "--artifacts-destination": store.artifacts.as_uri(),
        "--host": host,
        "--port": str(port),
        "--workers": "1",
    }
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *(part for pair in arguments.items() for part in pair),
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield server
    finally:
        system.end_session(server)


def _wait_until_healthy(server: subprocess.Popen[bytes], host: str, port: int) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"http://{host}:{port}/health", timeout=2).close()
            return
        time.sleep(0.2)
    raise InputError(f"port {port}: MLflow's server did not start; `mlflow doctor` may know why")
