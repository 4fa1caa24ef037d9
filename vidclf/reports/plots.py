"""Figures as small PNGs; matplotlib's `Figure` without pyplot, so nothing is global."""

import shutil
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from vidclf.data.pictures import Frames
from vidclf.evaluation.metrics import Reliability, class_shares, lower_is_better

_LONGEST_NAME = 24
"""Characters of a class name that are shown."""
_PREVIEW_EDGE = 256
"""Pixels of the longer edge of MLflow's own previews."""
_MOST_NUMBERED = 30
"""Classes up to which cells carry their counts."""
_MOST_COLOURED = 40
"""Classes up to which each has its colour and its line in a legend."""
_SPLIT_MARKERS: dict[str, dict[str, Any]] = {
    "train": {"marker": "o", "s": 26, "alpha": 0.6, "linewidths": 0.3},
    "val": {"marker": "^", "s": 54, "alpha": 0.95, "linewidths": 0.8},
}
_ARROWS = 14
"""Arrows along each edge of a picture of motion."""


def confusion_matrix(counts: NDArray[np.int64], classes: Sequence[str], title: str) -> Figure:
    """Clips by true (rows) and predicted class; the colour is the share of the true class.

    ``counts`` has the shape (classes, classes).
    """
    number = len(classes)
    edge = float(np.clip(2.8 + 0.32 * number, 4.5, 11))
    figure = Figure(figsize=(edge + 0.6, edge), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    shares = class_shares(counts)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    names = [shortened(name) for name in classes]
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


def shortened(name: str) -> str:
    """A name whose middle is left out where it is long."""
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"


def _write_counts(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64], size: float) -> None:
    for row, column in np.argwhere(counts > 0):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(
            column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=size
        )


def reliability(panels: Mapping[str, Reliability], title: str) -> Figure:
    """Accuracy by confidence, a panel for each title; on the diagonal both are equal."""
    figure = Figure(figsize=(0.4 + 3.9 * len(panels), 4.2), dpi=90, layout="constrained")
    for axes, (name, bins) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        number = len(bins.clips)
        middles = (np.arange(number) + 0.5) / number
        axes.bar(middles, bins.accuracy, 1 / number, color="C0", edgecolor="white")
        axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
        some = bins.clips > 0
        axes.plot(bins.confidence[some], bins.accuracy[some], "o", color="C3", markersize=4)
        for middle, height, clips in zip(middles[some], bins.accuracy[some], bins.clips[some], strict=True):
            axes.annotate(
                str(clips), (middle, height), (0, 4), textcoords="offset points", ha="center", fontsize=7
            )
        axes.set(
            xlim=(0, 1), ylim=(0, 1.08), xlabel="probability of the predicted class", ylabel="share right"
        )
        axes.set_title(name, fontsize=9)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    figure.suptitle(f"{title}; numbers: clips", fontsize=10)
    return figure


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
    for axes, name, label in (
        (losses, "epoch/train/loss", "train"),
        (losses, "epoch/val/loss", "val"),
        (scores, key, monitor),
    ):
        points = [(step, values[name]) for step, values in sorted(epochs.items()) if name in values]
        axes.plot([step for step, _ in points], [value for _, value in points], marker=".", label=label)
    losses.set(ylabel="loss", title="loss")
    scores.set(ylabel=monitor, title=monitor)
    curve = {step: values[key] for step, values in epochs.items() if key in values}
    if curve:
        best = (min if lower_is_better(monitor) else max)(curve, key=curve.__getitem__)
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


