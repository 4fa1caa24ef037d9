"""The page of a comparison: its tables, figures and pictures, for each set of clips."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.comparison.fabricated import comparison_of, measured_of, report_of, run
from tests.pages import Page, read_page, trace
from vidclf.comparison.baselines import Baselines
from vidclf.comparison.data import Comparison, build
from vidclf.comparison.figures import confusion, learning_curves, pareto, projections, roc
from vidclf.comparison.gathering import gather
from vidclf.comparison.learning_curve import LearningCurve
from vidclf.comparison.page import leaderboard, write_page
from vidclf.comparison.rows import EvaluationClips, ModelRow, RowGroup
from vidclf.evaluation.chance import Chance
from vidclf.evaluation.intervals import Interval
from vidclf.evaluation.ranking import FILE_LATENCY, FIT_SECONDS, LATENCY, PEAK_MEMORY, SIZE
from vidclf.reports.charts import COLOURS
from vidclf.reports.tables import BarCell, MarkedCell
from vidclf.runs.folder import Attempt
from vidclf.runs.store import Store
from vidclf.search.record.settings import Gates

ROW = ModelRow("s", 0, "complete", "svm", "svm", 0.9, {"model.C": 0.5}, {SIZE: 1.0, LATENCY: 1.0})


def page_of(comparison: Comparison, folder: Path) -> Page:
    write_page(comparison, folder / "page.html")
    return read_page(folder / "page.html")


def grouped(*rows: ModelRow, metric: str = "val/macro_f1", direction: str = "maximize") -> RowGroup:
    return RowGroup(EvaluationClips("c", ""), metric, direction, rows, {})


def test_the_table_shades_the_front_and_marks_what_to_ship() -> None:
    slower = replace(
        ROW,
        number=1,
        value=0.8,
        metrics={
            **{SIZE: 2.0, LATENCY: 3.0, FILE_LATENCY: 4.0, "val/accuracy": 0.75},
            **{FIT_SECONDS: 12.34, PEAK_MEMORY: 456.7},
        },
    )
    pruned = replace(ROW, number=2, state="pruned", value=None, metrics={})
    large = replace(ROW, number=3, base="<x>", model="tiny", network="net", feasible=False)
    published = ModelRow(
        "", 0, "published", "p", "volume3d", None, {}, {"test/accuracy": 0.99}, origin="published", source="A"
    )
    report = report_of(grouped(ROW, slower, pruned, large), measured_of())
    reached = replace(report, intervals={id(ROW): Interval(0.9, 0.7, 0.98)})
    table = leaderboard(reached, [ROW, slower, pruned, large, published])
    assert table.headings == [
        "rank",
        "model",
        "macro F1",
        "95 % interval",
        "accuracy",
        "ms a clip",
        "ms a file",
        "MB",
        "s to train",
        "MB to train",
        "searched values",
    ]

    def cell(name: str, note: str, colour: str = "transparent") -> MarkedCell:
        return MarkedCell(name, colour, note)

    blue, outside = COLOURS[0], "outside a constraint"
    first, second = cell("svm", "trial 0 of s", blue), cell("svm", "trial 1 of s", blue)
    third, fourth = cell("svm", "trial 2 of s, pruned", blue), cell("tiny net", f"trial 3 of s, {outside}")
    bar = BarCell("0.70 to 0.98", 0.7, 0.9, 0.98)
    assert table.rows == [
        (
            "front best",
            ["1", first, "0.9000", bar, "–", "1.0", "–", "1.00", "–", "–", "C 0.5"],
        ),
        ("", ["2", second, "0.8000", "–", "0.750", "3.0", "4.0", "2.00", "12.3", "457", "C 0.5"]),
        ("", ["", third, "–", "–", "–", "–", "–", "–", "–", "–", "C 0.5"]),
        ("", ["", fourth, "0.9000", "–", "–", "1.0", "–", "1.00", "–", "–", "C 0.5"]),
        (
            "base",
            ["", cell("volume3d", "published, p"), "–", "–", "0.990 (test)", "–", "–", "–", "–", "–", "A"],
        ),
    ]
    assert table.left == {"model", "searched values"}
    sure = replace(ROW, metrics={"abstain/coverage": 0.749, "abstain/error": 0.055})
    answers = leaderboard(report, [sure, slower])
    assert answers.headings[5] == "answers, of these wrong"
    assert [cells[5] for _, cells in answers.rows] == ["75%, 5.5%", "–"]


@pytest.mark.slow
def test_a_long_table_says_how_much_is_left_out(made: tuple[Store, Path], tmp_path: Path) -> None:
    rows = [replace(ROW, number=number, study=f"s{number}") for number in range(201)]
    board = page_of(comparison_of(made[0], grouped(*rows), measured_of()), tmp_path)["Side by side"]
    assert len(board.table) == 200
    assert board.text.endswith("are not ranked. 1 more are in the CSV file.")


@pytest.mark.slow
def test_a_page_of_one_set_of_clips(made: tuple[Store, Path], tmp_path: Path) -> None:
    comparison = build(["s"], made[0], metric=None, every=True)
    curve = LearningCurve(
        comparison.reports[0].group.ranked[0], "val/macro_f1", (2, 4), [[0.5, 0.7], [0.6, 0.8]], None
    )
    comparison = replace(comparison, reports=[replace(comparison.reports[0], learning_curves=[curve])])
    page = page_of(comparison, tmp_path)
    assert page.loads == []
    assert page.headings == [
        "Which classifier to ship",
        "What accuracy costs",
        "Good enough?",
        "What it gets wrong",
        "What would help most",
        "How sure this is",
        "Side by side",
        "What each confuses",
        "How well each tells a class from the rest",
        "Clips that all 2 families get wrong",
        "Labels to look at",
        "Would more clips help?",
        "Not shown",
    ]
    assert comparison.reports[0].answer.headline in page["Side by side"].texts
    assert page["Good enough?"].texts[0].startswith("Its study asks for nothing")
    assert page["What would help most"].texts[1:3] == [
        "1 label that looks wrong: vidclf review s goes through them.",
        curve.words,
    ]
    notes = comparison.reports[0].notes
    assert page["How sure this is"].texts == [*notes[:5], "1 more", *notes[5:]]
    assert [row["model"] for row in page["Side by side"].table][:2] == [
        "svm trial 0 of s",
        "svm trial 1 of s",
    ]
    costs, confused, growth = (
        page[heading].figures[0]
        for heading in ("What accuracy costs", "What each confuses", "Would more clips help?")
    )
    assert costs.layout.xaxis.title.text == "ms a clip (p50)"
    assert [each.type for each in confused.data] == ["heatmap", "heatmap"]
    assert growth.layout.xaxis.title.text == "training groups"
    assert page["Would more clips help?"].texts == [curve.words]
    wrong, doubts = page["Clips that all 2 families get wrong"], page["Labels to look at"]
    assert wrong.texts[0].startswith("1 of 4 val clips, the surest mistakes first.")
    assert wrong.pictures == doubts.pictures == ["v_down_g05_c00.avi"]
    assert wrong.texts[1:3] == ["down, called right", "what each model says"]
    said = [each.split(":")[1] for each in wrong.texts[3:5]]
    assert sorted(said) == [" right 80 %", " right 90 %"]
    assert wrong.texts[5:] == ["v_down_g05_c00.avi, group g05"]
    assert doubts.texts[0].startswith("1 of 4 clips: models that were not trained on them find")
    assert doubts.texts[1] == "labelled down (15 %), rather right (85 %)?"
    assert page["Not shown"].texts == [
        "What each decides on: No kept model has its projection on disk.",
        "Which values mattered in s: Needs 10 complete trials of a base with different values.",
    ]


def test_what_is_not_known_is_said(made: tuple[Store, Path], tmp_path: Path) -> None:
    page = page_of(comparison_of(made[0], grouped(replace(ROW, metrics={})), measured_of()), tmp_path)
    assert page["Not shown"].texts == [
        "What accuracy costs: Needs a finished model whose size or latency is known.",
        "What each confuses: No predictions are on disk.",
        "How well each tells a class from the rest: No probabilities are on disk.",
        "What each decides on: No kept model has its projection on disk.",
        "Would more clips help? Not measured: vidclf compare --learning-curve trains each family on ever "
        "more of the groups.",
    ]
    assert page.headings[-1] == "Not shown"
    assert page.figures == []


@pytest.mark.slow
def test_clips_without_mistakes_and_without_files(made: tuple[Store, Path], tmp_path: Path) -> None:
    group = gather(["s"], made[0])[0]
    attempt = Attempt(tmp_path / "right")
    (attempt.artifacts / "val").mkdir(parents=True)
    columns = "clip_path,group,label,predicted,confidence,probability/a,probability/b"
    table = f"{columns}\ngone.avi,gone.avi,a,{{}},0.9,{{}}\n"
    heading, right = "Clips that the one model gets wrong", "No val clip of 1 is got wrong by every family."
    for predicted, probabilities, texts in (
        ("a", "0.9,0.1", []),
        ("b", "0.1,0.9", ["no picture", "a, called b", "what each model says", "svm: b 90 %", "gone.avi"]),
    ):
        (attempt.artifacts / "val" / "predictions.csv").write_text(table.format(predicted, probabilities))
        alone = replace(group, rows=[replace(ROW, attempt=attempt)], studies={})
        page = page_of(comparison_of(made[0], alone, measured_of()), tmp_path)
        assert (heading in page.headings) == bool(texts) == (right not in page["Not shown"].texts)
        if texts:
            assert page[heading].texts[-5:] == texts
        assert page["Not shown"].texts[-1] == "None of 1 labels looks wrong."


def test_names_are_text_on_the_page(made: tuple[Store, Path], tmp_path: Path) -> None:
    row = ModelRow("<b>s</b>", 0, "complete", "<i>", "svm", 0.9, {"a<b": 1}, {SIZE: 1.0, LATENCY: 1.0})
    group = RowGroup(EvaluationClips("<u>", ""), "val/macro_f1", "maximize", [row], {})
    page = page_of(comparison_of(made[0], group, measured_of()), tmp_path)
    assert page["Which classifier to ship"].texts[0] == "<u>"
    (row,) = page["Side by side"].table
    assert (row["model"], row["searched values"]) == ("svm trial 0 of <b>s</b>", "a<b 1")
    hover = page["What accuracy costs"].figures[0].data[1].hovertext[0]
    assert "&lt;b&gt;s&lt;/b&gt;" in hover
    assert hover.endswith("a&lt;b 1")


@pytest.mark.parametrize(("metric", "better"), [("val/macro_f1", "up"), ("val/loss", "down")])
def test_the_page_says_which_way_is_better(
    made: tuple[Store, Path], tmp_path: Path, metric: str, better: str
) -> None:
    group = grouped(ROW, metric=metric, direction="maximize" if better == "up" else "minimize")
    text = page_of(comparison_of(made[0], group, measured_of()), tmp_path)["What accuracy costs"].text
    assert f"; {better} and to the left is better" in text


def test_facts_stand_above_all(made: tuple[Store, Path], tmp_path: Path) -> None:
    floor = ModelRow("", 0, "complete", "", "majority", 0.25, {}, {}, origin="majority")
    measured = Baselines(measured_of(8).counts, floor, [], [])
    texts = page_of(comparison_of(made[0], grouped(ROW), measured), tmp_path).sections[1].texts
    assert texts[-6:] == [
        "0.900macro F1 selected on val",
        "1.0ms a clip",
        "1.00MB",
        "1models compared",
        "8clips judged on",
        "0.250most frequent class",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("beside")
def test_the_command_writes_the_page_and_delivers_it(made: tuple[Store, Path], tmp_path: Path) -> None:
    page, table = tmp_path / "new" / "compare.html", tmp_path / "rows.csv"
    result = run(made, "--to", page, "--csv", table)
    read = read_page(page)
    assert read.loads == []
    assert read.headings.count("Side by side") == 2
    assert read.sections[1].texts[0].startswith("2 sets of clips, each with its own ranking")
    assert "Ship none of these: no better than chance. The best, trial 0 of s (svm:" in read.text
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert rows[0]["val/macro_f1"] == "0.9"
    (kept,) = (made[0].attempts / "compare").iterdir()
    assert (kept / "artifacts" / "compare.html").read_bytes() == page.read_bytes()
    tags = Attempt(kept).identity().tags
    assert tags["vidclf.role"] == "compare"
    assert json.loads((kept / "delivery.json").read_text())["run_id"] in result.stderr


SVM, TINY = COLOURS[:2]


def row(number: int, model: str, value: float, ms: float, mb: float) -> ModelRow:
    metrics = {LATENCY: ms, SIZE: mb}
    return ModelRow("s", number, "complete", model, model, value, {"model.C": 0.5}, metrics)


ROWS = (
    row(0, "svm", 0.9, ms=40.0, mb=2.0),
    row(1, "svm", 0.85, ms=50.0, mb=2.0),
    row(2, "tiny", 0.8, ms=4.0, mb=0.2),
    row(3, "tiny", 0.6, ms=2.0, mb=0.2),
    row(4, "tiny", 0.7, ms=20.0, mb=0.4),
)


def test_pareto_draws_each_family_its_front_and_the_best_for_at_most_so_much() -> None:
    floor = ModelRow("", 0, "complete", "", "majority", 0.33, {}, {}, origin="majority")
    figure = pareto(grouped(*ROWS), floor)
    assert figure is not None
    markers = [each for each in figure.data if each.mode == "markers"]
    drawn = {
        (each.name, each.marker.symbol, each.xaxis): (each.x, each.y, each.marker.color) for each in markers
    }
    assert drawn == {
        ("svm", None, "x"): ((50.0,), (0.85,), SVM),
        ("svm", "diamond", "x"): ((40.0,), (0.9,), SVM),
        ("tiny", None, "x"): ((20.0,), (0.7,), TINY),
        ("tiny", "diamond", "x"): ((4.0, 2.0), (0.8, 0.6), TINY),
        ("svm", None, "x2"): ((2.0,), (0.85,), SVM),
        ("svm", "diamond", "x2"): ((2.0,), (0.9,), SVM),
        ("tiny", None, "x2"): ((0.4,), (0.7,), TINY),
        ("tiny", "diamond", "x2"): ((0.2, 0.2), (0.8, 0.6), TINY),
    }
    assert [each.showlegend for each in markers] == [True, False, True, False, False, False, False, False]
    best = trace(figure, "best so far")
    assert (best.x, best.y) == ((2.0, 4.0, 20.0, 40.0), (0.6, 0.8, 0.8, 0.9))
    assert trace(figure, "best so far", "x2").x[-1] == 2.0
    layout = figure.layout
    assert (layout.xaxis.title.text, layout.xaxis2.title.text) == ("ms a clip (p50)", "MB")
    assert layout.yaxis.title.text == "macro F1"
    assert (layout.xaxis.type, layout.xaxis2.type) == ("log", "linear")
    assert {(line.y0, line.y1, line.line.dash) for line in layout.shapes} == {(0.33, 0.33, "dot")}
    assert markers[0].hovertext == (
        "<b>svm</b>, trial 1 of s<br>value 0.8500<br>50.0 ms a clip, 2.00 MB<br>model.C 0.5",
    )


def test_pareto_draws_intervals_chance_and_what_the_gates_ask() -> None:
    gates = Gates(min={"test/macro_f1": 0.7}, max={LATENCY: 30.0, SIZE: 1.0})
    reached = {id(ROWS[0]): Interval(0.88, 0.6, 0.97), id(ROWS[2]): Interval(0.8, 0.5, 0.9)}
    figure = pareto(grouped(*ROWS), None, reached=reached, chance=Chance(5, 0.4, 0.01), gates=gates)
    assert figure is not None
    bar = trace(figure, "svm, interval")
    assert (bar.x, bar.y, bar.error_y.color) == ((40.0,), (0.88,), SVM)
    assert (bar.error_y.array, bar.error_y.arrayminus) == (pytest.approx((0.09,)), pytest.approx((0.28,)))
    assert trace(figure, "tiny, interval", "x2").x == (0.2,)
    lines = {(each.x0, each.y0, each.line.dash, each.xref.split()[0]) for each in figure.layout.shapes}
    assert {line for line in lines if line[3] == "x"} == {
        (0, 0.4, "dashdot", "x"),
        (0, 0.7, "dash", "x"),
        (30.0, 0, "dash", "x"),
    }
    assert (1.0, 0, "dash", "x2") in lines


def test_roc_has_a_panel_for_each_class_and_a_line_for_each_family(tmp_path: Path) -> None:
    def judged(row: ModelRow, first: Sequence[float]) -> ModelRow:
        made = with_predictions(row, tmp_path, "aabb", "aabb")
        table = pd.DataFrame({"label": list("aabb"), "probability/a": first})
        table["probability/b"] = 1 - table["probability/a"]
        assert made.attempt is not None
        table.to_csv(made.attempt.artifacts / "val" / "predictions.csv", index=False)
        return made

    figure = roc([judged(ROWS[0], [0.9, 0.8, 0.2, 0.1]), judged(ROWS[2], [0.9, 0.3, 0.6, 0.1]), ROWS[1]])
    assert figure is not None
    assert [title.text for title in figure.layout.annotations] == ["a", "b"]
    svm, tiny = trace(figure, "svm"), trace(figure, "tiny")
    assert (svm.hovertemplate, tiny.hovertemplate) == (
        "area under the curve 1.000",
        "area under the curve 0.750",
    )
    assert list(zip(tiny.x, tiny.y, strict=True)) == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    assert (svm.line.color, tiny.line.color) == (SVM, TINY)
    guess = figure.data[0]
    assert (guess.x, guess.y) == ((0, 1), (0, 1))
    assert figure.layout.yaxis.title.text == "share of the class found"
    assert roc([ROWS[1]]) is None


def test_projections_show_each_family_with_val_as_diamonds(tmp_path: Path) -> None:
    first, second = (with_predictions(each, tmp_path, "ab", "ab") for each in (ROWS[0], ROWS[2]))
    for row, sign in ((first, 1), (second, -1)):
        table = {"split": ["train", "train", "val"], "label": list("aba"), "x": [sign, 2, 3], "y": [4, 5, 6]}
        assert row.attempt is not None
        clips = pd.DataFrame({"clip_path": ["d/1.avi", "d/2.avi", "d/3.avi"], **table})
        clips.to_csv(row.attempt.artifacts / "projection.csv", index=False)
    figure = projections([first, ROWS[1], second])
    assert figure is not None
    assert [title.text for title in figure.layout.annotations] == ["svm", "tiny"]
    drawn = {
        (each.name, each.xaxis): (each.x, each.y, tuple(each.marker.symbol), each.text)
        for each in figure.data
    }
    assert drawn["a", "x"] == ((1, 3), (4, 6), ("circle", "diamond"), ("1.avi", "3.avi"))
    assert drawn["a", "x2"][0] == (-1, 3)
    assert drawn["b", "x2"][2] == ("circle",)
    assert [each.showlegend for each in figure.data] == [True, True, False, False]
    assert projections([ROWS[0]]) is None


def test_pareto_of_a_loss_goes_down() -> None:
    figure = pareto(grouped(*ROWS, metric="val/loss", direction="minimize"), None)
    assert figure is not None
    best = trace(figure, "best so far")
    assert (best.x, best.y) == ((2.0,), (0.6,))
    (front,) = [
        each for each in figure.data if each.marker.symbol == "diamond" and each.xaxis == "x" and each.x
    ]
    assert (front.name, front.x) == ("tiny", (2.0,))
    assert len(figure.layout.shapes) == 0


def test_the_settings_of_a_single_run_are_not_listed_under_the_pointer() -> None:
    figure = pareto(grouped(replace(ROWS[0], origin="run", base="mine")), None)
    assert figure is not None
    assert figure.data[1].hovertext == ("<b>svm</b>, run mine<br>value 0.9000<br>40.0 ms a clip, 2.00 MB",)


def test_without_costs_there_is_no_pareto_figure() -> None:
    assert pareto(grouped(replace(ROWS[0], metrics={})), None) is None


def with_predictions(row: ModelRow, folder: Path, labels: str, predicted: str) -> ModelRow:
    attempt = Attempt(folder / str(row.number))
    (attempt.artifacts / "val").mkdir(parents=True)
    clips = [f"{number}.avi" for number in range(len(labels))]
    table = {"clip_path": clips, "label": list(labels), "predicted": list(predicted)}
    pd.DataFrame(table).to_csv(attempt.artifacts / "val" / "predictions.csv", index=False)
    return replace(row, attempt=attempt)


def test_confusion_counts_true_classes_in_rows(tmp_path: Path) -> None:
    first = with_predictions(ROWS[0], tmp_path, "aaab", "aabb")
    second = with_predictions(ROWS[2], tmp_path, "aaab", "caab")
    figure = confusion([first, ROWS[1], second])
    assert figure is not None
    svm, tiny = figure.data
    np.testing.assert_array_equal(svm.customdata, [[2, 1, 0], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(tiny.customdata, [[2, 0, 1], [0, 1, 0], [0, 0, 0]])
    assert svm.x == svm.y == tiny.x == ("a", "b", "c")
    assert [title.text for title in figure.layout.annotations] == ["svm · 0.900", "tiny · 0.800"]
    assert confusion([ROWS[1]]) is None


def test_learning_curves_draw_every_draw_and_their_means() -> None:
    scores = [[0.4, 0.5, 0.9], [0.6, 0.7, 0.8]]
    curves = [
        LearningCurve(ROWS[0], "val/macro_f1", (2, 4), scores, None),
        LearningCurve(ROWS[2], "val/macro_f1", (2, 4), [[0.1] * 3, [0.2] * 3], None),
    ]
    figure = learning_curves(curves)
    draws, means, _, others = figure.data
    assert (draws.x, draws.y) == ((2, 2, 2, 4, 4, 4), (0.4, 0.5, 0.9, 0.6, 0.7, 0.8))
    assert (means.x, means.y) == ((2, 4), pytest.approx((0.6, 0.7)))
    assert others.y == pytest.approx((0.1, 0.2))
    assert (draws.mode, means.mode) == ("markers", "lines+markers")
    assert (means.name, others.name) == ("svm, trial 0 of s", "tiny, trial 2 of s")
    assert (draws.marker.color, means.line.color, others.line.color) == (SVM, SVM, TINY)
    layout = figure.layout
    assert (layout.xaxis.title.text, layout.yaxis.title.text) == ("training groups", "macro F1")
