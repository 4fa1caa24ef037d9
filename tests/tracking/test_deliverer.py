"""What MLflow holds after deliveries: exact values, nothing twice, nothing lost."""

import json
import logging
import multiprocessing
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from tests.attempts import ENDED, STARTED, end, make_study, make_trial
from vidclf.exceptions import InputError
from vidclf.models.saved import ModelMetadata
from vidclf.runs.folder import Attempt, Identity, Outcome, Status
from vidclf.runs.store import Store, open_store
from vidclf.tracking import deliverer as module
from vidclf.tracking import model_package
from vidclf.tracking.background import DelivererThread
from vidclf.tracking.deliverer import Deliverer, metric_key, prepare
from vidclf.tracking.delivery_state import DeliveryState


def all_runs(client: MlflowClient) -> list[Run]:
    experiments = [found.experiment_id for found in client.search_experiments()]
    return list(client.search_runs(experiments, run_view_type=ViewType.ALL))


def delivered(store: Store, attempt: Attempt, client: MlflowClient) -> Run:
    run_id = Deliverer(store).deliver(attempt)
    assert run_id is not None
    return client.get_run(run_id)


def journal(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float, int]]:
    return [(point.step, point.value, point.timestamp) for point in client.get_metric_history(run_id, key)]


def files(client: MlflowClient, run_id: str, folder: str | None = None) -> set[str]:
    found = set()
    for item in client.list_artifacts(run_id, folder):
        found |= files(client, run_id, item.path) if item.is_dir else {item.path}
    return found


def test_a_trial_arrives_with_all_its_values(store: Store, client: MlflowClient) -> None:
    study, trial = make_study(store), make_trial(store, parent="study-1")
    (trial.artifacts / "plots").mkdir()
    (trial.artifacts / "plots" / "confusion.txt").write_text("1 0\n0 1\n")
    for step in (1, 2):
        trial.record(step, {"epoch/val/macro_f1": step / 4, "epoch/val/loss": float("nan")})
    end(trial, metrics={"val/macro_f1": 0.5, "latency/p50_ms": float("inf")})
    run = delivered(store, trial, client)

    assert run.data.params == {"seed": "0", "model.kind": "majority", "train.lr": "0.0003"}
    times = [json.loads(line)["time_ms"] for line in trial.journal.read_text().splitlines()]
    assert journal(client, run.info.run_id, "epoch/val/macro_f1") == [(1, 0.25, times[0]), (2, 0.5, times[1])]
    assert journal(client, run.info.run_id, "val/macro_f1") == [(0, 0.5, times[2])]
    assert set(run.data.metrics) == {"epoch/val/macro_f1", "val/macro_f1"}
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FINISHED", STARTED, ENDED)
    assert run.info.run_name == "trial 0"
    assert run.data.tags["vidclf.attempt"] == "trial-1-0"
    assert files(client, run.info.run_id) == {"config.toml", "plots/confusion.txt"}

    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["vidclf.attempt"] == "study-1"
    assert parent.data.tags["vidclf.study"] == "demo"
    assert parent.data.params == {"budget.trials": "3"}
    assert parent.info.status == "RUNNING"
    assert Deliverer(store).deliver(study) == parent.info.run_id
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.name == "gestures"
    assert experiment.artifact_location == (store.artifacts / "gestures").as_uri()


@pytest.mark.parametrize(
    ("status", "shown"),
    [("complete", "FINISHED"), ("pruned", "KILLED"), ("interrupted", "FAILED"), ("failed", "FAILED")],
)
def test_status_and_reason_are_shown(store: Store, client: MlflowClient, status: Status, shown: str) -> None:
    study = make_study(store)
    trial = make_trial(store, parent=study.identity().id)
    assert delivered(store, trial, client).info.status == "RUNNING"
    end(trial, status, "why")
    run = delivered(store, trial, client)
    assert (run.info.status, run.info.end_time) == (shown, ENDED)
    assert run.data.tags["vidclf.reason"] == "why"
    assert run.data.tags["vidclf.status"] == status


