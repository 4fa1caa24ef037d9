"""Several supervisors on one study: the budget, who lives, what is taken over, who leads."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from tests.interruptions import InterruptedStudy, check_survival
from tests.scripted_study import ScriptedStudy, complete, in_memory
from vidclf.evaluation.ranking import CONTENDED
from vidclf.exceptions import FencedError, InputError
from vidclf.runs.folder import Attempt, Outcome, now_ms
from vidclf.runs.store import Store
from vidclf.search.definition.study_file import StudyFile
from vidclf.search.execution import budget, recovery
from vidclf.search.execution.budget import BudgetClock, BudgetCounter
from vidclf.search.execution.display import StudyState
from vidclf.search.execution.recovery import (
    SupervisorGroup,
    put_back,
    queue_again,
    queue_lost,
    reconcile,
    release,
    settle,
    take_over,
)
from vidclf.search.execution.supervisor import Supervisor
from vidclf.search.record import owners
from vidclf.search.record.owners import Ownership
from vidclf.search.record.settings import Budget, Objective
from vidclf.search.record.study import AHEAD, OWNER, RELEASED, START, OpenStudy, find_study
from vidclf.search.report.data import status
from vidclf.workers.protocol import LatencyTask, Measured, Message, RunTask, StepDecision, StepReport, Task

CUT = Outcome("interrupted", "interrupted: asked to stop", {}, now_ms())


class Player:
    """A supervisor whose steps come one at a time, so that those of several can be mixed at will."""

    def __init__(self, opened: OpenStudy, name: str, budget: int) -> None:
        self.opened, self.name = opened, name
        file = StudyFile(
            base="svm.toml",
            objective=Objective(metric="val/macro_f1", direction="maximize"),
            budget=Budget(trials=budget),
            space={"model.C": "default"},
        )
        clock = BudgetClock(opened, None, None, 0.0)
        self.counter = BudgetCounter(opened, file, StudyState("s", "", "m", budget, 1), name, clock)
        self.asked: list[optuna.Trial] = []
        self.running: list[optuna.Trial] = []

    def look(self) -> None:
        self.counter.count()

    def ask(self) -> None:
        """By what was last seen, which may be old."""
        if self.counter.remaining(len(self.running) + len(self.asked)) > 0:
            trial = self.opened.study.ask()
            trial.set_user_attr(OWNER, self.name)
            self.asked.append(trial)

    def admit(self) -> None:
        if self.asked:
            trial = self.asked.pop(0)
            if self.counter.admits(trial.number):
                trial.suggest_float("x", 0, 1)
                self.running.append(trial)
            else:
                release(self.opened, trial)

    def finish(self) -> None:
        if self.running:
            settle(self.opened, self.running.pop(0), complete(0.5))

    def cut(self) -> None:
        if self.running:
            trial = self.running.pop(0)
            settle(self.opened, trial, CUT)
            queue_again(self.opened, self.opened.frozen(trial.number))

    def die(self) -> None:
        """Its trials are taken over by the next who looks, and it comes back empty-handed."""
        self.asked.clear()
        self.running.clear()
        alive = {"a", "b", "c"} - {self.name}
        take_over(self.opened, alive)

    STEPS = ("look", "ask", "admit", "finish", "cut", "die")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(steps=[("a", "ask"), ("b", "ask"), ("b", "die"), ("b", "ask")], budget=1, queued=0)
@example(steps=[("a", "ask"), ("a", "die")], budget=1, queued=2)
@given(
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(Player.STEPS)), max_size=120),
    budget=st.integers(1, 6),
    queued=st.integers(0, 8),
)
@pytest.mark.slow
def test_supervisors_keep_the_budget_exactly(
    tmp_path: Path, steps: list[tuple[str, str]], budget: int, queued: int
) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    opened = in_memory(tmp_path)
    for place in range(queued):
        opened.study.enqueue_trial({"x": place / 10})
    players = {name: Player(opened, name, budget) for name in "abc"}
    for name, step in steps:
        getattr(players[name], step)()
        running = sum(len(player.running) for player in players.values())
        assert opened.logical() + running <= budget
    for _ in range(200):  # whoever is left brings it to its end
        for player in players.values():
            for step in ("look", "ask", "admit", "finish"):
                getattr(player, step)()
    assert opened.logical() == budget
    trials = opened.trials()
    assert not [trial for trial in trials if trial.state == TrialState.RUNNING]
    # Raised later, it is kept again: nothing that was given back counts, nothing is missing.
    queue_lost(opened)
    again = Player(opened, "d", budget + 2)
    for _ in range(50):
        for step in ("look", "ask", "admit", "finish"):
            getattr(again, step)()
    assert opened.logical() == budget + 2
    trials = opened.trials()
    # Who is released had asked too late, and is in no count and no row.
    released = [trial for trial in trials if RELEASED in trial.user_attrs]
    assert all(trial.state == TrialState.FAIL for trial in released)
    assert len(opened.rows()) == len(trials) - len(released)
    if not queued and not any(step in ("cut", "die") for _, step in steps):
        assert all(trial.number >= budget for trial in released)


def test_what_others_run_leaves_that_much_less_to_begin(tmp_path: Path) -> None:
    opened = in_memory(tmp_path)
    one, other = Player(opened, "a", 3), Player(opened, "b", 3)
    one.ask()
    other.look()
    assert other.counter.elsewhere == 1
    assert [other.counter.remaining(running) for running in (0, 1, 2)] == [2, 1, 0]
    one.look()
    assert (one.counter.elsewhere, one.counter.remaining(running=1)) == (0, 2)


def test_of_two_that_ask_at_once_for_the_last_trial_one_gives_it_back(tmp_path: Path) -> None:
    """A trial that was queued is queued behind the others, with what it was to be."""
    opened = in_memory(tmp_path)
    for place in range(2):
        opened.study.enqueue_trial({"x": place / 10}, user_attrs={START: "given"})
    one, other = Player(opened, "a", 1), Player(opened, "b", 1)
    one.ask()
    other.ask()
    one.admit()
    other.admit()
    assert (len(one.running), len(other.running)) == (1, 0)
    first, second, queued = opened.trials()
    assert (first.state, second.state, queued.state) == (
        TrialState.RUNNING,
        TrialState.FAIL,
        TrialState.WAITING,
    )
    assert second.user_attrs[RELEASED] is True
    assert (queued.system_attrs, queued.user_attrs) == (second.system_attrs, {START: "given"})
    one.finish()
    other.look()
    assert other.counter.remaining(0) == 0
    assert len(opened.rows()) == 2  # done, and waiting


def test_a_supervisor_gives_back_what_it_asked_for_too_late(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counted before another asked for the last trial."""
    scripted.only_svm()
    scripted.text = scripted.text.replace("trials = 4", "trials = 1")
    other = Ownership(scripted.open(), join=True)
    opened = scripted.open()
    trial = opened.study.ask()
    scripted.definition.space.suggest(trial)
    trial.set_user_attr(OWNER, other.uuid)
    really_remaining, asked = BudgetCounter.remaining, list[int]()

    def remaining(self: BudgetCounter, running: int) -> int:
        asked.append(running)
        if len(asked) == 1:
            return 1
        if len(asked) == 2:
            settle(opened, trial, complete(0.7))
        return really_remaining(self, running)

    monkeypatch.setattr(BudgetCounter, "remaining", remaining)
    opened, ending = scripted.run(lambda task, _: complete(0.5), join=True)
    other.release()
    assert ending == "finished"
    first, second = opened.trials()
    assert (first.value, second.state, second.user_attrs[RELEASED]) == (0.7, TrialState.FAIL, True)
    assert opened.logical() == 1


