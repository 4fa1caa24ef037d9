"""Has the process that imports this first take the ways of Windows; and what it then does."""

import time

from tests.windows import as_on_windows

with as_on_windows():
    from vidclf import system


def compute_until_interrupted(interrupt: system.Interrupt, theirs: system.Connection) -> None:
    """Says how often it was interrupted while it computed, once that was twice."""
    interrupted = [0]

    def count(*_: object) -> None:
        interrupted[0] += 1
        theirs.send(interrupted[0])

    interrupt.handle(count)
    theirs.send(0)
    end = time.monotonic() + 60
    while interrupted[0] < 2 and time.monotonic() < end:
        sum(range(1000))
