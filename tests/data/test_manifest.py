"""Manifests: what is wrong with one is said in full, and its digest knows content, not places."""

from pathlib import Path

import pytest

from tests.clips import write_squares
from vidclf.data.manifest import read_manifest, split_problems, write_manifest
from vidclf.exceptions import InputError


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_squares(tmp_path / "squares", groups=4)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_manifest(path)
    return str(caught.value)


def test_a_missing_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    # Deeper, for other tests' folders, which are called alike, hold manifests.
    assert "make one with: vidclf data import" in refusal(tmp_path / "nothing" / "here" / "m.csv")


def test_a_missing_manifest_names_the_one_that_may_be_meant(manifest: Path) -> None:
    beside, below = manifest.with_name("manifets.csv"), manifest.parent.with_name(f"{manifest.parent.name}s")
    for missing in (beside, below / manifest.name):
        assert refusal(missing) == f"{missing}: no such manifest, did you mean {manifest}?"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("clip_path,label,group,split", "path,class,group,split", "column clip_path, label is missing"),
        ("g00,train", "g00,tarin", "line 2: split 'tarin' is none of train, val, test"),
        (",down,g00,train", ",,g00,train", "line 2: the label is empty"),
        ("down/v_down_g00_c00.avi", "down/nothing.avi", "1 of 8 clips are missing"),
        ("down/v_down_g01_c00.avi", "down/v_down_g00_c00.avi", "listed more than once"),
        (",right,", ",down,", "only one class (down)"),
        ("right,g02,test", "right,g02,train", "split test has no clip of right"),
    ],
)
def test_what_is_wrong_is_said(manifest: Path, before: str, after: str, message: str) -> None:
    text = manifest.read_text()
    assert before in text
    manifest.write_text(text.replace(before, after))
    assert message in refusal(manifest)


def test_lines_are_counted_as_an_editor_does(manifest: Path) -> None:
    header, first, *rest = manifest.read_text().splitlines()
    manifest.write_text("\n".join(["", header, "", first, ",,,", " ", *rest, ""]))
    assert len(read_manifest(manifest).entries) == 8
    manifest.write_text(manifest.read_text().replace("g00,train", "g00,tarin", 1))
    assert "line 4: split 'tarin' is none of" in refusal(manifest)
    manifest.write_text("\n")
    assert "is empty; expected a first line that names its columns" in refusal(manifest)


def test_lines_that_are_longer_than_the_first_are_refused(manifest: Path) -> None:
    header, *rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join([header, *(f"{row}," for row in rows)]))
    assert len(read_manifest(manifest).entries) == len(rows)
    manifest.write_text("\n".join([header, rows[0], *(f"{row},x" for row in rows[1:])]))
    assert "line 3: its 5 values are more than the 4 columns of the first line" in refusal(manifest)


def test_an_empty_file_and_an_empty_table_are_refused(manifest: Path) -> None:
    manifest.write_text("clip_path,label,group,split\n")
    assert "holds no clips" in refusal(manifest)
    manifest.write_text("")
    assert "is empty; expected a first line that names its columns" in refusal(manifest)


def test_a_class_missing_from_a_split_is_named(manifest: Path) -> None:
    entries = [
        entry for entry in read_manifest(manifest).entries if (entry.label, entry.split) != ("right", "val")
    ]
    assert split_problems(entries) == ["split val has no clip of right"]
    assert split_problems([entry for entry in entries if entry.split != "val"]) == []


def test_all_problems_come_at_once(manifest: Path) -> None:
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([lines[0], "a.avi,,g,x", *lines[1:]]) + "\n")
    assert len(refusal(manifest).splitlines()) == 3


def test_a_written_manifest_reads_back(manifest: Path) -> None:
    read = read_manifest(manifest)
    elsewhere = manifest.parent.parent / "other/manifest.csv"
    write_manifest(read.entries, elsewhere)
    assert set(read_manifest(elsewhere).entries) == set(read.entries)


def test_the_digest_knows_content_labels_groups_and_splits_only(manifest: Path) -> None:
    before = read_manifest(manifest).digest()
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    assert read_manifest(manifest).digest() == before
    moved = manifest.parent.with_name("moved")
    manifest.parent.rename(moved)
    assert read_manifest(moved / "manifest.csv").digest() == before
    text = (moved / "manifest.csv").read_text()
    (moved / "manifest.csv").write_text(text.replace(",g03,", ",g09,"))
    assert read_manifest(moved / "manifest.csv").digest() != before
    (moved / "manifest.csv").write_text(text)
    clip = moved / "down/v_down_g00_c00.avi"
    clip.write_bytes(clip.read_bytes() + b"\0")
    assert read_manifest(moved / "manifest.csv").digest() != before


def test_splits_have_digests_of_their_own(manifest: Path) -> None:
    read = read_manifest(manifest)
    assert len({read.digest([split]) for split in ("train", "val", "test")}) == 3
    assert read.digest(["train"]) != read.digest()
