"""``vidclf doctor``: all checks of a store, their repairs, and the store's disk usage."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidclf.data import cache
from vidclf.runs import store_checks
from vidclf.runs.store import Store
from vidclf.runs.store_checks import Note, Part, Problem
from vidclf.search.execution import consistency as of_studies
from vidclf.tracking import consistency as of_runs
from vidclf.tracking import relocation


@dataclass(frozen=True)
class Check:
    """One kind of problem, and what finds it.

    Attributes:
        what: Its name.
        find: Looks, and changes nothing.
        needs: What it reads; it is left out where an unmended problem blocks that.
    """

    what: str
    find: Callable[[Store, Note], Iterable[Problem]]
    needs: tuple[Part, ...]


CHECKS = (
    Check("newer-store", store_checks.newer_stores, ()),
    Check("damaged-database", store_checks.damaged_databases, ("store",)),
    Check("newer-database", store_checks.unknown_versions, ("store",)),
    Check("moved-store", relocation.moved_stores, ("mlflow",)),
    Check("unreachable", of_runs.unreachable, ("mlflow",)),
    Check("unreachable", of_studies.unreachable, ("optuna",)),
    Check("doubled-number", of_studies.doubled_numbers, ("store", "optuna")),
    Check("lost-study", of_studies.lost_studies, ("store", "optuna")),
    Check("torn-file", store_checks.torn_files, ("store",)),
    Check("running-without-owner", of_studies.abandoned_trials, ("store", "optuna")),
    Check("running-without-owner", store_checks.abandoned_runs, ("store",)),
    Check("attempt-without-trial", of_studies.attempts_without_trial, ("store", "optuna")),
    Check("disagreeing-status", of_studies.disagreeing_trials, ("store", "optuna")),
    Check("trial-without-run", of_studies.trials_without_run, ("store", "optuna", "mlflow")),
    Check("undelivered", of_runs.undelivered_attempts, ("store", "mlflow")),
    Check("undelivered", of_runs.half_sent_models, ("store", "mlflow")),
    Check("disagreeing-status", of_runs.disagreeing_runs, ("store", "mlflow")),
    Check("run-without-trial", of_runs.unended_runs, ("store", "mlflow")),
    Check("leftover-checkpoint", store_checks.leftover_checkpoints, ("store",)),
    Check("temporary-file", store_checks.temporary_files, ("store",)),
    Check("cut-cache-entry", store_checks.cut_cache_entries, ()),
)
"""In this order, so that each may rely on what was mended before it."""


@dataclass(frozen=True)
class Finding:
    """A problem that was found.

    Attributes:
        what: Name of its `Check`.
        failure: Why it could not be, where that was tried.
    """

    what: str
    problem: Problem
    fixed: bool = False
    failure: str = ""

    def as_dict(self) -> dict[str, Any]:
        """In the shape of ``--json``."""
        return {
            "what": self.what,
            "where": self.problem.where,
            "fixed": self.fixed,
            "detail": self.problem.detail,
            "fixable": self.problem.mend is not None,
            "failure": self.failure,
        }


@dataclass
class DoctorReport:
    """What was found.

    Attributes:
        findings: In the order of `CHECKS`.
        notes: What was left out, and why.
    """

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def left(self) -> list[Finding]:
        """Problems that remain."""
        return [finding for finding in self.findings if not finding.fixed]

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def examine(store: Store, *, fix: bool) -> DoctorReport:
    """Looks for every kind of problem; mends what can be mended where ``fix``, else changes nothing."""
    examination = DoctorReport()
    blocked: set[Part] = set()
    skipped: list[str] = []
    for check in CHECKS:
        if blocked.intersection(check.needs):
            skipped.append(check.what)
            continue
        for problem in list(check.find(store, examination.note)):
            finding = _mended(check.what, problem) if fix and problem.mend else Finding(check.what, problem)
            examination.findings.append(finding)
            if not finding.fixed:
                blocked |= problem.blocks
    if skipped:
        names = ", ".join(dict.fromkeys(skipped))
        examination.note(f"not all was looked for, since the first problem comes before: {names}")
    return examination


def _mended(what: str, problem: Problem) -> Finding:
    assert problem.mend is not None
    try:
        problem.mend()
    except Exception as error:  # one that resists is no reason to leave the others as they are
        return Finding(what, problem, failure=f"{type(error).__name__}: {error}".splitlines()[0])
    return Finding(what, problem, fixed=True)


@dataclass(frozen=True)
class DiskUsage:
    """What a part of the store takes.

    Attributes:
        part: ``databases``, ``attempts``, ``artifacts`` or ``caches``.
        name: Database, study (its series of folders), or cache.
        bytes: Their sizes; of attempts also, among these, of saved models and checkpoints.
        models: See ``bytes``.
        checkpoints: See ``bytes``.
    """

    part: str
    name: str
    where: Path
    files: int
    bytes: int
    models: int = 0
    checkpoints: int = 0


def weigh(store: Store) -> list[DiskUsage]:
    """What the store and the caches take on the disk, and where."""
    weights = [
        DiskUsage("databases", path.name, path, 1, size)
        for path in sorted(store.folder.glob("*.db*"))
        if (size := _size(path)) is not None
    ]
    weights += [_weight("attempts", folder.name, folder) for folder in _folders(store.attempts)]
    weights += [_weight("artifacts", folder.name, folder) for folder in _folders(store.artifacts)]
    return weights + [_weight("caches", folder.name, folder) for folder in cache.folders()]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*") if path.is_dir())


def _weight(part: str, name: str, folder: Path) -> DiskUsage:
    """Counts every file; what vanishes meanwhile takes nothing."""
    files = total = models = checkpoints = 0
    for parent, _, names in os.walk(folder):
        kind = Path(parent).relative_to(folder).parts[1:2]
        for file in names:
            size = _size(os.path.join(parent, file))  # noqa: PTH118  (twice as fast as Path)
            if size is None:
                continue
            files += 1
            total += size
            models += size if kind == ("model",) else 0
            checkpoints += size if kind == ("checkpoint",) else 0
    return DiskUsage(part, name, folder, files, total, models, checkpoints)


def _size(path: str | Path) -> int | None:
    """Bytes of a file; ``None`` where it has vanished, as SQLite's journals do while others write."""
    try:
        return os.stat(path).st_size  # noqa: PTH116  (twice as fast as Path)
    except FileNotFoundError:
        return None
