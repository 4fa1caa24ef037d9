"""Every classical kind keeps one contract: it learns motion, is repeatable, and loads nothing foreign."""

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import skops.io
from sklearn.preprocessing import FunctionTransformer

from tests.classical_models import clips, experiment, fitted, silent
from tests.clips import CLASSES, write_experiment
from tests.saved_models import save_model
from vidclf import config
from vidclf.data.clips import ClipSet
from vidclf.data.pictures import Frames
from vidclf.exceptions import InputError
from vidclf.models import MODELS, classical, estimators
from vidclf.models.base import ExperimentConfig
from vidclf.models.classical_config import (
    ClassicalExperiment,
    ForestExperiment,
    MajorityExperiment,
    SvmExperiment,
    WeightedConfig,
)
from vidclf.models.feature_store import Framing
from vidclf.models.features import FEATURES, compute_features
from vidclf.runs.experiment import load_experiment, portable
from vidclf.search.definition.space import build_space

KINDS = [kind for kind, spec in MODELS.items() if issubclass(spec.config, ClassicalExperiment)]
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in KINDS),
    *((kind, {"scale": "block", "pca": 0.9}) for kind in KINDS),
    ("svm", {"kernel": "rbf"}),
    ("svm", {"kernel": "chi2", "scale": "none", "features": ["hof"]}),
    ("svm", {"kernel": "intersection", "scale": "none", "features": ["hof"]}),
    ("knn", {"metric": "cosine", "vote": "distance"}),
]
"""Every kind, and every way through a builder."""


def test_the_kinds_are_found() -> None:
    assert KINDS == ["svm", "logistic", "forest", "boosting", "knn"]


@pytest.mark.parametrize(("kind", "values"), VARIANTS, ids=str)
@pytest.mark.slow
def test_every_kind_learns_motion_and_loads_as_it_was_saved(
    kind: str, values: dict[str, Any], tmp_path: Path
) -> None:
    classifier = fitted(kind, clips([0, 1] * 12), values)
    assert (classifier.calibration_, classifier.folds_) == (("groups", 5))
    unseen = clips([0, 1] * 8, seed=1)
    probabilities = classifier.predict_proba(unseen)
    assert (probabilities.argmax(axis=1) == unseen.labels).mean() >= 0.9
    assert probabilities.sum(axis=1) == pytest.approx(1)

    classifier.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"classical.json", "estimator.skops"}
    loaded = MODELS[kind].load(tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(unseen), probabilities)
    assert loaded.describe() == classifier.describe()
    assert loaded.describe()["size/parameters"] > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(kind: str) -> None:
    first, again = (
        fitted(kind, clips([0, 1] * 6), {}, seed=3).predict_proba(clips([0, 1])) for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)


def test_another_seed_grows_another_forest() -> None:
    first, other = (
        fitted("forest", clips([0, 1] * 6), {"trees": 5}, seed).predict_proba(clips([0, 1] * 3, seed=2))
        for seed in (0, 1)
    )
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("kind", KINDS)
def test_one_clip_a_class_is_enough_not_to_crash(kind: str, tmp_path: Path) -> None:
    """Too few to calibrate on; a class without clips has probability 0."""
    classes = (*CLASSES, "up")
    classifier = fitted(kind, clips([1, 0], classes=classes), {"pca": 30})
    assert classifier.calibration_ == "none"
    assert classifier.describe().get("calibration/folds", 0) == 0
    probabilities = classifier.predict_proba(clips([0, 1, 0, 1], seed=1, classes=classes))
    assert probabilities.shape == (4, 3)
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert not probabilities[:, 2].any()
    classifier.save(tmp_path)
    loaded = MODELS[kind].load(tmp_path)
    np.testing.assert_array_equal(
        loaded.predict_proba(clips([0, 1, 0, 1], seed=1, classes=classes)), probabilities
    )


WEIGHTED = [
    kind
    for kind in KINDS
    if issubclass(MODELS[kind].config.model_fields["model"].annotation, WeightedConfig)  # type: ignore[arg-type]
]


