"""The data report: one page with the numbers, the advice, the bad files and the pictures."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from tests.clips import moving_square, write_squares
from vidclf.cli.app import app
from vidclf.data import video
from vidclf.data.check import inspect_clip
from vidclf.data.manifest import Entry, read_manifest
from vidclf.reports import dataset_page
from vidclf.reports.charts import COLOURS
from vidclf.reports.dataset_page import advice, rates_of, whole_numbers, write_report

ReportOf = Callable[[Sequence[Entry]], str]


@pytest.fixture
def page(tmp_path: Path) -> str:
    manifest = write_squares(tmp_path / "squares", groups=4)
    read_manifest(manifest).entries[0].clip_path.write_bytes(b"")
    manifest.write_text(manifest.read_text().replace(",g01,", ",g03,"))
    result = CliRunner().invoke(
        app, ["data", "report", str(manifest), "--to", str(tmp_path / "r/report.html")]
    )
    assert result.exit_code == 0, result.output
    return (tmp_path / "r/report.html").read_text()


@pytest.fixture
def report_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReportOf:
    """Writes the page of clips that are checked in this process, which is quicker."""
    monkeypatch.setattr(dataset_page, "check_clips", lambda paths, progress: list(map(inspect_clip, paths)))

    def written(entries: Sequence[Entry]) -> str:
        write_report(entries, "t", tmp_path / "r.html")
        return (tmp_path / "r.html").read_text()

    return written


def words_of(page: str) -> str:
    return re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL))


def test_the_page_tells_what_is_there_and_what_is_wrong(page: str) -> None:
    text = words_of(page)
    assert re.search(r"8 clips of 2 classes in 3 groups, 0\.0 minutes; 1 is not ok", text)
    assert re.search(r"down\s+2\s+1\s+1\s+3", text)
    assert re.search(r"v_down_g00_c00\.avi: unreadable", page)
    assert "same group in train and val" in page
    assert "was found in two splits" not in page


def test_what_all_clips_share_is_said_and_the_rest_drawn(tmp_path: Path, report_of: ReportOf) -> None:
    entries = read_manifest(write_squares(tmp_path / "alike", groups=3)).entries
    page = report_of(entries)
    text = words_of(page)
    assert "0.0 minutes; all are ok." in text
    assert "All clips last 0.32 s." in text
    assert "All clips have 8 frames." in text
    assert "All clips have 25 frames a second." in text
    assert "All clips are 32 x 32." in text
    assert page.count("Plotly.newPlot(") == 1
    entries[1].clip_path.write_bytes(b"")
    assert "All clips that decode are 32 x 32." in words_of(report_of(entries))

    generator = np.random.default_rng(0)
    video.write_video(entries[0].clip_path, moving_square("down", generator, 12, 48), rate=100)
    for broken in entries[1:3]:
        broken.clip_path.write_bytes(b"")
    page = report_of(entries)
    text = words_of(page)
    assert "; 2 are not ok." in text
    assert "All clips" not in text
    assert '"categoryarray":["25","100"]' in page

    assert page.count("<script>/**") == 1
    assert page.count('"showSendToCloud": false') == page.count("Plotly.newPlot(") == 5
    colours = {
        part.partition("<")[0]: set(re.findall('"color":"(#[0-9a-f]{6})","pattern"', part))
        for part in page.split("<h2>")
    }
    splits, classes = colours["Clips per class"], colours["Frames"]
    assert (len(splits), len(classes)) == (3, 2)
    assert splits | classes <= set(COLOURS)
    assert not splits & classes


def test_where_groups_are_loose_only_copies_are_ruled_out(tmp_path: Path, report_of: ReportOf) -> None:
    entries = read_manifest(write_squares(tmp_path / "squares", groups=4)).entries
    whole = "No group and no copy of a clip was found in two splits."
    copies = (
        "No copy of a clip was found in two splits. Of a clip alone in its group only copies can be found"
    )
    grouped = " ".join(words_of(report_of(entries)).split())
    assert whole in grouped
    assert "only copies" not in grouped
    for group, cause in (
        ("{}", "8 groups of 8 clips: nearly each is a group of its own"),
        ("", "8 of 8 clips name no group, so each is its own"),
    ):
        loose = [replace(entry, group=group.format(entry.name)) for entry in entries]
        text = " ".join(words_of(report_of(loose)).split())
        assert copies in text
        assert f"scene or person: {cause}." in text
        assert f"{cause}. If several show one scene or person, the split leaks" in text
        assert whole not in text
    unsplit = [replace(entry, split="") for entry in entries]
    assert "nothing was looked for" in words_of(report_of(unsplit))


def test_the_page_needs_no_network_and_shows_every_class(page: str) -> None:
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="(https?:)?//', page)
    assert page.index("<h2>Samples") < page.index("<h2>Groups")
    assert page[: page.index("<h2>Groups")].count("data:image/jpeg;base64,") == 2 + 3
    for label in ("down", "right"):
        assert f"<h3>{label}</h3>" in page


def test_advice_names_the_classes_and_what_to_do() -> None:
    def entries(count: int, label: str, group: str = "g") -> list[Entry]:
        return [
            Entry(Path(f"/{label}{n}"), label, f"{group}{n}" if group else "", "train") for n in range(count)
        ]

    assert advice(entries(40, "a") + entries(30, "b")) == []
    uneven = advice(entries(60, "a") + entries(60, "c") + entries(5, "b", group=""))
    assert uneven[0].startswith("a has 12.0 times the clips of b: judge by val/macro_f1")
    assert "b has only 5 clips" in uneven[1]
    assert uneven[2].startswith("5 of 125 clips name no group, so each is its own. If")
    assert "--groups scenes" in uneven[2]
    assert advice(entries(40, "a", group=""))[0].startswith("40 of 40 clips name no group, so each is")
    (lonely,) = advice(entries(64, "a") + entries(6, "a"))
    assert "--groups scenes" not in lonely
    assert lonely.startswith("64 groups of 70")


def test_groups_are_shown_to_be_looked_at(tmp_path: Path) -> None:
    manifest = write_squares(tmp_path / "squares", groups=3)
    table = pd.read_csv(manifest)
    table.loc[table["label"] == "down", "group"] = ["one", "one", "two"]
    table.loc[table["label"] == "right", "group"] = ["one", "three", "<b>"]
    entries = read_manifest(manifest).entries
    entries = [
        replace(entry, group=group, split="train")
        for entry, group in zip(entries, table["group"], strict=True)
    ]
    write_report(entries, "t", tmp_path / "r.html")
    groups = (tmp_path / "r.html").read_text().partition("<h2>Groups</h2>")[2]
    assert re.findall(r"<h3>(.*?)</h3><p>(.*?)</p>", groups) == [
        ("one", "down 2, right 1; train"),
        ("Alone in their group", "down 1, right 2"),
    ]
    names = [entry.clip_path.name for entry in entries]
    shown = re.findall(r'title="(.*?)"', groups)
    assert shown == [names[0], names[3], names[1], names[2], names[4], names[5]]


def test_whole_numbers_and_rates_have_bars_of_their_own(tmp_path: Path) -> None:
    table = pd.DataFrame({"class": ["a"] * 4, "frames": [30, 31, 31, 33], "fps": [25, 29.97, 29.9701, 25.0]})
    bars = whole_numbers(table, "frames").data[0].xbins
    assert (bars.start, bars.size) == (29.5, 1)
    assert whole_numbers(table, "frames").layout.yaxis.tickvals == (0, 1, 2)
    wide = whole_numbers(table.assign(frames=[1, 2, 3, 81]), "frames").data[0].xbins
    assert (wide.start, wide.size) == (0.5, 3)
    assert list(rates_of(table)) == ["25", "29.97", "29.97", "25"]
    many = pd.DataFrame({"fps": [n + 0.5 for n in range(50)]})
    assert list(rates_of(many)) == list(many["fps"])


def test_clips_without_labels_get_no_advice_on_classes(tmp_path: Path) -> None:
    manifest = write_squares(tmp_path / "squares", groups=4)
    bare = manifest.with_name("bare.csv")
    bare.write_text("\n".join(line.partition(",")[0] for line in manifest.read_text().splitlines()))
    target = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["data", "report", str(bare), "--to", str(target)])
    assert result.exit_code == 0, result.output
    text = words_of(target.read_text())
    assert "8 clips of 0 classes that name no group" in text
    assert re.search(r"unlabelled\s+8\s+8", text)
    assert "has only" not in text
    assert "<h3>unlabelled</h3>" in target.read_text()
