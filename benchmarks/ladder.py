"""Does a cheap fidelity tell which settings are good at a dear one: python benchmarks/ladder.py [FOLDER].

A grid of settings that all rungs share (learning rate, label smoothing, dropout, frames) is trained on each
rung: the head alone on kept features of a frozen network, the last stage, more of them; by folds of whole
groups, macro F1 and log loss of the last epoch as means over the folds. The rung that is searched stands
twice, under two seeds: what it agrees with itself is what can be hoped for. FOLDER holds ``ucf101-3`` and
``weights/squeezenet1_1-imagenet.pth``; the rendered set needs nothing.

First the rank correlations (95 % intervals: Bonett and Wright 2000, doi:10.1007/BF02294183) and seconds of
CPU of a fit. Then searches of the dear rung are replayed on the recorded values, under ten seeds: how far the
best found is behind the grid's best in a share of the grid's seconds, by the values that the search saw and
by those under the other seed; without a value it has 0. ``--to FILE`` keeps the values, and is read where it
is there.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from scipy import stats

from vidclf import config
from vidclf.data.clips import ClipSet
from vidclf.data.demo import render_demo_set
from vidclf.data.importing import import_clips
from vidclf.data.manifest import Entry, read_manifest
from vidclf.data.splitting import split_by_fold
from vidclf.inference import profiling
from vidclf.models import MODELS
from vidclf.runs.experiment import clip_store, parse_experiment

Tree = dict[str, Any]
Point = tuple[int, ...]
"""Of the grid: the place of each key's value."""
FOLDS, SEARCHES = 3, 10
SHARES = (0.1, 0.2, 0.3, 0.5)
"""Of the seconds that the whole grid takes on the dear rung."""


@dataclass(frozen=True)
class Case:
    """A set, what is searched, and on which rungs.

    Attributes:
        name: Of the set and its network.
        manifest: Of the clips; their splits do not count.
        base: The experiment.
        grid: Values of each key.
        rungs: Overrides by name, the cheapest first.
        dear: The rung whose best is looked for.
    """

    name: str
    manifest: Path
    base: Tree
    grid: Mapping[str, list[Any]]
    rungs: Mapping[str, Tree]
    dear: str

    def points(self) -> list[Point]:
        return list(itertools.product(*(range(len(values)) for values in self.grid.values())))

    def settings(self, point: Point) -> Tree:
        return {key: values[place] for (key, values), place in zip(self.grid.items(), point, strict=True)}


@dataclass(frozen=True)
class Value:
    """Of a point on a rung: macro F1 after each epoch, log loss after the last, seconds of a fold's fit."""

    macro_f1: list[float]
    loss: float
    seconds: float

    def last(self, metric: str) -> float:
        return self.macro_f1[-1] if metric == "macro F1" else self.loss


def tried(case: Case, entries: list[Entry], point: Point, rung: Tree) -> Value:
    """Trains a point on a rung, fold by fold."""
    tree = case.base | case.settings(point) | rung | {"data.manifest": str(case.manifest)}
    experiment = parse_experiment(config.override({}, tree), "ladder").resolved()
    classes, store = tuple(sorted({entry.label for entry in entries})), clip_store(experiment)
    curves: list[list[Mapping[str, float]]] = []
    started = time.process_time()
    for fold in range(FOLDS):
        split = split_by_fold(entries, FOLDS, fold, seed=0)
        train, val = (
            ClipSet.of_entries([entry for entry in split if entry.split == side], classes, store)
            for side in ("train", "val")
        )
        found: list[Mapping[str, float]] = []
        model = MODELS[experiment.kind].build(experiment, classes)
        model.fit(train, val, partial(_noted, found))
        curves.append(found[1:])
    seconds = (time.process_time() - started) / FOLDS
    by_epoch = [
        statistics.mean(each["epoch/val/macro_f1"] for each in epoch) for epoch in zip(*curves, strict=True)
    ]
    return Value(by_epoch, statistics.mean(fold[-1]["epoch/val/loss"] for fold in curves), seconds)


def _noted(found: list[Mapping[str, float]], _: int, curves: Mapping[str, float]) -> None:
    found.append(curves)