@pytest.mark.parametrize("kind", WEIGHTED)
@pytest.mark.slow
def test_balanced_weights_make_a_rare_class_as_likely_as_a_common_one(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two overlapping classes, 9 clips to 1: unweighted, the rare one is hardly ever said."""
    assert WEIGHTED == ["svm", "logistic", "forest", "boosting"]
    generator = np.random.default_rng(0)

    def overlapping(common: int, rare: int) -> ClipSet:
        labels = np.repeat(np.arange(2), [common, rare])
        paths = tuple(Path(f"{index}") for index in range(len(labels)))
        groups = tuple(f"g{index % 20}" for index in range(len(labels)))
        return ClipSet(paths, labels, groups, CLASSES, lambda path: np.empty(0, dtype=np.uint8))

    def values(clips: ClipSet, *_: object) -> Any:
        return generator.normal(clips.labels[:, None] * np.array([1.5, 0, 0]), 1.0, (len(clips), 3))

    monkeypatch.setattr(estimators, "feature_matrix", values)
    said = {}
    for weight in ("balanced", "none"):
        classifier = fitted(
            kind,
            overlapping(270, 30),
            {"class_weight": weight, "min_leaf": 10}
            if kind in ("forest", "boosting")
            else {"class_weight": weight},
        )
        said[weight] = classifier.predict_proba(overlapping(300, 300))[:, 1]
    assert said["balanced"].mean() == pytest.approx(0.5, abs=0.1)
    assert said["none"].mean() < 0.3
    recall = {weight: (rare[300:] > 0.5).mean() for weight, rare in said.items()}
    assert recall["balanced"] > 0.6
    assert recall["none"] < 0.45


@pytest.mark.slow
def test_the_allow_list_is_exactly_what_is_needed(tmp_path: Path) -> None:
    save_model(tmp_path / "majority")
    needed = set(skops.io.get_untrusted_types(file=tmp_path / "majority" / estimators.ESTIMATOR))
    for kind, values in VARIANTS:
        fitted(kind, clips([0, 1] * 4), values).save(tmp_path)
        needed |= set(skops.io.get_untrusted_types(file=tmp_path / estimators.ESTIMATOR))
    assert sorted(needed) == sorted(estimators.TRUSTED_TYPES)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unlisted_type_is_refused(kind: str, tmp_path: Path) -> None:
    fitted(kind, clips([0, 1]), {}).save(tmp_path)
    skops.io.dump(FunctionTransformer(func=print), tmp_path / estimators.ESTIMATOR)
    with pytest.raises(InputError, match="foreign code"):
        MODELS[kind].load(tmp_path)


def test_majority_gives_the_training_shares(tmp_path: Path) -> None:
    base = {"data": {"manifest": "/m.csv"}, "model": {"kind": "majority"}}
    floor = classical.build_majority(config.validate(MajorityExperiment, base, "test"), ("a", "b", "c"))

    def unread(path: Path) -> Frames:
        raise AssertionError("the majority class looks at no frame")

    labels = np.array([0, 0, 0, 2])
    paths = tuple(Path(f"{index}") for index in range(4))
    train = ClipSet(paths, labels, ("g",) * 4, ("a", "b", "c"), unread)
    floor.fit(train, train, silent)
    floor.save(tmp_path)
    for classifier in (floor, estimators.load(tmp_path)):
        assert classifier.predict_proba(train).tolist() == [[0.75, 0, 0.25]] * 4
        assert classifier.describe() == {"size/parameters": 2}


@pytest.mark.parametrize("name", FEATURES)
def test_block_lengths_are_those_of_the_features(name: str) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 40, 40, 3), dtype=np.uint8)
    lengths = classical.block_lengths(
        [name, "difference"] if name != "difference" else [name], Framing(1, 40, 40)
    )
    assert lengths[0] == len(compute_features(frames, [name])[name])
    assert classical.block_lengths([name], Framing(1, 40, 40, pyramid=True)) == [3 * lengths[0]]


@pytest.mark.parametrize(
    ("kind", "key", "value", "message"),
    [
        ("svm", "model.features", ["hogg"], "did you mean hog?"),
        ("svm", "model.features", "hog+flwo", "did you mean flow?"),
        ("svm", "model.features", ["hog", "hog"], "repeat"),
        ("svm", "model.features", [], "at least 1"),
        ("svm", "model.features", "", "'' is none of"),
        ("svm", "model.features", 3, "takes a list"),
        ("svm", "model.scale", "blocks", "'standard', 'block' or 'none'"),
        ("svm", "model.pca", -1, "a whole number of components, or a share between 0 and 1"),
        ("svm", "model.pca", 1.5, "a whole number of components, or a share between 0 and 1"),
        ("svm", "model.pca", 1.0, "a whole number of components, or a share between 0 and 1"),
        ("svm", "model.gamma", 0, "a number above 0, or 'scale'"),
        ("svm", "model.gamma", "auto", "a number above 0, or 'scale'"),
        ("svm", "model.C", 0, "greater than 0"),
        ("svm", "model.kernel", "poly", "'linear', 'rbf', 'chi2' or 'intersection'"),
        ("svm", "model.class_weight", "heavy", "'balanced' or 'none'"),
        ("svm", "data.resize", 24, "data.size = 32 is larger than data.resize = 24"),
        ("svm", "data.store_side", 16, "data.store_side = 16"),
        ("logistic", "model.kernel", "linear", "unknown key model.kernel"),
        ("forest", "model.trees", 0, "greater than or equal to 1"),
        ("boosting", "model.leaves", 1, "greater than or equal to 2"),
        ("svm", "model.features", "hog+deep", "deep needs model.network: one of resnet18, resnet50,"),
        ("svm", "model.features", "dep", "did you mean deep?"),
        ("svm", "model.network", "tiny2d", "model.network: no effect without the feature deep"),
        ("svm", "model.weights", "none", "model.weights: no effect without the feature deep"),
        ("knn", "model.vote", "weighted", "'uniform' or 'distance'"),
        ("knn", "model.class_weight", "balanced", "unknown key model.class_weight"),
        ("knn", "model.metric", "manhattan", "'euclidean' or 'cosine'"),
        ("majority", "model.features", ["hog"], "unknown key model.features"),
    ],
)
def test_bad_values_are_named(kind: str, key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as refused:
        experiment(kind, **{key: value})
    assert len(refused.value.problems) == 1
    assert message in str(refused.value)


@pytest.mark.parametrize("kernel", ["chi2", "intersection"])
@pytest.mark.parametrize(
    ("values", "mends"),
    [
        ({"features": ["hof", "flow"], "scale": "none"}, ["take flow out of model.features"]),
        ({"features": ["mbh", "color"]}, ['set model.scale = "none"']),
        ({"features": ["mbh"], "scale": "block"}, ['set model.scale = "none"']),
        ({"features": ["lbp"], "scale": "none", "pca": 5}, ["set model.pca = 0"]),
        (
            {"pca": 0.9},
            [
                "take hog, flow out of model.features (histograms are hof, mbh, color, lbp)",
                'set model.scale = "none"',
                "set model.pca = 0",
            ],
        ),
    ],
)
def test_kernels_of_histograms_refuse_anything_else(
    kernel: str, values: dict[str, Any], mends: list[str]
) -> None:
    with pytest.raises(InputError) as refused:
        experiment(model__kernel=kernel, **{f"model__{key}": value for key, value in values.items()})
    problem = f"test: model: model.kernel = '{kernel}' compares plain histograms: {', '.join(mends)}"
    assert refused.value.problems[0].startswith(problem[:-1])
    assert [mend in str(refused.value) for mend in mends] == [True] * len(mends)
    experiment(model__kernel=kernel, model__scale="none", model__features="hof+mbh+color+lbp")


def test_features_as_a_list_and_as_a_text_are_the_same_config(tmp_path: Path) -> None:
    listed, text = (experiment(model__features=value) for value in (["hog", "flow"], "hog + flow"))
    assert listed == text == experiment()
    assert listed.model.features == ("hog", "flow")
    assert config.flatten(config.dump(listed))["model.features"] == "hog+flow"
    assert portable(listed) == portable(text)
    assert portable(listed) != portable(experiment(model__features="hog"))
    config.write_toml(config.dump(listed), tmp_path / "x.toml")
    assert load_experiment(tmp_path / "x.toml") == listed
    again = load_experiment(tmp_path / "x.toml", config.parse_assignments(["model.features=hog+color"]))
    assert again.model.features == ("hog", "color")  # type: ignore[attr-defined]


def test_a_study_chooses_among_features(tmp_path: Path) -> None:
    """As text; and what it chose pastes back, and is what ``when`` compares with."""
    bases = {
        kind: load_experiment(write_experiment(tmp_path / f"{kind}.toml", kind, tmp_path / "m.csv"))
        for kind in ("svm", "knn")
    }
    table = {
        "model.features": {"choices": ["hog", "flow", "hog+flow"]},
        "model.pca": {"choices": [0, 5, 0.9], "when": {"model.features": "hog+flow"}},
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(30):
        trial = study.ask()
        stem, sampled = build_space(table, bases, "study.toml", tmp_path).suggest(trial)
        study.tell(trial, 0.0)
        values = {path: value for path, value in trial.params.items() if path != "base"}
        assert values.items() <= config.flatten(config.dump(sampled)).items()
        assert ("model.pca" in values) == (values["model.features"] == "hog+flow")
        pasted = config.override(config.dump(bases[stem]), values)
        assert config.validate(type(sampled), pasted, "pasted") == sampled
        seen.add(sampled.model.features)  # type: ignore[attr-defined]
    assert seen == {("hog",), ("flow",), ("hog", "flow")}
    with pytest.raises(InputError, match="did you mean hog"):
        build_space({"model.features": {"choices": ["hgo+flow"]}}, bases, "study.toml", tmp_path)


def test_resolved_and_shape() -> None:
    unset = config.validate(SvmExperiment, {"data": {"manifest": "/m"}, "model": {"kind": "svm"}}, "test")
    resolved = unset.resolved()
    assert (resolved.data.size, resolved.data.resize) == (112, 112)
    assert resolved.resolved() == resolved
    assert config.validate(SvmExperiment, config.dump(resolved), "test") == resolved
    assert resolved.shape() == unset.shape()
    assert experiment(model__C=3.0).shape() == experiment().shape()
    assert experiment(data__frames=3).shape() != experiment().shape()
    assert experiment(model__flow_seconds=0.1).shape() != experiment(model__flow_seconds=0.0).shape()
    still = {"model__features": ["hog", "color"]}
    assert experiment(model__flow_seconds=0.1, **still).apart == 0 < experiment(model__flow_seconds=0.1).apart
    for key in ("model__follow", "model__mirror"):
        assert experiment(**{key: True}).shape() != experiment().shape()
    assert experiment(model__follow=True).framing.follow
    assert not experiment(model__follow=True, **still).framing.follow
    assert experiment("forest", model__trees=3).shape() != experiment("forest").shape()
    assert experiment("boosting", model__iterations=3).shape() != experiment("boosting").shape()


def test_an_svm_is_linear_standardised_and_balanced_unless_told_otherwise() -> None:
    scaler, svc = (step for _, step in classical.build_svm(experiment(), CLASSES).estimator.steps)
    assert type(scaler).__name__ == "StandardScaler"
    assert (svc.kernel, svc.C, svc.class_weight) == ("linear", 1.0, "balanced")


@pytest.mark.parametrize("kind", KINDS)
def test_every_vouched_range_is_a_key_that_takes_its_ends(kind: str) -> None:
    spec = MODELS[kind]
    schema: type[ExperimentConfig] = spec.config
    fields = config.schema_fields(schema)
    assert {"model.scale", "model.pca"} < set(spec.space)
    for key, dimension in spec.space.items():
        assert key in fields
        ends = dimension.choices if isinstance(dimension, config.Choice) else (dimension.low, dimension.high)
        for value in ends:
            experiment(kind, **{key: value})


def test_ranges_that_kinds_share_are_the_same() -> None:
    """One study may ask for the default ranges of all of them."""
    shared: dict[str, Any] = {}
    for kind in KINDS:
        for key, dimension in MODELS[kind].space.items():
            assert shared.setdefault(key, dimension) == dimension
    assert "model.C" in shared


def test_a_forest_splits_by_a_share_or_the_square_root() -> None:
    assert isinstance(experiment("forest", model__split_values=0.5), ForestExperiment)
    with pytest.raises(InputError):
        experiment("forest", model__split_values=1.5)
