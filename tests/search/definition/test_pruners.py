"""Pruners: what each takes and decides."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from tests.clips import write_experiment
from tests.rounds import rounds
from vidclf import config
from vidclf.exceptions import InputError
from vidclf.runs.experiment import load_experiment
from vidclf.search.definition.pruners import (
    PRUNERS,
    ASHAConfig,
    Hyperband,
    HyperbandConfig,
    MedianConfig,
    PatientConfig,
    PercentileConfig,
    PrunerConfig,
    ThresholdConfig,
    WilcoxonConfig,
    build_pruner,
    compares_repeats,
    pruner_problems,
)
from vidclf.search.definition.space import Space, build_space
from vidclf.search.definition.study_file import StudyFile
from vidclf.search.execution.recovery import inherited

STUDY: dict[str, Any] = {
    "base": "a.toml",
    "objective": {"metric": "val/loss", "direction": "minimize"},
    "budget": {"trials": 1},
    "space": {"seed": {"low": 0, "high": 1}},
}
KINDS = {"svm": 1, "frames2d": 9, "volume3d": 27}
BASE = optuna.distributions.CategoricalDistribution(tuple(KINDS))


@pytest.fixture
def three(tmp_path: Path) -> Space:
    """An SVM, and two networks that train 9 and up to 27 epochs."""
    bases = {
        kind: load_experiment(
            write_experiment(
                tmp_path / f"{kind}.toml",
                kind,
                tmp_path / "m.csv",
                **({"train": "epochs = 9"} if last > 1 else {}),
            )
        )
        for kind, last in KINDS.items()
    }
    table = {
        "train.epochs": {"low": 3, "high": 27, "when": {"base": "volume3d"}},
        "data.frames": {"choices": [2, 4]},
    }
    return build_space(table, bases, "study.toml", Path("/"))


def study_of(
    space: Space, settings: PrunerConfig, repeats: int = 1, direction: str = "maximize"
) -> optuna.Study:
    return optuna.create_study(direction=direction, pruner=build_pruner(settings, space, repeats))


def finished(study: optuna.Study, stem: str, curve: Sequence[float], **attributes: Any) -> None:
    study.add_trial(
        create_trial(
            params={"base": stem},
            distributions={"base": BASE},
            value=curve[-1],
            intermediate_values=dict(enumerate(curve, start=1)),
            user_attrs=attributes,
        )
    )


def decisions(study: optuna.Study, stem: str, curve: Sequence[float]) -> list[bool]:
    """Whether each step of a new trial is pruned; the trial goes on all the same, and stays running."""
    trial = ask(study, stem)
    return [decide(trial, value, step) for step, value in enumerate(curve, start=1)]


def ask(study: optuna.Study, stem: str) -> optuna.Trial:
    study.enqueue_trial({"base": stem})
    trial = study.ask()
    trial.suggest_categorical("base", list(KINDS))
    return trial


def decide(trial: optuna.Trial, value: float, step: int) -> bool:
    trial.report(value, step)
    return trial.should_prune()


def test_median_compares_a_trial_with_its_own_base_only(three: Space) -> None:
    study = study_of(three, MedianConfig(startup_trials=2))
    for stem, value in [("volume3d", 0.9), ("volume3d", 0.8), ("frames2d", 0.3)]:
        finished(study, stem, [value] * 3)
    assert decisions(study, "frames2d", [0.1, 0.1]) == [False, False], "one complete trial is not enough"
    finished(study, "frames2d", [0.2] * 3)
    assert decisions(study, "frames2d", [0.1, 0.4]) == [True, False]
    assert decisions(study, "volume3d", [0.4]) == [True]


def test_percentile_keeps_the_best(three: Space) -> None:
    curves = [[value / 10] for value in range(1, 9)]
    for percentile, pruned in [(25.0, 0.6), (75.0, 0.2)]:
        study = study_of(three, PercentileConfig(percentile=percentile, startup_trials=4))
        for curve in curves:
            finished(study, "frames2d", curve)
        assert decisions(study, "frames2d", [pruned]) == [True]
        assert decisions(study, "frames2d", [pruned + 0.1]) == [False]


def test_warm_up_epochs_are_epochs_without_pruning(three: Space) -> None:
    for settings in (
        MedianConfig(startup_trials=1, warmup_epochs=2),
        ThresholdConfig(lower=0.5, warmup_epochs=2),
    ):
        study = study_of(three, settings)
        finished(study, "frames2d", [0.9] * 9)
        assert decisions(study, "frames2d", [0.1] * 4) == [False, False, True, True]


def test_threshold(three: Space) -> None:
    study = study_of(three, ThresholdConfig(lower=0.2, upper=0.8))
    assert decisions(study, "frames2d", [0.1, 0.3, 0.9]) == [True, False, True]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_patient_waits_for_a_standstill(three: Space, direction: str) -> None:
    sign = 1 if direction == "maximize" else -1
    settings = PatientConfig(patience=2, min_delta=0.01, startup_trials=1)
    study = study_of(three, settings, direction=direction)
    finished(study, "frames2d", [sign * 0.9] * 9)
    curve = [0.1, 0.2, 0.3, 0.3, 0.305, 0.5]
    assert decisions(study, "frames2d", [sign * value for value in curve]) == [False] * 4 + [True, False]
    good = [sign * 0.95] * 5
    assert decisions(study, "frames2d", good) == [False] * 5


def test_asha_lets_one_of_so_many_go_on(three: Space) -> None:
    study = study_of(three, ASHAConfig(min_epochs=2, reduction_factor=2))
    assert decisions(study, "frames2d", [0.5] * 5) == [False] * 5
    assert decisions(study, "frames2d", [0.4, 0.4]) == [False, True]
    assert decisions(study, "frames2d", [0.6] * 3) == [False] * 3
    assert decisions(study, "volume3d", [0.1] * 3) == [False] * 3, "the other base has its own rungs"


def test_hyperband_has_the_brackets_of_each_bases_own_epochs(three: Space) -> None:
    pruner = build_pruner(HyperbandConfig(reduction_factor=3), three)
    inner: dict[str, Hyperband] = pruner._inner  # type: ignore[attr-defined]
    assert {stem: len(hyperband._brackets) for stem, hyperband in inner.items()} == {
        "svm": 1, "frames2d": 3, "volume3d": 4,
    }  # fmt: skip
    with_repeats: Any = build_pruner(HyperbandConfig(reduction_factor=3), three, repeats=9)
    assert {len(hyperband._brackets) for hyperband in with_repeats._inner.values()} == {3}


def test_hyperband_compares_within_base_and_bracket(three: Space) -> None:
    study = study_of(three, HyperbandConfig(reduction_factor=3))
    inner: dict[str, Hyperband] = study.pruner._inner  # type: ignore[attr-defined]
    seen: dict[tuple[str, int], int] = {}
    for number in range(60):
        stem = ("frames2d", "volume3d")[number % 2]
        trial = ask(study, stem)
        bracket = inner[stem].bracket(study.trials[trial.number])
        pruned = [decide(trial, 1.0 - number / 100, step) for step in range(1, 9)]
        first = 3**bracket
        # Ever worse values: the first of a bracket is kept, those after it are pruned at its first rung.
        expected = seen.get((stem, bracket), 0) > 0 and first < 9
        assert (pruned.index(True) + 1 if any(pruned) else None) == (first if expected else None)
        seen[stem, bracket] = seen.get((stem, bracket), 0) + 1
    assert len(seen) == 7
    assert seen["frames2d", 0] > seen["frames2d", 2]


def test_hyperband_does_not_depend_on_the_studys_name(three: Space) -> None:
    curves = [[((7 * number) % 10) / 10] * 8 for number in range(20)]
    one, two = (
        [decisions(study, "frames2d", curve) for curve in curves]
        for study in (study_of(three, HyperbandConfig()) for _ in range(2))
    )
    assert one == two
    assert any(any(each) for each in one)


RESUMABLE = {
    "median": {"startup_trials": 2},
    "percentile": {"startup_trials": 2, "percentile": 30.0},
    "patient": {"startup_trials": 2, "patience": 2, "min_delta": 0.25},
    "hyperband": {"reduction_factor": 2},
    "asha": {"reduction_factor": 2},
    "threshold": {"lower": 0.3},
    "wilcoxon": {},
    "none": {},
}


def test_every_pruner_is_tried() -> None:
    assert set(RESUMABLE) == set(PRUNERS)
    for name, kind in PRUNERS.items():
        assert kind(**RESUMABLE[name]).name == name
        assert all(field.description for key, field in kind.model_fields.items() if key != "name")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == "wilcoxon" else ()) for name in PRUNERS],
)
@pytest.mark.parametrize("cut", rounds([1, 3], [1, 2, 3, 5]))
def test_a_trial_that_goes_on_is_judged_as_an_unbroken_one(name: str, cut: int, three: Space) -> None:
    """In each of two equal studies every second trial runs; in one it is cut short and goes on."""
    verdicts = []
    for breaks in (False, True):
        study = study_of(three, PRUNERS[name](**RESUMABLE[name]), repeats=9 if name == "wilcoxon" else 1)
        verdicts.append([_run(study, index, cut if breaks and index % 2 else None) for index in range(16)])
    assert verdicts[0] == verdicts[1]
    assert any(any(verdict) for verdict in verdicts[0]) or name == "none"


def _run(study: optuna.Study, index: int, cut: int | None) -> list[bool]:
    """Runs configuration ``index`` until it is pruned or has all of 8 steps."""
    curve = [((5 * index + 3) % 16) / 20 + step / 10 for step in range(1, 9)]
    # Its place in Hyperband is that of its first number, which interruptions of others must not change.
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params={"base": "frames2d"},
            distributions={"base": BASE},
            user_attrs={"root": 1000 + index},
        )
    )
    trial = study.ask()
    verdict: list[bool] = []
    for step, value in enumerate(curve, start=1):
        if cut == step - 1:
            broken = study.trials[trial.number]
            study.tell(trial, state=TrialState.FAIL)
            study.add_trial(
                create_trial(
                    state=TrialState.WAITING,
                    params=broken.params,
                    distributions=broken.distributions,
                    intermediate_values=broken.intermediate_values,
                    user_attrs={**broken.user_attrs, "retry_of": broken.number},
                    system_attrs=inherited(broken),
                )
            )
            trial = study.ask()
        verdict.append(decide(trial, value, step))
        if verdict[-1]:
            study.tell(trial, state=TrialState.PRUNED)
            return verdict
    study.tell(trial, curve[-1])
    return verdict


@pytest.mark.parametrize("name", PRUNERS)
def test_families_that_report_once_are_never_pruned(name: str, three: Space) -> None:
    study = study_of(three, PRUNERS[name](**RESUMABLE[name]))
    for _ in range(6):
        finished(study, "svm", [0.9])
    assert decisions(study, "svm", [0.1]) == [False]


def test_a_last_epoch_is_not_pruned(three: Space) -> None:
    study = study_of(three, ThresholdConfig(lower=0.5))
    assert decisions(study, "frames2d", [0.1] * 9) == [True] * 8 + [False]
    trial = ask(study, "volume3d")
    trial.suggest_int("train.epochs", 3, 3)
    assert [decide(trial, 0.1, step) for step in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize("own", [5, 40])
def test_where_epochs_are_not_always_searched_the_bases_own_are_its_last(own: int, tmp_path: Path) -> None:
    path = write_experiment(tmp_path / "a.toml", "frames2d", tmp_path / "m.csv", train=f"epochs = {own}")
    epochs = {"low": 3, "high": 20, "when": {"data.frames": 2}}
    table = {"data.frames": {"choices": [2, 4]}, "train.epochs": epochs}
    space = build_space(table, {"a": load_experiment(path)}, "study.toml", Path("/"))
    study = study_of(space, ThresholdConfig(lower=0.5))
    assert [decide(trial, 0.1, step) for trial in [study.ask()] for step in range(1, own + 1)] == [
        *[True] * (own - 1),
        False,
    ]
    brackets = build_pruner(HyperbandConfig(), space)._inner["a"]._brackets  # type: ignore[attr-defined]
    assert len(brackets) == {5: 3, 40: 4}[own], "for the 20 that are searched, or the 40 that are not"


def test_wilcoxon_compares_repeat_by_repeat_with_the_best_of_the_base(three: Space) -> None:
    study = study_of(three, WilcoxonConfig(), repeats=8)
    assert compares_repeats(study)
    assert not compares_repeats(study_of(three, MedianConfig(), repeats=8))
    finished(study, "frames2d", [0.5, 0.7, 0.4, 0.6, 0.5, 0.7, 0.4, 0.6])
    finished(study, "volume3d", [0.99] * 8)
    worse = [0.4, 0.6, 0.3, 0.5, 0.4, 0.6, 0.3]
    assert decisions(study, "frames2d", worse) == [False] * 3 + [True] * 4
    assert decisions(study, "frames2d", [0.6, 0.8, 0.5, 0.7]) == [False] * 4


@pytest.mark.parametrize(("table", "message"), [
    ({"name": "none", "startup_trials": 3}, "no effect with the pruner none; it is an option of median"),
    ({"name": "median", "patience": 3}, "patience has no effect with the pruner median; it is an option of"),
    ({"name": "hyperbnd"}, "unknown pruner 'hyperbnd', did you mean hyperband?"),
    ({"name": "threshold"}, "the pruner threshold needs pruner.lower or pruner.upper"),
    ({"name": "threshold", "lower": 2, "upper": 1}, "pruner.lower = 2.0 is not below pruner.upper = 1.0"),
    ({"name": "percentile", "percentile": 120}, "percentile: Input should be less than 100"),
    ({"name": "hyperband", "reduction_factor": 1}, "reduction_factor: Input should be greater than"),
    ({"name": "asha", "min_epochs": 0}, "min_epochs: Input should be greater than or equal to 1"),
    ({"name": "wilcoxon", "p_threshold": 0.0}, "p_threshold: Input should be greater than 0"),
])  # fmt: skip
def test_pruner_options_are_checked(table: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        config.validate(StudyFile, {**STUDY, "pruner": table}, "study.toml")
    assert message in str(caught.value)


def test_a_pruner_that_could_never_prune_is_refused(three: Space) -> None:
    [found] = pruner_problems(WilcoxonConfig(), three, 1)
    assert found == "the pruner wilcoxon compares repeats; set objective.repeats"
    [found] = pruner_problems(WilcoxonConfig(), three, 4)
    assert "where p is at least 0.125; it takes objective.repeats = 5" in found
    assert list(pruner_problems(WilcoxonConfig(), three, 5)) == []
    [found] = pruner_problems(ASHAConfig(min_epochs=27), three, 1)
    assert found == "pruner.min_epochs = 27 leaves nothing to prune: the longest trial has 27"
    assert list(pruner_problems(HyperbandConfig(min_epochs=26), three, 1)) == []
