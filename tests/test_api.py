"""vidclf from Python: the five names, and the notebook that shows them."""

import ast
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vidclf
from tests.clips import write_experiment
from tests.studies import STUDY
from vidclf.data.manifest import Manifest
from vidclf.exceptions import InputError
from vidclf.runs.store import Store

ROOT = Path(__file__).parents[1]


def test_there_are_five_names_and_they_cost_nothing_before_they_are_used() -> None:
    assert sorted(vidclf.__all__) == [
        "compare",
        "load_experiment",
        "load_model",
        "run_experiment",
        "run_study",
    ]
    script = "import sys, vidclf; assert not {'torch', 'mlflow', 'optuna'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'train_everything'"):
        vidclf.train_everything  # noqa: B018


@pytest.mark.slow
def test_a_run_and_its_model(tmp_path: Path, squares: Manifest, store: Store) -> None:
    path = write_experiment(tmp_path / "svm.toml", "svm", Path(squares.name))
    experiment = vidclf.load_experiment(path, {"model.C": 3.0})
    assert experiment.model.C == 3.0  # type: ignore[attr-defined]
    run = vidclf.run_experiment(experiment, name="mine")
    assert (run.status, run.reused) == ("complete", False)
    assert run.folder.name.startswith("mine-")
    assert run.folder.is_relative_to(store.folder)
    again = vidclf.run_experiment(path, overrides={"model.C": 3.0})
    assert (again.reused, again.run_id, again.metrics) == (True, run.run_id, run.metrics)
    with pytest.raises(InputError, match="give them to load_experiment"):
        vidclf.run_experiment(experiment, overrides={"model.C": 4.0})

    clip = squares.split("test")[0]
    for model in (run.model(), vidclf.load_model(str(run.run_id))):
        assert model.classes == ("down", "right")
        good, bad = model.predict([clip.clip_path, tmp_path / "missing.avi"])
        assert (good.label, good.error) == (clip.label, None)
        assert bad.label is None and "missing" in str(bad.clip_path)
        (model.folder / "vidclf.json").rename(tmp_path / "card.json")  # its files are read once
        assert model.predict(clip.clip_path)[0].probabilities == good.probabilities
        (tmp_path / "card.json").rename(model.folder / "vidclf.json")

    table = vidclf.compare()
    assert set(table["model"]) == {"svm", "majority"}
    assert table["val/macro_f1"].is_monotonic_decreasing
    assert any("val" in note for note in table.attrs["notes"])


@pytest.mark.slow
def test_a_study(tmp_path: Path, squares: Manifest, caplog: pytest.LogCaptureFixture) -> None:
    write_experiment(tmp_path / "svm.toml", "svm", Path(squares.name))
    path = tmp_path / "mine.toml"
    path.write_text(STUDY.format(base='"svm.toml"', more=""))
    study = vidclf.run_study(path, trials=3, workers=1, store=tmp_path / "store")
    assert (study.name, study.ending) == ("mine", "finished")
    assert list(study.trials["trial"]) == [0, 1, 2]
    assert study.best is not None
    assert study.best["value"] == study.trials["value"].max()
    assert study.best["params"]["model.C"] in set(study.trials["model.C"])
    assert sum(line.startswith("trial ") and " complete " in line for line in caplog.messages) == 3
    assert sum(" drawn, " in line for line in caplog.messages) == 1, "all three predict the same"
    with pytest.raises(InputError, match="no such file"):
        vidclf.run_study(tmp_path / "nothing.toml")


def notebook(name: str = "from_python") -> list[str]:
    """The code of its cells."""
    cells = json.loads((ROOT / "examples" / f"{name}.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells), "outputs are not kept in the file"
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_calls_what_there_is() -> None:
    calls = [node for cell in notebook() for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Call)]
    found = set()
    for call in calls:
        owner = call.func.value if isinstance(call.func, ast.Attribute) else None
        if isinstance(owner, ast.Name) and owner.id == "vidclf":
            assert isinstance(call.func, ast.Attribute)
            found.add(call.func.attr)
            arguments = inspect.signature(getattr(vidclf, call.func.attr))
            arguments.bind(*call.args, **{str(keyword.arg): keyword for keyword in call.keywords})
            files = [each.value for each in call.args if isinstance(each, ast.Constant)]
            assert all((ROOT / str(file)).exists() for file in files), files
    assert found == {"compare", "load_experiment", "run_experiment", "run_study"}


@pytest.mark.long
def test_the_notebook_runs(tmp_path: Path) -> None:
    """Its cells one after another, as a notebook would, on a small rendered set."""
    code = notebook()
    assert len(code) >= 6
    for folder in ("experiments", "studies"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    demo = [sys.executable, "-m", "vidclf", "data", "demo", "data/demo", "--subjects", "6", "--takes", "1"]
    subprocess.run(demo, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "cells.py").write_text("\n".join(code))  # as a script: workers must not run it again
    ran = subprocess.run(
        [sys.executable, "cells.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "missing.avi None unreadable" in ran.stdout


@pytest.mark.slow
def test_the_notebook_goes_from_a_folder_to_a_model(tmp_path: Path) -> None:
    """Its cells one after another; ``%pip`` alone is left out."""
    code = [cell for cell in notebook("folder_to_model") if not cell.startswith("%pip")]
    shell = [
        f"import subprocess\nsubprocess.run({cell.removeprefix('!')!r}, shell=True, check=True)"
        if cell.startswith("!")
        else cell
        for cell in code
    ]
    (tmp_path / "cells.py").write_text("\n".join([*shell, "print(model.predict(['clips/new_clip.avi']))"]))
    environment = {name: value for name, value in os.environ.items() if name != "VIDCLF_STORE"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    ran = subprocess.run(
        [sys.executable, "cells.py"],
        cwd=tmp_path,
        env={**environment, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "is now mine version 1, @champion" in ran.stdout
    assert (tmp_path / "compare.html").exists()
    assert (tmp_path / "mine.zip").exists()
    assert "clip_path='clips/new_clip.avi', label='P" in ran.stdout
