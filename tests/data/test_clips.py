"""The clip store changes no pixel and never leaves half an entry."""

import errno
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clips import write_squares
from tests.command import run
from vidclf.data import cache, video
from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.manifest import read_manifest
from vidclf.exceptions import InputError


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_squares(tmp_path / "squares", groups=4)


def entries() -> list[Path]:
    return [path for path in cache.folder().glob("[!.]*/**/*") if path.is_file()]


def test_pixels_are_the_same_with_the_store_and_without(manifest: Path) -> None:
    read = read_manifest(manifest)
    stored = ClipSet.of_split(read, "train", ClipStore(6, 16))
    direct = ClipSet.of_files(stored.paths, stored.classes, 6, 16)
    for _ in range(2):
        for index in range(len(stored)):
            np.testing.assert_array_equal(stored.grid(index)[:], direct.grid(index)[:])
    assert len(entries()) == len(stored) == 4


def test_a_clip_is_decoded_once(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ClipStore(6, 16)
    paths = [entry.clip_path for entry in read_manifest(manifest).entries]
    seen: list[int] = []
    assert store.build(paths, lambda: seen.append(1)) == []
    assert len(seen) == len(paths)
    monkeypatch.setattr(video, "decode", None)
    store.build(paths)
    assert store.read(paths[0]).shape == (6, 16, 16, 3)


def test_an_entry_depends_on_content_grid_and_side_but_not_on_the_name(manifest: Path) -> None:
    first, second, *_ = (entry.clip_path for entry in read_manifest(manifest).entries)
    copied = first.with_name("copy.avi")
    copied.write_bytes(first.read_bytes())
    store = ClipStore(6, 16)
    assert store.entry(copied) == store.entry(first)
    others = {store.entry(second), ClipStore(7, 16).entry(first), ClipStore(6, 17).entry(first)}
    assert len(others | {store.entry(first)}) == 4


def test_a_changed_file_is_another_clip(manifest: Path) -> None:
    first, second, *_ = (entry.clip_path for entry in read_manifest(manifest).entries)
    store = ClipStore(6, 16)
    before = store.read(first)[:]
    first.write_bytes(second.read_bytes())
    np.testing.assert_array_equal(store.read(first)[:], store.read(second)[:])
    assert not np.array_equal(store.read(first)[:], before)


def test_an_interrupted_build_leaves_no_entry(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = read_manifest(manifest).entries[0].clip_path
    store = ClipStore(6, 16)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.read(path)
    monkeypatch.undo()
    assert entries() == []
    assert store.read(path).shape == (6, 16, 16, 3)


def test_a_full_cache_stays_as_it_is_and_the_rest_is_decoded_on_the_fly(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = read_manifest(manifest)
    paths = [entry.clip_path for entry in read.entries]
    store = ClipStore(6, 16)
    store.build(paths)
    largest = max(path.stat().st_size for path in entries())
    cache.clear()
    monkeypatch.setenv("VIDCLF_CACHE_GB", str(2.9 * largest / 1e9))
    [warning] = store.build(paths)
    assert warning.startswith("6 of 8 clips do not fit into the cache")
    assert len(entries()) == 2
    direct = ClipSet.of_files(paths, read.classes, 6, 16)
    for index, path in enumerate(paths):
        np.testing.assert_array_equal(store.read(path)[:], direct.grid(index)[:])
    assert len(entries()) == 2
    assert cache.usage().total <= 2.9 * largest


def test_sizes_are_predicted_from_headers(manifest: Path) -> None:
    paths = [entry.clip_path for entry in read_manifest(manifest).entries]
    store = ClipStore(6, 16)
    store.build(paths)
    most = 24 + 6 * (16 + 64 + 16 * 16 * 3 // 2)
    assert [store.predicted_bytes(path) for path in paths] == [most] * len(paths)
    assert all(most / 4 < store.entry(path).stat().st_size <= most for path in paths)
    paths[0].write_bytes(b"")
    assert store.predicted_bytes(paths[0]) == 0


def test_the_caches_can_be_shown_and_cleared(manifest: Path) -> None:
    paths = [entry.clip_path for entry in read_manifest(manifest).entries]
    ClipStore(6, 16).build(paths)
    shown = json.loads(run("data", "store", "--json").stdout)
    assert shown["entries"] == {"clips": 8}
    assert shown["bytes"]["clips"] == sum(path.stat().st_size for path in entries())
    assert shown["limit"] > 0
    run("data", "store", "--clear")
    assert entries() == []


@pytest.mark.parametrize("text", ["lots", "", "nan", "inf", "-1"])
def test_a_limit_that_is_no_number_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDCLF_CACHE_GB", text)
    with pytest.raises(InputError, match="expected a number of gigabytes"):
        cache.limit_bytes()


@pytest.mark.parametrize("left", [0, 1])
def test_files_may_vanish_while_they_are_counted(
    left: int, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ClipStore(6, 16).build([entry.clip_path for entry in read_manifest(manifest).entries])
    (cache.folder() / "clips/zz").mkdir()
    gone = cache.folder() / "clips/zz/partial"
    gone.touch()
    real, looks = os.stat, itertools.count()

    def stat(path: Any, **options: Any) -> os.stat_result:
        """Another process deletes its partial file once it has been looked at so many times."""
        if Path(path) == gone and next(looks) == left:
            gone.unlink()
        return real(path, **options)

    monkeypatch.setattr("os.stat", stat)
    assert cache.usage().entries["clips"] == 8 + left


def test_a_folder_that_cannot_be_made_only_costs_time(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = read_manifest(manifest).entries[0]
    store = ClipStore(6, 16)
    monkeypatch.setenv("VIDCLF_CACHE_GB", "1")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.mkdir", full)
    [warning] = store.build([entry.clip_path])
    assert warning.startswith(f"1 of 1 clips cannot be kept, as {cache.folder()} cannot be written to: set")
    assert store.read(entry.clip_path).shape == (6, 16, 16, 3)
    assert cache.free_bytes() == 10**9


def test_an_entry_survives_that_memory_does_not_hold_it(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = read_manifest(manifest).entries[0].clip_path
    store = ClipStore(6, 16)
    store.read(path)

    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("numpy.load", exhausted)
    with pytest.raises(MemoryError):
        store.read(path)
    assert store.entry(path).is_file()


def test_an_entry_never_loses_its_remark(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = read_manifest(manifest).entries[0].clip_path
    real, synced = video.decode, os.fsync
    calls: list[int] = []

    def killed_at_the_second(file: int) -> None:
        calls.append(file)
        if len(calls) == 2:
            raise KeyboardInterrupt
        synced(file)

    def short(path: Path, grid: int, side: int, **_: float) -> video.Clip:
        return video.Clip(real(path, grid, side).pictures, 10, 8)

    monkeypatch.setattr(video, "decode", short)
    monkeypatch.setattr("os.fsync", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        ClipStore(6, 16).read(path)
    assert len(calls) == 2
    assert ClipStore(6, 16).build([path]) == [f"{path}: short: 8 of 10 declared frames"]


def test_every_bad_clip_is_named_and_short_ones_are_warned_of(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [entry.clip_path for entry in read_manifest(manifest).entries]
    real = video.decode

    def declares_more(path: Path, grid: int, side: int, **_: float) -> video.Clip:
        clip = real(path, grid, side)
        return video.Clip(clip.pictures, 10 if path == paths[2] else clip.declared, clip.decoded)

    monkeypatch.setattr(video, "decode", declares_more)
    for _ in range(2):  # decoded, then found in the store
        assert ClipStore(6, 16).build(paths) == [f"{paths[2]}: short: 8 of 10 declared frames"]
    paths[0].write_bytes(b"")
    paths[1].write_bytes(b"nonsense")
    whole = tmp_path / "whole.mkv"
    video.write_video(whole, np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), dtype=np.uint8))
    for cut in paths[3:5]:  # of which FFmpeg gives frames without an exception
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(InputError) as caught:
        ClipStore(6, 16).build(paths)
    named = [problem.partition(": ")[0] for problem in caught.value.problems[:-1]]
    assert named == [str(paths[index]) for index in (0, 1, 3, 4)]
    reason = "damaged: the decoder reports: File ended prematurely"
    assert list(caught.value.problems[2:4]) == [f"{path}: {reason}" for path in paths[3:5]]


def test_labels_and_groups_follow_the_manifest(manifest: Path) -> None:
    read = read_manifest(manifest)
    clips = ClipSet.of_split(read, "train", ClipStore(6, 16))
    assert clips.classes == ("down", "right")
    assert [clips.classes[label] for label in clips.labels] == [path.parent.name for path in clips.paths]
    assert set(clips.groups) == {"g00", "g03"}
    assert clips.frames(0, 3).shape == (3, 16, 16, 3)
    np.testing.assert_array_equal(clips.frames(0, 3), clips.grid(0)[[1, 3, 5]])


def test_a_clip_without_a_group_is_its_own(manifest: Path) -> None:
    text = manifest.read_text().replace(",g00,", ",,")
    manifest.write_text(text)
    groups = ClipSet.of_split(read_manifest(manifest), "train", ClipStore(6, 16)).groups
    assert len(set(groups)) == 3


def test_later_pictures_are_kept_beside_the_frames_and_only_where_asked_for(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = read_manifest(manifest).entries[0].clip_path
    plain, paired = ClipStore(6, 16), ClipStore(6, 16, apart=0.08)
    frames = plain.read(path)
    alone = cache.usage().bytes["clips"]
    assert alone == plain.entry(path).stat().st_size
    decoded = paired.read(path)
    assert frames.shape == (6, 16, 16, 3)
    assert decoded.shape == (6, 16, 16, 4)
    assert plain.entry(path).stat().st_size == alone
    monkeypatch.setattr(video, "decode", None)
    assert paired.build([path]) == []
    np.testing.assert_array_equal(paired.read(path)[:], decoded[:])
    np.testing.assert_array_equal(plain.read(path)[:], decoded[:][..., :3])
    most = 6 * (16 + 64 + 16 * 16 * 3 // 2) + 24
    assert plain.predicted_bytes(path) == most
    assert paired.predicted_bytes(path) == most + 6 * (16 + 64 + 16 * 16) + 24
    assert cache.usage().bytes["clips"] <= paired.predicted_bytes(path)
