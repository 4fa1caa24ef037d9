"""Reviews of manifests whose clips were judged by nobody: predictions are given."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tests.clips import CLASSES, write_experiment, write_scene
from tests.comparison.fabricated import add_study, write_predictions
from vidclf import config
from vidclf.data.manifest import Entry, Manifest, read_manifest, write_manifest
from vidclf.evaluation.predictions import predictions_table
from vidclf.runs.experiment import load_experiment
from vidclf.runs.store import Store
from vidclf.search.record.study import find_study


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


def mislabelled(folder: Path, *names: str) -> Path:
    """Clips of eight rooms, no two alike, in folders of two classes; these have the other class's label."""
    entries = []
    for room, label in enumerate(CLASSES * 4):
        path = write_scene(folder / "rooms" / label / f"{label}{room}.avi", room, 0)
        given = CLASSES[1 - CLASSES.index(label)] if path.stem in names else label
        entries.append(Entry(path, given, f"g{room // 2}", ("train", "val", "test", "val")[room // 2]))
    write_manifest(entries, folder / "rooms" / "manifest.csv")
    return folder / "rooms" / "manifest.csv"


def add_judged_study(store: Store, manifest: Path) -> None:
    """A study ``s``, whose best trial knows what the clips of val truly are."""
    read = read_manifest(manifest)
    files = {
        "svm": write_experiment(manifest.with_name("svm.toml"), "svm", manifest),
        "tiny": write_experiment(manifest.with_name("tiny.toml"), "frames2d", manifest),
    }
    bases = {stem: config.dump(load_experiment(path)) for stem, path in files.items()}
    add_study(store, "s", bases, read.digest())
    best = find_study("s", store).attempt(0)
    config.write_toml(bases["svm"], best.config)
    right = [0.9 if entry.clip_path.parent.name == entry.label else 0.1 for entry in read.split("val")]
    write_predictions(best, read, right)
