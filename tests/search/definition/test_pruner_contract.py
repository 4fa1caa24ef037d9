"""What Optuna's tests ask of its pruners, asked of vidclf's, which see the trials of one base."""

from collections.abc import Callable, Sequence
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.pruners import BasePruner
from optuna.testing.pruners import DeterministicPruner
from optuna.trial import TrialState, create_trial

from tests.rounds import rounds
from vidclf.search.definition.pruners import PRUNERS, Hyperband, PatientPruner, PerBasePruner, PrunerConfig

BASES = optuna.distributions.CategoricalDistribution(("a", "b"))
LAST = 9
"""The last step of every trial here."""
OPTIONS: dict[str, dict[str, Any]] = {
    "median": {"startup_trials": 1},
    "percentile": {"startup_trials": 1},
    "patient": {"startup_trials": 1, "patience": 1},
    "threshold": {"lower": 0.3},
}
values = st.lists(st.floats(0, 1), min_size=LAST, max_size=LAST)


def settings_of(name: str) -> PrunerConfig:
    return PRUNERS[name](**OPTIONS.get(name, {}))


def per_base(build: Callable[[], BasePruner]) -> PerBasePruner:
    return PerBasePruner({stem: build() for stem in "ab"}, dict.fromkeys("ab", LAST + 1), None, paired=False)


def study_of(pruner: BasePruner, direction: str = "maximize") -> optuna.Study:
    return optuna.create_study(direction=direction, pruner=pruner)


def start(study: optuna.Study, stem: str, root: int) -> optuna.Trial:
    """A running trial of a base; its place in Hyperband is that of its root."""
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params={"base": stem},
            distributions={"base": BASES},
            user_attrs={"root": root},
        )
    )
    return study.ask()


def run(study: optuna.Study, stem: str, root: int, curve: Sequence[float]) -> int | None:
    """The step at which a trial is pruned."""
    trial = start(study, stem, root)
    for step, value in enumerate(curve, start=1):
        trial.report(value, step)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return step
    study.tell(trial, curve[-1])
    return None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("name", PRUNERS)
@settings(max_examples=rounds(4, 8))
@given(data=st.data())
def test_other_bases_trials_change_nothing(name: str, direction: str, data: st.DataObject) -> None:
    mine, others = (data.draw(st.lists(values, min_size=4, max_size=8)) for _ in range(2))
    alone = study_of(settings_of(name).build(LAST), direction)
    mixed = study_of(per_base(lambda: settings_of(name).build(LAST)), direction)
    for place, curve in enumerate(mine):
        for other in others[place : place + 1]:
            run(mixed, "b", 1000 + place, other)
        assert run(mixed, "a", place, curve) == run(alone, "a", place, curve)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", PRUNERS)
def test_without_a_value_and_without_others_no_trial_is_pruned(name: str) -> None:
    study = study_of(per_base(lambda: settings_of(name).build(LAST)))
    trial = start(study, "a", 0)
    assert not trial.should_prune()
    trial.report(1.0, 1)
    assert not trial.should_prune()


@pytest.mark.parametrize(("direction", "decisive"), [("minimize", (2.1, 1.9)), ("maximize", (3.9, 4.1))])
def test_a_quartile_is_that_of_the_base(direction: str, decisive: tuple[float, float]) -> None:
    study = study_of(per_base(lambda: PRUNERS["percentile"](startup_trials=0).build(LAST)), direction)
    for place, value in enumerate([1, 2, 3, 4, 5]):
        trial = start(study, "a", place)
        trial.report(value, 1)
        study.tell(trial, value)
        run(study, "b", 100 + place, [1000.0 if direction == "maximize" else -1000.0])
    assert [run(study, "a", 200 + place, [value]) for place, value in enumerate(decisive)] == [1, None]


@pytest.mark.parametrize(("patience", "min_delta", "direction", "reported", "expected"), [
    (1, 0.0, "maximize", [1, 1], [2]),
    (1, 0.0, "maximize", [1, 2, 2, 3], [3]),
    (2, 0.0, "maximize", [1, 2, 2, 2], [4]),
    (1, 0.0, "minimize", [2, 1, 1, 0], [3]),
    (1, 1.0, "maximize", [1, 2, 4, 5], [2, 4]),
    (2, 1.0, "minimize", [9, 8, 6, 6, 5], [5]),
    (3, 0.0, "maximize", [1, 1, 1], []),
])  # fmt: skip
def test_patience_over_best_values_so_far(
    patience: int, min_delta: float, direction: str, reported: list[float], expected: list[int]
) -> None:
    study = study_of(PatientPruner(DeterministicPruner(True), patience, min_delta), direction)
    trial = study.ask()
    pruned = []
    for step, value in enumerate(reported, start=1):
        trial.report(value, step)
        if trial.should_prune():
            pruned.append(step)
    assert pruned == expected
    study.pruner = PatientPruner(DeterministicPruner(False), patience, min_delta)
    assert not trial.should_prune(), "without progress the inner pruner decides"


