"""Milliseconds a clip for each hand-made feature, beside getting the clip: python benchmarks/features.py.

On rendered demo clips of 160 x 120 pixels. Each feature computes all that it needs by itself; `all` shares
the flow. Below, what it costs to have the vectors of all features from an earlier run. The last table is
`build_features` for the whole set, in one thread and in as many as there are cores; rows taken while other
processes use the cores say nothing there.
"""

import functools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.decode import milliseconds, show
from vidclf.data import cache, video
from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.demo import render_demo_set
from vidclf.data.manifest import read_manifest
from vidclf.models import feature_store
from vidclf.models.feature_store import Framing, build_features, feature_matrix, square_view
from vidclf.models.features import FEATURES, compute_features

STORE = ClipStore(grid=32, store_side=120)
FRAMING = Framing(frames=16, size=112, resize=112)
NAMES = [name for name, spec in FEATURES.items() if not spec.body]
"""A body is found by networks, which have to be fetched."""
TAKEN = 6
"""Clips that are measured one by one, two of each class."""


def a_clip(clips: ClipSet) -> None:
    """Prints what one clip takes."""
    chosen = range(0, len(clips), len(clips) // TAKEN)
    grids = [clips.grid(index) for index in chosen]
    views = [
        square_view(clips.frames(index, FRAMING.frames), FRAMING.size, FRAMING.resize) for index in chosen
    ]

    def computed(names: list[str]) -> None:
        for view in views:
            compute_features(view, names)

    calls: dict[str, Callable[[], object]] = {
        "decode": lambda: [video.decode(clips.paths[i], STORE.grid, STORE.store_side) for i in chosen],
        "read from store": lambda: [clips.frames(i, FRAMING.frames) for i in chosen],
        "resize and crop": lambda: [square_view(g[::2], FRAMING.size, FRAMING.resize) for g in grids],
        **{name: functools.partial(computed, [name]) for name in NAMES},
        "all": lambda: computed(NAMES),
    }
    taken = {name: value / len(views) for name, value in milliseconds(calls).items()}
    show(f"a clip: {FRAMING.frames} frames of {FRAMING.size} x {FRAMING.size}", taken, "decode")


def a_matrix(clips: ClipSet) -> None:
    """Prints what finding the vectors takes that were computed before."""
    build_features(clips, NAMES, FRAMING)

    def from_disk() -> None:
        feature_store._MEMO.clear()
        feature_matrix(clips, NAMES, FRAMING)

    calls = {"from disk": from_disk, "from memory": lambda: feature_matrix(clips, NAMES, FRAMING)}
    taken = {name: value / len(clips) for name, value in milliseconds(calls).items()}
    show("a clip: all features found", taken, "from disk")


def a_build(clips: ClipSet) -> None:
    """Prints what computing everything takes a clip, by number of threads."""
    taken = {}
    for threads in (1, os.cpu_count() or 1):
        cv2.setNumThreads(threads)
        shutil.rmtree(cache.folder() / "features")
        feature_store._MEMO.clear()
        started = time.perf_counter()
        build_features(clips, NAMES, FRAMING)
        taken[f"threads: {threads}"] = (time.perf_counter() - started) * 1e3 / len(clips)
    show("a clip: all features of the set computed and kept", taken, "threads: 1")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VIDCLF_CACHE"] = str(Path(folder, "cache"))
        manifest = read_manifest(render_demo_set(Path(folder, "demo"), subjects=10, takes=2, seed=0))
        clips = ClipSet.of_entries(manifest.entries, manifest.classes, STORE)
        STORE.build(clips.paths)
        a_clip(clips)
        a_matrix(clips)
        a_build(clips)


if __name__ == "__main__":
    main()