def test_nothing_is_sent_where_nothing_is_new(store: Store, client: MlflowClient) -> None:
    trial = make_trial(store)
    end(trial, metrics={"val/macro_f1": 0.5})
    run_id = Deliverer(store).deliver(trial)
    again = Deliverer(store)
    vars(again)["client"] = None  # any use of it fails
    assert again.deliver(trial) == run_id
    assert len(all_runs(client)) == 1


STEPS = ["create_run", "log_batch", "log_artifact", "set_terminated"]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_an_interruption_repeats_and_loses_nothing(
    store: Store, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, step: str, before: bool
) -> None:
    trial = make_trial(store)
    (trial.artifacts / "note.txt").write_text("here")
    trial.record(1, {"epoch/val/macro_f1": 0.25})
    end(trial, metrics={"val/macro_f1": 0.5})
    real = getattr(MlflowClient, step)

    def interrupted(self: MlflowClient, *args: Any, **kwargs: Any) -> None:
        if not before:
            real(self, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(MlflowClient, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        Deliverer(store).deliver(trial)
    monkeypatch.undo()
    run = delivered(store, trial, client)
    assert [found.info.run_id for found in all_runs(client)] == [run.info.run_id]
    assert len(journal(client, run.info.run_id, "epoch/val/macro_f1")) == 1
    assert len(journal(client, run.info.run_id, "val/macro_f1")) == 1
    assert run.data.params["train.lr"] == "0.0003"
    assert files(client, run.info.run_id) == {"config.toml", "note.txt"}
    assert (run.info.status, run.info.end_time) == ("FINISHED", ENDED)


@pytest.mark.parametrize("saves", range(4))
def test_a_lost_receipt_repeats_nothing(
    store: Store, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, saves: int
) -> None:
    trial = make_trial(store)
    trial.record(1, {"epoch/val/macro_f1": 0.25})
    end(trial)
    real, count = DeliveryState.save, 0

    def save(self: DeliveryState, attempt: Attempt) -> None:
        nonlocal count
        if count == saves:
            raise KeyboardInterrupt
        count += 1
        real(self, attempt)

    monkeypatch.setattr(DeliveryState, "save", save)
    with pytest.raises(KeyboardInterrupt):
        Deliverer(store).deliver(trial)
    monkeypatch.undo()
    run = delivered(store, trial, client)
    assert len(all_runs(client)) == 1
    assert len(journal(client, run.info.run_id, "epoch/val/macro_f1")) == 1
    assert run.info.status == "FINISHED"


def test_a_receipt_for_another_mlflow_is_not_believed(store: Store, client: MlflowClient) -> None:
    trial = make_trial(store)
    run = delivered(store, trial, client)
    receipt = trial.folder / "delivery.json"
    fields = json.loads(receipt.read_text())
    receipt.write_text(json.dumps({**fields, "uri": "http://elsewhere", "run_id": "0" * 32}))
    assert Deliverer(store).deliver(trial) == run.info.run_id
    receipt.write_text("{")
    assert Deliverer(store).deliver(trial) == run.info.run_id


def test_a_run_that_the_user_deleted_stays_deleted(store: Store, client: MlflowClient) -> None:
    trial = make_trial(store)
    run = delivered(store, trial, client)
    client.delete_run(run.info.run_id)
    end(trial, metrics={"val/macro_f1": 0.5})
    assert Deliverer(store).deliver(trial) is None
    (trial.folder / "delivery.json").unlink()
    assert Deliverer(store).deliver(trial) is None
    (found,) = all_runs(client)
    assert (found.info.lifecycle_stage, found.info.status) == ("deleted", "RUNNING")
    assert found.data.metrics == {}


def test_a_deleted_experiment_stays_deleted(
    store: Store, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    trial = make_trial(store)
    client.delete_experiment(delivered(store, trial, client).info.experiment_id)
    assert Deliverer(store).deliver(make_trial(store, 1)) is None
    assert "gestures was deleted" in caplog.text


def test_metrics_measured_after_the_end_arrive(store: Store, client: MlflowClient) -> None:
    trial = make_trial(store)
    end(trial, metrics={"val/macro_f1": 0.5})
    delivered(store, trial, client)
    trial.add_metrics({"latency/p50_ms": 12.5})
    run = delivered(store, trial, client)
    assert run.data.metrics == {"val/macro_f1": 0.5, "latency/p50_ms": 12.5}
    assert (run.info.status, run.info.end_time) == ("FINISHED", ENDED)
    assert len(journal(client, run.info.run_id, "val/macro_f1")) == 1


def test_a_study_goes_on_after_its_end(store: Store, client: MlflowClient) -> None:
    study = make_study(store)
    end(study, "interrupted", "Ctrl-C")
    assert delivered(store, study, client).info.status == "KILLED"
    study.reopen()
    run = delivered(store, study, client)
    assert (run.info.status, run.data.tags["vidclf.reason"]) == ("RUNNING", "")
    end(study)
    assert delivered(store, study, client).info.status == "FINISHED"
    assert len(all_runs(client)) == 1


def test_a_reopened_study_runs_even_if_its_end_was_not_noted(
    store: Store, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(store)
    receipt = study.folder / "delivery.json"
    delivered(store, study, client)
    before = receipt.read_text()
    end(study)
    delivered(store, study, client)
    receipt.write_text(before)
    study.reopen()
    assert delivered(store, study, client).info.status == "RUNNING"


def test_changed_and_new_artifacts_are_sent_again(store: Store, client: MlflowClient) -> None:
    trial = make_trial(store)
    note = trial.artifacts / "note.txt"
    note.write_text("one")
    run = delivered(store, trial, client)
    assert "mlflow.loggedImages" not in run.data.tags
    note.write_text("another")
    (trial.artifacts / "images").mkdir()
    (trial.artifacts / "images" / "x%step%0%timestamp%0%a.png").write_bytes(b"png")
    (trial.artifacts / "half.partial").write_text("not yet")
    run = delivered(store, trial, client)
    folder = Path(client.download_artifacts(run.info.run_id, ""))
    assert (folder / "note.txt").read_text() == "another"
    assert files(client, run.info.run_id) == {
        "config.toml",
        "note.txt",
        "images/x%step%0%timestamp%0%a.png",
    }
    assert run.data.tags["mlflow.loggedImages"] == "True"


@pytest.mark.slow
def test_long_journals_go_in_batches(
    store: Store, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = make_trial(store)
    keys = [f"epoch/m{number}" for number in range(300)]
    for step in range(1, 9):
        trial.record(step, dict.fromkeys(keys, float(step)))
    sizes = []
    real = MlflowClient.log_batch

    def log_batch(self: MlflowClient, run_id: str, metrics: Any = (), **kwargs: Any) -> None:
        sizes.append(len(metrics))
        real(self, run_id, metrics, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    run = delivered(store, trial, client)
    assert [size for size in sizes if size] == [900, 900, 600]
    assert [step for step, _, _ in journal(client, run.info.run_id, "epoch/m299")] == list(range(1, 9))


def test_a_torn_line_waits_and_a_broken_one_is_left_out(store: Store, client: MlflowClient) -> None:
    trial = make_trial(store)
    trial.record(1, {"epoch/loss": 3.0})
    with trial.journal.open("a") as file:
        file.write('broken\n{"time_ms": 1800000000000, "step": 2, "met')
    run = delivered(store, trial, client)
    assert [value for _, value, _ in journal(client, run.info.run_id, "epoch/loss")] == [3.0]
    with trial.journal.open("a") as file:
        file.write('rics": {"epoch/loss": 2.0}}\n')
    delivered(store, trial, client)
    assert [value for _, value, _ in journal(client, run.info.run_id, "epoch/loss")] == [3.0, 2.0]


def wait_for(condition: Callable[[], bool], seconds: float) -> float:
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if condition():
            return time.monotonic() - started
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


@pytest.mark.slow
def test_the_thread_delivers_news_within_two_seconds(store: Store, client: MlflowClient) -> None:
    study, trial = make_study(store), make_trial(store, parent="study-1")
    thread = DelivererThread(store)
    thread.register(study)
    thread.register(trial)
    wait_for(lambda: len(all_runs(client)) == 2, 10)
    trial.record(1, {"epoch/loss": 1.0})
    wait_for(lambda: any("epoch/loss" in run.data.metrics for run in all_runs(client)), 2)
    end(trial)
    wait_for(lambda: any(run.info.status == "FINISHED" for run in all_runs(client)), 2)
    trial.add_metrics({"latency/p50_ms": 3.0})
    wait_for(lambda: any("latency/p50_ms" in run.data.metrics for run in all_runs(client)), 2)
    end(study)
    (trial.artifacts / "late.txt").write_text("late")
    thread.close()
    assert thread.undelivered == 0
    runs = all_runs(client)
    assert {run.info.status for run in runs} == {"FINISHED"}
    (child,) = (run for run in runs if "mlflow.parentRunId" in run.data.tags)
    assert "late.txt" in files(client, child.info.run_id)


@pytest.mark.slow
def test_the_thread_outlives_an_absence_of_mlflow(
    store: Store, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    def away(uri: str) -> MlflowClient:
        nonlocal tries
        tries += 1
        raise MlflowException("connection refused")

    monkeypatch.setattr(module, "MlflowClient", away)
    trial = make_trial(store)
    end(trial, metrics={"val/macro_f1": 0.5})
    thread = DelivererThread(store)
    thread.register(trial)
    wait_for(lambda: tries >= 2, 10)
    assert thread.undelivered == 1
    monkeypatch.undo()
    wait_for(lambda: len(all_runs(client)) == 1, 20)
    thread.close()
    assert thread.undelivered == 0
    assert caplog.text.count("MLflow is away") == 1
    (run,) = all_runs(client)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"val/macro_f1": 0.5})


@pytest.mark.slow
def test_closing_without_mlflow_ends_in_time_and_says_what_is_missing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(uri: str) -> MlflowClient:
        raise MlflowException("connection refused")

    monkeypatch.setattr(module, "MlflowClient", away)
    thread = DelivererThread(store)
    for number in range(3):
        thread.register(make_trial(store, number))
    started = time.monotonic()
    thread.close(timeout=2)
    assert time.monotonic() - started < 4
    assert thread.undelivered == 3


def _refused_key(attempt: Attempt) -> None:
    attempt.config.write_text('"a key that MLflow refuses \\u2603" = 1\n', encoding="utf-8")


def _broken_config(attempt: Attempt) -> None:
    attempt.config.write_text("[train", encoding="utf-8")


def _vanished(attempt: Attempt) -> None:
    shutil.rmtree(attempt.folder)


@pytest.mark.parametrize("spoil", [_refused_key, _broken_config, _vanished])
@pytest.mark.slow
def test_one_refused_attempt_does_not_stop_the_others(
    store: Store, client: MlflowClient, caplog: pytest.LogCaptureFixture, spoil: Callable[[Attempt], None]
) -> None:
    bad, good = make_trial(store, 0), make_trial(store, 1)
    spoil(bad)
    thread = DelivererThread(store)
    thread.register(bad)
    thread.register(good)
    end(good, metrics={"val/macro_f1": 0.5})
    wait_for(lambda: any(run.data.metrics for run in all_runs(client)), 10)
    thread.close(timeout=10)
    assert thread.undelivered == 1
    assert caplog.text.count("MLflow does not take it") == 1
    assert "MLflow is away" not in caplog.text


@pytest.mark.slow
def test_several_processes_may_prepare_a_fresh_store_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    store = open_store(tmp_path / "new")
    workers = [context.Process(target=prepare, args=(store,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert Deliverer(store).deliver(make_trial(store))
    assert {path.name for path in store.folder.iterdir()} == {
        "mlflow.db",
        "store.json",
        "artifacts",
        "attempts",
    }


def test_an_unusable_database_is_the_users_to_mend(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match="MLflow cannot be used"):
        prepare(store)


def test_mlflow_stays_quiet(
    store: Store, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO):
        Deliverer(store).deliver(make_trial(store))
    assert caplog.records == []
    assert capsys.readouterr() == ("", "")


def test_class_names_that_mlflow_refuses_are_delivered_all_the_same(
    store: Store, client: MlflowClient
) -> None:
    trial = make_trial(store)
    names = ["Punch (left) & more", "a+b", "a=b", "a_b", "a/", "a//b", "/a", "../a", ".", " a", "a."]
    names += ["x" * 300, "x" * 299 + "y"]
    recalls = {f"val/recall/{name}": place / 100 for place, name in enumerate(names)}
    end(trial, metrics={**recalls, "val/macro_f1": 0.25})
    run = delivered(store, trial, client)
    sent = {metric_key(key): value for key, value in recalls.items()}
    assert len(sent) == len(names)
    assert run.data.metrics == sent | {"val/macro_f1": 0.25}
    assert re.fullmatch(r"val/recall/Punch _left_ _ more:[0-9a-f]{8}", metric_key(next(iter(recalls))))
    assert [key for key in recalls if metric_key(key) == key] == [
        f"val/recall/{name}" for name in ("a_b", " a", "a.")
    ]


def test_a_readme_is_the_description_until_the_user_writes_another(
    store: Store, client: MlflowClient
) -> None:
    study, note = make_study(store), "mlflow.note.content"
    readme = study.artifacts / "README.md"
    readme.write_text("Found: *nothing*")
    run = delivered(store, study, client)
    assert run.data.tags[note] == "Found: *nothing*"
    client.set_tag(run.info.run_id, note, "mine")
    study.record(1, {"study/best": 0.5})
    assert delivered(store, study, client).data.tags[note] == "mine"
    readme.write_text("Found: **0.5**")
    assert delivered(store, study, client).data.tags[note] == "Found: **0.5**"
    assert "README.md" in files(client, run.info.run_id)


def test_a_long_description_is_cut_at_a_line_and_says_so(store: Store, client: MlflowClient) -> None:
    study = make_study(store)
    (study.artifacts / "README.md").write_text("```toml\n" + "seed = 0\n" * 2000 + "```\n")
    note = delivered(store, study, client).data.tags["mlflow.note.content"]
    assert 7900 < len(note) <= 8000
    assert note.endswith("seed = 0\n```\n\n*The rest is in the artifact README.md.*")


@pytest.mark.slow
def test_an_ended_trial_is_described_until_the_user_writes_another(
    store: Store, client: MlflowClient
) -> None:
    trial, note = store.attempt("demo", "00003"), "mlflow.note.content"
    searched = {"model.C": 0.41888, "model.kernel": "linear"}
    tags = {"vidclf.study": "demo", "vidclf.trial": "3", "vidclf.base": "svm_a"}
    tags |= {"vidclf.searched": json.dumps(searched)}
    trial.create(Identity("trial-3", "gestures", "#003 svm", None, STARTED, tags, {"model.C": 0.41888}))
    assert note not in delivered(store, trial, client).data.tags
    end(trial, metrics={"val/macro_f1": 0.875, "size/file_mb": 1.5})
    run = delivered(store, trial, client)
    assert run.data.tags[note].splitlines() == [
        "Trial **3** of the study **demo**, from svm\\_a: `model.C` 0.4189, `model.kernel` linear",
        "",
        "`val/macro_f1` 0.8750, `size/file_mb` 1.50",
        "",
        "Its record is `attempts/demo/00003` in the store.",
    ]
    trial.finish(Outcome("failed", "no finite *objective*", {}, ENDED + 1))
    assert "**failed**: no finite \\*objective\\*" in delivered(store, trial, client).data.tags[note]
    client.set_tag(run.info.run_id, note, "mine")
    trial.finish(Outcome("failed", "again", {}, ENDED + 2))
    assert delivered(store, trial, client).data.tags[note] == "mine"


def test_a_single_run_is_described_by_its_config(store: Store, client: MlflowClient) -> None:
    run = make_trial(store)
    end(run, metrics={"val/accuracy": 0.5})
    note = delivered(store, run, client).data.tags["mlflow.note.content"]
    assert note.startswith("A single run of **trial 0**: `model.kind` majority\n\n`val/accuracy` 0.5000\n")


def test_a_served_model_asks_for_what_its_feature_imports() -> None:
    def needed(**model: str) -> set[str]:
        card = ModelMetadata("svm", ("a", "b"), 8, 64, {"model": model}, (), {})
        return set(model_package.imported_by(card)) - set(model_package.REQUIREMENTS)

    assert needed(pose_model="/p.tgz") == {"ai-edge-litert"}
    assert needed(network="timm:resnet18") == {"timm", "huggingface-hub"}
    assert needed() == set()
