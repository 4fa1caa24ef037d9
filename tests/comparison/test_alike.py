"""What is alike is shown once: clips of several folds and sources, models that predict the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.comparison.fabricated import comparison_of, labels, measured_of, report_of
from tests.pages import read_page
from vidclf.comparison import data
from vidclf.comparison.data import build, chance_of, interval_of
from vidclf.comparison.page import confusion, write_page
from vidclf.comparison.rows import EvaluationClips, ModelRow, RowGroup
from vidclf.comparison.verdict_text import answer
from vidclf.evaluation import intervals
from vidclf.evaluation.ranking import LATENCY, SIZE
from vidclf.registry.confirm_report import FinalistReport
from vidclf.runs.folder import Attempt
from vidclf.runs.store import Store

CLIPS = EvaluationClips("c", "")


def judged(folder: Path, number: int, right: str, first: int = 0, part: str = "val") -> Attempt:
    """Predictions of clips of two classes, one a group, from number ``first``; ``x``: wrong."""
    attempt = Attempt(folder / str(number))
    lines = ["clip_path,group,label,predicted,correct,confidence,probability/a,probability/b"]
    for clip, mark in enumerate(right, start=first):
        label = "ab"[clip % 2]
        said = label if mark == "." else "ba"[clip % 2]
        shares = "0.9,0.1" if said == "a" else "0.1,0.9"
        lines.append(f"{clip}.avi,g{clip},{label},{said},{said == label},0.9,{shares}")
    (attempt.artifacts / part).mkdir(parents=True)
    (attempt.artifacts / part / "predictions.csv").write_text("\n".join(lines) + "\n")
    return attempt


def row(number: int, attempt: Attempt, **values: Any) -> ModelRow:
    scores = {"val/accuracy": 0.9}
    made = ModelRow("s", number, "complete", "svm", "svm", 0.9, {}, scores, clips=CLIPS, attempt=attempt)
    return replace(made, **values)


def group_of(*rows: ModelRow) -> RowGroup:
    return RowGroup(CLIPS, "val/accuracy", "maximize", rows, {})


def test_models_that_predict_the_same_are_one_line(tmp_path: Path) -> None:
    first, same, other = (
        row(number, judged(tmp_path, number, says)) for number, says in enumerate(["x...", "x...", ".x.."])
    )
    another = row(3, judged(tmp_path, 3, "x..."), base="logistic", model="logistic")
    report = report_of(group_of(first, same, other, another), measured_of())
    assert labels(report.rows(every=False)) == ["trial 0 of s"]
    assert report.marked(first) == "trial 0 of s, and 2 that predict the same"
    assert report.marked(other) == "trial 2 of s"
    assert len(report.rows(every=True)) == 4
    faster = replace(another, metrics={**another.metrics, SIZE: 1.0, LATENCY: 1.0})
    slower = replace(first, metrics={**first.metrics, SIZE: 0.5, LATENCY: 9.0})
    for rows in ([first, same, replace(another, named=True)], [slower, same, faster]):
        found = report_of(group_of(*rows), measured_of())
        assert "trial 3 of s" in labels(found.rows(every=False)), "asked for, or on the front"


def test_after_a_search_by_folds_every_clip_is_counted(tmp_path: Path) -> None:
    attempt = judged(tmp_path, 0, "..x.")
    for part, says in enumerate([".x..", "...."], start=1):
        judged(tmp_path, 0, says, first=4 * part, part=f"repeats/{part}/val")
    by_folds = row(0, attempt, clips=replace(CLIPS, folds="3 folds"))
    for shown, counts in ((by_folds, ["51", "15"]), (row(0, attempt), ["11", "2"])):
        figure = confusion([shown])
        assert figure is not None
        assert ["".join(line) for line in figure.data[0].text] == counts


def test_the_interval_of_a_score_is_that_of_its_predictions(tmp_path: Path) -> None:
    one_of_20 = row(0, judged(tmp_path, 0, "x" + 19 * "."))
    truth = np.arange(20) % 2
    guesses = truth.copy()
    guesses[0] = 1
    for tries in (1, 3):  # the best of three is chosen by val
        group = group_of(one_of_20, *(row(number, None) for number in range(1, tries)))
        wanted = intervals.interval("accuracy", truth, guesses, np.arange(20), 0.95, tries)
        assert interval_of(one_of_20, replace(group, metric="val/accuracy")) == wanted
    assert interval_of(one_of_20, replace(group, metric="val/loss")) is None
    done = replace(one_of_20, confirmed=FinalistReport(0.8, True, False, 0.7, 0.9))
    assert interval_of(done, group) == intervals.Interval(0.8, 0.7, 0.9)


def test_a_label_in_doubt_by_two_sources_is_one_label(tmp_path: Path, store: Store) -> None:
    attempt = judged(tmp_path, 0, "x.......")
    judged(tmp_path, 0, "x...........", part="confirm")
    page = tmp_path / "page.html"
    write_page(comparison_of(store, group_of(row(0, attempt)), measured_of()), page)
    assert read_page(page)["Labels to look at"].texts[0].startswith("1 of 12 clips:")


def test_what_is_no_better_than_chance_is_not_to_be_shipped(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    rows = [
        row(number, judged(tmp_path, number, "".join(noise.choice([".", "x"], 24))), value=0.9 - number / 100)
        for number in range(10)
    ]
    for good, headline in (
        (False, "Ship none of these: no better than chance."),
        (True, "Ship svm: trial 0"),
    ):
        if good:
            rows[0] = row(0, judged(tmp_path, 99, 24 * "."))
        found = chance_of(group_of(*rows))
        assert found is not None
        assert 0.55 < found.level < 0.75  # of the best of ten on 24 clips of two classes
        said = answer(group_of(*rows), measured_of(), "", found)
        assert said.headline.startswith(headline)
        assert (said.ship is rows[0]) is good


@pytest.mark.slow
def test_one_model_is_to_be_shipped_and_the_other_sets_say_why_not(
    made: tuple[Store, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "chance_of", lambda _: None)  # nothing is told of four clips
    comparison = build([], made[0], metric=None, every=False)
    first, other = comparison.as_dict()["answers"]
    assert first["headline"].startswith("Ship ")
    assert other["headline"].startswith(f"Not comparable with {first['dataset']}: ")
    assert "The best here is " in other["headline"]
    assert sum(each["ship"] for each in comparison.as_dict()["rows"]) == 1
