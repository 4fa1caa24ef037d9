"""``vidclf train``: one run that is found again, gone on with, or begun anew."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from tests.attempts import six_digits
from tests.clips import write_experiment
from vidclf.data.manifest import Manifest
from vidclf.inference import profiling
from vidclf.runs.experiment import load_experiment
from vidclf.runs.folder import Attempt
from vidclf.runs.store import Store
from vidclf.tracking.deliverer import Deliverer
from vidclf.tracking.train import TrainResult, train

pytestmark = pytest.mark.usefixtures("one_thread")

EPOCHS = 4


@pytest.fixture
def experiment(tmp_path: Path, squares: Manifest) -> Path:
    lines = f'epochs = {EPOCHS}\nprecision = "fp32"\nlr = 1e-2\npatience = 0'
    return write_experiment(tmp_path / "tiny.toml", "volume3d", squares.path, train=lines)


class Session:
    """Calls `train` as the command line does and keeps what it says."""

    def __init__(self, experiment: Path, store: Store) -> None:
        self._experiment, self._store = experiment, store
        self.steps: list[int] = []

    def __call__(
        self,
        overrides: Mapping[str, Any] | None = None,
        again: bool = False,
        report: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None,
    ) -> TrainResult:
        self.steps = []

        def watched(step: int, metrics: Mapping[str, float]) -> None:
            self.steps.append(step)
            report(step, metrics)

        return train(
            load_experiment(self._experiment, overrides),
            self._experiment.stem,
            self._store,
            again=again,
            report=watched,
        )


def interrupt_at(epoch: int) -> Callable[[int, Mapping[str, float]], None]:
    def report(step: int, _: Mapping[str, float]) -> None:
        if step == epoch:
            raise KeyboardInterrupt

    return report


def losses(attempt: Attempt) -> list[float]:
    return [metrics["epoch/train/loss"] for _, metrics in attempt.records() if "epoch/train/loss" in metrics]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_from_its_last_epoch(
    experiment: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session(experiment, store)
    with pytest.raises(KeyboardInterrupt):
        session(report=interrupt_at(2))
    ((cut, _),) = store.all_attempts()
    assert (cut.checkpoint / "epoch.pt").exists()
    done = session()
    assert caplog.messages == ["going on from the last epoch of the same run, which was cut short"]
    assert losses(done.attempt)[:2] == losses(cut)
    assert len(losses(done.attempt)) == EPOCHS
    assert not done.attempt.checkpoint.exists()
    assert not cut.checkpoint.exists()
    unbroken = session(again=True)
    assert losses(unbroken.attempt) == losses(done.attempt)
    volatile = ("latency", "cost", "throughput")
    same = [key for key in done.outcome.metrics if not key.startswith(volatile)]
    assert "val/macro_f1" in same
    assert all(unbroken.outcome.metrics[key] == done.outcome.metrics[key] for key in same)


@pytest.mark.slow
def test_a_run_that_was_stopped_while_it_was_timed_is_timed_and_delivered_by_the_repeat(
    experiment: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> dict[str, float]:
        raise KeyboardInterrupt

    session = Session(experiment, store)
    with monkeypatch.context() as patch:
        patch.setattr(profiling, "measure_latency", stop)
        with pytest.raises(KeyboardInterrupt):
            session()
    result = session()
    assert result.reused
    assert result.outcome.metrics["latency/p50_ms"] > 0
    assert len(list(store.all_attempts())) == 1
    client = Deliverer(store).client
    assert result.run_id is not None
    found = client.get_run(result.run_id)
    assert found.data.metrics["latency/p50_ms"] == six_digits(result.outcome.metrics["latency/p50_ms"])
    assert found.outputs.model_outputs
    assert session().outcome == result.outcome


@pytest.mark.slow
def test_a_finished_run_is_returned_and_another_config_is_not(experiment: Path, store: Store) -> None:
    session = Session(experiment, store)
    first = session()
    assert session() == TrainResult(first.attempt, first.outcome, first.run_id, reused=True)
    assert session.steps == []
    assert session({"train.cache": "off"}).attempt.folder == first.attempt.folder
    assert session({"train.lr": 1e-3}).attempt.folder != first.attempt.folder


@pytest.mark.slow
def test_a_killed_run_is_called_interrupted_by_the_one_that_goes_on(experiment: Path, store: Store) -> None:
    session = Session(experiment, store)

    def die(step: int, _: Mapping[str, float]) -> None:
        if step == 2:
            ((cut, _),) = store.all_attempts()
            beside = Session(experiment, store)()  # the first is running, and not touched
            assert (beside.outcome.status, cut.outcome()) == ("complete", None)
            raise SystemExit  # nothing is written down, as where a process is killed

    with pytest.raises(SystemExit):
        session(report=die)
    (cut,) = (attempt for attempt, _ in store.all_attempts() if attempt.outcome() is None)
    done = session(again=True)
    outcome = cut.outcome()
    assert outcome is not None
    assert (outcome.status, outcome.reason) == ("interrupted", "interrupted: its process died")
    client = MlflowClient(store.mlflow_uri)
    run_id = Deliverer(store).receipt(cut).run_id
    assert run_id is not None
    assert done.run_id is not None
    assert client.get_run(run_id).info.status == "KILLED"
    assert client.get_run(done.run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_autologging_of_the_calling_program_gets_nothing_of_ours(
    tmp_path: Path, squares: Manifest, store: Store
) -> None:
    experiment = load_experiment(write_experiment(tmp_path / "svm.toml", "svm", squares.path))
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'theirs.db'}")
    mlflow.sklearn.autolog(log_models=False)
    try:
        with mlflow.start_run() as theirs:
            assert (
                train(experiment, "svm", store, again=False, report=lambda *_: None).outcome.status
                == "complete"
            )
        run = mlflow.get_run(theirs.info.run_id)
    finally:
        mlflow.sklearn.autolog(disable=True)
        mlflow.set_tracking_uri(before)
    assert (run.data.params, run.data.metrics) == ({}, {})
