"""Fabricated stores and attempt folders, and a database that is migrated once for all tests."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from vidclf.runs.folder import Attempt, Identity, Outcome, Status
from vidclf.runs.store import Store, locked, open_store
from vidclf.tracking.deliverer import Deliverer, prepare

STARTED = 1_700_000_000_000
ENDED = STARTED + 60_000
CONFIG = 'seed = 0\n\n[model]\nkind = "majority"\n\n[train]\nlr = 0.0003\n'


def fresh_store(tmp_path: Path, factory: pytest.TempPathFactory) -> Store:
    """An empty store whose database is a copy: creating one takes seconds."""
    shared = factory.getbasetemp().parent
    with locked(shared):
        template = open_store(shared / "template-store")
        if not (template.folder / "mlflow.db").exists():
            prepare(template)
    store = open_store(tmp_path / "a store")
    shutil.copy(template.folder / "mlflow.db", store.folder / "mlflow.db")
    return store


def make_study(store: Store) -> Attempt:
    """A study's own folder, running."""
    study = store.attempt("demo", "study")
    study.create(
        Identity("study-1", "gestures", "demo", None, STARTED, {"vidclf.study": "demo"}, {"budget.trials": 3})
    )
    return study


def make_trial(store: Store, number: int = 0, parent: str | None = None) -> Attempt:
    """A trial that has just begun."""
    trial = store.attempt("demo", f"trial-{number}")
    trial.create(Identity(f"trial-1-{number}", "gestures", f"trial {number}", parent, STARTED))
    trial.config.write_text(CONFIG, encoding="utf-8")
    return trial


def end(
    attempt: Attempt,
    status: Status = "complete",
    reason: str = "",
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Ends an attempt as `run_experiment` does: final metrics in the journal, the result last."""
    if metrics:
        attempt.record(0, metrics)
    attempt.finish(Outcome(status, reason, metrics or {}, ENDED))


def shipped(store: Store, attempt: Attempt, name: str, alias: str = "champion") -> int:
    """Registers an attempt's model without judging it; its version."""
    # Imported here: most tests do without the registry.
    from vidclf.registry import aliases
    from vidclf.registry.promote import PromoteRequest, register

    deliverer = Deliverer(store)
    now = aliases.current(deliverer.client, name, alias)
    return register(deliverer, attempt, PromoteRequest(name, alias), now, tags={}, description="")


def six_digits(value: float | None) -> float:
    """A metric as MLflow has it."""
    return float(f"{value:.6g}")
