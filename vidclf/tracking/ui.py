"""MLflow's UI on a store, opened where the newest study's ranked trials are."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from types import FrameType

from vidclf.config import InputError
from vidclf.store import Store
from vidclf.tracking.deliverer import Deliverer, prepare
from vidclf.tracking.views import newest_view

HOST = "127.0.0.1"
START_LIMIT = 60.0
"""Seconds that the server may take to answer."""


def serve_ui(store: Store, port: int, announce: Callable[[str], None]) -> None:
    """Serves the UI until Ctrl-C or SIGTERM.

    Args:
        store: What to show; where MLflow is a server already, its link is announced and that is all.
        port: Port on the loopback interface.
        announce: Called once with the link, as soon as it can be opened.

    Raises:
        InputError: The port is taken, or the server does not start.
    """
    if store.mlflow_uri.startswith("http"):
        announce(f"{store.mlflow_uri.rstrip('/')}{newest_view(Deliverer(store))}")
        return
    _check_free(port)
    prepare(store)
    with _interruptible(), _server(store, port) as server:
        _wait_until_healthy(server, port)
        announce(f"http://{HOST}:{port}{newest_view(Deliverer(store))}")
        server.wait()


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(f"port {port}: {error.strerror}; choose another with --port") from None


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
def _server(store: Store, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The server in a session of its own: its workers end with it, and Ctrl-C reaches it once."""
    arguments = {
        "--backend-store-uri": store.mlflow_uri,
        "--default-artifact-root": store.artifacts.as_uri(),
        "--artifacts-destination": store.artifacts.as_uri(),
        "--host": HOST,
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
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait_until_healthy(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2).close()
            return
        time.sleep(0.2)
    raise InputError(f"port {port}: MLflow's server did not start; `mlflow doctor` may know why")
