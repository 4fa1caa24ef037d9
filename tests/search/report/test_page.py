"""What is written about a study: the page, the table, the words, the best configuration."""

import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from plotly.graph_objects import Scatter
from plotly.subplots import make_subplots

from tests.clips import write_experiment
from vidclf import config
from vidclf.evaluation.ranking import LATENCY, SIZE
from vidclf.reports import charts
from vidclf.runs.experiment import load_experiment, parse_experiment
from vidclf.runs.folder import Attempt, Identity
from vidclf.runs.store import open_store
from vidclf.search.record.study import AHEAD, SEEDED_FROM, OpenStudy
from vidclf.search.report.data import StudyData, best_config, trials_csv
from vidclf.search.report.figures import curves, history, importances, inside, pareto, timeline
from vidclf.search.report.page import refresh
from vidclf.search.report.text import description

METRIC = "val/macro_f1"
START = datetime(2026, 1, 2, 3, 4, 5)
SPACE: dict[str, BaseDistribution] = {
    "base": CategoricalDistribution(["svm", "tiny"]),
    "data.frames": CategoricalDistribution([2, 4]),
    "model.C": FloatDistribution(0.01, 100.0, log=True),
    "model.kernel": CategoricalDistribution(["linear", "rbf"]),
    "model.gamma": FloatDistribution(1e-4, 1.0, log=True),
    "train.lr": FloatDistribution(1e-5, 1e-1, log=True),
}
ENDS = ("complete", "complete", "complete", "pruned", "failed", "interrupted", "infeasible", "again", "large")
HEADINGS = (
    "How the search went",
    "What accuracy costs",
    "Which values mattered",
    "Inside svm",
    "Inside tiny",
    f"{METRIC} while it ran",
    "When each trial ran",
)

