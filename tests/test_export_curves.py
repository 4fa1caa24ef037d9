"""examples/export_curves.py, with recorders in place of TensorBoard and W&B."""

import sys
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from examples import export_curves
from tests.scripted_study import ScriptedStudy, complete
from vidclf import config
from vidclf.runs.folder import Attempt, Outcome, now_ms
from vidclf.workers.protocol import RunTask

EPOCHS = {f"repeat/{repeat}/epoch/val/loss": 0.5 + repeat for repeat in (0, 1)}


def train(task: RunTask, _: Connection) -> Outcome:
    """Two repeats of two epochs; the second trial fails."""
    attempt = Attempt(task.folder)
    if attempt.folder.name == "00001":
        return Outcome("failed", "boom", {}, now_ms(), "ValueError at a:1")
    config.write_toml({"data": {"frames": 8}}, attempt.config)
    attempt.record(0, {"size/parameters": 7.0})
    for name, value in EPOCHS.items():
        for epoch in (1, 2):
            attempt.record(epoch, {name: value / epoch})
    return complete(0.75)


class Recorder:
    """A writer of TensorBoard and a run of W&B: keeps what it is given, and leaves a folder behind."""

    made: list["Recorder"]

    def __init__(self, folder: str | Path, **given: Any) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.folder, self.given = Path(folder), given
        self.scalars: dict[tuple[int, str], float] = {}
        self.hparams: list[Any] = []
        self.file_writer = SimpleNamespace(add_summary=self.hparams.append)
        self.summary: dict[str, float] = {}
        type(self).made.append(self)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars[step, name] = value

    def log(self, metrics: dict[str, float], step: int) -> None:
        assert step > max((logged for logged, _ in self.scalars), default=0), "W&B drops what comes late"
        self.scalars |= {(step, name): value for name, value in metrics.items()}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    Recorder.made = []
    tensorboard, summary = (
        ModuleType("torch.utils.tensorboard"),
        ModuleType("torch.utils.tensorboard.summary"),
    )
    tensorboard.SummaryWriter = Recorder  # type: ignore[attr-defined]
    summary.hparams = lambda searched, metrics: ("names", searched, "ended")  # type: ignore[attr-defined]
    wandb = ModuleType("wandb")
    wandb.init = lambda **given: Recorder(given["dir"], **given)  # type: ignore[attr-defined]
    for module in (tensorboard, summary, wandb):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return Recorder.made


def test_a_finished_trial_is_one_run_with_its_curves_values_and_final_metrics(
    scripted: ScriptedStudy, recorded: list[Recorder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened, _ = scripted.run(train)
    arguments = [opened.name, "--folder", str(tmp_path / "curves"), "--store", str(scripted.store.folder)]
    curves = {(epoch, name): value / epoch for epoch in (1, 2) for name, value in EPOCHS.items()}

    export_curves.main(arguments)
    trials = [opened.frozen(number) for number in range(4)]
    assert [each.folder.name for each in recorded] == ["00000", "00001", "00002", "00003"]
    for trial, each in zip(trials, recorded, strict=True):
        failed = trial.number == 1
        status = "failed" if failed else "complete"
        assert each.hparams == [{**trial.params, "status": status}, "ended"]
        assert each.scalars == ({} if failed else {**curves, (2, "val/macro_f1"): 0.75})

    export_curves.main(arguments)
    assert len(recorded) == 4, "those that are there are left as they are"
    assert capsys.readouterr().out.splitlines()[1].endswith(": 0 new, 4 were there")

    export_curves.main([*arguments, "--to", "wandb"])
    for trial, each in zip(trials, recorded[4:], strict=True):
        failed = trial.number == 1
        given, experiment = each.given, {} if failed else {"data": {"frames": 8}}
        assert (given["project"], given["name"]) == (
            opened.name,
            opened.attempt(trial.number).identity().run_name,
        )
        status = "failed" if failed else "complete"
        assert given["config"] == {**experiment, "base": trial.params["base"], "status": status}
        assert each.scalars == ({} if failed else curves)
        assert each.summary == ({} if failed else {"val/macro_f1": 0.75})


def test_a_study_that_is_not_there_is_named(
    scripted: ScriptedStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        export_curves.main(["mistyped", "--store", str(scripted.store.folder)])
    assert "no trial of a study 'mistyped' has ended here" in capsys.readouterr().err
