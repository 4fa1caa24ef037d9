"""The predictions of a split as a table, one row a clip."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vidclf.data.remote import named
from vidclf.evaluation.metrics import Labels, predicted

if TYPE_CHECKING:  # half a second, which `vidclf status` does without
    import pandas as pd

PROBABILITY = "probability/"
"""What the columns of probabilities begin with, before the class."""


def predictions_table(
    paths: Sequence[Path],
    labels: Labels,
    probabilities: NDArray[np.float64],
    classes: Sequence[str],
    groups: Sequence[str],
) -> "pd.DataFrame":
    """One row a clip, in the order given.

    Returns:
        Columns ``clip_path``, ``group``, ``label``, ``predicted``, ``correct``, ``confidence`` (the predicted
        class's probability) and ``probability/<class>`` for every class.
    """
    import pandas as pd

    names = np.array(classes)
    guesses = predicted(probabilities)
    described = {
        "clip_path": [named(path) for path in paths],
        "group": list(groups),
        "label": names[labels],
        "predicted": names[guesses],
        "correct": guesses == labels,
        "confidence": probabilities.max(axis=1),
    }
    columns = {f"{PROBABILITY}{name}": column for name, column in zip(classes, probabilities.T, strict=True)}
    return pd.DataFrame(described | columns)


def read_predictions(path: Path) -> "pd.DataFrame":
    """A `predictions_table` from its CSV file; names stay text, also those that look like numbers or gaps."""
    import pandas as pd

    texts = {"clip_path": str, "label": str, "predicted": str, "group": str}
    return pd.read_csv(path, dtype=texts, keep_default_na=False)


def val_answers(artifacts: Path) -> list[tuple[str, str]] | None:
    """Clip and predicted class of all of val, of every repeat, sorted; ``None`` where they are not on disk.

    Args:
        artifacts: Of a run.
    """
    folders = [artifacts / "val", *sorted((artifacts / "repeats").glob("*/val"))]
    try:
        return sorted(
            (row["clip_path"], row["predicted"])
            for folder in folders
            for row in csv.DictReader((folder / "predictions.csv").read_text(encoding="utf-8").splitlines())
        )
    except FileNotFoundError:
        return None


def write_predictions(table: "pd.DataFrame", folder: Path) -> None:
    """Writes a `predictions_table`, and by itself what is wrong in it, the most confident first."""
    folder.mkdir(exist_ok=True)
    table.to_csv(folder / "predictions.csv", index=False)
    wrong = table[~table["correct"]].sort_values("confidence", ascending=False, kind="stable")
    wrong.to_csv(folder / "wrong_clips.csv", index=False)
