"""Figures that several pages share draw the values that they are given."""

from typing import Any

import numpy as np
import pytest
from plotly.graph_objects import Figure, Scatter
from plotly.subplots import make_subplots

from tests.pages import trace
from vidclf.evaluation.ranking import LATENCY, SIZE, TrialRow
from vidclf.reports import charts


def row(number: int, base: str, value: float, **metrics: float) -> TrialRow:
    costs = {{"ms": LATENCY, "mb": SIZE}[name]: cost for name, cost in metrics.items()}
    return TrialRow("s", number, "complete", base, "svm", value, {"model.C": 0.5}, costs)


ROWS = [
    row(0, "a", 0.9, ms=9.0, mb=3.0),
    row(1, "a", 0.8, ms=12.0, mb=4.0),
    row(2, "b", 0.7, ms=2.0, mb=1.0),
]
COLOURS = {"a": "red", "b": "blue"}


def pareto(rows: list[TrialRow], front: list[TrialRow], **more: Any) -> Figure | None:
    return charts.pareto(
        rows,
        front,
        series=lambda row: row.base,
        colours=COLOURS,
        hover=lambda row: f"trial {row.number}",
        metric="score",
        **more,
    )


def test_pareto_marks_the_front_of_each_series() -> None:
    figure = pareto(ROWS, [ROWS[0], ROWS[2]])
    assert figure is not None
    drawn = [
        (each.name, each.xaxis, each.x, each.y, each.marker.symbol, each.marker.color, each.showlegend)
        for each in figure.data
    ]
    assert drawn == [
        ("a", "x", (12.0,), (0.8,), None, "red", True),
        ("a", "x", (9.0,), (0.9,), "diamond", "red", False),
        ("b", "x", (None,), (None,), None, "blue", True),  # has its name in the legend all the same
        ("b", "x", (2.0,), (0.7,), "diamond", "blue", False),
        ("a", "x2", (4.0,), (0.8,), None, "red", False),
        ("a", "x2", (3.0,), (0.9,), "diamond", "red", False),
        ("b", "x2", (None,), (None,), None, "blue", False),
        ("b", "x2", (1.0,), (0.7,), "diamond", "blue", False),
    ]
    layout = figure.layout
    assert (layout.xaxis.title.text, layout.xaxis2.title.text) == ("ms a clip (p50)", "MB")
    assert (layout.yaxis.title.text, layout.yaxis2.title.text) == ("score", None)
    assert figure.data[1].hovertext == ("trial 0",)


def test_pareto_numbers_the_front_where_asked() -> None:
    figure = pareto(ROWS, [ROWS[0], ROWS[2]], numbered=True)
    assert figure is not None
    assert trace(figure, "a, Pareto front").text == ("0",)
    assert trace(figure, "b").visible is False


def test_pareto_needs_a_cost() -> None:
    assert pareto([row(0, "a", 0.9)], []) is None
    figure = pareto([row(0, "a", 0.9, mb=3.0), row(1, "a", 0.8)], [], numbered=True)
    assert figure is not None
    assert (figure.layout.xaxis.title.text, trace(figure, "a").x) == ("MB", (3.0,))


@pytest.mark.parametrize(("direction", "best"), [("maximize", (2, 3, 3, 5)), ("minimize", (2, 2, 1, 1))])
def test_the_running_best_is_a_line_of_steps(direction: str, best: tuple[float, ...]) -> None:
    line = charts.running_best([1, 2, 4, 8], [2, 3, 1, 5], direction)
    assert (line.x, line.y, line.line.shape) == ((1, 2, 4, 8), best, "hv")


def test_confusion_has_true_classes_as_rows_and_shares_of_them_as_colours() -> None:
    counts = np.array([[3, 1], [0, 0]])
    figure = charts.confusion_matrices([("first", counts), ("second", counts.T)], ["a", "b"])
    first, second = figure.data
    np.testing.assert_array_equal(first.customdata, counts)
    np.testing.assert_array_equal(first.z, [[0.75, 0.25], [0, 0]])
    np.testing.assert_array_equal(first.text, [["3", "1"], ["", ""]])
    np.testing.assert_array_equal(second.z, [[1, 0], [1, 0]])
    assert first.x == first.y == ("a", "b")
    assert first.hovertemplate.startswith("%{y} called %{x}: %{customdata} clips")
    assert [title.text for title in figure.layout.annotations] == ["first", "second"]
    assert figure.layout.yaxis.autorange == "reversed"  # the first class on top, as in a table


