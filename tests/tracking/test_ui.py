"""What MLflow's UI shows of a study: its views, and, in a headless browser, its pages."""

import html
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pytest
from mlflow import MlflowClient
from PIL import Image

from tests.attempts import STARTED, end, make_study, make_trial
from tests.browser import CHROMIUM, FLAGS, needs_chromium
from tests.rounds import rounds
from vidclf.exceptions import InputError
from vidclf.reports.plots import write_grid_image
from vidclf.runs.folder import Identity
from vidclf.runs.store import Store
from vidclf.tracking.deliverer import Deliverer
from vidclf.tracking.ledger import Ledger
from vidclf.tracking.ui import links, serve_ui
from vidclf.tracking.views import (
    COST,
    CURVES,
    MISTAKES,
    SPACE,
    TAG_LIMIT,
    mark_standings,
    runs_view,
    save_study_view,
    study_view,
)

PARAMS = {"svm": ["data.frames", "model.C", "model.gamma"], "small": ["train.lr"], "large": ["train.lr"]}


def deliver_study(store: Store) -> dict[str, str]:
    """Three scored trials and a pruned one; the ids of all runs by name."""
    study = make_study(store)
    deliverer = Deliverer(store)
    picture = store.folder / "picture.png"
    Image.new("RGB", (8, 8)).save(picture)
    ids = {}
    for number, score in enumerate([0.5, 0.9, None, 0.7]):
        trial = make_trial(store, number, parent="study-1")
        (trial.artifacts / "images").mkdir()
        write_grid_image(picture, trial.artifacts / "images", "val/confusion_matrix")
        for epoch in (1, 2):
            trial.record(epoch, {"epoch/val/macro_f1": 0.1 * number + 0.1 * epoch})
        if score is None:
            end(trial, "pruned", "behind the median")
        else:
            sizes = {"size/file_mb": 1.0 + number, "latency/p50_ms": 10.0 - number}
            end(trial, metrics={"val/macro_f1": score, **sizes})
        ids[f"trial {number}"] = str(deliverer.deliver(trial))
    (study.artifacts / "README.md").write_text("The best is trial 1.")
    return {**ids, "demo": str(deliverer.deliver(study))}


def save_view(store: Store, run_id: str, *, study: str = "demo", standing: bool = False) -> str:
    return save_study_view(
        Deliverer(store),
        experiment="gestures",
        study=study,
        parent_run_id=run_id,
        objectives=["val/macro_f1", "val/accuracy"],
        direction="maximize",
        params=PARAMS,
        conditional={"model.gamma"},
        standing=standing,
    )


def saved_state(client: MlflowClient, link: str) -> tuple[str, dict[str, object]]:
    """The experiment's id, and what a link restores."""
    experiment = client.get_experiment_by_name("gestures")
    assert experiment is not None
    key = re.search("viewStateShareKey=([^&]+)", link)
    assert key
    return experiment.experiment_id, json.loads(experiment.tags[f"mlflow.sharedViewState.{key[1]}"])


def found_names(client: MlflowClient, link: str) -> list[str]:
    experiment, state = saved_state(client, link)
    order = f"{state['orderByKey']} {'ASC' if state['orderByAsc'] else 'DESC'}"
    found = client.search_runs([experiment], str(state["searchFilter"]), order_by=[order])
    return [run.info.run_name for run in found]


@pytest.mark.slow
def test_a_study_has_a_view_of_its_ranked_trials(store: Store, client: MlflowClient) -> None:
    deliverer = Deliverer(store)
    assert runs_view(deliverer) == "/#/experiments?workflowType=machine_learning"
    assert study_view(deliverer) is None
    ids = deliver_study(store)
    link = save_view(store, ids["demo"])
    experiment, state = saved_state(client, link)
    assert link.startswith(f"/#/experiments/{experiment}/runs?workflowType=machine_learning")
    assert found_names(client, link) == ["trial 1", "trial 3", "trial 0", "trial 2"]
    columns = state["selectedColumns"]
    assert isinstance(columns, list)
    assert {"metrics.`val/macro_f1`", "metrics.`latency/p50_ms`", "params.`train.lr`"} < set(columns)
    assert {"tags.`vidclf.status`", "tags.`vidclf.standing`", "attributes.`Models`"} < set(columns)
    first = ["metrics.`val/macro_f1`", "metrics.`latency/p50_ms`", "metrics.`size/file_mb`"]
    assert columns[:4] == [first[0], "metrics.`val/accuracy`", *first[1:]]  # its second objective
    assert isinstance(widths := state["columnWidths"], dict)
    # Of 1280 pixels MLflow's menu, the Assistant's pane, the boxes and "Created" leave this.
    assert sum(widths[column] for column in ("attributes.`Run Name`", *first)) <= 476
    assert client.get_experiment(experiment).tags["mlflow.experiment.primaryMetric.name"] == "val/macro_f1"
    view = study_view(deliverer)
    assert view is not None
    assert (view.table, study_view(deliverer, "demo"), study_view(deliverer, "other")) == (link, view, None)


