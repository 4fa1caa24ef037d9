"""The data report: one page with the numbers, the advice, the bad files and the pictures."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from tests.clips import write_squares
from vidclf import cli
from vidclf.data.manifest import Entry, read_manifest
from vidclf.data.report import advice, rates_of, whole_numbers, write_report


@pytest.fixture
def page(tmp_path: Path) -> str:
    manifest = write_squares(tmp_path / "squares", groups=4)
    read_manifest(manifest).entries[0].clip_path.write_bytes(b"")
    manifest.write_text(manifest.read_text().replace(",g01,", ",g03,"))
    result = CliRunner().invoke(
        cli.app, ["data", "report", str(manifest), "--to", str(tmp_path / "r/report.html")]
    )
    assert result.exit_code == 0, result.output
    return (tmp_path / "r/report.html").read_text()


def test_the_page_tells_what_is_there_and_what_is_wrong(page: str) -> None:
    text = re.sub(r"<[^>]+>", " ", page[: page.index("<script")])
    assert re.search(r"8 clips of 2 classes in 3 groups, 0\.0 minutes; 1 are not ok", text)
    assert re.search(r"down\s+2\s+1\s+1\s+3", text)
    assert re.search(r"v_down_g00_c00\.avi: unreadable", page)
    assert "same group in train and val" in page


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
    uneven = advice(entries(60, "a") + entries(5, "b", group=""))
    assert uneven[0].startswith("a has 12.0 times the clips of b: judge by val/macro_f1")
    assert "b has only 5 clips" in uneven[1]
    assert uneven[2].startswith("5 clips name no group: if")
    assert advice(entries(40, "a", group=""))[0].startswith("No clip names a group: if")


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


def testwhole_numbers_and_rates_have_bars_of_their_own(tmp_path: Path) -> None:
    table = pd.DataFrame({"class": ["a"] * 4, "frames": [30, 31, 31, 33], "fps": [25, 29.97, 29.9701, 25.0]})
    bars = whole_numbers(table, "frames").data[0].xbins
    assert (bars.start, bars.size) == (29.5, 1)
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
    result = CliRunner().invoke(cli.app, ["data", "report", str(bare), "--to", str(target)])
    assert result.exit_code == 0, result.output
    text = re.sub(r"<[^>]+>", " ", target.read_text().partition("<script")[0])
    assert "8 clips of 0 classes that name no group" in text
    assert re.search(r"unlabelled\s+8\s+8", text)
    assert "has only" not in text
    assert "<h3>unlabelled</h3>" in target.read_text()
