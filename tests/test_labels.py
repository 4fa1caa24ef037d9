"""Names of runs say what they are."""

from typing import Any

import pytest

from vidclf.labels import train_name, trial_name

R3D = {"data": {"frames": 16}, "model": {"kind": "volume3d", "network": "r3d_18"}, "train": {"lr": 1e-3}}
SVM = {"data": {"frames": 16}, "model": {"kind": "svm", "features": ["hog", "flow"], "C": 1.0}}


@pytest.mark.parametrize(
    ("base", "params", "name"),
    [
        (
            R3D,
            {"base": "r3d18-head", "model.frozen_stages": 3, "train.lr": 3e-4},
            "#007 r3d_18 · 16f · frozen 3 · lr 3e-4",
        ),
        (R3D, {"data.frames": 32, "train.lr": 0.000786}, "#007 r3d_18 · 32f · lr 7.9e-4"),
        (R3D, {"model.network": "mc3_18", "train.epochs": 20}, "#007 mc3_18 · 16f · epochs 20"),
        (SVM, {"model.C": 12.345, "model.kernel": "rbf"}, "#007 svm hog+flow · 16f · C 12 · rbf"),
        (SVM, {"model.features": "hof+mbh", "model.C": 250.0}, "#007 svm hof+mbh · 16f · C 250"),
        (SVM, {"model.C": 99.7, "model.gamma": 99.4}, "#007 svm hog+flow · 16f · C 100 · gamma 99"),
        (
            {"data": {"frames": 8}, "model": {"kind": "knn", "features": ["deep"], "network": "s3d"}},
            {"model.neighbours": 3, "model.gamma": 20000.0},
            "#007 knn s3d · 8f · neighbours 3 · gamma 2e4",
        ),
    ],
)
def test_a_trial_is_named_by_its_number_model_and_searched_values(
    base: dict[str, Any], params: dict[str, Any], name: str
) -> None:
    assert trial_name(7, base, params) == name


def test_a_single_run_is_named_by_its_file_and_what_sets_it_apart() -> None:
    assert train_name("3d-as-published", R3D) == "3d-as-published · r3d_18 · 16f · lr 1e-3"
    assert train_name("svm", SVM) == "svm · svm hog+flow · 16f · C 1"
    floor = {"data": {"frames": 16}, "model": {"kind": "majority"}}
    assert train_name("majority", floor) == "majority · 16f"
