"""A review under way: what is asked next, and what may be answered."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.review.fabricated import copied
from vidclf.data.manifest import Entry, Manifest, read_manifest
from vidclf.exceptions import InputError
from vidclf.review.journal import Journal
from vidclf.review.questions import Question
from vidclf.review.session import Session


@pytest.fixture
def manifest(squares: Manifest, tmp_path: Path) -> Manifest:
    return read_manifest(copied(squares, tmp_path))


def questions(manifest: Manifest, unlabelled: Path) -> list[Question]:
    """Of two labels, two pairs, and a clip without a label."""
    a, b, c, *_ = manifest.entries
    return [
        Question("label", (a,), "low", "right"),
        Question("label", (b,), "low", "right"),
        Question("pair", (a, b), "copies"),
        Question("pair", (b, c), "copies"),
        Question("unlabelled", (Entry(unlabelled, "", "", ""),), "even", "down"),
    ]


@pytest.fixture
def session(manifest: Manifest, tmp_path: Path) -> Iterator[Session]:
    with Journal.opened(manifest.path) as journal:
        yield Session(manifest, questions(manifest, tmp_path / "new.avi"), journal, "ann")


def test_questions_are_asked_in_turn_and_once(session: Session) -> None:
    assert session.pending() == [0, 1, 2, 3, 4]
    session.decide(0, "relabel", 1)
    session.decide(1, "keep")
    assert session.pending() == [2, 3, 4]
    assert str(session.progress()) == "2 of 5 questions looked at: relabel 1"
    with pytest.raises(InputError, match="decided already"):
        session.decide(0, "keep")
    assert next(iter(session.clips.entries.values())).label == "right"


def test_a_dropped_clip_settles_what_else_is_asked_of_it(session: Session) -> None:
    session.decide(2, "drop", 1)
    assert session.pending() == [0, 4]
    assert session.undo().startswith("taken back: drop /")
    assert session.pending() == [0, 1, 2, 3, 4]


def test_what_is_put_off_comes_last(session: Session) -> None:
    session.put_off(0)
    session.put_off(1)
    session.put_off(0)
    assert session.pending() == [2, 3, 4, 1, 0]
    session.decide(0, "keep")
    session.undo()
    assert session.pending()[0] == 0  # what was taken back is shown again


@pytest.mark.parametrize(
    ("place", "action", "value"),
    [
        (0, "merge", -1),
        (0, "relabel", 2),
        (0, "relabel", -1),
        (0, "drop", 1),
        (4, "drop", 0),
        (9, "keep", -1),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(
    session: Session, place: int, action: str, value: int
) -> None:
    with pytest.raises(InputError):
        session.decide(place, action, value)  # type: ignore[arg-type]
    assert session.progress().decided == 0


def test_nothing_is_there_to_take_back(session: Session) -> None:
    with pytest.raises(InputError, match="nothing to take back"):
        session.undo()


def test_a_later_session_goes_on(manifest: Manifest, tmp_path: Path) -> None:
    asked = questions(manifest, tmp_path / "new.avi")
    with Journal.opened(manifest.path) as journal:
        first = Session(manifest, asked, journal, "ann")
        first.decide(0, "relabel", 1)
        first.decide(4, "relabel", 0)
    with Journal.opened(manifest.path) as journal:
        later = Session(manifest, [replace(asked[4]), *asked[:4]], journal, "ben")
        assert later.pending() == [2, 3, 4]
        later.undo()
        assert later.pending() == [0, 2, 3, 4]
        later.decide(2, "keep")
    lines = (tmp_path / "m.review.jsonl").read_text().splitlines()
    assert ['"who": "ann"' in line for line in lines[1:3]] == [True, True]
    assert '"who": "ben"' in lines[-1]


def test_finishing_writes_what_was_decided(session: Session, tmp_path: Path) -> None:
    session.decide(0, "keep")
    assert session.finish() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.csv", "m.review.jsonl"]
    session.decide(1, "relabel", 1)
    written = session.finish()
    assert written is not None
    assert read_manifest(written.manifest).entries[1].label == "right"


def test_a_manifest_that_changed_meanwhile_is_not_overwritten_by_guesses(
    session: Session, manifest: Manifest, tmp_path: Path
) -> None:
    session.decide(1, "relabel", 1)
    manifest.path.write_text(manifest.path.read_text() + "\n")
    with pytest.raises(InputError, match="changed since its review began"):
        session.finish()
    assert not list(tmp_path.glob("*.reviewed*"))