@pytest.mark.slow
def test_studies_whose_names_differ_in_signs_have_views_of_their_own(store: Store) -> None:
    ids = deliver_study(store)
    links = [save_view(store, ids["demo"], study=study) for study in ("demo-2", "demo 2", "demo.2", "demo 2")]
    keys = [link.partition("viewStateShareKey=")[2] for link in links]
    assert keys[0] == "vidclf-demo-2"
    assert len(set(keys[:3])) == 3
    assert keys[3] == keys[1]
    assert all(re.fullmatch(r"vidclf-demo-2(-[0-9a-f]{8})?", key) for key in keys)


@pytest.mark.slow
def test_charts_stand_in_named_sections_and_lines_have_axes_that_their_runs_share(
    store: Store, client: MlflowClient
) -> None:
    state = saved_state(client, save_view(store, deliver_study(store)["demo"]))[1]
    sections, charts = state["compareRunSections"], state["compareRunCharts"]
    assert isinstance(sections, list)
    assert isinstance(charts, list)
    assert [each["name"] for each in sections if each["display"]] == [COST, SPACE, CURVES, MISTAKES]
    assert {chart["metricSectionId"] for chart in charts} <= {section["uuid"] for section in sections}
    assert len({chart["uuid"] for chart in charts}) == len(charts)
    lines = [chart["selectedParams"] for chart in charts if chart["type"] == "PARALLEL"]
    assert lines == [["data.frames", "model.C"], ["train.lr", "model.kind"]]
    scatters = [chart["xaxis"]["key"] for chart in charts if chart["type"] == "SCATTER"]
    costs = ["val/accuracy", "latency/p50_ms", "size/file_mb", "cost/fit_seconds"]
    assert scatters == [*costs, "train.lr", "data.frames", "model.C", "model.gamma"]
    assert "epoch/val/macro_f1" in [chart.get("metricKey") for chart in charts]


@pytest.mark.slow
def test_the_best_view_shows_what_stands_out_once_that_is_known(store: Store, client: MlflowClient) -> None:
    ids = deliver_study(store)
    save_view(store, ids["demo"])
    view = study_view(Deliverer(store))
    assert view is not None
    assert len(found_names(client, view.best)) == 4
    standings = {ids["trial 1"]: "best", ids["trial 0"]: "kept", ids["trial 3"]: "infeasible"}
    mark_standings(Deliverer(store), ids["demo"], standings)
    save_view(store, ids["demo"], standing=True)
    assert found_names(client, view.best) == ["trial 1", "trial 0"]
    assert len(found_names(client, view.table)) == 4
    client.delete_run(ids["trial 0"])
    mark_standings(Deliverer(store), ids["demo"], {ids["trial 0"]: "kept", ids["trial 3"]: "best"})
    assert found_names(client, view.best) == ["trial 3"]


@pytest.mark.slow
def test_the_experiment_lists_its_studies_until_the_user_describes_it(
    store: Store, client: MlflowClient
) -> None:
    ids = deliver_study(store)
    link = save_view(store, ids["demo"])
    experiment = saved_state(client, link)[0]
    note = "mlflow.note.content"
    text = client.get_experiment(experiment).tags[note]
    assert "- **demo**: [its trials, ranked](#/experiments/" in text
    assert f"runs/{ids['demo']}?" in text
    save_view(store, ids["demo"])
    assert client.get_experiment(experiment).tags[note] == text
    client.set_experiment_tag(experiment, note, "mine")
    save_view(store, ids["demo"])
    assert client.get_experiment(experiment).tags[note] == "mine"


def test_a_large_space_still_has_its_view(store: Store, client: MlflowClient) -> None:
    study = make_study(store)
    run_id = str(Deliverer(store).deliver(study))
    params = {
        f"base{base}": [f"model.a_long_name_{base}_{number}" for number in range(8)] for base in range(6)
    }
    save_study_view(
        Deliverer(store),
        experiment="gestures",
        study="wide",
        parent_run_id=run_id,
        objectives=["val/macro_f1"],
        direction="minimize",
        params=params,
    )
    view = study_view(Deliverer(store))
    assert view is not None
    state = saved_state(client, view.best)[1]
    assert len(json.dumps(state)) <= TAG_LIMIT
    assert state["orderByAsc"] is True


@pytest.mark.slow
def test_links_are_those_of_the_study_that_is_asked_for(store: Store) -> None:
    ids = deliver_study(store)
    save_view(store, ids["demo"])
    link, others = links(store, "http://server", "demo")
    assert link.startswith("http://server/#/experiments/")
    assert list(others) == ["all trials as charts", "the best of them", "what was found"]
    assert others["what was found"].endswith(f"/runs/{ids['demo']}?workflowType=machine_learning")
    with pytest.raises(InputError, match="does not have the study other"):
        links(store, "http://server", "other")


