"""Spaces over one or several bases: checked before the first trial, sampled into valid configs."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.clips import write_experiment
from vidclf import config
from vidclf.exceptions import InputError
from vidclf.models.networks import NETWORKS
from vidclf.runs.experiment import load_experiment
from vidclf.search.definition.space import Space, build_space


@pytest.fixture
def bases(tmp_path: Path) -> dict[str, Any]:
    manifest = tmp_path / "manifest.csv"
    return {
        kind: load_experiment(write_experiment(tmp_path / f"{kind}.toml", kind, manifest))
        for kind in ("svm", "frames2d", "volume3d")
    }


def space(table: dict[str, Any], bases: dict[str, Any]) -> Space:
    return build_space(table, bases, "study.toml", Path("/"))


def problems(table: dict[str, Any], bases: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        space(table, bases)
    return str(caught.value)


TABLE = {
    "data.frames": {"choices": [2, 4]},
    "train.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "train.label_smoothing": {"low": 0, "high": 1},
    "model.frozen_stages": {"low": 0, "high": 3},
    "model.kernel": {"choices": ["linear", "rbf"]},
    "model.gamma": {"low": 1e-4, "high": 1e0, "log": True, "when": {"model.kernel": "rbf"}},
}


def test_a_key_applies_to_each_base_that_has_it(bases: dict[str, Any]) -> None:
    dimensions = space(TABLE, bases).dimensions
    assert {stem for stem, path in dimensions if path == "data.frames"} == {"svm", "frames2d", "volume3d"}
    assert {stem for stem, path in dimensions if path == "train.lr"} == {"frames2d", "volume3d"}
    assert {stem for stem, path in dimensions if path == "model.gamma"} == {"svm"}


def test_samples_are_valid_configs_with_just_their_own_parameters(bases: dict[str, Any]) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    searched = space(TABLE, bases)
    stems, kernels = set(), set()
    for _ in range(60):
        trial = study.ask()
        stem, experiment = searched.suggest(trial)
        study.tell(trial, 0.0)
        stems.add(stem)
        tree = config.dump(experiment)
        assert trial.params["base"] == stem
        for path, value in trial.params.items():
            assert path == "base" or config.lookup(tree, path) == value
        if stem == "svm":
            kernel = trial.params["model.kernel"]
            kernels.add(kernel)
            assert ("model.gamma" in trial.params) == (kernel == "rbf")
            assert "train.lr" not in trial.params
        else:
            assert "model.kernel" not in trial.params
            assert isinstance(trial.params["train.label_smoothing"], float)
            assert isinstance(trial.params["model.frozen_stages"], int)
    assert stems == {"svm", "frames2d", "volume3d"}
    assert kernels == {"linear", "rbf"}


def test_whole_numbers_over_a_real_key_are_a_real_range(bases: dict[str, Any]) -> None:
    dimension = space(TABLE, bases).dimensions["frames2d", "train.label_smoothing"]
    assert isinstance(dimension, config.Range)
    assert not dimension.integer


def test_one_base_needs_no_base_parameter(bases: dict[str, Any]) -> None:
    trial = optuna.create_study().ask()
    only = {"svm": bases["svm"]}
    stem, _ = space({"model.C": {"low": 1.0, "high": 2.0}}, only).suggest(trial)
    assert stem == "svm"
    assert list(trial.params) == ["model.C"]


def test_default_takes_the_range_that_the_models_author_vouches_for(bases: dict[str, Any]) -> None:
    dimension = space({"model.C": "default"}, bases).dimensions["svm", "model.C"]
    assert isinstance(dimension, config.Range)
    assert dimension.log
    assert "no default range" in problems({"seed": "default"}, bases)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"train.lrr": {"low": 0.1, "high": 1.0}}, "no base has the key train.lrr, did you mean train.lr?"),
        ({"train.xyz": 1}, "no base has the key train.xyz (there are train.acc"),
        ({"train.lr": {"low": 1.0, "high": 0.1}}, "low = 1.0 is above high = 0.1"),
        ({"train.lr": {"lo": 1.0, "high": 2.0}}, "unknown key lo, did you mean low?"),
        ({"train.lr": 0.1}, "expected { low, high }"),
        ({"data.frames": {"choices": [4, 99]}}, "data.frames = 99 is larger than data.grid = 8"),
        ({"model.frozen_stages": {"low": 0, "high": 4}}, "(in base frames2d)"),
        ({"model.kernel": {"choices": ["rbf", "cubic"]}}, "cubic"),
        ({"model.gamma": {"low": 0.1, "high": 1.0, "when": {"model.krnel": "rbf"}}}, "model.kernel?"),
        (
            {
                "model.C": {"low": 1.0, "high": 2.0, "when": {"model.gamma": 1.0}},
                "model.gamma": {"low": 0.1, "high": 1.0, "when": {"model.C": 1.0}},
            },
            "model.C, model.gamma wait for each other",
        ),
    ],
)
def test_what_is_wrong_is_said_before_the_first_trial(
    bases: dict[str, Any], table: dict[str, Any], message: str
) -> None:
    assert message in problems(table, bases)


@pytest.mark.parametrize("network", NETWORKS)
def test_what_a_network_has_not_is_no_part_of_its_space(network: str, tmp_path: Path) -> None:
    spec = NETWORKS[network]
    kind = "frames2d" if spec.dims == 2 else "volume3d"
    text = f"""
        [data]
        manifest = "manifest.csv"
        [model]
        kind = "{kind}"
        network = "{network}"
        weights = "none"
    """
    (tmp_path / "base.toml").write_text(text)
    bases = {"base": load_experiment(tmp_path / "base.toml")}
    depth, smallest = len(spec.stages), max(spec.min_size, 16)
    space({"model.frozen_stages": {"low": 0, "high": depth}}, bases)
    vouched = space({"model.frozen_stages": "default"}, bases).dimensions["base", "model.frozen_stages"]
    assert vouched == config.Range(low=0, high=depth)
    fitting = spec.max_size or 112
    space({"data.size": {"choices": sorted({smallest, fitting})}}, bases)
    refused = problems({"model.frozen_stages": {"low": 0, "high": depth + 1}}, bases)
    assert f"frozen_stages = {depth + 1}, but {network} has {depth} stages" in refused
    refused = problems({"data.size": {"choices": [smallest - 1, fitting]}}, bases)
    limit = f"{network} takes no less than {smallest} pixels" if spec.min_size > 16 else "equal to 16"
    limit = f"{network} takes {smallest} pixels only" if spec.max_size else limit
    assert limit in refused
    fewest = spec.min_frames
    if fewest > 1:
        refused = problems({"data.frames": {"low": fewest - 1, "high": 16}}, bases)
        least = f"{fewest} only" if spec.max_frames else f"no fewer than {fewest}"
        assert f"{network} takes {least}" in refused


def test_values_that_exclude_each_other_are_refused_before_the_first_trial(tmp_path: Path) -> None:
    text = """
        [data]
        manifest = "manifest.csv"
        [model]
        kind = "frames2d"
        network = "tiny2d"
        weights = "none"
    """
    (tmp_path / "base.toml").write_text(text)
    bases = {"base": load_experiment(tmp_path / "base.toml")}
    networks = {"model.network": {"choices": ["tiny2d", "resnet18"]}}
    depths = {"model.frozen_stages": {"low": 0, "high": 3}}
    space(networks | depths, bases)
    deeper = {"low": 4, "high": 5}
    (tmp_path / "base.toml").write_text(text.replace("tiny2d", "resnet18"))
    base = {"base": load_experiment(tmp_path / "base.toml")}
    refused = problems(networks | {"model.frozen_stages": deeper}, base)
    assert "space: model.network = tiny2d with model.frozen_stages = 4" in refused
    assert "keep them apart with when" in refused
    apart = {"model.frozen_stages": deeper | {"when": {"model.network": "resnet18"}}}
    space(networks | apart, base)


def test_all_problems_come_at_once(bases: dict[str, Any]) -> None:
    text = problems({"a.b": {"choices": [1]}, "train.lr": {"low": 2.0, "high": 1.0}}, bases)
    assert len(text.splitlines()) == 2


def test_conditions_may_name_the_base(bases: dict[str, Any]) -> None:
    table = {"train.lr": {"low": 0.1, "high": 0.2, "when": {"base": "volume3d"}}}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    searched = space(table, bases)
    for _ in range(20):
        trial = study.ask()
        stem, _ = searched.suggest(trial)
        assert ("train.lr" in trial.params) == (stem == "volume3d")


def test_what_steps_do_not_reach_and_what_is_not_searched_is_said(
    bases: dict[str, Any], recwarn: pytest.WarningsRecorder
) -> None:
    table = {
        "model.C": {"low": 0.1, "high": 1.0, "step": 0.3},
        "model.gamma": {"low": 0.1, "high": 1.0, "step": 0.4},
        "train.epochs": {"low": 2, "high": 9, "step": 3},
    }
    searched = space(table, {stem: bases[stem] for stem in ("svm", "frames2d")})
    assert searched.notes() == [
        "model.gamma: steps of 0.4 from 0.1 end at 0.9, so 1 is never tried",
        "train.epochs: steps of 3 from 2 end at 8, so 9 is never tried",
    ]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    sampled = [searched.suggest(study.ask())[1] for _ in range(80)]
    assert {each.train.epochs for each in sampled if each.kind == "frames2d"} == {2, 5, 8}  # type: ignore[attr-defined]
    assert not [warning for warning in recwarn if "step" in str(warning.message)]
    del table["train.epochs"]
    assert space(table, bases).notes()[1:] == [
        f"nothing of the base {stem} is searched: it runs once, and its other trials take that result"
        for stem in ("frames2d", "volume3d")
    ]
