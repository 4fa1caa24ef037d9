"""Reviews of manifests whose clips were judged by nobody: predictions are given."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vidclf.data.manifest import Entry, Manifest
from vidclf.evaluation.predictions import predictions_table


def judged(entries: Sequence[Entry], first: Mapping[int, float], classes: Sequence[str]) -> pd.DataFrame:
    """Predictions out of fold.

    Args:
        entries: The clips.
        first: By place in ``entries``, the probability of its label; of others 0.9.
        classes: Two of them.
    """
    labels = np.array([classes.index(entry.label) for entry in entries], dtype=np.int64)
    given = np.array([first.get(place, 0.9) for place in range(len(entries))])
    probabilities = np.where(np.arange(2) == labels[:, None], given[:, None], 1 - given[:, None])
    paths, groups = [entry.clip_path for entry in entries], [entry.group for entry in entries]
    return predictions_table(paths, labels, probabilities, classes, groups)


def place_of(manifest: Manifest, name: str) -> int:
    """Of the clip whose file is called so."""
    return next(place for place, entry in enumerate(manifest.entries) if entry.clip_path.name == name)


def copied(manifest: Manifest, folder: Path) -> Path:
    """The manifest in a folder of its own, with a column of the user's."""
    path = folder / "m.csv"
    table = pd.read_csv(manifest.path, dtype=str)
    table["clip_path"] = [str(entry.clip_path) for entry in manifest.entries]
    table["camera"] = [f"c{place}" for place in range(len(table))]
    table.to_csv(path, index=False)
    return path
