"""Every error that vidclf raises on purpose; the command line prints a message and an exit code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal


class InputError(Exception):
    """Something the user gave is wrong; the command line prints it and exits 2.

    Attributes:
        problems: One sentence each, all problems found at once.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ClipError(Exception):
    """A clip that gives no frames to train on; exit code 2.

    Attributes:
        path: The file.
        verdict: ``unreadable`` (no video), ``empty`` (a video stream without a frame), ``damaged``, or
            ``oversized`` where it is beyond given limits.
        reason: What the decoder said.
    """

    def __init__(
        self,
        path: Path,
        verdict: Literal["unreadable", "empty", "damaged", "oversized"],
        reason: str,
        name: str = "",
    ) -> None:
        """``name`` is what the user calls the file, such as the URL it was fetched from; empty: its path."""
        super().__init__(f"{name or path}: {verdict}: {reason}")
        self.path, self.verdict, self.reason = path, verdict, reason


class FalseTimestampsError(Exception):
    """A file's timestamps turned out not to be strictly increasing; it is decoded again by frame count."""


class GuardError(Exception):
    """A task in a child process that gave no answer.

    Attributes:
        how: It took too long (``time``), wanted more memory than it may have (``memory``), or took its
            process down (``crash``).
    """

    def __init__(self, how: Literal["time", "memory", "crash"], text: str) -> None:
        super().__init__(text)
        self.how = how


class TrialPruned(Exception):  # noqa: N818  (Optuna's name: a decision, not an error)
    """Raised from a report to stop a training that is not worth finishing."""


class DatabaseUnavailableError(Exception):
    """A study's database server went away and was not waited for any longer; the study can be resumed.

    Exit code 1, or 130 where the user stopped the waiting.

    Attributes:
        interrupted: The user stopped the waiting.
    """

    def __init__(self, message: str, interrupted: bool = False) -> None:
        super().__init__(message)
        self.interrupted = interrupted


class FencedError(Exception):
    """Another supervisor has settled the trial, as it took this supervisor for dead."""


class NotComparableError(Exception):
    """A model whose figures on a test split would mean nothing."""


class AliasMovedError(InputError):
    """Another client has moved an alias since it was read."""

    def __init__(self, name: str, alias: str, version: int | None) -> None:
        super().__init__(f"{name}@{alias} has been moved meanwhile, to version {version}; run this again")


class GateRefusedError(Exception):
    """A model may not be promoted; exit code 3.

    Attributes:
        gates: Every `vidclf.registry.gates.Gate` that was checked.
    """

    def __init__(self, gates: Sequence[Any]) -> None:
        super().__init__("; ".join(f"{gate.gate}: {gate.detail}" for gate in gates if not gate.passed))
        self.gates = list(gates)


class ItemError(Exception):
    """An item of a request that is no video this server may read."""
