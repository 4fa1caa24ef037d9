"""What decisions make of a manifest, and the files that are written."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.clips import write_scene
from tests.review.fabricated import copied
from vidclf.data.answers import read_answers, write_answers
from vidclf.data.manifest import Entry, Manifest, read_manifest
from vidclf.exceptions import InputError
from vidclf.review.changes import Clips, write_reviewed
from vidclf.review.journal import Decision

FOLDER = Path("/clips")
ENTRIES = [
    Entry(FOLDER / "a.avi", "x", "g1", "train"),
    Entry(FOLDER / "b.avi", "x", "g1", "val"),
    Entry(FOLDER / "c.avi", "y", "g2", "test"),
    Entry(FOLDER / "d.avi", "y", "g2", "test"),
    Entry(FOLDER / "e.avi", "y", "", "val"),
    Entry(FOLDER / "f.avi", "x", "", "test"),
]


def decision(action: str, *clips: str, value: str = "", kind: str = "label") -> Decision:
    kind = "pair" if len(clips) == 2 else kind
    return Decision(kind, clips, action, value, "because", "ann", "now")  # type: ignore[arg-type]


def after(*decisions: Decision) -> Clips:
    clips = Clips(ENTRIES, FOLDER)
    for each in decisions:
        clips.apply(each)
    return clips


def changed(clips: Clips) -> list[tuple[str, str, str, str]]:
    return [(each.clip, each.column, each.before, each.after) for each in clips.changes]


def test_labels_change_and_clips_go() -> None:
    clips = after(
        decision("keep", "a.avi"),
        decision("relabel", "b.avi", value="y"),
        decision("drop", "c.avi", "d.avi", value="d.avi"),
        decision("relabel", "a.avi", "f.avi", value="y"),
    )
    assert [entry.label for entry in clips.entries.values()] == ["y"] * 5
    assert changed(clips) == [
        ("a.avi", "", "", ""),
        ("b.avi", "label", "x", "y"),
        ("d.avi", "clip_path", "d.avi", ""),
        ("a.avi", "label", "x", "y"),
        ("f.avi", "label", "x", "y"),
    ]


def test_merged_groups_are_in_the_first_of_their_splits() -> None:
    """What a model was trained on never becomes what another is judged by."""
    clips = after(decision("merge", "b.avi", "c.avi"))
    assert [(entry.group, entry.split) for entry in clips.entries.values()][:4] == [("g1", "train")] * 4
    assert changed(clips)[:2] == [("b.avi", "split", "val", "train"), ("c.avi", "group", "g2", "g1")]
    alone = after(decision("merge", "e.avi", "f.avi"))
    assert {(alone.entries[name].group, alone.entries[name].split) for name in ("e.avi", "f.avi")} == {
        ("e", "val")
    }


def test_what_other_decisions_have_settled_is_not_asked() -> None:
    clips = after(decision("merge", "b.avi", "c.avi"), decision("drop", "e.avi", value="e.avi"))
    assert clips.settled("pair", ("a.avi", "b.avi"))
    assert clips.settled("pair", ("e.avi", "f.avi"))
    assert clips.settled("label", ("e.avi",))
    assert not clips.settled("pair", ("a.avi", "d.avi"))  # of two classes still
    assert not clips.settled("pair", ("c.avi", "d.avi"))  # as alike as they were
    assert not clips.settled("label", ("a.avi",))


def test_a_group_on_two_sides_is_split_by_them() -> None:
    clips = after(decision("split", "a.avi", "b.avi"))
    assert changed(clips) == [("b.avi", "group", "g1", "g1-2")]
    assert changed(after(decision("split", "b.avi", "c.avi"))) == [
        ("b.avi", "", "", ""),
        ("c.avi", "", "", ""),
    ]


@pytest.mark.slow
def test_a_group_on_one_side_is_split_by_how_its_clips_look(tmp_path: Path) -> None:
    rooms = [1, 2, 1, 2, 1]
    paths = [write_scene(tmp_path / f"{take}.avi", room, take) for take, room in enumerate(rooms)]
    clips = Clips([Entry(path, "x", "scene00001", "train") for path in paths], tmp_path)
    clips.apply(decision("split", "0.avi", "1.avi"))
    assert [entry.group.removeprefix("scene00001") for entry in clips.entries.values()] == [
        "",
        "-2",
        "",
        "-2",
        "",
    ]


def test_a_clip_that_gets_a_label_joins_its_group_or_train() -> None:
    clips = after(
        decision("relabel", "new/v_x_g1_c01.avi", value="x", kind="unlabelled"),
        decision("relabel", "new/u.avi", value="y", kind="unlabelled"),
        decision("keep", "new/w.avi", kind="unlabelled"),
    )
    for group in ("g01", "y/g01"):
        known = Clips([replace(ENTRIES[2], group=group)], FOLDER)
        known.apply(decision("relabel", "v_y_g01_c01.avi", value="y", kind="unlabelled"))
        assert [(each.group, each.split) for each in known.entries.values()] == [(group, "test")] * 2
    assert changed(clips)[:2] == [("new/v_x_g1_c01.avi", "label", "", "x"), ("new/u.avi", "label", "", "y")]
    assert list(clips.entries)[6:] == ["new/v_x_g1_c01.avi", "new/u.avi"]
    added = clips.entries["new/u.avi"]
    assert (added.clip_path, added.label, added.group, added.split) == (
        FOLDER / "new/u.avi",
        "y",
        "",
        "train",
    )


def test_the_new_manifest_stands_beside_the_old_one(squares: Manifest, tmp_path: Path) -> None:
    path = copied(squares, tmp_path)
    before = path.read_bytes()
    manifest = read_manifest(path)
    names = [str(entry.clip_path) for entry in manifest.entries]
    write_answers(path, {(manifest.entries[1].clip_path, manifest.entries[0].clip_path): True})
    clips = Clips(manifest.entries, tmp_path)
    decisions = (
        decision("relabel", names[0], value="right"),
        decision("drop", names[4], value=names[4]),
        decision("split", names[0], names[1]),
        decision("keep", names[5]),
    )
    for each in decisions:
        clips.apply(each)
    written = write_reviewed(manifest, clips)
    assert (written.manifest.name, written.record.name) == ("m.reviewed.csv", "m.reviewed.review.csv")
    assert path.read_bytes() == before
    new = pd.read_csv(written.manifest, dtype=str, keep_default_na=False)
    old = pd.read_csv(path, dtype=str, keep_default_na=False)
    old.loc[0, "label"] = "right"
    pd.testing.assert_frame_equal(new, old.drop(index=4).reset_index(drop=True))
    assert list(read_manifest(written.manifest).entries) == list(clips.entries.values())
    record = pd.read_csv(written.record, dtype=str, keep_default_na=False)
    assert list(record["action"]) == ["relabel", "drop", "split", "split", "keep"]
    assert list(record.iloc[0]) == [names[0], "relabel", "label", "down", "right", "because", "ann", "now"]
    first, second = (entry.clip_path for entry in manifest.entries[:2])
    assert read_answers(written.manifest) == {(first, second): False}
    assert write_reviewed(manifest, clips).manifest.name == "m.reviewed-2.csv"


def test_a_manifest_that_no_command_would_read_is_not_written(squares: Manifest, tmp_path: Path) -> None:
    manifest = read_manifest(copied(squares, tmp_path))
    clips = Clips(manifest.entries, tmp_path)
    for entry in manifest.split("test"):
        name = clips.name(entry)
        if entry.label == "down":
            clips.apply(decision("drop", name, value=name))
    with pytest.raises(InputError) as error:
        write_reviewed(manifest, clips)
    assert error.value.problems[0] == "the new manifest: split test has no clip of down"
    assert [path.name for path in tmp_path.iterdir()] == ["m.csv"]
