"""Does a mean of several models' probabilities gain: python -m benchmarks.ensemble MANIFEST [--weights FILE].

Every model predicts every clip of train and val out of fold, by folds of whole groups. Then, again by folds
of whole groups, on all other groups are chosen: the best single model; and greedily, with replacement, those
whose mean is best (Caruana et al., "Ensemble selection from libraries of models", ICML 2004). Both are judged
on the groups that did not choose them, and compared by the paired test over groups. Each model's
probabilities are scaled by a temperature first, of the groups that choose. Beside them the mean of
all, which nothing chooses, and what greedy selection says of itself on the clips that chose it.
"""

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.manifest import Entry, read_manifest
from vidclf.data.splitting import every_fold, group_of
from vidclf.evaluation import metrics
from vidclf.evaluation.calibration import apply_temperature, calibrate
from vidclf.evaluation.significance import paired
from vidclf.models import MODELS
from vidclf.runs.experiment import parse_experiment

FRAMES, FOLDS, STEPS = 16, 4, 20
MOTION = {"features": ["hof", "mbh"], "kernel": "linear", "flow_seconds": 0.08}
LIBRARY: dict[str, tuple[str, Mapping[str, Any]]] = {
    "svm hof+mbh": ("svm", MOTION),
    "svm hog+color": ("svm", {"features": ["hog", "color"], "kernel": "linear"}),
    "forest hof+mbh": ("forest", {"features": ["hof", "mbh"], "flow_seconds": 0.08}),
    "squeezenet": ("frames2d", {"network": "squeezenet1_1", "frozen_stages": 4, "pooling": "conv"}),
    "svm deep": ("svm", {"features": ["deep"], "network": "squeezenet1_1", "kernel": "linear"}),
}
TRAIN = {"epochs": 8, "views": 1, "batch_size": 16, "lr": 1e-3}
Matrix = NDArray[np.float64]


def out_of_fold(
    kind: str, model: Mapping[str, Any], folds: Sequence[Sequence[Entry]], classes: tuple[str, ...]
) -> dict[Path, Matrix]:
    """Probabilities of every clip by a model that has not seen its group."""
    tree: dict[str, Any] = {
        "data": {"manifest": "/m.csv", "frames": FRAMES},
        "model": {"kind": kind, **model},
    }
    if kind == "frames2d":
        tree["train"] = TRAIN
    else:
        tree["data"]["size"] = 112
    experiment = parse_experiment(tree, "ensemble").resolved()
    store = ClipStore(experiment.data.grid, experiment.data.store_side, experiment.apart)
    found: dict[Path, Matrix] = {}
    for entries in folds:
        train, val = (
            ClipSet.of_entries([entry for entry in entries if entry.split == split], classes, store)
            for split in ("train", "val")
        )
        fitted = MODELS[kind].build(experiment, classes)
        # Of a network the last epoch is kept: val is to choose nothing.
        fitted.fit(train, ClipSet.of_entries([], classes, store), lambda *_: None)
        found |= dict(zip(val.paths, fitted.predict_proba(val), strict=True))
    return found


def score(labels: NDArray[np.int64], probabilities: Matrix) -> tuple[float, float]:
    """Macro F1, then what breaks ties: the log loss, less of which is better."""
    loss = -np.log(np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, 1)).mean()
    return metrics.curve_values(labels, probabilities)["macro_f1"], -float(loss)


def greedy(labels: NDArray[np.int64], library: Matrix) -> list[int]:
    """Places of the chosen models, one as often as it was taken; ``library`` is (models, clips, classes)."""
    chosen: list[int] = []
    best: tuple[tuple[float, float], list[int]] = ((0.0, -np.inf), [])
    for _ in range(STEPS):
        summed = library[chosen].sum(axis=0)
        tried = [score(labels, (summed + each) / (len(chosen) + 1)) for each in library]
        chosen.append(max(range(len(library)), key=tried.__getitem__))
        best = max(best, (tried[chosen[-1]], list(chosen)), key=lambda each: each[0])
    return best[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--weights", default="pretrained", help="of SqueezeNet")
    parser.add_argument("--without", nargs="*", default=[], choices=list(LIBRARY), help="models to leave out")
    options = parser.parse_args()
    manifest = read_manifest(str(options.manifest))
    entries = [replace(each, split="train") for each in manifest.entries if each.split != "test"]
    folds = every_fold(entries, FOLDS)
    paths = [entry.clip_path for entry in entries]
    labels = np.array([manifest.classes.index(entry.label) for entry in entries], dtype=np.int64)
    groups = [group_of(entry) for entry in entries]
    print(
        f"{len(entries)} clips of {len(set(groups))} groups, {len(folds)} folds of whole groups", flush=True
    )
    library: dict[str, Matrix] = {}
    for name, (kind, model) in LIBRARY.items():
        if name in options.without:
            continue
        began = time.process_time()
        given = {**model, "weights": options.weights} if "network" in model else model
        found = out_of_fold(kind, given, folds, manifest.classes)
        library[name] = np.stack([found[path] for path in paths])
        value = score(labels, library[name])[0]
        print(f"{name:20} macro F1 {value:.3f}  {time.process_time() - began:6.0f} CPU s", flush=True)
    judge(library, labels, groups, folds, paths)


def judge(
    named: Mapping[str, Matrix],
    labels: NDArray[np.int64],
    groups: Sequence[str],
    folds: Sequence[Sequence[Entry]],
    paths: Sequence[Path],
) -> None:
    """Prints what each way to choose reaches on groups that did not choose."""
    library, names = np.stack(list(named.values())), list(named)
    ways = {name: np.zeros_like(library[0]) for name in ("best single", "greedy mean", "mean of all")}
    place, taken = {path: number for number, path in enumerate(paths)}, Counter[str]()
    for entries in folds:
        held = np.array([place[entry.clip_path] for entry in entries if entry.split == "val"])
        rest = np.setdiff1d(np.arange(len(paths)), held)
        known = [groups[index] for index in rest]
        scales = [calibrate(labels[rest], each[rest], known).temperature for each in library]
        scaled = np.stack([apply_temperature(*pair) for pair in zip(library, scales, strict=True)])
        single = max(range(len(scaled)), key=lambda each: score(labels[rest], scaled[each][rest]))
        many = greedy(labels[rest], scaled[:, rest])
        ways["best single"][held] = scaled[single][held]
        ways["greedy mean"][held] = scaled[many][:, held].mean(axis=0)
        ways["mean of all"][held] = scaled[:, held].mean(axis=0)
        taken.update([names[each] for each in many])
    own = score(labels, library[greedy(labels, library)].mean(axis=0))[0]
    base = metrics.predicted(ways["best single"])
    for name, probabilities in ways.items():
        value, loss = score(labels, probabilities)
        guesses = metrics.predicted(probabilities)
        found = paired("macro_f1", labels, guesses, base, groups)
        against = f"{found.low:+.3f} to {found.high:+.3f}: {found.verdict}" if found else "too few groups"
        print(f"{name:20} macro F1 {value:.3f}  log loss {-loss:.3f}  less the best single {against}")
    print(f"greedy mean on the clips that chose it: {own:.3f}; taken: {dict(taken)}")


if __name__ == "__main__":
    main()
