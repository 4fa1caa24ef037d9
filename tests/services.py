"""Real servers that tests start, stop and start again; each in a folder of its own, on 127.0.0.1."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

START_SECONDS = 180.0
PROXY = """
import sys
from optuna.storages import get_storage, run_grpc_proxy_server
run_grpc_proxy_server(get_storage(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def missing(service: str) -> None:
    """Skips the test; a failure where every service must be there."""
    if os.environ.get("VIDCLF_REQUIRE_SERVICES"):
        pytest.fail(f"{service} is not installed")
    pytest.skip(f"needs {service}")


class Server(ABC):
    """A process that answers at a port until it is stopped; used as a context."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, free_port()
        self.environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it."""

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self.environment},
                **self.options(),
            )
        wait_until(lambda: self.answers() or self._process.poll() is not None)  # type: ignore[union-attr]
        assert self.answers(), self.log.read_text()

    def options(self) -> dict[str, Any]:
        """Further ones of its process."""
        return {}

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            self._process.wait(timeout=30)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def wait_until(holds: Callable[[], object], seconds: float = START_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)


class PostgreSQL(Server):
    """Debian's PostgreSQL with a database of its own; it refuses to run as root, so root lends it a user.

    Its files lie outside of the test's folder: that is private, and each run of pytest makes it so again.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._home = tempfile.TemporaryDirectory(prefix="vidclf-postgresql-")
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        if not found:
            missing("PostgreSQL")
        self._programs = found[-1]
        self._data = Path(self._home.name, "data")
        self._user = "postgres" if os.getuid() == 0 else None
        self.name = self._user or pwd.getpwuid(os.getuid()).pw_name

    @property
    def uri(self) -> str:
        return f"postgresql://{self.name}:secret@127.0.0.1:{self.port}/postgres"

    def options(self) -> dict[str, Any]:
        return {"user": self._user, "cwd": self._home.name}

    def command(self) -> list[str]:
        settings = [f"unix_socket_directories={self._home.name}", "fsync=off", "listen_addresses=127.0.0.1"]
        options = [word for setting in settings for word in ("-c", setting)]
        return [str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port), *options]

    def answers(self) -> bool:
        ready = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def start(self) -> None:
        if not self._data.exists():
            self._initialize()
        super().start()

    def create(self, name: str) -> str:
        """Another database of it; its address, as MLflow takes it."""
        import psycopg

        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.uri.replace("postgresql:", "postgresql+psycopg:").removesuffix("postgres") + name

    def _initialize(self) -> None:
        if self._user:
            shutil.chown(self._home.name, self._user)
        password = Path(self._home.name, "password")
        password.write_text("secret\n")
        command = [str(self._programs / "initdb"), "-D", str(self._data), "--no-sync", "-E", "UTF8"]
        options = ["-U", self.name, "--auth=scram-sha-256", f"--pwfile={password}"]
        subprocess.run([*command, *options], check=True, capture_output=True, **self.options())

    def stop(self, number: signal.Signals = signal.SIGQUIT) -> None:
        """At once, as after a crash; SIGINT: an orderly stop that cuts connections."""
        if self._process is not None:
            self._process.send_signal(number)  # its own children are its own
            self._process.wait(timeout=60)
            self._process = None

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._home.cleanup()


class OptunaProxy(Server):
    """Optuna's gRPC proxy in front of a database."""

    def __init__(self, folder: Path, database: str) -> None:
        super().__init__(folder)
        self._database = database.replace("postgresql://", "postgresql+psycopg://")

    @property
    def uri(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-W", "ignore", "-c", PROXY, self._database, str(self.port)]


class MlflowServer(Server):
    """A tracking server; its artifacts lie in its folder where nothing else is said."""

    def __init__(self, folder: Path, *options: str, backend: str | None = None) -> None:
        super().__init__(folder)
        self._backend = backend or f"sqlite:///{folder / 'server.db'}"
        # Its jobs are for other uses of it, and five processes.
        self.environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._options = options or ("--artifacts-destination", str(folder / "served"))

    def command(self) -> list[str]:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self._backend]
        return [*command, *self._options, "--port", str(self.port), "--workers", "1"]

    def answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
            return True
        return False
