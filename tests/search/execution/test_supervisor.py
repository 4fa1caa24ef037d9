"""The supervisor against scripted workers: what it asks, answers and tells."""

import json
import math
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.samplers import PartialFixedSampler, RandomSampler
from optuna.trial import TrialState

from tests.scripted_study import ScriptedStudy, complete
from vidclf import config
from vidclf.evaluation import ranking
from vidclf.exceptions import InputError
from vidclf.inference import profiling
from vidclf.runs.folder import Attempt, Outcome, now_ms
from vidclf.runs.repeats import Repeats
from vidclf.search.definition import warm_start
from vidclf.search.execution import budget, session
from vidclf.search.execution.tune import describe_plan
from vidclf.search.record.study import AHEAD, OWNER, REPEATS
from vidclf.workers.protocol import RunTask, StepDecision, StepReport


def test_a_study_ends_when_its_budget_is_used_up_and_only_then(scripted: ScriptedStudy) -> None:
    opened, ending = scripted.run(lambda task, _: complete(0.5), workers=2)
    assert ending == "finished"
    assert scripted.states(opened) == ["complete"] * 4
    assert scripted.run(lambda task, _: complete(0.5))[1] == "finished"
    assert len(opened.rows()) == 4
    scripted.text = scripted.text.replace("trials = 4", "trials = 6")
    opened, _ = scripted.run(lambda task, _: complete(0.5))
    assert scripted.states(opened) == ["complete"] * 6


def test_each_attempt_has_a_folder_with_its_identity(scripted: ScriptedStudy) -> None:
    opened, _ = scripted.run(lambda task, _: complete(0.5))
    for trial in (opened.frozen(row.number) for row in opened.rows()):
        identity = opened.attempt(trial.number).identity()
        assert identity.id == f"{opened.stored['uuid']}/{trial.number}"
        assert identity.parent == f"{opened.stored['uuid']}/study"
        assert identity.tags["vidclf.base"] == trial.params["base"]
        searched = {path: value for path, value in trial.params.items() if path != "base"}
        assert json.loads(identity.tags["vidclf.searched"]) == searched
        assert identity.run_name.startswith(f"#{trial.number:03d} ")
        assert trial.user_attrs["metrics"] == {"val/macro_f1": 0.5}
        assert trial.user_attrs[OWNER] == scripted.uuid
        assert trial.user_attrs["machine"] == config.digest(profiling.machine())
    assert scripted.state.running == {}


def test_a_crash_is_a_failure_that_counts_and_never_a_pruned_trial(scripted: ScriptedStudy) -> None:
    outcomes = iter(["ValueError at a:1", "KeyError at b:2", "ValueError at a:1", "ValueError at c:3"])

    def crash(task: RunTask, _: Connection) -> Outcome:
        fingerprint = next(outcomes)
        return Outcome("failed", f"{fingerprint} happened", {}, now_ms(), fingerprint)

    opened, ending = scripted.run(crash)
    assert ending == "finished"
    assert scripted.states(opened) == ["failed"] * 4
    assert opened.rows()[0].reason == "ValueError at a:1 happened"
    assert opened.logical() == 4


def test_the_same_error_three_times_in_a_row_stops_the_study(scripted: ScriptedStudy) -> None:
    opened, ending = scripted.run(
        lambda task, _: Outcome("failed", "boom", {}, now_ms(), "ValueError at a:1")
    )
    assert ending == "errors"
    assert scripted.states(opened) == ["failed"] * 3


