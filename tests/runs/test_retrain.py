"""Models that a study trains at its end, and those that are trained again to be promoted."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.attempts import six_digits
from tests.clips import write_experiment, write_squares, write_study
from tests.command import run
from vidclf.data.manifest import read_manifest, write_manifest
from vidclf.runs.folder import Attempt
from vidclf.runs.retrain import train_model
from vidclf.runs.store import Store
from vidclf.search.record.study import find_study
from vidclf.tracking.deliverer import Deliverer

BY_FOLD = 'repeats = 2\nrepeat_by = "fold"'


def write_forest_study(folder: Path, objective: str = "") -> Path:
    return write_study(
        folder / "study.toml",
        "forest.toml",
        trials=2,
        top="keep = 1",
        objective=objective,
        sampler='name = "random"',
        space='"model.min_leaf" = { low = 1, high = 2 }',
    )


@pytest.mark.slow
@pytest.mark.parametrize("val", [True, False])
def test_by_fold_the_kept_trial_gets_one_model_at_the_end(val: bool, tmp_path: Path, store: Store) -> None:
    manifest = write_squares(tmp_path / "squares", groups=6)
    if not val:  # the first fold stands in for it
        entries = [
            entry if entry.split == "test" else replace(entry, split="train")
            for entry in read_manifest(manifest).entries
        ]
        write_manifest(entries, manifest)
    write_experiment(tmp_path / "forest.toml", "forest", manifest)
    ended = run("tune", write_forest_study(tmp_path, BY_FOLD), "--json")
    answer = json.loads(ended.stdout)
    number = answer["best"]["number"]
    assert "training the models of 1 kept trial …" in ended.stderr
    assert re.search(rf"trial {number} trained, \d+\.\d s \(1 of 1\)", ended.stderr)
    opened = find_study("study", store)
    kept = [row for row in opened.rows() if opened.attempt(row.number).model.is_dir()]
    assert [row.number for row in kept] == [answer["best"]["number"]]
    attempt = opened.attempt(kept[0].number)
    outcome = attempt.outcome()
    assert outcome is not None
    assert 0 <= outcome.metrics["final/val/macro_f1"] <= 1
    assert outcome.metrics["val/macro_f1"] == pytest.approx(
        (outcome.metrics["repeat/0/val/macro_f1"] + outcome.metrics["repeat/1/val/macro_f1"]) / 2
    )
    assert outcome.metrics["latency/p50_ms"] > 0
    by_manifest = {str(entry.clip_path) for entry in read_manifest(manifest).entries if entry.split == "val"}
    first_fold = _judged(attempt.artifacts / "val")
    assert _judged(attempt.artifacts / "final" / "val") == (by_manifest if val else first_fold)
    assert (attempt.artifacts / "projection.png").exists()
    run_id = answer["best"]["run_id"]
    client = Deliverer(store).client
    assert client.get_run(run_id).data.metrics["final/val/macro_f1"] == six_digits(
        outcome.metrics["final/val/macro_f1"]
    )
    assert "projection.png" in {file.path for file in client.list_artifacts(run_id)}
    assert (
        json.loads(run("promote", "study", "--as", "squares", "--accept", "untested", "--json").stdout)[
            "version"
        ]
        == 1
    )


def _judged(folder: Path) -> set[str]:
    return {line.split(",")[0] for line in (folder / "predictions.csv").read_text().splitlines()[1:]}


@pytest.mark.slow
def test_a_model_that_was_not_kept_is_trained_again(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_squares(tmp_path / "squares", groups=6)
    write_experiment(tmp_path / "forest.toml", "forest", manifest)
    run("tune", write_forest_study(tmp_path))
    opened = find_study("study", store)
    dropped = next(row.number for row in opened.rows() if not opened.attempt(row.number).model.is_dir())
    run_id = Deliverer(store).receipt(opened.attempt(dropped)).run_id

    def killed(_attempt: Attempt, _metrics: Mapping[str, float]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Attempt, "add_metrics", killed)
        train_model(opened.attempt(dropped), None)
    assert not opened.attempt(dropped).model.exists()  # with a model, it would never get its figures
    refused = run("promote", run_id, "--as", "squares", "--json", expect=2)
    assert "was not kept; --yes trains it again" in refused.stderr
    answer = json.loads(
        run("promote", run_id, "--as", "squares", "--yes", "--accept", "untested", "--json").stdout
    )
    assert answer["run_id"] == run_id
    outcome = opened.attempt(dropped).outcome()
    assert outcome is not None
    assert outcome.metrics["final/val/loss"] == outcome.metrics["val/loss"]  # the same seed, the same model
    clip = sorted((tmp_path / "squares/right").iterdir())[2]
    assert json.loads(run("predict", "squares@champion", clip, "--json").stdout)[0]["error"] is None
    shutil.rmtree(opened.attempt(dropped).model)
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(lines[:-1]) + "\n")
    gone = run("promote", run_id, "--as", "squares", "--yes", expect=2)
    assert "are not those any more that this trial was made from" in gone.stderr
