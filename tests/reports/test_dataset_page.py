"""The data report: one page with the numbers, the advice, the bad files and the pictures."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from plotly.graph_objects import Figure

from tests.clips import moving_square, write_squares
from tests.command import run
from tests.pages import Page, read_page
from vidclf.data import video
from vidclf.data.manifest import Entry, read_manifest
from vidclf.reports.charts import COLOURS
from vidclf.reports.dataset_page import (
    advice,
    quantities,
    rounded_rates,
    whole_number_histogram,
    write_report,
)

ReportOf = Callable[[Sequence[Entry]], Page]


@pytest.fixture
def report_of(tmp_path: Path) -> ReportOf:
    """Writes the page of clips."""

    def written(entries: Sequence[Entry]) -> Page:
        write_report(entries, "t", tmp_path / "r.html")
        return read_page(tmp_path / "r.html")

    return written


def command(manifest: Path, target: Path) -> Page:
    run("data", "report", manifest, "--to", target)
    return read_page(target)


@pytest.mark.slow
def test_the_page_tells_what_is_there_and_what_is_wrong(tmp_path: Path) -> None:
    manifest = write_squares(tmp_path / "squares", groups=4)
    broken = read_manifest(manifest).entries[0].clip_path
    broken.write_bytes(b"")
    manifest.write_text(manifest.read_text().replace(",g01,", ",g03,"))
    page = command(manifest, tmp_path / "r/report.html")
    assert page.loads == []
    top = page.sections[1]
    assert top.texts[0] == "8 clips of 2 classes in 3 groups, 0.0 minutes; 1 is not ok."
    assert top.table == [
        {"class": "down", "train": "2", "val": "1", "test": "1", "groups": "3"},
        {"class": "right", "train": "2", "val": "1", "test": "1", "groups": "3"},
    ]
    assert top.texts[1:] == advice(read_manifest(manifest).entries)
    (bad,) = page["Files"].texts
    assert bad.startswith(f"{broken}: unreadable")
    headline, *leaks = page["Leakage"].texts
    assert headline == f"the split leaks, {len(leaks)} pair"
    assert all(text.startswith("same group in train and val") for text in leaks)
    assert page.headings[-7:] == ["Samples", "down", "right", "Groups", "g03", "g02", "Alone in their group"]
    assert page["down"].pictures == [f"v_down_g0{group}_c00.avi" for group in (1, 2)]
    assert page["right"].pictures == [f"v_right_g0{group}_c00.avi" for group in (0, 1, 2)]


def drawn(figure: Figure) -> dict[str, tuple[Any, str]]:
    """Values and colour of each histogram of a figure, by its name."""
    bars = figure.select_traces({"type": "histogram"})
    return {each.name: (list(each.x), each.marker.color) for each in bars}


@pytest.mark.slow
def test_quantities_are_drawn_by_class_where_clips_differ() -> None:
    table = pd.DataFrame(
        {
            "class": ["b", "a", "a"],
            "split": ["train", "val", "train"],
            "seconds": [1.0, 2.0, 2.5],
            "fps": [25.0, 100.0, 25.0],
            "width": [32, 32, 64],
            "height": [24, 24, 48],
            "frames": [30, 31, 31],
            "clip": ["x", "y", "z"],
        }
    )
    found = {each.title: each for each in quantities(table)}
    assert {title: each.shared for title, each in found.items()} == dict.fromkeys(found, "")
    splits, first, second = COLOURS[-4:], COLOURS[0], COLOURS[1]
    assert drawn(found["Clips per class"].figure) == {
        "train": (["b", "a"], splits[0]),
        "val": (["a"], splits[1]),
    }
    assert drawn(found["Duration"].figure) == {"a": ([2.0, 2.5], first), "b": ([1.0], second)}
    assert drawn(found["Frames"].figure) == {"a": ([31, 31], first), "b": ([30], second)}
    rates = found["Frames a second"].figure
    assert drawn(rates) == {"a": (["100", "25"], first), "b": (["25"], second)}
    assert rates.layout.xaxis.categoryarray == ("25", "100")
    (sizes,) = found["Frame sizes"].figure.data
    assert sorted(zip(sizes.x, sizes.y, sizes.marker.size, strict=True)) == [(32, 24, 2), (64, 48, 1)]
    axes = {
        title: (each.figure.layout.xaxis.title.text, each.figure.layout.yaxis.title.text)
        for title, each in found.items()
    }
    assert axes == {
        "Clips per class": ("class", "count"),
        "Duration": ("seconds", "count"),
        "Frames": ("frames", "count"),
        "Frames a second": ("fps", "count"),
        "Frame sizes": ("width", "height"),
    }
    assert [each.shared for each in quantities(table.head(1), all_decode=False)] == [
        "",
        "All clips that decode last 1.00 s.",
        "All clips that decode have 30 frames.",
        "All clips that decode have 25 frames a second.",
        "All clips that decode are 32 x 24.",
    ]


@pytest.mark.slow
def test_what_all_clips_share_is_said_and_the_rest_drawn(tmp_path: Path, report_of: ReportOf) -> None:
    entries = read_manifest(write_squares(tmp_path / "alike", groups=3)).entries
    page = report_of(entries)
    assert page.sections[1].texts[0].endswith("0.0 minutes; all are ok.")
    assert page["Files"].texts == ["Every clip decodes to its end."]
    assert page["Duration"].texts == ["All clips last 0.32 s."]
    assert page["Frames"].texts == ["All clips have 8 frames."]
    assert page["Frames a second"].texts == ["All clips have 25 frames a second."]
    assert page["Frame sizes"].texts == ["All clips are 32 x 32."]
    assert len(page.figures) == 1

    generator = np.random.default_rng(0)
    video.write_video(entries[0].clip_path, moving_square("down", generator, 12, 48), rate=100)
    for broken in entries[1:3]:
        broken.clip_path.write_bytes(b"")
    page = report_of(entries)
    assert page.sections[1].texts[0].endswith("; 2 are not ok.")
    assert len(page.figures) == 5
    assert "All clips" not in page.text
    assert drawn(page["Frames"].figures[0]) == {"down": ([12], COLOURS[0]), "right": ([8, 8, 8], COLOURS[1])}


@pytest.mark.slow
def test_where_groups_are_loose_leaks_cannot_be_excluded(tmp_path: Path, report_of: ReportOf) -> None:
    entries = read_manifest(write_squares(tmp_path / "squares", groups=4)).entries
    whole = "No group and no copy of a clip was found in two splits."
    assert report_of(entries)["Leakage"].texts == [whole]
    for group, cause in (
        ("{}", "8 groups of 8 clips: nearly each is a group of its own"),
        ("", "8 of 8 clips name no group, so each is its own"),
    ):
        loose = [replace(entry, group=group.format(entry.name)) for entry in entries]
        page = report_of(loose)
        doubt, *suspected = page["Leakage"].texts
        assert doubt == f"groups unknown: leaks cannot be excluded; {len(suspected)} suspected pairs"
        assert page.sections[1].texts[0] == doubt
        warning = page.sections[1].text
        assert f"{cause}. If several show one scene or person, the split leaks" in warning
    unsplit = [replace(entry, split="") for entry in entries]
    assert report_of(unsplit)["Leakage"].texts == [
        "All clips are in one split, or in none: nothing was looked for."
    ]


def test_advice_names_the_classes_and_what_to_do() -> None:
    def entries(count: int, label: str, group: str = "g") -> list[Entry]:
        return [
            Entry(Path(f"/{label}{n}"), label, f"{group}{n}" if group else "", "train") for n in range(count)
        ]

    assert advice(entries(59, "a") + entries(20, "b")) == []
    uneven = advice(entries(60, "a") + entries(60, "c") + entries(5, "b", group=""))
    assert uneven[0].startswith("a has 12.0 times the clips of b: judge by val/macro_f1")
    assert "b has only 5 clips" in uneven[1]
    assert "3.0 times" in advice(entries(60, "a") + entries(20, "b"))[0]
    assert uneven[2].startswith("5 of 125 clips name no group, so each is its own. If")
    assert "--groups scenes" in uneven[2]
    assert advice(entries(40, "a", group=""))[0].startswith("40 of 40 clips name no group, so each is")
    (lonely,) = advice(entries(64, "a") + entries(6, "a"))
    assert "--groups scenes" not in lonely
    assert lonely.startswith("64 groups of 70")


@pytest.mark.slow
def test_groups_are_shown_to_be_looked_at(tmp_path: Path, report_of: ReportOf) -> None:
    manifest = write_squares(tmp_path / "squares", groups=3)
    table = pd.read_csv(manifest)
    table.loc[table["label"] == "down", "group"] = ["one", "one", "two"]
    table.loc[table["label"] == "right", "group"] = ["one", "three", "<b>"]
    entries = read_manifest(manifest).entries
    entries = [
        replace(entry, group=group, split="train")
        for entry, group in zip(entries, table["group"], strict=True)
    ]
    page = report_of(entries)
    row, alone = page["one"], page["Alone in their group"]
    assert page.headings[page.headings.index("Groups") :] == ["Groups", "one", "Alone in their group"]
    assert (row.texts, alone.texts) == (["down 2, right 1; train"], ["down 1, right 2"])
    names = [entry.clip_path.name for entry in entries]
    assert row.pictures == [names[0], names[3], names[1]]  # in turn by class
    assert alone.pictures == [names[2], names[4], names[5]]


def test_whole_numbers_and_rates_have_bars_of_their_own() -> None:
    table = pd.DataFrame({"class": ["a"] * 4, "frames": [30, 31, 31, 33], "fps": [25, 29.97, 29.9701, 25.0]})
    bars = whole_number_histogram(table, "frames").data[0].xbins
    assert (bars.start, bars.size) == (29.5, 1)
    assert whole_number_histogram(table, "frames").layout.yaxis.tickvals == (0, 1, 2)
    wide = whole_number_histogram(table.assign(frames=[1, 2, 3, 81]), "frames").data[0].xbins
    assert (wide.start, wide.size) == (0.5, 3)
    assert list(rounded_rates(table)) == ["25", "29.97", "29.97", "25"]
    many = pd.DataFrame({"fps": [n + 0.5 for n in range(50)]})
    assert list(rounded_rates(many)) == list(many["fps"])


@pytest.mark.slow
def test_clips_without_labels_get_no_advice_on_classes(tmp_path: Path) -> None:
    manifest = write_squares(tmp_path / "squares", groups=4)
    bare = manifest.with_name("bare.csv")
    bare.write_text("\n".join(line.partition(",")[0] for line in manifest.read_text().splitlines()))
    page = command(bare, tmp_path / "report.html")
    top = page.sections[1]
    assert top.texts[0].startswith("groups unknown: leaks cannot be excluded")
    assert top.texts[1].startswith("8 clips of 0 classes that name no group")
    assert top.table == [{"class": "unlabelled", "unsplit": "8", "groups": "8"}]
    assert "has only" not in top.text
    assert len(page["unlabelled"].pictures) == 3
