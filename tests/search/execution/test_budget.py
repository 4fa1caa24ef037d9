"""What the seconds of a study's budget are spent on."""

import io
import threading
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from types import SimpleNamespace

import pytest
from rich.console import Console

from tests.scripted_study import ScriptedStudy, complete
from vidclf.runs.folder import Outcome
from vidclf.search.execution import budget, trials, tune
from vidclf.search.execution.costs import BaseCost, forecast, next_base
from vidclf.search.execution.display import Display, StudyState
from vidclf.search.execution.tune import describe_plan, warm_up
from vidclf.search.record.study import REPEATS
from vidclf.workers.protocol import RunTask


def cost(seconds: float, values: Sequence[float], spent: float | None = None) -> BaseCost:
    """Of a base whose trials took so long each and had these values."""
    spent = seconds * len(values) if spent is None else spent
    return BaseCost(seconds, spent, len(values), tuple(values))


ALIKE = (0.4, 0.5, 0.6)


@pytest.mark.parametrize(
    ("dear", "share"),
    [
        (ALIKE, 0.5),
        ((0.1, 0.11, 0.12), 1 / 11),  # the least that a base gets
        ((0.1, 0.5, 0.9), 10 / 11),
        ((0.1, 0.1), 0.5),  # of two values nothing is told
    ],
)
def test_time_is_shared_out_by_what_bases_promise(dear: Sequence[float], share: float) -> None:
    costs = {"cheap": cost(1.0, ALIKE), "dear": cost(60.0, dear)}
    spent = dict.fromkeys(costs, 0.0)
    for _ in range(3000):
        stem = next_base(costs, {}, float("inf"))
        assert stem is not None
        spent[stem] += costs[stem].seconds or 0.0
        costs[stem] = cost(costs[stem].seconds or 0.0, costs[stem].values, spent[stem])
    assert spent["dear"] / sum(spent.values()) == pytest.approx(share, abs=0.06)


def test_each_base_is_tried_before_its_cost_is_known() -> None:
    unknown = BaseCost(None, 0.0, 0, ())
    assert next_base({"a": cost(1.0, ALIKE), "b": unknown}, {}, 5.0) == "b"
    assert next_base({"a": unknown, "b": unknown}, {"a": [3.0]}, 5.0) == "b"


def test_a_trial_begins_only_where_it_is_expected_to_end_in_time() -> None:
    costs = {"cheap": cost(1.0, ALIKE, 500.0), "dear": cost(60.0, ALIKE)}
    assert next_base(costs, {}, 100.0) == "dear"
    assert next_base(costs, {"dear": [0.0] * 9}, 100.0) == "cheap"  # nine of them run
    assert next_base(costs, {}, 50.0) == "cheap"
    assert next_base(costs, {}, 0.5) is None


