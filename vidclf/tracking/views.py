"""Views of MLflow's UI: it opens an experiment on an empty page unless a link names a view.

A view is JSON in an experiment tag; a link's ``viewStateShareKey`` names the tag. MLflow's UI (3.17) takes
pinned and hidden runs (``runsPinned``, ``runsHidden``) from the browser's own storage alone, so trials that
stand out are marked by a tag with a column of its own.
"""

import contextlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from vidclf.config import digest
from vidclf.tracking.deliverer import NOTE_TAG, PARENT_TAG, STATUS_TAG, Deliverer
from vidclf.tracking.lookup import ATTEMPT_TAG

VIEW_TAG = "vidclf.view"
"""On a study's own run: the link to its view, without the server."""
_HAS_VIEW = f"tags.`{VIEW_TAG}` LIKE '/%'"
STANDING_TAG = "vidclf.standing"
"""On a trial's run: what sets it apart from the others of its study, as ``best``."""
INFEASIBLE = "infeasible"
"""The standing of a trial that a constraint excludes."""
_OUTSTANDING = f"tags.`{STANDING_TAG}` != '{INFEASIBLE}'"
STUDY_TAG = "vidclf.study"
TAG_LIMIT = 20_000
"""Characters that MLflow takes as the value of an experiment tag."""
MAIN_PARAMS = 8
"""Searched params that get a column and a scatter of their own."""

COSTS = ("latency/p50_ms", "size/file_mb", "cost/fit_seconds")
"""Metrics that a trial's quality is weighed against."""
LEAST_WIDTH, CHARACTER_WIDTH = 95, 8
"""Pixels of a column, and of each character of its heading, so that neither it nor values are cut."""
NAME_COLUMN, NAME_WIDTH = "attributes.`Run Name`", 170
"""The column of the runs' names, and its pixels: on a screen of 1280, with the Assistant's pane open, the
objective, the latency and the size have room beside it."""
COLLAPSED = (
    "val",
    "val/recall",
    "val/precision",
    "val/f1",
    "epoch/train",
    "epoch/val",
    "latency",
    "size",
    "cost",
    "calibration",
    "Model metrics",
)
"""Sections that MLflow makes by itself, a chart for each metric: below ours, and closed."""
COST, SPACE, CURVES, MISTAKES = "What accuracy costs", "The searched space", "Learning curves", "Mistakes"
"""Our sections."""
COLUMNS = {COST: 3, SPACE: 2, CURVES: 3, MISTAKES: 1}
"""Charts side by side: those of many axes are wide, and pictures of several runs stand in one row."""

_MODE = "workflowType=machine_learning"
"""Without it a new browser shows what is for chat models."""
_NOTE = "Runs on this data set. Its studies, the newest first:"
"""An experiment's description that begins otherwise is the user's."""

Direction = Literal["maximize", "minimize"]
Chart = dict[str, Any]


@dataclass(frozen=True)
class StudyView:
    """Links to a study in MLflow's UI, without the server.

    Attributes:
        table: Its trials, ranked.
        charts: All its trials as charts.
        best: The trials that stand out as charts, with curves and pictures; until it ends, the ten best.
        run: The study's own run: question, findings, and a page of figures.
    """

    table: str
    charts: str
    best: str
    run: str

    @classmethod
    def of(cls, run: Run) -> "StudyView":
        """From the study's own run."""
        table = run.data.tags[VIEW_TAG]
        charts = table.replace("compareRunsMode=TABLE", "compareRunsMode=CHART")
        page = f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}?{_MODE}"
        return cls(table, charts, f"{charts}-best", page)

    def named(self) -> dict[str, str]:
        """The links beside the table's, by what they show."""
        return {
            "all trials as charts": self.charts,
            "the best of them": self.best,
            "what was found": self.run,
        }


