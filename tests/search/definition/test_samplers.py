"""Samplers: what each takes and proposes."""

import math
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from tests.clips import write_experiment
from vidclf import config
from vidclf.exceptions import InputError
from vidclf.runs.experiment import load_experiment
from vidclf.search.definition.grid import every_point, exhausted
from vidclf.search.definition.samplers import (
    SAMPLERS,
    BruteForceConfig,
    GridConfig,
    QMCConfig,
    SamplerConfig,
    TPEConfig,
    build_sampler,
    sampler_problems,
)
from vidclf.search.definition.space import Space, build_space
from vidclf.search.definition.study_file import StudyFile

STUDY: dict[str, Any] = {
    "base": "a.toml",
    "objective": {"metric": "val/loss", "direction": "minimize"},
    "budget": {"trials": 1},
    "space": {"seed": {"low": 0, "high": 1}},
}
C = {"low": 0.1, "high": 10.0, "log": True}
GAMMA = {"low": 0.1, "high": 1.0, "step": 0.3, "when": {"model.kernel": "rbf"}}
RATE = {"low": 1e-4, "high": 1e-1, "log": True}
FRAMES, KERNEL = {"choices": [2, 4, 8]}, {"choices": ["linear", "rbf"]}
TABLES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "ranges": (("frames2d",), {"train.lr": RATE, "model.frozen_stages": {"low": 0, "high": 3}}),
    "mixed": (("svm",), {"model.C": C, "data.frames": FRAMES, "seed": {"low": 0, "high": 4}}),
    "choices": (("svm",), {"data.frames": FRAMES, "model.kernel": KERNEL}),
    "finite": (("svm",), {"data.frames": FRAMES, "model.kernel": KERNEL, "model.gamma": GAMMA}),
    "when": (("svm",), {"model.C": C, "model.kernel": KERNEL, "model.gamma": GAMMA}),
    "bases": (("svm", "frames2d"), {"model.C": C, "train.lr": RATE, "data.frames": FRAMES}),
}
OPTIONS: dict[str, dict[str, Any]] = {  # other than the defaults
    "tpe": {"startup_trials": 3, "ei_candidates": 8},
    "gp": {"startup_trials": 3, "deterministic": True},
    "cmaes": {"startup_trials": 2, "population_size": 4},
    "nsgaii": {"population_size": 3, "mutation_prob": 0.3},
    "qmc": {"kind": "halton", "scramble": True},
    "grid": {"points": 3},
}


def space_of(folder: Path, table: str, **values: str) -> Space:
    kinds, dimensions = TABLES[table]
    bases = {
        kind: load_experiment(write_experiment(folder / f"{kind}.toml", kind, folder / "m.csv", **values))
        for kind in kinds
    }
    return build_space(dimensions, bases, "study.toml", Path("/"))


def settings_of(name: str) -> SamplerConfig:
    return SAMPLERS[name](**OPTIONS.get(name, {}))


ACCEPTED = [
    (name, table)
    for name in SAMPLERS
    for table in TABLES
    if (SAMPLERS[name].conditional or table in ("ranges", "mixed", "choices"))
    and not (name == "cmaes" and table == "choices")
    and not (name == "brute_force" and table not in ("choices", "finite"))
]


def proposed(study: optuna.Study, space: Space, trials: int) -> list[dict[str, Any]]:
    """Asks, checks and tells; the value depends on the parameters alone."""
    points = []
    for _ in range(trials):
        trial = study.ask()
        stem, experiment = space.suggest(trial)
        tree = config.dump(experiment)
        for path, value in trial.params.items():
            assert path == "base" or config.lookup(tree, path) == value
        assert stem in space.bases
        points.append(trial.params)
        study.tell(trial, sum(value for value in trial.params.values() if isinstance(value, int | float)))
    return points


def test_every_sampler_is_tried_on_every_kind_of_space_it_takes() -> None:
    assert set(SAMPLERS) == {name for name, _ in ACCEPTED} >= {"tpe", "random", *OPTIONS}
    for name, kind in SAMPLERS.items():
        assert kind().name == name
        assert all(field.description for key, field in kind.model_fields.items() if key != "name")


@pytest.mark.parametrize(
    ("name", "table"),
    [pytest.param(*pair, marks=pytest.mark.slow if pair[0] == "gp" else ()) for pair in ACCEPTED],
)
def test_proposals_are_valid_and_follow_the_seed(name: str, table: str, tmp_path: Path) -> None:
    space, settings = space_of(tmp_path, table), settings_of(name)
    assert list(sampler_problems(settings, space, 1)) == []
    count = 5 if name == "gp" else 8  # it takes its time
    first, again = (
        proposed(optuna.create_study(sampler=build_sampler(settings, space, 0)), space, count)
        for _ in range(2)
    )
    assert first == again
    other = settings.model_copy(update={"seed": 1})
    assert first != proposed(optuna.create_study(sampler=build_sampler(other, space, 0)), space, count)