def test_a_forecast_takes_each_base_at_its_own_cost() -> None:
    costs = {"cheap": cost(1.0, [0.5]), "dear": cost(59.0, [0.5])}
    assert forecast(costs, trials=10, workers=2) == pytest.approx(150.0)
    costs["cheap"] = cost(1.0, [0.5] * 9)  # proposed nine times as often
    assert forecast(costs, trials=10, workers=1) == pytest.approx(68.0)
    assert forecast({"cheap": BaseCost(None, 0.0, 0, ())}, trials=10, workers=1) is None


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock of the supervisor that stands still until it is moved."""
    clock = [0.0]
    for module in (budget, trials):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    return clock


def test_seconds_are_kept_and_spent_on_what_is_cheap_and_promises_as_much(
    scripted: ScriptedStudy, now: list[float]
) -> None:
    scripted.text = scripted.text.replace("trials = 4", "trials = 500\nseconds = 600")
    scripted.text += '"train.lr" = { low = 1e-4, high = 1e-1, log = true }\n'
    values = iter([0.5, 0.4, 0.6] * 200)

    def train(task: RunTask, _: Connection) -> Outcome:
        now[0] += 100.0 if task.experiment["model"]["kind"] == "frames2d" else 20.0
        return complete(next(values))

    opened, ending = scripted.run(train)
    assert ending == "time"
    assert 500.0 < opened.seconds() <= 600.0
    taken = [row.base for row in opened.rows() if row.state == "complete"]
    assert {stem: taken.count(stem) > 0 for stem in ("svm", "tiny")} == {"svm": True, "tiny": True}
    assert taken.count("svm") >= 4 * taken.count("tiny")
    assert {stem: known.seconds for stem, known in scripted.state.costs.items()} == {"svm": 20, "tiny": 100}


def test_a_base_that_holds_nothing_new_takes_no_turns_from_others(
    scripted: ScriptedStudy, now: list[float]
) -> None:
    scripted.text = scripted.text.replace("trials = 4", "trials = 12\nseconds = 1000")

    def train(task: RunTask, _: Connection) -> Outcome:
        now[0] += 1.0 if task.experiment["model"]["kind"] == "frames2d" else 20.0
        return complete(0.5)

    opened, ending = scripted.run(train)  # of tiny nothing is searched
    assert ending == "finished"
    assert [row.base for row in opened.rows()] == ["svm", "tiny", *["svm"] * 10]
    assert sum(REPEATS in trial.user_attrs for trial in opened.trials()) <= 6


def test_what_runs_when_the_time_is_used_up_is_stopped_and_goes_on_where_there_is_more(
    scripted: ScriptedStudy, now: list[float]
) -> None:
    scripted.only_svm()
    scripted.text = scripted.text.replace("trials = 4", "trials = 2\nseconds = 100")

    def endless(task: RunTask, _: Connection) -> Outcome:
        now[0] = 100.0
        threading.Event().wait(5)
        return complete(0.5)

    opened, ending = scripted.run(endless)
    assert ending == "time"
    assert scripted.states(opened) == ["stopped"]
    assert opened.rows()[0].reason == "stopped: budget.seconds is used up"
    assert scripted.state.counts == {"stopped": 1}
    assert opened.logical() == 0
    began = opened.trials()[0].params
    assert scripted.run(endless)[1] == "time"
    assert scripted.states(opened) == ["stopped", "waiting"]
    scripted.text = scripted.text.replace("seconds = 100", "seconds = 300")
    opened, ending = scripted.run(lambda task, _: complete(0.5))
    assert ending == "finished"
    assert scripted.states(opened) == ["stopped", "complete", "complete"]
    assert opened.trials()[1].params == began


def test_a_plan_says_what_trials_cost_and_how_long_it_will_take(
    scripted: ScriptedStudy, now: list[float]
) -> None:
    def train(task: RunTask, _: Connection) -> Outcome:
        now[0] += 60.0 if task.experiment["model"]["kind"] == "frames2d" else 2.0
        return complete(0.5)

    opened, _ = scripted.run(train)
    opened.set_finishing({"timed": 7.0, "drawn": 3.0, "closed": 1.0})
    scripted.text = scripted.text.replace("trials = 4", "trials = 14")
    scripted.open()
    plan = describe_plan(scripted.definition, scripted.store)
    assert plan["trial_seconds"] == {"svm": 2.0, "tiny": 60.0}
    shapes = {row.shape for row in opened.rows()}
    assert plan["seconds_left"] == pytest.approx(10 * 31.0 + 7 * len(shapes) + 3 * 3 + 1)
    scripted.text = scripted.text.replace("trials = 14", "trials = 14\nseconds = 150")
    scripted.open()
    assert describe_plan(scripted.definition, scripted.store)["seconds_left"] == 150 - opened.seconds()


def test_the_panel_says_what_trials_take_and_when_all_is_done() -> None:
    state = StudyState("s", "?", "val/macro_f1", total=12, workers=1, used=2)
    state.costs = {"svm": cost(2.0, [0.5]), "tiny": cost(60.0, [0.5])}
    state.finishing = 10.0
    assert state.seconds_left() == pytest.approx(10 * 31.0 + 10.0)
    state.time_left = 100.0
    assert state.seconds_left() == 100.0
    written = io.StringIO()
    with Display(Console(file=written, force_terminal=True, width=200)) as display:
        display.refresh(state)
    shown = written.getvalue()
    assert "about 1:40 left" in shown
    assert "a trial takes: svm 2 s, tiny 60 s" in shown


def test_workers_get_ready_while_clips_are_checked_where_trials_are_left(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready: list[bool] = []
    monkeypatch.setattr(tune, "preload", lambda: ready.append(True))
    scripted.only_svm()
    scripted.open()
    assert warm_up(scripted.definition, scripted.store)
    assert len(ready) == 1
    scripted.run(lambda *_: complete(0.5))
    assert not warm_up(scripted.definition, scripted.store)
    assert len(ready) == 1  # its four trials are done
    assert warm_up(replace(scripted.definition, join=True), scripted.store)  # the leader may have more
    ready.pop()
    scripted.text = scripted.text.replace("trials = 4", "trials = 5")
    scripted.open()
    warm_up(scripted.definition, scripted.store)
    assert len(ready) == 2
