"""Studies on a real Ray cluster of this machine: nodes that come and go, and a driver that dies."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from optuna.trial import TrialState
from typer.testing import CliRunner

from tests import interruptions
from tests.clips import write_experiment, write_squares, write_study
from tests.rounds import rounds
from vidclf import config
from vidclf.cli.app import app
from vidclf.data.manifest import Manifest
from vidclf.exceptions import InputError
from vidclf.runs.experiment import load_experiment, parse_experiment, run_experiment
from vidclf.runs.folder import Attempt, Identity, Outcome
from vidclf.runs.store import Store
from vidclf.search.definition.study_file import StudyFile
from vidclf.search.execution import worker_pool
from vidclf.search.execution.worker_pool import StartingWorkers
from vidclf.search.record.study import OpenStudy, find_study
from vidclf.workers import ray
from vidclf.workers.protocol import Ready, Resources, RunTask, StepDecision, StepReport, own_version
from vidclf.workers.ray import RayWorker, _fitting, connected
from vidclf.workers.sync import read_folder

pytest.importorskip("ray")
Cluster = Any
SPACE = {
    "svm.toml": '"model.C" = { low = 0.1, high = 10.0, log = true }',
    "tiny.toml": '"train.lr" = { low = 1e-4, high = 1e-2, log = true }',
}
SECONDS = 400.0
pytestmark = pytest.mark.xdist_group("ray")  # a cluster is as much as two cores carry


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster whose head takes no worker; each test adds its nodes."""
    from ray.cluster_utils import Cluster as RayCluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # a cluster before has set it in this process
    before = signal.getsignal(signal.SIGTERM)
    made = RayCluster()
    try:
        made.add_node(num_cpus=0, num_gpus=0, include_dashboard=False, object_store_memory=100 * 2**20)
        yield made
    finally:
        made.shutdown()
        signal.signal(signal.SIGTERM, before)


def add_node(cluster: Cluster, cpus: int, gpus: int = 0) -> Any:
    return cluster.add_node(num_cpus=cpus, num_gpus=gpus, object_store_memory=100 * 2**20)


def travelling_study(
    folder: Path, trials: int, resources: str, bases: Sequence[str] = tuple(SPACE), epochs: int = 3
) -> Path:
    manifest = write_squares(folder / "squares")
    write_experiment(folder / "svm.toml", "svm", manifest)
    write_experiment(
        folder / "tiny.toml",
        "frames2d",
        manifest,
        train=f"epochs = {epochs}\nmin_epochs = {epochs}\nbatch_size = 2",
    )
    return write_study(
        folder / "travels.toml",
        list(bases),
        trials=trials,
        budget="retries = 5",
        sampler='name = "random"',
        resources=resources,
        space="\n".join(SPACE[base] for base in bases),
    )


class Driver:
    """A `vidclf tune`, and what it has brought about so far."""

    def __init__(self, study: Path, store: Store, *options: str) -> None:
        self._log, self._out = study.with_suffix(".log"), study.with_suffix(".json")
        command = [sys.executable, "-m", "vidclf", "tune", str(study), "--store", str(store.folder), "--json"]
        self.store = store
        with self._log.open("ab") as log, self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, *options], stdout=out, stderr=log, start_new_session=True
            )

    def until(self, reached: Callable[[], object], what: str) -> None:
        end = time.monotonic() + SECONDS
        while not reached():
            assert self.process.poll() is None, f"exit {self.process.poll()} before {what}\n{self}"
            assert time.monotonic() < end, f"no {what}\n{self}"
            time.sleep(0.05)

    def attempts(self) -> list[Path]:
        return [path.parent for path in self.store.attempts.glob("*/0*/attempt.json")]

    def results(self) -> int:
        return sum((folder / "result.json").exists() for folder in self.attempts())

    def running(self) -> int:
        return len(self.attempts()) - self.results()

    def finished(self) -> dict[str, Any]:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(SECONDS)
        if self.process.poll() is None:
            self.process.kill()
        assert self.process.returncode == 0, self
        document: dict[str, Any] = json.loads(self._out.read_text())
        return document

    def __str__(self) -> str:
        return self._log.read_text(errors="replace")[-5000:]


