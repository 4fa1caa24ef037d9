"""Figures as small PNGs; matplotlib's `Figure` without pyplot, so nothing is global."""

import io
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

_LONGEST_NAME = 24
"""Characters of a class name that are shown."""
_PREVIEW_EDGE = 256
"""Pixels of the longer edge of MLflow's own previews."""
_MOST_NUMBERED = 30
"""Classes up to which cells carry their counts."""


def confusion_matrix(counts: NDArray[np.int64], classes: Sequence[str], title: str) -> Figure:
    """Clips by true (rows) and predicted class; the colour is the share of the true class.

    Args:
        counts: Shape (classes, classes).
        classes: Names of the rows and columns.
        title: Above the matrix.
    """
    number = len(classes)
    edge = float(np.clip(2.8 + 0.32 * number, 4.5, 11))
    figure = Figure(figsize=(edge + 0.6, edge), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    names = [_shortened(name) for name in classes]
    size = 10 if number <= 10 else 8 if number <= _MOST_NUMBERED else 4
    axes.set_xticks(range(number), names, rotation=90 if number > 10 else 35, fontsize=size)
    if number <= 10:
        for label in axes.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")
    axes.set_yticks(range(number), names, fontsize=size)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if number <= _MOST_NUMBERED:
        _write_counts(axes, counts, shares, size)
    return figure


def _shortened(name: str) -> str:
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"


def _write_counts(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64], size: float) -> None:
    for row, column in np.argwhere(counts > 0):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(
            column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=size
        )


def learning_curves(
    records: Iterable[tuple[int, Mapping[str, float]]], monitor: str = "val/macro_f1"
) -> Figure:
    """Losses, and beside them the monitored metric, by epoch; the best epoch is marked.

    Args:
        records: (epoch, metrics) with ``epoch/train/loss``, ``epoch/val/loss`` and ``epoch/<monitor>``;
            of two records of one epoch the later holds.
        monitor: A metric of the validation split; of a loss the lowest is best, else the highest.
    """
    epochs = dict(records)
    key = f"epoch/{monitor}"
    figure = Figure(figsize=(8, 3.2), dpi=90, layout="constrained")
    losses, scores = figure.subplots(1, 2)
    _draw(losses, epochs, {"epoch/train/loss": "train", "epoch/val/loss": "val"})
    _draw(scores, epochs, {key: monitor})
    losses.set(ylabel="loss", title="loss")
    scores.set(ylabel=monitor, title=monitor)
    curve = {
        step: values[f"epoch/{monitor}"] for step, values in epochs.items() if f"epoch/{monitor}" in values
    }
    if curve:
        best = (min if monitor.endswith("loss") else max)(curve, key=curve.__getitem__)
        for axes in (losses, scores):
            axes.axvline(best, color="grey", linestyle=":", label=f"best epoch: {best}")
        scores.plot(best, curve[best], "o", color="C3")
        scores.set_title(f"{monitor}: {curve[best]:.3f} at epoch {best}")
    for axes in (losses, scores):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def _draw(axes: Axes, epochs: Mapping[int, Mapping[str, float]], curves: Mapping[str, str]) -> None:
    for key, label in curves.items():
        points = [(step, values[key]) for step, values in sorted(epochs.items()) if key in values]
        axes.plot([step for step, _ in points], [value for _, value in points], marker=".", label=label)


def write_png(figure: Figure, path: Path) -> None:
    """Writes a figure in 64 colours, a third of the size of matplotlib's own PNG."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    Image.open(picture).convert("RGB").quantize(64).save(path, optimize=True)


def write_grid_image(figure: Figure, folder: Path, key: str) -> None:
    """Writes a figure so that MLflow's image grid shows it beside those of other runs.

    Args:
        figure: The picture.
        folder: ``images`` among a run's artifacts; created where it does not exist.
        key: Name of the picture, equal in all runs. The file names are those of `MlflowClient.log_image`.
    """
    folder.mkdir(exist_ok=True)
    stem = f"{key.replace('/', '~')}+step+0+timestamp+{time.time_ns() // 1_000_000}+{uuid.uuid4()}"
    path = folder / f"{stem}.png"
    write_png(figure, path)
    preview = Image.open(path).convert("RGB")
    preview.thumbnail((_PREVIEW_EDGE, _PREVIEW_EDGE))
    preview.save(folder / f"{stem}+compressed.webp")