def test_a_dead_workers_configuration_runs_again_from_its_checkpoint(scripted: ScriptedStudy) -> None:
    outcomes, went_on = iter([None, complete(0.3), complete(0.4), complete(0.5), complete(0.6)]), []

    def train(task: RunTask, _: Connection) -> Outcome | None:
        state = task.folder / "checkpoint" / "epoch.pt"
        went_on.append(state.exists())
        state.parent.mkdir(exist_ok=True)
        state.write_text("state")
        return next(outcomes)

    opened, ending = scripted.run(train)
    assert ending == "finished"
    assert opened.logical() == 4
    first = opened.rows()[0]
    (again,) = [trial for trial in opened.trials() if trial.user_attrs.get("retry_of") == 0]
    assert (first.state, first.reason) == ("died", "the worker died: SIGKILL")
    assert again.params == opened.trials()[0].params
    assert went_on.count(True) == 1
    outcome = opened.attempt(0).outcome()
    assert outcome is not None
    assert outcome.status == "failed"


def test_a_worker_that_dies_before_it_can_say_it_has_finished_loses_nothing(
    scripted: ScriptedStudy,
) -> None:
    scripted.only_svm()

    def train(task: RunTask, _: Connection) -> Outcome | None:
        outcome = complete(0.3)
        Attempt(task.folder).finish(outcome)
        return None if task.folder.name == "00000" else outcome

    opened, _ = scripted.run(train)
    assert scripted.states(opened) == ["complete"] * 4
    assert opened.trials()[0].value == 0.3


def test_the_last_configuration_runs_again_too_however_soon_its_worker_died(scripted: ScriptedStudy) -> None:
    scripted.only_svm()
    scripted.text = scripted.text.replace("trials = 4", "trials = 1")
    outcomes = iter([None, complete(0.3)])
    opened, ending = scripted.run(lambda task, _: next(outcomes))
    assert ending == "finished"
    assert scripted.states(opened) == ["died", "complete"]


def test_a_configuration_that_kills_its_workers_is_given_up_and_counts(scripted: ScriptedStudy) -> None:
    scripted.text = scripted.text.replace("trials = 4", "trials = 2\nretries = 1")

    def dies_late(task: RunTask, _: Connection) -> Outcome | None:
        if task.experiment["model"]["kind"] != "svm":
            return complete(0.5)
        Attempt(task.folder).checkpoint.mkdir(exist_ok=True)
        return None

    opened, ending = scripted.run(dies_late)
    assert ending == "finished"
    states = scripted.states(opened)
    given_up = [row for row in opened.rows() if row.state == "failed"]
    assert states.count("died") == len(given_up) >= 1
    assert given_up[0].reason == "given up: the worker died: SIGKILL, 2 times in all"
    assert not opened.attempt(given_up[0].number).checkpoint.exists()  # nothing goes on from it
    assert opened.logical() == 2
    assert not opened.attempt(given_up[0].number).checkpoint.exists()


def test_the_bases_own_values_and_given_points_are_tried_first(scripted: ScriptedStudy) -> None:
    scripted.text += '\n[[start]]\nbase = "svm"\n"model.C" = 7.0\n'
    opened, _ = scripted.run(lambda task, _: complete(0.5))
    first = opened.trials()[:3]
    assert [trial.user_attrs["start"] for trial in first] == ["base", "base", "given"]
    assert [trial.params["base"] for trial in first] == ["svm", "tiny", "svm"]
    assert [trial.params.get("model.C") for trial in first] == [1.0, None, 7.0]
    assert "start" not in opened.trials()[3].user_attrs
    assert opened.attempt(2).identity().tags["vidclf.start"] == "given"


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ('base = "smv"', "start 1: base 'smv' is none of svm, tiny"),
        ('"model.C" = 1.0', "start 1: several bases: name one"),
        ('base = "tiny"\n"model.C" = 1.0', "start 1: model.C is not searched in tiny"),
        ('base = "svm"\n"model.C" = 1e9', "start 1: model.C = 1000000000.0 is outside of its range"),
    ],
)
def test_points_outside_of_the_space_are_refused(scripted: ScriptedStudy, point: str, message: str) -> None:
    scripted.text += f"\n[[start]]\n{point}\n"
    with pytest.raises(InputError) as caught:
        scripted.open()
    assert message in str(caught.value)


