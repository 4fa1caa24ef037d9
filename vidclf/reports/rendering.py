"""HTML pages from Jinja templates; a page holds its script, figures and pictures and needs no network."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import plotly.io
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from vidclf.data.pictures import Frames
from vidclf.reports.charts import apply_theme

_PLOTLY_CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "showSendToCloud": False,  # on by default, and would send a study's values to another's server
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
}
_TEMPLATE = plotly.io.templates["plotly_white"].to_plotly_json()


@dataclass(frozen=True)
class PageSection:
    """A heading with its figures.

    Attributes:
        title: The heading.
        reading: How to read the figures.
        figures: What is shown.
        lacking: What is missing, where there are no figures.
    """

    title: str
    reading: str
    figures: Sequence[Figure]
    lacking: str


def render(template: str, **values: Any) -> str:
    """A whole page from one of the templates; texts are escaped."""
    return _templates.get_template(template).render(values)


def figure_html(figure: Figure, div_id: str) -> Markup:
    """A figure as an HTML element, without Plotly's script; ``div_id`` is unique in the page.

    The figure is left as it is; names of its traces, titles, annotations and texts on its axes are plain
    text, which Plotly would else read as HTML, as a class called ``<br>``.
    """
    layout = figure.layout.to_plotly_json()
    layout.pop("template", None)  # to validate it would take longer than all else
    shown = apply_theme(Figure(figure.data, layout))
    shown.for_each_trace(_escape_trace)
    for each_axis in (shown.for_each_xaxis, shown.for_each_yaxis):
        each_axis(lambda axis: axis.title.update(text=_escaped(axis.title.text)))
        each_axis(lambda axis: axis.update(categoryarray=_escaped(axis.categoryarray)))
    shown.for_each_annotation(lambda annotation: annotation.update(text=_escaped(annotation.text)))
    plain = shown.to_dict()
    plain["layout"]["template"] = _TEMPLATE
    text = plotly.io.to_html(
        plain,
        validate=False,
        config=_PLOTLY_CONFIG,
        include_plotlyjs=False,
        full_html=False,
        default_height=shown.layout.height or 400,
        div_id=div_id,
    )
    return Markup(text)


def _escape_trace(trace: Any) -> None:
    name = _escaped(trace.name)
    if template := trace.hovertemplate:  # plotly.express writes the name into it
        trace.hovertemplate = template.replace(f"={trace.name}<", f"={name}<")
    trace.update({key: _escaped(trace[key]) for key in ("x", "y", "customdata") if key in trace}, name=name)


def _escaped(value: Any) -> Any:
    """Texts, and those in arrays, without what Plotly reads as HTML; numbers as they are."""
    if isinstance(value, str):
        return str(escape(value))
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype.kind in "OU"):
        return [_escaped(each) for each in value]
    return value


def film_uri(film: bytes) -> str:
    """A film as the address of an MP4 file that is its own content."""
    return f"data:video/mp4;base64,{base64.b64encode(film).decode()}"


def jpeg_uri(pixels: Frames) -> str:
    """An RGB picture, uint8 (H, W, 3), as the address of a small JPEG that is its own content."""
    encoded = cv2.imencode(".jpg", pixels[..., ::-1])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}"


_templates = Environment(
    loader=PackageLoader("vidclf.reports"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters.update(figure=figure_html, film=film_uri, jpeg=jpeg_uri)
_templates.globals.update(plotly_script=get_plotlyjs)
