"""The figures of a comparison draw its rows: places, colours and titles are read from their traces."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.pages import trace
from vidclf.comparison.learning_curve import LearningCurve
from vidclf.comparison.page import confusion, learning_curves, pareto
from vidclf.comparison.rows import EvaluationClips, ModelRow, RowGroup
from vidclf.evaluation.ranking import LATENCY, SIZE
from vidclf.reports.charts import COLOURS
from vidclf.runs.folder import Attempt

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


def group(
    rows: Sequence[ModelRow] = ROWS, metric: str = "val/macro_f1", direction: str = "maximize"
) -> RowGroup:
    return RowGroup(EvaluationClips("c", ""), metric, direction, rows, {})


def test_pareto_draws_each_family_its_front_and_the_best_for_at_most_so_much() -> None:
    floor = ModelRow("", 0, "complete", "", "majority", 0.33, {}, {}, origin="majority")
    figure = pareto(group(), floor)
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


def test_pareto_of_a_loss_goes_down() -> None:
    figure = pareto(group(metric="val/loss", direction="minimize"), None)
    assert figure is not None
    best = trace(figure, "best so far")
    assert (best.x, best.y) == ((2.0,), (0.6,))
    (front,) = [
        each for each in figure.data if each.marker.symbol == "diamond" and each.xaxis == "x" and each.x
    ]
    assert (front.name, front.x) == ("tiny", (2.0,))
    assert len(figure.layout.shapes) == 0


def test_the_settings_of_a_single_run_are_not_listed_under_the_pointer() -> None:
    figure = pareto(group([replace(ROWS[0], origin="run", base="mine")]), None)
    assert figure is not None
    assert figure.data[1].hovertext == ("<b>svm</b>, run mine<br>value 0.9000<br>40.0 ms a clip, 2.00 MB",)


def test_without_costs_there_is_no_pareto_figure() -> None:
    assert pareto(group([replace(ROWS[0], metrics={})]), None) is None


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
        LearningCurve(ROWS[0], "val/macro_f1", (2, 4), scores),
        LearningCurve(ROWS[2], "val/macro_f1", (2, 4), [[0.1] * 3, [0.2] * 3]),
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
