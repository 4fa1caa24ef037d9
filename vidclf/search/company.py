"""The supervisors that run a study together: who lives, and what those leave behind that do not."""

import math
import time
from collections.abc import Callable

from vidclf.naming import plural
from vidclf.search.ownership import RENEWAL_SECONDS, STANDSTILL_SECONDS, Owner, Ownership
from vidclf.search.reconcile import queue_lost, take_over
from vidclf.search.record import OpenStudy

LOOK_SECONDS = 2.0
"""Between two looks at the others while this supervisor waits for them."""


class Company:
    """A supervisor's view of the others."""

    others: dict[str, Owner]
    """The other live supervisors by uuid, as last seen."""

    def __init__(self, opened: OpenStudy, ownership: Ownership, say: Callable[[str], None]) -> None:
        """Args:
        opened: The study.
        ownership: This supervisor's hold on it.
        say: Told who comes, who goes, and what is taken over.
        """
        self._opened, self._ownership, self._say = opened, ownership, say
        self.others = {}
        self._looked = -math.inf
        self._first_seen: dict[int, float] = {}

    @property
    def alone_here(self) -> bool:
        """Whether no other supervisor of this host computes."""
        return not any(other.here for other in self.others.values())

    def look(self, *, waiting: bool) -> bool:
        """Sees who is there, and queues what dead supervisors ran, where that is due.

        Args:
            waiting: This supervisor runs nothing itself, so that it looks more often.

        Returns:
            Whether it was due.
        """
        if time.monotonic() - self._looked < (LOOK_SECONDS if waiting else RENEWAL_SECONDS):
            return False
        registered = self._ownership.registered()  # first, so that nobody is struck off who comes just now
        others = self._ownership.others()
        live = {*others, self._ownership.uuid}
        for uuid in registered - live:
            self._ownership.forget(uuid)
        self._announce(others)
        queued = take_over(self._opened, live, self._overdue)
        if self._ownership.first():  # one of them only, or a trial would be queued twice
            queued += queue_lost(self._opened, self._overdue if others else lambda _: True)
        if queued:
            self._say(f"running again: {plural(queued, 'trial')} of a supervisor that died")
        self.others, self._looked = others, time.monotonic()
        return True

    def _announce(self, others: dict[str, Owner]) -> None:
        for uuid in others.keys() - self.others.keys():
            self._say(f"{others[uuid]} runs trials of this study too")
        for uuid in self.others.keys() - others.keys():
            self._say(f"{self.others[uuid]} does not run this study any more")

    def _overdue(self, number: int) -> bool:
        """Whether the trial has been seen so for a minute; by this host's clock, as hosts' clocks differ."""
        since = self._first_seen.setdefault(number, time.monotonic())
        return time.monotonic() - since > STANDSTILL_SECONDS