Make = Callable[..., OpenStudy]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a fabricated study on two bases, its trials ended in every way."""
    bases = {
        "svm": write_experiment(tmp_path / "svm.toml", "svm", tmp_path / "m.csv"),
        "tiny": write_experiment(tmp_path / "tiny.toml", "frames2d", tmp_path / "m.csv"),
    }
    trees = {stem: config.dump(load_experiment(path)) for stem, path in bases.items()}

    def made(count: int, question: str = "Which?", metric: str = METRIC, **more: Any) -> OpenStudy:
        storage = optuna.storages.InMemoryStorage()
        study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
        study.add_trials(itertools.islice(trials(metric, **more), count))
        stored = {
            "uuid": "0123456789abcdef",
            "question": question,
            "objectives": [{"metric": metric, "direction": "maximize"}],
            "constraints": [{"metric": SIZE, "max": 100.0}],
            "bases": trees,
            "experiment": "squares",
        }
        opened = OpenStudy(study, storage, stored, open_store())
        profile = json.dumps({"train": {"a": 9}, "val": {"a": 10, "b": 10}})
        dataset = {"name": "squares", "digest": "0", "source": "m.csv", "profile": profile}
        opened.own_attempt.create(Identity("id", "squares", "s", None, 0, dataset=dataset))
        file = {"sampler": {"name": "tpe"}, "pruner": {"name": "median"}, "budget": {"trials": 60}}
        config.write_toml(file, opened.own_attempt.artifacts / "study.toml")
        return opened

    return made


def trials(metric: str, latency: bool = True, reason: str = "boom") -> Iterator[optuna.trial.FrozenTrial]:
    """Trials whose value grows with ``model.C`` and ``train.lr``; the tenth svm is the best of all."""
    for number in itertools.count():
        end = ENDS[(number // 2) % len(ENDS)]
        params: dict[str, Any] = {"base": ("svm", "tiny")[number % 2], "data.frames": (2, 4)[number // 2 % 2]}
        rank = number * 7 % 40
        if params["base"] == "svm":
            params |= {"model.C": 10 ** (rank / 10 - 2), "model.kernel": ("linear", "rbf")[number % 4 // 2]}
            params |= {"model.gamma": 0.01 * (number + 1)} if params["model.kernel"] == "rbf" else {}
        else:
            params["train.lr"] = 10 ** (rank / 10 - 5)
        value = (0.95 if params["base"] == "svm" else 0.9) * (0.4 + rank / 80)
        size = 120.0 if end in ("infeasible", "large") else 0.5 + number % 2
        metrics = {metric: value, SIZE: size} | ({LATENCY: 5.0 + rank} if latency else {})
        state = {
            "complete": TrialState.COMPLETE,
            "again": TrialState.COMPLETE,
            "infeasible": TrialState.COMPLETE,
        }
        found = create_trial(
            state=state.get(end, TrialState.FAIL if end in ("failed", "interrupted") else TrialState.PRUNED),
            value=value if end in state else None,
            params=params,
            distributions={name: SPACE[name] for name in params},
            user_attrs={
                "metrics": metrics if end in state else {},
                "reason": "" if end in state else reason,
                "reason_kind": end,
                **({"reused_from": 0} if end == "again" else {}),
            },
            intermediate_values={} if number % 2 == 0 or end == "large" else {1: value / 2, 2: value},
            constraints={SIZE: size - 100.0},
        )
        found.datetime_start = START + timedelta(seconds=10 * number)
        found.datetime_complete = found.datetime_start + timedelta(seconds=7.5)
        yield found


def page_of(opened: OpenStudy, folder: Path) -> str:
    own = Attempt(folder / "own")
    refresh(opened, own)
    return (own.artifacts / "study.html").read_text(encoding="utf-8")


def without_script(page: str) -> str:
    return re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)


def figures_of(page: str) -> dict[str, int]:
    """How many figures stand below each heading."""
    parts = re.split(r'<h2 id="s\d+">(.*?)</h2>', page)[1:]
    return {title: body.count("Plotly.newPlot(") for title, body in zip(parts[::2], parts[1::2], strict=True)}


def test_a_study_of_many_trials_has_every_figure_once(make: Make, tmp_path: Path) -> None:
    found = figures_of(page_of(make(50), tmp_path))
    assert tuple(found) == HEADINGS
    # Inside a base: parallel coordinates, slices, contour.
    assert list(found.values()) == [1, 1, 1, 3, 3, 1, 1]


@pytest.mark.parametrize("count", [0, 1, 3, 50])
def test_the_page_needs_no_network(make: Make, tmp_path: Path, count: int) -> None:
    page = page_of(make(count), tmp_path)
    assert not re.search(r"<(script|link|img|iframe)\b[^>]*\b(src|href)\s*=", page)
    assert page.count("<script>/**") == 1
    assert page.count('"showSendToCloud": false') == page.count("Plotly.newPlot(")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_needs_more_trials_says_so(make: Make, tmp_path: Path, count: int) -> None:
    page = page_of(make(count), tmp_path)
    found = figures_of(page)
    assert tuple(found) == HEADINGS
    assert found["Which values mattered"] == 0
    assert "Needs 10 complete trials of a base with different val/macro_f1." in page
    assert (found["How the search went"], found["When each trial ran"]) == ((1, 1) if count else (0, 0))
    assert ("No trial has started yet." in page) == (count == 0)


def test_the_page_says_what_became_of_the_trials(make: Make, tmp_path: Path) -> None:
    text = without_script(page_of(make(18), tmp_path))
    assert (
        "18 attempts: 10 complete (2 of them outside a constraint, 2 of them a repetition of an earlier "
        "one), 2 pruned early, 2 not trained because infeasible, 2 failed, 2 interrupted." in text
    )
    assert "optimistic" in text
    assert re.search(r"<td>1</td><td>5</td>\s*<td class=\"text\">tiny</td>", text)


def labels_of(axis: Any) -> list[str] | None:
    return None if axis.ticktext is None else list(axis.ticktext)


@pytest.mark.parametrize(
    ("latencies", "labels"),
    [
        ((5.0, 200.0), ["5", "10", "20", "50", "100", "200"]),
        ((0.4, 3000.0), ["0.5", "1", "2", "5", "10", "20", "50", "100", "200", "500", "1000", "2000"]),
        ((2.0, 20000.0), ["3", "10", "30", "100", "300", "1000", "3000", "10000"]),
        ((0.1, 100000.0), ["0.1", "1", "10", "100", "1000", "10000", "100000"]),
        ((5.0, 45.0), None),  # no power of ten apart: linear
    ],
)
def test_costs_far_apart_have_labels_in_full(
    make: Make, latencies: tuple[float, float], labels: list[str] | None
) -> None:
    opened = make(0)
    for trial, latency in zip(trials(METRIC), latencies, strict=False):
        trial.set_user_attr("metrics", {METRIC: trial.value, LATENCY: latency})
        opened.study.add_trial(trial)
    axis = charts.apply_theme(pareto(StudyData.of(opened))).layout.xaxis
    low, high = latencies
    shown = [label for label in labels_of(axis) or [] if low <= float(label) <= high]
    assert (shown or None, axis.type) == (labels, "log" if labels else "linear")
    assert axis.tickvals is None or [f"{tick:g}" for tick in axis.tickvals] == labels_of(axis)


def test_narrow_logarithmic_axes_have_fewer_labels() -> None:
    figure = make_subplots(2, 4)
    for column, places in enumerate(([0.02, 0.5], [1e-5, 1e-1], [1.2, 1.8], [0.0, -1.0]), start=1):
        figure.add_trace(Scatter(x=places, y=places), row=1, col=column)
        figure.update_xaxes(type="log", row=1, col=column)
    figure.add_trace(Scatter(x=[1, 2], y=[0.01, 10000.0]), row=2, col=1)
    figure.update_yaxes(type="log", row=2, col=1)
    layout = charts.apply_theme(figure).layout
    assert labels_of(layout.xaxis) == ["0.01", "0.03", "0.1", "0.3", "1", "3"]
    assert labels_of(layout.xaxis2) == ["0.0001", "0.01"]
    assert (layout.xaxis3.tickvals, layout.xaxis4.tickvals) == (None, None)
    assert labels_of(layout.yaxis5) == ["1", "1000"]


def test_trials_and_epochs_are_labelled_by_whole_numbers(make: Make) -> None:
    few = StudyData.of(make(4))
    drawn = [figure for figure in (history(few), curves(few), timeline(few)) if figure is not None]
    (slices,) = itertools.chain(*inside(few, "svm").values())
    assert [figure.layout.xaxis.tickvals for figure in drawn] == [(0, 1, 2, 3), (1, 2), None]
    assert drawn[2].layout.yaxis.tickvals == (0, 1, 2, 3)
    assert slices.data[0].marker.colorbar.tickvals == (0, 1, 2)
    many = StudyData.of(make(50))
    assert history(many).layout.xaxis.tickvals is None  # Plotly's own are whole


def test_two_trials_have_no_lines_through_their_values(make: Make, tmp_path: Path) -> None:
    lines, slices = "Each trial as a line through its values", "Each value against val/macro_f1"
    for count, readings in ((4, [slices]), (6, [lines, slices])):
        found = inside(StudyData.of(make(count)), "svm")
        assert [reading.partition(",")[0] for reading in found] == readings
        assert [len(drawn) for drawn in found.values()] == [1] * len(readings)
        page = without_script(page_of(make(count), tmp_path))
        assert (page.count(lines), page.count(slices)) == (2 * (count == 6), 2)
        assert "The two that mattered most, together" not in page
    assert "The two that mattered most, together" in page_of(make(50), tmp_path)


def test_the_curves_say_why_a_line_may_end_early(make: Make, tmp_path: Path) -> None:
    page = page_of(make(50), tmp_path)
    assert "stopped early by the pruner; a solid one" in page
    assert "for train.patience epochs" in page
    repeated = make(50)
    repeated.stored["objectives"] = [{**repeated.stored["objectives"][0], "repeats": 3}]
    page = page_of(repeated, tmp_path)
    assert "the mean after each repeat" in page
    assert "train.patience" not in page.partition("while it ran</h2>")[2]


def test_what_mattered_is_told_of_each_base_by_itself(make: Make) -> None:
    figure = importances(StudyData.of(make(60)))
    assert figure is not None
    assert [note.text for note in figure.layout.annotations] == ["svm", "tiny"]
    svm, tiny = (set(bars.y) for bars in figure.data)
    assert svm >= {"model.C", "model.kernel"}
    assert "train.lr" in tiny
    assert not svm & {"train.lr", "base"}
    assert not tiny & {"model.C", "model.kernel", "model.gamma", "base"}
    assert [sum(bars.x) for bars in figure.data] == pytest.approx([1, 1], abs=0.01)


def test_equal_values_leave_nothing_to_say_about_what_mattered(make: Make, tmp_path: Path) -> None:
    opened = make(0)
    for trial in itertools.islice(trials(METRIC), 40):
        if trial.state == TrialState.COMPLETE:
            trial.value = 1.0
            opened.study.add_trial(trial)
    found = figures_of(page_of(opened, tmp_path))
    assert (found["Which values mattered"], found["How the search went"]) == (0, 1)
    assert "too much alike to say which values mattered" in description(StudyData.of(opened))


def test_a_running_trial_is_shown(make: Make, tmp_path: Path) -> None:
    opened = make(3)
    trial = opened.study.ask()
    trial.suggest_categorical("base", ["svm", "tiny"])
    trial.report(0.5, 1)
    page = page_of(opened, tmp_path)
    assert "1 running" in without_script(page)
    assert figures_of(page)[f"{METRIC} while it ran"] == 1


@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.WAITING])
def test_a_trial_that_was_asked_for_ahead_has_not_begun(
    make: Make, tmp_path: Path, state: TrialState
) -> None:
    opened = make(20)
    trial = opened.study.ask()
    if state == TrialState.RUNNING:
        trial.set_user_attr(AHEAD, True)
    else:
        opened.storage.set_trial_state_values(trial._trial_id, state)
    timeline = figures_of(page_of(opened, tmp_path))
    assert timeline["When each trial ran"] == 1
    assert opened.rows()[-1].state == "waiting"


def test_the_table_has_a_line_for_each_attempt(make: Make) -> None:
    overview = StudyData.of(make(18))
    table = trials_csv(overview)
    lines = list(csv.DictReader(table.splitlines()))
    head = [
        "trial",
        "state",
        "base",
        "value",
        "rank",
        "reason",
        "feasible",
        "reused_from",
        "started",
        "seconds",
    ]
    params = ["data.frames", "model.C", "model.gamma", "model.kernel", "train.lr"]
    assert list(lines[0]) == [*head, *params, LATENCY, SIZE, METRIC]
    assert [int(line["trial"]) for line in lines] == list(range(18))
    states = Counter(line["state"] for line in lines)
    assert states == {"complete": 10, "pruned": 4, "failed": 2, "interrupted": 2}
    best = lines[5]
    assert (best["rank"], best["base"], best["feasible"], best["model.C"]) == ("1", "tiny", "True", "")
    assert float(best["value"]) == float(best[METRIC]) == pytest.approx(0.9 * (0.4 + 35 / 80))
    assert (best["started"], best["seconds"]) == ("2026-01-02T03:04:55", "7.5")
    assert (lines[8]["reason"], lines[8]["value"], lines[8]["rank"]) == ("boom", "", "")
    assert (lines[12]["feasible"], lines[14]["reused_from"]) == ("False", "0")
    assert trials_csv(StudyData.of(make(0))).startswith("trial,state,base,value,rank")


def test_the_time_of_a_study_is_that_of_its_own_trials(make: Make) -> None:
    opened = make(50)
    opened.study.add_trial(create_trial(value=0.1, user_attrs={SEEDED_FROM: "earlier 3"}))
    text = description(StudyData.of(opened))
    assert "From 2026-01-02 03:04 to 2026-01-02 03:12;" in text


def test_the_words_name_the_best_and_what_is_uncertain(make: Make) -> None:
    opened = make(50)
    text = description(StudyData.of(opened))
    best = StudyData.of(opened).ranked[0]
    assert f"The best is trial {best.number} of {best.base}: val/macro_f1 **{best.value:.4f}**" in text
    assert f"{best.metrics[LATENCY]:.1f} ms a clip, {best.metrics[SIZE]:.2f} MB" in text
    assert "`model.C`: the larger, the higher val/macro_f1 (rank correlation +" in text
    assert "`train.lr`: the larger, the higher val/macro_f1 (rank correlation +" in text
    assert "`model.gamma`: the" not in text
    assert "val has 20 clips: one of them right or wrong moves accuracy by 5.0 points." in text
    assert "optimistic" in text
    assert "sampler tpe, pruner median" in text
    assert f"budget: {opened.logical()} trials used of 60" in text
    assert "- keep size/file_mb at most 100" in text
    assert "`model.C`: 0.01 to 100, logarithmic (in svm)" in text
    assert "all trials together took 0:06:15" in text
    assert "vidclf promote s --as NAME\n" in text
    assert len(text) < 8000  # all of it fits MLflow's description


def test_the_front_is_told_in_the_same_numbers(make: Make) -> None:
    overview = StudyData.of(make(50))
    table = description(overview).partition("## Pareto front")[2].partition("##")[0]
    numbers = [int(line.split("|")[2]) for line in table.splitlines() if re.match(r"\| \d", line)]
    assert numbers == [row.number for row in overview.front]
    assert len(numbers) > 2


def test_few_trials_are_too_few_to_say_anything(make: Make) -> None:
    text = description(StudyData.of(make(3)))
    assert "In svm: 2 trials complete, too few to say which values mattered." in text
    assert "In tiny: 1 trial complete, too few" in text
    assert "correlation" not in text
    assert "Nothing yet. No trial has started yet." in description(StudyData.of(make(0)))
    assert best_config(StudyData.of(make(0))) is None


def test_without_latency_it_says_when_that_comes(make: Make, tmp_path: Path) -> None:
    opened = make(20, latency=False)
    assert "Latency is not known yet" in description(StudyData.of(opened))
    page = page_of(opened, tmp_path)
    assert figures_of(page)["What accuracy costs"] == 1
    assert "Latency is measured when the study stops." in page


@pytest.mark.parametrize("count", [3, 50])
def test_the_best_configuration_is_a_file_that_loads(
    make: Make, tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = make(count)
    best = StudyData.of(opened).ranked[0]
    wanted = parse_experiment(config.override(opened.stored["bases"][best.base], best.params), "the trial")
    for data in ("elsewhere", str(tmp_path)):
        monkeypatch.setenv("VIDCLF_DATA", data)
        text = description(StudyData.of(opened))
        fenced = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
        assert fenced is not None
        (tmp_path / "pasted.toml").write_text(fenced[1], encoding="utf-8")
        assert load_experiment(tmp_path / "pasted.toml") == wanted
        assert ('manifest = "$VIDCLF_DATA/m.csv"' in text) == (data == str(tmp_path))


def test_the_best_configuration_claims_no_published_figure(make: Make) -> None:
    opened = make(3)
    for base in opened.stored["bases"].values():
        base["published"] = {"val/accuracy": 0.9}
    text = best_config(StudyData.of(opened))
    assert text is not None
    assert "published" not in text


def test_names_and_texts_are_shown_as_they_are(make: Make, tmp_path: Path) -> None:
    question = "<script>alert(1)</script> *a*_b_ | [c](http://d) </title>"
    opened = make(50, question=question, metric="val/recall/<i>a|b", reason="</script><b>no</b>")
    page = page_of(opened, tmp_path)
    assert "<script>alert(1)" not in page
    assert "<i>a|b" not in without_script(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; *a*_b_ | [c](http://d) &lt;/title&gt;" in page
    assert "</script><b>no</b>" not in page
    assert len(re.findall(r"<script\b", page[page.index("<body>") :])) == page.count("Plotly.newPlot(")
    text = description(StudyData.of(opened))
    assert r"\<script\>alert(1)\</script\> \*a\*\_b\_ \| \[c\](http://d) \</title\>" in text
    assert r"| base | val/recall/\<i\>a\|b |" in text


def test_a_refresh_writes_whole_files_and_only_what_changed(make: Make) -> None:
    opened = make(18)
    own = opened.own_attempt
    refresh(opened, own)
    names = {"study.html", "trials.csv", "README.md", "best.toml", "study.toml"}
    assert {path.name for path in own.artifacts.iterdir()} == names
    assert (own.artifacts / "README.md").read_text() == description(StudyData.of(opened))
    before = {name: (own.artifacts / name).stat().st_mtime_ns for name in names}
    refresh(opened, own)
    assert before == {name: (own.artifacts / name).stat().st_mtime_ns for name in names}
    opened.study.add_trials(list(itertools.islice(trials(METRIC), 18, 20)))
    refresh(opened, own)
    changed = {name for name in names if (own.artifacts / name).stat().st_mtime_ns != before[name]}
    assert {"study.html", "trials.csv", "README.md"} <= changed
    assert "study.toml" not in changed
