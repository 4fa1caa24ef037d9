"""Measures the latencies of a study's models, once for each shape, while its workers are paused."""

import logging
import math
import multiprocessing.connection
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from vidclf.evaluation.ranking import CONTENDED
from vidclf.search.record.settings import LATENCIES
from vidclf.search.record.study import OpenStudy
from vidclf.system import Connection
from vidclf.workers.protocol import LatencyTask, Measured, Message, Paused, Resume, Worker, answer

logger = logging.getLogger(__name__)

LEAST_SECONDS = 5.0
"""Without so much time a shape is not measured at the end of a study: a few runs say little."""
PAUSE_SECONDS = 5.0
"""Longest wait for running workers to pause; one that does not is left alone, and the latency marked."""


class LatencyMeter:
    """Measures latencies during a search, while its workers are paused."""

    def __init__(self, opened: OpenStudy) -> None:
        """Args:
        opened: The study; it remembers what was measured.
        """
        self._opened = opened
        self.required = any(item.metric in LATENCIES for item in opened.constraints)
        """Whether a constraint bounds a latency; if not, there is time for it at the end."""

    def uncontended(self, shape: str) -> Mapping[str, float]:
        """The metrics that were measured while no other worker computed, empty without any."""
        known = self._opened.latency(shape) or {}
        return {} if CONTENDED in known else known

    def measure(
        self, worker: Worker, task: LatencyTask, shape: str, busy: Sequence[Worker], *, alone: bool
    ) -> list[tuple[Worker, Message | None]]:
        """Measures a shape's latency on an idle worker, while the busy ones are paused.

        Args:
            worker: The idle worker.
            task: What it is to measure.
            shape: Digest under which the study keeps the result.
            busy: Workers to pause.
            alone: Whether no other supervisor of this host runs trials; else the result is marked.

        Returns:
            Messages that busy workers sent in place of pausing; they wait for the answers.
        """
        paused, held, quiet = _pause(busy)
        worker.send(task)
        message = answer(worker)
        for other in paused:
            other.send(Resume())
        if isinstance(message, Measured) and not message.error:
            marked = {} if quiet and alone else {CONTENDED: 1.0}
            self._opened.set_latency(shape, {**message.metrics, **marked})
        elif isinstance(message, Measured):
            logger.info(f"a latency was not measured: {message.error}")
        return held


def _pause(busy: Sequence[Worker]) -> tuple[list[Worker], list[tuple[Worker, Message | None]], bool]:
    """Pauses the busy workers; those that do not answer within 5 s go on computing.

    A worker that sent a message instead waits for its answer; it gets that afterwards, and
    then answers that it has paused.

    Returns:
        Paused workers, messages that others sent instead, and whether none is computing now.
    """
    for worker in busy:
        worker.pause()
    waiting = {worker.connection: worker for worker in busy}
    paused: list[Worker] = []
    held: list[tuple[Worker, Message | None]] = []
    end = time.monotonic() + PAUSE_SECONDS
    while waiting and (left := end - time.monotonic()) > 0:
        for ready in multiprocessing.connection.wait(list(waiting), left):
            worker = waiting.pop(cast(Connection, ready))
            message = worker.receive()
            if isinstance(message, Paused):
                paused.append(worker)
            else:
                held.append((worker, message))
    return paused, held, not waiting


def measure_latencies(
    models: Mapping[str, Path], clip: Path, worker: Worker, left: Callable[[], float] = lambda: math.inf
) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Measures one model of each shape on the only worker left.

    Args:
        models: Folder of a saved model by shape.
        clip: A video file to time on.
        worker: The only worker left.
        left: Seconds that there are, asked before each; with fewer than `LEAST_SECONDS` no more are measured.

    Yields:
        Shape and latency metrics, as soon as they are known; shapes that could not be timed are left out.
    """
    for shape, folder in models.items():
        if (seconds := left()) < LEAST_SECONDS:
            return
        worker.send(LatencyTask(clip, folder, limit_s=min(LatencyTask.limit_s, seconds)))
        message = answer(worker)
        if not isinstance(message, Measured):
            logger.info(f"latency was not measured: {worker.exit_reason()}")
            return
        if message.error:
            logger.info(f"latency of {folder.parent.name} was not measured: {message.error}")
        else:
            yield shape, message.metrics
