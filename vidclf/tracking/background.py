"""A thread that delivers attempts to MLflow while they run."""

import logging
import threading
import time
from pathlib import Path

from mlflow.exceptions import MlflowException

from vidclf.exceptions import InputError
from vidclf.runs.folder import Attempt
from vidclf.runs.store import Store
from vidclf.tracking.deliverer import Deliverer
from vidclf.tracking.delivery_state import FileStamp, file_stamp

log = logging.getLogger(__name__)

INTERVAL = 0.5
"""Seconds between two looks at the folders."""
LONGEST_WAIT = 15.0
"""Seconds between two tries while MLflow is away, at most."""
REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "INVALID_STATE"})
"""MLflow's answers that concern one attempt only and will not change by waiting."""

Stamps = tuple[FileStamp | None, ...]
"""Of the journal, the config and the result: they show that an attempt has news."""


class DelivererThread:
    """Scans registered attempt folders and delivers their news within 2 s.

    It survives that MLflow is away: one warning, then it tries again, ever more seldom, until it is back.
    """

    def __init__(self, store: Store) -> None:
        self._deliverer = Deliverer(store)
        self._attempts: dict[Path, Attempt] = {}
        self._settled: dict[Path, Stamps] = {}
        self._refused: dict[Path, Stamps] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._missed = 0
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._work, name="vidclf-deliverer", daemon=True)
        self._thread.start()

    def register(self, attempt: Attempt) -> None:
        """Watches the attempt from now on; a study before its trials."""
        with self._lock:
            if self._attempts.setdefault(attempt.folder, attempt) is attempt:
                self._missed += 1

    @property
    def undelivered(self) -> int:
        """Attempts with news that MLflow did not get in the last round."""
        with self._lock:
            return self._missed

    def close(self, timeout: float = 30.0) -> None:
        """Delivers everything once more and ends, after ``timeout`` seconds at the latest."""
        self._deadline = time.monotonic() + timeout
        self._closing.set()
        self._thread.join(timeout)

    def _work(self) -> None:
        wait = INTERVAL
        away = False
        while not self._closing.wait(wait):
            reached = self._round(final=False)
            if not reached and not away:
                log.warning("MLflow is away; vidclf goes on and delivers when it is back")
            if reached and away:
                log.warning("MLflow is back")
            away = not reached
            wait = INTERVAL if reached else min(2 * wait, LONGEST_WAIT)
        while not self._round(final=True) and time.monotonic() + 1.0 < self._deadline:
            time.sleep(1.0)

    def _round(self, final: bool) -> bool:
        """Delivers every attempt's news; ``False`` where MLflow is away."""
        with self._lock:
            attempts = list(self._attempts.values())
        for number, attempt in enumerate(attempts):
            watched = (attempt.journal, attempt.config, attempt.folder / "result.json")
            stamps = tuple(file_stamp(path) for path in watched)
            if not final and stamps in (
                self._settled.get(attempt.folder),
                self._refused.get(attempt.folder),
            ):
                continue
            try:
                self._deliverer.deliver(attempt)
            except Exception as error:
                if not _refusal(error):
                    log.debug("%s: not delivered", attempt.folder, exc_info=True)
                    self._count(len(attempts) - number)
                    return False
                self._refuse(attempt, stamps, error)
            else:
                self._refused.pop(attempt.folder, None)
                if stamps[-1] is not None:
                    self._settled[attempt.folder] = stamps
        self._count(len(self._refused))
        return True

    def _count(self, missed: int) -> None:
        with self._lock:
            self._missed = missed

    def _refuse(self, attempt: Attempt, stamps: Stamps, error: Exception) -> None:
        if attempt.folder not in self._refused:
            log.warning("%s: MLflow does not take it: %s", attempt.folder, error)
        self._refused[attempt.folder] = stamps


def _refusal(error: Exception) -> bool:
    """Whether the error lies with one attempt, as a vanished folder or a half-written config."""
    if isinstance(error, MlflowException):
        return error.error_code in REFUSALS
    return isinstance(error, InputError | FileNotFoundError | ValueError | KeyError | TypeError)
