"""Studies whose database, MLflow and artifacts are servers, and what happens when these go away."""

import base64
import contextlib
import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow.pyfunc
import optuna
import pytest
import yaml
from typer.testing import CliRunner

from tests.clips import write_experiment, write_squares, write_study
from tests.interruptions import SESSION_SECONDS, STUDY, TRIALS, InterruptedStudy, check_survival
from tests.rounds import rounds
from tests.s3 import S3Server, s3_server
from tests.services import MlflowServer, OptunaProxy, PostgreSQL, Server, wait_until
from tests.starting import start_studies
from vidclf.cli.app import app
from vidclf.exceptions import InputError
from vidclf.registry import download
from vidclf.runs.store import Store, open_store
from vidclf.search.record.storage import open_storage
from vidclf.search.record.study import find_study
from vidclf.tracking import deliverer
from vidclf.tracking.deliverer import Deliverer

MORE, FEWER = rounds(brief=10, full=20), rounds(brief=8, full=12)
LONGER, SHORTER = (STUDY.replace(f"trials = {TRIALS}", f"trials = {count}") for count in (MORE, FEWER))

pytestmark = pytest.mark.timeout(900)  # several servers and sessions each


def results(store: Store) -> int:
    return len(list(store.folder.glob("attempts/*/0*/result.json")))


def tune(ordeal: InterruptedStudy, disturbed: Server, after: int) -> None:
    """A session in whose middle a server is restarted."""
    process = ordeal.start()
    wait_until(lambda: results(ordeal.store) >= after or process.poll() is not None, SESSION_SECONDS)
    assert results(ordeal.store) >= after, ordeal
    assert process.poll() is None, ordeal
    disturbed.stop()
    ordeal.note(f"{type(disturbed).__name__} is killed after {results(ordeal.store)} trials")
    assert ordeal.watch(process, time.monotonic() + 3) is None, ordeal
    disturbed.start()
    ordeal.note(f"it is back, after {results(ordeal.store)} trials")
    code = ordeal.watch(process, time.monotonic() + SESSION_SECONDS)
    ordeal.note(f"exit {code}")
    if code is None:
        process.kill()
    assert code == 0, ordeal


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 server that this environment's clients know of."""
    with s3_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgreSQL]:
    """A PostgreSQL that studies are kept in."""
    with PostgreSQL(tmp_path / "pg") as server:
        monkeypatch.setenv("VIDCLF_STUDY_STORAGE", server.uri)
        yield server


