"""A study as one HTML page that needs no network."""

import html
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import plotly.io
from optuna.trial import TrialState
from optuna.visualization import (
    plot_optimization_history,
    plot_parallel_coordinate,
    plot_param_importances,
    plot_slice,
)

from vidclf.search.record import BASE, OpenStudy

_STYLE = "body{font-family:system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"


def write_study_page(opened: OpenStudy, path: Path) -> None:
    """Writes history, parallel coordinates, importances, and for each base its searched values.

    Figures that need more trials than there are, or parameters that vary, are left out.
    """
    study, metric = opened.study, opened.objective.metric
    complete = opened.trials([TrialState.COMPLETE])
    shared = sorted(set.intersection(*(set(trial.params) for trial in complete)) if complete else ())
    figures: list[tuple[str, Callable[[], Any]]] = [
        ("How the search went", lambda: plot_optimization_history(study, target_name=metric)),
    ]
    if shared:
        figures += [
            (
                "Values that all trials share, together",
                lambda: plot_parallel_coordinate(study, params=shared, target_name=metric),
            ),
            (
                "Which of them mattered",
                lambda: plot_param_importances(study, params=shared, target_name=metric),
            ),
        ]
    for stem in opened.stored["bases"]:
        alone, searched = _of_base(opened, stem)
        figures.append((f"Inside {stem}", partial(plot_slice, alone, searched, target_name=metric)))
    parts = [f"<h1>{html.escape(opened.name)}</h1><p>{html.escape(opened.stored['question'])}</p>"]
    parts.append(f"<p>{len(complete)} complete trials. Values are selected on val and so optimistic.</p>")
    script: bool = True
    for title, draw in figures if complete else ():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                figure = draw()
        except (ValueError, RuntimeError):
            continue
        parts.append(f"<h2>{html.escape(title)}</h2>")
        parts.append(plotly.io.to_html(figure, include_plotlyjs=script, full_html=False))
        script = False
    body = "\n".join(parts)
    title = html.escape(opened.name)
    path.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>",
        encoding="utf-8",
    )


def _of_base(opened: OpenStudy, stem: str) -> tuple[optuna.Study, list[str]]:
    """An in-memory study of one base's complete trials, and what they search."""
    trials = [trial for trial in opened.trials([TrialState.COMPLETE]) if trial.params.get(BASE, stem) == stem]
    study = optuna.create_study(direction=opened.objective.direction)
    study.add_trials(trials)
    return study, sorted({name for trial in trials for name in trial.params} - {BASE})
