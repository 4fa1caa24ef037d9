"""What `vidclf tune` does first, for processes that do it at the same moment and import no more."""

from pathlib import Path
from typing import Any

from vidclf.runs.store import open_store
from vidclf.search.definition.study_file import load_study, open_study


def start_studies(folder: Path, names: list[str], barrier: Any, answers: Any) -> None:
    """Starts one study after another, each at the same moment as others do; answers (name, uuid)."""
    store = open_store()
    for name in names:
        definition = load_study(folder / f"{name}.toml", {}, store)
        barrier.wait(60)
        answers.put((name, open_study(definition, store).stored["uuid"]))
