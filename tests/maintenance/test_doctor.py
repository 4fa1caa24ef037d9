"""`vidclf doctor` on stores that were broken on purpose: found, left alone, mended, and then well."""

import hashlib
import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState
from typer.testing import CliRunner

from tests.attempts import ENDED, STARTED, end, make_study, make_trial, shipped
from tests.command import run
from tests.saved_models import make_kept
from tests.studies import METRIC, add_trial, make_folder, make_optuna_study
from vidclf.cli.app import app
from vidclf.data import cache
from vidclf.exceptions import InputError
from vidclf.maintenance.doctor import CHECKS, Check, Finding, examine, weigh
from vidclf.registry.resolve import resolve_model
from vidclf.runs.folder import Attempt, Identity, Outcome, now_ms
from vidclf.runs.store import TRAIN, Store, find_store, locate_store
from vidclf.search.execution.consistency import mend_runs, mend_study
from vidclf.search.record.owners import Ownership
from vidclf.search.record.storage import open_storage
from vidclf.search.record.study import DEFINITION, OpenStudy
from vidclf.tracking.deliverer import Deliverer
from vidclf.tracking.ledger import Ledger


@pytest.fixture(autouse=True)
def _no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")


LONG_AGO = time.time() - 7200


def delivered_trial(store: Store) -> tuple[Attempt, str]:
    trial = make_trial(store)
    end(trial, metrics={METRIC: 0.5})
    run_id = Deliverer(store).deliver(trial)
    assert run_id
    return trial, run_id


def age(path: Path) -> Path:
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def write_entry(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.arange(1000))
    return path


def newer_store(store: Store) -> None:
    store.format_file.write_text('{"format": 99}')


