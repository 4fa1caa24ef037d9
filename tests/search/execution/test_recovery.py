"""Studies that are stopped, cut or owned by somebody: what is settled, and what runs again."""

import json
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from tests.scripted_study import ScriptedStudy, complete, in_memory
from tests.studies import make_folder
from vidclf import system
from vidclf.exceptions import InputError
from vidclf.runs.folder import Outcome, now_ms
from vidclf.search.execution import recovery
from vidclf.search.record import owners
from vidclf.search.record.owners import Ownership
from vidclf.search.record.study import DIED, START
from vidclf.workers.protocol import RunTask, StepReport


@pytest.mark.slow
def test_a_stopped_study_goes_on_with_what_was_cut(scripted: ScriptedStudy) -> None:
    opened, ending = scripted.run(lambda task, _: complete(0.5), stop_after=1)
    assert ending == "interrupted"
    assert scripted.states(opened)[-1] == "interrupted"
    cut = opened.trials()[-1]
    outcome = opened.attempt(cut.number).outcome()
    assert outcome is not None
    assert outcome.status == "interrupted"
    opened.attempt(cut.number).checkpoint.mkdir()
    (opened.attempt(cut.number).checkpoint / "epoch.pt").write_text("state")
    went_on = []

    def train(task: RunTask, _: Connection) -> Outcome:
        went_on.append((task.folder / "checkpoint" / "epoch.pt").exists())
        return complete(0.5)

    opened, ending = scripted.run(train)
    assert ending == "finished"
    assert went_on == [True, *[False] * (len(went_on) - 1)]
    retry = opened.trials()[cut.number + 1]
    assert retry.params == cut.params
    assert retry.user_attrs["retry_of"] == retry.user_attrs["root"] == cut.number
    assert opened.logical() == 4
    assert scripted.states(opened).count("interrupted") == 1


def test_what_a_dead_supervisor_left_running_is_settled(scripted: ScriptedStudy) -> None:
    opened = scripted.open()
    for number in range(2):
        trial = opened.study.ask()
        scripted.definition.space.suggest(trial)
        opened.attempt(number).artifacts.mkdir(parents=True)
    opened.attempt(1).finish(complete(0.7))
    assert recovery.reconcile(opened) == 1
    first, second, queued = opened.trials()
    assert (first.state, first.user_attrs["reason_kind"]) == (TrialState.FAIL, "interrupted")
    assert (second.state, second.value) == (TrialState.COMPLETE, 0.7)
    assert (queued.state, queued.params) == (TrialState.WAITING, first.params)
    assert recovery.reconcile(opened) == 0
    assert len(opened.trials()) == 3


def test_a_study_with_a_live_owner_is_refused_by_host_and_process(scripted: ScriptedStudy) -> None:
    opened = scripted.open()
    first = Ownership(opened)
    with pytest.raises(InputError, match=rf"process {psutil.Process().pid} on "):
        Ownership(scripted.open())
    first.release()
    Ownership(scripted.open()).release()


