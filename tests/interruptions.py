"""A study in processes of its own that are killed and started again, and what must hold of it in the end."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import psutil
from mlflow.entities import ViewType
from optuna.trial import TrialState

from tests.clips import write_experiment, write_squares
from tests.rounds import rounds
from vidclf.runs.store import Store
from vidclf.search.record.study import OpenStudy, find_study
from vidclf.tracking.deliverer import PARENT_TAG, Deliverer
from vidclf.tracking.lookup import ATTEMPT_TAG

METRIC = "val/macro_f1"
TRIALS, WORKERS = rounds(brief=12, full=25), 3
STUDY = f"""
question = "Does it survive?"
base = ["svm.toml", "tiny.toml"]
workers = {WORKERS}
[objective]
metric = "val/macro_f1"
direction = "maximize"
[budget]
trials = {TRIALS}
retries = 2
[sampler]
name = "random"
[space]
"model.C" = {{ low = 0.1, high = 10.0, log = true }}
"train.lr" = {{ low = 1e-4, high = 1e-2, log = true }}
"""
SESSION_SECONDS = 240.0
RUN_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
FOLDER_STATUS = {
    TrialState.COMPLETE: {"complete"},
    TrialState.PRUNED: {"pruned"},
    TrialState.FAIL: {"failed", "interrupted"},
}


def worker_processes(supervisor: psutil.Process) -> list[psutil.Process]:
    """The local workers of a process: children of the server that forks them."""
    servers = [
        child for child in supervisor.children() if any("forkserver" in word for word in child.cmdline())
    ]
    return [worker for server in servers for worker in server.children()]


class InterruptedStudy:
    """One study, its sessions one after another, and all that was done to them."""

    def __init__(self, folder: Path, store: Store, seed: int, study: str = STUDY) -> None:
        self.folder, self.store, self.seed = folder, store, seed
        self.random = random.Random(seed)
        self.story: list[str] = []
        self.processes: set[tuple[int, float]] = set()
        self._begun = time.monotonic()
        manifest = write_squares(folder / "squares")
        write_experiment(folder / "svm.toml", "svm", manifest)
        write_experiment(folder / "tiny.toml", "frames2d", manifest, train="epochs = 4\nbatch_size = 2")
        (folder / "ordeal.toml").write_text(study)

    def note(self, text: str) -> None:
        self.story.append(f"{time.monotonic() - self._begun:6.1f} s  {text}")

    def start(self) -> subprocess.Popen[bytes]:
        """Another session of the same command, once it handles signals."""
        command = [sys.executable, "-m", "vidclf", "tune", str(self.folder / "ordeal.toml")]
        with (self.folder / "sessions.log").open("ab") as log:
            log.write(b"--- another session\n")
            log.flush()
            process = subprocess.Popen(command, stderr=log, stdout=log, start_new_session=True)
        self.note(f"tune starts as process {process.pid}")
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None and status.exists():
            caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
            if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
                break
            time.sleep(0.02)
        return process

    def workers(self, supervisor: subprocess.Popen[bytes]) -> list[psutil.Process]:
        """Its worker processes; they are remembered, to be looked for afterwards."""
        found = []
        try:
            for child in worker_processes(psutil.Process(supervisor.pid)):
                found.append(child)
                self.processes.add((child.pid, child.create_time()))
        except psutil.NoSuchProcess:
            pass
        return found

    def watch(self, supervisor: subprocess.Popen[bytes], until: float) -> int | None:
        """Lets it run until then; its exit code, ``None`` while it runs."""
        while time.monotonic() < until and supervisor.poll() is None:
            self.workers(supervisor)
            time.sleep(0.05)
        return supervisor.poll()

    def kill_a_worker(self, supervisor: subprocess.Popen[bytes]) -> bool:
        workers = self.workers(supervisor)
        if workers:
            chosen = self.random.choice(workers)
            self.note(f"SIGKILL to worker {chosen.pid}")
            chosen.kill()
        return bool(workers)

    def wait_for_worker(self, supervisor: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + SESSION_SECONDS
        while not self.workers(supervisor) and supervisor.poll() is None and time.monotonic() < end:
            time.sleep(0.05)

    def finish(self) -> None:
        """A session that nothing disturbs."""
        process = self.start()
        code = self.watch(process, time.monotonic() + SESSION_SECONDS)
        self.note(f"the last session: exit {code}")
        if code is None:
            process.kill()
        assert code == 0, self

    def __str__(self) -> str:
        log = (self.folder / "sessions.log").read_text(errors="replace")
        return "\n".join([f"seed {self.seed}", *self.story, log[-6000:]])


def check_survival(ordeal: InterruptedStudy, trials_wanted: int = TRIALS) -> OpenStudy:
    """The databases, folders and processes after a study that was completed in the end."""
    store, opened = ordeal.store, find_study("ordeal", ordeal.store)
    trials = opened.trials()
    states = Counter(trial.state.name for trial in trials)
    assert set(states) <= {"COMPLETE", "PRUNED", "FAIL"}, f"{states}\n{ordeal}"
    assert [trial.number for trial in trials] == list(range(len(trials))), ordeal
    assert opened.logical() == trials_wanted, ordeal
    retried = Counter(t.user_attrs["retry_of"] for t in trials if "retry_of" in t.user_attrs)
    assert set(retried.values()) <= {1}, f"retried twice: {retried}\n{ordeal}"

    client = Deliverer(store).client
    experiments = [found.experiment_id for found in client.search_experiments(ViewType.ALL)]
    runs = list(client.search_runs(experiments, "", ViewType.ALL, 5000))
    by_attempt = Counter(run.data.tags.get(ATTEMPT_TAG) for run in runs)
    assert set(by_attempt.values()) == {1}, f"{by_attempt}\n{ordeal}"
    mirrored = {run.data.tags[ATTEMPT_TAG]: run for run in runs}
    parent = mirrored.pop(opened.attempt_id())
    assert parent.info.status == "FINISHED", ordeal
    started = [t for t in trials if (opened.attempt(t.number).folder / "attempt.json").exists()]
    assert set(mirrored) == {opened.attempt_id(trial.number) for trial in started}, ordeal
    for trial in started:
        run, outcome = mirrored[opened.attempt_id(trial.number)], opened.attempt(trial.number).outcome()
        where = f"trial {trial.number}: {trial.state.name}, {run.info.status}, {outcome}\n{ordeal}"
        assert run.data.tags[PARENT_TAG] == parent.info.run_id, where
        assert run.info.status == RUN_STATUS[trial.state], where
        assert outcome is not None, where
        assert outcome.status in FOLDER_STATUS[trial.state], where
        if trial.state == TrialState.COMPLETE:
            assert run.data.metrics[METRIC] == outcome.metrics[METRIC] == trial.value, where

    for database in store.databases.values():
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], ordeal
    alive = [pid for pid, started_at in ordeal.processes if _lives(pid, started_at)]
    assert not alive, f"orphans: {alive}\n{ordeal}"
    found = subprocess.run(
        [sys.executable, "-m", "vidclf", "doctor", "--json"], capture_output=True, text=True, check=False
    )
    assert json.loads(found.stdout)["problems"] == [], f"{found.stdout}\n{ordeal}"
    assert found.returncode == 0, ordeal
    return opened


def _lives(pid: int, started: float) -> bool:
    """Whether that very process runs, ten seconds after it should not at the latest."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            process = psutil.Process(pid)
            if process.create_time() != started or process.status() == psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            return False
        time.sleep(0.1)
    return True