def worker_processes() -> list[psutil.Process]:
    """Processes of workers that Ray has placed, anywhere on this machine."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "RemoteWorker" in " ".join(process.cmdline()):
                found += interruptions.worker_processes(process)
    return found


def check(opened: OpenStudy, trials: int) -> None:
    """Nothing is left running, the budget is kept exactly, and folders, Optuna and MLflow agree."""
    states = Counter(trial.state.name for trial in opened.trials())
    assert set(states) <= {"COMPLETE", "FAIL"}, states
    assert opened.logical() == trials
    assert [trial.number for trial in opened.trials()] == list(range(len(opened.trials())))
    retried = Counter(t.user_attrs["retry_of"] for t in opened.trials() if "retry_of" in t.user_attrs)
    assert set(retried.values()) <= {1}, retried
    command = [sys.executable, "-m", "vidclf", "doctor", "--json", "--store", str(opened.store.folder)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert json.loads(found.stdout)["problems"] == []


@pytest.mark.slow
def test_a_worker_on_ray_leaves_the_folder_that_one_here_leaves(
    tmp_path: Path, squares: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    experiment = config.dump(load_experiment(write_experiment(tmp_path / "svm.toml", "svm", squares.path)))
    there, here = Attempt(tmp_path / "there"), Attempt(tmp_path / "here")
    for attempt in (there, here):
        attempt.create(Identity("u/0", "e", "r", "u/study", 0))
    with connected(ray.LOCAL):
        worker = RayWorker(Resources())
        worker_pool.wait_until_ready(worker)
        worker.send(RunTask(experiment, there.folder))
        while isinstance(answer := worker.receive(), StepReport):
            worker.send(StepDecision())
        worker.stop()
    assert isinstance(answer, Outcome), worker.exit_reason()
    assert answer == there.outcome()
    assert _scores(answer.metrics) == _scores(
        run_experiment(parse_experiment(experiment, "here"), here, lambda step, values: None).metrics
    )
    assert _names(there.folder) == _names(here.folder)
    assert config.read_toml(there.config) == config.read_toml(here.config)
    for name, content in read_folder(there.folder).items():
        assert b"vidclf-workers" not in content, name


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_study_on_two_nodes_leaves_what_it_leaves_on_one_machine(
    tmp_path: Path, store: Store, cluster: Cluster
) -> None:
    for _ in range(2):
        add_node(cluster, cpus=1)
    trials = rounds(3, 10)
    study = travelling_study(tmp_path, trials, resources="cpus = 1.0", epochs=1)
    document = Driver(study, store, "--ray", cluster.address).finished()
    assert document["trials"]["complete"] == trials
    alone = Store(tmp_path / "alone")
    Driver(study, alone, "--workers", "2").finished()  # with as many threads each
    there, here = find_study("travels", store), find_study("travels", alone)
    check(there, trials)
    assert len({trial.user_attrs["shape"] for trial in there.trials()}) == 2
    alike = 0
    for mine, other in zip(there.trials(), here.trials(), strict=True):
        assert mine.params == other.params
        assert _scores(mine.user_attrs["metrics"]) == _scores(other.user_attrs["metrics"])
        folders = [opened.attempt(mine.number).folder for opened in (there, here)]
        # Which trials are kept, and so drawn, is also a matter of their latencies, which no two runs share.
        if folders[0].joinpath("drawn").exists() == folders[1].joinpath("drawn").exists():
            assert _names(folders[0]) == _names(folders[1])
            alike += 1
        first, second = (config.read_toml(folder / "config.toml") for folder in folders)
        assert first == second
        for name, content in read_folder(folders[0]).items():
            assert b"vidclf-workers" not in content, name
    assert alike >= trials // 2
    kept = [trial.number for trial in there.trials() if there.attempt(trial.number).model.is_dir()]
    assert len(kept) >= 3
    assert all("latency/p50_ms" in row.metrics for row in there.rows() if row.number in kept)


def _scores(metrics: Mapping[str, float]) -> dict[str, float]:
    """What a model is worth; its size in megabytes to three digits, as its card names the manifest's path."""
    scores = {name: value for name, value in metrics.items() if not name.startswith(("cost/", "latency/"))}
    return {**scores, "size/file_mb": round(scores["size/file_mb"], 3)}


