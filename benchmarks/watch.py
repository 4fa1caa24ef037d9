"""How often `vidclf watch` alarms: ``python -m benchmarks.watch MANIFEST.csv...``

For each data set: an SVM on hof and mbh is trained on half of the groups. The others are divided at random,
two thirds that stand for val, the rest for new clips, again and again. ``nothing changed``: the share of the
divisions that give an alarm at a rate of 0.05. ``one class``: of the new groups only the clips of one class.
``strangers``: the model has not learned one of the classes, which the new groups hold and val does not.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.manifest import Entry, read_manifest
from vidclf.data.splitting import group_of, split_by_fold
from vidclf.evaluation.drift import WatchedClips, drift
from vidclf.models import MODELS
from vidclf.runs.experiment import parse_experiment

DRAWS, RATE = 200, 0.05


def seen(
    entries: Sequence[Entry], classes: tuple[str, ...], manifest: Path
) -> tuple[list[Entry], WatchedClips]:
    """The clips of the half that was not trained on, and what a model of ``classes`` makes of them."""
    experiment = parse_experiment(
        {
            "data": {"manifest": str(manifest), "frames": 16, "size": 112},
            "model": {"kind": "svm", "features": ["hof", "mbh"], "kernel": "linear"},
        },
        "benchmark",
    )
    store = ClipStore(experiment.data.grid, experiment.data.store_side)
    divided = split_by_fold(entries, 2, 0, seed=0)
    train = [entry for entry in divided if entry.split == "train" and entry.label in classes]
    others = [entry for entry in divided if entry.split == "val"]
    model = MODELS["svm"].build(experiment, classes)
    fitted = ClipSet.of_entries(train, classes, store)
    model.fit(fitted, fitted, lambda *_: None)
    unlabelled = [replace(entry, label=classes[0]) for entry in others]
    clips = ClipSet.of_entries(unlabelled, classes, store)
    return others, WatchedClips(
        model.predict_proba(clips), model.embed(clips), [group_of(entry) for entry in others]
    )


def alarms(
    clips: WatchedClips, known: NDArray[np.bool_], changed: NDArray[np.bool_] | None = None
) -> tuple[float, int]:
    """The share of the draws with an alarm, and how many could tell anything.

    Args:
        clips: All of them.
        known: Those that may be val's.
        changed: Those that may be new; ``None``: of every draw all of the new groups.
    """
    rng, told = np.random.default_rng(0), []
    groups = np.array(clips.groups)
    for _ in range(DRAWS):
        names = rng.permutation(np.unique(groups))
        new = np.isin(groups, names[: len(names) // 3])
        sides = (~new & known, new & (changed if changed is not None else known))
        if not all(side.any() for side in sides):
            continue
        known_clips, new_clips = (
            WatchedClips(clips.probabilities[side], clips.embeddings[side], list(groups[side]))
            for side in sides
        )
        alarm = drift(known_clips, new_clips).alarm(RATE)
        told += [] if alarm is None else [alarm]
    return float(np.mean(told)) if told else float("nan"), len(told)


def main(paths: Sequence[Path]) -> None:
    print(f"{'':40}{'nothing changed':>16}{'one class':>11}{'strangers':>11}")
    for path in paths:
        manifest = read_manifest(path)
        entries = [replace(entry, split="train") for entry in manifest.entries]
        others, clips = seen(entries, manifest.classes, path)
        labels, every = np.array([entry.label for entry in others]), np.ones(len(others), bool)
        same, _ = alarms(clips, every)
        single = [alarms(clips, every, labels == name)[0] for name in manifest.classes]
        strange = []
        for name in manifest.classes:
            _, without = seen(entries, tuple(each for each in manifest.classes if each != name), path)
            strange.append(alarms(without, labels != name, every)[0])
        title = f"{path.parent.name}, {len(others)} clips, {len(set(clips.groups))} groups"
        print(f"{title:40}{same:16.3f}{np.nanmean(single):11.3f}{np.nanmean(strange):11.3f}")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