def projection(
    points: Mapping[str, NDArray[np.float64]],
    labels: Mapping[str, NDArray[np.int64]],
    classes: Sequence[str],
    shares: Sequence[float],
    title: str,
) -> Figure:
    """Clips in two dimensions: the colour is the class, the marker the split (train: circles).

    Args:
        points: Of each split, shape (clips, 2).
        labels: Of each split, shape (clips,): indices into ``classes``.
        classes: Their names.
        shares: Of the variance, one for each axis.
        title: Of the figure.
    """
    number = len(classes)
    figure = Figure(figsize=(8.2, 5.4), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    colours = _class_colours(number)
    for split, positions in points.items():
        axes.scatter(
            positions[:, 0],
            positions[:, 1],
            c=colours[labels[split]],
            label=split,
            edgecolors="black",
            **_SPLIT_MARKERS[split],
        )
    axes.set(
        title=title,
        xlabel=f"component 1: {shares[0]:.0%} of the variance",
        ylabel=f"component 2: {shares[1]:.0%} of the variance",
    )
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            color="white",
            markeredgecolor="black",
            label=split,
            markersize=7,
            marker=_SPLIT_MARKERS[split]["marker"],
        )
        for split in points
    ]
    if number <= _MOST_COLOURED:
        handles += [
            Line2D([], [], linestyle="", marker="s", color=colour, label=shortened(name))
            for name, colour in zip(classes, colours, strict=True)
        ]
    size = 9 if number <= 22 else 7
    figure.legend(handles=handles, loc="outside right upper", fontsize=size, frameon=False)
    return figure


def _class_colours(number: int) -> NDArray[np.float64]:
    """A colour for each class, shape (number, 4); beyond 40 neighbours look alike."""
    if number <= 10:
        return colormaps["tab10"](np.arange(number))
    if number <= _MOST_COLOURED:
        # The dark ones first, then the pale, so that the fewer there are the better they are told apart.
        lists = [colormaps[name](np.arange(20)) for name in ("tab20", "tab20b")]
        return np.concatenate([lists[0][::2], lists[1][::2], lists[0][1::2], lists[1][1::2]])[:number]
    return colormaps["turbo"](np.linspace(0, 1, number))


def block_importance(drops: Mapping[str, Sequence[float]], title: str, caption: str) -> Figure:
    """Bars of the mean drop in macro F1 by feature, the largest on top, with the deviation of the draws."""
    names = sorted(drops, key=lambda name: np.mean(drops[name]))
    means = [float(np.mean(drops[name])) for name in names]
    deviations = [float(np.std(drops[name])) for name in names]
    figure = Figure(figsize=(6.4, 1.6 + 0.38 * len(names)), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    axes.barh(names, means, xerr=deviations, color="C0", ecolor="black", capsize=3, height=0.65)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.margins(x=0.16)
    for place, (mean, deviation) in enumerate(zip(means, deviations, strict=True)):
        axes.annotate(
            f"{mean:.2f} ± {deviation:.2f}",
            (max(mean, 0) + deviation, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set(title=title, xlabel=f"drop in macro F1\n{caption}")
    axes.xaxis.label.set_fontsize(9)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figure


def descriptor(
    frames: Frames,
    columns: Sequence[str],
    title: str,
    *,
    edges: NDArray[np.float64] | None = None,
    flow: NDArray[np.float32] | None = None,
    still: float = 0.0,
) -> Figure:
    """Some instants of a clip side by side, and below them what features see of them.

    Args:
        frames: RGB, uint8 (instants, S, S, 3).
        columns: Names of the instants.
        title: Of the figure.
        edges: Drawings of their gradients, (instants, S, S).
        flow: Their motion in pixels (right, down), (instants, S, S, 2).
        still: Motion in pixels below which none is drawn.
    """
    number, side = frames.shape[:2]
    rows = 1 + (edges is not None) + (flow is not None)
    figure = Figure(figsize=(2.5 * number + 0.3, 2.5 * rows + 0.5), dpi=90, layout="constrained")
    cells = iter(figure.subplots(rows, number, squeeze=False))
    seen = next(cells)
    seen[0].set_ylabel(f"as the features see it\n({side} × {side} pixels)", fontsize=9)
    for axes, frame, name in zip(seen, frames, columns, strict=True):
        axes.imshow(frame)
        axes.set_title(name, fontsize=9)
    if edges is not None:
        drawn = next(cells)
        drawn[0].set_ylabel("edges by orientation (hog)", fontsize=9)
        brightest = float(np.percentile(edges, 99.5)) or 1.0
        for axes, drawing in zip(drawn, edges, strict=True):
            axes.imshow(drawing, cmap="gray", vmin=0, vmax=brightest)
    if flow is not None:
        moved = next(cells)
        # As in the wheel: 1 where it is strongest, but for a few stray pixels.
        strongest = max(float(np.percentile(np.hypot(flow[..., 0], flow[..., 1]), 99.5)), 2 * still, 1e-6)
        moved[0].set_ylabel(f"motion to the next frame\n(full colour: {strongest:.1f} pixels)", fontsize=9)
        for axes, frame, motion in zip(moved, frames, flow, strict=True):
            _draw_motion(axes, frame, motion, still, strongest)
        _draw_wheel(moved[-1])
    for axes in figure.axes:
        axes.set(xticks=[], yticks=[])
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_motion(
    axes: Axes, frame: Frames, motion: NDArray[np.float32], still: float, strongest: float
) -> None:
    """Motion over the pale frame, as colours and as arrows."""
    pale = 0.45 + 0.5 * frame.mean(axis=2, keepdims=True) / 255
    strength = np.hypot(motion[..., 0], motion[..., 1])
    opaque = np.where(strength < still, 0, np.minimum(strength / strongest, 1))[..., None]
    axes.imshow((1 - opaque) * pale + opaque * _direction_colours(motion))
    middles = (
        np.linspace(0, len(frame), _ARROWS, endpoint=False).astype(np.int64) + len(frame) // _ARROWS // 2
    )
    rows, columns = np.meshgrid(middles, middles, indexing="ij")
    moving = strength[rows, columns] >= still
    rows, columns = rows[moving], columns[moving]
    right, down = motion[rows, columns].T
    spread = len(frame) / _ARROWS / strongest  # the strongest just reach the next arrow
    axes.quiver(
        columns, rows, spread * right, spread * down, angles="xy", scale_units="xy", scale=1, width=0.006
    )


def _direction_colours(motion: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """RGB, 0 to 1, (..., 3) of motion (..., 2): red to the right, then clockwise."""
    hue = np.arctan2(motion[..., 1], motion[..., 0]) / (2 * np.pi) % 1
    colours: NDArray[np.float64] = hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.9), np.ones_like(hue)], -1))
    return colours


