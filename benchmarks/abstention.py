"""What a model that may say nothing is worth: ``python -m benchmarks.abstention MANIFEST.csv...``

For each data set and share of wrong answers that is accepted: an SVM on hof and mbh, by three folds of whole
groups. ``answers`` and ``wrong`` are of clips of groups that had no part in choosing the confidence. Then
each class in turn is left out of training, and its clips are strangers: ``strangers refused`` is the share of
them that gets no answer.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.manifest import Entry, read_manifest
from vidclf.data.splitting import group_of, split_by_fold
from vidclf.evaluation.abstention import abstention
from vidclf.models import MODELS
from vidclf.runs.experiment import parse_experiment

FOLDS = 3
ERRORS = (0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of clips by models that have not seen their groups."""

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    groups: list[str]
    strangers: NDArray[np.float64]


def out_of_fold(entries: Sequence[Entry], classes: tuple[str, ...], manifest: Path) -> OutOfFold:
    """Of all clips of ``classes``; what the models say of other classes' clips of val stands beside."""
    experiment = parse_experiment(
        {
            "data": {"manifest": str(manifest), "frames": 16, "size": 112},
            "model": {"kind": "svm", "features": ["hof", "mbh"], "kernel": "linear"},
        },
        "benchmark",
    )
    store = ClipStore(experiment.data.grid, experiment.data.store_side)
    labels, rows, groups, strangers = [], [], list[str](), []
    for fold in range(FOLDS):
        divided = split_by_fold(entries, FOLDS, fold, seed=0)
        known = {
            side: [entry for entry in divided if entry.split == side and entry.label in classes]
            for side in ("train", "val")
        }
        others = [entry for entry in divided if entry.split == "val" and entry.label not in classes]
        model = MODELS["svm"].build(experiment, classes)
        train, val = (ClipSet.of_entries(known[side], classes, store) for side in ("train", "val"))
        model.fit(train, val, lambda *_: None)
        labels.append(val.labels)
        rows.append(model.predict_proba(val))
        groups += [group_of(entry) for entry in known["val"]]
        if others:
            unknown = [replace(entry, label=classes[0]) for entry in others]
            strangers.append(model.predict_proba(ClipSet.of_entries(unknown, classes, store)).max(axis=1))
    return OutOfFold(
        np.concatenate(labels), np.concatenate(rows), groups, np.concatenate(strangers or [np.zeros(0)])
    )


def main(paths: Sequence[Path]) -> None:
    print(f"{'':34}{'error':>7}{'answers':>9}{'wrong':>8}{'without abstaining':>20}{'strangers refused':>19}")
    for path in paths:
        manifest = read_manifest(path)
        entries = [replace(entry, split="train") for entry in manifest.entries]
        whole = out_of_fold(entries, manifest.classes, path)
        without = {
            left: out_of_fold(entries, tuple(name for name in manifest.classes if name != left), path)
            for left in manifest.classes
        }
        always = float((whole.probabilities.argmax(axis=1) != whole.labels).mean())
        for error in ERRORS:
            found = abstention(whole.labels, whole.probabilities, whole.groups, error)
            refused = []
            for each in without.values():
                chosen = abstention(each.labels, each.probabilities, each.groups, error)
                if chosen is not None:
                    refused.append((each.strangers < chosen.confidence).mean())
            shown = (found.coverage, found.error) if found else (None, None)
            told = ["–" if value is None else f"{value:.3f}" for value in shown]
            shares = f"{np.mean(refused):.3f}" if refused else "–"
            name = f"{path.parent.name}, {len(whole.labels)} clips, {len(set(whole.groups))} groups"
            print(f"{name:34}{error:7.2f}{told[0]:>9}{told[1]:>8}{always:20.3f}{shares:>19}")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