def save_study_view(
    deliverer: Deliverer,
    *,
    experiment: str,
    study: str,
    parent_run_id: str,
    objectives: Sequence[str],
    direction: Direction,
    params: Mapping[str, Sequence[str]],
    conditional: Collection[str] = (),
    standing: bool = False,
) -> str:
    """Saves the views that show a study's trials, ranked by the objective.

    Args:
        deliverer: Its client is used.
        experiment: MLflow experiment of the study.
        study: Its name.
        parent_run_id: Run of the study itself.
        objectives: Metrics that are searched for; trials are ranked by the first.
        direction: Which end of the first is the best.
        params: Searched params of each base, the most interesting first.
        conditional: Those of them that not every trial of the base has.
        standing: Whether `mark_standings` has told which trials stand out.

    Returns:
        The link to the table, without the server: ``/#/experiments/…``.
    """
    found = deliverer.experiment(experiment)
    if found is None:
        return experiments_link()
    key = _key(study)
    ranking = {"orderByKey": _column("metrics", objectives[0]), "orderByAsc": direction == "minimize"}
    table = {**_table(parent_run_id, objectives, params), **ranking}
    charts = _charts(objectives, params, conditional)
    views = {
        key: {"runsHiddenMode": "SHOW_ALL", **_sections(charts, (COST, SPACE, CURVES, MISTAKES))},
        f"{key}-best": {
            **({"searchFilter": f"{table['searchFilter']} AND {_OUTSTANDING}"} if standing else {}),
            "runsHiddenMode": "FIRST_10_RUNS",
            **_sections(charts, (CURVES, MISTAKES, COST, SPACE)),
        },
    }
    for name, shown in views.items():
        state = json.dumps({**table, **shown}, separators=(",", ":"))
        if len(state) <= TAG_LIMIT:
            deliverer.client.set_experiment_tag(found.experiment_id, f"mlflow.sharedViewState.{name}", state)
    primary = "mlflow.experiment.primaryMetric.name"
    deliverer.client.set_experiment_tag(found.experiment_id, primary, objectives[0])
    link = runs_link(found.experiment_id, key)
    deliverer.client.set_tag(parent_run_id, VIEW_TAG, link)
    _describe(deliverer, found)
    return link


def _key(study: str) -> str:
    """What a study's views are kept under: its name, or where a link cannot hold that, one no other has."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", study)
    return f"vidclf-{plain}" if plain == study else f"vidclf-{plain}-{digest(study)[:8]}"


def _describe(deliverer: Deliverer, experiment: Experiment) -> None:
    """Lists the experiment's studies in its description, unless the user has written another."""
    present = experiment.tags.get(NOTE_TAG, "")
    if present and not present.startswith(_NOTE):
        return
    lines = []
    for run in deliverer.client.search_runs(
        [experiment.experiment_id], _HAS_VIEW, max_results=50, order_by=["start_time DESC"]
    ):
        view = StudyView.of(run)
        links = {"its trials, ranked": view.table, **view.named()}
        shown = " · ".join(f"[{name}]({link.removeprefix('/')})" for name, link in links.items())
        lines.append(f"- **{run.data.tags.get(STUDY_TAG, run.info.run_name)}**: {shown}")
    text = "\n".join([_NOTE, "", *lines])
    deliverer.client.set_experiment_tag(experiment.experiment_id, NOTE_TAG, text)


def runs_link(experiment_id: str, key: str | None = None) -> str:
    """The link to an experiment's runs in training mode, as a table."""
    view = f"&viewStateShareKey={key}" if key else ""
    return f"/#/experiments/{experiment_id}/runs?{_MODE}&compareRunsMode=TABLE{view}"


def experiments_link() -> str:
    """The link to the list of experiments."""
    return f"/#/experiments?{_MODE}"


def study_view(deliverer: Deliverer, study: str | None = None) -> StudyView | None:
    """The view of a study, or of the newest; ``None`` where MLflow has none."""
    condition = _HAS_VIEW
    if study is not None:
        if {"'", '"'} <= set(study):
            return None  # MLflow's filters have no way to write such a name
        quote = '"' if "'" in study else "'"
        condition += f" AND tags.`{STUDY_TAG}` = {quote}{study}{quote}"
    newest = _newest(deliverer, condition)
    return StudyView.of(newest) if newest else None


def runs_view(deliverer: Deliverer) -> str:
    """The link to the newest run's experiment; without a run to all experiments.

    What the ledger keeps of reads of test splits is no run to look at.
    """
    newest = _newest(deliverer, f"tags.`{ATTEMPT_TAG}` LIKE '%'")
    return runs_link(newest.info.experiment_id) if newest else experiments_link()


def _newest(deliverer: Deliverer, condition: str) -> Run | None:
    experiments = [found.experiment_id for found in deliverer.client.search_experiments()]
    found = deliverer.client.search_runs(experiments, condition, max_results=1, order_by=["start_time DESC"])
    return found[0] if found else None