def correlations(one: list[float], other: list[float]) -> str:
    """Kendall's and Spearman's, with their intervals."""
    shown, count = [], len(one)
    for measure in (stats.kendalltau, stats.spearmanr):
        rank = float(measure(one, other).statistic)
        error = (
            math.sqrt(0.437 / (count - 4))
            if measure is stats.kendalltau
            else math.sqrt((1 + rank**2 / 2) / (count - 3))
        )
        low, high = (math.tanh(math.atanh(rank) + way * 1.96 * error) for way in (-1, 1))
        shown.append(f"{rank:+.2f} ({low:+.2f} to {high:+.2f})")
    return "".join(f"{text:>25}" for text in shown)


def show_ranks(case: Case, table: Mapping[str, Mapping[Point, Value]]) -> None:
    print(f"\n{case.name}: {len(case.points())} points, {FOLDS} folds by group")
    print(f"  {'':<46}{'Kendall':>25}{'Spearman':>25}{'s : s':>14}")
    for cheap, dear in itertools.combinations(case.rungs, 2):
        cost = [statistics.mean(value.seconds for value in table[rung].values()) for rung in (cheap, dear)]
        for name in ("macro F1", "log loss"):
            values = [[table[rung][point].last(name) for point in case.points()] for rung in (cheap, dear)]
            text = f"{cheap}, {dear}: {name}"
            print(f"  {text:<46}{correlations(*values)}{f'{cost[0]:.1f} : {cost[1]:.1f}':>14}", flush=True)


Search = Iterator[tuple[Point, float, bool]]
"""What is paid for next: a point, its seconds, and whether they buy its value on the dear rung."""


def by_sampler(case: Case, dear: Mapping[Point, Value], sampler: optuna.samplers.BaseSampler) -> Search:
    """A sampler proposes, each point to its end; a point that comes again costs nothing."""
    study, seen = optuna.create_study(direction="maximize", sampler=sampler), set()
    for _ in range(3 * len(dear)):
        trial = study.ask()
        point = tuple(trial.suggest_int(key, 0, len(values) - 1) for key, values in case.grid.items())
        study.tell(trial, dear[point].macro_f1[-1])
        if point not in seen:
            seen.add(point)
            yield point, dear[point].seconds, True


def asha(dear: Mapping[Point, Value], seed: int) -> Search:
    """Points in random order, stopped at epochs 1, 3 and 9 unless in the best third there."""
    study = optuna.create_study(
        direction="maximize",
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
    )
    for point in shuffled(dear, seed):
        trial, curve = study.ask(), dear[point].macro_f1
        for epoch, value in enumerate(curve, start=1):
            trial.report(value, epoch)
            yield point, dear[point].seconds / len(curve), epoch == len(curve)
            if epoch == len(curve):
                study.tell(trial, value)
            elif trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break


def ladder(cheap: Mapping[Point, Value], dear: Mapping[Point, Value], seed: int) -> Search:
    """All points on the cheap rung, then, the best there first, on the dear one."""
    order = shuffled(cheap, seed)
    for point in order:
        yield point, cheap[point].seconds, False
    for point in sorted(order, key=lambda point: -cheap[point].macro_f1[-1]):
        yield point, dear[point].seconds, True


def shuffled(values: Mapping[Point, Value], seed: int) -> list[Point]:
    return [list(values)[place] for place in np.random.default_rng(seed).permutation(len(values))]


def behind(search: Search, dear: Mapping[Point, Value], judged: Mapping[Point, Value]) -> list[float]:
    """By how much the best found is behind the best, by values of ``judged``, after each share of seconds."""
    whole, best = sum(value.seconds for value in dear.values()), max(v.macro_f1[-1] for v in judged.values())
    spent, found, reached = 0.0, None, [0.0] * len(SHARES)
    for point, seconds, bought in search:
        spent += seconds
        if spent > SHARES[-1] * whole:
            break
        if bought and (found is None or dear[point].macro_f1[-1] > dear[found].macro_f1[-1]):
            found = point
        for place, share in enumerate(SHARES):
            if found is not None and spent <= share * whole:
                reached[place] = judged[found].macro_f1[-1]
    return [best - value for value in reached]