def test_a_dead_owner_is_no_owner(scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = scripted.open()
    Ownership(opened)
    monkeypatch.setattr(system, "boot_id", lambda: "another boot")
    second = Ownership(scripted.open())
    assert owners.live_owners(scripted.open())
    second.release()
    assert not owners.live_owners(scripted.open())


def test_without_workers_a_study_that_is_done_waits_for_nobody(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, _ = scripted.run(lambda task, _: complete(0.5))
    monkeypatch.setattr(recovery, "reconcile", lambda opened: 0)
    opened.study.ask()  # of a supervisor that died just then
    _, ending = scripted.run(lambda task, _: complete(0.5), workers=0)
    assert ending == "finished"


def test_a_failure_that_was_not_heard_of_before_a_stop_does_not_run_again(scripted: ScriptedStudy) -> None:
    opened = scripted.open()
    trial = opened.study.ask()
    scripted.definition.space.suggest(trial)
    opened.attempt(0).artifacts.mkdir(parents=True)
    opened.attempt(0).finish(Outcome("failed", "ValueError: no", {}, now_ms()))
    waiting = len(opened.trials([TrialState.WAITING]))
    assert not recovery.settle_or_interrupt(opened, trial, "asked to stop", queue=True)
    assert opened.frozen(0).user_attrs["reason_kind"] == "failed"
    assert len(opened.trials([TrialState.WAITING])) == waiting
    assert opened.logical() == 1


def test_a_point_that_was_cut_before_it_had_its_values_keeps_them(scripted: ScriptedStudy) -> None:
    opened = scripted.open()
    assert opened.study.ask().number == 0
    assert recovery.reconcile(opened) == 1
    retry = next(trial for trial in opened.trials() if trial.user_attrs.get("retry_of") == 0)
    assert retry.user_attrs["start"] == "base"
    handle = next(asked for asked in iter(opened.study.ask, None) if asked.number == retry.number)
    stem, experiment = scripted.definition.space.suggest(handle)
    assert (stem, experiment) == ("svm", scripted.definition.space.bases["svm"])


def test_work_that_had_finished_survives_a_stop(scripted: ScriptedStudy) -> None:
    opened = scripted.open()
    trial = opened.study.ask()
    scripted.definition.space.suggest(trial)
    opened.attempt(0).artifacts.mkdir(parents=True)
    opened.attempt(0).finish(complete(0.9))
    assert not recovery.settle_or_interrupt(opened, trial, "asked to stop", queue=True)
    assert opened.trials()[0].value == 0.9


def test_an_outcome_without_the_objective_is_none(scripted: ScriptedStudy) -> None:
    """As of a version that did not know the metric yet: it is to be trained again."""
    opened = scripted.open()
    trial = opened.study.ask()
    scripted.definition.space.suggest(trial)
    make_folder(opened, 0).finish(Outcome("complete", "", {"val/accuracy": 0.9}, now_ms()))
    assert recovery.settle_or_interrupt(opened, trial, "its supervisor died", queue=True)
    assert opened.trials()[0].user_attrs["reason_kind"] == "interrupted"
    outcome = opened.attempt(0).outcome()
    assert outcome is not None
    assert outcome.status == "interrupted"


def test_what_was_cut_and_not_queued_is_queued_by_the_next_session_once(tmp_path: Path) -> None:
    opened = in_memory(tmp_path)
    trial = opened.study.ask()
    assert not recovery.settle_or_interrupt(opened, trial, "asked to stop", queue=False)
    assert len(opened.trials()) == 1
    assert [recovery.reconcile(opened) for _ in range(2)] == [1, 0]
    assert opened.trials()[-1].user_attrs["retry_of"] == 0


def test_what_runs_again_brings_along_what_was_reported_and_how_often_it_died(tmp_path: Path) -> None:
    opened = in_memory(tmp_path)
    for number in range(3):
        trial = opened.study.ask()
        assert trial.number == number
        trial.suggest_float("x", 0, 1)
        if number == 0:
            trial.report(0.3, 1)
            opened.storage.set_trial_system_attr(opened.trial_id(0), "completed_rung_0", 0.3)
            opened.storage.set_trial_system_attr(opened.trial_id(0), "other", 1)
            trial.set_user_attr(START, "given")
        recovery.settle(opened, trial, Outcome("failed", "killed", {}, now_ms()), kind=DIED)
        recovery.queue_again(opened, opened.frozen(number))
    first, second, third, last = opened.trials()
    for retry in (second, third, last):
        assert retry.params == first.params
        assert retry.intermediate_values == {1: 0.3}
        assert retry.system_attrs == {"completed_rung_0": 0.3}
        assert (retry.user_attrs["root"], retry.user_attrs["start"]) == (0, "given")
    assert [retry.user_attrs["retry_of"] for retry in (second, third, last)] == [0, 1, 2]
    assert [recovery.deaths(opened, root) for root in (0, 1)] == [3, 0]
    assert opened.logical() == 0


def test_feasibility_is_judged_by_the_saved_model(scripted: ScriptedStudy) -> None:
    scripted.text = scripted.text.replace('["svm.toml", "tiny.toml"]', '"svm.toml"').replace(
        "trials = 4", "trials = 1"
    )
    scripted.text += '\n[[constraint]]\nmetric = "size/file_mb"\nmax = 10\n'

    def grows(task: RunTask, connection: Connection) -> Outcome:
        connection.send(StepReport(0, {"size/file_mb": 9.9}))
        connection.recv()
        return complete(0.5, **{"size/file_mb": 10.1})

    opened, _ = scripted.run(grows)
    assert [row.feasible for row in opened.rows()] == [False]


@pytest.mark.slow
def test_bases_may_change_their_order_on_resume(scripted: ScriptedStudy) -> None:
    scripted.run(lambda task, _: complete(0.5))
    scripted.text = scripted.text.replace('["svm.toml", "tiny.toml"]', '["tiny.toml", "svm.toml"]')
    scripted.text = scripted.text.replace("trials = 4", "trials = 6")
    opened, ending = scripted.run(lambda task, _: complete(0.5))
    assert ending == "finished"
    assert scripted.states(opened) == ["complete"] * 6


@pytest.mark.parametrize(("rival", "stays"), [("0", False), ("z", True)])
def test_of_two_that_register_at_once_one_stays(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch, rival: str, stays: bool
) -> None:
    opened = scripted.open()
    first = Ownership(opened)
    opened.study.set_user_attr(f"owner/{rival}", json.dumps(asdict(first._owner)))
    first.release()
    # Neither has seen the other when it looked first.
    blind = iter([{}])
    real = owners._owners
    monkeypatch.setattr(owners, "_owners", lambda attributes: real(next(blind, attributes)))
    if stays:
        Ownership(opened).release()
    else:
        with pytest.raises(InputError, match="is being run by process"):
            Ownership(opened)


@pytest.mark.parametrize("counts", [True, False])
def test_an_owner_on_another_host_lives_while_it_counts(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch, counts: bool
) -> None:
    opened = scripted.open()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(owners.socket, "gethostname", lambda: "elsewhere")
        far = Ownership(opened)
    monkeypatch.setattr(owners, "STANDSTILL_SECONDS", 0.3)
    monkeypatch.setattr(owners.time, "sleep", lambda _: far.renew() if counts else None)
    if counts:
        with pytest.raises(InputError, match="on elsewhere"):
            Ownership(scripted.open())
    else:
        Ownership(scripted.open()).release()
