"""What is written about a study: the page, the table, the words, the best configuration."""

import csv
import itertools
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial

from tests.pages import Page, read_page
from tests.search.report.fabricated import METRIC, fabricated_study, many_trials
from vidclf import config
from vidclf.evaluation.ranking import LATENCY, SIZE
from vidclf.runs.experiment import load_experiment, parse_experiment
from vidclf.runs.folder import Attempt
from vidclf.search.record.study import AHEAD, SEEDED_FROM, OpenStudy
from vidclf.search.report.data import StudyData, trials_csv
from vidclf.search.report.page import refresh
from vidclf.search.report.text import description

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
    """Makes a study of so many trials, which ended in every way."""

    def made(count: int, question: str = "Which?", metric: str = METRIC, **more: Any) -> OpenStudy:
        trials = itertools.islice(many_trials(metric, **more), count)
        return fabricated_study(tmp_path, trials, question=question, metric=metric)

    return made


def page_of(opened: OpenStudy, folder: Path) -> Page:
    own = Attempt(folder / "own")
    refresh(opened, own)
    return read_page(own.artifacts / "study.html")


def figures_of(page: Page) -> dict[str, int]:
    """How many figures stand below each heading of a section."""
    start = page.headings.index(HEADINGS[0]) + 1
    return {section.heading: len(section.figures) for section in page.sections[start:]}


@pytest.mark.slow
def test_a_study_of_many_trials_has_every_figure_once(make: Make, tmp_path: Path) -> None:
    page = page_of(make(50), tmp_path)
    found = figures_of(page)
    assert tuple(found) == HEADINGS
    # Inside a base: parallel coordinates, slices, contour.
    assert list(found.values()) == [1, 1, 1, 3, 3, 1, 1]
    assert [page[heading].figures[0].layout.xaxis.title.text for heading in HEADINGS[:2]] == [
        "trial",
        "ms a clip (p50)",
    ]
    inside = page["Inside svm"]
    assert "Each trial as a line through its values" in inside.text
    assert f"Each value against {METRIC}" in inside.text
    assert "The two that mattered most, together" in inside.text


@pytest.mark.parametrize("count", [0, 1, 3, 50])
def test_the_page_needs_no_network(make: Make, tmp_path: Path, count: int) -> None:
    assert page_of(make(count), tmp_path).loads == []


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_needs_more_trials_says_so(make: Make, tmp_path: Path, count: int) -> None:
    page = page_of(make(count), tmp_path)
    found = figures_of(page)
    assert tuple(found) == HEADINGS
    assert found["Which values mattered"] == 0
    needed = "Needs 10 complete trials of a base with different val/macro_f1."
    assert page["Which values mattered"].texts == [needed]
    assert (found["How the search went"], found["When each trial ran"]) == ((1, 1) if count else (0, 0))
    assert ("No trial has started yet." in page["s"].texts) == (count == 0)


def test_the_page_says_what_became_of_the_trials(make: Make, tmp_path: Path) -> None:
    text = page_of(make(18), tmp_path)["s"].text
    assert (
        "16 attempts: 8 complete (2 of them outside a constraint), 2 pruned early, 2 not trained because "
        "infeasible, 2 failed, 2 interrupted. 2 proposals not run: an earlier trial's again." in text
    )
    assert "optimistic" in text


def test_the_page_leads_with_the_best_trials(make: Make, tmp_path: Path) -> None:
    opened = make(18)
    page, data = page_of(opened, tmp_path), StudyData.of(opened)
    best = data.ranked[0]
    assert page["s"].texts[2] == f"{best.value:.4f}best val/macro_f1"
    board = page["The best trials"]
    assert board.table[0] == {
        "rank": "1",
        "trial": "5",
        "base": "tiny",
        METRIC: f"{0.9 * (0.4 + 35 / 80):.4f}",
        "ms a clip": "40.0",
        "MB": "1.50",
        "searched values": "frames 2, lr 0.0316",
    }
    assert "more are in trials.csv" not in board.text


@pytest.mark.slow
def test_the_table_of_many_trials_shades_the_front(make: Make, tmp_path: Path) -> None:
    opened = make(50)
    board, data = page_of(opened, tmp_path)["The best trials"], StudyData.of(opened)
    numbers = [row.number for row in data.ranked]
    for row in board.table:
        assert numbers.index(int(row["trial"])) == int(row["rank"]) - 1
    assert {row["rank"] for row in board.table} >= set(map(str, range(1, 11)))
    front = {str(numbers.index(row.number) + 1) for row in data.front}
    assert board.marked == {row["rank"]: "front" if row["rank"] in front else "" for row in board.table}
    assert 0 < len(front) < len(board.table)
    assert f"to two digits. {len(numbers) - len(board.table)} more are in trials.csv." in board.text


