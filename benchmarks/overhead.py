"""What a study costs beside its training: python benchmarks/overhead.py [--trials 100] [--memory 300].

Workers run a stand-in that writes what a real trial writes, and sleeps instead of training. Shown is how
long a worker waits between two of them, early in a study and late in one, and how much memory the study's
processes hold. Late means that 890 finished trials are already in the database and in the store.
"""

import argparse
import cProfile
import logging
import os
import pstats
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.clips import write_experiment, write_squares
from tests.interruptions import worker_processes
from vidclf import config
from vidclf.reports import plots
from vidclf.runs.folder import Attempt, Identity, Outcome, now_ms
from vidclf.runs.repeats import Repeats
from vidclf.runs.store import Store, open_store
from vidclf.search.definition.study_file import load_study, open_study
from vidclf.search.execution.display import Display, StudyState
from vidclf.search.execution.tune import tune
from vidclf.search.record.study import OpenStudy
from vidclf.system import Connection, Interrupt
from vidclf.tracking.deliverer import Deliverer
from vidclf.tracking.delivery_state import PendingDelivery
from vidclf.workers import local as workers

TRAINING_SECONDS = 0.5
"""How long the stand-in sleeps; nothing in vidclf is asked to be faster than two trials a second."""
EARLIER = 890
METRIC = "val/macro_f1"
STUDY = """
base = "svm.toml"
workers = {workers}
[objective]
metric = "val/macro_f1"
direction = "maximize"
[budget]
trials = 5000
[sampler]
name = "{sampler}"
[space]
"model.C" = {{ low = 0.01, high = 100.0, log = true }}
"""


def stand_in(experiment: Any, attempt: Attempt, report: Any, repeats: Repeats | None = None) -> Outcome:
    """Writes into the folder what `run_experiment` does; its times go beside the store."""
    begun = time.time()
    config.write_toml(config.dump(experiment), attempt.config)
    time.sleep(float(os.environ["OVERHEAD_SECONDS"]))
    metrics = {
        METRIC: random.random() * 0.5 + 0.4,
        **{f"val/{name}": random.random() for name in ("accuracy", "loss", "balanced_accuracy")},
        **{f"val/recall/{name}": random.random() for name in ("down", "right")},
        "size/file_mb": 0.1 + random.random() / 10,
        "cost/fit_seconds": 1.0,
    }
    folder = attempt.artifacts / "val"
    folder.mkdir(exist_ok=True)
    figure = plots.confusion_matrix(np.array([[3, 1], [0, 4]]), ("down", "right"), "val, 8 clips")
    plots.write_png(figure, folder / "confusion_matrix.png")
    for name in ("classification_report.txt", "predictions.csv", "wrong_clips.csv"):
        (folder / name).write_text("clip,label\n" * 20)
    attempt.model.mkdir()
    (attempt.model / "model.skops").write_bytes(bytes(100_000))
    attempt.record(0, metrics)
    outcome = Outcome("complete", "", metrics, now_ms())
    attempt.finish(outcome)
    with Path(os.environ["OVERHEAD_TIMES"]).open("a") as file:
        file.write(f"{os.getpid()} {begun} {time.time()}\n")
    return outcome


def work_with_stand_in(
    connection: Connection, threads: int, environment: Mapping[str, str], interrupt: Interrupt
) -> None:
    import vidclf.runs.experiment

    vidclf.runs.experiment.run_experiment = stand_in
    REAL_WORK(connection, threads, environment, interrupt)


REAL_WORK = workers.work


class Watcher(Display):
    """The display of a benchmark: stops the study in time."""

    def __init__(self, stop_after: int) -> None:
        super().__init__()
        self.stop_after, self.stopped = stop_after, False

    def refresh(self, state: StudyState) -> None:
        if state.finished_here >= self.stop_after and not self.stopped:
            self.stopped = True
            os.kill(os.getpid(), signal.SIGINT)


def resident(process: psutil.Process) -> str:
    """Megabytes of a supervisor, and of each of its workers."""
    sizes = ", ".join(f"{worker.memory_info().rss / 1e6:5.0f}" for worker in worker_processes(process))
    return f"supervisor {process.memory_info().rss / 1e6:5.0f}, workers {sizes}"


