"""What is drawn of a model: its clips on two axes, what it sees, and which feature matters."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from tests.classical_models import SMALL
from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.manifest import Manifest
from vidclf.evaluation.calibration import Calibration
from vidclf.models import MODELS
from vidclf.models.base import Classifier
from vidclf.models.estimators import ClassicalClassifier
from vidclf.reports import plots
from vidclf.reports.diagnostics import (
    block_importance,
    draw_reliability,
    project,
    write_pictures,
    write_wrong_clips,
)
from vidclf.runs.experiment import parse_experiment

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.drawn]
NEURAL = {"frames2d": "tiny2d", "volume3d": "tiny3d"}


def fitted(squares: Manifest, kind: str, **keys: Any) -> tuple[Classifier, ClipSet, ClipSet]:
    model: dict[str, Any] = {"kind": kind}
    if kind in NEURAL:
        model |= {"network": NEURAL[kind], "weights": "none"}
    elif kind != "majority":
        model |= {"features": ["difference", "color"], **SMALL.get(kind, {})}
    tree: dict[str, Any] = {
        "data": {"manifest": str(squares.path), "frames": 4, "size": 32, "grid": 8},
        "model": model | keys,
    }
    if kind in NEURAL:
        tree["train"] = {"epochs": 1, "precision": "fp32"}
    experiment = parse_experiment(tree, "test").resolved()
    classifier = MODELS[kind].build(experiment, squares.classes)
    train, val = (ClipSet.of_split(squares, split, ClipStore(8, 256)) for split in ("train", "val"))
    classifier.fit(train, val, lambda step, metrics: None)
    return classifier, train, val


@pytest.mark.parametrize("kind", [kind for kind, spec in MODELS.items() if spec.learns])
def test_every_kind_says_what_its_decision_rests_on(squares: Manifest, kind: str) -> None:
    classifier, train, val = fitted(squares, kind)
    embedded = classifier.embed(val)
    assert embedded.shape == (len(val), classifier.embed(train).shape[1])
    assert np.isfinite(embedded).all()
    assert (embedded.shape[1] == 0) == (kind == "majority")
    assert embedded.shape[1] == 64 or kind not in NEURAL


def test_the_projection_is_that_of_train_s_principal_components() -> None:
    train = np.array([[3.0, 0, 1], [-3, 0, 1], [0, 1, 1], [0, -1, 1]])
    found = project({"train": train, "val": np.array([[6.0, 2, 1]])})
    assert found is not None
    points, shares = found
    assert shares == pytest.approx((0.9, 0.1))
    assert np.abs(points["val"]) == pytest.approx(np.array([[6.0, 2.0]]))
    assert project({"train": np.ones((4, 3))}) is None
    assert project({"train": np.ones((4, 1))}) is None


def test_the_feature_that_decides_is_the_one_that_matters(squares: Manifest) -> None:
    classifier, train, val = fitted(squares, "svm")
    assert isinstance(classifier, ClassicalClassifier)
    clips = ClipSet(
        train.paths + val.paths,
        np.concatenate([train.labels, val.labels]),
        train.groups + val.groups,
        train.classes,
        train.read,
        train.store,
    )
    drops = block_importance(classifier, clips, seed=0)
    assert list(drops) == ["difference", "color"]
    assert np.mean(drops["difference"]) > np.mean(drops["color"]) + 0.1
    assert drops == block_importance(classifier, clips, seed=0)
    single, _, _ = fitted(squares, "svm", features=["difference"])
    assert isinstance(single, ClassicalClassifier)
    assert block_importance(single, clips, seed=0) == {}


@pytest.mark.slow
def test_the_pictures_of_a_run(squares: Manifest, tmp_path: Path) -> None:
    classifier, train, val = fitted(squares, "svm", features=["hog", "flow"])
    write_pictures(classifier, train, val, tmp_path, seed=0)
    drawn = {file.stem for file in tmp_path.glob("*.png")}
    assert drawn == {"projection", "block_importance", "descriptor"}
    table = pd.read_csv(tmp_path / "projection.csv")
    assert list(table["split"]) == ["train"] * len(train) + ["val"] * len(val)
    assert list(table["label"][: len(train)]) == [train.classes[label] for label in train.labels]


@pytest.mark.parametrize(("temperature", "words"), [(2.0, "T = 2.00 is kept"), (1.0, "not kept: no better")])
def test_reliability_is_drawn_as_it_is_and_scaled(
    temperature: float, words: str, squares: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = ClipSet.of_split(squares, "val", ClipStore(8, 256))
    given, scaled = np.tile([0.9, 0.1], (len(clips), 1)), np.tile([0.6, 0.4], (len(clips), 1))
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "write_png", lambda figure, path: figures.append(figure))
    draw_reliability(given, Calibration(temperature, scaled, {}), clips, "val", tmp_path)
    [first, second] = figures[0].axes
    assert first.get_title() == "as the model gives them\nexpected calibration error 0.400"
    assert second.get_title() == (
        f"scaled as clips of other groups ask for ({words})\nexpected calibration error 0.100"
    )
    assert [list(axes.lines[1].get_xdata()) for axes in (first, second)] == [[0.9], [0.6]]


@pytest.mark.slow
def test_wrong_clips_are_drawn_once_with_what_they_were_taken_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "val").mkdir()
    wrong = {
        "clip_path": [f"{number}.avi" for number in range(30)],
        "label": "1",
        "predicted": "None",
    }
    pd.DataFrame(wrong | {"confidence": 0.875}).to_csv(tmp_path / "val" / "wrong_clips.csv", index=False)
    asked: list[str] = []
    drawn: list[tuple[list[int], list[str], str]] = []

    def read(path: Path) -> np.ndarray:
        asked.append(path.name)
        return np.stack([np.full((4, 6, 3), instant, np.uint8) for instant in range(5)])

    def sheet(frames: list[np.ndarray], captions: list[str], title: str) -> Figure:
        drawn.append(([int(frame.mean()) for frame in frames], captions, title))
        return contact_sheet(frames, captions, title)

    contact_sheet = plots.contact_sheet
    monkeypatch.setattr(plots, "contact_sheet", sheet)
    write_wrong_clips(tmp_path, read)
    write_wrong_clips(tmp_path, read)
    assert asked == [f"{number}.avi" for number in range(24)]
    assert drawn == [
        ([2] * 24, ["1\ntaken for None (88%)"] * 24, "Wrong clips of val: 30, the 24 most confident")
    ]
    assert (tmp_path / "val" / "wrong_clips.png").stat().st_size < 150_000
    assert len(list((tmp_path / "images").glob("val~wrong_clips+*"))) == 2


def test_where_no_clip_is_wrong_none_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "wrong_clips.csv").write_text("clip_path,label,predicted,correct,confidence\n")
    write_wrong_clips(tmp_path, lambda path: pytest.fail("nothing to read"))
    assert [path.name for path in (tmp_path / "val").iterdir()] == ["wrong_clips.csv"]
