"""Figures of a comparison: what scores cost, what models confuse and tell apart, and learning curves."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from plotly.graph_objects import Figure, Scatter
from plotly.subplots import make_subplots

from vidclf.comparison.learning_curve import LearningCurve
from vidclf.comparison.rows import ModelRow, RowGroup
from vidclf.comparison.verdict_text import metric_words
from vidclf.evaluation import ranking
from vidclf.evaluation.chance import Chance
from vidclf.evaluation.intervals import Interval
from vidclf.evaluation.predictions import PROBABILITY
from vidclf.reports import charts
from vidclf.search.record.settings import Gates

_MAX_POINTS = 1000
"""Points in a Pareto figure beside the front, at most."""
_MAX_MATRICES = 6
"""Confusion matrices, at most: those of the best families."""
MAX_CLASSES = 6
"""Classes that have ROC curves, at most: those that are told apart worst."""
_GATE = "#b00020"
"""Colour of what the gates ask for."""
_LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom"}
"""Above the figure, and higher where it takes several lines."""


def family_colours(group: RowGroup) -> dict[str, str]:
    """A colour for each family of models, the best first."""
    return charts.series_colours([row.family for row in group.best])


def pareto(
    group: RowGroup,
    baseline: ModelRow | None,
    *,
    reached: Mapping[int, Interval] | None = None,
    chance: Chance | None = None,
    gates: Gates | None = None,
) -> Figure | None:
    """Score over latency and over size, the Pareto front large, with what is asked of a model as lines.

    Args:
        group: Its ranked rows are drawn.
        baseline: The most frequent class, a dotted line.
        reached: Intervals by `id` of a row.
        chance: What the best reaches without signal, a dash-dotted line.
        gates: Those of the study, dashed lines.

    Returns:
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
    name = group.metric.partition("/")[2]
    asked = {**gates.min, **gates.max} if gates else {}
    levels = (
        (baseline.value if baseline else None, "dot", "#888888"),
        (chance.level if chance else None, "dashdot", "#888888"),
        (asked.get(f"test/{name}"), "dash", _GATE),
    )
    for column, cost in enumerate(charts.known_costs(group.ranked), start=1):
        figure.add_trace(_best_by_cost(group, cost), row=1, col=column)
        for trace in _interval_bars(group, reached or {}, cost):
            figure.add_trace(trace, row=1, col=column)
        for level, dash, colour in levels:
            if level is not None:
                figure.add_hline(level, line={"dash": dash, "color": colour, "width": 1.5}, row=1, col=column)
        if cost in asked:
            figure.add_vline(
                asked[cost], line={"dash": "dash", "color": _GATE, "width": 1.5}, row=1, col=column
            )
    return figure.update_layout(legend={**_LEGEND, "itemsizing": "constant"}, margin_t=50)


def _interval_bars(group: RowGroup, reached: Mapping[int, Interval], cost: str) -> list[Scatter]:
    """A vertical bar for each family's rows that have an interval, at their cost."""
    bars = []
    for family, colour in family_colours(group).items():
        rows = [row for row in group.ranked if row.family == family and id(row) in reached]
        rows = [row for row in rows if cost in row.metrics]
        found = [reached[id(row)] for row in rows]
        if not found:
            continue
        spread = {
            "array": [each.high - each.estimate for each in found],
            "arrayminus": [each.estimate - each.low for each in found],
        }
        bars.append(
            Scatter(
                x=[row.metrics[cost] for row in rows],
                y=[each.estimate for each in found],
                mode="markers",
                marker={"color": colour, "size": 4, "symbol": "line-ew"},
                error_y={"color": colour, "thickness": 1.5, "width": 5, **spread},
                name=f"{family}, interval",
                showlegend=False,
                hoverinfo="skip",
            )
        )
    return bars


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