def test_patience_ends_a_search_that_finds_nothing_better(scripted: ScriptedStudy) -> None:
    scripted.text = scripted.text.replace("trials = 4", "trials = 50\npatience = 3")
    values = iter([0.1, 0.2, 0.9, *[0.3] * 47])
    opened, ending = scripted.run(lambda task, _: complete(next(values)))
    assert ending == "patience"
    assert len(opened.rows()) == 6


def test_no_trial_begins_that_would_not_end_in_time_over_all_sessions(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: now[0]))
    scripted.text = scripted.text.replace("trials = 4", "trials = 50\nseconds = 100")
    opened = scripted.open()
    opened.set_seconds(70.0)

    def train(task: RunTask, _: Connection) -> Outcome:
        now[0] += 20.0
        return complete(0.5)

    opened, ending = scripted.run(train)
    assert ending == "time"
    assert len(opened.trials([TrialState.COMPLETE])) == 1  # after it ten seconds are left, for the rest
    assert opened.seconds() == 90.0


def test_several_objectives_are_told_together_and_ranked_by_the_first(scripted: ScriptedStudy) -> None:
    scripted.only_svm()
    scripted.text = scripted.text.replace("[objective]", "[[objective]]", 1).replace(
        "[budget]", '[[objective]]\nmetric = "size/file_mb"\ndirection = "minimize"\n[budget]', 1
    )
    values = iter([(0.1, 1.0), (0.9, 5.0), (0.5, 2.0), (0.4, 3.0)])

    def train(task: RunTask, connection: Connection) -> Outcome:
        connection.send(StepReport(1, {"epoch/val/macro_f1": 0.0}))
        assert connection.recv() == StepDecision()
        score, size = next(values)
        return complete(score, **{"size/file_mb": size})

    opened, ending = scripted.run(train)
    assert ending == "finished"
    assert [trial.values for trial in opened.trials()] == [[0.1, 1.0], [0.9, 5.0], [0.5, 2.0], [0.4, 3.0]]
    assert sorted(trial.number for trial in opened.study.best_trials) == [0, 1, 2]
    assert [row.value for row in opened.rows()] == [0.1, 0.9, 0.5, 0.4]


def test_repeats_reach_the_worker_and_their_means_the_pruner(scripted: ScriptedStudy) -> None:
    scripted.only_svm()
    scripted.text = scripted.text.replace(
        'direction = "maximize"', 'direction = "maximize"\nrepeats = 2\nrepeat_by = "seed"'
    )
    seen = []

    def train(task: RunTask, connection: Connection) -> Outcome:
        seen.append(task.repeats)
        for step, (single, mean) in enumerate([(0.2, 0.2), (0.6, 0.4)], start=1):
            connection.send(StepReport(step, {"repeat/val/macro_f1": single, "mean/val/macro_f1": mean}))
            assert connection.recv() == StepDecision()
        return complete(0.4)

    opened, _ = scripted.run(train)
    assert seen == [Repeats(2, "seed")] * 4
    assert opened.trials()[0].intermediate_values == {1: 0.2, 2: 0.4}


def test_the_next_trial_is_asked_for_while_workers_are_busy_and_put_back_on_a_stop(
    scripted: ScriptedStudy,
) -> None:
    scripted.only_svm()
    scripted.text = scripted.text.replace("trials = 4", "trials = 9")
    scripted.text += '[sampler]\nname = "tpe"\nstartup_trials = 2\n'
    scripted.stop_when = lambda opened: any(trial.user_attrs.get(AHEAD) for trial in opened.trials())
    opened, ending = scripted.run(lambda task, _: complete(0.5), stop_after=4)
    assert ending == "interrupted"
    assert "waiting" in scripted.states(opened)
    (waiting,) = (trial for trial in opened.trials() if trial.state == TrialState.WAITING and trial.params)
    assert waiting.params
    assert not (opened.attempt(waiting.number).folder / "attempt.json").exists()
    opened, ending = scripted.run(lambda task, _: complete(0.5))
    assert ending == "finished"
    assert opened.frozen(waiting.number).params == waiting.params
    assert opened.frozen(waiting.number).state == TrialState.COMPLETE
    assert opened.logical() == 9


