"""How often noise is called something: python -m benchmarks.noise [--studies 100].

The rendered set with its labels permuted by group (those of one figure's classes among themselves), a study
of SVMs on each permutation, then compare, confirm and promote without a champion, as a user would. Each claim
is wrong. Whole studies, but in one store, where features are computed once; nothing is claimed of latencies
and pictures: the ones are of three runs, the others blank.
"""

import argparse
import functools
import logging
import os
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.luck import EXPERIMENT
from vidclf.comparison.data import build
from vidclf.data.demo import render_demo_set
from vidclf.exceptions import GateRefusedError
from vidclf.inference import profiling
from vidclf.registry.confirm import confirm, plan
from vidclf.registry.promote import PromoteRequest, find_candidate, promote
from vidclf.reports import plots
from vidclf.runs.store import open_store
from vidclf.search.execution import tune
from vidclf.search.execution.display import Display

STUDY = """
name = "{name}"
base = "svm.toml"
[objective]
metric = "val/macro_f1"
direction = "maximize"
[budget]
trials = {trials}
[pruner]
name = "none"
[space]
"model.features" = {{ choices = ["hog", "flow", "hog+flow"] }}
"model.C" = {{ low = 1e-3, high = 1e2, log = true }}
"model.kernel" = {{ choices = ["linear", "rbf"] }}
"""
# Here, as worker processes import this module too.
profiling.measure_latency = functools.partial(profiling.measure_latency, runs=3, warmup=1)
profiling.measure_side_by_side = functools.partial(profiling.measure_side_by_side, rounds=1, runs=3)
plots.write_png = lambda figure, path, colours=64: None
CLAIMS = (
    "compare ships after tune",
    "compare ships after confirm",
    "confirm names one best",
    "promote takes it",
)


def permuted(manifest: Path, seed: int) -> Path:
    """A manifest beside the first in which each group's classes have changed their names."""
    table, generator = pd.read_csv(manifest, dtype=str), np.random.default_rng(seed)
    classes = sorted(table["label"].unique())
    for _, rows in table.groupby("group").groups.items():
        names = dict(zip(classes, generator.permutation(classes), strict=True))
        table.loc[rows, "label"] = table.loc[rows, "label"].map(names)
    path = manifest.with_name(f"permuted-{seed}.csv")
    table.to_csv(path, index=False)
    return path


def claimed(folder: Path, manifest: Path, trials: int) -> list[bool]:
    """Which of `CLAIMS` are made of one permutation."""
    name = manifest.stem
    (folder / "svm.toml").write_text(EXPERIMENT.format(manifest=manifest))
    (folder / "noise.toml").write_text(STUDY.format(name=name, trials=trials))
    store = open_store(folder / "store")
    definition = tune.plan(tune.TuneRequest(folder / "noise.toml"), store)
    tune.check(definition)
    opened, _ = tune.tune(definition, store, Display(), [])

    def ships() -> bool:
        reports = build([name], store, metric=None, every=False).reports
        return any(report.answer.ship is not None for report in reports)

    before, found = ships(), confirm(opened, plan(opened, 3, 1))
    candidate = find_candidate(name, store)
    try:
        promote(store, candidate, PromoteRequest(name))
        taken = True
    except GateRefusedError:
        taken = False
    return [before, ships(), found.best is not None and len(found.best.candidates) == 1, taken]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--trials", type=int, default=10)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    counted: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["VIDCLF_CACHE"] = str(Path(temporary, "cache"))
        manifest = render_demo_set(Path(temporary, "demo"), 17, 3, 0)
        for seed in range(arguments.studies):
            made = claimed(Path(temporary), permuted(manifest, seed), arguments.trials)
            counted.update(claim for claim, holds in zip(CLAIMS, made, strict=True) if holds)
            so_far = ", ".join(f"{claim} {counted[claim]}" for claim in CLAIMS)
            print(f"of {seed + 1} studies: {so_far}", flush=True)


if __name__ == "__main__":
    main()
