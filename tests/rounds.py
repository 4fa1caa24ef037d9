"""How long ordeals last: briefly in the usual run, in full for ``make test-long``."""

import os
from typing import TypeVar

T = TypeVar("T")
LONG = bool(os.environ.get("VIDCLF_TEST_LONG"))


def rounds(brief: T, full: T) -> T:
    """What an ordeal takes: how many trials, kills, cuts or signals."""
    return full if LONG else brief
