"""How lucky the best of many trials is: python benchmarks/luck.py [--sets 6].

For several rendered data sets: the best of 40 trials by val, what val promised, what confirm found of it on
clips that had not chosen it, and what the test split says; and the same of the trial that confirm chose.
"""

import argparse
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vidclf.data.demo import render_demo_set
from vidclf.evaluation import ranking
from vidclf.registry.confirm import confirm, plan
from vidclf.registry.test_split import ScoredClips, TestSplit
from vidclf.runs.store import open_store
from vidclf.search.execution import tune
from vidclf.search.execution.display import Display

EXPERIMENT = """
[data]
manifest = "{manifest}"
frames = 8
size = 64
[model]
kind = "svm"
features = ["hog", "flow"]
"""
STUDY = """
base = "svm.toml"
keep = 5
[objective]
metric = "val/macro_f1"
direction = "maximize"
[budget]
trials = {trials}
[sampler]
name = "random"
[pruner]
name = "none"
[space]
"model.features" = {{ choices = ["hog", "flow", "hog+flow", "hof+mbh", "difference+history", "color+flow"] }}
"model.scale" = {{ choices = ["standard", "block"] }}
"model.pca" = {{ choices = [0, 0.8, 0.95] }}
"model.C" = {{ low = 1e-3, high = 1e2, log = true }}
"model.kernel" = {{ choices = ["linear", "rbf"] }}
"""


@dataclass(frozen=True)
class Outcome:
    """Macro F1 of one trial: as val promised, as confirm found, and on test."""

    val: float
    confirmed: float
    test: float


def one_set(folder: Path, seed: int, trials: int, seeds: int) -> tuple[Outcome, Outcome]:
    """The best by val, and the best by confirm."""
    manifest = render_demo_set(folder / "demo", 15, 3, seed, lambda: None)
    (folder / "svm.toml").write_text(EXPERIMENT.format(manifest=manifest))
    (folder / "luck.toml").write_text(STUDY.format(trials=trials))
    store = open_store(folder / "store")
    definition = tune.plan(tune.TuneRequest(folder / "luck.toml"), store)
    tune.check(definition)
    opened, _ = tune.tune(definition, store, Display(), [])
    rows = ranking.ranked(opened.rows(), opened.objective.direction)
    found = confirm(opened, plan(opened, 5, seeds))
    confirmed = {each.row.number: each.mean for each in found.finalists}

    def outcome(number: int, val: float) -> Outcome:
        attempt = opened.attempt(number)
        split = TestSplit.of(attempt)
        scored = ScoredClips.of(split.predictions(attempt.model), split.manifest.classes)
        return Outcome(val, confirmed[number], scored.metrics()["test/macro_f1"])

    winner = found.winner.row
    return outcome(rows[0].number, rows[0].value or 0.0), outcome(winner.number, winner.value or 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=6, help="data sets")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=2, help="fresh seeds of confirm")
    arguments = parser.parse_args()
    found = []
    for seed in range(arguments.sets):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["VIDCLF_CACHE"] = str(Path(folder, "cache"))
            found.append(one_set(Path(folder), seed, arguments.trials, arguments.seeds))
            first, second = found[-1]
            print(
                f"set {seed}: by val {first.val:.3f}, confirm {first.confirmed:.3f}, test {first.test:.3f}; "
                f"by confirm {second.confirmed:.3f} (val {second.val:.3f}), test {second.test:.3f}",
                flush=True,
            )
    print(f"\nmean macro F1 over {arguments.sets} sets, best of {arguments.trials} trials")
    print(f"  {'':<18}{'val':>8}{'confirm':>9}{'test':>8}{'val - test':>12}{'confirm - test':>16}")
    for name, each in zip(("best by val", "best by confirm"), zip(*found, strict=True), strict=True):
        val, confirmed, test = (
            statistics.mean(getattr(outcome, field) for outcome in each)
            for field in ("val", "confirmed", "test")
        )
        print(f"  {name:<18}{val:8.3f}{confirmed:9.3f}{test:8.3f}{val - test:12.3f}{confirmed - test:16.3f}")


if __name__ == "__main__":
    main()