@pytest.mark.parametrize(("name", "table"), [pair for pair in ACCEPTED if pair[1] in ("ranges", "when")])
def test_a_resumed_sampler_proposes_new_points(name: str, table: str, tmp_path: Path) -> None:
    space, settings = space_of(tmp_path, table), settings_of(name)
    study = optuna.create_study(sampler=build_sampler(settings, space, 0))
    before = proposed(study, space, 2)
    study.sampler = build_sampler(settings, space, 2)
    after = proposed(study, space, 2)
    assert all(point not in before for point in after)


def test_proposals_of_supervisors_that_share_a_study_differ(tmp_path: Path) -> None:
    space = space_of(tmp_path, "ranges")
    one, two = (build_sampler(TPEConfig(), space, 0, uuid) for uuid in ("a", "b"))
    assert proposed(optuna.create_study(sampler=one), space, 3) != proposed(
        optuna.create_study(sampler=two), space, 3
    )


@pytest.mark.slow
def test_nothing_optuna_says_of_a_sampler_is_left_to_the_user(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for name, table in ACCEPTED:
            space = space_of(tmp_path, table)
            sampler = build_sampler(settings_of(name), space, 0)
            assert len(proposed(optuna.create_study(sampler=sampler), space, 6)) == 6, name
    assert [str(warning.message) for warning in said] == []


def test_qmc_spreads_over_the_parameters_of_every_base(tmp_path: Path) -> None:
    space = space_of(tmp_path, "bases")
    sampler = build_sampler(QMCConfig(), space, 0)
    points = proposed(optuna.create_study(sampler=sampler), space, 16)
    assert sorted(point["base"] for point in points) == ["frames2d"] * 8 + ["svm"] * 8
    for base, path, low, high in [("svm", "model.C", 0.1, 10.0), ("frames2d", "train.lr", 1e-4, 1e-1)]:
        middle = math.sqrt(low * high)
        below = sum(point[path] < middle for point in points if point["base"] == base)
        assert below == 4


@pytest.mark.parametrize(("name", "table", "points", "count"), [
    ("grid", "ranges", 4, 4 * 4),
    ("grid", "mixed", 3, 3 * 3 * 5),
    ("grid", "choices", None, 6),
    ("brute_force", "choices", None, 6),
    ("brute_force", "finite", None, 3 + 3 * 4),
])  # fmt: skip
def test_every_point_is_visited_once_and_then_the_study_is_done(
    name: str, table: str, points: int | None, count: int, tmp_path: Path
) -> None:
    space = space_of(tmp_path, table)
    settings = SAMPLERS[name](**({} if points is None else {"points": points}))
    study = optuna.create_study(sampler=build_sampler(settings, space, 0))
    visited: list[dict[str, Any]] = []
    while not exhausted(study):
        visited += proposed(study, space, 1)
        # Each resume makes a new sampler, which knows what was done.
        study.sampler = build_sampler(settings, space, len(visited))
        assert len(visited) <= count
    assert len(visited) == count
    assert len({config.digest(point) for point in visited}) == count


def test_grid_points_are_evenly_spaced_with_their_ends(tmp_path: Path) -> None:
    rates = {point["train.lr"] for point in every_point(space_of(tmp_path, "ranges"), 4)}
    assert sorted(rates) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])
    assert {min(rates), max(rates)} == {1e-4, 1e-1}
    steps = {point.get("model.gamma") for point in every_point(space_of(tmp_path, "finite"))}
    assert steps == {None, 0.1, 0.4, 0.7, 1.0}


def test_a_point_that_was_cut_short_runs_again_and_takes_nobodys_place(tmp_path: Path) -> None:
    space = space_of(tmp_path, "choices")
    study = optuna.create_study(sampler=build_sampler(GridConfig(), space, 0))
    cut = study.ask()
    space.suggest(cut)
    study.tell(cut, state=TrialState.FAIL)
    study.add_trial(
        create_trial(state=TrialState.WAITING, params=cut.params, distributions=cut.distributions)
    )
    points = proposed(study, space, 5)
    assert points[0] == cut.params
    assert not exhausted(study)
    points += proposed(study, space, 1)
    assert exhausted(study)
    assert len({config.digest(point) for point in points}) == 6


