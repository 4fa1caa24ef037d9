"""The command line as its users meet it: exit codes, messages, one JSON document."""

import errno
import importlib.metadata
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import typer

from tests.attempts import six_digits
from tests.clips import write_experiment, write_squares, write_study
from tests.command import run
from vidclf.cli import study as study_command
from vidclf.cli.app import app
from vidclf.runs import store
from vidclf.runs.store import Store
from vidclf.search.record.study import find_study
from vidclf.tracking.deliverer import Deliverer

COMMANDS = ["init", "data demo", "data import", "data check", "data report", "data store"]
COMMANDS += ["train", "tune", "status", "compare", "confirm", "promote"]
COMMANDS += ["rollback", "shrink", "review", "predict", "bench", "export", "ui", "doctor"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Moving squares, an experiment of each kind, and a small study."""
    made = tmp_path_factory.mktemp("project with a space")
    manifest = write_squares(made / "squares", groups=6)
    write_experiment(made / "svm.toml", "svm", manifest)
    write_experiment(made / "tiny.toml", "frames2d", manifest, train="epochs = 2\nbatch_size = 4")
    space = '"model.C" = { low = 0.1, high = 10.0, log = true }\n'
    space += '"train.lr" = { low = 1e-4, high = 1e-2, log = true }'
    write_study(
        made / "study.toml",
        ["svm.toml", "tiny.toml"],
        top='question = "Which?"\nkeep = 1',
        sampler='name = "random"',
        resources="cpus = 1.0",
        space=space,
    )
    return made


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches_with_an_example(command: str) -> None:
    output = run(*command.split(), "--help").output
    assert f"vidclf {command}" in " ".join(output.split())
    assert "Example:" in output


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, vidclf.cli.app; print(*sys.modules)"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert "typer" in loaded
    assert not loaded & {"torch", "mlflow", "optuna", "cv2", "pandas", "pydantic", "av", "sklearn"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "nothing.toml"), "nothing.toml: no such file"),
        (("train", "{folder}/svm.toml", "--set", "model.C=-1"), "model.C"),
        (
            ("train", "{folder}/svm.toml", "--set", "model.knel=1"),
            "unknown key model.knel, did you mean model.kernel?",
        ),
        (("train", "{folder}/svm.toml", "--set", "data.manifest=no.csv"), "no such manifest"),
        (("train", "{folder}/tiny.toml", "--set", "model.weights=no.pth"), "no.pth"),
        (("promote", "nothing", "--as", "x", "--max", "size/mb=3"), "no gate on 'size/mb'"),
        (("compare", "--to", "page.txt"), "--to page.txt: a page is written; name it page.html"),
        (("data", "check", "{folder}"), "a folder, and no manifest; vidclf data import"),
        (("rollback", "nothing"), "no such registered model"),
        (("confirm", "nothing"), "no study nothing"),
        (("tune", "{folder}/nothing.toml"), "nothing.toml: no such file"),
        (("tune", "{folder}/study.toml", "--set", "model.C=1"), "searches over it"),
        (("status", "nothing"), "no study nothing"),
        (("promote", "nothing", "--as", "x"), "no study or run"),
        (("predict", "nothing@champion", "x.avi"), "nothing"),
        (("predict", "{folder}", "x.avi"), "not a saved model"),
        (("data", "import", "{folder}/nothing", "--to", "m.csv"), "nothing"),
        (("train", "{folder}/svm.toml", "--store", "/proc/store"), "the store cannot be written"),
        (("status", "--store", "{folder}/svm.toml"), "this is a file, not a folder"),
        (("status", "--store", "{folder}/what?"), "a store's path cannot hold ?"),
    ],
)
def test_bad_input_is_one_clear_message_and_exit_2(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = run(*(argument.format(folder=folder) for argument in arguments), expect=2)
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_bad_input_writes_nothing(folder: Path) -> None:
    run("tune", folder / "study.toml", "--set", "model.D=1", expect=2)
    run("train", folder / "svm.toml", "--set", "model.C=-1", expect=2)
    store = Path(os.environ["VIDCLF_STORE"])
    assert sorted(path.name for path in store.rglob("*")) == ["artifacts", "attempts", "store.json"]


def test_an_unreadable_clip_is_named_before_anything_runs(tmp_path: Path) -> None:
    manifest = write_squares(tmp_path / "squares", groups=4)
    bad = sorted((tmp_path / "squares/right").iterdir())[0]
    bad.write_bytes(b"not a video")
    result = run("train", write_experiment(tmp_path / "x.toml", "majority", manifest), expect=2)
    assert f"{bad}: unreadable" in result.stderr.replace("\n", "").replace("       ", "")


def test_looking_creates_no_store(folder: Path) -> None:
    assert "does not exist yet" in run("status").stderr
    run("tune", folder / "study.toml", "--dry-run", "--json")
    run("predict", folder, "x.avi", expect=2)
    assert not Path(os.environ["VIDCLF_STORE"]).exists()


def test_our_own_bug_is_one_line_and_a_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(_: Any) -> Store:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(store, "open_store", broken)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = run("promote", "x", "--as", "y", expect=70)
    assert "a bug in vidclf: ZeroDivisionError: surprise" in result.stderr
    assert "ZeroDivisionError: surprise" in next(tmp_path.glob("vidclf-*.log")).read_text()


def test_a_full_disk_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("the commit failed") from error

    monkeypatch.setattr(store, "find_store", full)
    assert "error: the disk is full" in run("status", expect=1).stderr


@pytest.mark.parametrize(
    ("done", "budget", "words"),
    [
        (4, 4, "All 4 trials are done."),
        (6, 6, "All 6 trials are done."),  # --trials 6
        (3, 3, "3 trials are done; for all 4 of the file:  vidclf tune '{study}'"),  # --trials 3
        (2, 4, "Every configuration of the space has been tried, in 2 trials."),
    ],
)
def test_the_end_of_a_study_says_what_is_done_and_what_is_left(
    folder: Path, done: int, budget: int, words: str
) -> None:
    study = folder / "study.toml"
    opened = SimpleNamespace(logical=lambda: done, budget=lambda: budget)
    assert study_command._all_done(opened, study, {"--trials": 3}) == words.format(study=study)  # type: ignore[arg-type]


def test_the_command_that_goes_on_has_the_options_that_were_given() -> None:
    given = {
        "--continue-as": "b c",
        "--join": True,
        "--ray": None,
        "--set": ["seed=1", "model.C=2"],
        "--trials": None,
    }
    again = "vidclf tune 's t.toml' '--continue-as=b c' --join --set=seed=1 --set=model.C=2"
    assert study_command._again(Path("s t.toml"), given) == again
    parsed = typer.main.get_command(app).commands["tune"].make_context("tune", shlex.split(again)[2:])  # type: ignore[attr-defined]
    assert (parsed.params["continue_as"], parsed.params["set_"]) == ("b c", ["seed=1", "model.C=2"])


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"vidclf {importlib.metadata.version('vidclf')}\n"


def test_a_plan_runs_nothing(folder: Path) -> None:
    plan = json.loads(run("tune", folder / "study.toml", "--dry-run", "--json").stdout)
    assert plan["total"] == 4
    assert {(row["base"], row["key"]) for row in plan["space"]} == {("svm", "model.C"), ("tiny", "train.lr")}
    searched = {row["key"]: row["searched"] for row in plan["space"]}
    assert searched["train.lr"] == "0.0001 to 0.01, log"
    assert plan["clips"]["train"] > 0
    assert [point["from"] for point in plan["first"]] == ["base", "base"]
    assert [point["base"] for point in plan["first"]] == ["svm", "tiny"]
    assert set(plan["bases"]) == {"svm", "tiny"}
    assert plan["sample"]["experiment"]["model"]["kind"] in {"svm", "frames2d", "volume3d"}
    assert plan["seconds_left"] is None
    assert json.loads(run("status", "--json").stdout) == []


@pytest.mark.usefixtures("store")
@pytest.mark.slow
def test_train_then_predict(folder: Path) -> None:
    first = json.loads(run("train", folder / "svm.toml", "--json").stdout)
    assert first["status"] == "complete"
    assert first["metrics"]["latency/p50_ms"] > 0
    assert first["metrics"]["latency/file_p50_ms"] > 0
    same = json.loads(run("train", folder / "svm.toml", "--json").stdout)
    assert (same["run_id"], same["reused"]) == (first["run_id"], True)
    anew = json.loads(run("train", folder / "svm.toml", "--json", "--again").stdout)
    assert anew["run_id"] != first["run_id"]

    told = run("train", folder / "svm.toml").stdout.splitlines()
    scores = [first["metrics"][f"val/{name}"] for name in ("macro_f1", "accuracy")]
    assert told[0] == "val: macro F1 {:.4f}, accuracy {:.4f} on 4 clips of 2 groups".format(*scores)
    assert [line.split() for line in told[2:5:2]] == [["metric", "val"], ["macro_f1", f"{scores[0]:.4f}"]]

    clip = sorted((folder / "squares/right").iterdir())[2]
    for model in (first["model_dir"], first["run_id"]):
        [prediction] = json.loads(run("predict", model, clip, "--json").stdout)
        assert prediction["label"] in ("down", "right")
        assert sum(prediction["probabilities"].values()) == pytest.approx(1)
        assert prediction["error"] is None

    table = folder / "out.csv"
    result = run(
        "predict", first["model_dir"], clip, folder / "absent.avi", "--csv", table, "--json", expect=1
    )
    good, bad = json.loads(result.stdout)
    assert good["label"] is not None
    assert (bad["label"], bad["error"]) == (None, "unreadable: no such file")
    assert len(table.read_text().splitlines()) == 3


@pytest.mark.usefixtures("store")
def test_a_failed_run_exits_1(folder: Path) -> None:
    result = run("train", folder / "tiny.toml", "--set", "train.lr=1e30", "--json", expect=1)
    answer = json.loads(result.stdout)
    assert (answer["status"], answer["model_dir"]) == ("failed", None)


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_from_study_to_prediction(folder: Path) -> None:
    tuned = run("tune", folder / "study.toml", "--json")
    assert "[resources] are for --ray" in tuned.stderr
    answer = json.loads(tuned.stdout)
    assert answer["ending"] == "finished"
    assert answer["trials"]["complete"] == 4
    assert answer["budget"] == {"total": 4, "used": 4}
    assert answer["best"]["run_id"]
    status = json.loads(run("status", "study", "--json").stdout)
    assert status["best"] == answer["best"]
    for name in ("study", folder / "study.toml"):
        hint = "a study, not a model; register its best first: vidclf promote study --as NAME"
        assert hint in " ".join(run("predict", name, "x.avi", expect=2).stderr.split())

    store = Store(Path(os.environ["VIDCLF_STORE"]))
    opened = find_study("study", store)
    deliverer = Deliverer(store)
    parent = deliverer.receipt(opened.own_attempt).run_id
    assert parent is not None
    for row in opened.rows():
        run_id = deliverer.receipt(opened.attempt(row.number)).run_id
        assert run_id is not None
        mirrored = deliverer.client.get_run(run_id)
        assert mirrored.info.status == "FINISHED"
        assert mirrored.data.tags["mlflow.parentRunId"] == parent
        assert mirrored.data.metrics["val/macro_f1"] == six_digits(row.value)
        assert mirrored.data.metrics["latency/p50_ms"] == six_digits(row.metrics["latency/p50_ms"]) > 0
        [dataset] = mirrored.inputs.dataset_inputs
        assert dataset.dataset.digest == mirrored.data.tags["vidclf.data_digest"][:32]
        assert json.loads(dataset.dataset.profile)["train"] == {"down": 3, "right": 3}
        for path, value in row.params.items():
            assert float(mirrored.data.params[path]) == pytest.approx(value)
    assert deliverer.client.get_run(parent).info.status == "FINISHED"
    pages = {file.path for file in deliverer.client.list_artifacts(parent)}
    assert {"study.html", "trials.csv", "README.md", "best.toml", "study.toml"} <= pages

    accept = ("--accept", "untested")  # the test split has one group
    promoted = json.loads(run("promote", "study", "--as", "squares", *accept, "--json").stdout)
    assert (promoted["version"], promoted["created"]) == (1, True)
    gates = [(gate["gate"], gate["passed"]) for gate in promoted["gates"]]
    assert gates == [("groups in test", True), ("better than chance", True)]
    assert promoted["run_id"] == answer["best"]["run_id"]
    assert promoted["metrics"]["test/accuracy"] >= 0
    again = json.loads(run("promote", "study", "--as", "squares", "--json").stdout)
    assert (again["version"], again["created"]) == (1, False)
    clip = sorted((folder / "squares/right").iterdir())[2]
    for reference in ("squares@champion", "squares/1"):
        assert json.loads(run("predict", reference, clip, "--json").stdout)[0]["error"] is None
    other = json.loads(run("train", folder / "svm.toml", "--json").stdout)
    run("promote", other["run_id"], "--as", "squares", "--json", expect=3)


def start(folder: Path) -> subprocess.Popen[str]:
    """A study that would take long, in a process of its own."""
    (folder / "long.toml").write_text(
        (folder / "study.toml").read_text().replace("trials = 4", "trials = 200")
    )
    command = [sys.executable, "-m", "vidclf", "tune", str(folder / "long.toml")]
    return subprocess.Popen(
        command, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )


def wait_for_trials(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stderr is not None
    lines: list[str] = []
    while sum(line.startswith("trial") for line in lines) < count:
        line = process.stderr.readline()
        assert line, "the study ended early:\n" + "".join(lines)
        lines.append(line)
    return lines


def settled(folder: Path) -> dict[str, int]:
    """Counts of the long study, no trial and no MLflow run of it left running."""
    store = Store(Path(os.environ["VIDCLF_STORE"]))
    opened = find_study("long", store)
    counts: dict[str, int] = {}
    deliverer = Deliverer(store)
    for row in opened.rows():
        counts[row.state] = counts.get(row.state, 0) + 1
        begun = (opened.attempt(row.number).folder / "attempt.json").exists()
        assert begun or row.state in {"waiting", "interrupted"}  # asked for, and cut before it began
        if begun:
            outcome = opened.attempt(row.number).outcome()
            run_id = deliverer.receipt(opened.attempt(row.number)).run_id
            assert outcome is not None
            assert run_id is not None
            status = deliverer.client.get_run(run_id).info.status
            assert status == {"complete": "FINISHED", "interrupted": "FAILED", "failed": "FAILED"}[row.state]
    assert "running" not in counts
    return counts


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_a_killed_study_leaves_no_process_goes_on_and_stops_cleanly_at_ctrl_c(folder: Path) -> None:
    with start(folder) as killed:
        wait_for_trials(killed, 1)
        workers = psutil.Process(killed.pid).children(recursive=True)
        assert workers
        killed.kill()
    assert not psutil.wait_procs(workers, timeout=10)[1]
    used = json.loads(run("status", "long", "--json").stdout)["budget"]["used"]
    assert used >= 1
    with start(folder) as process:
        wait_for_trials(process, 1)
        os.killpg(process.pid, signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Go on with the same command: vidclf tune" in rest
    assert settled(folder)["complete"] > used


@pytest.mark.usefixtures("store")
def test_a_model_that_may_abstain_says_nothing_where_it_is_not_sure(folder: Path) -> None:
    trained = json.loads(run("train", folder / "svm.toml", "--set", "abstain.error=0.4", "--json").stdout)
    card = Path(trained["model_dir"]) / "vidclf.json"
    asked = trained["metrics"]["abstain/confidence"]
    assert json.loads(card.read_text())["confidence"] == asked > 0
    assert 0 <= trained["metrics"]["abstain/coverage"] <= 1
    clip = sorted((folder / "squares/right").iterdir())[2]
    values = json.loads(card.read_text())

    def answer(confidence: float) -> dict[str, Any]:
        card.write_text(json.dumps({**values, "confidence": confidence}))
        [prediction] = json.loads(run("predict", card.parent, clip, "--json").stdout)
        return dict(prediction)

    surest = max(answer(0.0)["probabilities"].values())
    assert answer(surest)["label"] is not None
    unsure = answer(surest + 1e-9)
    assert (unsure["label"], unsure["error"]) == (None, None)
    assert sum(unsure["probabilities"].values()) == pytest.approx(1)
    assert "not sure" in run("predict", card.parent, clip).stdout
    windows = json.loads(run("predict", card.parent, clip, "--window", "0.2", "--json").stdout)
    assert {window["label"] for window in windows if max(window["probabilities"].values()) <= surest} == {
        None
    }

    refused = run("train", folder / "svm.toml", "--set", "abstain.error=0.01", "--json")
    assert "no confidence keeps to it on 4 clips of val, so the model always answers" in " ".join(
        refused.stderr.split()
    )
    assert "abstain/confidence" not in json.loads(refused.stdout)["metrics"]