def test_models_that_fall_out_of_the_best_are_deleted(scripted: ScriptedStudy) -> None:
    scripted.only_svm()
    scripted.text = f"keep = 2\n{scripted.text}"
    values = iter([0.1, 0.2, 0.9, 0.3])

    def train(task: RunTask, _: Connection) -> Outcome:
        (task.folder / "model").mkdir()
        return complete(next(values), **{"size/file_mb": 1.0})

    opened, _ = scripted.run(train)
    assert [number for number in range(4) if opened.attempt(number).model.exists()] == [2, 3]


@pytest.mark.slow
def test_another_study_takes_over_the_finished_trials_that_fit(scripted: ScriptedStudy) -> None:
    old, _ = scripted.run(lambda task, _: complete(task.experiment["model"].get("C", 0.5) / 100))
    scripted.text = 'name = "wider"\n' + scripted.text.replace(
        "low = 0.1, high = 10.0", "low = 1.0, high = 50.0"
    )
    new = scripted.open()
    fitting = [t for t in old.trials([TrialState.COMPLETE]) if t.params.get("model.C", 1.0) >= 1.0]
    assert warm_start.seed(new, old, scripted.definition.space) == (len(fitting), 4 - len(fitting))
    assert new.rows() == [] or all(row.state == "waiting" for row in new.rows())
    assert new.logical() == 0
    taken = new.trials([TrialState.COMPLETE])
    assert sorted(t.value for t in taken) == sorted(t.value for t in fitting)
    new, ending = scripted.run(lambda task, _: complete(0.9))
    assert ending == "finished"
    assert new.logical() == 4
    own = [t for t in new.trials([TrialState.COMPLETE]) if "seeded_from" not in t.user_attrs]
    assert [t.value for t in own] == [0.9] * 4, "a value of another study is no value of this one's models"
    scripted.text = scripted.text.replace('name = "wider"', 'name = "other"').replace(
        '"maximize"', '"minimize"'
    )
    with pytest.raises(InputError, match="their values would be others here"):
        warm_start.seed(scripted.open(), old, scripted.definition.space)


def test_a_new_base_does_not_keep_the_trials_of_the_others_from_being_taken_over(
    scripted: ScriptedStudy,
) -> None:
    both = scripted.text
    scripted.only_svm()
    old, _ = scripted.run(lambda task, _: complete(task.experiment["model"]["C"] / 100))
    scripted.text = 'name = "wider"\n' + both
    new = scripted.open()
    assert warm_start.seed(new, old, scripted.definition.space) == (4, 0)
    assert [trial.params["base"] for trial in new.trials([TrialState.COMPLETE])] == ["svm"] * 4
    scripted.text = both
    with pytest.raises(InputError) as caught:
        scripted.open()
    told = str(caught.value).splitlines()
    assert told[1:-1] == ["  base tiny is new", *[line for line in told if line.startswith("  space: ")]]


def test_a_missing_or_infinite_objective_is_a_failure(scripted: ScriptedStudy) -> None:
    values = iter(
        [complete(float("nan")), Outcome("complete", "", {}, now_ms()), complete(0.1), complete(0.2)]
    )
    opened, _ = scripted.run(lambda task, _: next(values))
    assert scripted.states(opened) == ["failed", "failed", "complete", "complete"]
    outcomes = [opened.attempt(number).outcome() for number in range(4)]
    assert [each.status for each in outcomes if each] == scripted.states(opened)


