"""Logs a comparison's page to MLflow as a run."""

import shutil
import uuid
from pathlib import Path

from vidclf.comparison.data import Comparison
from vidclf.comparison.verdict_text import name_of
from vidclf.runs.folder import Attempt, Identity, Outcome, now_ms
from vidclf.runs.store import Store
from vidclf.tracking.deliverer import Deliverer, prepare

SERIES = "compare"
"""Folder of the attempts that are comparisons."""
ROLE = "compare"


def log_page(comparison: Comparison, page: Path, store: Store) -> str | None:
    """Keeps the page and all its figures as an attempt of the store, and delivers it.

    The run is in the experiment of the first block's data set and carries the tag ``vidclf.role``.

    Args:
        comparison: What the page shows.
        page: The HTML file.
        store: Opened for writing.

    Returns:
        The run's id.

    Raises:
        InputError: MLflow cannot be used; the folder is there, and `vidclf doctor --fix` delivers it.
    """
    blocks = [part.block for part in comparison.parts]
    best = comparison.parts[0]
    line = next((line for line in best.block.lines if _recorded(line.attempt)), None)
    experiment = best.block.clips.name or "compare"
    if line is not None and line.attempt is not None:
        experiment = line.attempt.identity().experiment
    attempt = store.attempt(SERIES, f"{now_ms()}-{uuid.uuid4().hex[:6]}")
    studies = sorted({name for block in blocks for name in block.studies})
    attempt.create(
        Identity(
            id=uuid.uuid4().hex,
            experiment=experiment,
            run_name=f"compare · {best.answer.headline[:80]}",
            parent=None,
            started_ms=now_ms(),
            tags={"vidclf.role": ROLE},
            params={
                "studies": ", ".join(studies),
                "lines": sum(len(block.lines) for block in blocks),
                "metric": best.block.metric,
                "data": "; ".join(name_of(block, blocks) for block in blocks),
            },
        )
    )
    shutil.copyfile(page, attempt.artifacts / "compare.html")
    comparison.as_table().to_csv(attempt.artifacts / "compare.csv", index=False, lineterminator="\n")
    headlines = [f"**{name_of(part.block, blocks)}**: {part.answer.headline}" for part in comparison.parts]
    notes = [f"- {note}" for note in comparison.notes]
    text = "\n\n".join([*headlines, "## How sure this is", "\n".join(notes)])
    (attempt.artifacts / "README.md").write_text(text + "\n", encoding="utf-8")
    attempt.finish(Outcome("complete", "", {}, now_ms()))
    prepare(store)
    return Deliverer(store).deliver(attempt)


def _recorded(attempt: Attempt | None) -> bool:
    return attempt is not None and (attempt.folder / "attempt.json").exists()
