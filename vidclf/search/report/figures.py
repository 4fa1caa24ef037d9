"""The figures of a study."""

import itertools
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime

import optuna
from plotly.graph_objects import Bar, Figure, Scatter
from plotly.subplots import make_subplots

from vidclf.evaluation import ranking
from vidclf.evaluation.ranking import TrialRow
from vidclf.reports import charts
from vidclf.reports.charts import series_colours, whole_number_ticks
from vidclf.search.record.study import BASE
from vidclf.search.report.data import MIN_TRIALS, StudyData

_STATES = {
    "complete": "#0072b2",
    "infeasible": "#bbbbbb",
    "pruned": "#e69f00",
    "failed": "#b00020",
    "interrupted": "#d9a0a8",
    "stopped": "#d9a0a8",
    "died": "#7a2030",
    "running": "#009e73",
}
_LINES = 200
"""Trials in a parallel coordinates figure, at most: more cannot be told apart."""
_POINTS = 80
"""Trials in a contour, at most: its size grows with their square."""
_CURVES = 300
"""Curves of intermediate values, at most: the latest."""
_VALUES = 8
"""Searched values of a base in its figures, at most: those that mattered most."""
_LINED = 3
"""Trials from which on parallel coordinates say more than the slices do."""
_ROW = 4
"""Slices beside each other."""


def _hover(row: TrialRow) -> str:
    return charts.hover_text(f"trial {row.number}", row.base, row, row.params)


def history(overview: StudyData) -> Figure:
    """Values by trial, and the best so far."""
    figure = Figure()
    kinds: list[tuple[str, str, Callable[[TrialRow], bool]]] = [
        ("", "circle", lambda row: row.feasible),
        (", infeasible", "x", lambda row: not row.feasible),
    ]
    for (stem, colour), (name, symbol, fits) in itertools.product(
        series_colours(overview.stems).items(), kinds
    ):
        rows = [row for row in overview.rows if row.base == stem and row.value is not None and fits(row)]
        x = [row.number for row in rows]
        figure.add_trace(charts.points(rows, x, stem + name, colour, _hover, symbol=symbol))
    own = sorted(overview.ranked, key=lambda row: row.number)
    values = [row.value or 0.0 for row in own]
    direction = overview.opened.objective.direction
    figure.add_trace(charts.running_best([row.number for row in own], values, direction))
    figure.update_xaxes(
        title="trial", **whole_number_ticks([row.number for row in overview.rows if row.value is not None])
    )
    return figure.update_yaxes(title=overview.metric)


def pareto(overview: StudyData) -> Figure | None:
    """Objective over latency and size, the Pareto front large and with its trials' numbers."""
    return charts.pareto(
        overview.ranked,
        overview.front,
        series=lambda row: row.base,
        colours=series_colours(overview.stems),
        hover=_hover,
        metric=overview.metric,
        numbered=True,
    )


def importances(overview: StudyData) -> Figure | None:
    """A bar for each searched value, the largest on top, base by base; ``None`` where trials are few."""
    found = {stem: shares for stem, shares in overview.importances.items() if shares}
    colours = series_colours(overview.stems)
    if not found:
        return None
    counts = [len(shares) for shares in found.values()]
    height = 60 + 50 * len(counts) + 30 * sum(counts)
    figure = make_subplots(
        len(found),
        1,
        row_heights=counts,
        vertical_spacing=60 / height if len(found) > 1 else 0,
        subplot_titles=list(found) if len(overview.stems) > 1 else None,
    )
    for number, (stem, shares) in enumerate(found.items(), start=1):
        names, values = list(shares)[::-1], list(shares.values())[::-1]
        bars = Bar(x=values, y=names, orientation="h", marker={"color": colours[stem]}, showlegend=False)
        bars.update(text=[f"{value:.0%}" for value in values], textposition="outside", hoverinfo="skip")
        figure.add_trace(bars, row=number, col=1)
    figure.update_layout(height=height).update_yaxes(automargin=True)
    return figure.update_xaxes(tickformat=".0%", range=[0, 1.1])


