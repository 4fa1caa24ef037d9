"""How long-running work reports how far it has come."""

import itertools
from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (items done, items in all)."""
Advance = Callable[[], None]
"""Called after each item."""


def silent(*_: object) -> None:
    """Reports nothing."""


def counted(progress: Progress, total: int) -> Advance:
    """Turns calls after each of ``total`` items into calls with how many are done."""
    done = itertools.count(1)
    return lambda: progress(next(done), total)
