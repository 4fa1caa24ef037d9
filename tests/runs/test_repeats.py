"""Repeats: the same configuration under several seeds or folds, as one attempt."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vidclf import config
from vidclf.data.manifest import Manifest
from vidclf.exceptions import TrialPruned
from vidclf.models.base import ExperimentConfig
from vidclf.runs import experiment
from vidclf.runs.experiment import parse_experiment, run_experiment
from vidclf.runs.folder import Attempt, Identity, Outcome
from vidclf.runs.repeats import Repeats

pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(squares: Manifest, **keys: Any) -> ExperimentConfig:
    tree = {
        "data": {"manifest": str(squares.path), "frames": 4, "size": 32, "grid": 8},
        "model": {"kind": "volume3d", "network": "tiny3d", "weights": "none"},
        "train": {"epochs": 2, "precision": "fp32"},
    }
    return parse_experiment(config.override(tree, keys), "test")


def run(
    made: ExperimentConfig, folder: Path, repeats: Repeats | None, stop_at: int = 99
) -> tuple[Attempt, Outcome, list[tuple[int, Mapping[str, float]]]]:
    attempt, reports = Attempt(folder), []
    attempt.create(Identity("id", "e", "n", None, 0))

    def report(step: int, metrics: Mapping[str, float]) -> None:
        reports.append((step, dict(metrics)))
        if step == stop_at:
            raise TrialPruned("enough")

    return attempt, run_experiment(made, attempt, report, repeats), reports


@pytest.mark.slow
def test_by_seed_the_figures_are_means_over_runs_with_their_own_seeds(
    squares: Manifest, tmp_path: Path
) -> None:
    attempt, outcome, reports = run(tiny(squares), tmp_path / "r", Repeats(3, "seed"))
    assert outcome.status == "complete", outcome.reason
    singly = [run(tiny(squares, seed=seed), tmp_path / str(seed), None)[1].metrics for seed in range(3)]
    for name in ("val/loss", "val/macro_f1"):
        values = [single[name] for single in singly]
        assert [outcome.metrics[f"repeat/{i}/{name}"] for i in range(3)] == values
        assert outcome.metrics[name] == pytest.approx(statistics.mean(values))
        assert outcome.metrics[f"{name}_std"] == pytest.approx(statistics.stdev(values))
    assert outcome.metrics["size/parameters"] == singly[0]["size/parameters"]
    assert [step for step, _ in reports] == [0, 1, 2, 3]
    assert reports[0][1]["size/parameters"] == singly[0]["size/parameters"]
    assert reports[2][1]["mean/val/loss"] == pytest.approx(
        (singly[0]["val/loss"] + singly[1]["val/loss"]) / 2
    )
    assert reports[2][1]["repeat/val/loss"] == singly[1]["val/loss"]
    weights = (tmp_path / "0" / "model" / "weights.safetensors").read_bytes()
    assert (attempt.model / "weights.safetensors").read_bytes() == weights
    assert (attempt.artifacts / "val" / "predictions.csv").exists()
    assert (attempt.artifacts / "repeats" / "2" / "val" / "predictions.csv").exists()
    curves = [metrics for _, metrics in attempt.records() if "repeat/1/epoch/val/loss" in metrics]
    assert len(curves) == 2
    assert not attempt.checkpoint.exists()


@pytest.mark.slow
def test_what_no_seed_changes_is_run_once(squares: Manifest, tmp_path: Path) -> None:
    tree = {"data": {"manifest": str(squares.path)}, "model": {"kind": "logistic", "features": "color"}}
    attempt, outcome, reports = run(parse_experiment(tree, "test"), tmp_path / "r", Repeats(3, "seed"))
    assert outcome.metrics["val/accuracy"] == outcome.metrics["repeat/0/val/accuracy"]
    assert outcome.metrics["val/accuracy_std"] == 0
    assert "repeat/1/val/accuracy" not in outcome.metrics
    assert reports[-1][0] == 1
    assert attempt.model.is_dir()


@pytest.mark.slow
def test_by_fold_every_clip_is_judged_once_and_no_model_is_kept(squares: Manifest, tmp_path: Path) -> None:
    attempt, outcome, _ = run(tiny(squares), tmp_path / "r", Repeats(5, "fold"))
    assert outcome.status == "complete", outcome.reason
    tables = [
        attempt.artifacts / "val",
        *(attempt.artifacts / "repeats" / str(i) / "val" for i in range(1, 5)),
    ]
    judged = [
        line.split(",")[0]
        for table in tables
        for line in (table / "predictions.csv").read_text().splitlines()[1:]
    ]
    assert sorted(judged) == sorted(str(e.clip_path) for e in squares.entries if e.split != "test")
    assert not attempt.model.exists()


@pytest.mark.slow
def test_a_pruned_repeat_and_a_crash_end_the_attempt(squares: Manifest, tmp_path: Path) -> None:
    _, outcome, reports = run(tiny(squares), tmp_path / "p", Repeats(3, "seed"), stop_at=2)
    assert (outcome.status, outcome.reason) == ("pruned", "enough")
    assert [step for step, _ in reports] == [0, 1, 2]


@pytest.mark.slow
def test_finished_repeats_are_not_run_again(
    squares: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(tiny(squares), tmp_path / "whole", Repeats(3, "seed"))[1].metrics
    original, seeds = experiment.train_and_score, []

    def killed_in_the_third(made: ExperimentConfig, *arguments: Any, **options: Any) -> dict[str, float]:
        seeds.append(made.seed)
        if made.seed == 2 and seeds.count(2) == 1:
            raise KeyboardInterrupt
        return original(made, *arguments, **options)

    monkeypatch.setattr(experiment, "train_and_score", killed_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(squares), tmp_path / "cut", Repeats(3, "seed"))
    retry = Attempt(tmp_path / "retry")
    retry.create(Identity("id2", "e", "n", None, 0))
    retry.take_checkpoint(Attempt(tmp_path / "cut"))
    reports: list[int] = []
    outcome = run_experiment(tiny(squares), retry, lambda step, _: reports.append(step), Repeats(3, "seed"))
    assert seeds == [0, 1, 2, 2]
    assert reports == [1, 2, 3]
    same = [name for name in expected if not name.startswith("cost/")]
    assert {name: outcome.metrics[name] for name in same} == {name: expected[name] for name in same}
    assert (retry.model / "weights.safetensors").exists()
    assert (retry.artifacts / "val" / "predictions.csv").exists()


@pytest.mark.slow
def test_a_process_that_dies_at_the_very_end_leaves_all_to_the_next_try(
    squares: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def killed(_attempt: Attempt, _outcome: Outcome) -> None:
            if _attempt.folder.name == "cut":
                raise KeyboardInterrupt
            finish(_attempt, _outcome)

        finish = Attempt.finish
        patch.setattr(Attempt, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tiny(squares), tmp_path / "cut", Repeats(2, "seed"))
    retry = Attempt(tmp_path / "retry")
    retry.create(Identity("id2", "e", "n", None, 0))
    retry.take_checkpoint(Attempt(tmp_path / "cut"))
    outcome = run_experiment(tiny(squares), retry, lambda *_: None, Repeats(2, "seed"))
    assert outcome.status == "complete", outcome.reason
    assert (retry.model / "weights.safetensors").exists()