def fabricate(opened: OpenStudy, count: int) -> None:
    """Finished trials with their folders, delivered as far as their receipts say."""
    own = opened.own_attempt
    generator = random.Random(0)
    made = []
    for number in range(count):
        metrics = {METRIC: generator.random() * 0.4, "size/file_mb": 0.2 + generator.random()}
        params = {"model.C": 10 ** generator.uniform(-2, 2)}
        made.append(
            optuna.trial.create_trial(
                value=metrics[METRIC],
                params=params,
                distributions={
                    "model.C": optuna.distributions.FloatDistribution(0.01, 100.0, log=True),
                },
                user_attrs={"metrics": metrics, "shape": "x" * 64, "owner": "y" * 32},
            )
        )
        attempt = opened.attempt(number)
        attempt.create(
            Identity(opened.attempt_id(number), "e", f"trial {number}", opened.attempt_id(), now_ms(), {})
        )
        config.write_toml({"seed": 0, "model": params}, attempt.config)
        for name in ("confusion_matrix.png", "predictions.csv", "wrong_clips.csv"):
            (attempt.artifacts / name).write_text("x" * 100)
        attempt.record(0, metrics)
        attempt.finish(Outcome("complete", "", metrics, now_ms()))
        receipt = Deliverer(opened.store).receipt(attempt)
        news = PendingDelivery.of(attempt, receipt)
        receipt.run_id, receipt.config, receipt.ended = f"{number:032x}", news.config, news.ended
        receipt.offset = attempt.journal.stat().st_size
        receipt.files = {name: stamp for name, (_, stamp) in news.files.items()}
        receipt.save(attempt)
    opened.study.add_trials(made)
    assert not own.folder.joinpath("attempt.json").exists()


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.times = folder / "times"
        os.environ["OVERHEAD_TIMES"] = str(self.times)
        os.environ["VIDCLF_CACHE"] = str(folder / "cache")
        os.environ["VIDCLF_STORE"] = str(folder / "store")
        for name in ("MLFLOW_TRACKING_URI", "VIDCLF_STUDY_STORAGE"):
            os.environ.pop(name, None)
        write_experiment(folder / "svm.toml", "svm", write_squares(folder / "squares"))
        self.store: Store = open_store()

    def run(self, name: str, count: int, *, workers: int, sampler: str, earlier: int) -> None:
        """``count`` trials of a new study."""
        self.times.unlink(missing_ok=True)
        path = self.folder / f"{name}.toml"
        path.write_text(STUDY.format(workers=workers, sampler=sampler))
        definition = load_study(path, {}, self.store)
        if earlier:
            fabricate(open_study(definition, self.store), earlier)
        tune(definition, self.store, Watcher(count), [])

    def watch_memory(self, count: int, sampler: str) -> None:
        """Real trials of a real command, seen from outside."""
        path = self.folder / "memory.toml"
        path.write_text(STUDY.format(workers=2, sampler=sampler))
        command = [sys.executable, "-m", "vidclf", "tune", str(path), "--trials", str(count + 2)]
        done = 0
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as tuning:
            assert tuning.stderr is not None
            for line in tuning.stderr:
                done += line.startswith("trial")
                if line.startswith("trial") and (done in (10, 30, 100, 300) or done == count):
                    print(f"  {done:5d} trials: {resident(psutil.Process(tuning.pid))}", flush=True)
                if done >= count:
                    tuning.send_signal(signal.SIGINT)
                    break
            tuning.stderr.read()

    def waits(self, skip: int = 2) -> list[float]:
        """Seconds between the end of a trial and the next one's start in the same worker."""
        found: list[float] = []
        ended: dict[str, float] = {}
        for line in self.times.read_text().splitlines():
            process, begun, end = line.split()
            if process in ended:
                found.append(float(begun) - ended[process])
            ended[process] = float(end)
        return found[skip:]


def row(label: str, waits: list[float]) -> None:
    centiles = statistics.quantiles(waits, n=10)
    print(
        f"  {label:<44} {len(waits):4d} {statistics.mean(waits):8.3f} {statistics.median(waits):8.3f}"
        f" {centiles[-1]:8.3f} {max(waits):8.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100, help="in each measurement")
    parser.add_argument("--memory", type=int, default=300, help="trials that memory is watched over")
    parser.add_argument("--seconds", type=float, default=TRAINING_SECONDS, help="that a trial sleeps")
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--profile", metavar="FILE", help="profile the supervisor over a late stretch only")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    workers.work = work_with_stand_in
    os.environ["OVERHEAD_SECONDS"] = str(arguments.seconds)
    settings: Mapping[str, Any] = {"sampler": arguments.sampler}
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary))
        if arguments.profile:
            profiler = cProfile.Profile()
            profiler.enable()
            bench.run("profiled", arguments.trials, workers=1, earlier=EARLIER, **settings)
            profiler.disable()
            profiler.dump_stats(arguments.profile)
            pstats.Stats(profiler).sort_stats("cumulative").print_stats(45)
            row("1 worker, profiled", bench.waits())
            return
        if arguments.trials:
            print(
                f"seconds that a worker waits between trials of {arguments.seconds:g} s, {arguments.sampler}"
            )
            print(f"  {'':<44} {'n':>4} {'mean':>8} {'median':>8} {'p90':>8} {'max':>8}")
        for earlier in (0, EARLIER) if arguments.trials else ():
            for pool in (1, 2):
                bench.run(f"w{pool}-{earlier}", arguments.trials, workers=pool, earlier=earlier, **settings)
                first, last = earlier + 1, earlier + arguments.trials
                row(f"trials {first}-{last}, {pool} worker{'s' * (pool > 1)}", bench.waits())
        if arguments.memory:
            print("\nmegabytes resident after so many real trials (svm), two workers")
            bench.watch_memory(arguments.memory, arguments.sampler)


if __name__ == "__main__":
    from benchmarks import overhead  # by a name that workers can import, who do not run this script

    overhead.main()