def test_a_model_that_is_too_large_is_not_trained(scripted: ScriptedStudy) -> None:
    scripted.text += '\n[[constraint]]\nmetric = "size/file_mb"\nmax = 10\n'
    verdicts: list[str] = []

    def large(task: RunTask, connection: Connection) -> Outcome:
        connection.send(StepReport(0, {"size/file_mb": 12.0}))
        verdict: StepDecision = connection.recv()
        verdicts.append(verdict.prune)
        return Outcome("pruned", verdict.prune, {}, now_ms()) if verdict.prune else complete(1.0)

    opened, _ = scripted.run(large)
    assert verdicts == ["infeasible: size/file_mb = 12 (max 10)"] * 4
    assert scripted.states(opened) == ["pruned"] * 4
    assert all(not row.feasible for row in opened.rows())
    assert [opened.frozen(row.number).constraints for row in opened.rows()] == [{"size/file_mb": 2.0}] * 4


def test_a_model_whose_size_is_known_only_afterwards_is_complete_and_infeasible(
    scripted: ScriptedStudy,
) -> None:
    scripted.text = scripted.text.replace('["svm.toml", "tiny.toml"]', '"svm.toml"')
    scripted.text += '\n[[constraint]]\nmetric = "size/file_mb"\nmax = 10\n'
    sizes = iter([12.0, 8.0, 12.0, 12.0])
    opened, _ = scripted.run(lambda task, _: complete(0.5, **{"size/file_mb": next(sizes)}))
    assert [row.feasible for row in opened.rows()] == [False, True, False, False]
    assert ranking.ranked(opened.rows(), "maximize")[0].number == 1


def test_the_best_value_so_far_is_what_the_pruner_sees(scripted: ScriptedStudy) -> None:
    scripted.text += '\n[pruner]\nname = "median"\nstartup_trials = 1\n'

    def curve(task: RunTask, connection: Connection) -> Outcome:
        for step, value in enumerate([0.2, 0.6, 0.4], start=1):
            connection.send(StepReport(step, {"epoch/val/macro_f1": value, "epoch/val/loss": 1.0}))
            connection.recv()
        return complete(0.6)

    opened, _ = scripted.run(curve)
    assert opened.trials()[0].intermediate_values == {1: 0.2, 2: 0.6, 3: 0.6}


def test_what_an_earlier_attempt_reported_is_not_decided_anew(scripted: ScriptedStudy) -> None:
    """It goes on from there, and what its first steps give now changes neither the best nor a decision."""
    scripted.only_svm()
    scripted.text = scripted.text.replace("trials = 4", "trials = 1")
    curves = iter([[0.2, 0.6], [0.1, 0.9, 0.4, 0.7]])

    def curve(task: RunTask, connection: Connection) -> Outcome | None:
        values = next(curves)
        for step, value in enumerate(values, start=1):
            connection.send(StepReport(step, {"epoch/val/macro_f1": value}))
            assert connection.recv() == StepDecision()
        return complete(0.7) if len(values) > 2 else None

    opened, _ = scripted.run(curve)
    assert scripted.states(opened) == ["died", "complete"]
    assert [trial.intermediate_values for trial in opened.trials()] == [
        {1: 0.2, 2: 0.6},
        {1: 0.2, 2: 0.6, 3: 0.6, 4: 0.7},
    ]


def test_the_best_of_what_is_to_be_minimized_is_the_smallest(scripted: ScriptedStudy) -> None:
    scripted.only_svm()
    scripted.text = scripted.text.replace('"maximize"', '"minimize"').replace("val/macro_f1", "val/loss")
    scripted.text = scripted.text.replace("trials = 4", "trials = 1")

    def curve(task: RunTask, connection: Connection) -> Outcome:
        for step, value in enumerate([0.6, 0.2, 0.4], start=1):
            connection.send(StepReport(step, {"epoch/val/loss": value}))
            connection.recv()
        return Outcome("complete", "", {"val/loss": 0.2}, now_ms())

    opened, _ = scripted.run(curve)
    assert opened.trials()[0].intermediate_values == {1: 0.6, 2: 0.2, 3: 0.2}


