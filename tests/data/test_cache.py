"""One limit on the caches for all processes of a machine."""

import multiprocessing
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
    writers = [context.Process(target=fill, args=(name, barrier)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    held = cache.usage()
    assert held.entries == {"a": held.entries["a"], "b": 60 - held.entries["a"]}
    assert cache.free_bytes() == 0
    assert not cache.save(cache.folder() / "c" / "0.npy", ENTRY)
    cache.clear()
    assert cache.free_bytes() == 60 * 8128


@pytest.mark.slow
def test_what_another_process_writes_counts_here_too() -> None:
    assert cache.save(cache.folder() / "a" / "0.npy", ENTRY)
    free = cache.free_bytes()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(1)
    other = context.Process(target=fill, args=("b", barrier))
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

    assert cache.keep(cache.folder() / "a" / "0.npy", 8128, write)
    assert free - cache.free_bytes() == 8128
