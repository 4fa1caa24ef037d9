"""Plotly figures that several pages share, and the look of all of them."""

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from plotly.graph_objects import Figure, Heatmap, Scatter
from plotly.subplots import make_subplots

from vidclf.evaluation import ranking
from vidclf.evaluation.metrics import class_shares
from vidclf.evaluation.ranking import LATENCY, SIZE, Row, TrialRow

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5c00", "#444444")
"""Apart for the colour-blind too (Okabe and Ito, 2008), the palest replaced by darker ones."""
_COST_TITLES = {LATENCY: "ms a clip (p50)", SIZE: "MB"}
_MAX_XTICKS, _MAX_YTICKS = 12, 8
"""Ticks on a logarithmic axis as wide or as high as a figure, at most."""
_MAX_WHOLE_RANGE = 10
"""Range of whole numbers up to which each has a tick; Plotly's own ten at most are then whole."""
_MAX_ANNOTATED_CLASSES = 12
"""Classes up to which the cells of a confusion matrix carry their counts."""
_MAX_COLUMNS = 3
"""Confusion matrices beside each other."""


def apply_theme(figure: Figure) -> Figure:
    """Gives a figure the look that all share, but for Plotly's template."""
    for axes, most in ((figure.select_xaxes, _MAX_XTICKS), (figure.select_yaxes, _MAX_YTICKS)):
        for axis in axes({"type": "log"}):
            low, high = axis.domain or (0, 1)
            ticks = _log_ticks(_positive_values(figure, axis), round(most * (high - low)))
            axis.update(tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks] if ticks else None)
    return figure.update_layout(
        title=None,
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#1c1c1c"},
        hoverlabel={"bgcolor": "white", "align": "left"},
        margin={"l": 70, "r": 30, "t": figure.layout.margin.t or 30, "b": 50},
        colorway=COLOURS,
    )


def _positive_values(figure: Figure, axis: Any) -> list[float]:
    """The positive values that a figure has on one of its axes."""
    letter, number = axis.plotly_name[0], axis.plotly_name[len("xaxis") :]
    on_axis = [
        trace[letter]
        for trace in figure.data
        if f"{letter}axis" in trace and (trace[f"{letter}axis"] or letter) == letter + number
    ]
    return [value for values in on_axis if values is not None for value in values if value and value > 0]


def _log_ticks(values: Sequence[float], most: int) -> list[float] | None:
    """At most ``most`` round numbers to label in full, where Plotly writes the 2 and 5 between powers.

    ``None`` where fewer than two of them are among the positive ``values``, for Plotly to choose.
    """
    if not values:
        return None
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps, apart in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3)):
        ticks = [float(f"{step}e{power}") for power in powers if power % apart == 0 for step in steps]
        if 2 <= sum(low <= tick <= high for tick in ticks) <= most:
            return ticks
    return None


def axis_type(values: Sequence[float]) -> str:
    """``log`` where the largest value is more than ten times the smallest, else ``linear``."""
    return "log" if min(values) > 0 and max(values) > 10 * min(values) else "linear"


def whole_number_ticks(numbers: Sequence[int]) -> dict[str, Any]:
    """Ticks of an axis of these numbers, at least one: each whole one where Plotly would also name halves."""
    low, high = min(numbers), max(numbers)
    return {"tickvals": list(range(low, high + 1))} if high - low <= _MAX_WHOLE_RANGE else {}


def series_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each series of a page, in their order."""
    return dict(zip(names, itertools.cycle(COLOURS)))


def hover_text(name: str, which: str, row: TrialRow, params: Mapping[str, Any]) -> str:
    """What is shown of a trial or run under the pointer, as Plotly's subset of HTML."""
    lines: list[str] = [Markup("<b>{}</b>, {}").format(name, which)]
    lines += [f"value {row.value:.4f}"] if row.value is not None else []
    lines += [ranking.cost_words(row.metrics), *(f"{key} {ranking.short(params[key])}" for key in params)]
    return str(Markup("<br>").join(filter(None, [*lines, row.reason[:80]])))


def points(
    rows: Sequence[Row],
    x: Sequence[float],
    name: str,
    colour: str,
    hover: Callable[[Row], str],
    **marker: Any,
) -> Scatter:
    """Values of trials or runs as markers of one colour; hidden where there are none."""
    return Scatter(
        x=x,
        y=[row.value for row in rows],
        mode="markers",
        marker={"color": colour, "size": 8, **marker},
        name=name,
        legendgroup=name,
        hovertext=[hover(row) for row in rows],
        hoverinfo="text",
        visible=bool(rows),
    )


