"""Which poolings know the order of frames: python benchmarks/order.py [--network NAME --weights FILE].

A disc grows, wanders and turns pale over noise; the second class are the same clips played backwards. A
pooling that sees frames without their order can be right on half of them only. Frozen network, features kept,
seeds 0 to 2: accuracy on 40 held-out clips, the parameters that are trained, and the seconds of a trial once
the features are there.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import torch

from vidclf.data import video
from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.manifest import Entry
from vidclf.data.pictures import Frames
from vidclf.models import MODELS
from vidclf.models.networks import NETWORKS, Pooling
from vidclf.runs.experiment import parse_experiment

FRAMES, SIDE, TRAIN, VAL, SEEDS = 16, 64, 80, 40, range(3)
CLASSES = ("backward", "forward")


def forward(generator: np.random.Generator) -> Frames:
    """A clip, uint8 (16, 64, 64, 3)."""
    clip = generator.integers(0, 80, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
    start, end = generator.integers(16, SIDE - 16, (2, 2))
    for time_, frame in enumerate(clip):
        share = time_ / (FRAMES - 1)
        x, y = (start + share * (end - start)).astype(int).tolist()
        cv2.circle(frame, (x, y), round(4 + 12 * share), (255, int(255 * share), int(255 * share)), -1)
    return clip


def rendered(folder: Path, count: int, seed: int) -> ClipSet:
    """As many clips of either class, each the other's of another one; none is also seen the other way."""
    generator = np.random.default_rng(seed)
    entries = []
    for number in range(count):
        label = CLASSES[number % 2]
        clip, path = forward(generator), folder / f"{seed}_{number}.avi"
        video.write_video(path, clip if label == "forward" else clip[::-1])
        entries.append(Entry(path, label, f"g{number}", "train"))
    return ClipSet.of_entries(entries, CLASSES, ClipStore(FRAMES, SIDE))


def trial(pooling: str, network: str, weights: str, sets: tuple[ClipSet, ClipSet], seed: int) -> list[float]:
    """Accuracy on the held-out clips, trained parameters and seconds of a trial."""
    tree = {
        "seed": seed,
        "data": {"manifest": "/m.csv", "frames": FRAMES, "size": SIDE, "grid": FRAMES, "store_side": SIDE}
        | {"resize": SIDE},
        "model": {"kind": "frames2d", "network": network, "weights": weights, "pooling": pooling}
        | {"frozen_stages": len(NETWORKS[network].stages)},
        "train": {"epochs": 30, "lr": 3e-3, "views": 1, "patience": 0},
        "augment": {"temporal": False},
    }
    model = MODELS["frames2d"].build(parse_experiment(tree, "order"), CLASSES)
    started = time.perf_counter()
    model.fit(*sets, lambda step, curves: None)
    seconds = time.perf_counter() - started
    right = model.predict_proba(sets[1]).argmax(axis=1) == sets[1].labels
    return [float(right.mean()), model.describe()["size/trainable_parameters"], seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="tiny2d")
    parser.add_argument("--weights", default="none")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # so few numbers gain nothing from more
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VIDCLF_CACHE"] = str(Path(folder, "cache"))
        sets = (rendered(Path(folder), TRAIN, 0), rendered(Path(folder), VAL, 1))
        print(f"{'pooling':12} {'accuracy':>9} {'parameters':>11} {'s a trial':>10}")
        for pooling in get_args(Pooling):
            trial(pooling, chosen.network, chosen.weights, sets, 0)  # keeps the features
            figures = [trial(pooling, chosen.network, chosen.weights, sets, seed) for seed in SEEDS]
            accuracy, parameters, seconds = map(statistics.mean, zip(*figures, strict=True))
            print(f"{pooling:12} {accuracy:9.2f} {parameters:11,.0f} {seconds:10.2f}")


if __name__ == "__main__":
    main()