def test_a_study_may_have_a_quotation_mark_in_its_name(store: Store) -> None:
    study = store.attempt("demo", "study")
    tags = {"vidclf.study": "it's", "vidclf.view": "/#/experiments/1/runs?compareRunsMode=TABLE"}
    study.create(Identity("study-1", "gestures", "it's", None, STARTED, tags))
    deliverer = Deliverer(store)
    run_id = str(deliverer.deliver(study))
    found = study_view(deliverer, "it's")
    assert found is not None
    assert run_id in found.run
    assert study_view(deliverer, 'it\'s "it"') is None


def test_without_a_study_the_newest_run_is_shown_and_not_the_ledger(store: Store) -> None:
    deliverer = Deliverer(store)
    assert "/runs" not in runs_view(deliverer)
    trial = make_trial(store)
    run = deliverer.client.get_run(str(deliverer.deliver(trial)))
    Ledger(store).begin("0" * 64, [], trial.identity().id, "", "test")
    assert f"/experiments/{run.info.experiment_id}/runs" in runs_view(deliverer)


def test_where_mlflow_is_a_server_its_links_are_announced(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidclf.tracking.ui.links", lambda _, server, study: (f"{server}/{study}", {}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example/")
    told: list[tuple[str, Mapping[str, str]]] = []
    serve_ui(store, 5000, lambda link, others: told.append((link, others)), study="demo")
    assert told == [("http://tracking.example/demo", {})]


def test_a_taken_port_is_named(store: Store) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}"):
            serve_ui(store, port, lambda link, others: None)


SERVE = """
import json, sys
from pathlib import Path
from vidclf.runs.store import open_store
from vidclf.tracking.ui import serve_ui
def announce(link, others):
    print(json.dumps([link, others]), flush=True)
serve_ui(open_store(Path(sys.argv[1])), int(sys.argv[2]), announce)
print("ended", flush=True)
"""


def page(link: str, profile: Path) -> str:
    """The visible text of a page after its scripts ran."""
    assert CHROMIUM
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--window-size=2600,2400"]
    command += ["--virtual-time-budget=20000", "--dump-dom", link]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    return html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<(script|style).*?</\1>", " ", dom)))


@pytest.mark.browser
@pytest.mark.slow
@needs_chromium
def test_the_pages_of_a_study_show_what_they_should(
    store: Store, client: MlflowClient, tmp_path: Path
) -> None:
    ids = deliver_study(store)
    mark_standings(Deliverer(store), ids["demo"], {ids["trial 1"]: "best"})
    save_view(store, ids["demo"], standing=True)
    client.create_registered_model("exercises")
    client.create_model_version("exercises", (tmp_path / "model").as_uri(), ids["trial 1"])
    client.set_registered_model_alias("exercises", "champion", "1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVE, str(store.folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ui:
        assert ui.stdout is not None
        try:
            table, others = json.loads(ui.stdout.readline())
            server, experiment = table.split("/#/")[0], table.split("/")[5]
            compared = quote(json.dumps([ids["trial 1"], ids["trial 3"]]))
            pages = {
                "table": table,
                "charts": others["all trials as charts"],
                "best": others["the best of them"],
                "study": others["what was found"],
                "trial": f"{server}/#/experiments/{experiment}/runs/{ids['trial 1']}",
                "comparison": f"{server}/#/compare-runs?runs={compared}&experiments=[%22{experiment}%22]",
                "model": f"{server}/#/models/exercises",
            }
            looked_at = rounds(brief=("table",), full=tuple(pages))
            shown = {name: page(pages[name], tmp_path / "profile") for name in looked_at}
        finally:
            ui.send_signal(signal.SIGTERM)
        assert ui.stdout.read().strip() == "ended"
        assert ui.wait(timeout=20) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert re.findall(r"trial \d", shown["table"]) == ["trial 1", "trial 3", "trial 0", "trial 2"]
    expected = {
        "table": ("val/macro_f1", "vidclf.standing", "best", "pruned", "train.lr", "0.0003"),
        "charts": (COST, "latency/p50_ms vs. val/macro_f1", SPACE, CURVES, MISTAKES),
        "best": (CURVES, "epoch/val/macro_f1", "trial 1", "1  matching run"),
        "study": ("The best is trial 1.", "trial 3"),
        "trial": ("A single run of", "exercises", "latency/p50_ms"),
        "comparison": ("Comparing 2 Runs", "trial 1", "trial 3", "Parallel Coordinates Plot"),
        "model": ("champion", "Version 1"),
    }
    missing = {(name, word) for name, text in shown.items() for word in expected[name] if word not in text}
    assert not missing
