"""Does motion between pictures a fixed time apart tell more: python benchmarks/motion.py [MANIFEST...].

Macro F1 of one SVM (linear, hof and mbh), by the seconds between the two pictures that flow is taken between;
0: from each sampled frame to the next. Each manifest by four folds of whole groups (three where there are
three). First the rendered demo set: trained on other people's clips as they are, and judged on clips as they
are, played at half and at double speed, and at twice the length.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from vidclf.data import video
from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.demo import render_demo_set
from vidclf.data.manifest import Entry, read_manifest
from vidclf.data.pictures import Frames
from vidclf.data.splitting import group_of, split_by_fold
from vidclf.evaluation import metrics
from vidclf.models import MODELS
from vidclf.runs.experiment import parse_experiment

SECONDS, FRAMES, FOLDS = (0.0, 0.08), (16, 32), 4
GRID, SIDE = 64, 256
PLAYED: dict[str, Callable[[Frames], Frames]] = {
    "as it is": lambda frames: frames,
    "half speed": lambda frames: np.repeat(frames, 2, axis=0),
    "double speed": lambda frames: frames[::2],
    "twice as long": lambda frames: np.concatenate([frames, frames]),
}


def macro_f1(train: Sequence[Entry], judged: Sequence[Entry], frames: int, seconds: float) -> float:
    """Of the SVM on clips that it has not seen."""
    classes = tuple(sorted({entry.label for entry in train}))
    store = ClipStore(GRID, SIDE, seconds)
    sets = [ClipSet.of_entries(entries, classes, store) for entries in (train, judged)]
    tree = {
        "data": {"manifest": "/m.csv", "frames": frames, "size": 112},
        "model": {"kind": "svm", "features": ["hof", "mbh"], "kernel": "linear", "flow_seconds": seconds},
    }
    model = MODELS["svm"].build(parse_experiment(tree, "motion"), classes)
    model.fit(sets[0], sets[1], lambda step, curves: None)
    return metrics.curve_values(sets[1].labels, model.predict_proba(sets[1]))["macro_f1"]


def by_folds(entries: Sequence[Entry], frames: int, seconds: float) -> float:
    """The mean over folds of whole groups."""
    entries = [replace(entry, split="train") for entry in entries]
    fewest = min(
        len({group_of(entry) for entry in entries if entry.label == label})
        for label in {entry.label for entry in entries}
    )
    scores = []
    for fold in range(min(FOLDS, fewest)):
        split = split_by_fold(entries, min(FOLDS, fewest), fold, seed=0)
        train, judged = ([entry for entry in split if entry.split == name] for name in ("train", "val"))
        scores.append(macro_f1(train, judged, frames, seconds))
    return float(np.mean(scores))


def played(entries: Sequence[Entry], how: str, folder: Path) -> list[Entry]:
    """The clips, played in another way."""
    made = []
    for number, entry in enumerate(entries):
        path = folder / f"{how} {number}.avi".replace(" ", "_")
        clip = video.decode(entry.clip_path, 10**6, 10**4)
        video.write_video(path, np.ascontiguousarray(PLAYED[how](clip.frames)))
        made.append(replace(entry, clip_path=path))
    return made


def row(name: str, scores: Sequence[float]) -> None:
    print(f"{name:32}" + "".join(f"{score:8.3f}" for score in scores), flush=True)


def main(manifests: Sequence[Path]) -> None:
    cv2.setNumThreads(os.cpu_count() or 1)
    every = [(frames, seconds) for frames in FRAMES for seconds in SECONDS]
    print(f"{'frames':32}" + "".join(f"{frames:8}" for frames, _ in every))
    row("seconds apart", [seconds for _, seconds in every])
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("VIDCLF_CACHE", str(Path(folder, "cache")))
        demo = read_manifest(render_demo_set(Path(folder, "demo"), subjects=12, takes=3, seed=0))
        train = [entry for entry in demo.entries if entry.split == "train"]
        judged = [entry for entry in demo.entries if entry.split != "train"]
        for how in PLAYED:
            clips = played(judged, how, Path(folder))
            row(f"rendered, {how}", [macro_f1(train, clips, *setting) for setting in every])
        for manifest in manifests:
            entries = read_manifest(manifest).entries
            row(manifest.parent.name, [by_folds(entries, *setting) for setting in every])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifests", nargs="*", type=Path)
    main(parser.parse_args().manifests)
