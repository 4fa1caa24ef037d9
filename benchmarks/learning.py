"""What settings do to accuracy, beside the time they take: python benchmarks/learning.py FOLDER_OF_DATA.

FOLDER_OF_DATA holds ``gestures3`` and ``basketball5`` (a folder a class) and
``weights/squeezenet1_1-imagenet.pth``; what is missing is left out. Every figure is
the mean over folds and seeds of the last epoch's val figures: no epoch is chosen.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidclf import config
from vidclf.data import cache
from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.demo import render_demo_set
from vidclf.data.importing import import_clips
from vidclf.data.manifest import read_manifest
from vidclf.inference import profiling
from vidclf.models import MODELS
from vidclf.runs.experiment import clip_store, divided, parse_experiment

Tree = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One comparison: the same experiment on the same folds under several settings.

    Attributes:
        title: What is asked.
        base: The experiment, without its manifest.
        data: The data set.
        folds: Folds of whole groups.
        seeds: Repetitions of each fold.
        settings: Overrides by name.
    """

    title: str
    base: Tree
    data: str
    folds: int
    seeds: int
    settings: Mapping[str, Tree]


def cases(weights: Path) -> list[Case]:
    pretrained = {"model.weights": str(weights)} if weights.exists() else {"model.weights": "none"}
    tiny3d: Tree = {
        "data.frames": 16, "data.size": 64, "model.kind": "volume3d", "model.network": "tiny3d",
        "model.weights": "none", "model.dropout": 0.2,
        "train.epochs": 20, "train.lr": 2e-3, "train.patience": 0,
    }  # fmt: skip
    squeezenet: Tree = {
        "data.frames": 8, "model.kind": "frames2d", "model.network": "squeezenet1_1",
        "train.epochs": 10, "train.batch_size": 8, "train.lr": 1e-3, "train.patience": 0,
        "model.frozen_stages": 3, **pretrained,
    }  # fmt: skip
    small = squeezenet | {"data.frames": 4, "data.size": 112, "train.batch_size": 16, "train.balance": "loss"}
    views: dict[str, Tree] = {f"views = {count}": {"train.views": count} for count in (1, 4)}
    views["fresh views"] = {"train.views": 0}
    start: dict[str, Tree] = {
        "ImageNet, 3 of 4 frozen": {"train.views": 4},
        "ImageNet, all trained": {"model.frozen_stages": 0, "train.lr": 3e-4},
        "random, all trained": {"model.weights": "none", "model.frozen_stages": 0, "train.lr": 3e-4},
    }
    motion: dict[str, Tree] = {
        "one draw a clip": {},
        "a draw for every frame": {"augment.per_frame": True},
    }
    return [
        Case("fixed views, tiny3d, stage 1 frozen", tiny3d | {"model.frozen_stages": 1}, "demo", 3, 2, views),
        Case("fixed views, squeezenet1_1, 3 of 4 stages frozen", small, "basketball5", 3, 1, views),
        Case("where training starts, squeezenet1_1", squeezenet, "gestures3", 3, 1, start),
        Case("where training starts, squeezenet1_1", small, "basketball5", 3, 1, start),
        Case("augmentation where motion decides, tiny3d", tiny3d, "demo", 3, 2, motion),
    ]  # fmt: skip


def fit(tree: Tree) -> tuple[float, float, float]:
    """Val macro F1 and accuracy after the last epoch, and the seconds of the fit, clips decoded before."""
    experiment = parse_experiment(config.override({}, tree), "benchmark").resolved()
    manifest = read_manifest(Path(experiment.data.manifest))
    splits = divided(experiment, manifest)
    store: ClipStore = clip_store(experiment)
    train, val = (ClipSet.of_entries(splits[split], manifest.classes, store) for split in ("train", "val"))
    cache.clear()  # what another setting has computed is not to be found
    store.build([*train.paths, *val.paths])
    classifier = MODELS[experiment.kind].build(experiment, manifest.classes)
    curves: list[Mapping[str, float]] = []
    started = time.perf_counter()
    classifier.fit(train, val, lambda _, metrics: curves.append(metrics))
    seconds = time.perf_counter() - started
    return curves[-1]["epoch/val/macro_f1"], curves[-1]["epoch/val/accuracy"], seconds


def show(case: Case, manifest: Path) -> None:
    print(f"\n{case.title}; {case.data}, {case.folds} folds by group x {case.seeds} seeds")
    print(f"  {'':<26} {'macro F1':>16} {'accuracy':>10} {'s a fit':>9} {'x first':>8}")
    first = 0.0
    for name, overrides in case.settings.items():
        runs = [
            fit(
                case.base
                | overrides
                | {"data.manifest": str(manifest), "data.folds": case.folds, "data.fold": fold, "seed": seed}
            )
            for fold in range(case.folds)
            for seed in range(case.seeds)
        ]
        scores, accuracies, seconds = ([run[place] for run in runs] for place in range(3))
        first = first or statistics.mean(seconds)
        print(
            f"  {name:<26} {statistics.mean(scores):8.3f} ± {statistics.stdev(scores):.3f} "
            f"{statistics.mean(accuracies):10.3f} {statistics.mean(seconds):9.1f} "
            f"{statistics.mean(seconds) / first:8.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of gestures3, basketball5 and weights")
    parser.add_argument("--only", default="", help="only cases whose title or data set holds this text")
    arguments = parser.parse_args()
    environment = profiling.environment()
    print(", ".join(environment[key] for key in ("cpu", "device")), f"torch {environment['torch']}", sep=", ")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VIDCLF_CACHE"] = str(Path(folder, "cache"))
        manifests: dict[str, Path] = {}
        for name in ("gestures3", "basketball5"):
            if (arguments.data / name).is_dir():
                manifests[name] = Path(folder, f"{name}.csv")
                # The clips of basketball5 name no group: those that show one scene are found by their look.
                import_clips(
                    [arguments.data / name], manifests[name], shares="100,0,0", by_scene=name == "basketball5"
                )
        for case in cases(arguments.data / "weights" / "squeezenet1_1-imagenet.pth"):
            if arguments.only not in f"{case.title} {case.data}":
                continue
            if case.data == "demo" and "demo" not in manifests:
                manifests["demo"] = render_demo_set(Path(folder, "demo"), 12, 3, 0, lambda: None)
            if case.data in manifests:
                show(case, manifests[case.data])


if __name__ == "__main__":
    main()
