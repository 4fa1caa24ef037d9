"""The activation cache: the frozen part runs once for a view, and nothing that is learned changes by it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from tests.neural_models import KINDS, TRAIN, VAL, Counted, Curves, build, split
from vidclf import config
from vidclf.data import cache
from vidclf.data.manifest import Manifest
from vidclf.models.classifier import NeuralClassifier
from vidclf.runs.experiment import parse_experiment

pytestmark = pytest.mark.usefixtures("one_thread")


def fit(squares: Manifest, network: str = "tiny3d", **keys: Any) -> tuple[NeuralClassifier, Curves]:
    model, curves = build(squares, network, **keys), {}

    def report(step: int, metrics: Mapping[str, float]) -> None:
        curves[step] = dict(metrics)

    model.fit(split(squares, "train"), split(squares, "val"), report)
    return model, curves


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("network", "stages", "pooling"),
    [
        ("tiny2d", 1, "avg"),
        ("tiny2d", 3, "max"),
        ("tiny2d", 3, "attention"),
        ("tiny2d", 3, "gru"),
        ("tiny3d", 2, ""),
        ("tiny3d", 3, ""),
    ],
)
@pytest.mark.slow
def test_what_is_learned_is_the_same_with_the_cache_on_and_off(
    squares: Manifest, network: str, stages: int, pooling: str, precision: str
) -> None:
    # Adam would make steps of full length out of gradients that are nothing but rounding.
    keys: dict[str, Any] = {
        **{"model.frozen_stages": stages, "train.precision": precision, "train.views": 2},
        "train.optimizer": "sgd",
    }
    if pooling:
        keys["model.pooling"] = pooling
    kept_model, kept = fit(squares, network, **keys)
    plain_model, plain = fit(squares, network, **keys, **{"train.cache": "off"})
    assert (cache.usage().entries.get("activations", 0)) == 2 * TRAIN + VAL
    tolerance = 1e-2 if precision == "bf16" else 1e-3
    for step, values in plain.items():
        assert kept[step] == pytest.approx(values, rel=tolerance, abs=tolerance), step
    clips = split(squares, "test")
    difference = kept_model.predict_proba(clips) - plain_model.predict_proba(clips)
    assert np.abs(difference).max() < tolerance


@pytest.mark.slow
def test_epochs_trials_and_other_settings_of_the_rest_share_one_pass(
    squares: Manifest, counted: Counted
) -> None:
    first = fit(squares)[1]
    assert counted.since() == TRAIN + VAL
    assert fit(squares)[1] == first, "found or computed, every bit is the same"
    fit(squares, **{"train.lr": 1e-3, "train.epochs": 5, "train.label_smoothing": 0.3, "train.batch_size": 3})
    fit(squares, **{"train.balance": "both", "model.dropout": 0.1})
    assert counted.since() == 0
    fit(squares, **{"train.views": 3})
    assert counted.since() == 2 * TRAIN, "view 0 is known"


@pytest.mark.parametrize(
    ("keys", "passes"),
    [
        ({"seed": 1}, TRAIN + VAL),  # other random weights
        ({"model.frozen_stages": 1}, TRAIN + VAL),
        ({"model.frozen_stages": 3}, TRAIN + VAL),
        ({"data.frames": 2}, TRAIN + VAL),
        ({"data.size": 28, "data.resize": 32}, TRAIN + VAL),
        ({"data.normalize": "kinetics"}, TRAIN + VAL),
        ({"train.precision": "bf16"}, TRAIN + VAL),
        ({"data.augment_seed": 1}, TRAIN),
        ({"augment.flip": 0.25}, TRAIN),
        ({"augment.scale": [0.5, 1.0]}, TRAIN),
        ({"data.resize": 40}, VAL),
        ({"model.eval_views": 2}, 2 * VAL),
    ],
)
def test_what_an_output_depends_on_is_part_of_its_key(
    squares: Manifest, keys: dict[str, Any], passes: int, counted: Counted
) -> None:
    fit(squares, **{"train.epochs": 1})
    counted.since()
    fit(squares, **{"train.epochs": 1}, **keys)
    assert counted.since() == passes


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ({"train.cache": "off"}, 0),
        ({"model.frozen_stages": 0}, 0),
        ({"model.frozen_norm": "train"}, 0),
        ({"train.views": 0}, VAL),
        ({}, TRAIN + VAL),
    ],
)
def test_only_what_comes_again_is_kept(squares: Manifest, keys: dict[str, Any], kept: int) -> None:
    fit(squares, **{"train.epochs": 1}, **keys)
    assert cache.usage().entries.get("activations", 0) == kept


def test_clips_without_a_store_are_never_looked_up(squares: Manifest, counted: Counted) -> None:
    model, _ = fit(squares)
    counted.since()
    for _ in range(2):
        model.predict_proba(split(squares, "val", store=False))
    assert counted.since() == 2 * VAL
    assert cache.usage().entries["activations"] == TRAIN + VAL


@pytest.mark.slow
def test_a_full_cache_changes_the_time_and_nothing_else(
    squares: Manifest, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fit(squares)[1]
    counted.since()
    held = cache.usage().total
    cache.clear()
    monkeypatch.setenv("VIDCLF_CACHE_GB", str(0.6 * held / 1e9))
    assert fit(squares)[1] == expected
    assert TRAIN + VAL < counted.since() < 3 * (TRAIN + VAL)
    assert 0 < cache.usage().entries["activations"] < TRAIN + VAL
    assert cache.usage().total <= 0.6 * held


def test_outputs_too_large_for_half_precision_are_cut_to_its_largest(squares: Manifest) -> None:
    model = build(squares)
    model._build("none")
    with torch.no_grad():
        for values in model.network_.stages[1].parameters():
            values.mul_(1e6)
    clips = split(squares, "val")
    (inputs,) = model.forward_.inputs(clips, [np.arange(2)], model.forward_.views.evaluation()[0])
    assert inputs.dtype == torch.float16
    assert inputs.max() == torch.finfo(torch.float16).max


@pytest.mark.slow
def test_trained_poolings_share_the_features_of_frames_and_no_other_takes_them(
    squares: Manifest, counted: Counted
) -> None:
    made = []
    for pooling in ("avg", "attention", "max", "gru", "conv", "transformer"):
        fit(squares, "tiny2d", **{"model.pooling": pooling, "model.frozen_stages": 3, "train.epochs": 1})
        made.append(counted.since())
    assert made == [TRAIN + VAL, TRAIN + VAL, TRAIN + VAL, 0, 0, 0]


@pytest.mark.slow
def test_the_note_before_a_run_predicts_what_will_be_kept(squares: Manifest) -> None:
    for network, keys in (
        ("tiny2d", {"model.pooling": "attention", "model.frozen_stages": 3}),
        ("tiny3d", {"model.frozen_stages": 1, "model.eval_views": 2}),
    ):
        cache.clear()
        model, _ = fit(squares, network, **keys, **{"train.views": 2})
        experiment = parse_experiment(
            config.override(
                {
                    "data": {"manifest": str(squares.path), "frames": 4, "size": 32, "grid": 8},
                    "model": {"kind": KINDS[network], "network": network, "weights": "none"},
                    "train": {"views": 2},
                },
                keys,
            ),
            "test",
        )
        (note,) = experiment.notes(TRAIN, VAL)
        views = 2 * TRAIN + VAL * model.eval_views
        files = list((cache.folder() / "activations").rglob("*.npy"))
        predicted = sum(np.load(file).nbytes for file in files)
        assert len(files) == views
        assert f"run once for each of {views} views and kept, {predicted / 1e3:.1f} kB" in note


def test_the_note_says_what_does_not_fit_and_what_new_views_cost(
    squares: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDCLF_CACHE_GB", "0.000001")
    tree = {
        "data": {"manifest": str(squares.path), "frames": 4, "size": 32},
        "model": {"kind": "volume3d", "network": "tiny3d", "weights": "none", "frozen_stages": 1},
    }
    (note,) = parse_experiment(tree, "test").notes(TRAIN, VAL)
    assert "stage1: run once for each of 4 views" in note
    assert "of which 1.0 kB fit (VIDCLF_CACHE_GB)" in note
    assert "train.views = 4" in note
    assert parse_experiment(config.override(tree, {"model.frozen_stages": 0}), "test").notes(TRAIN, VAL) == []


def test_evaluation_views_are_averaged_and_take_other_frames(squares: Manifest) -> None:
    single, _ = fit(squares, **{"train.epochs": 1})
    double, _ = fit(squares, **{"train.epochs": 1, "model.eval_views": 2})
    double.network_.load_state_dict(single.network_.state_dict())
    clips = split(squares, "test", store=False)
    apart = []
    for view in double.forward_.views.evaluation():
        pixels = double.forward_.views.pixels(clips, range(len(clips)), view)
        with torch.no_grad():
            apart.append(double.forward_.logits(pixels).double().softmax(dim=1).numpy())
    assert not np.allclose(apart[0], apart[1])
    assert np.allclose(double.predict_proba(clips), (apart[0] + apart[1]) / 2, atol=1e-6)