def _names(folder: Path) -> list[str]:
    """Files, without the times and chance names of MLflow's pictures."""
    return sorted(re.sub(r"\+timestamp\+\d+\+[-0-9a-f]+", "", name) for name in read_folder(folder))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_study_survives_lost_nodes_workers_and_its_driver(
    tmp_path: Path, store: Store, cluster: Cluster
) -> None:
    trials = rounds(9, 14)
    study = travelling_study(tmp_path, trials, "max_workers = 3", bases=["tiny.toml"], epochs=rounds(25, 80))
    lost = add_node(cluster, cpus=1)
    add_node(cluster, cpus=1)
    options = ("--ray", cluster.address)
    driver = Driver(study, store, *options)
    driver.until(lambda: driver.running() == 2 and driver.results() >= 1, "two running trials")
    cluster.remove_node(lost, allow_graceful=False)
    before = driver.results()
    driver.until(lambda: driver.results() > before + 2, "further results without the node")
    add_node(cluster, cpus=2)
    driver.until(lambda: driver.running() == 3, "three running trials after the cluster has grown")
    worker_processes()[0].kill()
    driver.until(lambda: "SIGKILL" in str(driver), "news of the killed worker")
    driver.process.send_signal(signal.SIGKILL)
    driver.process.wait()
    end = time.monotonic() + 60
    while worker_processes() and time.monotonic() < end:
        time.sleep(0.2)
    assert not worker_processes(), "workers outlive their driver"
    document = Driver(study, store, *options).finished()
    assert document["budget"] == {"total": trials, "used": trials}
    opened = find_study("travels", store)
    check(opened, trials)
    reasons = [str(trial.user_attrs.get("reason", "")) for trial in opened.trials([TrialState.FAIL])]
    assert any("was lost" in reason for reason in reasons), reasons
    assert any("SIGKILL" in reason for reason in reasons), reasons
    assert any("its supervisor died" in reason for reason in reasons), reasons