def test_a_pruner_that_compares_repeats_is_told_each_by_itself(scripted: ScriptedStudy) -> None:
    scripted.only_svm()
    scripted.text = scripted.text.replace(
        'direction = "maximize"', 'direction = "maximize"\nrepeats = 5\nrepeat_by = "seed"'
    ).replace("[space]", '[pruner]\nname = "wilcoxon"\n[space]')
    scripted.text = scripted.text.replace("trials = 4", "trials = 1")

    def train(task: RunTask, connection: Connection) -> Outcome:
        for step, (single, mean) in enumerate([(0.2, 0.2), (0.6, 0.4)], start=1):
            connection.send(StepReport(step, {"repeat/val/macro_f1": single, "mean/val/macro_f1": mean}))
            connection.recv()
        return complete(0.4)

    opened, _ = scripted.run(train)
    assert opened.trials()[0].intermediate_values == {1: 0.2, 2: 0.6}


def test_a_size_at_its_bound_keeps_it(scripted: ScriptedStudy) -> None:
    scripted.only_svm()
    scripted.text = scripted.text.replace("trials = 4", "trials = 1")
    scripted.text += '\n[[constraint]]\nmetric = "size/file_mb"\nmax = 10\n'

    def train(task: RunTask, connection: Connection) -> Outcome:
        connection.send(StepReport(0, {"size/file_mb": 10.0}))
        assert connection.recv() == StepDecision()
        return complete(0.5, **{"size/file_mb": 10.0})

    opened, _ = scripted.run(train)
    assert [(row.state, row.feasible) for row in opened.rows()] == [("complete", True)]


def test_a_hopeless_trial_is_pruned_with_its_reason(scripted: ScriptedStudy) -> None:
    scripted.text = scripted.text.replace('["svm.toml", "tiny.toml"]', '"tiny.toml"').replace(
        "model.C", "train.lr"
    )
    scripted.text += '\n[pruner]\nname = "median"\nstartup_trials = 1\n'
    levels = iter([0.9, 0.8, 0.1, 0.1])

    def level(task: RunTask, connection: Connection) -> Outcome:
        value = next(levels)
        connection.send(StepReport(1, {"epoch/val/macro_f1": value}))
        verdict: StepDecision = connection.recv()
        return Outcome("pruned", verdict.prune, {}, now_ms()) if verdict.prune else complete(value)

    opened, _ = scripted.run(level)
    assert scripted.states(opened) == ["complete", "pruned", "pruned", "pruned"]
    assert opened.rows()[2].reason == "pruned at epoch 1: val/macro_f1 0.1000"


def test_repeated_configurations_are_not_run_and_end_an_exhausted_study(
    scripted: ScriptedStudy,
) -> None:
    scripted.text = scripted.text.replace('["svm.toml", "tiny.toml"]', '"svm.toml"').replace(
        "trials = 4", "trials = 99"
    )
    scripted.text = scripted.text.replace(
        "{ low = 0.1, high = 10.0, log = true }", "{ choices = [1.0, 2.0] }"
    )
    ran: list[Path] = []

    def train(task: RunTask, _: Connection) -> Outcome:
        ran.append(task.folder)
        return complete(task.experiment["model"]["C"] / 10)

    opened, ending = scripted.run(train)
    assert ending == "exhausted"
    assert len(ran) == 2
    rows = opened.rows()
    assert {row.params["model.C"]: row.value for row in rows} == {1.0: 0.1, 2.0: 0.2}
    assert (len(rows), opened.logical()) == (2, 2)  # nothing counts twice
    repeated = [trial for trial in opened.trials() if REPEATS in trial.user_attrs]
    assert len(repeated) == len(opened.trials()) - 2 >= budget.EXHAUSTED_AFTER
    assert all(trial.state == TrialState.FAIL for trial in repeated)  # as no sampler looks at
    assert not any(opened.attempt(trial.number).exists() for trial in repeated)
    by_number = {trial.number: trial.params for trial in opened.trials()}
    assert all(by_number[trial.user_attrs[REPEATS]] == trial.params for trial in repeated)


