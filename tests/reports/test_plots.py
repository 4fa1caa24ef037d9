"""Figures show what they are given, in small files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidclf.evaluation import metrics
from vidclf.reports import plots

pytestmark = pytest.mark.drawn


@pytest.mark.parametrize(
    "number", [3, *(pytest.param(number, marks=pytest.mark.slow) for number in (22, 101))]
)
def test_confusion_matrix_is_small_and_names_every_class(number: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    counts = np.diag(generator.integers(5, 30, number)) + generator.poisson(0.2, (number, number))
    classes = [f"ClassWithARatherLongNameOfItsOwn{index}" for index in range(number)]
    figure = plots.confusion_matrix(counts, classes, "val")
    plots.write_png(figure, tmp_path / "matrix.png")
    assert (tmp_path / "matrix.png").stat().st_size < 60_000
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(set(labels)) == number
    assert max(map(len, labels)) <= 24


def test_names_that_look_like_formulas_are_texts(tmp_path: Path) -> None:
    classes = ["$a_$", "cost $5 to $9", r"$\none$"]
    figure = plots.confusion_matrix(np.eye(3, dtype=np.int64), classes, "val")
    plots.write_png(figure, tmp_path / "matrix.png")
    labels = figure.axes[0].get_xticklabels()
    assert [(label.get_text(), label.get_parse_math()) for label in labels] == [
        (name, False) for name in classes
    ]


def test_confusion_matrix_writes_the_counts() -> None:
    axes = plots.confusion_matrix(np.array([[3, 1], [0, 0]]), ["a", "b"], "val, 4 clips").axes[0]
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {((0, 0), "3"), ((1, 0), "1")}
    assert axes.get_title() == "val, 4 clips"
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25], [0, 0]])


def test_learning_curves_mark_the_best_epoch(tmp_path: Path) -> None:
    records = [
        (epoch, {"epoch/train/loss": 1 / epoch, "epoch/val/loss": 0.5, "epoch/val/macro_f1": score})
        for epoch, score in ((1, 0.1), (1, 0.2), (2, 0.8), (3, 0.7))
    ]
    figure = plots.learning_curves(records)
    losses, scores = figure.axes
    assert scores.get_title() == "val/macro_f1: 0.800 at epoch 2"
    assert scores.lines[0].get_ydata().tolist() == [0.2, 0.8, 0.7]
    assert [line.get_label() for line in losses.lines] == ["train", "val", "best epoch: 2"]
    plots.write_png(figure, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size < 60_000
    assert Image.open(tmp_path / "curves.png").size == (720, 288)


def test_learning_curves_of_a_loss_mark_the_lowest() -> None:
    records = [(1, {"epoch/val/loss": 0.5}), (2, {"epoch/val/loss": 0.3}), (3, {"epoch/val/loss": 0.4})]
    assert plots.learning_curves(records, "val/loss").axes[1].get_title() == "val/loss: 0.300 at epoch 2"


def test_reliability_draws_bins_and_their_clips(tmp_path: Path) -> None:
    probabilities = np.array([[0.9, 0.1], [0.92, 0.08], [0.4, 0.6]])
    bins = metrics.reliability(np.array([0, 1, 1]), probabilities)
    figure = plots.reliability({"before": bins, "after": bins}, "val, 3 clips")
    before, after = figure.axes
    assert [before.get_title(), after.get_title()] == ["before", "after"]
    assert [bar.get_height() for bar in before.patches if bar.get_height()] == [1.0, 0.5]
    assert [text.get_text() for text in before.texts] == ["1", "2"]
    np.testing.assert_allclose(before.lines[1].get_xydata(), [[0.6, 1.0], [0.91, 0.5]])
    plots.write_png(figure, tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").stat().st_size < 60_000


def test_the_feature_whose_loss_costs_most_is_on_top() -> None:
    axes = plots.block_importance({"a": [0.1, 0.5], "b": [-0.1, 0.1]}, "t", "c").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.0, 0.3])
    assert [text.get_text() for text in axes.texts] == ["0.00 ± 0.10", "0.30 ± 0.20"]


def test_motion_is_coloured_by_direction_where_there_is_any() -> None:
    flow = np.zeros((1, 28, 28, 2), np.float32)
    flow[0, :14, 14:], flow[0, 14:, 14:] = (3, 0), (0, 3)
    frames = np.full((1, 28, 28, 3), 255, np.uint8)
    axes = plots.descriptor(frames, ["frame 1"], "t", flow=flow, still=1.0).axes[1]
    picture = axes.images[0].get_array()
    np.testing.assert_allclose(picture[:, :14], 0.95, rtol=1e-6)
    np.testing.assert_allclose(picture[3, 20], [1, 0.1, 0.1], rtol=1e-6)  # to the right
    np.testing.assert_allclose(picture[24, 20], [0.55, 1, 0.1], rtol=1e-6)  # down: a quarter of the wheel on
    [arrows] = axes.collections
    assert len(arrows.get_offsets()) == 14 * 7
    assert (max(arrows.U), max(arrows.V)) == (2, 2)  # the strongest just reach the next arrow