def damaged_database(store: Store) -> None:
    make_optuna_study(store)
    database = store.folder / "optuna.db"
    content = database.read_bytes()
    database.write_bytes(content[: len(content) // 2])


def newer_mlflow(store: Store) -> None:
    with closing(sqlite3.connect(store.folder / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'feedbeef'")


def moved_store(store: Store) -> None:
    delivered_trial(store)
    # As if it had been delivered elsewhere and then been moved here.
    there = Store(store.folder.with_name("elsewhere"))
    with closing(sqlite3.connect(store.folder / "mlflow.db")) as connection, connection:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                (store.artifacts.as_uri(), there.artifacts.as_uri()),
            )
    for receipt in store.attempts.glob("*/*/delivery.json"):
        receipt.write_text(receipt.read_text().replace(store.mlflow_uri, there.mlflow_uri))


def refused_mlflow(store: Store) -> None:
    with closing(sqlite3.connect(store.folder / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")


def refused_optuna(store: Store) -> None:
    make_optuna_study(store)
    with closing(sqlite3.connect(store.folder / "optuna.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")


def doubled_number(store: Store) -> None:
    add_trial(make_optuna_study(store), TrialState.PRUNED, reason="pruned at epoch 2")
    with closing(sqlite3.connect(store.folder / "optuna.db")) as connection, connection:
        connection.execute("UPDATE trials SET number = 0 WHERE number = 1")


def lost_study(store: Store) -> None:
    opened = make_optuna_study(store)
    opened.own_attempt.artifacts.mkdir(exist_ok=True)
    (opened.own_attempt.artifacts / "study.toml").write_text('question = "?"')
    (store.folder / "optuna.db").unlink()


def torn_file(store: Store) -> None:
    trial, _ = delivered_trial(store)
    (trial.folder / "result.json").write_text('{"status": "comp')


def abandoned_trial(store: Store) -> None:
    opened = make_optuna_study(store)
    opened.own_attempt.reopen()
    add_trial(opened, TrialState.RUNNING, owner="gone")
    make_folder(opened, 1)


def abandoned_run(store: Store) -> None:
    attempt = store.attempt(TRAIN, "svm-1")
    attempt.create(Identity("abc", "gestures", "svm", None, STARTED, {}, {"seed": 0}))


def attempt_without_trial(store: Store) -> None:
    trial = make_trial(store)
    for path in (trial.folder, *trial.folder.rglob("*")):
        age(path)


def disagreeing_trial(store: Store) -> None:
    opened = make_optuna_study(store)
    opened.attempt(0).finish(Outcome("interrupted", "interrupted", {}, ENDED))


def trial_without_run(store: Store) -> None:
    add_trial(make_optuna_study(store), TrialState.PRUNED, reason="pruned at epoch 2")


def undelivered_attempt(store: Store) -> None:
    trial = make_trial(store)
    Deliverer(store).deliver(trial)
    end(trial, metrics={METRIC: 0.5})


def half_sent_model(store: Store) -> None:
    make_study(store)
    trial = make_kept(store)
    run_id = str(Deliverer(store).deliver(trial))
    end(store.attempt("demo", "study"))
    Deliverer(store).deliver(store.attempt("demo", "study"))
    client = Deliverer(store).client
    model = client.create_logged_model(client.get_run(run_id).info.experiment_id, "trial 0", run_id)
    with closing(sqlite3.connect(store.folder / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE logged_models SET creation_timestamp_ms = ?", (STARTED,))
    assert model.status == "PENDING"


def disagreeing_run(store: Store) -> None:
    _, run_id = delivered_trial(store)
    Deliverer(store).client.update_run(run_id, status="RUNNING")


def unended_run(store: Store) -> None:
    trial = make_trial(store)
    Deliverer(store).deliver(trial)
    shutil.rmtree(trial.folder)


def leftover_checkpoint(store: Store) -> None:
    trial, _ = delivered_trial(store)
    trial.checkpoint.mkdir()
    (trial.checkpoint / "epoch.pt").write_bytes(b"weights")
    age(trial.checkpoint)


def temporary_file(store: Store) -> None:
    trial, _ = delivered_trial(store)
    for path in (trial.folder / "result.partial", store.folder / ".writable-1", cache.folder() / "a.partial"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        age(path)


def cut_entry(store: Store) -> None:
    path = write_entry(cache.folder() / "clips" / "ab" / "abc.npy")
    path.write_bytes(path.read_bytes()[:-8])
    write_entry(cache.folder() / "clips" / "ab" / "whole.npy")


BY_HAND, MENDED = False, True
BROKEN: dict[str, tuple[Callable[[Store], None], bool]] = {
    "runs.store_checks.newer_stores": (newer_store, BY_HAND),
    "runs.store_checks.damaged_databases": (damaged_database, BY_HAND),
    "runs.store_checks.unknown_versions": (newer_mlflow, BY_HAND),
    "tracking.relocation.moved_stores": (moved_store, MENDED),
    "tracking.consistency.unreachable": (refused_mlflow, BY_HAND),
    "search.execution.consistency.unreachable": (refused_optuna, BY_HAND),
    "search.execution.consistency.doubled_numbers": (doubled_number, BY_HAND),
    "search.execution.consistency.lost_studies": (lost_study, BY_HAND),
    "runs.store_checks.torn_files": (torn_file, BY_HAND),
    "search.execution.consistency.abandoned_trials": (abandoned_trial, MENDED),
    "runs.store_checks.abandoned_runs": (abandoned_run, MENDED),
    "search.execution.consistency.attempts_without_trial": (attempt_without_trial, MENDED),
    "search.execution.consistency.disagreeing_trials": (disagreeing_trial, MENDED),
    "search.execution.consistency.trials_without_run": (trial_without_run, MENDED),
    "tracking.consistency.undelivered_attempts": (undelivered_attempt, MENDED),
    "tracking.consistency.half_sent_models": (half_sent_model, MENDED),
    "tracking.consistency.disagreeing_runs": (disagreeing_run, MENDED),
    "tracking.consistency.unended_runs": (unended_run, MENDED),
    "runs.store_checks.leftover_checkpoints": (leftover_checkpoint, MENDED),
    "runs.store_checks.temporary_files": (temporary_file, MENDED),
    "runs.store_checks.cut_cache_entries": (cut_entry, MENDED),
}


def name_of(check: Check) -> str:
    return f"{check.find.__module__.removeprefix('vidclf.')}.{check.find.__name__}"  # type: ignore[attr-defined]


def content(*folders: Path) -> dict[str, str]:
    """Every file with a digest of what it holds."""
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def whats(findings: list[Finding]) -> set[str]:
    return {finding.what for finding in findings}


def test_every_check_has_a_store_that_it_finds_broken() -> None:
    assert [name_of(check) for check in CHECKS] == list(BROKEN)


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
@pytest.mark.slow
def test_what_is_broken_is_found_and_mended_once(check: Check, store: Store) -> None:
    break_it, mendable = BROKEN[name_of(check)]
    break_it(store)
    before = content(store.folder, cache.folder())

    found = examine(store, fix=False)
    assert check.what in whats(found.findings)
    assert content(store.folder, cache.folder()) == before
    assert not any(finding.fixed for finding in found.findings)

    fixed = examine(store, fix=True)
    mended = [finding for finding in fixed.findings if finding.what == check.what]
    assert mended, [finding.as_dict() for finding in fixed.findings]
    assert [finding.fixed for finding in mended] == [mendable] * len(mended), mended
    again = examine(store, fix=True)
    assert whats(again.findings) == (set() if mendable else {check.what}), again


@pytest.mark.slow
def test_nothing_is_wrong_with_a_store_that_was_used(store: Store) -> None:
    opened = make_optuna_study(store)
    add_trial(opened, TrialState.FAIL, reason_kind="interrupted")  # it never started
    add_trial(opened, TrialState.WAITING)
    delivered_trial(store)
    write_entry(cache.folder() / "clips" / "whole.npy")
    before = content(store.folder)
    assert not examine(store, fix=True).findings
    assert content(store.folder) == before


def test_what_vanishes_while_it_is_weighed_takes_nothing(store: Store) -> None:
    (store.folder / "mlflow.db-journal").symlink_to(store.folder / "gone")  # SQLite's, of another process
    assert [weight.name for weight in weigh(store) if weight.part == "databases"] == ["mlflow.db"]


@pytest.mark.slow
def test_looking_at_a_store_does_not_make_the_database_that_it_lost(store: Store) -> None:
    delivered_trial(store)
    (store.folder / "mlflow.db").unlink()
    assert Ledger(store).reads("0" * 64) == []
    for reference in ("squares@champion", "squares/1", "0123456789abcdef"):
        with pytest.raises(InputError, match="no such model"):
            resolve_model(store, reference)
    assert not (store.folder / "mlflow.db").exists()
    examination = examine(store, fix=True)  # which could not tell it from one whose runs the user deleted
    assert ("undelivered", True) in [(finding.what, finding.fixed) for finding in examination.findings]


def test_a_store_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--fix", "--store", str(tmp_path / "none")])
    assert (result.exit_code, (tmp_path / "none").exists()) == (0, False)


@pytest.mark.slow
def test_a_study_with_a_live_owner_is_left_alone(store: Store) -> None:
    opened = make_optuna_study(store)
    ownership = Ownership(opened)
    add_trial(opened, TrialState.RUNNING, owner=ownership.uuid)
    opened.attempt(0).finish(Outcome("interrupted", "", {}, ENDED))
    examination = examine(store, fix=True)
    assert not whats(examination.findings) & {"running-without-owner", "trial-without-run"}
    assert any(f"process {os.getpid()} on" in note for note in examination.notes)
    ownership.release()
    assert "running-without-owner" in whats(examine(store, fix=False).findings)


@pytest.mark.slow
def test_a_dead_study_is_settled_and_its_trial_queued_again(store: Store) -> None:
    abandoned_trial(store)
    examine(store, fix=True)
    opened = make_open(store)
    assert [trial.state.name for trial in opened.trials()] == ["COMPLETE", "FAIL", "WAITING"]
    outcomes = [attempt.outcome() for attempt in (opened.attempt(1), opened.own_attempt)]
    assert [outcome and outcome.status for outcome in outcomes] == ["interrupted", "interrupted"]
    runs = Deliverer(store).client.search_runs(["1"])
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED", "KILLED"]
    assert not examine(store, fix=False).findings


def make_open(store: Store) -> OpenStudy:
    storage = open_storage(store)
    study = optuna.load_study(study_name="search", storage=storage)
    return OpenStudy(study, storage, json.loads(study.user_attrs[DEFINITION]), store)


@pytest.mark.slow
def test_a_complete_trial_whose_folder_is_gone_is_made_anew_from_what_is_left(store: Store) -> None:
    opened = make_optuna_study(store)
    assert not examine(store, fix=True).left
    shutil.rmtree(opened.attempt(0).folder)
    (finding,) = examine(store, fix=False).findings
    assert finding.problem.where == "study search, trial 0"
    assert "its folder is gone" in finding.problem.detail
    assert not examine(store, fix=True).left
    outcome = opened.attempt(0).outcome()
    assert outcome is not None
    assert (outcome.status, outcome.metrics[METRIC]) == ("complete", opened.trials()[0].value)
    assert not examine(store, fix=False).findings


@pytest.mark.slow
def test_looking_beside_a_live_study_never_fails(store: Store) -> None:
    """Folders and files come and go under it."""
    delivered_trial(store)
    done = threading.Event()

    def churn() -> None:
        number = 0
        while not done.is_set():
            number = (number + 1) % 20
            for folder in (
                cache.folder() / "clips" / str(number),
                make_trial(store, number).folder / "model",
            ):
                write_entry(folder / "a" / "b" / "x.npy")
                shutil.rmtree(folder.parent, ignore_errors=True)

    with ThreadPoolExecutor() as threads:
        churning = threads.submit(churn)
        try:
            for _ in range(10):
                assert all(finding.failure == "" for finding in examine(store, fix=False).findings)
                weigh(store)
        finally:
            done.set()
        churning.result()


def test_an_attempt_that_is_deleted_while_all_are_read_is_left_out(store: Store) -> None:
    first, second = make_trial(store, 0), make_trial(store, 1)
    seen = store.all_attempts()
    assert next(seen) == (first, first.identity())
    shutil.rmtree(second.folder)
    assert not list(seen)


def test_a_running_train_is_left_alone(store: Store) -> None:
    abandoned_run(store)
    attempt = store.attempt(TRAIN, "svm-1")
    with attempt.running():
        assert not examine(store, fix=True).findings
    assert attempt.outcome() is None
    (finding,) = examine(store, fix=False).findings
    assert finding.what == "running-without-owner"


def test_what_is_recent_is_left_alone(store: Store) -> None:
    trial = make_trial(store)
    trial.finish(Outcome("complete", "", {}, now_ms()))
    for path in (trial.folder / "result.partial", cache.folder() / "clips" / "x.partial"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    trial.checkpoint.mkdir()
    make_trial(store, 1)
    assert not examine(store, fix=True).findings


@pytest.mark.slow
def test_what_the_user_deleted_in_mlflow_is_no_problem(store: Store) -> None:
    trial, run_id = delivered_trial(store)
    Deliverer(store).client.delete_run(run_id)
    trial.add_metrics({"latency/p50_ms": 1.0})
    unsent = make_trial(store, 1)
    unsent.create(replace(unsent.identity(), experiment="gone"))
    end(unsent)
    client = Deliverer(store).client
    client.delete_experiment(client.create_experiment("gone"))
    assert not examine(store, fix=True).findings


def test_a_run_that_ended_without_its_folder_is_no_problem(store: Store) -> None:
    trial, _ = delivered_trial(store)
    shutil.rmtree(trial.folder)
    assert not examine(store, fix=True).findings


@pytest.mark.slow
def test_a_lost_database_is_made_anew_from_the_folders(store: Store) -> None:
    delivered_trial(store)
    shutil.copy(store.folder / "mlflow.db", store.folder / "kept")
    (store.folder / "mlflow.db").unlink()
    assert whats(examine(store, fix=False).findings) == {"undelivered"}
    assert not (store.folder / "mlflow.db").exists()
    assert not examine(store, fix=True).left
    (run,) = MlflowClient(store.mlflow_uri).search_runs(["1"])
    assert (run.info.status, run.data.metrics[METRIC]) == ("FINISHED", 0.5)


@pytest.mark.slow
def test_trials_of_a_lost_database_belong_to_the_study_as_it_is_made_anew(store: Store) -> None:
    study = make_study(store)
    trial = make_trial(store, parent="study-1")
    end(trial, metrics={METRIC: 0.5})
    end(study)
    Deliverer(store).deliver(trial)
    (store.folder / "mlflow.db").unlink()
    assert not examine(store, fix=True).left
    runs = {run.info.run_name: run for run in MlflowClient(store.mlflow_uri).search_runs(["1"])}
    assert set(runs) == {"demo", "trial 0"}
    assert runs["trial 0"].data.tags["mlflow.parentRunId"] == runs["demo"].info.run_id


@pytest.mark.slow
def test_a_moved_store_keeps_its_artifacts_and_models(store: Store, tmp_path: Path) -> None:
    make_study(store)
    trial = make_kept(store)
    (trial.artifacts / "note.txt").write_text("here")
    end(store.attempt("demo", "study"))
    shipped(store, trial, "gestures")
    run_id = Deliverer(store).receipt(trial).run_id
    assert run_id is not None
    moved = Store(store.folder.rename(tmp_path / "another place"))
    client = MlflowClient(moved.mlflow_uri)

    assert whats(examine(moved, fix=False).findings) == {"moved-store"}
    assert whats(examine(moved, fix=True).findings) == {"moved-store"}
    assert not examine(moved, fix=True).findings
    assert not store.folder.exists()
    assert len(list(moved.folder.glob("mlflow-*.backup.db"))) == 1

    artifact = client.download_artifacts(run_id, "note.txt", str(tmp_path))
    assert Path(artifact).read_text() == "here"
    folder = resolve_model(moved, "gestures@champion")
    assert folder.is_relative_to(moved.folder)
    assert any(folder.iterdir())
    mlflow.pyfunc.load_model(client.get_model_version("gestures", "1").source)
    with closing(sqlite3.connect(moved.folder / "mlflow.db")) as connection:
        dump = "\n".join(connection.iterdump())
    assert store.artifacts.as_uri() not in dump
    assert Deliverer(moved).receipt(moved.attempt("demo", "trial-0")).run_id == run_id


@pytest.mark.slow
def test_a_copied_store_is_its_own_and_lives_on_without_the_original(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_study(store)
    trial = make_kept(store)
    (trial.artifacts / "note.txt").write_text("of both")
    end(store.attempt("demo", "study"))
    shipped(store, trial, "gestures")
    copy = Store(shutil.copytree(store.folder, tmp_path / "copy"))
    before = set(store.folder.rglob("*"))
    (copy.attempt("demo", "trial-0").artifacts / "later.txt").write_text("of the copy")
    run_id = Deliverer(copy).deliver(copy.attempt("demo", "trial-0"))
    assert run_id == Deliverer(store).receipt(trial).run_id
    assert f"{copy.folder} was moved or copied from {store.folder}: its paths are rewritten" in caplog.text
    assert not {path for path in store.folder.rglob("*") if not path.name.endswith(("-wal", "-shm"))} - before
    assert [file.path for file in Deliverer(store).client.list_artifacts(run_id)].count("later.txt") == 0
    shutil.rmtree(store.folder)
    client = Deliverer(copy).client
    for name, text in (("note.txt", "of both"), ("later.txt", "of the copy")):
        assert Path(client.download_artifacts(run_id, name, str(tmp_path))).read_text() == text
    assert resolve_model(copy, "gestures@champion").is_relative_to(copy.folder)
    assert not examine(copy, fix=False).findings


def test_a_damaged_database_is_said_by_every_command_that_needs_it(store: Store) -> None:
    (store.folder / "mlflow.db").write_bytes(b"no database" * 1000)
    for command in (["predict", "gestures@champion", "a.avi"], ["rollback", "gestures"], ["compare", "a"]):
        answer = run(*command, expect=2)
        assert "mlflow.db: cannot be read (file is not a database)" in " ".join(answer.stderr.split())


def test_artifacts_that_stayed_behind_are_not_given_up(store: Store, tmp_path: Path) -> None:
    trial = make_trial(store)
    Deliverer(store).deliver(trial)
    assert store.artifacts.joinpath("gestures").is_dir()
    copy = Store(tmp_path / "copy")
    copy.folder.mkdir()
    shutil.copy(store.folder / "mlflow.db", copy.folder)
    (finding,) = examine(copy, fix=True).findings
    assert (finding.what, finding.fixed, finding.problem.where) == ("moved-store", False, str(store.folder))


def test_a_newer_store_is_refused_everywhere(store: Store) -> None:
    newer_store(store)
    with pytest.raises(InputError, match="a later vidclf made this store"):
        find_store(store.folder)
    assert locate_store(store.folder) == store
    run("status", expect=2)
    store.format_file.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        find_store(store.folder)


def test_lines_of_a_journal_are_told_by_number(store: Store) -> None:
    trial, _ = delivered_trial(store)
    with trial.journal.open("a") as journal:
        journal.write("nonsense\n")
        journal.write('{"time_ms": 1, "st')  # cut short by a crash: fine
    findings = [finding for finding in examine(store, fix=False).findings if finding.what == "torn-file"]
    assert [finding.problem.where for finding in findings] == [f"{trial.journal}:2"]


def test_servers_are_not_examined_and_this_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # Another file stands for a server: what matters is that it is not the store's own.
    elsewhere = store.folder.parent / "server.db"
    shutil.move(store.folder / "mlflow.db", elsewhere)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere}")
    monkeypatch.setenv("VIDCLF_STUDY_STORAGE", f"sqlite:///{store.folder.parent / 'studies.db'}")
    unended_run(store)
    examination = examine(store, fix=True)
    assert not examination.findings
    assert len([note for note in examination.notes if "server" in note]) == 4


def test_a_mend_that_fails_is_told_and_the_others_are_done(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    undelivered_attempt(store)
    cut_entry(store)

    def refuse(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Deliverer, "deliver", refuse)
    examination = examine(store, fix=True)
    assert [(finding.what, finding.fixed) for finding in examination.findings] == [
        ("undelivered", False),
        ("cut-cache-entry", True),
    ]
    assert "no space left" in examination.left[0].failure


@pytest.mark.slow
def test_tune_mends_its_own_study_quietly(store: Store) -> None:
    opened = make_optuna_study(store)
    run_id = Deliverer(store).receipt(opened.attempt(0)).run_id
    Deliverer(store).client.update_run(run_id, status="RUNNING")
    add_trial(opened, TrialState.RUNNING, owner="gone")
    add_trial(opened, TrialState.PRUNED)
    make_folder(opened, 1)
    make_folder(opened, 2)
    left = opened.attempt(1).folder / "x.partial"
    left.touch()
    age(left)
    assert mend_study(opened) == 1
    mend_runs(opened)
    for attempt in (opened.attempt(1), opened.attempt(2)):
        Deliverer(store).deliver(attempt)
    assert not examine(store, fix=False).findings


@pytest.mark.slow
def test_the_command_tells_and_exits(store: Store) -> None:
    cut_entry(store)
    trial, _ = delivered_trial(store)
    trial.model.mkdir()
    (trial.model / "weights").write_bytes(bytes(1000))
    runner = CliRunner()
    found = runner.invoke(app, ["doctor", "--json"])
    report = json.loads(found.stdout)
    assert found.exit_code == 1
    ((what, fixed),) = {(problem["what"], problem["fixed"]) for problem in report["problems"]}
    assert (what, fixed) == ("cut-cache-entry", False)
    assert report["bytes"] == sum(weight["bytes"] for weight in report["weights"])
    weights = {(weight.part, weight.name): weight for weight in weigh(store)}
    assert weights["attempts", "demo"].models == 1000
    assert {part for part, _ in weights} == {"databases", "attempts", "artifacts", "caches"}

    table = runner.invoke(app, ["doctor"], env={"COLUMNS": "400"})
    assert table.exit_code == 1
    assert "abc.npy" in table.stdout
    assert "vidclf doctor --fix" in table.stderr
    run("doctor", "--fix")
    assert "Nothing is wrong" in run("doctor").stdout


def test_what_lies_beside_the_caches_is_the_users(store: Store) -> None:
    """`VIDCLF_CACHE` may be a folder that holds other things."""
    mine, cached = (cache.folder() / place / "ab" / "cut.npy" for place in ("videos", "clips"))
    for file in (mine, cached):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"cut")
    assert [usage.name for usage in weigh(store) if usage.part == "caches"] == ["clips"]
    examine(store, fix=True)
    assert (mine.exists(), cached.exists()) == (True, False)
