"""HTML pages that need no network: one look, one script, figures and pictures inside the file."""

import base64
import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import plotly.io
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from vidclf.data.video import Frames

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5c00", "#444444")
"""Apart for the colour-blind too (Okabe and Ito, 2008), the palest replaced by darker ones."""
CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "showSendToCloud": False,  # on by default, and would send a study's values to another's server
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
}
_LABELS_ACROSS, _LABELS_UP = 12, 8
"""Labels on a logarithmic axis as wide or as high as a figure, at most."""
_EACH = 10
"""Span of whole numbers up to which each has a label; Plotly's own ten at most are then whole."""
_STYLE = """
body{font:16px/1.55 system-ui,sans-serif;color:#1c1c1c;background:#fff;max-width:76rem;margin:2rem auto;
padding:0 1.5rem}
h1{font-size:1.9rem;margin:0}h2{font-size:1.3rem;margin:2.6rem 0 0}h3{font-size:1.05rem;margin:1.6rem 0 0}
p{max-width:52rem;margin:.4rem 0}.lead{font-size:1.15rem;color:#444}.note{color:#555;font-size:.92rem}
.facts{display:flex;flex-wrap:wrap;gap:.8rem;margin:1.2rem 0}
.facts div{border:1px solid #ddd;border-radius:.5rem;padding:.5rem 1rem;min-width:7rem}
.facts b{display:block;font-size:1.4rem;font-variant-numeric:tabular-nums}
.facts span{color:#555;font-size:.85rem}
table{border-collapse:collapse;font-size:.92rem;margin:.8rem 0;font-variant-numeric:tabular-nums}
th{font-weight:600;color:#555}td,th{padding:.25rem .8rem;border-bottom:1px solid #e4e4e4;text-align:right;
white-space:nowrap}td.text,th.text{text-align:left;white-space:normal}tr.front{background:#f1f7fb}
nav{margin:1rem 0;font-size:.92rem}nav a{margin-right:1.1rem}a{color:#0060a0;text-decoration:none}
pre{background:#f6f6f6;border-radius:.5rem;padding:.8rem 1rem;overflow:auto;font-size:.85rem}
summary{cursor:pointer;color:#0060a0}.warn{border-left:4px solid #e69f00;padding-left:.8rem}
"""


def document(title: str, body: Iterable[str], style: str = "") -> str:
    """A whole page with Plotly's script inside, once.

    Args:
        title: Of the window, as plain text.
        body: Parts of HTML.
        style: Rules beyond those that all pages share.
    """
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}{style}</style><script>{get_plotlyjs()}</script></head>"
        f"<body>{''.join(body)}</body></html>"
    )


def drawn(figure: Figure, name: str) -> str:
    """A figure as a part of a `document`, under an id that is unique in it."""
    text: str = plotly.io.to_html(
        dressed(figure),
        config=CONFIG,
        include_plotlyjs=False,
        full_html=False,
        default_height=figure.layout.height or 400,
        div_id=name,
    )
    return text


def dressed(figure: Figure) -> Figure:
    """The figure in the look that all share."""
    for axes, most in ((figure.select_xaxes, _LABELS_ACROSS), (figure.select_yaxes, _LABELS_UP)):
        for axis in axes({"type": "log"}):
            low, high = axis.domain or (0, 1)
            ticks = _decades(_places(figure, axis), round(most * (high - low)))
            axis.update(tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks] if ticks else None)
    return figure.update_layout(
        template="plotly_white",
        title=None,
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#1c1c1c"},
        hoverlabel={"bgcolor": "white", "align": "left"},
        margin={"l": 70, "r": 30, "t": figure.layout.margin.t or 30, "b": 50},
        colorway=COLOURS,
    )


def _places(figure: Figure, axis: Any) -> list[float]:
    """The positive numbers that stand on one axis of a figure."""
    letter, number = axis.plotly_name[0], axis.plotly_name[len("xaxis") :]
    on_axis = [
        trace[letter]
        for trace in figure.data
        if f"{letter}axis" in trace and (trace[f"{letter}axis"] or letter) == letter + number
    ]
    return [place for places in on_axis if places is not None for place in places if place and place > 0]


def _decades(places: Sequence[float], most: int) -> list[float] | None:
    """Ticks of a logarithmic axis, to be labelled in full where Plotly writes the 2 and 5 between powers.

    Args:
        places: What stands on the axis, positive.
        most: Ticks among them, at most.

    Returns:
        Round numbers; ``None`` where fewer than two of them are among the places, for Plotly to choose.
    """
    if not places:
        return None
    low, high = min(places), max(places)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps, apart in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3)):
        ticks = [float(f"{step}e{power}") for power in powers if power % apart == 0 for step in steps]
        if 2 <= sum(low <= tick <= high for tick in ticks) <= most:
            return ticks
    return None


def scale(values: Sequence[float]) -> str:
    """The type of an axis for them: ``log`` where the largest is more than ten times the smallest."""
    return "log" if min(values) > 0 and max(values) > 10 * min(values) else "linear"


def whole(numbers: Sequence[int]) -> dict[str, Any]:
    """Ticks of an axis of these numbers, at least one: each whole one where Plotly would also name halves."""
    low, high = min(numbers), max(numbers)
    return {"tickvals": list(range(low, high + 1))} if high - low <= _EACH else {}


def picture(pixels: Frames, words: str) -> str:
    """An RGB picture, uint8 (H, W, 3), as a small JPEG inside the page."""
    encoded = base64.b64encode(cv2.imencode(".jpg", pixels[..., ::-1])[1].tobytes()).decode()
    shown = html.escape(words)
    return f'<img alt="{shown}" title="{shown}" src="data:image/jpeg;base64,{encoded}">'