def show_searches(case: Case, table: Mapping[str, Mapping[Point, Value]]) -> None:
    (cheapest, *_, again), dear = case.rungs, table[case.dear]
    searches: dict[str, Callable[[int], Search]] = {
        "random": lambda seed: by_sampler(case, dear, optuna.samplers.RandomSampler(seed)),
        "tpe": lambda seed: by_sampler(case, dear, optuna.samplers.TPESampler(seed=seed)),
        "gp": lambda seed: by_sampler(case, dear, optuna.samplers.GPSampler(seed=seed)),
        "asha": lambda seed: asha(dear, seed),
        f"ladder from {cheapest}": lambda seed: ladder(table[cheapest], dear, seed),
    }
    print(f"  macro F1 behind the best of {case.dear}, and of {again}; mean of {SEARCHES} searches")
    print(f"  {'share of the seconds':<22}" + 2 * "".join(f"{share:>8.0%}" for share in SHARES))
    for name, search in searches.items():
        runs = [
            [part for judged in (dear, table[again]) for part in behind(search(seed), dear, judged)]
            for seed in range(SEARCHES)
        ]
        means = map(statistics.mean, zip(*runs, strict=True))
        print(f"  {name:<22}" + "".join(f"{mean:8.3f}" for mean in means), flush=True)


def of_ucf101(folder: Path, data: Path) -> Case:
    """SqueezeNet on ImageNet weights."""
    manifest = folder / "ucf101-3.csv"
    import_clips([data / "ucf101-3"], manifest, shares="100,0,0", group_scope="class")
    base: Tree = {
        "data.size": 112, "data.grid": 32, "data.store_side": 128,
        "model.kind": "frames2d", "model.network": "squeezenet1_1",
        "model.weights": str(data / "weights" / "squeezenet1_1-imagenet.pth"),
        "train.backbone_lr_scale": 0.1, "train.epochs": 10, "train.views": 4, "train.patience": 0,
    }  # fmt: skip
    grid: dict[str, list[Any]] = {
        "train.lr": [3e-4, 1e-3, 3e-3, 1e-2],
        "train.label_smoothing": [0.0, 0.2],
        "data.frames": [2, 4],
    }
    rungs: dict[str, Tree] = {
        "head": {"model.frozen_stages": 4},
        "last stage": {"model.frozen_stages": 3},
        "last stage again": {"model.frozen_stages": 3, "seed": 1},
    }
    return Case("ucf101-3, squeezenet1_1", manifest, base, grid, rungs, "last stage")


def rendered(folder: Path) -> Case:
    """A network without weights."""
    manifest = render_demo_set(folder / "demo", 15, 3, 0, lambda: None)
    base: Tree = {
        "data.frames": 8, "data.size": 64, "data.grid": 32, "data.store_side": 80,
        "augment.scale": [0.8, 1.0], "augment.saturation": 0.0,
        "model.kind": "volume3d", "model.network": "tiny3d", "model.weights": "none",
        "train.epochs": 6, "train.batch_size": 4, "train.views": 4, "train.patience": 0,
    }  # fmt: skip
    grid: dict[str, list[Any]] = {
        "train.lr": [1e-3, 3e-3, 1e-2],
        "train.label_smoothing": [0.0, 0.2],
        "model.dropout": [0.1, 0.6],
    }
    rungs: dict[str, Tree] = {
        "head": {"model.frozen_stages": 3},
        "all": {"model.frozen_stages": 0},
        "all again": {"model.frozen_stages": 0, "seed": 1},
    }
    return Case("rendered, tiny3d", manifest, base, grid, rungs, "all")


def recorded(case: Case, known: Tree) -> Iterator[tuple[str, Mapping[Point, Value]]]:
    """Each rung's values; those that ``known`` lacks are computed and added to it."""
    entries = [replace(entry, split="train") for entry in read_manifest(case.manifest).entries]
    for name, rung in case.rungs.items():
        values = known.setdefault(case.name, {}).setdefault(name, {})
        for point in case.points():
            if str(point) not in values:
                values[str(point)] = vars(tried(case, entries, point, rung))
        yield name, {point: Value(**values[str(point)]) for point in case.points()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--to", type=Path, help="JSON of the values")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    environment = profiling.environment()
    print(f"{environment['cpu']}, one thread, torch {environment['torch']}, optuna {environment['optuna']}")
    known = json.loads(chosen.to.read_text()) if chosen.to and chosen.to.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("VIDCLF_CACHE", str(Path(folder, "cache")))
        found = [of_ucf101(Path(folder), chosen.data)] if chosen.data else []
        for case in [*found, rendered(Path(folder))]:
            table = {}
            for name, values in recorded(case, known):
                table[name] = values
                if chosen.to:
                    chosen.to.write_text(json.dumps(known))
            show_ranks(case, table)
            show_searches(case, table)


if __name__ == "__main__":
    main()
