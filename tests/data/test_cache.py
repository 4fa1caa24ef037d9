"""One limit on the caches for all processes of a machine."""

import multiprocessing
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import pytest

from vidclf.data import cache

ENTRY = np.zeros(1000)  # 8 kB, and a header


def fill(name: str, barrier: Any) -> None:
    barrier.wait(60)
    for number in range(50):
        cache.save(cache.folder() / name / f"{number}.npy", ENTRY)


@pytest.mark.slow
def test_processes_that_write_at_once_keep_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDCLF_CACHE_GB", str(60 * 8128 / 1e9))
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    writers = [context.Process(target=fill, args=(name, barrier)) for name in ("clips", "features")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    held = cache.usage()
    assert held.entries == {"clips": held.entries["clips"], "features": 60 - held.entries["clips"]}
    assert cache.free_bytes() == 0
    assert not cache.save(cache.folder() / "likeness" / "0.npy", ENTRY)
    cache.clear()
    assert cache.free_bytes() == 60 * 8128


@pytest.mark.slow
def test_what_another_process_writes_counts_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDCLF_CACHE_GB", "1")  # in place of a share of the disk, which others fill and free
    assert cache.save(cache.folder() / "clips" / "0.npy", ENTRY)
    free = cache.free_bytes()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(1)
    other = context.Process(target=fill, args=("features", barrier))
    other.start()
    other.join(60)
    assert free - cache.free_bytes() > 49 * 8128


@pytest.mark.slow
def test_who_starts_while_another_writes_does_not_count_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDCLF_CACHE_GB", "1")
    free = cache.free_bytes()

    def write(file: IO[bytes]) -> None:
        other = multiprocessing.get_context("spawn").Process(target=cache.free_bytes)
        other.start()
        other.join(60)
        np.save(file, ENTRY)

    assert cache.keep(cache.folder() / "clips" / "0.npy", 8128, write)
    assert free - cache.free_bytes() == 8128


@pytest.mark.slow
def test_what_another_version_has_kept_is_dropped_and_nothing_else() -> None:
    entry = cache.entry("clips", "a clip")
    in_a_process(cache.save, entry, ENTRY)
    others = [cache.folder() / "clips" / "notes.txt", cache.folder() / "videos" / "ab" / "mine.npy"]
    for other in others:
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text("a user's")
    in_a_process(cache.free_bytes)
    assert entry.exists()
    cache.lock_file("users").with_name("format").write_text("1")
    in_a_process(cache.free_bytes)
    assert not entry.exists()
    assert all(other.exists() for other in others)
    in_a_process(cache.clear)
    assert [other.exists() for other in others] == [False, True]


def in_a_process(call: Callable[..., object], *arguments: object) -> None:
    """One of its own, which no other uses the caches beside."""
    process = multiprocessing.get_context("spawn").Process(target=call, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == 0
