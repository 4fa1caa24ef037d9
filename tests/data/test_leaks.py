"""Clips that stand in two splits are named, and nothing is called free of leaks where nobody can know."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.clips import write_furnished, write_scene, write_squares
from tests.command import run
from tests.pages import read_page
from vidclf.cli import console
from vidclf.cli.app import app
from vidclf.data import likeness, scenes, video
from vidclf.data.answers import answers_file
from vidclf.data.importing import import_clips
from vidclf.data.leaks import find_leaks
from vidclf.data.manifest import Entry, read_manifest, write_manifest
from vidclf.data.pictures import Frames
from vidclf.data.scenes import find_scenes
from vidclf.exceptions import InputError
from vidclf.reports import dataset_page


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


@pytest.mark.slow
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


@pytest.mark.slow
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
    import_clips([two_takes], two_takes.with_name("again.csv"))
    for manifest in (two_takes, two_takes.with_name("again.csv")):
        assert {entry.group_by for entry in read_manifest(manifest).entries} == {"scenes"}


@pytest.mark.slow
def test_the_first_line_of_check_and_report_says_what_cannot_be_known(
    two_takes: Path, tmp_path: Path
) -> None:
    result = run("data", "check", two_takes, expect=1)
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    headline = "groups unknown: leaks cannot be excluded; 6 suspected pairs"
    assert lines[0] == headline
    assert sum(line.startswith("suspected: same scene in test and train: ") for line in lines) == 6
    answer = json.loads(run("data", "check", two_takes, "--json", expect=1).stdout)
    assert (answer["leak_notice"], len(answer["suspected"]), answer["leaks"]) == (headline, 6, [])
    run("data", "report", two_takes, "--to", tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text().count(headline) == 2


def warped(frames: Frames, matrix: Any) -> Frames:
    size = frames.shape[2], frames.shape[1]
    return np.stack([cv2.warpAffine(frame, np.array(matrix, np.float32), size) for frame in frames])


def marked(frames: Frames) -> Frames:
    copy = frames.copy()
    copy[:, 10:20, 80:120] = 255
    return copy


COPIES: dict[str, Callable[[Frames], Frames]] = {
    "encoded": lambda frames: frames,
    "gray": lambda frames: np.repeat(frames.mean(axis=3, keepdims=True), 3, axis=3).astype(np.uint8),
    "faster": lambda frames: frames[(np.arange(len(frames) / 1.25) * 1.25).astype(int)],
    "brighter": lambda frames: np.clip(frames * 1.3 + 25, 0, 255).astype(np.uint8),
    "trimmed": lambda frames: frames[len(frames) // 5 :],
    "marked": marked,
    "cropped": lambda frames: warped(frames, [[1.05, 0, -3.2], [0, 1.05, -2.4]]),
    "turned": lambda frames: warped(frames, cv2.getRotationMatrix2D((64, 48), 2, 1)),
    "letterboxed": lambda frames: np.pad(frames, ((0, 0), (16, 16), (0, 0), (0, 0))),
    "mirrored": lambda frames: frames[:, :, ::-1],
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two takes in each of two furnished rooms."""
    folder = tmp_path_factory.mktemp("originals")
    return [write_furnished(folder / f"{room}{take}.avi", room, take) for room in range(2) for take in "ab"]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            kind, marks=() if kind in ("encoded", "trimmed", "cropped", "mirrored") else pytest.mark.slow
        )
        for kind in COPIES
    ],
)
@pytest.mark.slow
def test_a_copy_is_found_however_it_was_made(kind: str, originals: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.mp4"
    frames = COPIES[kind](video.decode(originals[0], 99, 256).frames)
    video.write_video(copy, np.ascontiguousarray(frames), codec="libx264", options={"crf": "28"})
    entries = [Entry(path, "A", "g", "train") for path in originals] + [Entry(copy, "A", "h", "test")]
    [leak] = find_leaks(entries).leaks
    assert (leak.a, leak.b, leak.why) == (copy, originals[0], "nearly identical")


@pytest.mark.slow
def test_a_part_of_a_clip_whose_camera_moves_is_found_among_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most places of the part are seen at other times than those of the whole."""
    paths = []
    for number in range(3):
        things = np.random.default_rng(number)
        wall = np.full((96, 560, 3), 40 + 60 * number, np.uint8)
        for _ in range(300):
            top, left, height, width = things.integers([0, 0, 4, 4], [90, 550, 20, 20])
            wall[top : top + height, left : left + width] = things.integers(0, 255, 3)
        frames = np.stack([wall[:, 7 * time : 7 * time + 128] for time in range(60)])
        for name, part in (("whole", frames), ("part", frames[24:])):
            paths.append(tmp_path / f"{number}-{name}.avi")
            video.write_video(paths[-1], np.ascontiguousarray(part))
    expected = [0, 0, 1, 1, 2, 2]
    assert scenes.copies_of(paths) == expected
    monkeypatch.setattr(likeness, "_MOST", 10)  # a few pairs of features at a time
    monkeypatch.setattr(likeness, "_CHUNK", 2)
    monkeypatch.setattr(scenes, "_memo", {})
    monkeypatch.setenv("VIDCLF_CACHE", str(tmp_path / "empty"))
    assert scenes.copies_of(paths) == expected


@pytest.mark.parametrize("by_scene", [False, True])
@pytest.mark.slow
def test_import_and_init_say_so_first(
    tmp_path: Path, by_scene: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LINE_SECONDS", 3600)  # however slow the machine, no line of progress
    for room in range(8):
        for take in range(2):
            write_scene(tmp_path / "clips" / "AB"[room % 2] / f"{room}_{take}.avi", room, take)
    doubt = f"groups {'guessed' if by_scene else 'unknown'}: leaks cannot be excluded; "
    imported = import_clips([tmp_path / "clips"], tmp_path / "m.csv", by_scene=by_scene)
    assert imported.notes[0].startswith(doubt)
    (tmp_path / "clips" / "notes.txt").touch()
    scenes = ["--groups", "scenes"] if by_scene else []
    result = CliRunner().invoke(app, ["init", str(tmp_path / "clips"), "--to", str(tmp_path / "i"), *scenes])
    assert f"note: {doubt}" in result.output.splitlines()[0], result.output
    command = ["data", "import", str(tmp_path / "clips"), "--to", str(tmp_path / "m.csv"), *scenes]
    lines = [line for line in CliRunner().invoke(app, command).output.splitlines() if line.strip()]
    assert lines[0].startswith(f"note: {doubt}")
    assert lines[-2].endswith("not taken: 1 .txt")


@pytest.mark.slow
def test_answers_hold_at_every_later_import(tmp_path: Path) -> None:
    for room in range(8):
        for take in range(2):
            write_scene(tmp_path / "clips" / "AB"[take] / f"{room}.avi", room, take)
    manifest, clips = tmp_path / "m.csv", tmp_path / "clips"

    def groups(**said: list[str]) -> dict[str, str]:
        import_clips([clips], manifest, by_scene=True, **said)
        entries = read_manifest(manifest).entries
        return {f"{entry.label}/{entry.clip_path.name}": entry.group for entry in entries}

    found = groups()
    assert found["A/0.avi"] == found["B/0.avi"] != found["A/1.avi"]
    for said in ({"apart": ["A/0.avi,B/0.avi"], "merge": [f"{clips}/A/1.avi,A/2.avi"]}, {}):
        told = groups(**said)
        assert told["A/0.avi"] != told["B/0.avi"]
        assert told["A/1.avi"] == told["A/2.avi"]
        assert told["A/3.avi"] == told["B/3.avi"] != told["A/4.avi"]
    kept = answers_file(manifest).read_text().splitlines()
    assert kept == ["a,b,answer", "clips/A/0.avi,clips/B/0.avi,split", "clips/A/1.avi,clips/A/2.avi,merge"]
    assert groups(merge=["B/0.avi,A/0.avi"])["A/0.avi"] == groups()["B/0.avi"]
    for text in ("A/0.avi,C/9.avi", "A/0.avi", "0.avi,A/1.avi"):
        with pytest.raises(InputError, match=f"--apart {text}: .*; write A,B"):
            groups(apart=[text])
    answers_file(manifest).write_text("a,b\n")
    with pytest.raises(InputError, match="expected the columns a, b"):
        groups()


@pytest.mark.slow
def test_borderline_scenes_are_shown_side_by_side(
    two_takes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenes, "_BORDERLINE", 100.0)
    entries = read_manifest(two_takes).entries
    dataset_page.write_report(entries, "t", tmp_path / "r.html")
    page = read_page(tmp_path / "r.html")
    asked = page["One scene or two?"]
    assert "--merge" in asked.texts[0]
    headings = page.headings[page.headings.index("One scene or two?") + 1 :]
    first = page[headings[0]]
    assert headings[0].startswith(("one scene, confidence", "two scenes, confidence"))
    assert len(first.pictures) == 2
    assert first.texts == [",".join(f"{two_takes.parent}/{name}" for name in first.pictures)]
    pairs = find_scenes([entry.clip_path for entry in entries]).borderline
    assert [pair.merged for pair in pairs].count(True) == 6
    assert len(pairs) == 11