@pytest.mark.long
def test_a_study_on_servers_survives_a_restart_of_their_database(
    tmp_path: Path, store: Store, bucket: S3Server, database: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = ("--artifacts-destination", f"s3://{bucket.bucket}/artifacts")
    with MlflowServer(tmp_path / "mlflow", *artifacts, backend=database.create("mlflow")) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        ordeal = InterruptedStudy(tmp_path, store, 6, LONGER)
        tune(ordeal, database, after=4)
        ordeal.finish()  # delivers what MLflow, whose database this is too, did not take
        opened = check_survival(ordeal, MORE)
        assert len(opened.trials()) == MORE, f"a restart costs no trial\n{ordeal}"
        said = str(ordeal)
        assert said.count("is away; waiting") == said.count("is back after") == 1, said
        assert "secret" not in said
        assert not (store.folder / "optuna.db").exists()
        assert any(key.endswith("val/predictions.csv") for key in bucket.objects()), bucket.objects()


@pytest.mark.long
def test_a_study_behind_the_proxy_survives_its_restart(
    tmp_path: Path, store: Store, database: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OptunaProxy(tmp_path / "proxy", database.uri) as proxy:
        monkeypatch.setenv("VIDCLF_STUDY_STORAGE", proxy.uri)
        ordeal = InterruptedStudy(tmp_path, store, 7, SHORTER)
        tune(ordeal, proxy, after=3)
        opened = check_survival(ordeal, FEWER)
        assert len(opened.trials()) == FEWER, f"a restart costs no trial\n{ordeal}"
        assert str(ordeal).count("is back after") == 1, ordeal


@pytest.mark.long
def test_ctrl_c_stops_a_study_whose_database_is_away(
    tmp_path: Path, store: Store, database: PostgreSQL
) -> None:
    ordeal = InterruptedStudy(tmp_path, store, 8, SHORTER)
    process = ordeal.start()
    wait_until(lambda: results(store) >= 2 or process.poll() is not None, SESSION_SECONDS)
    database.stop()
    wait_until(lambda: "is away; waiting" in str(ordeal))
    os.killpg(process.pid, signal.SIGINT)
    code = ordeal.watch(process, time.monotonic() + SESSION_SECONDS)
    if code is None:
        process.kill()
    assert code == 130, ordeal
    assert "(you stopped waiting); nothing that was finished is lost" in str(ordeal)
    assert "Traceback" not in str(ordeal)
    found = subprocess.run(
        [sys.executable, "-m", "vidclf", "doctor", "--json"], capture_output=True, text=True, check=False
    )
    assert [problem["what"] for problem in json.loads(found.stdout)["problems"]] == ["unreachable"], found
    database.start()
    ordeal.finish()
    check_survival(ordeal, FEWER)


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    [
        pytest.param("sqlite", marks=pytest.mark.long),
        "postgresql, of two stores",
        pytest.param("postgresql", marks=pytest.mark.long),
        pytest.param("proxy", marks=pytest.mark.long),
    ],
)
def test_commands_that_start_a_study_at_once_make_one(
    where: str, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_experiment(tmp_path / "svm.toml", "svm", write_squares(tmp_path / "squares"))
    names = [f"race{number}" for number in range(rounds(1, 20))]
    for name in names:
        write_study(tmp_path / f"{name}.toml", "svm.toml", space='"model.C" = { low = 0.1, high = 10.0 }')
    with contextlib.ExitStack() as stack:
        if where != "sqlite":
            uri = stack.enter_context(PostgreSQL(tmp_path / "pg")).uri
            if where == "proxy":
                uri = stack.enter_context(OptunaProxy(tmp_path / "proxy", uri)).uri
            monkeypatch.setenv("VIDCLF_STUDY_STORAGE", uri)
        context, count = multiprocessing.get_context("spawn"), rounds(2, 4)
        barrier, answers = context.Barrier(count), context.Queue()
        starters = []
        for number in range(count):
            if "two stores" in where:
                monkeypatch.setenv("VIDCLF_STORE", str(tmp_path / f"store{number % 2}"))
            starters.append(context.Process(target=start_studies, args=(tmp_path, names, barrier, answers)))
            starters[-1].start()
        made = [answers.get(timeout=120) for _ in range(count * len(names))]
        for starter in starters:
            starter.join(60)
        assert [starter.exitcode for starter in starters] == [0] * count
        assert len(set(made)) == len(names)
        storage = open_storage(open_store())
        for name in names:
            study = optuna.load_study(study_name=name, storage=storage)
            assert [trial.number for trial in study.trials] == [0]


@pytest.mark.slow
def test_a_study_that_ran_elsewhere_is_promoted_and_used_here(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stores with the same databases, as two machines have them that share servers."""
    shutil.copy(store.folder / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)  # where MLflow puts what belongs to such a database
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("VIDCLF_STUDY_STORAGE", f"sqlite:///{tmp_path / 'optuna.db'}")
    use_elsewhere(tmp_path, store, monkeypatch)


@pytest.mark.long
@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("served", [True, False], ids=["artifacts by the server", "artifacts by the client"])
def test_a_study_that_ran_elsewhere_is_promoted_and_used_from_its_servers(
    served: bool,
    tmp_path: Path,
    store: Store,
    bucket: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = f"s3://{bucket.bucket}/mlflow"
    by_client = ("--default-artifact-root", place, "--no-serve-artifacts")
    with MlflowServer(
        tmp_path / "mlflow", *(("--artifacts-destination", place) if served else by_client)
    ) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        use_elsewhere(tmp_path, store, monkeypatch)
        artifacts = [key for key in bucket.objects() if key.startswith("mlflow/")]
        assert sum(key.endswith("/MLmodel") for key in artifacts) == 3


def use_elsewhere(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a study in one store, promotes its best from a second one, and uses that from a third."""
    manifest = write_squares(tmp_path / "squares", groups=20)
    write_experiment(tmp_path / "svm.toml", "svm", manifest)
    write_study(
        tmp_path / "afar.toml",
        "svm.toml",
        trials=3,
        gates='min = { "test/macro_f1" = 0.5 }',
        space='"model.C" = { low = 0.1, high = 10.0, log = true }',
    )
    assert vidclf("tune", str(tmp_path / "afar.toml"), "--json", store=store)["ending"] == "finished"
    here = open_store(tmp_path / "here")
    monkeypatch.setenv("VIDCLF_CACHE", str(tmp_path / "cache"))

    state = vidclf("status", "afar", "--json", store=here)
    assert state["budget"] == {"total": 3, "used": 3}
    rows = vidclf("compare", "afar", "--json", store=here)["rows"]
    assert any(row["trial"] == state["best"]["number"] for row in rows)
    refused = CliRunner().invoke(app, ["confirm", "afar", "--store", str(here.folder)])
    assert refused.exit_code == 2
    assert "ran in another store" in refused.output

    promoted = vidclf("promote", "afar", "--as", "far", "--yes", "--json", store=here)
    assert [gate["gate"] for gate in promoted["gates"]] == [
        "groups in test",
        "test/macro_f1 at least",
        "better than chance",
    ]
    attempt = find_study("afar", here).attempt(state["best"]["number"])
    original = find_study("afar", store).attempt(state["best"]["number"])
    assert attempt.identity() == original.identity()
    assert attempt.config.read_text() == original.config.read_text()
    assert (attempt.model / "vidclf.json").read_text() == (original.model / "vidclf.json").read_text()
    assert attempt.outcome().metrics["val/macro_f1"] == original.outcome().metrics["val/macro_f1"]  # type: ignore[union-attr]
    runs = Deliverer(here).client.search_runs(["1"])
    assert len(runs) == 4, "the study and its trials: none was delivered anew"
    run = next(run for run in runs if run.info.run_id == promoted["run_id"])
    assert run.data.metrics["test/macro_f1"] == promoted["metrics"]["test/macro_f1"]
    assert vidclf("doctor", "--json", store=here)["problems"] == []

    clip = str(next((tmp_path / "squares" / "right").iterdir()))
    third = open_store(tmp_path / "third")
    assert vidclf("predict", "far@champion", clip, "--json", store=third)[0]["label"] == "right"
    assert vidclf("predict", promoted["run_id"], clip, "--json", store=third)[0]["label"] == "right"
    again = vidclf("promote", promoted["run_id"], "--as", "far", "--yes", "--json", store=third)
    assert (again["version"], again["run_id"]) == (promoted["version"], promoted["run_id"])

    mlflow.set_tracking_uri(here.mlflow_uri)
    try:
        pyfunc = mlflow.pyfunc.load_model("models:/far@champion")
        sent = base64.b64encode(Path(clip).read_bytes()).decode()
        assert pyfunc.predict([f"data:video/avi;base64,{sent}"])[0]["label"] == "right"
    finally:
        mlflow.set_tracking_uri(None)


def vidclf(*arguments: str, store: Store) -> Any:
    """What a command prints as JSON."""
    ran = CliRunner().invoke(app, [*arguments, "--store", str(store.folder)])
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.stdout)


def test_s3_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    deliverer.check_reachable("mlflow-artifacts:/1")
    with pytest.raises(InputError, match=r's3://b/1, which needs pip install "vidclf\[server\]"'):
        deliverer.check_reachable("s3://b/1")


def test_the_course_of_a_fetched_run_is_not_among_its_final_figures() -> None:
    final = {"val/macro_f1": 0.9, "val/macro_f1_std": 0.1, "repeat/0/val/macro_f1": 0.8, "size/file_mb": 1.0}
    course = {
        "epoch/val/loss": 1.0,
        "repeat/1/epoch/val/loss": 1.0,
        "repeat/val/loss": 1.0,
        "mean/val/loss": 1.0,
    }
    run = SimpleNamespace(
        info=SimpleNamespace(end_time=2),
        data=SimpleNamespace(tags={"vidclf.status": "complete"}, metrics={**final, **course}),
    )
    assert download._outcome(run).metrics == final  # type: ignore[arg-type]


def test_the_compose_file_names_what_vidclf_reads() -> None:
    text = (Path(__file__).parents[3] / "compose.yaml").read_text()
    told = re.findall(r"^ *#   export (\w+)=(\S+)$", text, re.MULTILINE)
    assert {name for name, _ in told} == {"VIDCLF_STUDY_STORAGE", "MLFLOW_TRACKING_URI"}
    read = "".join(path.read_text() for path in (Path(__file__).parents[3] / "vidclf").rglob("*.py"))
    assert all(f'"{name}"' in read for name, _ in told)
    services = yaml.safe_load(text)["services"]
    published = {
        port.split(":")[-2]: port for service in services.values() for port in service.get("ports", ())
    }
    assert all(port.startswith("${VIDCLF_BIND:-127.0.0.1}:") for port in published.values()), published
    assert {urllib.parse.urlsplit(address).port for _, address in told} <= set(map(int, published))
    pinned = [service["image"].partition(":")[2] for service in services.values()]
    assert all(re.search(r"\d", tag) and tag != "latest" for tag in pinned), pinned
    assert {"psycopg[binary]", "boto3", "grpcio"} <= set(re.findall(r'"([\w[\]]+)[=>]=', text))
