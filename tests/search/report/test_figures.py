"""The figures of a study draw its trials: places, colours, lines and titles are read from their traces."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial
from plotly.graph_objects import Figure

from tests.pages import trace
from tests.search.report.fabricated import METRIC, START, fabricated_study, fabricated_trial, many_trials
from vidclf.reports.charts import COLOURS
from vidclf.search.report.data import StudyData
from vidclf.search.report.figures import (
    history,
    importances,
    intermediate_values,
    parameter_figures,
    pareto,
    timeline,
)

SVM, TINY = COLOURS[:2]

DataOf = Callable[..., StudyData]


@pytest.fixture
def data_of(tmp_path: Path) -> DataOf:
    """Reads a study of these trials."""

    def made(trials: Iterable[FrozenTrial], **more: Any) -> StudyData:
        return StudyData.of(fabricated_study(tmp_path, trials, **more))

    return made


def first(count: int) -> list[FrozenTrial]:
    return [trial for trial, _ in zip(many_trials(), range(count), strict=False)]


def titles(figure: Figure) -> tuple[str, str]:
    return figure.layout.xaxis.title.text, figure.layout.yaxis.title.text


SIX = (
    fabricated_trial(0, "svm", 0.5),
    fabricated_trial(1, "tiny", 0.8),
    fabricated_trial(2, "svm", 0.6),
    fabricated_trial(3, "tiny", 0.9, end="infeasible", mb=120.0),
    fabricated_trial(4, "svm", 0.5, end="again"),
    fabricated_trial(5, "tiny", 0.85),
)


@pytest.mark.parametrize(
    ("direction", "best"), [("maximize", [0.5, 0.8, 0.8, 0.85]), ("minimize", [0.5, 0.5, 0.5, 0.5])]
)
def test_history_draws_each_value_and_the_best_so_far(
    data_of: DataOf, direction: str, best: list[float]
) -> None:
    figure = history(data_of(SIX, direction=direction))
    line = trace(figure, "best so far")
    assert (line.x, list(line.y)) == ((0, 1, 2, 5), best)
    assert (line.mode, line.line.shape) == ("lines", "hv")
    drawn = {
        each.name: (each.x, each.y, each.marker.color, each.marker.symbol)
        for each in figure.data
        if each.visible and each.name != "best so far"
    }
    assert drawn == {
        "svm": ((0, 2), (0.5, 0.6), SVM, "circle"),
        "tiny": ((1, 5), (0.8, 0.85), TINY, "circle"),
        "tiny, infeasible": ((3,), (0.9,), TINY, "x"),
    }
    assert titles(figure) == ("trial", METRIC)
    assert trace(figure, "tiny").hovertext[0].startswith("<b>trial 1</b>, tiny<br>value 0.8000<br>1.00 MB")


def test_pareto_draws_the_front_over_each_cost_with_its_numbers(data_of: DataOf) -> None:
    trials = [
        fabricated_trial(0, "svm", 0.9, ms=90.0, mb=2.0),
        fabricated_trial(1, "svm", 0.7, ms=95.0, mb=3.0),
        fabricated_trial(2, "tiny", 0.8, ms=5.0, mb=0.5),
        fabricated_trial(3, "tiny", 0.6, ms=6.0, mb=0.6),
    ]
    figure = pareto(data_of(trials))
    assert figure is not None
    for axis, svm, tiny in (("x", (90.0, 95.0), (5.0, 6.0)), ("x2", (2.0, 3.0), (0.5, 0.6))):
        for name, (best, rest), number, values in (
            ("svm", svm, "0", (0.9, 0.7)),
            ("tiny", tiny, "2", (0.8, 0.6)),
        ):
            front, others = trace(figure, f"{name}, Pareto front", axis), trace(figure, name, axis)
            assert (front.x, front.y, front.text) == ((best,), values[:1], (number,))
            assert (others.x, others.y) == ((rest,), values[1:])
            assert (front.marker.symbol, front.mode) == ("diamond", "markers+text")
            assert front.marker.size > others.marker.size
            assert front.marker.color == others.marker.color == {"svm": SVM, "tiny": TINY}[name]
    assert titles(figure) == ("ms a clip (p50)", METRIC)
    assert figure.layout.xaxis2.title.text == "MB"
    assert (figure.layout.xaxis.type, figure.layout.xaxis2.type) == ("log", "linear")


def test_pareto_has_only_the_costs_that_are_known(data_of: DataOf) -> None:
    figure = pareto(data_of([fabricated_trial(0, "svm", 0.9, mb=2.0)]))
    assert figure is not None
    assert figure.layout.xaxis.title.text == "MB"
    assert pareto(data_of([])) is None


def test_curves_are_dotted_where_the_pruner_ended_them(data_of: DataOf) -> None:
    trials = [
        fabricated_trial(0, "tiny", 0.5, steps={2: 0.5, 1: 0.3}),
        fabricated_trial(1, "tiny", 0.4, steps={1: 0.2}, end="pruned"),
        fabricated_trial(2, "svm", 0.6),
        fabricated_trial(3, "tiny", 0.6, steps={1: 0.4}),
    ]
    figure = intermediate_values(data_of(trials))
    assert figure is not None
    whole, pruned = trace(figure, "tiny"), trace(figure, "tiny, pruned")
    assert (whole.x, whole.y) == ((1, 2, None, 1, None), (0.3, 0.5, None, 0.4, None))
    assert (pruned.x, pruned.y) == ((1, None), (0.2, None))
    assert (whole.line.dash, pruned.line.dash) == ("solid", "dot")
    assert whole.line.color == pruned.line.color == TINY
    assert len(figure.data) == 2
    assert titles(figure) == ("epoch", METRIC)
    figure = intermediate_values(data_of(trials, repeats=3))
    assert figure is not None
    assert titles(figure) == ("repeat", METRIC)
    assert intermediate_values(data_of(trials[2:3])) is None


def test_timeline_has_a_bar_for_each_attempt_coloured_by_its_end(data_of: DataOf) -> None:
    ends = ("complete", "failed", "pruned", "large", "interrupted", "complete")
    trials = [fabricated_trial(number, "svm", 0.5, end=end, mb=1.0) for number, end in enumerate(ends)]
    trials[3] = fabricated_trial(3, "svm", 0.5, end="large", mb=120.0)
    figure = timeline(data_of(trials))
    assert figure is not None
    assert {bars.name: bars.y for bars in figure.data} == {
        "complete": (0, 5),
        "infeasible": (3,),
        "pruned": (2,),
        "failed": (1,),
        "interrupted": (4,),
    }
    assert len({bars.marker.color for bars in figure.data}) == 5
    bars = trace_of_bars(figure, "complete")
    assert list(bars.base) == [START, START + timedelta(seconds=50)]
    assert bars.x == (7500.0, 7500.0)
    assert (bars.orientation, figure.layout.xaxis.type) == ("h", "date")
    assert (figure.layout.yaxis.title.text, figure.layout.yaxis.autorange) == ("trial", "reversed")
    assert timeline(data_of([])) is None


def trace_of_bars(figure: Figure, name: str) -> Any:
    (found,) = figure.select_traces({"name": name})
    return found


def test_what_mattered_is_told_of_each_base_by_itself(data_of: DataOf) -> None:
    data = data_of(first(60))
    figure = importances(data)
    assert figure is not None
    assert [note.text for note in figure.layout.annotations] == ["svm", "tiny"]
    for bars, stem, colour in zip(figure.data, ("svm", "tiny"), (SVM, TINY), strict=True):
        shares = data.importances[stem]
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
        assert (bars.y, bars.x) == (tuple(shares)[::-1], tuple(shares.values())[::-1])  # the last is on top
        assert sum(bars.x) == pytest.approx(1, abs=0.01)
        assert bars.marker.color == colour
        assert bars.text == tuple(f"{share:.0%}" for share in bars.x)
    svm, tiny = (set(bars.y) for bars in figure.data)
    assert svm >= {"model.C", "model.kernel"}
    assert "train.lr" in tiny
    assert not svm & {"train.lr", "base"}
    assert not tiny & {"model.C", "model.kernel", "model.gamma", "base"}


def test_inside_a_base_its_values_stand_against_the_metric(data_of: DataOf) -> None:
    data = data_of(first(50))
    lines, slices, contour = (figure for (figure,) in parameter_figures(data, "tiny").values())
    rows = data.completed("tiny")
    places = [(row.params["train.lr"], row.value) for row in rows]
    (axis,) = slices.select_xaxes({"title.text": "train.lr"})
    drawn = slices.select_traces({"xaxis": axis.plotly_name.replace("axis", "")})
    points = [point for each in drawn for point in zip(each.x, each.y, strict=True)]
    assert sorted(points) == sorted(places)
    assert slices.layout.yaxis.title.text == METRIC
    assert lines.layout.xaxis.ticktext == (METRIC, "data.frames", "train.lr")
    assert {contour.layout.xaxis.title.text, contour.layout.yaxis.title.text} == {"data.frames", "train.lr"}


def test_two_trials_have_no_lines_through_their_values(data_of: DataOf) -> None:
    lines, slices = "Each trial as a line through its values", f"Each value against {METRIC}"
    for count, readings in ((4, [slices]), (6, [lines, slices])):
        found = parameter_figures(data_of(first(count)), "svm")
        assert [reading.partition(",")[0] for reading in found] == readings
        assert [len(drawn) for drawn in found.values()] == [1] * len(readings)


def test_trials_and_epochs_are_labelled_by_whole_numbers(data_of: DataOf) -> None:
    few = data_of(first(4))
    drawn = [
        figure for figure in (history(few), intermediate_values(few), timeline(few)) if figure is not None
    ]
    ((slices,),) = parameter_figures(few, "svm").values()
    assert [figure.layout.xaxis.tickvals for figure in drawn] == [(0, 1, 2, 3), (1, 2), None]
    assert drawn[2].layout.yaxis.tickvals == (0, 1, 2, 3)
    assert slices.data[0].marker.colorbar.tickvals == (0, 1, 2)
    assert history(data_of(first(50))).layout.xaxis.tickvals is None  # Plotly's own are whole
