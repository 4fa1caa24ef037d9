"""What is asked, and in which order."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clips import write_scene
from tests.review.fabricated import judged
from vidclf.data.manifest import Entry
from vidclf.review.questions import MOST_UNLABELLED, label_questions, pair_questions, unlabelled_questions

ENTRIES = [
    Entry(Path(f"/clips/{name}.avi"), label, f"g{place}", "val")
    for place, (name, label) in enumerate(zip("abcdefgh", "xxxxyyyy", strict=True))
]


def test_the_least_likely_label_is_asked_about_first() -> None:
    one = judged(ENTRIES, {1: 0.3, 4: 0.05, 6: 0.45}, ("x", "y"))
    other = judged(ENTRIES, {1: 0.2, 4: 0.15, 6: 0.95}, ("x", "y"))
    asked = label_questions(ENTRIES, [[("svm", one), ("forest", other)]])
    assert [question.clips[0].clip_path.stem for question in asked] == ["e", "b"]
    assert [(question.kind, question.suggested) for question in asked] == [("label", "x"), ("label", "y")]
    assert asked[0].why == "models give y 10 %, x 90 %"
    names, says = zip(*asked[0].opinions, strict=True)
    assert names == ("svm", "forest")
    assert [each["y"] for each in says] == pytest.approx([0.05, 0.15])


def test_clips_that_no_model_gets_right_come_after_doubtful_labels() -> None:
    """Where a class is seldom found, being wrong about it is no reason to doubt a label."""
    weak = dict.fromkeys(range(4), 0.3) | {1: 0.45, 6: 0.1}
    asked = label_questions(ENTRIES, [[("svm", judged(ENTRIES, weak, ("x", "y")))]])
    names = [question.clips[0].clip_path.stem for question in asked]
    assert names == ["g", "a", "c", "d", "b"]
    assert [question.why for question in asked[-2:]] == ["the model says y", "the model says y"]
    assert label_questions(ENTRIES, []) == []


def test_clips_of_several_sets_of_predictions_are_asked_about_once() -> None:
    val, train = ENTRIES[:4], [replace(entry, split="train") for entry in ENTRIES[4:]]
    tables = [[("svm", judged(part, {1: 0.1}, ("x", "y")))] for part in (val, train, val)]
    asked = label_questions([*val, *train], tables)
    assert sorted(question.clips[0].clip_path.stem for question in asked) == ["b", "f"]


@pytest.fixture
def scenes(tmp_path: Path) -> list[Entry]:
    """Clips of four rooms, the first room's in two splits; a copy of the last one, of another class."""
    rooms = [1, 1, 2, 3, 4]
    paths = [write_scene(tmp_path / f"{take}.avi", room, take) for take, room in enumerate(rooms)]
    paths.append(Path(shutil.copy(paths[-1], tmp_path / "copy.avi")))
    labels, splits = "xyxyxy", ("train", "val", "train", "train", "test", "test")
    return [
        Entry(path, label, f"r{room}", split)
        for path, label, room, split in zip(paths, labels, [*rooms, 4], splits, strict=True)
    ]


def pairs(entries: list[Entry]) -> dict[str, str]:
    return {
        " ".join(clip.clip_path.stem for clip in question.clips): question.why
        for question in pair_questions(entries, {})
    }


@pytest.mark.slow
def test_pairs_are_what_data_check_finds_and_copies_that_contradict(scenes: list[Entry]) -> None:
    assert pairs(scenes) == {
        "0 1": "same group, in train and val",
        "4 copy": "same file, of two classes, in test",
    }
    scenes[5] = replace(scenes[5], label="x", group="r5", split="train")
    scenes[1] = replace(scenes[1], split="train")
    assert pairs(scenes) == {"4 copy": "same file, in test and train"}
    scenes[5] = replace(scenes[5], split="test")
    assert pairs(scenes) == {"4 copy": "same file, of two groups, in test"}


@pytest.mark.slow
def test_where_groups_are_unknown_scenes_in_two_splits_are_asked_about(scenes: list[Entry]) -> None:
    unknown = [replace(entry, group="") for entry in scenes[:5]]
    assert pairs(unknown) == {"0 1": "perhaps the same scene, in train and val"}
    place = (scenes[0].clip_path, scenes[1].clip_path)
    assert pair_questions(unknown, {place: False}) == []


def test_the_least_certain_clips_without_a_label_come_first() -> None:
    shares = {"sure.avi": 0.9, "even.avi": 0.5, "near.avi": 0.6}
    found = [(Path(name), "", {"x": share, "y": 1 - share}) for name, share in shares.items()]
    asked = unlabelled_questions(found)
    assert [question.clips[0].clip_path.name for question in asked] == ["even.avi", "near.avi", "sure.avi"]
    assert (asked[1].why, asked[1].suggested) == ("between x 60 % and y 40 %", "x")
    many = [(Path(f"{number}.avi"), "", {"x": 0.6, "y": 0.4}) for number in range(2 * MOST_UNLABELLED)]
    assert len(unlabelled_questions(many)) == MOST_UNLABELLED
