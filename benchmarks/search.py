"""What searching cleverly brings: python benchmarks/search.py [--weights SQUEEZENET_FILE].

On the rendered set, SqueezeNet with all stages frozen, its pooled outputs kept: a trial takes a part of a
second, and its values are real ones. First the best val loss after 10, 25 and 50 trials by sampler, mean over
seeds; then the training seconds until a search has 99 % of the best macro F1 that any of them found, with
hyperband against without.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from vidclf.data.clips import ClipSet
from vidclf.data.demo import render_demo_set
from vidclf.data.manifest import read_manifest
from vidclf.exceptions import TrialPruned
from vidclf.inference import profiling
from vidclf.models import MODELS
from vidclf.runs.experiment import ExperimentConfig, clip_store, divided, parse_experiment
from vidclf.search.definition.pruners import PRUNERS, build_pruner
from vidclf.search.definition.samplers import SAMPLERS, build_sampler
from vidclf.search.definition.space import Space, build_space

SPACE = {
    "train.lr": {"low": 1e-5, "high": 1e-1, "log": True},
    "train.weight_decay": {"low": 1e-6, "high": 1e0, "log": True},
    "train.label_smoothing": {"low": 0.0, "high": 0.9},
    "model.dropout": {"low": 0.0, "high": 0.9},
    "train.batch_size": {"choices": [4, 8, 16]},
}
MARKS = (10, 25, 50)


@dataclass(frozen=True)
class Bench:
    """The data and the space that all searches share."""

    space: Space
    train: ClipSet
    val: ClipSet


@dataclass(frozen=True)
class Tried:
    """One trial: its best val loss and macro F1 of any epoch, and what training took."""

    loss: float
    macro_f1: float
    seconds: float


def make_bench(folder: Path, weights: str, epochs: int) -> Bench:
    manifest = render_demo_set(folder / "demo", 15, 3, 0, lambda: None)
    tree = {
        "data": {"manifest": str(manifest), "frames": 8},
        "model": {
            "kind": "frames2d",
            "network": "squeezenet1_1",
            "weights": weights,
            "frozen_stages": 4,
            "pooling": "avg",
        },
        "train": {"epochs": epochs, "views": 1, "patience": 0},
    }
    base = parse_experiment(tree, "benchmark").resolved()
    read = read_manifest(manifest)
    splits, store = divided(base, read), clip_store(base)
    train, val = (ClipSet.of_entries(splits[split], read.classes, store) for split in ("train", "val"))
    store.build([*train.paths, *val.paths])
    return Bench(build_space(SPACE, {"base": base}, "benchmark", folder), train, val)


def fit(bench: Bench, experiment: ExperimentConfig, trial: optuna.Trial, metric: str) -> Tried:
    """Trains one configuration; the pruner sees the best macro F1 so far."""
    classifier = MODELS[experiment.kind].build(experiment, bench.train.classes)
    best = {"loss": float("inf"), "macro_f1": 0.0}

    def report(step: int, found: Mapping[str, float]) -> None:
        if step == 0:
            return
        best["loss"] = min(best["loss"], found["epoch/val/loss"])
        best["macro_f1"] = max(best["macro_f1"], found["epoch/val/macro_f1"])
        if metric == "macro_f1":
            trial.report(best["macro_f1"], step)
            if trial.should_prune():
                raise TrialPruned

    started = time.perf_counter()
    try:
        classifier.fit(bench.train, bench.val, report)
    except TrialPruned:
        trial.set_user_attr("pruned", True)
    return Tried(best["loss"], best["macro_f1"], time.perf_counter() - started)


def search(
    bench: Bench, sampler: str, pruner: str, metric: str, *, seed: int, trials: int
) -> Iterator[Tried]:
    study = optuna.create_study(
        study_name=f"{sampler} {pruner} {seed}",
        direction="minimize" if metric == "loss" else "maximize",
        sampler=build_sampler(SAMPLERS[sampler](name=sampler, seed=seed), bench.space, 0),
        pruner=build_pruner(PRUNERS[pruner](name=pruner), bench.space, 1),
    )
    for _ in range(trials):
        trial = study.ask()
        _, experiment = bench.space.suggest(trial)
        tried = fit(bench, experiment, trial, metric)
        if trial.user_attrs.get("pruned"):
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, getattr(tried, metric))
        yield tried


def show_samplers(bench: Bench, seeds: int) -> None:
    print(f"\nbest val loss after so many trials, mean ± deviation over {seeds} seeds; lower is better")
    print(f"  {'':<10}" + "".join(f"{mark:>18}" for mark in MARKS) + f"{'better than random':>22}")
    reference: list[float] = []
    for sampler in ("random", "tpe", "gp"):
        finals: dict[int, list[float]] = {mark: [] for mark in MARKS}
        for seed in range(seeds):
            best = float("inf")
            for number, tried in enumerate(search(bench, sampler, "none", "loss", seed=seed, trials=50), 1):
                best = min(best, tried.loss)
                if number in finals:
                    finals[number].append(best)
        row = "".join(f"{statistics.mean(v):10.4f} ± {statistics.stdev(v):.4f}" for v in finals.values())
        reference = reference or finals[MARKS[-1]]
        wins = sum(mine < theirs for mine, theirs in zip(finals[MARKS[-1]], reference, strict=True))
        print(f"  {sampler:<10}{row}{f'{wins} of {seeds} seeds':>22}", flush=True)


def show_pruners(bench: Bench, seeds: int, trials: int) -> None:
    found: dict[str, list[list[Tried]]] = {}
    for pruner in ("none", "hyperband"):
        found[pruner] = [
            list(search(bench, "random", pruner, "macro_f1", seed=seed, trials=trials))
            for seed in range(seeds)
        ]
    print(f"\ntraining seconds until 99 % of the best macro F1 of the same seed, {trials} trials")
    print(f"  {'':<10}{'mean':>10}{'all trials':>14}{'reached':>12}")
    for pruner, runs in found.items():
        waits, totals = [], []
        for seed, run in enumerate(runs):
            goal = 0.99 * max(tried.macro_f1 for each in found.values() for tried in each[seed])
            spent, reached = 0.0, None
            for tried in run:
                spent += tried.seconds
                if reached is None and tried.macro_f1 >= goal:
                    reached = spent
            totals.append(spent)
            if reached is not None:
                waits.append(reached)
        mean = f"{statistics.mean(waits):.1f}" if waits else "–"
        print(f"  {pruner:<10}{mean:>10}{statistics.mean(totals):>14.1f}{f'{len(waits)} of {seeds}':>12}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="none", help="local SqueezeNet 1.1 weights; default: random")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=40, help="of a search with a pruner")
    parser.add_argument("--only", choices=("samplers", "pruners"))
    arguments: Any = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    environment = profiling.environment()
    print(environment["cpu"], environment["device"], f"optuna {environment['optuna']}", sep=", ")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VIDCLF_CACHE"] = str(Path(folder, "cache"))
        if arguments.only != "pruners":
            show_samplers(make_bench(Path(folder), arguments.weights, epochs=8), arguments.seeds)
        if arguments.only != "samplers":
            long = make_bench(Path(folder), arguments.weights, epochs=27)
            show_pruners(long, arguments.seeds, arguments.trials)


if __name__ == "__main__":
    main()