def test_many_classes_are_drawn_without_numbers_and_four_matrices_in_two_rows() -> None:
    names = [f"class {number}" for number in range(13)]
    figure = charts.confusion_matrices([(str(n), np.eye(13, dtype=np.int64)) for n in range(4)], names)
    assert figure.data[0].text is None
    assert [each.yaxis for each in figure.data] == ["y", "y2", "y3", "y4"]
    assert figure.layout.yaxis4.domain[1] < figure.layout.yaxis.domain[0]


def test_hover_text_shows_names_as_they_are() -> None:
    shown = charts.hover_text("<i>", "a & b", ROWS[0], {"model.C": 0.12345, "x": "<u>"})
    assert shown.split("<br>") == [
        "<b>&lt;i&gt;</b>, a &amp; b",
        "value 0.9000",
        "9.0 ms a clip, 3.00 MB",
        "model.C 0.123",
        "x &lt;u&gt;",
    ]
    failed = TrialRow("s", 1, "failed", "a", "svm", None, {}, {}, reason="x" * 100)
    assert charts.hover_text("trial 1", "a", failed, {}) == f"<b>trial 1</b>, a<br>{'x' * 80}"


def labels_of(axis: Any) -> list[str] | None:
    return None if axis.ticktext is None else list(axis.ticktext)


@pytest.mark.parametrize(
    ("latencies", "labels"),
    [
        ((5.0, 200.0), ["5", "10", "20", "50", "100", "200"]),
        ((0.4, 3000.0), ["0.5", "1", "2", "5", "10", "20", "50", "100", "200", "500", "1000", "2000"]),
        ((2.0, 20000.0), ["3", "10", "30", "100", "300", "1000", "3000", "10000"]),
        ((0.1, 100000.0), ["0.1", "1", "10", "100", "1000", "10000", "100000"]),
        ((5.0, 45.0), None),  # no power of ten apart: linear
    ],
)
def test_costs_far_apart_have_labels_in_full(
    latencies: tuple[float, float], labels: list[str] | None
) -> None:
    figure = pareto([row(number, "a", 0.9, ms=ms) for number, ms in enumerate(latencies)], [])
    assert figure is not None
    axis = charts.apply_theme(figure).layout.xaxis
    low, high = latencies
    shown = [label for label in labels_of(axis) or [] if low <= float(label) <= high]
    assert (shown or None, axis.type) == (labels, "log" if labels else "linear")
    assert axis.tickvals is None or [f"{tick:g}" for tick in axis.tickvals] == labels_of(axis)


def test_narrow_logarithmic_axes_have_fewer_labels() -> None:
    figure = make_subplots(2, 4)
    for column, places in enumerate(([0.02, 0.5], [1e-5, 1e-1], [1.8, 2.9], [0.0, -1.0]), start=1):
        figure.add_trace(Scatter(x=places, y=places), row=1, col=column)
        figure.update_xaxes(type="log", row=1, col=column)
    figure.add_trace(Scatter(x=[1, 2], y=[0.01, 10000.0]), row=2, col=1)
    figure.update_yaxes(type="log", row=2, col=1)
    layout = charts.apply_theme(figure).layout
    assert labels_of(layout.xaxis) == ["0.01", "0.03", "0.1", "0.3", "1", "3"]
    assert labels_of(layout.xaxis2) == ["0.0001", "0.01"]
    assert (layout.xaxis3.tickvals, layout.xaxis4.tickvals) == (None, None)
    assert labels_of(layout.yaxis5) == ["1", "1000"]


def test_whole_numbers_have_a_tick_each_where_they_are_few() -> None:
    assert charts.whole_number_ticks([3, 1]) == {"tickvals": [1, 2, 3]}
    assert charts.whole_number_ticks([0, 11]) == {}


def test_series_have_colours_of_their_own_until_these_run_out() -> None:
    names = [str(number) for number in range(len(charts.COLOURS) + 1)]
    colours = charts.series_colours(names)
    assert list(colours) == names
    assert list(colours.values()) == [*charts.COLOURS, charts.COLOURS[0]]
