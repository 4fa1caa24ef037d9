"""Pages are rendered with their texts as texts, and figures and pictures inside."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest
from jinja2 import UndefinedError
from plotly.graph_objects import Bar, Figure

from tests.pages import read_page
from vidclf.reports.rendering import PageSection, figure_html, jpeg_uri, render
from vidclf.reports.tables import HtmlTable, MarkedCell

NAME = "<b>&x</b>"


def study_page(**values: object) -> str:
    every = {
        "title": NAME,
        "question": f"{NAME}?",
        "counts": NAME,
        "facts": {NAME: NAME},
        "warning": NAME,
        "sections": [],
        "leaderboard": None,
        "hidden": 0,
        "best_config": None,
        "wrong": [],
    }
    return render("study.html.j2", **{**every, **values})


def test_texts_are_shown_as_they_are(tmp_path: Path) -> None:
    cells = [NAME, MarkedCell(NAME, "red", NAME)]
    table = HtmlTable([f"{NAME} 1", f"{NAME} 2"], set(), [("front", cells)])
    sections = [PageSection(NAME, NAME, [], f"no {NAME}")]
    page = tmp_path / "page.html"
    page.write_text(study_page(leaderboard=table, best_config=NAME, sections=sections), encoding="utf-8")
    assert NAME not in page.read_text(encoding="utf-8")
    read = read_page(page)
    assert read.headings == [NAME, "The best trials", NAME]
    assert read.sections[1].texts[:2] == [f"{NAME}?", NAME]
    assert read["The best trials"].rows == [
        ("", [f"{NAME} 1", f"{NAME} 2"]),
        ("front", [NAME, f"{NAME} {NAME}"]),
    ]
    assert read["The best trials"].texts[-1] == NAME
    assert read.sections[-1].texts == [f"no {NAME}"]


def test_a_template_is_given_all_that_it_shows() -> None:
    with pytest.raises(UndefinedError, match="counts"):
        render("study.html.j2", title="t", question="q")


def test_names_in_a_figure_are_text_and_the_figure_is_left_as_it_is(tmp_path: Path) -> None:
    bar = Bar(
        x=[NAME, 1], y=np.array([2, 3]), name=NAME, customdata=[[NAME]], hovertemplate=f"a={NAME}<br>%{{x}}"
    )
    figure = Figure([bar, Bar(x=[1], y=[NAME])], {"title": "none"})
    figure.update_xaxes(categoryarray=[NAME])
    figure.update_xaxes(title=NAME).update_yaxes(title=NAME)
    figure.add_annotation(text=NAME)
    before = figure.to_json()
    page = tmp_path / "page.html"
    section = PageSection("Figures", "r", [figure, figure], "l")
    page.write_text(study_page(sections=[section]), encoding="utf-8")
    escaped = "&lt;b&gt;&amp;x&lt;/b&gt;"
    for shown in read_page(page)["Figures"].figures:
        assert shown.data[0].name == escaped
        assert (shown.data[0].x, shown.data[0].customdata) == ((escaped, 1), ([escaped],))
        assert (list(shown.data[0].y), shown.data[1].y) == ([2, 3], (escaped,))
        assert shown.data[0].hovertemplate == f"a={escaped}<br>%{{x}}"
        assert shown.layout.xaxis.categoryarray == (escaped,)
        assert shown.layout.xaxis.title.text == shown.layout.yaxis.title.text == escaped
        assert shown.layout.annotations[0].text == escaped
        assert shown.layout.title.text is None
    assert figure.to_json() == before
    assert page.read_text(encoding="utf-8").count('<div id="s0-1"') == 1
    assert 'id="mine"' in figure_html(figure, "mine")


def test_a_picture_is_its_own_address() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., 0] = 250
    start, content = jpeg_uri(pixels).split(",")
    assert start == "data:image/jpeg;base64"
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)
    blue, green, red = shown[4, 4]
    assert red > 240
    assert max(blue, green) < 15
