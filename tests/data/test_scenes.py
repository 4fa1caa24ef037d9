"""Scenes and copies are found by how clips look."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.clips import write_scene
from tests.command import run
from vidclf.data import check, scenes, video
from vidclf.data.check import ClipCheck, inspect_clip
from vidclf.data.clips import ClipStore
from vidclf.data.container import DecodeLimits, OpenVideo
from vidclf.data.fingerprints import Fingerprint
from vidclf.data.importing import import_clips
from vidclf.data.leaks import find_leaks
from vidclf.data.likeness import SharedView
from vidclf.data.manifest import Entry, read_manifest
from vidclf.exceptions import InputError
from vidclf.reports import dataset_page

REAL = os.environ.get("VIDCLF_REAL_DATA")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(9):
        for take in range(2):
            write_scene(tmp_path / "c" / "AB"[take] / f"clip{number * 7 + take}.avi", number, take)
    return tmp_path / "c"


@pytest.mark.slow
def test_clips_of_one_room_are_one_group_and_stay_together(folder: Path, tmp_path: Path) -> None:
    import_clips([folder], tmp_path / "m.csv", by_scene=True)
    members = defaultdict(set)
    sides = defaultdict(set)
    for entry in read_manifest(tmp_path / "m.csv").entries:
        members[entry.group].add(int(entry.clip_path.stem.removeprefix("clip")) // 7)
        sides[entry.group].add(entry.split)
    assert sorted(map(tuple, members.values())) == [(number,) for number in range(9)]
    assert all(len(found) == 1 for found in sides.values())


@pytest.mark.slow
def test_new_clips_join_the_scenes_of_the_manifest_that_they_extend(folder: Path, tmp_path: Path) -> None:
    import_clips([folder], tmp_path / "old.csv", by_scene=True)
    old = read_manifest(tmp_path / "old.csv")
    scene_of = {int(entry.clip_path.stem.removeprefix("clip")) // 7: entry.group for entry in old.entries}
    # Sorted by name these come first: of a new room, and of the last one.
    for label in "AB":
        write_scene(folder / label / "a.avi", 99, ord(label))
    write_scene(folder / "A/b.avi", 8, 5)
    import_clips([folder], tmp_path / "new.csv", by_scene=True, extend=tmp_path / "old.csv")
    new = read_manifest(tmp_path / "new.csv")
    groups = {entry.clip_path: entry.group for entry in new.entries}
    assert {entry: entry.group for entry in old.entries}.items() <= {e: e.group for e in new.entries}.items()
    assert groups[folder / "A/b.avi"] == scene_of[8]
    assert groups[folder / "A/a.avi"] == groups[folder / "B/a.avi"] == "scene00009"
    assert not new.leaks
    plain = tmp_path / "plain.csv"
    import_clips([folder], plain)
    with pytest.raises(InputError, match=r"21 of 21 clips of .*plain.csv name no group"):
        import_clips([folder], tmp_path / "no.csv", by_scene=True, extend=plain)


def test_a_copy_in_another_encoding_is_a_leak(folder: Path, tmp_path: Path) -> None:
    original = folder / "A/clip0.avi"
    copy = tmp_path / "copy.mp4"
    video.write_video(copy, video.decode(original, 99, 256).frames, codec="libx264")
    entries = [
        Entry(original, "A", "", "train"),
        Entry(folder / "A/clip7.avi", "A", "", "val"),
        Entry(copy, "A", "", "test"),
    ]
    [leak] = find_leaks(entries).leaks
    assert ({leak.a, leak.b}, set(leak.splits)) == ({original, copy}, {"train", "test"})
    assert leak.why == "nearly identical"
    assert find_leaks(entries, []).leaks == ()
    copy.write_bytes(original.read_bytes())
    assert [leak.why for leak in find_leaks(entries).leaks] == ["same file"]


@pytest.mark.parametrize("command", ["check", "report"])
@pytest.mark.slow
def test_a_clip_that_took_its_child_process_down_is_decoded_nowhere_else(
    command: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_clips([folder], tmp_path / "m.csv", by_scene=True)
    opened: list[Path] = []
    real, fatal = video.open_video, folder / "A/clip0.avi"

    def checked(paths: Sequence[Path], progress: Callable[[], None]) -> list[ClipCheck]:
        return [
            ClipCheck(path, "damaged", "SIGSEGV", 0.0) if path == fatal else inspect_clip(path)
            for path in paths
        ]

    def open_video(path: Path, *bounds: DecodeLimits) -> AbstractContextManager[OpenVideo]:
        opened.append(path)
        return real(path, *bounds)

    monkeypatch.setenv("VIDCLF_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(scenes, "_memo", {})
    monkeypatch.setattr(check, "check_clips", checked)
    monkeypatch.setattr(dataset_page, "check_clips", checked)
    monkeypatch.setattr(video, "open_video", open_video)
    to = ["--to", str(tmp_path / "r.html")] if command == "report" else []
    run("data", command, tmp_path / "m.csv", *to, expect=int(command == "check"))
    assert set(opened) == set(folder.rglob("*.avi")) - {fatal}


@pytest.mark.slow
@pytest.mark.guarded
def test_a_file_is_decoded_once_in_a_child_whatever_its_order(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    compared: list[int] = []
    real, views = video.open_video, scenes.shared_views

    def open_video(path: Path, *bounds: DecodeLimits) -> AbstractContextManager[OpenVideo]:
        opened.append(path)
        return real(path, *bounds)

    def shared_views(prints: Sequence[Fingerprint]) -> Iterator[SharedView]:
        compared.append(len(prints))
        return views(prints)

    monkeypatch.setattr(video, "open_video", open_video)
    monkeypatch.setattr(scenes, "shared_views", shared_views)
    (folder / "A/torn.avi").write_bytes(b"RIFF")
    paths = sorted(folder.rglob("*.avi"))
    seen: list[int] = []
    looks = scenes.looks_of(paths, lambda: seen.append(1))
    assert sorted(paths[place] for place in looks.readable) == [path for path in paths if path.stem != "torn"]
    assert len(seen) == len(paths)

    backwards = scenes.looks_of(paths[::-1])
    assert [paths[::-1][place] for place in backwards.readable] == [paths[place] for place in looks.readable]
    assert compared == [len(paths) - 1]

    assert not opened
    monkeypatch.setattr(check, "Child", None)  # none is started
    checks = check.check_clips([path for path in paths if path.stem != "torn"])
    assert {item.verdict for item in checks} == {"ok"}
    assert all(item.facts and item.facts == video.inspect(item.clip_path) for item in checks)


@pytest.mark.slow
def test_what_is_in_the_clip_store_is_not_decoded_to_be_compared(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(folder.rglob("*.avi"))
    ClipStore(64, 256).build(paths)
    monkeypatch.setattr(video, "open_video", None)
    assert len(scenes.looks_of(paths).prints) == len(paths)


def test_pairs_join_to_sets() -> None:
    assert scenes.sets_of([(0, 3), (3, 1)], 5) == [0, 0, 1, 0, 2]
    assert scenes.sets_of([], 2) == [0, 1]


@pytest.mark.slow
def test_an_unreadable_clip_is_a_group_of_its_own(folder: Path) -> None:
    (folder / "A/clip0.avi").write_bytes(b"")
    entries = [Entry(path, path.parent.name, "", "") for path in sorted(folder.rglob("*.avi"))]
    grouped = scenes.group_by_scene(entries)
    broken = next(entry for entry in grouped if entry.clip_path == folder / "A/clip0.avi")
    assert sum(entry.group == broken.group for entry in grouped) == 1


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="VIDCLF_REAL_DATA is not set")
def test_the_three_people_of_real_clips_are_found() -> None:
    paths = sorted(Path(str(REAL), "gestures3").rglob("*.avi"))
    grouped = scenes.group_by_scene([Entry(path, path.parent.name, "", "") for path in paths])
    people = defaultdict(set)
    for entry in grouped:
        people[entry.group].add(entry.clip_path.stem.split("_")[2])
    assert len(paths) == 27
    assert sorted(len(found) for found in people.values()) == [1, 1, 1]
