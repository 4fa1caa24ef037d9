"""The figures of a comparison."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
from plotly.graph_objects import Figure, Scatter

from vidclf.comparison.rows import ModelRow, RowGroup
from vidclf.comparison.verdict_text import metric_words
from vidclf.evaluation import ranking
from vidclf.reports import charts

if TYPE_CHECKING:
    from vidclf.comparison.learning_curve import LearningCurve

_MAX_POINTS = 1000
"""Points in a Pareto figure beside the front, at most."""
_MAX_MATRICES = 6
"""Confusion matrices, at most: those of the best families."""


def family_colours(group: RowGroup) -> dict[str, str]:
    """A colour for each family of models, the best first."""
    return charts.series_colours([row.family for row in group.best])


def pareto(group: RowGroup, baseline: ModelRow | None) -> Figure | None:
    """Score over latency and over size, the Pareto front large and joined, the baseline a dotted line.

    ``None`` where no latency and no size is known.
    """
    on_front = {id(row) for row in group.front}
    rest = ranking.thinned([row for row in group.ranked if id(row) not in on_front], _MAX_POINTS)
    figure = charts.pareto(
        [*rest, *group.front],
        group.front,
        series=lambda row: row.family,
        colours=family_colours(group),
        hover=_hover,
        metric=metric_words(group.metric),
    )
    if figure is None:
        return None
    for column, cost in enumerate(charts.known_costs(group.ranked), start=1):
        figure.add_trace(_best_by_cost(group, cost), row=1, col=column)
        if baseline is not None and baseline.value is not None:
            line = {"dash": "dot", "color": "#888888", "width": 1.5}
            figure.add_hline(baseline.value, line=line, row=1, col=column)
    return figure.update_layout(legend={"orientation": "h", "y": 1.1, "itemsizing": "constant"}, margin_t=50)


def _best_by_cost(group: RowGroup, cost: str) -> Scatter:
    """The best score for at most so much of one cost, as far as more of it improves the score."""
    known = sorted((row for row in group.ranked if cost in row.metrics), key=lambda row: row.metrics[cost])
    scores = [row.value or 0.0 for row in known]
    last = scores.index(max(scores) if group.direction == "maximize" else min(scores))
    costs = [row.metrics[cost] for row in known[: last + 1]]
    trace = charts.running_best(costs, scores[: last + 1], group.direction)
    return trace.update(showlegend=False, opacity=0.5, line_width=1)


def _hover(row: ModelRow) -> str:
    return charts.hover_text(row.family, row.label, row, row.params if row.origin == "trial" else {})


def confusion(rows: Sequence[ModelRow]) -> Figure | None:
    """Clips by true and predicted class, of several models side by side; ``None`` without predictions."""
    tables = [(row, table) for row in rows if (table := row.predictions("val")) is not None][:_MAX_MATRICES]
    if not tables:
        return None
    classes = sorted(set().union(*({*table["label"], *table["predicted"]} for _, table in tables)))
    panels = [
        (
            f"{row.family} · {ranking.figure(row.value, '.3f')}",
            pd.crosstab(table["label"], table["predicted"])
            .reindex(index=classes, columns=classes, fill_value=0)
            .to_numpy(),
        )
        for row, table in tables
    ]
    return charts.confusion_matrices(panels, classes)


def learning_curves(curves: "Sequence[LearningCurve]") -> Figure:
    """Score over the number of training groups: every draw, and their mean."""
    figure = Figure()
    for curve, colour in zip(curves, itertools.cycle(charts.COLOURS)):
        pairs = [
            (groups, score)
            for groups, draws in zip(curve.groups, curve.scores, strict=True)
            for score in draws
        ]
        figure.add_trace(
            Scatter(
                x=[groups for groups, _ in pairs],
                y=[score for _, score in pairs],
                mode="markers",
                marker={"color": colour, "opacity": 0.45, "size": 8},
                showlegend=False,
                hovertemplate="%{y:.3f} with %{x} groups<extra></extra>",
            )
        )
        figure.add_trace(
            Scatter(
                x=list(curve.groups),
                y=curve.means,
                mode="lines+markers",
                line={"color": colour, "width": 2.5},
                name=f"{curve.row.family}, {curve.row.label}",
                hovertemplate="mean %{y:.3f}<extra></extra>",
            )
        )
    figure.update_xaxes(title="training groups", rangemode="tozero")
    figure.update_yaxes(title=metric_words(curves[0].metric))
    return figure.update_layout(height=380, showlegend=True, legend={"orientation": "h", "y": 1.12})