def test_a_retry_that_the_budget_had_no_room_for_is_queued_when_it_has(tmp_path: Path) -> None:
    opened = in_memory(tmp_path)
    opened.study.enqueue_trial({"x": 0.3})
    player = Player(opened, "a", 1)
    player.ask()
    player.admit()
    player.cut()
    assert queue_lost(opened) == 0  # it is queued already
    release(opened, opened.study.ask())
    assert [trial.state for trial in opened.trials()] == [TrialState.FAIL] * 2
    assert queue_lost(opened) == 1
    assert opened.trials()[-1].user_attrs["retry_of"] == 0


def test_a_trial_that_was_taken_over_is_dropped_by_its_first_owner(scripted: ScriptedStudy) -> None:
    scripted.only_svm()
    told: list[Any] = []

    def script(task: RunTask, connection: Connection) -> Outcome:
        if task.folder.name == "00000" and not told:
            rival = scripted.open()
            told.append(take_over(rival))
            connection.send(StepReport(1, {"epoch/val/macro_f1": 0.5}))
            told.append(connection.recv())
            return complete(0.99)
        return complete(0.5)

    opened, ending = scripted.run(script)
    assert ending == "finished"
    assert scripted.state.running == {}
    assert told[0] == 1
    assert isinstance(told[1], StepDecision)
    assert told[1].prune.startswith("taken over by another supervisor")
    first, *others = opened.trials()
    assert (first.state, first.user_attrs["reason_kind"]) == (TrialState.FAIL, "interrupted")
    assert opened.attempt(0).outcome().status == "interrupted"  # type: ignore[union-attr]
    assert [trial.state for trial in others] == [TrialState.COMPLETE] * 4
    assert [trial.user_attrs.get("retry_of") for trial in others].count(0) == 1
    assert opened.logical() == 4