@pytest.mark.long
@pytest.mark.timeout(900)
def test_small_trials_share_a_gpu_and_one_more_waits(tmp_path: Path, store: Store, cluster: Cluster) -> None:
    add_node(cluster, cpus=8, gpus=1)
    places = rounds(2, 4)
    resources = f"cpus = 0.5\ngpus = {1 / places}\nmax_workers = {places + 1}"
    study = travelling_study(tmp_path, 3 * places, resources, bases=["svm.toml"])
    driver = Driver(study, store, "--ray", cluster.address)
    driver.until(lambda: len(worker_processes()) == places, "as many workers")
    devices = [process.environ()["CUDA_VISIBLE_DEVICES"] for process in worker_processes()]
    assert devices == ["0"] * places
    most = 0
    while driver.process.poll() is None:
        most = max(most, len(worker_processes()))
        time.sleep(0.1)
    assert most == places
    assert driver.finished()["trials"]["complete"] == 3 * places


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_node_of_another_version_is_refused_by_name(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_node(cluster, cpus=1)
    monkeypatch.setattr(ray, "own_version", lambda: "9.9")
    with connected(cluster.address):
        worker = RayWorker(Resources())
        with pytest.raises(InputError) as caught:
            worker_pool.wait_until_ready(worker)
    assert f"has vidclf {own_version()}, this machine 9.9; install the same there" in str(caught.value)


def tune(study: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vidclf", "tune", str(study), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("cluster")  # beside which a local one is started
def test_a_cluster_that_cannot_be_had_is_told_in_seconds(tmp_path: Path, store: Store) -> None:
    study = travelling_study(tmp_path, 2, "gpus = 64", bases=["svm.toml"])
    for options, words in [
        (("--ray", "127.0.0.1:1"), "no Ray cluster answers at 127.0.0.1:1"),
        (("--ray", "ray://127.0.0.1:1"), "no Ray cluster answers at 127.0.0.1:1"),
        (
            ("--ray", "local"),
            f"no node can hold a worker of 1 CPU, 64 GPU: the cluster has {os.cpu_count()} CPU",
        ),
    ]:
        found = tune(study, *options)
        assert (found.returncode, found.stdout) == (2, ""), found.stderr
        assert words in found.stderr


@pytest.mark.slow
def test_what_is_said_of_ray_before_it_is_asked_for_anything(tmp_path: Path, store: Store) -> None:
    study = str(travelling_study(tmp_path, 1, "gpus = 64", bases=["svm.toml"]))
    for options, words in [
        (("--ray", "nonsense"), "an address is HOST:6379, ray://HOST:10001, auto or local"),
        (("--ray", "local", "--per-gpu", "2"), "as gpus = 0.25 for four on each GPU"),
    ]:
        found = CliRunner().invoke(app, ["tune", study, *options])
        assert (found.exit_code, found.stdout) == (2, ""), found.stderr
        assert words in found.stderr
    asked = ["--dry-run", "--ray", "local", "--workers", "3", "--json"]
    plan = CliRunner().invoke(app, ["tune", study, *asked])
    assert json.loads(plan.stdout)["resources"] == (
        "workers on Ray (local): up to 3, each with 1 CPU, 64 GPU"
    )


@pytest.mark.parametrize(
    ("node", "resources", "places"),
    [
        ({"CPU": 8, "GPU": 1}, Resources(cpus=0.5, gpus=0.25), 4),
        ({"CPU": 8, "GPU": 2}, Resources(gpus=0.4), 4),
        ({"CPU": 3, "GPU": 2}, Resources(gpus=0.25), 3),
        ({"CPU": 8}, Resources(gpus=1), 0),
        ({"CPU": 8, "GPU": 5}, Resources(gpus=2), 2),
        ({"CPU": 1}, Resources(cpus=2), 0),
    ],
)
def test_so_many_workers_fit_on_a_node(node: dict[str, float], resources: Resources, places: int) -> None:
    assert _fitting(node, resources) == places


def test_resources_that_ray_would_refuse_are_refused_when_the_file_is_read() -> None:
    for key in ("cpus", "gpus"):
        with pytest.raises(InputError, match=f"{key} = 1.5: more than one is a whole number"):
            config.validate(Resources, {key: 1.5}, "study.toml")
    with pytest.raises(InputError, match=r"unknown key resources\.gpu, did you mean"):
        config.validate(StudyFile, {"resources": {"gpu": 1}}, "study.toml")
    assert [Resources(cpus=cpus).threads for cpus in (0.25, 1, 4)] == [1, 1, 4]


class Newcomer:
    """A worker on its way, as `StartingWorkers` sees it."""

    machine: Mapping[str, str] | None = None

    def __init__(self, fate: str = "no module named vidclf") -> None:
        self.fate, self.stopped = fate, False

    def exit_reason(self) -> str:
        return self.fate

    def replacement(self) -> "Newcomer":
        return Newcomer(self.fate)

    def waiting_reason(self, waited: float) -> str:
        return f"waited {waited:.0f} s"

    def stop(self) -> None:
        self.stopped = True


def test_when_no_worker_can_be_started_the_reason_is_told() -> None:
    starting = StartingWorkers()
    assert starting.admit([Newcomer(), Newcomer()]) == []  # type: ignore[list-item]
    for _ in range(2):
        assert starting.handle(starting.workers[0], None) is None
    assert len(starting.workers) == 2
    with pytest.raises(InputError, match="no worker could be started: no module named vidclf"):
        starting.handle(starting.workers[0], None)


def test_a_worker_that_never_begins_is_given_up_while_others_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    starting = StartingWorkers()
    starting.admit([Newcomer(), Newcomer()])  # type: ignore[list-item]
    well = starting.workers[0]
    assert starting.handle(well, Ready("far", "1", {"torch": "0.1"})) is well
    for _ in range(3):
        starting.handle(starting.workers[0], None)
    assert starting.workers == []
    assert "the node far has torch 0.1" in caplog.messages[0]
    assert (
        caplog.messages[1] == "a worker is given up, it died 3 times before it began: no module named vidclf"
    )
    starting.check_waiting(available=True)
    with pytest.raises(InputError, match="no worker is left"):
        starting.check_waiting(available=False)


def test_a_long_wait_is_told_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr(worker_pool.time, "monotonic", lambda: now)
    starting = StartingWorkers()
    starting.admit([Newcomer()])  # type: ignore[list-item]
    for now in (105.0, 131.0, 140.0, 162.0):  # noqa: B007  (what monotonic returns)
        starting.check_waiting(available=False)
    assert caplog.messages == ["waited 31 s", "waited 62 s"]