def test_successive_halving_notes_its_rungs_in_the_whole_study() -> None:
    """As what a trial that goes on takes over from the one that was cut short."""
    study = study_of(per_base(lambda: PRUNERS["asha"](reduction_factor=2).build(LAST)))
    for root in range(3):
        assert run(study, "a", root, [0.5 - root / 10, 0.6 - root / 10]) == (1 if root else None)
    rungs = [
        {key: value for key, value in trial.system_attrs.items() if key.startswith("completed_rung_")}
        for trial in study.trials
    ]
    assert rungs == [
        {"completed_rung_0": 0.5, "completed_rung_1": 0.6},
        {"completed_rung_0": 0.4},
        {"completed_rung_0": 0.3},
    ]


class Recorder(optuna.samplers.RandomSampler):
    """Notes how many trials it is shown."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.shown: list[int] = []

    def sample_independent(self, study: optuna.Study, *args: Any) -> Any:
        self.shown.append(len(study.get_trials(deepcopy=False)))
        return super().sample_independent(study, *args)


@pytest.mark.parametrize("name", PRUNERS)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_sampler_is_shown_every_trial(name: str) -> None:
    """Optuna's own Hyperband shows it those of one bracket."""
    sampler = Recorder()
    study = optuna.create_study(sampler=sampler, pruner=per_base(lambda: settings_of(name).build(LAST)))
    for _ in range(6):
        trial = study.ask()
        trial.suggest_categorical("base", ["a", "b"])
        study.tell(trial, 0.0)
    assert sampler.shown == [1, 2, 3, 4, 5, 6]


class Witness(BasePruner):
    """Keeps what it is asked about."""

    def __init__(self) -> None:
        self.studies: list[optuna.Study] = []

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        self.studies.append(study)
        return False


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_filtered_study_is_a_study_of_its_trials(direction: str) -> None:
    """All that a pruner may ask of a study holds for the trials of one base."""
    witness, whole = Witness(), optuna.create_study(direction=direction)
    study = study_of(per_base(lambda: witness), direction)
    ended = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE]
    for place, state in enumerate(ended):
        for stem, others in (("a", [study, whole]), ("b", [study])):
            for each in others:
                value = float(place) if state == TrialState.COMPLETE else None
                each.add_trial(
                    create_trial(
                        state=state, value=value, params={"base": stem}, distributions={"base": BASES}
                    )
                )
    better = 9.0 if direction == "maximize" else -9.0
    for each in (study, whole):
        each.add_trial(
            create_trial(
                value=better, params={"base": "a"}, distributions={"base": BASES}, constraints={"size": 1.0}
            )
        )
    trial = start(study, "a", 1000)
    trial.report(0.5, 1)
    assert not trial.should_prune()
    [filtered] = witness.studies
    assert [each.values for each in filtered.trials] == [each.values for each in whole.trials]
    for states in [(TrialState.COMPLETE,), (TrialState.PRUNED, TrialState.FAIL)]:
        assert [each.state for each in filtered.get_trials(deepcopy=False, states=states)] == [
            each.state for each in whole.get_trials(states=states)
        ]
    assert filtered.best_trial.values == whole.best_trial.values != [better]
    assert filtered.best_value == whole.best_value
    assert filtered.best_params == whole.best_params
    assert filtered.direction == whole.direction
    assert filtered.study_name == study.study_name
    filtered._storage.set_trial_system_attr(trial._trial_id, "seen", True)
    assert study.trials[-1].system_attrs["seen"] is True


def test_without_a_feasible_trial_there_is_no_best() -> None:
    witness = Witness()
    study = study_of(per_base(lambda: witness))
    study.add_trial(create_trial(value=1.0, params={"base": "b"}, distributions={"base": BASES}))
    start(study, "a", 0).should_prune()
    with pytest.raises(ValueError):
        _ = witness.studies[0].best_trial


def test_brackets_share_the_trials_as_the_paper_has_it() -> None:
    """Early brackets have more trials, so that each costs about the same."""
    pruner = Hyperband(1, LAST, 3)
    study = optuna.create_study()
    for _ in range(400):
        study.add_trial(create_trial(value=0.0))
    brackets = [pruner.bracket(trial) for trial in study.trials]
    counts = [brackets.count(bracket) for bracket in range(3)]
    assert sum(counts) == 400
    # 9, 5 and 3 of every 17.
    assert counts == pytest.approx([400 * share / 17 for share in (9, 5, 3)], rel=0.25)
