"""The journal of a review: what was answered is there again, whatever ended the command."""

import json
from pathlib import Path

import pytest

from vidclf.exceptions import InputError
from vidclf.review.journal import Decision, Journal, journal_file

FIRST = Decision("label", ("a.avi",), "relabel", "Punch", "models say so", "ann", "2026-01-01T00:00:00+00:00")
SECOND = Decision("pair", ("a.avi", "b, c.avi"), "merge", "", "copies", "ann", "2026-01-01T00:00:01+00:00")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "m.csv"
    path.write_text("clip_path,label,group,split\n")
    return path


def decisions(manifest: Path) -> list[Decision]:
    with Journal.opened(manifest) as journal:
        return list(journal.decisions)


def test_decisions_are_there_again_without_those_taken_back(manifest: Path) -> None:
    with Journal.opened(manifest) as journal:
        journal.add(FIRST)
        journal.add(SECOND)
        assert journal.undo() == SECOND
        journal.add(SECOND)
        journal.add(FIRST)
        assert journal.undo() == FIRST
    assert decisions(manifest) == [FIRST, SECOND]
    lines = journal_file(manifest).read_text().splitlines()
    assert len(lines) == 1 + 4 + 2  # nothing is ever rewritten
    with Journal.opened(manifest) as journal:
        assert [journal.undo(), journal.undo(), journal.undo()] == [SECOND, FIRST, None]
    assert decisions(manifest) == []


def test_each_decision_is_on_the_disk_before_the_next_step(manifest: Path) -> None:
    with Journal.opened(manifest) as journal:
        journal.add(FIRST)
        written = journal_file(manifest).read_text().splitlines()
        assert json.loads(written[-1])["value"] == "Punch"


def test_a_review_in_which_nothing_was_decided_leaves_nothing(manifest: Path) -> None:
    assert decisions(manifest) == []
    assert sorted(manifest.parent.iterdir()) == [manifest]


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_that_a_crash_cut_short_does_not_count_and_harms_no_later_one(
    manifest: Path, cut: int
) -> None:
    with Journal.opened(manifest) as journal:
        journal.add(FIRST)
        journal.add(SECOND)
    path = journal_file(manifest)
    path.write_bytes(path.read_bytes()[:-cut] if cut > 1 else path.read_bytes() + b'{"kind": "la')
    left = [FIRST, SECOND] if cut == 1 else [FIRST]
    assert decisions(manifest) == left
    with Journal.opened(manifest) as journal:
        journal.add(SECOND)
    assert decisions(manifest) == [*left, SECOND]


def test_a_first_line_that_was_cut_short_is_begun_anew(manifest: Path) -> None:
    journal_file(manifest).write_text('{"format": 1, "mani')
    with Journal.opened(manifest) as journal:
        journal.add(FIRST)
    assert decisions(manifest) == [FIRST]


def test_decisions_are_not_taken_for_another_content_of_the_manifest(manifest: Path) -> None:
    with Journal.opened(manifest) as journal:
        journal.add(FIRST)
    before = manifest.read_text()
    manifest.write_text(before + "x.avi,a,g,train\n")
    with pytest.raises(InputError, match=r"changed since its review began, so the 1 decisions in m\.review"):
        decisions(manifest)
    manifest.write_text(before)
    assert decisions(manifest) == [FIRST]


@pytest.mark.parametrize(
    ("content", "message"),
    [("clip_path,label\na.avi,x\n", "not a journal"), ('{"format": 99}\n', "not a journal")],
)
def test_another_file_of_that_name_is_left_alone(manifest: Path, content: str, message: str) -> None:
    journal_file(manifest).write_text(content)
    with pytest.raises(InputError, match=message):
        decisions(manifest)
    assert journal_file(manifest).read_text() == content


def test_a_line_that_somebody_edited_is_named(manifest: Path) -> None:
    with Journal.opened(manifest) as journal:
        journal.add(FIRST)
        journal.add(SECOND)
    path = journal_file(manifest)
    path.write_text(path.read_text().replace('"merge"', '"join"'))
    with pytest.raises(InputError, match="line 3 is no decision"):
        decisions(manifest)