def running_best(x: Sequence[float], values: Sequence[float], direction: str) -> Scatter:
    """The best value up to each place ``x``, ascending, as a line of steps."""
    better = max if direction == "maximize" else min
    return Scatter(
        x=x,
        y=list(itertools.accumulate(values, better)),
        mode="lines",
        line={"shape": "hv", "color": "#1c1c1c", "width": 1.5},
        name="best so far",
        hoverinfo="skip",
    )


def known_costs(rows: Sequence[TrialRow]) -> list[str]:
    """The metrics that a Pareto figure of these trials or runs has a panel for."""
    return [cost for cost in _COST_TITLES if any(cost in row.metrics for row in rows)]


def pareto(
    rows: Sequence[Row],
    front: Collection[Row],
    *,
    series: Callable[[Row], str],
    colours: Mapping[str, str],
    hover: Callable[[Row], str],
    metric: str,
    numbered: bool = False,
) -> Figure | None:
    """Values over latency and size, a panel each, the Pareto front as large diamonds.

    Args:
        rows: Ranked trials or runs.
        front: Those on the front.
        series: Name of the series that a row belongs to.
        colours: Of each series.
        hover: Text of a row under the pointer.
        metric: Title of the axis of values.
        numbered: Whether the front carries its trials' numbers and a place of its own in the legend.

    Returns:
        ``None`` where no row has a latency or a size.
    """
    costs = known_costs(rows)
    if not costs:
        return None
    figure = make_subplots(1, len(costs), shared_yaxes=True, horizontal_spacing=0.05)
    on_front = {id(row) for row in front}
    diamond = {"size": 15, "symbol": "diamond", "line": {"color": "white", "width": 1.5}}
    for column, cost in enumerate(costs, start=1):
        known = [row for row in rows if cost in row.metrics]
        for (name, colour), best in itertools.product(colours.items(), (False, True)):
            shown = [row for row in known if series(row) == name and (id(row) in on_front) == best]
            label = f"{name}, Pareto front" if best and numbered else name
            x = [row.metrics[cost] for row in shown]
            trace = points(shown, x, label, colour, hover, **(diamond if best else {"opacity": 0.45}))
            if best and numbered:
                numbers = [str(row.number) for row in shown]
                trace.update(mode="markers+text", text=numbers, textposition="top center")
            elif not numbered and not best and not shown:
                # The legend has the series, all of which is on the front, only with a trace that has a point.
                trace.update(x=[None], y=[None], visible=True)
            trace.update(showlegend=column == 1 and (numbered or not best))
            figure.add_trace(trace, row=1, col=column)
        kind = axis_type([row.metrics[cost] for row in known])
        figure.update_xaxes(title=_COST_TITLES[cost], type=kind, row=1, col=column)
    return figure.update_yaxes(title=metric, col=1).update_layout(height=450)


def confusion_matrices(panels: Sequence[tuple[str, NDArray[np.int64]]], classes: Sequence[str]) -> Figure:
    """Clips by true class (rows) and predicted class; the colour is the share of the true class.

    ``panels`` has the title and counts, shape (classes, classes), of each matrix.
    """
    across = min(_MAX_COLUMNS, len(panels))
    down = -(-len(panels) // across)
    figure = make_subplots(
        down,
        across,
        subplot_titles=[title for title, _ in panels],
        shared_yaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=0.34 / down,
    )
    few = len(classes) <= _MAX_ANNOTATED_CLASSES
    for number, (_, counts) in enumerate(panels):
        heatmap = Heatmap(
            z=class_shares(counts),
            x=classes,
            y=classes,
            text=np.where(counts > 0, counts.astype(str), "") if few else None,
            texttemplate="%{text}" if few else None,
            customdata=counts,
            colorscale="Blues",
            zmin=0,
            zmax=1,
            showscale=False,
            xgap=2 if few else 0,
            ygap=2 if few else 0,
            hovertemplate="%{y} called %{x}: %{customdata} clips (%{z:.0%})<extra></extra>",
        )
        figure.add_trace(heatmap, row=number // across + 1, col=number % across + 1)
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    figure.update_xaxes(automargin=True, type="category", tickangle=-35)
    if across < _MAX_COLUMNS:
        figure.update_layout(width=150 + 330 * across)
    edge = max(260, min(620, 130 + 18 * len(classes)))
    return figure.update_layout(height=down * (edge + 90), margin_t=60)
