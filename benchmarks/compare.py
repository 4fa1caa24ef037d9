"""How long `vidclf compare` takes over a large study: python benchmarks/compare.py [--trials 10000].

The trials are written straight into Optuna's database, with the attributes that a study leaves; asking
Optuna to add them takes minutes. Each command is a process of its own, its start included.
"""

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    distribution_to_json,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.clips import write_experiment, write_squares, write_study
from vidclf.runs.store import Store, open_store
from vidclf.search.definition.study_file import load_study, open_study
from vidclf.search.record.study import OpenStudy

SEARCHED = """
"model.C" = { low = 0.01, high = 100.0, log = true }
"train.lr" = { low = 1e-5, high = 1e-1, log = true }
"train.label_smoothing" = { low = 0.0, high = 0.5 }
"""
SPACE: dict[str, BaseDistribution] = {
    "base": CategoricalDistribution(["svm", "tiny"]),
    "model.C": FloatDistribution(0.01, 100.0, log=True),
    "train.lr": FloatDistribution(1e-5, 1e-1, log=True),
    "train.label_smoothing": FloatDistribution(0.0, 0.5),
}
SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "loss", "recall/down", "recall/right")
EPOCHS = 12


def make_study(folder: Path, trials: int) -> tuple[Store, OpenStudy]:
    """A study with so many complete trials of two bases."""
    manifest = write_squares(folder / "squares")
    write_experiment(folder / "svm.toml", "svm", manifest)
    write_experiment(folder / "tiny.toml", "frames2d", manifest)
    write_study(folder / "large.toml", ["svm.toml", "tiny.toml"], trials=trials, space=SEARCHED)
    store = open_store(folder / "store")
    opened = open_study(load_study(folder / "large.toml", {}, store), store)
    fill(store.folder / "optuna.db", trials)
    return store, opened


def fill(database: Path, trials: int) -> None:
    """Writes the trials, as Optuna's tables hold them; those that the bases enqueued go."""
    generator = random.Random(0)
    tables: dict[str, list[tuple[Any, ...]]] = {}
    for trial in range(1, trials + 1):
        for table, row in trial_rows(trial, generator):
            tables.setdefault(table, []).append(row)
    with sqlite3.connect(database) as connection:
        for table in ("trial_params", "trial_user_attributes", "trial_system_attributes", "trials"):
            connection.execute(f"DELETE FROM {table}")
        for table, rows in tables.items():
            columns = COLUMNS[table]
            marks = ", ".join("?" for _ in columns)
            connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)


COLUMNS = {
    "trials": ("trial_id", "number", "study_id", "state", "datetime_start", "datetime_complete"),
    "trial_params": ("trial_id", "param_name", "param_value", "distribution_json"),
    "trial_values": ("trial_id", "objective", "value", "value_type"),
    "trial_intermediate_values": ("trial_id", "step", "intermediate_value", "intermediate_value_type"),
    "trial_user_attributes": ("trial_id", "key", "value_json"),
}


def trial_rows(trial: int, generator: random.Random) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """What one complete trial is in each table."""
    tiny = trial % 2
    score = generator.random()
    yield "trials", (trial, trial - 1, 1, "COMPLETE", "2026-01-01 00:00:00", "2026-01-01 00:01:00")
    yield "trial_values", (trial, 0, score, "FINITE")
    names = ("train.lr", "train.label_smoothing") if tiny else ("model.C",)
    params = {"base": float(tiny)} | {name: generator.uniform(0.02, 0.09) for name in names}
    for name, value in params.items():
        yield "trial_params", (trial, name, value, distribution_to_json(SPACE[name]))
    for step in range(1, EPOCHS + 1) if tiny else ():
        yield "trial_intermediate_values", (trial, step, score * step / EPOCHS, "FINITE")
    metrics = {f"val/{name}": generator.random() for name in SCORES} | {"val/macro_f1": score}
    metrics |= {"size/file_mb": generator.random(), "latency/p50_ms": 1 + 9 * generator.random()}
    for key, value_ in {"metrics": metrics, "shape": f"shape {tiny}"}.items():
        yield "trial_user_attributes", (trial, key, json.dumps(value_))


def main() -> None:
    """Makes the study and times each way to compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory(prefix="vidclf-compare-") as scratch:
        folder = Path(scratch)
        store, opened = make_study(folder, trials)
        complete = sum(row.value is not None for row in opened.rows())
        print(f"{complete:,} complete trials, database {store.optuna_uri.removeprefix('sqlite:///')}")
        ways = {
            "a table of the best": [],
            "every trial as JSON": ["--all", "--json"],
            "every trial as CSV": ["--all", "--csv", str(folder / "all.csv")],
            "the page": ["--to", str(folder / "compare.html")],
        }
        for name, options in ways.items():
            command = [sys.executable, "-m", "vidclf", "compare", "--store", str(store.folder), *options]
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=dict(os.environ))
            print(f"{name:20s} {time.perf_counter() - started:6.1f} s")
        print(f"{'the page weighs':20s} {(folder / 'compare.html').stat().st_size / 1e6:6.1f} MB")


if __name__ == "__main__":
    main()
