"""Clips that stand in two splits are named, and nothing is called free of leaks where nobody can know."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.clips import write_scene, write_squares
from vidclf.cli.app import app
from vidclf.data.importing import import_clips
from vidclf.data.leaks import find_leaks
from vidclf.data.manifest import Entry, read_manifest, write_manifest


@pytest.fixture
def two_takes(tmp_path: Path) -> Path:
    """Six rooms without groups, two takes of each, one in train and one in test."""
    entries = [
        Entry(write_scene(tmp_path / f"room{room}_{take}.avi", room, take), "AB"[room % 2], "", split)
        for room in range(6)
        for take, split in enumerate(("train", "test"))
    ]
    write_manifest(entries, tmp_path / "m.csv")
    return tmp_path / "m.csv"


def test_leaks_are_pairs_of_one_group_or_one_file_in_two_splits(tmp_path: Path) -> None:
    manifest = write_squares(tmp_path / "squares", groups=4)
    entries = list(read_manifest(manifest).entries)
    assert find_leaks(entries).leaks == ()
    val = next(entry for entry in entries if entry.split == "val")
    train = next(entry for entry in entries if entry.split == "train")
    val.clip_path.write_bytes(train.clip_path.read_bytes())
    [same_file] = find_leaks(entries).leaks
    assert (same_file.why, same_file.splits) == ("same file", ("train", "val"))
    assert {same_file.a, same_file.b} == {train.clip_path, val.clip_path}
    manifest.write_text(manifest.read_text().replace(",g01,", ",g00,"))
    assert Counter(leak.why for leak in find_leaks(list(read_manifest(manifest).entries)).leaks) == {
        "same file": 1,
        "same group": 1,
    }


def test_where_groups_are_unknown_or_guessed_leaks_are_never_excluded(two_takes: Path) -> None:
    entries = read_manifest(two_takes).entries
    found = find_leaks(entries)
    assert found.headline == "groups unknown: leaks cannot be excluded; 6 suspected pairs"
    assert {(pair.a.name, pair.b.name) for pair in found.suspected} == {
        (f"room{room}_1.avi", f"room{room}_0.avi") for room in range(6)
    }
    rooms = [replace(entry, group=entry.clip_path.stem[:5]) for entry in entries]
    known = [replace(entry, split="train" if entry.group < "room3" else "test") for entry in rooms]
    assert find_leaks(known).headline == ""
    guessed = [replace(entry, group_by="scenes") for entry in known]
    assert find_leaks(guessed).headline == "groups guessed: leaks cannot be excluded; 0 suspected pairs"
    write_manifest(guessed, two_takes)
    assert {entry.group_by for entry in read_manifest(two_takes).entries} == {"scenes"}


def test_the_first_line_of_check_and_report_says_what_cannot_be_known(
    two_takes: Path, tmp_path: Path
) -> None:
    runner = CliRunner()
    result = runner.invoke(app, ["data", "check", str(two_takes)])
    assert result.exit_code == 1
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    headline = "groups unknown: leaks cannot be excluded; 6 suspected pairs"
    assert lines[0] == headline
    assert sum(line.startswith("suspected: same scene in test and train: ") for line in lines) == 6
    answer = json.loads(runner.invoke(app, ["data", "check", str(two_takes), "--json"]).stdout)
    assert (answer["leak_notice"], len(answer["suspected"]), answer["leaks"]) == (headline, 6, [])
    runner.invoke(app, ["data", "report", str(two_takes), "--to", str(tmp_path / "r.html")])
    assert (tmp_path / "r.html").read_text().count(headline) == 2


@pytest.mark.parametrize("by_scene", [False, True])
def test_import_and_init_say_so_first(tmp_path: Path, by_scene: bool) -> None:
    for room in range(8):
        for take in range(2):
            write_scene(tmp_path / "clips" / "AB"[room % 2] / f"{room}_{take}.avi", room, take)
    doubt = f"groups {'guessed' if by_scene else 'unknown'}: leaks cannot be excluded; "
    imported = import_clips([tmp_path / "clips"], tmp_path / "m.csv", by_scene=by_scene)
    assert imported.notes[0].startswith(doubt)
    scenes = ["--groups", "scenes"] if by_scene else []
    result = CliRunner().invoke(app, ["init", str(tmp_path / "clips"), "--to", str(tmp_path / "i"), *scenes])
    assert f"note: {doubt}" in result.output.splitlines()[0], result.output