def test_a_last_point_that_waits_to_run_again_keeps_the_study_open(tmp_path: Path) -> None:
    space = space_of(tmp_path, "choices")
    study = optuna.create_study(sampler=build_sampler(BruteForceConfig(), space, 0))
    proposed(study, space, 5)
    last = study.ask()
    space.suggest(last)
    assert exhausted(study)
    study.tell(last, state=TrialState.FAIL)
    study.add_trial(
        create_trial(state=TrialState.WAITING, params=last.params, distributions=last.distributions)
    )
    assert not exhausted(study)


def test_a_given_point_off_the_grid_is_filled_up(tmp_path: Path) -> None:
    space = space_of(tmp_path, "ranges")
    study = optuna.create_study(sampler=build_sampler(GridConfig(points=2), space, 0))
    study.enqueue_trial({"train.lr": 0.005})
    points = proposed(study, space, 9)
    assert points[0]["train.lr"] == 0.005
    assert exhausted(study)


def test_values_that_exclude_each_other_are_no_point_of_a_grid(tmp_path: Path) -> None:
    bases = {"svm": load_experiment(write_experiment(tmp_path / "svm.toml", "svm", tmp_path / "m.csv"))}
    table = {"data.frames": {"choices": [2, 8]}, "data.grid": {"choices": [4, 8]}}
    points = every_point(build_space(table, bases, "study.toml", Path("/")))
    assert {(point["data.frames"], point["data.grid"]) for point in points} == {(2, 4), (2, 8), (8, 8)}


@pytest.mark.parametrize(("name", "table", "problem"), [
    ("gp", "when", "model.gamma is searched only when model.kernel = rbf; tpe, nsgaii, "),
    ("cmaes", "bases", "the parameters depend on the base (svm, frames2d)"),
    ("grid", "finite", "the sampler grid searches the same parameters in each trial, but model.gamma is"),
    ("cmaes", "choices", "the sampler cmaes moves along ranges, and this space has only choices"),
    ("brute_force", "ranges", "train.lr has no step; give it one, or take the sampler grid with points"),
])  # fmt: skip
def test_a_space_that_a_sampler_cannot_search_is_refused(
    name: str, table: str, problem: str, tmp_path: Path
) -> None:
    [found] = sampler_problems(settings_of(name), space_of(tmp_path, table), 1)
    assert problem in found


def test_a_grid_needs_points_and_has_not_too_many(tmp_path: Path) -> None:
    space = space_of(tmp_path, "ranges")
    [found] = sampler_problems(GridConfig(), space, 1)
    assert found.endswith("train.lr has no step; give it one, or set sampler.points")
    [found] = sampler_problems(GridConfig(points=2501), space, 1)
    assert found == "the sampler grid would try up to 10004 points; the most it takes is 10000"
    seeds = {("svm", "seed"): config.Range(low=0, high=10**12 - 1)}
    huge = Space(space_of(tmp_path, "choices").bases, seeds)
    [found] = sampler_problems(BruteForceConfig(), huge, 1)
    assert "up to 1000000000000 points" in found


@pytest.mark.slow
def test_several_objectives(tmp_path: Path) -> None:
    space = space_of(tmp_path, "ranges")
    refused = {
        name
        for name in SAMPLERS
        if name != "brute_force" and list(sampler_problems(settings_of(name), space, 2))
    }
    assert refused == {"cmaes"}
    for name in set(SAMPLERS) - refused - {"brute_force"}:
        study = optuna.create_study(
            directions=["minimize", "maximize"], sampler=build_sampler(settings_of(name), space, 0)
        )
        for _ in range(6):
            trial = study.ask()
            space.suggest(trial)
            study.tell(trial, [trial.params["train.lr"], trial.params["model.frozen_stages"]])


@pytest.mark.parametrize(("table", "message"), [
    ({"name": "random", "startup_trials": 3},
     "sampler.startup_trials has no effect with the sampler random; it is an option of tpe, gp, cmaes"),
    ({"name": "tpee"}, "unknown sampler 'tpee', did you mean tpe? (there are tpe, gp, cmaes, "),
    ({"name": "qmc", "kind": "sobl"}, "kind: Input should be 'sobol' or 'halton'"),
    ({"name": "nsgaii", "mutation_prob": 1.5}, "mutation_prob: Input should be less than or equal to 1"),
    ({"name": "nsgaii", "population_size": 1}, "population_size: Input should be greater than or equal to 2"),
    ({"name": "grid", "points": 1}, "points: Input should be greater than or equal to 2"),
    ({"name": "tpe", "startup_trials": 0}, "startup_trials: Input should be greater than or equal to 1"),
])  # fmt: skip
def test_sampler_options_are_checked(table: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        config.validate(StudyFile, {**STUDY, "sampler": table}, "study.toml")
    assert message in str(caught.value)
