"""The figures of a comparison."""

import html
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from plotly.graph_objects import Figure, Heatmap, Scatter
from plotly.subplots import make_subplots

from vidclf.comparison.label_errors import predictions
from vidclf.comparison.rows import ModelRow, RowGroup
from vidclf.comparison.verdict_text import cost_words, metric_words
from vidclf.evaluation import ranking
from vidclf.evaluation.ranking import LATENCY, SIZE
from vidclf.reports.html import COLOURS, scale

if TYPE_CHECKING:
    from vidclf.comparison.learning_curve import LearningCurve

_POINTS = 1000
"""Points in a figure beside the front, at most."""
_MATRICES = 6
"""Confusion matrices, at most: those of the best families."""
_ACROSS = 3
_COUNTED = 12
"""Classes up to which cells carry their counts."""


def colours(block: RowGroup) -> Mapping[str, str]:
    """Of the families, the best first."""
    return dict(zip([line.family for line in block.best], itertools.cycle(COLOURS)))


def pareto(block: RowGroup, floor: ModelRow | None) -> Figure | None:
    """Score over latency and over size, the front large and joined; the floor as a line."""
    costs = [cost for cost in (LATENCY, SIZE) if any(cost in line.metrics for line in block.ranked)]
    if not costs:
        return None
    names = {LATENCY: "ms a clip (p50)", SIZE: "MB"}
    figure = make_subplots(1, len(costs), shared_yaxes=True, horizontal_spacing=0.05)
    on_front = {id(line) for line in block.front}
    rest = ranking.thinned([line for line in block.ranked if id(line) not in on_front], _POINTS)
    for column, cost in enumerate(costs, start=1):
        for family, colour in colours(block).items():
            for front in (False, True):
                lines = [
                    line
                    for line in (block.front if front else rest)
                    if line.family == family and cost in line.metrics
                ]
                points = _points(lines, cost, family, colour, front=front)
                figure.add_trace(points.update(showlegend=column == 1 and not front), row=1, col=column)
        figure.add_trace(_steps(block, cost), row=1, col=column)
        values = [line.metrics[cost] for line in block.ranked if cost in line.metrics]
        figure.update_xaxes(title=names[cost], type=scale(values), row=1, col=column)
        if floor is not None and floor.value is not None:
            figure.add_hline(
                floor.value, line={"dash": "dot", "color": "#888888", "width": 1.5}, row=1, col=column
            )
    figure.update_yaxes(title=html.escape(metric_words(block.metric)), col=1)
    return figure.update_layout(
        height=460, legend={"orientation": "h", "y": 1.1, "itemsizing": "constant"}, margin_t=50
    )


def _points(lines: Sequence[ModelRow], cost: str, family: str, colour: str, *, front: bool) -> Scatter:
    places: list[float | None] = [line.metrics[cost] for line in lines]
    edge = {"color": "white", "width": 1.5} if front else {"width": 0}
    return Scatter(
        x=places or [None],  # without a point, no name in the legend
        y=[line.value for line in lines] or [None],
        mode="markers",
        marker={
            "color": colour,
            "size": 16 if front else 7,
            "symbol": "diamond" if front else "circle",
            "opacity": 1.0 if front else 0.4,
            "line": edge,
        },
        name=html.escape(family),
        legendgroup=family,
        hovertext=[_hover(line) for line in lines],
        hoverinfo="text",
    )


def _steps(block: RowGroup, cost: str) -> Scatter:
    """The best score for at most so much of one cost."""
    known = sorted(
        (line for line in block.ranked if cost in line.metrics), key=lambda line: line.metrics[cost]
    )
    places: list[float] = []
    scores: list[float] = []
    for line in known:
        value = line.value or 0.0
        if not scores or block.better(value, scores[-1]):
            places.append(line.metrics[cost])
            scores.append(value)
    look = {"shape": "hv", "color": "#1c1c1c", "width": 1}
    return Scatter(
        x=places, y=scores, mode="lines", line=look, hoverinfo="skip", showlegend=False, opacity=0.5
    )


def _hover(line: ModelRow) -> str:
    parts = [f"<b>{html.escape(line.family)}</b>, {html.escape(line.label)}"]
    parts += [f"{ranking.figure(line.value, '.4f')}, {cost_words(line)}"]
    if line.origin == "trial":
        parts += [html.escape(f"{key} {ranking.short(value)}") for key, value in line.params.items()]
    return "<br>".join(parts)


def confusion(lines: Sequence[ModelRow]) -> Figure | None:
    """Clips by true and predicted class, of several models side by side; ``None`` without predictions."""
    tables = [(line, table) for line in lines if (table := predictions(line)) is not None][:_MATRICES]
    if not tables:
        return None
    classes = sorted(set().union(*({*table["label"], *table["predicted"]} for _, table in tables)))
    place = {name: index for index, name in enumerate(classes)}
    across = min(_ACROSS, len(tables))
    down = -(-len(tables) // across)
    titles = [f"{line.family} · {ranking.figure(line.value, '.3f')}" for line, _ in tables]
    edge = max(260, min(620, 130 + 18 * len(classes)))
    figure = make_subplots(
        down,
        across,
        subplot_titles=[html.escape(title) for title in titles],
        shared_yaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=0.34 / down,
    )
    for number, (_, table) in enumerate(tables):
        counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
        np.add.at(counts, (table["label"].map(place), table["predicted"].map(place)), 1)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        few = len(classes) <= _COUNTED
        heatmap = Heatmap(
            z=shares,
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
    if across < _ACROSS:
        figure.update_layout(width=150 + 330 * across)
    return figure.update_layout(height=down * (edge + 90), margin_t=60)


def growth(curves: "Sequence[LearningCurve]") -> Figure:
    """Score over the number of training groups: every draw, and their mean."""
    figure = Figure()
    for curve, colour in zip(curves, itertools.cycle(COLOURS)):
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
                y=[statistics.mean(draws) for draws in curve.scores],
                mode="lines+markers",
                line={"color": colour, "width": 2.5},
                name=html.escape(f"{curve.line.family}, {curve.line.label}"),
                hovertemplate="mean %{y:.3f}<extra></extra>",
            )
        )
    figure.update_xaxes(title="training groups", rangemode="tozero")
    figure.update_yaxes(title=html.escape(metric_words(curves[0].metric)))
    return figure.update_layout(height=380, showlegend=True, legend={"orientation": "h", "y": 1.12})
