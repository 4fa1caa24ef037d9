"""The first screen of a comparison: its sentence, the gates, what is confused, and what would help."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.comparison.fabricated import confirmed, measured_of, repeated, report_of
from vidclf.comparison import summary, verdict_text
from vidclf.comparison.data import GroupReport
from vidclf.comparison.label_errors import pool_tables
from vidclf.comparison.rows import EvaluationClips, ModelRow, RowGroup
from vidclf.comparison.verdict_text import answer
from vidclf.evaluation.chance import Chance
from vidclf.evaluation.intervals import Interval
from vidclf.evaluation.predictions import predictions_table
from vidclf.evaluation.ranking import LATENCY, SIZE
from vidclf.registry.confirm_report import FinalistReport
from vidclf.runs.folder import Attempt
from vidclf.search.record.settings import Gates

ROW = ModelRow(
    "s",
    7,
    "complete",
    "svm",
    "svm",
    0.9,
    {},
    {SIZE: 1.5, LATENCY: 12.0, "val/accuracy": 0.93, "val/macro_f1": 0.9},
)


def reported(
    row: ModelRow = ROW, reached: Interval | None = None, chance: Chance | None = None
) -> GroupReport:
    group = RowGroup(EvaluationClips("c", ""), "val/macro_f1", "maximize", [row], {}, floor=0.2)
    report = report_of(group, measured_of())
    said = answer(group, report.baselines, "", chance)
    return replace(report, answer=said, intervals={id(row): reached} if reached else {})


def judged(folder: Path, labels: str, predicted: str) -> ModelRow:
    attempt = Attempt(folder)
    (attempt.artifacts / "val").mkdir(parents=True)
    groups = [f"g{place // 2}" for place in range(len(labels))]
    table = {"label": list(labels), "predicted": list(predicted), "group": groups}
    pd.DataFrame(table).to_csv(attempt.artifacts / "val" / "predictions.csv", index=False)
    return replace(ROW, attempt=attempt)


def test_an_interval_that_holds_chance_is_explained() -> None:
    reached = Interval(0.7, 0.3, 0.9)
    [said] = verdict_text.chance_within(Chance(24, 0.41, 0.001), reached)
    assert "The interval of the best holds 0.41," in said
    assert "(p = 0.001)" in said
    for chance in (Chance(24, 0.41, 0.2), Chance(24, 0.2, 0.001)):
        assert list(verdict_text.chance_within(chance, reached)) == []


@pytest.mark.parametrize(
    ("groups", "ending"), [(3, "3 groups, by vidclf confirm neither: that takes 5."), (15, "")]
)
def test_nobody_is_sent_to_confirm_where_groups_are_too_few(tmp_path: Path, groups: int, ending: str) -> None:
    rows = [repeated(tmp_path / name, ["", "", name], by_fold=True, groups=groups) for name in "ab"]
    group = RowGroup(rows[0].clips, "val/macro_f1", "maximize", rows, {}, floor=0.2)
    said = " ".join(verdict_text.notes(group, measured_of(), [], lambda _: 0))
    assert (f"cannot be said from clips of {ending}" in said) == bool(ending)
    assert ("vidclf confirm tests that." in said) != bool(ending)


def test_the_sentence_names_a_family_its_interval_and_no_trial() -> None:
    assert summary.sentence(reported(reached=Interval(0.9, 0.71, 0.97))) == (
        "Ship svm: macro F1 0.90 (0.71 to 0.97 on new groups, 95 % interval), 12.0 ms a clip, 1.50 MB."
    )
    assert summary.sentence(reported()) == "Ship svm: macro F1 0.90, 12.0 ms a clip, 1.50 MB."
    assert summary.sentence(reported(chance=Chance(3, 0.8, 0.2))) == (
        "Ship none of these: the best is no better than chance."
    )
    below = summary.sentence(reported(replace(ROW, value=0.1)))
    assert below == "Ship none of these: none is better than always saying the most frequent class."
    pruned = summary.sentence(reported(replace(ROW, state="pruned", value=None)))
    assert pruned == "Nothing to ship: no model has finished."
    outside = summary.sentence(reported(replace(ROW, feasible=False)))
    assert outside == "Nothing to ship: no model has finished within its constraints."


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.8, 0.95, "kept"), (0.7, 0.95, "open"), (0.6, 0.79, "missed")]
)
def test_a_gate_on_a_score_is_kept_or_missed_where_the_interval_says_so(
    low: float, high: float, verdict: str
) -> None:
    report = reported(reached=Interval(0.75, low, high))
    asked = Gates(
        min={"test/macro_f1": 0.8, "test/accuracy": 0.5},
        max={SIZE: 1.0, LATENCY: 12.0, "latency/file_p50_ms": 9.0},
    )
    found = {each.asked: (each.found, each.verdict) for each in summary.requirements(report, asked)}
    assert found == {
        "test macro F1 at least 0.8": (f"on val 0.900, {low:.2f} to {high:.2f}", verdict),
        "test accuracy at least 0.5": ("on val 0.930", "open"),
        "size/file_mb at most 1": ("1.5", "missed"),
        "latency/p50_ms at most 12": ("12", "kept"),
        "latency/file_p50_ms at most 9": ("not known", "open"),
    }


def test_of_a_confirmed_model_the_figure_is_that_of_its_interval() -> None:
    row = replace(ROW, confirmed=FinalistReport(0.84, won=True, optimistic=False))
    (each,) = summary.requirements(
        reported(row, Interval(0.84, 0.81, 0.9)), Gates(min={"test/macro_f1": 0.8})
    )
    assert (each.found, each.verdict) == ("by confirm 0.840, 0.81 to 0.90", "kept")


def test_of_a_loss_the_upper_end_keeps_the_gate() -> None:
    row = replace(ROW, value=0.3, metrics={"val/loss": 0.3})
    report = reported(row, Interval(0.3, 0.2, 0.4))
    report = replace(report, group=replace(report.group, metric="val/loss", direction="minimize", floor=1.0))
    for limit, verdict in ((0.4, "kept"), (0.3, "open"), (0.1, "missed")):
        (each,) = summary.requirements(report, Gates(max={"test/loss": limit}))
        assert each.verdict == verdict


def test_mistakes_are_shares_of_the_true_class_the_largest_first(tmp_path: Path) -> None:
    row = judged(tmp_path, "aaaabb", "aabcba")
    assert summary.mistakes(row) == [
        "50% of b is called a: 1 of 2 clips.",
        "25% of a is called b: 1 of 4 clips.",
        "25% of a is called c: 1 of 4 clips.",
    ]
    (floor,) = summary.requirements(reported(row), Gates(class_recall=0.6))
    assert (floor.found, floor.verdict) == ("the lowest on val is that of a, 0.50", "open")
    assert summary.mistakes(ROW) == []


def test_after_a_confirmation_under_two_seeds_each_clip_counts_once(tmp_path: Path) -> None:
    row = replace(confirmed(tmp_path, {0}), confirmed=FinalistReport(0.9, won=True, optimistic=False))
    assert summary.mistakes(row) == ["8% of a is called b: 1 of 12 clips."]


def test_what_would_help_is_groups_labels_and_what_was_not_tried(tmp_path: Path) -> None:
    row = judged(tmp_path, "aaaabb", "aabcba")
    said = list(summary.advice(reported(row, Interval(0.6, 0.3, 0.8)), doubted=2))
    assert [words.partition(":")[0] for words in said] == [
        "Clips of new groups (other people, other places)",
        "2 labels that look wrong",
        "Whether more groups would raise the score",
        "A network",
    ]
    assert "3 groups give a wide interval" in said[0]
    assert "3 groups give no interval" in next(summary.advice(reported(row), doubted=0))
    assert said[1] == "2 labels that look wrong: vidclf review s goes through them."
    network = replace(row, model="frames2d")
    said = list(summary.advice(reported(network, Interval(0.9, 0.85, 0.95)), doubted=0))
    assert [words.partition(":")[0] for words in said][1:] == ["Hand-made features"]


def test_what_is_nearly_wrong_comes_by_how_near_the_second_class_is() -> None:
    given = np.array([[0.5, 0.45, 0.05], [0.2, 0.7, 0.1], [0.35, 0.25, 0.4], [0.6, 0.3, 0.1]])
    paths, labels = [Path(f"{name}.avi") for name in "abcd"], np.array([0, 1, 2, 1])
    table = predictions_table(paths, labels, given, ["p", "q", "r"], ["g"] * 4)
    near = pool_tables([("svm", table)]).borderline()
    assert list(near.index) == ["a.avi", "c.avi", "b.avi"]  # d is wrong
    assert list(near["second"]) == ["q", "p", "p"]
    assert list(near["ahead"]) == pytest.approx([0.05, 0.05, 0.5])
    wrong = predictions_table(paths[3:], labels[3:], given[3:], ["p", "q", "r"], ["g"])
    assert pool_tables([("svm", wrong)]).borderline().empty


def test_of_folds_no_val_is_spoken_of() -> None:
    for folds, words in (("3 folds", "the 3 folds have 40 clips"), ("", "val has 40 clips")):
        group = RowGroup(EvaluationClips("c", "", folds), "val/macro_f1", "maximize", [ROW], {}, floor=0.2)
        said = list(verdict_text.notes(group, measured_of(40), [], lambda _: 0))
        assert any(note.startswith(words) for note in said)
