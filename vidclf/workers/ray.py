"""Workers as Ray actors; the only module that imports Ray."""

import contextlib
import hashlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from joblib import cpu_count
from ray.exceptions import ActorUnavailableError, RayError

from vidclf.data.tables import read_table
from vidclf.exceptions import InputError
from vidclf.runs.folder import Attempt, Outcome
from vidclf.system import Connection
from vidclf.workers.protocol import (
    FinishTask,
    LatencyTask,
    Message,
    Ready,
    Resources,
    Resume,
    RunTask,
    StepDecision,
    Task,
    own_version,
    refusal,
)
from vidclf.workers.ray_actor import RemoteWorker, TaskFiles, WorkerMessage, load
from vidclf.workers.sync import apply

LOCAL = "local"
GROWTH_SECONDS = 600.0
"""How long a cluster is given to grow a node that can hold a worker; autoscalers take some minutes."""
_REACH_SECONDS = 5.0
_CLOSE_SECONDS = 3.0
_CALLS_AT_ONCE = 3
"""Of an actor: one that waits for the worker's words, one that sends, one that pauses or closes."""


def check_address(address: str) -> None:
    """Raises:
    InputError: Nothing answers there; says what to do.
    """
    if address == LOCAL:
        return
    found = _latest_cluster() if address == "auto" else address
    if found is None:
        raise InputError(
            "--ray auto: no Ray cluster runs on this machine; start one with ray start --head, "
            "or give its address, as --ray ray://HOST:10001"
        )
    parts = urlsplit(found if "://" in found else f"//{found}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None or parts.scheme not in ("", "ray"):
        raise InputError(f"--ray {address}: an address is HOST:6379, ray://HOST:10001, auto or local")
    try:
        socket.create_connection((host, port), timeout=_REACH_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"--ray {address}: no Ray cluster answers at {host}:{port} ({error}); is its head node up? "
            "ray start --head starts one"
        ) from None


def _latest_cluster() -> str | None:
    """What Ray's ``auto`` stands for: it would look for minutes where there is none any more."""
    given = os.environ.get("RAY_ADDRESS")
    if given and given != "auto":
        return given
    noted = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    return noted.read_text(encoding="utf-8").strip() if noted.exists() else None


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to a cluster; ``local``: to one that is started here, and ends with it.

    What Ray prints goes nowhere: stdout belongs to the command's result, and causes of death are told anyway.

    Raises:
        InputError: There is no cluster, or it cannot be talked to.
    """
    check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == LOCAL:
        options |= {"address": "local", "num_cpus": cpu_count(), "include_dashboard": False}
    else:
        options |= {"address": address}
    before = signal.getsignal(signal.SIGTERM)  # Ray puts its own in place
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            ray.init(**options)
        except (RayError, OSError, RuntimeError, ValueError, ImportError) as error:
            raise InputError(
                f"--ray {address}: {_last_line(error)}; on a machine that is no node of the cluster use "
                "ray://HOST:10001, with the cluster's version of Ray"
            ) from None
        try:
            signal.signal(signal.SIGTERM, before)
            yield
        finally:
            ray.shutdown()


def capacity(resources: Resources) -> int:
    """Workers that the cluster as it is now can hold, 1 at least."""
    return max(1, sum(_fitting(node, resources) for node in _nodes()))


def _nodes() -> list[Mapping[str, float]]:
    nodes: list[Mapping[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def _fitting(node: Mapping[str, float], resources: Resources) -> int:
    """Workers that fit on an empty node; Ray never splits a share of a GPU over two."""
    cpus, gpus = resources.cpus, resources.gpus
    places = [int(node.get("CPU", 0) / cpus)]
    if 0 < gpus < 1:
        places.append(int(node.get("GPU", 0)) * int(1 / gpus))
    elif gpus:
        places.append(int(node.get("GPU", 0) / gpus))
    return min(places)


def start_workers(resources: Resources, count: int, address: str) -> list["RayWorker"]:
    """Asks Ray for so many workers; those that do not fit wait for room, and have autoscalers make some.

    Raises:
        InputError: None will ever fit in a cluster that was started here.
    """
    if address == LOCAL and not any(_fitting(node, resources) for node in _nodes()):
        raise InputError(f"--ray {address}: {_shortage(resources)}")
    return [RayWorker(resources) for _ in range(count)]


def _shortage(resources: Resources) -> str:
    nodes = _nodes()
    has = {kind: sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
    largest = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in ("CPU", "GPU")}
    return (
        f"no node can hold a worker of {resources.words()}: the cluster has {has['CPU']:g} CPU and "
        f"{has['GPU']:g} GPU on {len(nodes)} nodes, at most {largest['CPU']:g} CPU and {largest['GPU']:g} "
        "GPU on one; ask for less in the study's [resources]"
    )


class _SharedFiles:
    """Files that many tasks need, once each in Ray's object store."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int, int], tuple[str, Any]] = {}

    def put(self, path: Path, *, manifest: bool) -> tuple[str, Any]:
        """``digest/name`` of a file, and Ray's reference to its content."""
        stat = path.stat()
        key = (str(path), stat.st_size, stat.st_mtime_ns)
        if key not in self._kept:
            content = _travelling_manifest(path) if manifest else path.read_bytes()
            digest = hashlib.blake2b(content, digest_size=16).hexdigest()
            self._kept[key] = f"{digest}/{path.name}", ray.put(content)
        return self._kept[key]


_shared = _SharedFiles()


def _travelling_manifest(path: Path) -> bytes:
    """A manifest that means the same anywhere: its clips are absolute paths, or addresses as they are."""
    table = read_table(path)
    if "clip_path" in table.columns:
        table["clip_path"] = [
            clip if "://" in clip else str((path.parent / clip).absolute()) for clip in table["clip_path"]
        ]
    return str(table.to_csv(index=False, lineterminator="\n")).encode()


class RayWorker:
    """The supervisor's end of a worker that Ray places; see `vidclf.workers.protocol.Worker`."""

    def __init__(self, resources: Resources) -> None:
        """Asks Ray for a place.

        Args:
            resources: What the worker takes of a node.
        """
        self.resources = resources
        self.machine: Mapping[str, str] | None = None
        self.node = ""
        self._exit_reason = "the worker died"
        self._folder: Path | None = None
        self._sent: set[str] = set()
        self.connection, theirs = multiprocessing.Pipe()
        options = {
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "max_concurrency": _CALLS_AT_ONCE,
            "max_restarts": 0,
        }
        self._actor: Any = (
            ray.remote(RemoteWorker).options(**options).remote(resources.threads, resources.gpus)
        )
        self._pump = threading.Thread(target=self._forward, args=(theirs,), daemon=True)
        self._theirs = theirs
        self._pump.start()

    def _forward(self, theirs: Connection) -> None:
        """Forwards the worker's messages, each after its files, until it dies or the connection is closed."""
        try:
            self.node = ray.get(self._actor.node.remote())
            while True:
                received: WorkerMessage = ray.get(self._actor.receive.remote())
                if received.changes is not None and self._folder is not None:
                    apply(received.changes, self._folder)
                message = received.message
                if isinstance(message, Ready) and message.version != own_version():
                    self._exit_reason = (
                        f"the node {message.node} has vidclf {message.version}, this machine "
                        f"{own_version()}; install the same there"
                    )
                    return
                if message is None:
                    self._exit_reason = f"{received.exit_reason}, on the node {self.node}"
                    return
                if isinstance(message, Outcome) and self._folder and not Attempt(self._folder).outcome():
                    Attempt(self._folder).finish(message)
                theirs.send(message)
        except RayError as error:
            self._exit_reason = _cause(error, self.node)
        except (OSError, ValueError) as error:
            self._exit_reason = f"the worker's files could not be written here: {error}"
        finally:
            theirs.close()

    def replacement(self) -> "RayWorker":
        self.stop()
        return RayWorker(self.resources)

    def send(self, message: Task | StepDecision | Resume) -> None:
        if not isinstance(message, RunTask | LatencyTask | FinishTask):
            self._actor.send.remote(message)
            return
        self._folder = None if isinstance(message, LatencyTask) else message.folder
        try:
            task_files, references = self._pack(message)
        except (OSError, InputError) as error:
            with contextlib.suppress(OSError):
                self._theirs.send(refusal(message, f"the task cannot travel: {error}"))
            return
        self._actor.send.remote(message, task_files, *references)

    def _pack(self, task: RunTask | LatencyTask | FinishTask) -> tuple[TaskFiles, list[Any]]:
        files, paths = load(task)
        needed = {path: key == "data.manifest" for key, path in paths.items()}
        if isinstance(task, LatencyTask) and task.clip.is_file():
            needed[str(task.clip)] = False
        put = {path: _shared.put(Path(path), manifest=manifest) for path, manifest in needed.items()}
        lacking = {name: reference for name, reference in put.values() if name not in self._sent}
        self._sent |= lacking.keys()
        places = {path: name for path, (name, _) in put.items()}
        manifest = places.get(paths.get("data.manifest", ""))
        return TaskFiles(files, tuple(lacking), places, paths, manifest), list(lacking.values())

    def receive(self) -> Message | None:
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):
            return None
        if isinstance(message, Ready):
            self.machine = message.machine
        return message

    def pause(self) -> None:
        self._actor.pause.remote()

    def exit_reason(self) -> str:
        return self._exit_reason

    def waiting_reason(self, waited: float) -> str:
        if self.node:
            return f"a worker has a place on the node {self.node}, and its process is starting"
        nodes = _nodes()
        if not any(_fitting(node, self.resources) for node in nodes):
            if waited > GROWTH_SECONDS:
                raise InputError(f"--ray: {_shortage(self.resources)}")
            return f"waiting for the cluster to grow: {_shortage(self.resources)}"
        free: Mapping[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        return (
            f"waiting for Ray to place a worker ({self.resources.words()}); the cluster has "
            f"{free.get('CPU', 0):g} CPU and {free.get('GPU', 0):g} GPU free"
        )

    def stop(self) -> None:
        self.connection.close()
        if self.machine is not None and self._pump.is_alive():
            with contextlib.suppress(RayError):
                ray.wait([self._actor.close.remote()], timeout=_CLOSE_SECONDS)
        with contextlib.suppress(RayError, ValueError):
            ray.kill(self._actor)
        self._pump.join(timeout=_CLOSE_SECONDS)


def _cause(error: RayError, node: str) -> str:
    """Why an actor died, in one line."""
    text = str(error)
    lost = isinstance(error, ActorUnavailableError) or "node died" in text or "its node has died" in text
    if lost or "node was" in text:
        return f"the worker died: its node {node} was lost".replace("  ", " ")
    return f"the worker died: {_last_line(error)}"


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
