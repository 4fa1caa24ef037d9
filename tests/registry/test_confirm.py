"""Finalists are judged on clips that did not choose them, and the best on average wins."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tests.attempts import six_digits
from tests.clips import write_experiment, write_squares
from tests.command import run
from vidclf.comparison import label_errors
from vidclf.comparison.gathering import gather
from vidclf.data.manifest import read_manifest
from vidclf.evaluation import metrics
from vidclf.evaluation.ranking import TrialRow
from vidclf.exceptions import InputError
from vidclf.registry import confirm as confirming
from vidclf.registry.confirm import plan
from vidclf.registry.confirm_report import REPORT, Confirmation, Finalist
from vidclf.registry.promote import find_candidate
from vidclf.runs.folder import Attempt
from vidclf.runs.store import Store
from vidclf.search.record.settings import Objective
from vidclf.search.record.study import find_study
from vidclf.tracking.deliverer import Deliverer

STUDY = """
base = ["svm.toml", "majority.toml"]
keep = 2
[objective]
metric = "val/macro_f1"
direction = "maximize"
[budget]
trials = 2
[pruner]
name = "none"
[gates]
max = { "size/file_mb" = 1000 }
[space]
"model.C" = { low = 0.5, high = 2.0 }
"""


def make_study(tmp_path: Path, text: str = STUDY) -> Path:
    manifest = write_squares(tmp_path / "squares", groups=20)
    for kind in ("svm", "majority"):
        write_experiment(tmp_path / f"{kind}.toml", kind, manifest)
    (tmp_path / "study.toml").write_text(text)
    run("tune", tmp_path / "study.toml", "--json")
    return manifest


@pytest.mark.slow
def test_finalists_are_judged_out_of_fold_on_clips_of_train(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_study(tmp_path)
    answer = json.loads(run("confirm", "study", "--top", "2", "--seeds", "2", "--json").stdout)
    opened = find_study("study", store)
    by_base = {each["base"]: each for each in answer["finalists"]}
    assert (answer["winner"], answer["optimistic"]) == (by_base["svm"]["trial"], False)
    assert by_base["majority"]["mean"] == pytest.approx(1 / 3)  # one of two classes, always
    assert len(by_base["svm"]["scores"]) == 1  # no seed changes it
    assert by_base["svm"]["low"] <= by_base["svm"]["mean"] <= by_base["svm"]["high"]
    assert "own weights would ship" in " ".join(answer["notes"])
    assert "verdicts are for clips of new groups, weighed by clips; from 10 groups" in " ".join(
        answer["notes"]
    )

    of_train = sorted(str(e.clip_path) for e in read_manifest(manifest).entries if e.split == "train")
    for finalist in answer["finalists"]:
        attempt = opened.attempt(finalist["trial"])
        table = pd.read_csv(attempt.artifacts / "confirm" / "predictions.csv")
        assert set(table["repeat"]) == {1000}
        for _, part in table.groupby("repeat"):
            assert sorted(part["clip_path"]) == of_train
        first = table[table["repeat"] == 1000]
        labels = np.array([["down", "right"].index(name) for name in first["label"]])
        shares = first[["probability/down", "probability/right"]].to_numpy()
        expected = metrics.evaluate(labels, shares, ["down", "right"])["macro_f1"]
        assert finalist["scores"][0] == pytest.approx(expected)

    client = Deliverer(store).client
    for finalist in answer["finalists"]:  # the newest latency, side by side, is the trial's everywhere
        newest = {name: value for name, value in finalist["figures"].items() if name.startswith("latency/")}
        attempt, row = opened.attempt(finalist["trial"]), opened.rows()[finalist["trial"]]
        kept = client.get_run(str(Deliverer(store).receipt(attempt).run_id)).data.metrics
        for metrics_ in (row.metrics, attempt.outcome().metrics):  # type: ignore[union-attr]
            assert {name: metrics_[name] for name in newest} == pytest.approx(newest)
        assert {name: kept[name] for name in newest} == {
            name: six_digits(value) for name, value in newest.items()
        }
        assert newest["latency/runs"] == 6
        assert newest["latency/p50_low_ms"] <= newest["latency/p50_ms"] <= newest["latency/p50_high_ms"]
    parent = Deliverer(store).receipt(opened.own_attempt).run_id
    own = opened.store.attempt(opened.series, f"confirm-{answer['winner']:05d}")
    mirrored = client.get_run(str(Deliverer(store).receipt(own).run_id))
    assert mirrored.data.tags["mlflow.parentRunId"] == parent
    assert mirrored.data.metrics["confirm/macro_f1"] == pytest.approx(by_base["svm"]["mean"])
    assert mirrored.info.status == "FINISHED"

    monkeypatch.setattr(confirming, "MODELS", {})  # a fit would fail: none is made again
    again = json.loads(run("confirm", "study", "--top", "2", "--seeds", "2", "--json").stdout)
    assert [each["scores"] for each in again["finalists"]] == [each["scores"] for each in answer["finalists"]]
    assert json.loads(run("doctor", "--json").stdout)["problems"] == []
    compared = json.loads(run("compare", "study", "--json").stdout)
    assert (
        f"Ship svm: trial {answer['winner']} of study, confirmed with" in compared["answers"][0]["headline"]
    )
    assert any("At 95 % the best of the 2 is trial" in note for note in compared["notes"])
    pooled = label_errors.pool(gather(["study"], store)[0].ranked, "confirm")
    assert pooled is not None
    assert (list(pooled.table.index), pooled.models) == (of_train, 2)
    promoted = json.loads(run("promote", "study", "--as", "squares", "--json").stdout)
    assert promoted["version"] == 1
    best, other = answer["winner"], by_base["majority"]["trial"]
    assert find_candidate("study", store).label.endswith(", confirmed)")
    stale = {"optimistic": False, "finalists": [{"trial": other, "mean": 0.5}]}
    (opened.own_attempt.artifacts / REPORT).write_text(json.dumps(stale))
    seal = f"confirmed; trial {best} has come since, vidclf confirm judges it)"
    assert find_candidate("study", store).label.endswith(seal)
    assert ["size/file_mb at most", 1000] in [[gate["gate"], gate["limit"]] for gate in promoted["gates"]]


@pytest.mark.long
def test_of_three_finalists_any_may_be_the_best(tmp_path: Path, store: Store) -> None:
    make_study(tmp_path, STUDY.replace("trials = 2", "trials = 3").replace(', "majority.toml"', ""))
    answer = json.loads(run("confirm", "study", "--top", "3", "--seeds", "1", "--json").stdout)
    names = [f"trial {each['trial']}" for each in answer["finalists"]]
    said = next(note for note in answer["notes"] if "best of the 3" in note)
    assert all(name in said for name in names)
    assert [each["may_be_best"] for each in answer["finalists"]] == [True] * 3
    assert all(least == 0 <= most for least, most in (each["behind"] for each in answer["finalists"]))
    assert any("count that the best of 3 is chosen" in note for note in answer["notes"])
    assert not any("name no groups" in note for note in answer["notes"])


def test_clips_without_groups_and_a_busy_machine_are_told_of() -> None:
    row = TrialRow("s", 0, "complete", "svm", "svm", 0.9, {}, {})
    for grouped, load in ((True, 0.3), (False, 0.05)):
        figures, guesses = {"latency/other_load": load}, np.zeros((1, 4), dtype=np.int64)
        found = Finalist(row, Attempt(Path("a")), [0.8], None, figures, guesses)
        notes = Confirmation("s", "macro_f1", "macro_f1", [found], None, found, False, grouped).notes
        assert any("name no groups" in note for note in notes) == (not grouped)
        assert any("other programs used 30 % of the machine" in note for note in notes) == (load > 0.1)


@pytest.mark.slow
def test_after_a_search_by_folds_only_the_seeds_are_new(tmp_path: Path, store: Store) -> None:
    text = STUDY.replace('"maximize"', '"maximize"\nrepeats = 3\nrepeat_by = "fold"')
    manifest = make_study(tmp_path, text)
    answer = json.loads(run("confirm", "study", "--top", "1", "--seeds", "2", "--json").stdout)
    assert answer["optimistic"] is True
    assert answer["finalists"][0]["low"] is None
    assert any("optimistic" in note for note in answer["notes"])
    attempt = find_study("study", store).attempt(answer["winner"])
    table = pd.read_csv(attempt.artifacts / "confirm" / "predictions.csv")
    judged = sorted(table[table["repeat"] == 1000]["clip_path"])
    entries = read_manifest(manifest).entries
    assert judged == sorted(str(entry.clip_path) for entry in entries if entry.split != "test")
    # As the search had it: the mean over its folds.
    classes, means = ["down", "right"], []
    for _, part in table[table["repeat"] == 1000].groupby("fold"):
        labels = part["label"].map(classes.index).to_numpy()
        shares = part[["probability/down", "probability/right"]].to_numpy()
        means.append(metrics.evaluate(labels, shares, classes)["macro_f1"])
    assert (len(means), np.mean(means)) == (3, pytest.approx(answer["finalists"][0]["scores"][0]))


@pytest.mark.long
def test_an_interval_is_not_shown_for_a_metric_that_has_none(tmp_path: Path, store: Store) -> None:
    make_study(tmp_path, STUDY.replace("val/macro_f1", "val/loss").replace("maximize", "minimize"))
    answer = json.loads(run("confirm", "study", "--top", "2", "--seeds", "1", "--json").stdout)
    winner, other = answer["finalists"]
    assert winner["mean"] == winner["scores"][0] < other["mean"]
    assert (answer["metric"], winner["low"], winner["high"]) == ("loss", None, None)
    assert winner["figures"]["confirm/macro_f1_low"] <= winner["figures"]["confirm/macro_f1"]
    assert any(f"trial {other['trial']} by 0." in note for note in answer["notes"])


def test_what_chance_has_no_part_in_is_not_confirmed() -> None:
    objective = Objective(metric="size/file_mb", direction="minimize")
    opened = SimpleNamespace(name="s", objective=objective)
    with pytest.raises(InputError, match="there is nothing to confirm"):
        plan(opened, 1, 1)  # type: ignore[arg-type]


def test_nothing_to_confirm_is_said(tmp_path: Path, store: Store) -> None:
    assert "no study" in run("confirm", "nothing", expect=2).stderr
