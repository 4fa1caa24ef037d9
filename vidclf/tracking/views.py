"""Leads MLflow's UI by the hand: it opens an experiment on an empty page unless a link names a view.

A view is JSON in an experiment tag; the link's ``viewStateShareKey`` names the tag.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from vidclf.tracking.deliverer import PARENT_TAG, STATUS_TAG, Deliverer

VIEW_TAG = "vidclf.view"
"""On a study's own run: the link to its view, without the server."""
TAG_LIMIT = 20_000
"""Characters that MLflow takes as the value of an experiment tag."""
MAIN_PARAMS = 6
"""Params that get a column of their own and an axis of the parallel coordinates."""

COSTS = ("latency/p50_ms", "size/file_mb")
"""Metrics that a trial's quality is weighed against."""
COLUMN_WIDTH = 130
"""Pixels, so that names and values are not cut."""
SECTION = "Study"
"""Heading of the study's charts."""

Direction = Literal["maximize", "minimize"]


def save_study_view(
    deliverer: Deliverer,
    *,
    experiment: str,
    study: str,
    parent_run_id: str,
    metric: str,
    direction: Direction,
    params: Sequence[str],
) -> str:
    """Saves the view that shows a study's trials, ranked by the objective.

    Args:
        deliverer: Its client is used.
        experiment: MLflow experiment of the study.
        study: The study's name.
        parent_run_id: Run of the study itself.
        metric: The objective.
        direction: Which end of the metric is the best.
        params: Searched params, the most interesting first.

    Returns:
        The link to the table, without the server: ``/#/experiments/…``.
    """
    found = deliverer.experiment(experiment)
    if found is None:
        return experiments_link()
    key = f"vidclf-{re.sub(r'[^A-Za-z0-9_-]+', '-', study)}"
    state = json.dumps(_state(parent_run_id, metric, direction, params), separators=(",", ":"))
    if len(state) <= TAG_LIMIT:
        deliverer.client.set_experiment_tag(found.experiment_id, f"mlflow.sharedViewState.{key}", state)
    deliverer.client.set_experiment_tag(found.experiment_id, "mlflow.experiment.primaryMetric.name", metric)
    link = runs_link(found.experiment_id, key)
    deliverer.client.set_tag(parent_run_id, VIEW_TAG, link)
    return link


def runs_link(experiment_id: str, key: str | None = None, mode: Literal["TABLE", "CHART"] = "TABLE") -> str:
    """The link to an experiment's runs in training mode."""
    view = f"&viewStateShareKey={key}" if key else ""
    return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning&compareRunsMode={mode}{view}"


def experiments_link() -> str:
    """The link to the list of experiments."""
    return "/#/experiments?workflowType=machine_learning"


def newest_view(deliverer: Deliverer) -> str:
    """The newest study's view; without a study the newest run's experiment, else all experiments."""
    client = deliverer.client
    experiments = [found.experiment_id for found in client.search_experiments()]
    for condition in (f"tags.`{VIEW_TAG}` LIKE '/%'", ""):
        newest = client.search_runs(experiments, condition, max_results=1, order_by=["start_time DESC"])
        if newest:
            return newest[0].data.tags.get(VIEW_TAG) or runs_link(newest[0].info.experiment_id)
    return experiments_link()


def _state(parent_run_id: str, metric: str, direction: Direction, params: Sequence[str]) -> dict[str, Any]:
    main = list(params[:MAIN_PARAMS])
    metrics = list(dict.fromkeys([metric, *COSTS]))
    columns = [
        *(_column("metrics", name) for name in metrics),
        _column("tags", STATUS_TAG),
        *(_column("params", name) for name in main),
        _column("attributes", "Duration"),
    ]
    section = {"uuid": SECTION, "name": SECTION, "display": True, "isReordered": True, "deleted": False}
    return {
        "searchFilter": f"tags.`{PARENT_TAG}` = '{parent_run_id}'",
        "orderByKey": _column("metrics", metric),
        "orderByAsc": direction == "minimize",
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": dict.fromkeys(columns, COLUMN_WIDTH),
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
        "isAccordionReordered": True,
        "compareRunSections": [{**section, "columns": 2}],
        "compareRunCharts": _charts(metric, main),
    }


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _charts(metric: str, params: Sequence[str]) -> list[dict[str, Any]]:
    objective = {"key": metric, "type": "METRIC"}
    axes = [{"key": name, "type": "METRIC"} for name in COSTS if name != metric]
    axes += [{"key": name, "type": "PARAM"} for name in params]
    charts: list[dict[str, Any]] = [
        {"type": "BAR", "metricKey": metric, "displayName": metric, "runsCountToCompare": 20},
        {
            "type": "PARALLEL",
            "selectedParams": list(params),
            "selectedMetrics": [metric],
            "showAllRuns": True,
        },
        *({"type": "SCATTER", "xaxis": axis, "yaxis": objective, "runsCountToCompare": 100} for axis in axes),
    ]
    place = {"metricSectionId": SECTION, "deleted": False, "isGenerated": False}
    return [{"uuid": f"{SECTION}-{number}", **place, **chart} for number, chart in enumerate(charts)]