@pytest.mark.slow
def test_the_curves_say_why_a_line_may_end_early(make: Make, tmp_path: Path) -> None:
    text = page_of(make(50), tmp_path)[f"{METRIC} while it ran"].text
    assert "stopped early by the pruner; a solid one" in text
    assert "for train.patience epochs" in text
    repeated = make(50)
    repeated.stored["objectives"] = [{**repeated.stored["objectives"][0], "repeats": 3}]
    text = page_of(repeated, tmp_path)[f"{METRIC} while it ran"].text
    assert "the mean after each repeat" in text
    assert "train.patience" not in text


@pytest.mark.slow
def test_equal_values_leave_nothing_to_say_about_what_mattered(make: Make, tmp_path: Path) -> None:
    opened = make(0)
    for trial in itertools.islice(many_trials(), 40):
        if trial.state == TrialState.COMPLETE:
            trial.value = 1.0
            opened.study.add_trial(trial)
    found = figures_of(page_of(opened, tmp_path))
    assert (found["Which values mattered"], found["How the search went"]) == (0, 1)
    assert "too much alike to say which values mattered" in description(StudyData.of(opened))


@pytest.mark.slow
def test_a_running_trial_is_shown(make: Make, tmp_path: Path) -> None:
    opened = make(3)
    trial = opened.study.ask()
    trial.suggest_categorical("base", ["svm", "tiny"])
    trial.report(0.5, 1)
    page = page_of(opened, tmp_path)
    assert "1 running" in page["s"].text
    assert figures_of(page)[f"{METRIC} while it ran"] == 1


@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.WAITING])
@pytest.mark.slow
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
        "started",
        "seconds",
    ]
    params = ["data.frames", "model.C", "model.gamma", "model.kernel", "train.lr"]
    assert list(lines[0]) == [*head, *params, LATENCY, SIZE, METRIC]
    assert [int(line["trial"]) for line in lines] == [*range(14), 16, 17]  # 14 and 15 were not run
    states = Counter(line["state"] for line in lines)
    assert states == {"complete": 8, "pruned": 4, "failed": 2, "interrupted": 2}
    best = lines[5]
    assert (best["rank"], best["base"], best["feasible"], best["model.C"]) == ("1", "tiny", "True", "")
    assert float(best["value"]) == float(best[METRIC]) == pytest.approx(0.9 * (0.4 + 35 / 80))
    assert (best["started"], best["seconds"]) == ("2026-01-02T03:04:55", "7.5")
    assert (lines[8]["reason"], lines[8]["value"], lines[8]["rank"]) == ("boom", "", "")
    assert lines[12]["feasible"] == "False"
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
    assert "all trials together took 0:05:45" in text
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
    assert StudyData.of(make(0)).best_config is None


@pytest.mark.slow
def test_without_latency_it_says_when_that_comes(make: Make, tmp_path: Path) -> None:
    opened = make(20, latency=False)
    assert "Latency is not known yet" in description(StudyData.of(opened))
    page = page_of(opened, tmp_path)
    assert figures_of(page)["What accuracy costs"] == 1
    assert "Latency is measured when the study stops." in page["What accuracy costs"].text


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
    text = StudyData.of(opened).best_config
    assert text is not None
    assert "published" not in text


@pytest.mark.slow
def test_names_and_texts_are_shown_as_they_are(make: Make, tmp_path: Path) -> None:
    question = "<script>alert(1)</script> *a*_b_ | [c](http://d) </title>"
    metric = "val/recall/<i>a|b"
    opened = make(50, question=question, metric=metric, reason="</script><b>no</b>")
    page = page_of(opened, tmp_path)
    assert page["s"].texts[0] == question
    assert metric in page["The best trials"].table[0]
    assert page["How the search went"].figures[0].layout.yaxis.title.text == "val/recall/&lt;i&gt;a|b"
    (bars,) = page["When each trial ran"].figures[0].select_traces({"name": "failed"})
    assert bars.hovertext[0].endswith("<br>&lt;/script&gt;&lt;b&gt;no&lt;/b&gt;")
    text = description(StudyData.of(opened))
    assert r"\<script\>alert(1)\</script\> \*a\*\_b\_ \| \[c\](http://d) \</title\>" in text
    assert r"| base | val/recall/\<i\>a\|b |" in text


@pytest.mark.slow
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
    opened.study.add_trials(list(itertools.islice(many_trials(), 18, 20)))
    refresh(opened, own)
    changed = {name for name in names if (own.artifacts / name).stat().st_mtime_ns != before[name]}
    assert {"study.html", "trials.csv", "README.md"} <= changed
    assert "study.toml" not in changed
