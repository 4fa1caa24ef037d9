"""Where a study stands."""

from typing import Any

from vidclf.evaluation import ranking
from vidclf.search.record.owners import live_owners, silent_owners
from vidclf.search.record.study import OpenStudy
from vidclf.tracking import ledger
from vidclf.tracking.deliverer import Deliverer


def status(opened: OpenStudy) -> dict[str, Any]:
    """Where a study stands, in the shape of ``--json``."""
    rows = opened.rows()
    found = dict.fromkeys(("complete", "pruned", "failed", "interrupted", "died", "running", "waiting"), 0)
    for row in rows:
        found[row.state] += 1
    best = ranking.ranked(rows, opened.objective.direction)[:1]
    return {
        "study": opened.name,
        "question": opened.stored["question"],
        "objective": dict(opened.stored["objectives"][0]),
        "trials": found,
        "budget": {"total": opened.budget(), "used": opened.logical()},
        "best": {
            "number": best[0].number,
            "value": best[0].value,
            "base": best[0].base,
            "params": dict(best[0].params),
            "run_id": Deliverer(opened.store).receipt(opened.attempt(best[0].number)).run_id,
        }
        if best
        else None,
        "owners": [{"host": owner.host, "pid": owner.pid} for owner in live_owners(opened)],
        "silent": [{"host": owner.host, "pid": owner.pid} for owner in silent_owners(opened)],
    }


def test_words(opened: OpenStudy) -> str:
    """How often the study's test split was read."""
    for trial in opened.trials():
        attempt = opened.attempt(trial.number)
        if (attempt.folder / "attempt.json").exists():
            return ledger.words_for(opened.store, attempt)
    return ledger.words(0)
