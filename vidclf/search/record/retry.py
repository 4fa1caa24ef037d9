"""Retries calls to a database server that is unavailable, until it is back or the user gives up."""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, wait_exponential

from vidclf import system
from vidclf.exceptions import DatabaseUnavailableError

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")
LONGEST_SECONDS = 600.0
"""How long a server may be away before its users stop."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
"""Seconds between two tries; doubled each time."""
_servers: list["ServerRetry"] = []
"""One for each server of the process."""


def stop_waiting() -> None:
    """Ends the waiting for every server that is away.

    The main thread hears of Ctrl-C also while it waits for another thread, which waits for a server.
    """
    for server in _servers:
        server.stop_waiting()


class ServerRetry:
    """What all calls to one server share: whether it is away, since when, and whether to wait on.

    Several threads may wait at once; the user is told once an outage. After it was given up, by the user or
    because it took too long, every call fails at once.
    """

    def __init__(self, server: str, is_away: Callable[[Exception], bool]) -> None:
        """Args:
        server: What is waited for, as people are told; without a password.
        is_away: Whether an error says that the server could not be asked, or that its answer was lost.
        """
        self._server, self._is_away = server, is_away
        self._lock = threading.Lock()
        self._since: float | None = None
        # Plain flags: a signal's handler may not take a lock that the thread it interrupts may hold.
        self._interrupted = self._given_up = False
        _servers.append(self)

    def stop_waiting(self) -> None:
        """Ends the waiting of all threads, if any waits; may be called by a signal's handler."""
        if self._since is not None:
            self._interrupted = self._given_up = True

    def call(self, ask: Callable[[bool], Answer]) -> Answer:
        """What the server answers, however long it takes to come back.

        Args:
            ask: Asks it once; told whether this was asked before, so that it may have been done.

        Raises:
            DatabaseUnavailableError: It was away for too long, or the user has stopped waiting.
        """
        self._check()
        try:
            return ask(False)
        except Exception as error:
            if not self._is_away(error):
                raise
        # At once the first time, as an idle connection may just be stale.
        again = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, Exception) and self._is_away(error)),
            wait=wait_exponential(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE),
            before=lambda _: self._check(),
            sleep=self._wait,
        )
        with self._handling_signals():
            answer = again(ask, True)
        self._is_back()
        return answer

    def _check(self) -> None:
        if self._given_up:
            why = "you stopped waiting" if self._interrupted else f"for {LONGEST_SECONDS / 60:.0f} minutes"
            raise DatabaseUnavailableError(
                f"the study's database {self._server} is away ({why})", self._interrupted
            )

    def _wait(self, seconds: float) -> None:
        with self._lock:
            now = time.monotonic()
            if self._since is None:
                self._since = now
                logger.info(
                    "the study's database %s is away; waiting up to %.0f minutes for it (Ctrl-C stops) …",
                    self._server,
                    LONGEST_SECONDS / 60,
                )
            if now - self._since > LONGEST_SECONDS:
                self._given_up = True
        while not self._given_up and time.monotonic() < now + seconds:
            time.sleep(0.05)

    def _is_back(self) -> None:
        with self._lock:
            if self._since is not None:
                logger.info("the study's database is back after %.0f s", time.monotonic() - self._since)
            self._since = None

    @contextlib.contextmanager
    def _handling_signals(self) -> Iterator[None]:
        """While the main thread waits, the signals that stop a study do so, and end the waiting too."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in system.stop_signals()}

        def stop(number: int, frame: FrameType | None) -> None:
            self._interrupted = self._given_up = True
            handler = before[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)

        try:
            for number, handler in before.items():
                if callable(handler):
                    signal.signal(number, stop)
            yield
        finally:
            for number, handler in before.items():
                if callable(handler):
                    signal.signal(number, handler)
