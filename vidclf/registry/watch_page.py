"""What `vidclf watch` has found as one HTML page that needs no network."""

from pathlib import Path
from typing import Any

import numpy as np
from plotly.graph_objects import Bar, Figure, Scatter
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from vidclf.registry.watch import NAMES, WatchResult
from vidclf.reports.charts import series_colours
from vidclf.reports.loops import Loops
from vidclf.reports.rendering import PageSection, render

_SIDES = series_colours(["val", "new clips"])


def write_page(found: WatchResult, reference: str, rate: float, path: Path) -> None:
    """Writes the page.

    Args:
        found: What is shown.
        reference: The model, as the user calls it.
        rate: How often an alarm may be false.
        path: The HTML file.

    Raises:
        OSError: It cannot be written.
    """
    loops = Loops()
    page = render(
        "watch.html.j2",
        title=f"New clips for {reference}",
        verdict=found.verdict(rate),
        alarm=found.drift.alarm(rate),
        basis=found.basis,
        facts=_facts(found),
        sections=_sections(found),
        clips=[{**row, "loop": loops.of(row["clip_path"])} for row in found.labelled_next()],
        unreadable=found.unreadable,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _facts(found: WatchResult) -> dict[str, str]:
    sure = [float(clips.probabilities.max(axis=1).mean()) for clips in (found.known, found.new)]
    return {
        "new clips": f"{len(found.paths)}",
        "mean confidence on val": f"{sure[0]:.2f}",
        "on the new clips": f"{sure[1]:.2f}",
        **{f"p, {NAMES[each.what]}": f"{each.p:.3g}" for each in found.drift.differences},
    }


def _sections(found: WatchResult) -> list[PageSection]:
    drawn = {"confidence": _confidences(found), "classes": _shares(found), "appearance": _places(found)}
    reading = {
        "confidence": "The share of the clips whose confidence is at most that of the axis: a line above the "
        "other is that of clips of which the model is less sure.",
        "classes": "The share of the clips that the model gives each class.",
        "appearance": "Two principal components of what the model decides on: points apart from the others "
        "are clips unlike those that it was judged on.",
    }
    sections = []
    for each in found.drift.differences:
        figure = drawn[each.what]
        words = (
            f"{reading[each.what]} Distance {each.distance:.3f}; between such parts of all groups it is "
            f"{each.usual:.3f} (median), and p = {each.p:.3g}."
        )
        title = NAMES[each.what].capitalize()
        sections.append(PageSection(title, words, [figure] if figure else [], "Nothing to draw."))
    return sections


def _confidences(found: WatchResult) -> Figure:
    figure = Figure()
    for (name, colour), clips in zip(_SIDES.items(), (found.known, found.new), strict=True):
        values = np.sort(clips.probabilities.max(axis=1))
        shares = np.arange(1, len(values) + 1) / len(values)
        line = {"color": colour, "shape": "hv"}
        figure.add_trace(Scatter(x=list(values), y=list(shares), mode="lines", name=name, line=line))
    figure.update_xaxes(title="confidence").update_yaxes(title="share of clips", range=[0, 1.02])
    return figure


def _shares(found: WatchResult) -> Figure:
    shares = found.shares()
    figure = Figure()
    for side, (name, colour) in enumerate(_SIDES.items()):
        heights = [each[side] for each in shares.values()]
        figure.add_trace(Bar(x=list(shares), y=heights, name=name, marker_color=colour))
    return figure.update_yaxes(title="share of clips", tickformat=".0%")


def _places(found: WatchResult) -> Figure | None:
    scaler = StandardScaler().fit(found.known.embeddings)
    known, new = (scaler.transform(clips.embeddings) for clips in (found.known, found.new))
    if min(known.shape) < 2:
        return None
    axes = PCA(2, svd_solver="full").fit(known)
    figure = Figure()
    sides: tuple[tuple[Any, list[str]], ...] = (
        (known, list(found.known.groups)),
        (new, [path.name for path in found.paths]),
    )
    for (name, colour), (values, texts) in zip(_SIDES.items(), sides, strict=True):
        points = axes.transform(values)
        figure.add_trace(
            Scatter(
                x=list(points[:, 0]),
                y=list(points[:, 1]),
                mode="markers",
                name=name,
                marker={"color": colour, "symbol": "circle" if name == "val" else "diamond", "size": 8},
                text=texts,
                hovertemplate="%{text}",
            )
        )
    return figure.update_xaxes(showticklabels=False).update_yaxes(showticklabels=False)