def mark_standings(deliverer: Deliverer, parent_run_id: str, standings: Mapping[str, str]) -> None:
    """Marks trials in the table, as ``best`` by run id, and takes the marks of an earlier session away."""
    client = deliverer.client
    experiment = client.get_run(parent_run_id).info.experiment_id
    condition = f"tags.`{PARENT_TAG}` = '{parent_run_id}' AND tags.`{STANDING_TAG}` LIKE '%'"
    for run in client.search_runs([experiment], condition):
        if run.info.run_id not in standings:
            client.delete_tag(run.info.run_id, STANDING_TAG)
    for run_id, standing in standings.items():
        with contextlib.suppress(MlflowException):  # the user has deleted it there
            client.set_tag(run_id, STANDING_TAG, standing)


def _table(
    parent_run_id: str, objectives: Sequence[str], params: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """What stands in the table, and which runs."""
    shown = [
        *(("metrics", name) for name in dict.fromkeys([*objectives, *COSTS])),
        ("tags", STANDING_TAG),
        *(("params", name) for name in ("model.kind", *_main(params))),
        ("tags", STATUS_TAG),
        ("attributes", "Duration"),
        ("attributes", "Models"),
    ]
    columns = [_column(*each) for each in shown]
    widths = [max(LEAST_WIDTH, CHARACTER_WIDTH * len(name)) for _, name in shown]
    return {
        "searchFilter": f"tags.`{PARENT_TAG}` = '{parent_run_id}'",
        "selectedColumns": columns,
        "columnOrder": [NAME_COLUMN, *columns],
        "columnWidths": {**dict(zip(columns, widths, strict=True)), NAME_COLUMN: NAME_WIDTH},
        "hideEmptyCharts": True,
        "isAccordionReordered": True,
    }


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _main(params: Mapping[str, Sequence[str]]) -> list[str]:
    """The searched params of all bases, those of many first."""
    names = [name for paths in params.values() for name in paths]
    return sorted(dict.fromkeys(names), key=lambda name: -names.count(name))[:MAIN_PARAMS]


def _sections(charts: Mapping[str, Sequence[Chart]], order: Sequence[str]) -> dict[str, Any]:
    """Our sections, each with its charts, then MLflow's own, closed."""
    common = {"isReordered": True, "deleted": False}
    place = {"deleted": False, "isGenerated": False}
    return {
        "compareRunSections": [
            *(
                {"uuid": name, "name": name, "display": True, "columns": COLUMNS[name], **common}
                for name in order
            ),
            *({"uuid": name, "name": name, "display": False, **common} for name in COLLAPSED),
        ],
        "compareRunCharts": [
            {"uuid": f"{name}-{number}", "metricSectionId": name, **place, **chart}
            for name in order
            for number, chart in enumerate(charts[name])
        ],
    }


def _charts(
    objectives: Sequence[str], params: Mapping[str, Sequence[str]], conditional: Collection[str]
) -> dict[str, list[Chart]]:
    """The charts of each section."""
    metric = objectives[0]
    others = [name for name in (*objectives[1:], *COSTS) if name != metric]
    # A line is drawn only for runs that have every axis, so bases that search for different things are apart.
    families = [tuple(path for path in paths if path not in conditional) for paths in params.values()]
    return {
        COST: [_scatter(name, "METRIC", metric) for name in dict.fromkeys(others)],
        SPACE: [
            *(
                _parallel([*paths, "model.kind"] if families.count(paths) > 1 else paths, metric)
                for paths in dict.fromkeys(families)
                if paths
            ),
            *(_scatter(name, "PARAM", metric) for name in _main(params)),
        ],
        CURVES: [_curve(name) for name in dict.fromkeys([metric, "val/loss", "train/loss"])],
        MISTAKES: [_images("val/confusion_matrix"), _images("val/wrong_clips"), _images("projection")],
    }


def _scatter(x: str, kind: Literal["METRIC", "PARAM"], metric: str) -> Chart:
    axes = {"xaxis": {"key": x, "type": kind}, "yaxis": {"key": metric, "type": "METRIC"}}
    return {"type": "SCATTER", **axes, "runsCountToCompare": 100}


def _parallel(paths: Sequence[str], metric: str) -> Chart:
    axes = {"selectedParams": list(paths), "selectedMetrics": [metric]}
    return {"type": "PARALLEL", **axes, "showAllRuns": True}


def _curve(metric: str) -> Chart:
    key = f"epoch/{metric}"
    # Unset, MLflow smooths, and few epochs are drawn as what they are not.
    drawn = {"xAxisKey": "step", "lineSmoothness": 0, "useGlobalLineSmoothing": False, "displayPoints": True}
    return {"type": "LINE", "metricKey": key, "selectedMetricKeys": [key], **drawn}


def _images(key: str) -> Chart:
    return {"type": "IMAGE", "imageKeys": [key], "displayName": key, "step": 0, "showRunParams": False}