def parameter_figures(overview: StudyData, stem: str) -> dict[str, list[Figure]]:
    """Parallel coordinates, slices and a contour of what one base searches, by how to read them."""
    rows = overview.completed(stem)
    best_first = sorted(rows, key=lambda row: row.value or 0.0)
    kinds = {name: kind for row in rows for name, kind in overview.trials[row.number].distributions.items()}
    names = [
        name
        for name in overview.importances[stem] or sorted(kinds)
        if name != BASE and not kinds[name].single()
    ]
    names = [name for name in names if len({row.params[name] for row in rows if name in row.params}) > 1]
    names = names[:_VALUES]
    if not names:
        return {}
    metric = overview.metric
    lines = ranking.thinned(best_first, _LINES)
    present = [name for name in names if any(name in row.params for row in lines)]
    study = overview.as_study(lines)
    figures = {}
    if len(lines) >= _LINED:
        figures[f"Each trial as a line through its values, darker where {metric} is better."] = [
            optuna.visualization.plot_parallel_coordinate(study, present, target_name=metric)
        ]
    all_trials = overview.as_study(rows)
    plain = {repr(value): value for name in names for value in getattr(kinds[name], "choices", ())}
    slices = [
        optuna.visualization.plot_slice(all_trials, names[start : start + _ROW], target_name=metric)
        for start in range(0, len(names), _ROW)
    ]
    for figure in slices:
        figure.update_xaxes(labelalias=plain).update_layout(height=340, width=None)
        figure.update_traces(marker_colorbar=whole_number_ticks([row.number for row in rows]))
    figures[f"Each value against {metric}, later trials darker."] = slices
    for pair in itertools.combinations(names, 2):
        together = [row for row in best_first if set(pair) <= row.params.keys()]
        if len(together) < MIN_TRIALS:
            continue
        points = overview.as_study(ranking.thinned(together, _POINTS))
        contour = optuna.visualization.plot_contour(points, list(pair), target_name=metric)
        reading = "The two that mattered most, together: the colour between the points is interpolated."
        figures[reading] = [contour.update_layout(height=460)]
        break
    return figures


def intermediate_values(overview: StudyData) -> Figure | None:
    """Intermediate values; all curves of a base and state are one trace, or a page of many trials is slow."""
    with_curve = [row for row in overview.rows if overview.trials[row.number].intermediate_values][-_CURVES:]
    if not with_curve:
        return None
    figure = Figure()
    for (stem, colour), pruned in itertools.product(series_colours(overview.stems).items(), (False, True)):
        rows = [row for row in with_curve if row.base == stem and (row.state == "pruned") == pruned]
        if not rows:
            continue
        points: list[tuple[int | None, float | None, str]] = []
        for row in rows:
            text = _hover(row)
            values = overview.trials[row.number].intermediate_values
            points += [(step, value, text) for step, value in sorted(values.items())] + [(None, None, "")]
        steps, values_, texts = zip(*points, strict=True)
        figure.add_trace(
            Scatter(
                x=steps,
                y=values_,
                mode="lines+markers",
                line={"color": colour, "width": 1.2, "dash": "dot" if pruned else "solid"},
                marker={"size": 4},
                opacity=0.7,
                name=f"{stem}, pruned" if pruned else stem,
                hovertext=texts,
                hoverinfo="text+x+y",
            )
        )
    reached = [step for row in with_curve for step in overview.trials[row.number].intermediate_values]
    figure.update_xaxes(title="repeat" if overview.opened.repeats else "epoch", **whole_number_ticks(reached))
    return figure.update_yaxes(title=overview.metric)


def timeline(overview: StudyData) -> Figure | None:
    """A bar for each attempt, in the colour of how it ended."""
    bars: dict[str, list[tuple[TrialRow, datetime, datetime]]] = defaultdict(list)
    for row in overview.rows:
        trial = overview.trials[row.number]
        if trial.datetime_start is not None and row.state != "waiting":  # asked for ahead: not begun
            large = row.state == "pruned" and not row.feasible
            end = trial.datetime_complete or datetime.now()
            bars["infeasible" if large else row.state].append((row, trial.datetime_start, end))
    if not bars:
        return None
    figure = Figure()
    for state in sorted(bars, key=list(_STATES).index):
        figure.add_trace(
            Bar(
                base=[start for _, start, _ in bars[state]],
                x=[max(1.0, 1000 * (end - start).total_seconds()) for _, start, end in bars[state]],
                y=[row.number for row, _, _ in bars[state]],
                orientation="h",
                width=0.8,
                marker={"color": _STATES[state], "line": {"width": 0}},
                name=state,
                hovertext=[_hover(row) for row, _, _ in bars[state]],
                hoverinfo="text",
            )
        )
    figure.update_xaxes(type="date")
    figure.update_layout(barmode="overlay", showlegend=True)
    numbers = [row.number for of_state in bars.values() for row, _, _ in of_state]
    return figure.update_yaxes(title="trial", autorange="reversed", **whole_number_ticks(numbers))