@pytest.mark.parametrize(
    "state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL]
)
def test_what_is_done_or_runs_is_not_run_again(scripted: ScriptedStudy, state: TrialState) -> None:
    scripted.only_svm()
    opened = scripted.open()
    first = opened.study.ask()
    scripted.definition.space.suggest(first)
    if state != TrialState.RUNNING:
        opened.study.tell(first, 0.5 if state == TrialState.COMPLETE else None, state=state)
    opened.study.enqueue_trial(first.params)
    second = opened.study.ask()
    scripted.definition.space.suggest(second)
    assert second.params == first.params
    assert opened.repeated(opened.frozen(second.number)) == (None if state == TrialState.FAIL else 0)
    assert opened.repeated(opened.frozen(0)) is None


def test_where_the_sampler_keeps_to_what_it_knows_chance_finds_the_rest(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.only_svm()
    choices = "{ choices = [1.0, 2.0, 3.0] }"
    scripted.text = scripted.text.replace("{ low = 0.1, high = 10.0, log = true }", choices)
    scripted.text = scripted.text.replace("trials = 4", "trials = 3")
    stubborn = PartialFixedSampler({"model.C": 1.0}, RandomSampler(0))
    monkeypatch.setattr(session, "build_sampler", lambda *_, **__: stubborn)
    opened, ending = scripted.run(lambda task, _: complete(task.experiment["model"]["C"]))
    assert ending == "finished"
    assert {row.params["model.C"] for row in opened.rows()} == {1.0, 2.0, 3.0}


def test_repeats_end_a_study_only_in_a_row(scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "EXHAUSTED_AFTER", 2)
    scripted.only_svm()
    study = scripted.open().study
    for value in (1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0):  # after the base's own value, 1.0
        study.enqueue_trial({"model.C": value})
    opened, ending = scripted.run(lambda task, _: complete(task.experiment["model"]["C"]))
    assert ending == "finished"
    assert [row.params["model.C"] for row in opened.rows() if row.params] == [1.0, 2.0, 3.0, 4.0]


def test_the_best_value_so_far_is_recorded_with_the_study(scripted: ScriptedStudy) -> None:
    scripted.only_svm()
    values = iter([0.2, 0.9, 0.5, 0.7])
    opened, _ = scripted.run(lambda task, _: complete(next(values)))
    best = [(1, {"study/best": 0.2}), *((used, {"study/best": 0.9}) for used in (2, 3, 4))]
    assert list(opened.own_attempt.records()) == best
    assert scripted.state.best == (0.9, 1, "svm")
    assert scripted.state.since_best == 2


def test_the_smallest_value_is_the_best_of_one_to_minimize(scripted: ScriptedStudy) -> None:
    scripted.only_svm()
    scripted.text = scripted.text.replace('"maximize"', '"minimize"').replace("val/macro_f1", "val/loss")
    values = iter([0.2, 0.9, 0.1, 0.7])
    opened, _ = scripted.run(lambda task, _: Outcome("complete", "", {"val/loss": next(values)}, now_ms()))
    assert [record["study/best"] for _, record in opened.own_attempt.records()] == [0.2, 0.2, 0.1, 0.1]


def test_what_the_caches_had_is_summed_over_the_session(scripted: ScriptedStudy) -> None:
    found = iter([(10.0, 0.0), (10.0, 4.0), (0.0, 0.0), (20.0, 20.0)])

    def train(task: RunTask, _: Connection) -> Outcome:
        lookups, hits = next(found)
        return complete(0.5, **{"cost/cache_lookups": lookups, "cost/cache_hits": hits})

    scripted.only_svm()
    scripted.run(train)
    assert (scripted.state.cache_lookups, scripted.state.cache_hits) == (40.0, 24.0)
    assert scripted.state.finished_here == 4


def test_an_exhausted_grid_is_a_finished_study(scripted: ScriptedStudy) -> None:
    scripted.text = scripted.text.replace('["svm.toml", "tiny.toml"]', '"svm.toml"').replace(
        "trials = 4", "trials = 99"
    )
    scripted.text += '[sampler]\nname = "grid"\npoints = 5\n'
    opened, ending = scripted.run(lambda task, _: complete(0.5), workers=2, stop_after=1)
    assert ending == "interrupted"
    opened, ending = scripted.run(lambda task, _: complete(0.5), workers=2)
    assert ending == "finished"
    tried = [row.params["model.C"] for row in opened.rows() if row.state == "complete"]
    grid = [0.1, 10**-0.5, 1.0, 10**0.5, 10.0]
    # The base's own value, 1.0, is tried first.
    assert sorted(tried) == pytest.approx(grid)
    assert scripted.run(lambda task, _: complete(0.5))[1] == "finished"
    assert len(opened.trials()) == len(opened.rows())


def test_values_that_exclude_each_other_cost_one_trial_and_not_the_study(scripted: ScriptedStudy) -> None:
    scripted.text = scripted.text.replace('["svm.toml", "tiny.toml"]', '"svm.toml"').replace(
        "trials = 4", "trials = 8"
    )
    scripted.text += '"data.frames" = { choices = [2, 8] }\n"data.grid" = { choices = [4, 8] }\n'
    opened, ending = scripted.run(lambda task, _: complete(0.5))
    assert ending in ("finished", "errors")
    refused = [row for row in opened.rows() if row.state == "failed"]
    assert refused
    for row in refused:
        assert (row.params["data.frames"], row.params["data.grid"]) == (8, 4)
        assert "data.frames = 8 is larger than data.grid = 4" in row.reason
        assert opened.attempt(row.number).outcome() is not None
    assert "running" not in scripted.states(opened)


@pytest.mark.parametrize("by", ["seed", "fold"])
def test_a_repeat_without_a_finite_value_is_no_reason_to_prune(scripted: ScriptedStudy, by: str) -> None:
    scripted.only_svm()
    scripted.text = scripted.text.replace(
        'direction = "maximize"', f'direction = "maximize"\nrepeats = 3\nrepeat_by = "{by}"'
    ).replace("[space]", '[pruner]\nname = "threshold"\nlower = 0.0\n[space]')

    def diverges(task: RunTask, connection: Connection) -> Outcome:
        for step in (1, 2):
            connection.send(
                StepReport(step, {"repeat/val/macro_f1": math.nan, "mean/val/macro_f1": math.nan})
            )
            verdict = connection.recv()
            if verdict.prune:
                return Outcome("pruned", verdict.prune, {}, now_ms())
        return complete(math.nan)

    opened, ending = scripted.run(diverges)
    assert ending == "errors"
    assert [row.reason for row in opened.rows() if row.state == "failed"] == [
        "the objective val/macro_f1 is nan"
    ] * 3


def test_a_plan_does_not_count_on_trials_of_another_study(scripted: ScriptedStudy) -> None:
    scripted.only_svm()
    old, _ = scripted.run(lambda task, _: complete(0.5))
    scripted.text = 'name = "wider"\n' + scripted.text.replace("high = 10.0", "high = 50.0")
    new = scripted.open()
    assert warm_start.seed(new, old, scripted.definition.space) == (4, 0)
    assert describe_plan(scripted.definition, scripted.store)["seconds_left"] is None
    scripted.run(lambda task, _: complete(0.5))
    held = describe_plan(scripted.definition, scripted.store)["store_bytes"]
    assert held > 0
    scripted.text = scripted.text.replace("trials = 4", "trials = 8")
    scripted.open()
    assert describe_plan(scripted.definition, scripted.store)["store_bytes"] == 2 * held