def _draw_wheel(axes: Axes) -> None:
    """Which colour is which direction, in the lower right corner."""
    wheel = axes.inset_axes((0.78, 0.02, 0.2, 0.2))
    down, right = np.mgrid[-1:1:61j, -1:1:61j]
    distance = np.minimum(np.hypot(right, down), 1)[..., None]
    colours = 1 - distance + distance * _direction_colours(np.stack([right, down], axis=-1))
    wheel.imshow(np.concatenate([colours, np.hypot(right, down)[..., None] <= 1], axis=-1))
    wheel.set(xticks=[], yticks=[])
    wheel.axis("off")


def contact_sheet(frames: Sequence[Frames], captions: Sequence[str], title: str) -> Figure:
    """Pictures, uint8 (H, W, 3) of any sizes, six in a row, each above its caption."""
    columns = min(len(frames), 6)
    rows = -(-len(frames) // columns)
    figure = Figure(figsize=(2.1 * max(columns, 3), 2.2 * rows + 0.4), dpi=90, layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in cells:
        axes.axis("off")
    for axes, frame, caption in zip(cells[: len(frames)], frames, captions, strict=True):
        axes.imshow(frame)
        axes.text(0.5, -0.04, caption, transform=axes.transAxes, ha="center", va="top", fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def write_png(figure: Figure, path: Path, colours: int = 64) -> None:
    """Writes a figure in so many colours; in 64 a third of the size of matplotlib's own PNG."""
    for text in figure.findobj(Text):  # a class may be called $a_$, which is no formula
        text.set_parse_math(False)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()  # once; `Figure.savefig` does it twice
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(colours).save(path, optimize=True)


def write_grid_image(picture: Path, folder: Path, key: str) -> None:
    """Copies a PNG to where MLflow's image grid shows it beside those of other runs under ``key``.

    ``folder`` is ``images`` among a run's artifacts; the file names are those of `MlflowClient.log_image`.
    """
    folder.mkdir(exist_ok=True)
    stem = f"{key.replace('/', '~')}+step+0+timestamp+{time.time_ns() // 1_000_000}+{uuid.uuid4()}"
    shutil.copyfile(picture, folder / f"{stem}.png")
    preview = Image.open(picture).convert("RGB")
    preview.thumbnail((_PREVIEW_EDGE, _PREVIEW_EDGE))
    preview.save(folder / f"{stem}+compressed.webp")
