"""The workers of a session: starts them, with the cores, GPUs or cluster resources that each may use."""

import contextlib
import dataclasses
import importlib.util
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence

from joblib import cpu_count

from vidclf.exceptions import InputError
from vidclf.inference import profiling
from vidclf.models import devices
from vidclf.search.definition.study_file import StudyDefinition
from vidclf.workers import local
from vidclf.workers.local import LocalWorker
from vidclf.workers.protocol import Message, Ready, Worker

logger = logging.getLogger(__name__)

_MOST_STARTS = 3
"""How often in a row a worker may die before it is ready."""
_SILENT_SECONDS = 10.0
"""How long no worker may be available before what is waited for is logged."""
_REMINDER_SECONDS = 30.0
"""Between two such messages."""


def start_workers(definition: StudyDefinition, count: int) -> list[Worker]:
    """Starts workers.

    Args:
        definition: The study. Here its workers share the cores and take the GPUs in turn; with ``ray`` each
            takes what its ``[resources]`` say.
        count: How many.

    Raises:
        InputError: No node of a local cluster can hold such a worker.
    """
    if definition.ray is not None:
        from vidclf.workers import ray

        return list(ray.start_workers(definition.file.resources, count, definition.ray))
    threads = max(1, cpu_count() // definition.file.workers)
    gpus: list[str] | list[None] = local.visible_gpus() or [None]
    sharing = math.ceil(definition.file.workers / len(gpus))
    return [LocalWorker(threads, gpus[place % len(gpus)], sharing) for place in range(count)]


def gpu_count() -> int:
    """GPUs that workers can be shown one by one.

    Raises:
        InputError: There is none.
    """
    count = len(local.visible_gpus())
    if count == 0 and (device := os.environ.get(devices.VARIABLE)):
        raise InputError(f"--per-gpu: {devices.VARIABLE} = {device} leaves no GPUs to choose from; unset it")
    if count == 0:
        raise InputError("--per-gpu: torch finds no CUDA device here")
    return count


def check_ray(address: str) -> None:
    """Raises:
    InputError: Ray is not installed, or no cluster answers there.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError("--ray: Ray is not installed here; install it with: pip install 'vidclf[ray]'")
    from vidclf.workers.ray import check_address

    check_address(address)


@contextlib.contextmanager
def on_cluster(definition: StudyDefinition) -> Iterator[StudyDefinition]:
    """Connects to the Ray cluster, if there is one, and gives the study as many workers as fit there."""
    if definition.ray is None:
        yield definition
        return
    from vidclf.workers import ray

    file = definition.file
    with ray.connected(definition.ray):
        workers = file.resources.max_workers or ray.capacity(file.resources)
        yield dataclasses.replace(definition, file=file.model_copy(update={"workers": workers}))


def machine_of(worker: Worker) -> dict[str, str]:
    """What latencies on a worker's machine depend on; elsewhere also what ``auto`` precision means there."""
    if not worker.machine:
        return profiling.machine()
    return {key: worker.machine[key] for key in (*profiling.MACHINE, "precision")}


class StartingWorkers:
    """Workers that are starting and cannot be given tasks yet."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self._deaths: dict[Worker, int] = {}
        self._last_death = ""
        self._any_ready, self._deaths_in_all = False, 0
        self._nodes: set[str] = set()
        self._since = self._logged = time.monotonic()

    def admit(self, workers: Sequence[Worker]) -> list[Worker]:
        """Adds new workers; returns those that can be given tasks at once."""
        self.workers += [worker for worker in workers if worker.machine is None]
        return [worker for worker in workers if worker.machine is not None]

    def handle(self, worker: Worker, message: Message | None) -> Worker | None:
        """Handles a message: returns a worker that is ready, and replaces one that has died.

        Raises:
            InputError: None has ever been ready, and several have died.
        """
        self.workers.remove(worker)
        deaths = self._deaths.pop(worker, 0)
        if isinstance(message, Ready):
            self._any_ready = True
            self._compare_versions(message)
            return worker
        self._last_death = worker.exit_reason()
        self._deaths_in_all += 1
        if not self._any_ready and self._deaths_in_all >= _MOST_STARTS:
            worker.stop()
            raise InputError(f"--ray: no worker could be started: {self._last_death}")
        if deaths + 1 >= _MOST_STARTS:
            logger.info(
                f"a worker is given up, it died {deaths + 1} times before it began: {self._last_death}"
            )
            worker.stop()
            return None
        again = worker.replacement()
        self._deaths[again] = deaths + 1
        return next(iter(self.admit([again])), None)

    def _compare_versions(self, ready: Ready) -> None:
        """Logs once for each node whose torch version differs: its results may differ a little."""
        theirs, ours = ready.machine["torch"], profiling.environment()["torch"]
        if theirs != ours and ready.node not in self._nodes:
            logger.info(
                f"the node {ready.node} has torch {theirs}, this machine {ours}: figures may differ a little"
            )
        self._nodes.add(ready.node)

    def check_waiting(self, *, available: bool) -> None:
        """Logs at intervals what is waited for, while no worker is available.

        Args:
            available: Whether a worker is.

        Raises:
            InputError: No worker is left to wait for, or none will come.
        """
        now = time.monotonic()
        if available:
            self._since = now
            return
        if not self.workers:
            raise InputError(f"--ray: no worker is left: {self._last_death}")
        if now - self._since > _SILENT_SECONDS and now - self._logged > _REMINDER_SECONDS:
            self._logged = now
            logger.info(self.workers[0].waiting_reason(now - self._since))

    def stop(self) -> None:
        """Stops the workers that are still starting."""
        while self.workers:
            self.workers.pop().stop()


def wait_until_ready(worker: Worker) -> Worker:
    """The worker or its replacement, once it can be given tasks.

    Raises:
        InputError: It cannot be started.
    """
    starting = StartingWorkers()
    found = starting.admit([worker])
    while not found:
        (expected,) = starting.workers
        if expected.connection.poll(1.0):
            ready = starting.handle(expected, expected.receive())
            found = [ready] if ready else []
        else:
            starting.check_waiting(available=False)
    return found[0]