def roc(rows: Sequence[ModelRow]) -> Figure | None:
    """ROC curves of several models, a panel for each class against the rest; ``None`` without probabilities.

    Of many classes those are shown whose area under the curve is the smallest, the mean over models.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    tables = [(row, table) for row in rows if (table := row.predictions("val")) is not None]
    tables = [
        (row, table) for row, table in tables if any(str(name).startswith(PROBABILITY) for name in table)
    ]
    found: dict[str, list[tuple[ModelRow, float, NDArray[np.float64], NDArray[np.float64]]]] = {}
    for row, table in tables:
        for name in sorted(set(table["label"])):
            positive = table["label"] == name
            if f"{PROBABILITY}{name}" in table and not positive.all():
                given = table[f"{PROBABILITY}{name}"]
                false, true, _ = roc_curve(positive, given)
                found.setdefault(name, []).append((row, float(roc_auc_score(positive, given)), false, true))
    if not found:
        return None
    hardest = sorted(found, key=lambda name: np.mean([area for _, area, _, _ in found[name]]))[:MAX_CLASSES]
    classes = sorted(hardest)
    across = min(3, len(classes))
    down = -(-len(classes) // across)
    figure = make_subplots(
        down,
        across,
        subplot_titles=classes,
        shared_xaxes=True,
        shared_yaxes=True,
        vertical_spacing=0.2 / down,
    )
    colours = charts.series_colours([row.family for row, _ in tables])
    for number, name in enumerate(classes):
        place = {"row": number // across + 1, "col": number % across + 1}
        guess = {"color": "#888888", "width": 1, "dash": "dot"}
        figure.add_trace(
            Scatter(x=[0, 1], y=[0, 1], mode="lines", line=guess, showlegend=False, hoverinfo="skip"), **place
        )
        for row, area, false, true in found[name]:
            figure.add_trace(
                Scatter(
                    x=false,
                    y=true,
                    mode="lines",
                    line={"color": colours[row.family], "width": 2, "shape": "hv"},
                    name=row.family,
                    legendgroup=row.family,
                    showlegend=number == 0,
                    hovertemplate=f"area under the curve {area:.3f}",
                ),
                **place,
            )
    figure.update_xaxes(title="share of other clips called so", range=[-0.02, 1.02], row=down)
    figure.update_yaxes(title="share of the class found", range=[-0.02, 1.02], col=1)
    return figure.update_layout(height=90 + 300 * down, legend={**_LEGEND, "y": 1.08}, margin_t=60)


def projections(rows: Sequence[ModelRow]) -> Figure | None:
    """What several models decide on, on its first two principal components: train pale, val as diamonds.

    ``None`` where no model has its ``projection.csv``: only those that are kept do.
    """
    tables = {
        row.family: pd.read_csv(path, dtype={"label": str}, keep_default_na=False)
        for row in rows
        if row.attempt is not None and (path := row.attempt.artifacts / "projection.csv").exists()
    }
    if not tables:
        return None
    panels = list(tables.items())[:_MAX_MATRICES]
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    titles = [name for name, _ in panels]
    figure = make_subplots(down, across, subplot_titles=titles, vertical_spacing=0.15 / down)
    classes = sorted(set().union(*(table["label"] for _, table in panels)))
    for (number, (_, table)), (label, colour) in itertools.product(
        enumerate(panels), charts.series_colours(classes).items()
    ):
        of_class = table[table["label"] == label]
        judged = of_class["split"] != "train"
        figure.add_trace(
            Scatter(
                x=list(of_class["x"]),
                y=list(of_class["y"]),
                mode="markers",
                marker={
                    "color": colour,
                    "symbol": ["diamond" if each else "circle" for each in judged],
                    "size": [9 if each else 6 for each in judged],
                    "opacity": [1.0 if each else 0.4 for each in judged],
                },
                name=label,
                legendgroup=label,
                showlegend=number == 0,
                text=[Path(each).name for each in of_class["clip_path"]],
                hovertemplate="%{text}",
            ),
            row=number // across + 1,
            col=number % across + 1,
        )
    figure.update_xaxes(showticklabels=False).update_yaxes(showticklabels=False)
    return figure.update_layout(height=60 + 320 * down, legend={**_LEGEND, "y": 1.08}, margin_t=60)


def learning_curves(curves: Sequence[LearningCurve]) -> Figure:
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
    return figure.update_layout(height=380, showlegend=True, legend=_LEGEND)