def test_what_whoever_took_over_has_settled_as_complete_stays_complete(scripted: ScriptedStudy) -> None:
    scripted.only_svm()

    def script(task: RunTask, _: Connection) -> Outcome:
        if task.folder.name == "00000":
            Attempt(task.folder).finish(complete(0.7))
            take_over(scripted.open())
            return complete(0.7)
        return complete(0.5)

    opened, _ = scripted.run(script)
    assert scripted.states(opened) == ["complete"] * 4
    assert opened.trials()[0].value == 0.7
    outcome = opened.attempt(0).outcome()
    assert outcome is not None
    assert outcome.status == "complete"


def test_a_trial_that_was_taken_over_before_it_had_its_values_is_let_go(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.only_svm()
    really_admits, taken = BudgetCounter.admits, list[int]()

    def admits(self: BudgetCounter, number: int) -> bool:
        if not taken:
            taken.append(take_over(scripted.open()))
        return really_admits(self, number)

    monkeypatch.setattr(BudgetCounter, "admits", admits)
    opened, ending = scripted.run(lambda task, _: complete(0.5))
    assert (taken, ending) == ([1], "finished")
    assert opened.trials()[0].user_attrs["reason_kind"] == "interrupted"
    assert opened.logical() == 4


def test_a_trial_that_is_taken_over_before_a_worker_has_it_is_dropped(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.only_svm()
    shape = Supervisor._shape

    def slow(self: Supervisor, trial: optuna.Trial, *arguments: Any) -> str:
        if trial.number == 0:
            assert take_over(scripted.open()) == 1
        return shape(self, trial, *arguments)

    monkeypatch.setattr(Supervisor, "_shape", slow)
    opened, ending = scripted.run(lambda task, _: complete(0.5))
    assert ending == "finished"
    assert opened.attempt(0).outcome().status == "interrupted"  # type: ignore[union-attr]
    first, *others = opened.trials()
    assert first.user_attrs["reason_kind"] == "interrupted"
    assert [trial.state for trial in others] == [TrialState.COMPLETE] * 4


def test_what_was_asked_ahead_and_taken_over_is_not_begun(scripted: ScriptedStudy) -> None:
    scripted.only_svm()
    scripted.text = scripted.text.replace("trials = 4", "trials = 6")
    scripted.text += '[sampler]\nname = "tpe"\nstartup_trials = 2\n'
    begun, taken = list[str](), list[int]()

    def script(task: RunTask, _: Connection) -> Outcome:
        begun.append(task.folder.name)
        while len(begun) == 3 and not taken:
            rival = scripted.open()
            for trial in rival.trials():
                if trial.user_attrs.get(AHEAD):
                    rival.trial(trial.number).set_user_attr(OWNER, "slept")
                    taken.append(trial.number)
                    assert take_over(rival, {trial.user_attrs[OWNER]}) == 1
            time.sleep(0.01)
        return complete(0.5)

    opened, ending = scripted.run(script)
    assert ending == "finished"
    assert f"{taken[0]:05d}" not in begun
    assert opened.frozen(taken[0]).state == TrialState.FAIL
    assert opened.logical() == 6
    assert [t.user_attrs.get("retry_of") for t in opened.trials([TrialState.COMPLETE])].count(taken[0]) == 1


def test_an_outcome_after_the_trial_was_taken_over_is_not_told(scripted: ScriptedStudy) -> None:
    scripted.only_svm()
    opened = scripted.open()
    trial = opened.study.ask()
    scripted.definition.space.suggest(trial)
    take_over(scripted.open())
    with pytest.raises(FencedError):
        settle(opened, trial, complete(0.99))
    assert opened.trials()[0].state == TrialState.FAIL
    assert "metrics" not in opened.trials()[0].user_attrs or not opened.trials()[0].user_attrs["metrics"]


def test_only_one_of_two_that_take_over_queues_the_trial_again(scripted: ScriptedStudy) -> None:
    scripted.only_svm()
    opened, rival = scripted.open(), scripted.open()
    trial = opened.study.ask()
    scripted.definition.space.suggest(trial)
    trial.set_user_attr(OWNER, "dead")
    seen = rival.trials([TrialState.RUNNING])
    assert take_over(opened, {"alive"}) == 1
    rival.__dict__["trials"] = lambda states=None: seen  # what it had read before
    assert take_over(rival, {"alive"}) == 0
    assert [t.user_attrs.get("retry_of") for t in opened.trials() if t.number].count(0) == 1


def test_what_was_asked_ahead_by_a_dead_supervisor_is_queued_once(scripted: ScriptedStudy) -> None:
    scripted.only_svm()
    opened = scripted.open()
    for alive in ((), ("alive",)):
        trial = opened.study.ask()
        scripted.definition.space.suggest(trial)
        trial.set_user_attr(OWNER, "dead")
        trial.set_user_attr(AHEAD, True)
        take_over(opened, alive)
        # Alone it goes back as it was; beside others, one of whom may just take it, it is cut and queued.
        wanted = TrialState.FAIL if alive else TrialState.WAITING
        assert opened.frozen(trial.number).state == wanted
        if alive:
            put_back(opened, trial.number, "dead")  # its supervisor was not dead, and stops
            assert opened.frozen(trial.number).state == TrialState.FAIL
        else:
            assert opened.frozen(trial.number).user_attrs[OWNER] is None, "nobody's until it is asked for"
        assert sum(t.state == TrialState.WAITING for t in opened.trials()) == 1 or not alive


def test_a_trial_that_waits_is_of_the_base_that_it_was_queued_with(scripted: ScriptedStudy) -> None:
    opened = scripted.open()
    first, other = opened.stored["bases"]
    opened.study.enqueue_trial({"base": other})
    assert opened.frozen(opened.trials()[-1].number).state == TrialState.WAITING
    assert opened.rows()[-1].base == other != first


def test_what_another_took_over_and_runs_is_not_put_back(scripted: ScriptedStudy) -> None:
    scripted.only_svm()
    opened = scripted.open()
    trial = opened.study.ask()
    trial.set_user_attr(OWNER, "slept")
    trial.set_user_attr(AHEAD, True)
    reconcile(opened)  # of another that began the study anew meanwhile
    again = opened.study.ask()
    assert again.number == trial.number
    again.set_user_attr(OWNER, "other")
    put_back(opened, trial.number, "slept")
    assert opened.frozen(trial.number).state == TrialState.RUNNING
    assert opened.frozen(trial.number).user_attrs[OWNER] == "other"


@pytest.mark.parametrize("alone", [True, False])
def test_a_trial_without_an_owner_is_left_for_a_minute_to_one_that_signs_it(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    scripted.only_svm()
    opened = scripted.open()
    mine = Ownership(opened)
    if not alone:
        opened.study.set_user_attr("owner/other", json.dumps(asdict(mine._owner)))
    opened.study.ask()
    monkeypatch.setattr(recovery, "RENEWAL_SECONDS", 0.0)
    group = SupervisorGroup(opened, mine)
    group.refresh(waiting=False)
    assert opened.trials()[0].state == TrialState.RUNNING
    monkeypatch.setattr(recovery, "STANDSTILL_SECONDS", 0.0)
    group.refresh(waiting=False)
    assert opened.trials()[0].state == TrialState.FAIL


def test_a_supervisor_on_another_host_is_dead_when_its_counter_stands_still(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = scripted.open()
    mine = Ownership(opened)
    far = replace(mine._owner, host="far", leads=False)
    opened.study.set_user_attr("owner/far", json.dumps(asdict(far)))
    trial = opened.study.ask()
    scripted.definition.space.suggest(trial)
    trial.set_user_attr(OWNER, "far")
    clock = [1000.0]
    monkeypatch.setattr(owners.time, "monotonic", lambda: clock[0])
    group = SupervisorGroup(opened, mine)
    group.refresh(waiting=True)
    assert list(group.others) == ["far"]
    clock[0] += 50
    opened.study.set_user_attr("owner/far", json.dumps(asdict(replace(far, counter=1))))
    group.refresh(waiting=True)
    clock[0] += 50
    group.refresh(waiting=True)
    assert list(group.others) == ["far"], "it has counted 50 s ago"
    assert opened.trials()[0].state == TrialState.RUNNING
    clock[0] += 30
    group.refresh(waiting=True)
    assert group.others == {}
    assert opened.trials()[0].state == TrialState.FAIL
    assert opened.trials()[-1].user_attrs["retry_of"] == 0
    assert opened.study.user_attrs["owner/far"] is None
    assert [record.getMessage() for record in caplog.records if record.name.startswith("vidclf")] == [
        f"process {os.getpid()} on far runs trials of this study too",
        f"process {os.getpid()} on far does not run this study any more",
        "running again: 1 trial of a supervisor that died",
    ]


def test_nobody_has_died_only_because_the_database_was_away(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = scripted.open()
    mine = Ownership(opened)
    far = replace(mine._owner, host="far", leads=False)
    opened.study.set_user_attr("owner/far", json.dumps(asdict(far)))
    clock = [1000.0]
    monkeypatch.setattr(owners.time, "monotonic", lambda: clock[0])
    assert list(mine.others()) == ["far"]
    clock[0] += 500
    assert list(mine.others()) == ["far"], "it had no way to count either"
    clock[0] += 15
    assert list(mine.others()) == ["far"]
    clock[0] += 15
    assert mine.others() == {}


def test_a_supervisor_that_comes_while_another_looks_is_not_struck_off(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = scripted.open()
    mine = Ownership(opened)
    really_others = Ownership.others

    def others(self: Ownership) -> dict[str, Any]:
        found = really_others(self)
        if "owner/new" not in opened.study.user_attrs:
            opened.study.set_user_attr("owner/new", json.dumps(asdict(mine._owner)))
        return found

    monkeypatch.setattr(Ownership, "others", others)
    SupervisorGroup(opened, mine).refresh(waiting=False)
    assert opened.study.user_attrs["owner/new"] is not None


def test_a_supervisor_that_stands_still_loses_the_study_and_finds_that_out_when_it_wakes(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a closed laptop: its process lives, and its counter stands still."""
    opened = scripted.open()
    asleep = Ownership(opened)
    assert asleep.leads
    with pytest.raises(InputError, match=f"is being run by process {os.getpid()} on"):
        Ownership(opened)
    monkeypatch.setattr(owners, "STANDSTILL_SECONDS", 0.2)
    time.sleep(0.2)
    assert (owners.live_owners(opened), len(owners.silent_owners(opened))) == ([], 1)
    assert status(opened)["silent"] == [{"host": socket.gethostname(), "pid": os.getpid()}]
    taker = Ownership(opened)
    assert "waiting up to 0 s for a sign of process" in caplog.text
    for _ in range(2):  # what it writes when it wakes changes nothing
        asleep.renew()
        assert (asleep.leads, asleep.first(), asleep.fenced) == (False, False, True)
        assert taker.leads
        assert taker.registered() == {taker.uuid}
    with pytest.raises(InputError, match=f"was taken over by process {os.getpid()} on .* with --join"):
        SupervisorGroup(opened, asleep).refresh(waiting=True)
    asleep.release()
    assert taker.registered() == {taker.uuid}
    taker.release()


def test_one_that_was_struck_off_by_those_beside_it_comes_back_and_leads_no_more(
    scripted: ScriptedStudy,
) -> None:
    opened = scripted.open()
    first, second = Ownership(opened, join=True), Ownership(opened, join=True)
    second.forget(first.uuid)
    second.lead()
    first.renew()
    assert [each.leads for each in (first, second)] == [False, True]
    assert second.registered() == {first.uuid, second.uuid}


def test_a_session_whose_study_is_taken_over_ends_and_writes_nothing_of_it(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.only_svm()
    monkeypatch.setattr(recovery, "RENEWAL_SECONDS", 0.0)
    now = [0.0]
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: now[0]))
    opened = scripted.open()
    seconds: list[float] = []

    def script(task: Task, _: Connection) -> Message | None:
        if not seconds:
            seconds.append(opened.seconds())
            return complete(0.5)
        seconds[0] = opened.seconds()
        [mine] = [key for key, value in opened.study.user_attrs.items() if key.startswith("owner/") and value]
        opened.study.set_user_attr(mine.replace("owner", "fenced"), "process 7 on far")
        time.sleep(0.05)  # for what it just writes
        now[0] += 100.0
        time.sleep(1)
        return None

    with pytest.raises(InputError, match="was taken over by process 7 on far"):
        scripted.run(script)
    assert opened.own_attempt.outcome() is None
    assert seconds[0] == pytest.approx(opened.seconds(), abs=0.5)


def test_a_supervisor_counts_by_itself_until_it_leaves(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it is busy: training a last model, or asking a slow sampler."""
    monkeypatch.setattr(owners, "RENEWAL_SECONDS", 0.02)
    opened = scripted.open()
    mine = Ownership(opened)
    stop = time.monotonic() + 20
    while owners.live_owners(opened)[0].counter < 3 and time.monotonic() < stop:
        time.sleep(0.02)
    assert owners.live_owners(opened)[0].counter >= 3
    mine.lead()
    assert owners.live_owners(opened)[0].leads
    mine.release()
    time.sleep(0.2)
    assert opened.study.user_attrs[f"owner/{mine.uuid}"] is None


def test_who_comes_first_leads_and_the_next_one_when_it_has_gone(scripted: ScriptedStudy) -> None:
    opened = scripted.open()
    first, second, third = (Ownership(opened, join=True) for _ in range(3))
    assert [each.leads for each in (first, second, third)] == [True, False, False]
    with pytest.raises(InputError, match="--join"):
        Ownership(opened)
    first.release()
    assert [each.first() for each in (second, third)] == [
        second.uuid < third.uuid,
        third.uuid < second.uuid,
    ]
    second.release()
    assert third.first()
    assert third.shared


@pytest.mark.slow
def test_others_end_with_the_study_and_not_before(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor without anything to do waits for the trials of another, and runs what that one leaves."""
    scripted.only_svm()
    monkeypatch.setattr(recovery, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(owners, "STANDSTILL_SECONDS", 1.0)
    opened = scripted.open()
    reconcile(opened)
    trial = opened.study.ask()
    scripted.definition.space.suggest(trial)
    trial.set_user_attr(OWNER, "far")
    far = {"host": "far", "boot": "b", "pid": 1, "started": 0.0, "leads": False}
    opened.study.set_user_attr("owner/far", json.dumps(far))
    begun = time.monotonic()
    opened, ending = scripted.run(lambda task, _: complete(0.5), join=True)
    assert time.monotonic() - begun > 0.9
    assert ending == "finished"
    assert opened.logical() == 4
    assert [t.user_attrs.get("retry_of") for t in opened.trials()].count(0) == 1


def test_a_trial_that_is_cut_while_others_run_the_study_is_queued_for_them_at_once(
    scripted: ScriptedStudy,
) -> None:
    scripted.only_svm()
    other = Ownership(scripted.open(), join=True)
    opened, ending = scripted.run(lambda task, _: complete(0.5), stop_after=1, join=True)
    assert ending == "interrupted"
    assert scripted.state.counts["interrupted"] == 1
    cut = next(trial for trial in opened.trials() if trial.state == TrialState.FAIL)
    (queued,) = (trial for trial in opened.trials([TrialState.WAITING]) if "retry_of" in trial.user_attrs)
    assert (queued.user_attrs["retry_of"], queued.params) == (cut.number, cut.params)
    other.release()
    assert queue_lost(opened) == 0


def test_a_trial_that_is_cut_with_nobody_else_waits_for_the_next_session(scripted: ScriptedStudy) -> None:
    scripted.only_svm()
    opened, ending = scripted.run(lambda task, _: complete(0.5), stop_after=1)
    assert ending == "interrupted"
    assert not [trial for trial in opened.trials() if "retry_of" in trial.user_attrs]
    assert queue_lost(opened) == 1


@pytest.mark.parametrize(("host", "contended"), [("here", True), ("elsewhere", False)])
def test_a_latency_is_marked_where_another_supervisor_of_the_host_runs_trials(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch, host: str, contended: bool
) -> None:
    scripted.text = scripted.text.replace('["svm.toml", "tiny.toml"]', '"tiny.toml"').replace(
        "model.C", "train.lr"
    )
    scripted.text += '\n[[constraint]]\nmetric = "latency/p50_ms"\nmax = 10.0\n'
    with monkeypatch.context() as elsewhere:
        if host == "elsewhere":
            elsewhere.setattr("socket.gethostname", lambda: host)
        other = Ownership(scripted.open(), join=True)

    def script(task: Task, _: Connection) -> Message:
        return Measured({"latency/p50_ms": 50.0}) if isinstance(task, LatencyTask) else complete(0.5)

    opened, ending = scripted.run(script, join=True)
    other.release()
    assert ending == "finished"
    (latency,) = opened.latencies().values()
    assert latency == {"latency/p50_ms": 50.0} | ({CONTENDED: 1.0} if contended else {})
    # One that may be too high by that rejects no model.
    assert scripted.states(opened) == ["complete" if contended else "pruned"] * 4


def test_only_the_supervisor_that_leads_records_the_best_value(scripted: ScriptedStudy) -> None:
    scripted.only_svm()
    leader = Ownership(scripted.open(), join=True)
    assert leader.leads
    opened, _ = scripted.run(lambda task, _: complete(0.5), join=True)
    leader.release()
    assert scripted.state.best == (0.5, 0, "svm")
    assert list(opened.own_attempt.records()) == []


class Pair(InterruptedStudy):
    """Two supervisors of one study, each with its own part of the story."""

    def join(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "vidclf", "tune", str(self.folder / "ordeal.toml"), "--join"]
        with (self.folder / "sessions.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--workers", "1"], stderr=log, stdout=log, start_new_session=True
            )
        self.note(f"process {process.pid} joins")
        return process


@pytest.mark.long
def test_two_supervisors_run_a_study_and_one_of_them_dies(tmp_path: Path, store: Store) -> None:
    ordeal = Pair(tmp_path, store, 3)
    pair = [ordeal.join(), ordeal.join()]
    results = "attempts/*/*/result.json"
    stop = time.monotonic() + 100
    while len(list(store.folder.glob(results))) < 8 and time.monotonic() < stop:
        assert [ordeal.watch(process, time.monotonic() + 0.1) for process in pair] == [None, None], ordeal
    by_owner = Counter(t.user_attrs.get(OWNER) for t in find_study("ordeal", store).trials())
    assert len(by_owner.keys() - {None}) == 2, f"{by_owner}\n{ordeal}"
    os.kill(pair[0].pid, signal.SIGKILL)
    pair[0].wait()
    ordeal.note("SIGKILL to the first")
    assert ordeal.watch(pair[1], time.monotonic() + 120) == 0, ordeal
    opened = check_survival(ordeal)
    assert not [trial for trial in opened.trials() if trial.user_attrs.get("reason_kind") == "died"]


@pytest.mark.long
def test_one_of_two_supervisors_is_stopped_and_the_other_runs_its_trials(
    tmp_path: Path, store: Store
) -> None:
    ordeal = Pair(tmp_path, store, 4)
    pair = [ordeal.join(), ordeal.join()]
    results = "attempts/*/*/result.json"
    stop = time.monotonic() + 100
    while len(list(store.folder.glob(results))) < 8 and time.monotonic() < stop:
        assert [ordeal.watch(process, time.monotonic() + 0.1) for process in pair] == [None, None], ordeal
    pair[1].send_signal(signal.SIGTERM)
    assert ordeal.watch(pair[1], time.monotonic() + 60) == 130, ordeal
    assert ordeal.watch(pair[0], time.monotonic() + 120) == 0, ordeal
    check_survival(ordeal)
