"""A fit that was cut short goes on from its last epoch, and ends as if nothing had happened."""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.neural_models import Curves, build, split
from vidclf.data.manifest import Manifest
from vidclf.exceptions import TrialPruned
from vidclf.models.checkpoint import CheckpointWriter
from vidclf.models.classifier import NeuralClassifier

pytestmark = pytest.mark.usefixtures("one_thread")


class CutError(Exception):
    pass


def run(
    squares: Manifest,
    checkpoint: Path | None,
    cut_at: int = 0,
    network: str = "tiny3d",
    error: type[Exception] = CutError,
    **keys: Any,
) -> tuple[NeuralClassifier, Curves]:
    model, curves = build(squares, network, **{"train.epochs": 6, "train.patience": 0} | keys), {}

    def report(step: int, metrics: Mapping[str, float]) -> None:
        assert step not in curves
        curves[step] = dict(metrics)
        if step == cut_at > 0:
            raise error

    model.fit(split(squares, "train"), split(squares, "val"), report, checkpoint)
    return model, curves


@pytest.mark.parametrize(
    "keys",
    [
        {"network": "tiny2d", "model.frozen_stages": 0},
        {"network": "tiny3d", "train.optimizer": "sgd", "train.balance": "sampler"},
        {"train.optimizer": "adam", "train.views": 0, "train.schedule": "step", "model.frozen_norm": "train"},
        {"train.patience": 2, "train.min_epochs": 1, "train.min_delta": 0.5},
    ],
    ids=["all stages", "sgd", "drifting norm", "early stopping"],
)
@pytest.mark.parametrize("cut_at", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_goes_on_to_the_same_bits(
    squares: Manifest,
    tmp_path: Path,
    cut_at: int,
    keys: dict[str, Any],
) -> None:
    whole, expected = run(squares, None, **keys)
    with pytest.raises(CutError):
        run(squares, tmp_path / "c", cut_at, **keys)
    seen: list[int] = []
    original = NeuralClassifier._train_epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            NeuralClassifier,
            "_train_epoch",
            lambda *arguments: seen.append(arguments[2]) or original(*arguments),
        )
        resumed, curves = run(squares, tmp_path / "c", **keys)
    assert seen == list(range(cut_at + 1, len(expected)))
    assert curves == expected
    for name, values in whole.network_.state_dict().items():
        assert torch.equal(values, resumed.network_.state_dict()[name]), name


class SlowDisk:
    """Takes a moment for each file."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.epochs: list[int] = []
        self.threads: set[str] = set()
        original = torch.save

        def save(state: dict[str, Any], file: Path) -> None:
            time.sleep(0.1)
            self.epochs.append(len(state["history"]))
            self.threads.add(threading.current_thread().name)
            original(state, file)

        patch.setattr(torch, "save", save)


def test_a_slow_disk_is_written_to_seldom_and_at_the_end(
    squares: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    run(squares, tmp_path)
    assert disk.epochs == [1, 6]
    assert threading.main_thread().name not in disk.threads


@pytest.mark.slow
def test_training_does_not_change_a_state_that_is_being_written(
    squares: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, expected = run(squares, None)
    disk = SlowDisk(monkeypatch)
    with monkeypatch.context() as patch:
        # As if it was killed: what is being written ends, and nothing else is.
        patch.setattr(CheckpointWriter, "offer", written_once(CheckpointWriter.write))
        patch.setattr(CheckpointWriter, "write", lambda *_: None)
        with pytest.raises(CutError):
            run(squares, tmp_path, 4)
    assert disk.epochs == [1]
    assert run(squares, tmp_path)[1] == expected


def written_once(write: Callable[..., None]) -> Callable[..., None]:
    return lambda writer, state: write(writer, state) if len(state.history) == 1 else None


def test_a_pruned_fit_writes_nothing_more(
    squares: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    with pytest.raises(TrialPruned):
        run(squares, tmp_path, 3, error=TrialPruned)
    assert disk.epochs == [1]


def test_a_full_disk_ends_the_fit(squares: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        run(squares, tmp_path)


@pytest.mark.slow
def test_a_checkpoint_of_another_fit_or_a_torn_one_is_left_alone(
    squares: Manifest,
    tmp_path: Path,
) -> None:
    _, expected = run(squares, None)
    with pytest.raises(CutError):
        run(squares, tmp_path, 2, **{"train.lr": 1e-3})
    assert run(squares, tmp_path)[1] == expected
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:500])
    assert run(squares, tmp_path)[1] == expected


def test_a_frozen_part_is_not_written_in_every_epoch(squares: Manifest, tmp_path: Path) -> None:
    sizes = []
    for stages in (0, 3):
        run(squares, tmp_path / str(stages), **{"model.frozen_stages": stages, "train.epochs": 1})
        (file,) = (tmp_path / str(stages)).iterdir()
        sizes.append(file.stat().st_size)
    assert sizes[1] < sizes[0] / 10
