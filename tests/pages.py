"""HTML pages read back: their texts, tables and figures, under the heading that they stand below."""

import base64
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from plotly.graph_objects import Figure

_CELLS, _TEXTS, _HEADINGS = ("td", "th"), ("p", "li", "pre", "div"), ("h1", "h2", "h3")
_LOADS = {"src", "href", "srcset", "data", "action"}


@dataclass
class Section:
    """What stands below one heading.

    Attributes:
        heading: Its text.
        texts: Paragraphs, list items and the like, whitespace normalised.
        rows: Of its table, each row's CSS classes and cells, headings first.
        figures: As they are given to Plotly.
        pictures: Titles of its pictures.
    """

    heading: str
    texts: list[str] = field(default_factory=list)
    rows: list[tuple[str, list[str]]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    @property
    def table(self) -> list[dict[str, str]]:
        """Each row's cells by their headings."""
        (_, headings), *rows = self.rows
        return [dict(zip(headings, cells, strict=True)) for _, cells in rows]

    @property
    def marked(self) -> dict[str, str]:
        """CSS classes of each row by its first cell."""
        return {cells[0]: classes for classes, cells in self.rows[1:]}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sections = [Section("")]
        self.loads: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self._text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        addresses = [value for name, value in values.items() if name in _LOADS]
        self.loads += [value for value in addresses if not value.startswith(("data:", "#"))]
        if tag in ("script", "style"):
            self._inside = tag
        elif tag == "tr":
            self.sections[-1].rows.append((values.get("class", ""), []))
        elif tag == "img":
            self.sections[-1].pictures.append(values["title"])
        if tag in (*_CELLS, *_TEXTS, *_HEADINGS, "script"):
            self._flush()

    def handle_endtag(self, tag: str) -> None:
        text = " ".join(self._text.split())
        if tag == "script":
            self._script(self._text)
            self._text = ""
        elif tag in _CELLS:
            self.sections[-1].rows[-1][1].append(text)
            self._text = ""
        elif tag in _HEADINGS:
            self.sections.append(Section(text))
            self._text = ""
        elif tag in _TEXTS:
            self._flush()
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside != "style":
            self._text += data

    def _flush(self) -> None:
        if text := " ".join(self._text.split()):
            self.sections[-1].texts.append(text)
        self._text = ""

    def _script(self, script: str) -> None:
        self.scripts.append(script)
        call = re.search(r'Plotly\.newPlot\(\s*"[^"]*",\s*', script)
        if call and len(self.scripts) > 1:  # the first is Plotly itself
            decoder = json.JSONDecoder()
            data, end = decoder.raw_decode(script, call.end())
            layout, end = decoder.raw_decode(script, script.index("{", end))
            config, _ = decoder.raw_decode(script, script.index("{", end))
            assert config["showSendToCloud"] is False
            assert layout.pop("template")["layout"]["paper_bgcolor"] == "white"
            self.sections[-1].figures.append(Figure(_decoded(data), _decoded(layout)))


def _decoded(value: Any) -> Any:
    """What Plotly is given, with its packed numbers as lists."""
    if isinstance(value, dict):
        if "bdata" in value:
            return np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"]).tolist()
        return {key: _decoded(each) for key, each in value.items()}
    return [_decoded(each) for each in value] if isinstance(value, list) else value


@dataclass
class Page:
    """A page in its parts.

    Attributes:
        sections: In order; the first is what stands above the first heading.
        loads: Addresses outside the page that it would load or link to.
        scripts: How many there are.
    """

    sections: list[Section]
    loads: list[str]
    scripts: int

    def __getitem__(self, heading: str) -> Section:
        """The only section of that heading."""
        (found,) = [section for section in self.sections if section.heading == heading]
        return found

    @property
    def headings(self) -> list[str]:
        return [section.heading for section in self.sections[1:]]

    @property
    def text(self) -> str:
        return "\n".join(f"{section.heading}\n{section.text}" for section in self.sections)

    @property
    def figures(self) -> list[Figure]:
        return [figure for section in self.sections for figure in section.figures]


def read_page(path: Path) -> Page:
    """Reads a page; it must have Plotly's script once, and none but those of its figures beside it."""
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    page = Page(reader.sections, reader.loads, len(reader.scripts))
    assert len(reader.scripts[0]) > 1_000_000
    assert page.scripts == 1 + len(page.figures)
    return page


def trace(figure: Figure, name: str, axis: str = "x") -> Any:
    """The only trace of a figure of that name, or of that name on one of its axes."""
    (found,) = [each for each in figure.data if each.name == name and (each.xaxis or "x") == axis]
    return found
