"""Seconds an epoch of vidclf's training, beside the loop that notebooks have: python benchmarks/epoch.py.

Both sides train in this process, on the same clips at the same size and batch, from random weights. A first
epoch begins with nothing but the video files: it holds the building of the network and, for vidclf, of the
clip store. Later epochs are given by their median. Rows taken while other processes use the cores are worth
nothing.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models import resnet18
from torchvision.models.video import r3d_18

from vidclf import config
from vidclf.data.clips import ClipSet
from vidclf.data.demo import render_demo_set
from vidclf.data.manifest import Entry, Manifest, read_manifest
from vidclf.inference import profiling
from vidclf.models import MODELS
from vidclf.runs.experiment import ExperimentConfig, clip_store, parse_experiment

BATCH, WORKERS, LR = 4, 2, 1e-4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STAGES = ("conv1", "bn1", "stem", "layer1", "layer2", "layer3", "layer4")
"""Of torchvision's two networks, from the input on."""


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        name: For ``--cases``.
        network: ``r3d_18`` or ``resnet18``.
        frames: Frames a clip.
        size: Edge of the crop in pixels.
        frozen: Stages that are not trained: vidclf's ``model.frozen_stages``.
        aim: How many times faster than the notebook a later epoch should be; a first one, at least once.
        epochs: Of vidclf at least, where they are too fast for a median of a few.
    """

    name: str
    network: str
    frames: int
    size: int
    frozen: int
    aim: float
    epochs: int = 2


CASES = (
    Case("head", "r3d_18", 16, 224, frozen=5, aim=300, epochs=20),
    Case("layer3", "r3d_18", 16, 224, frozen=3, aim=6),
    Case("all", "r3d_18", 16, 224, frozen=0, aim=2),
    Case("frames2d", "resnet18", 20, 224, frozen=0, aim=2),
    Case("head", "r3d_18", 16, 112, frozen=5, aim=300, epochs=20),
    Case("layer3", "r3d_18", 16, 112, frozen=3, aim=6),
    Case("all", "r3d_18", 16, 112, frozen=0, aim=2),
)


@dataclass(frozen=True)
class Clips:
    """The manifest, and which of its clips are used."""

    manifest: Manifest
    train: Sequence[Entry]
    val: Sequence[Entry]


class VideoFiles(Dataset[tuple[Tensor, int]]):
    """Decodes at each access and transforms each frame by itself, as a PIL image."""

    def __init__(self, entries: Sequence[Entry], classes: Sequence[str], case: Case, training: bool) -> None:
        self.entries, self.classes, self.case = entries, classes, case
        spatial = (
            [
                transforms.RandomResizedCrop(case.size),
                transforms.RandomHorizontalFlip(),
                transforms.ColorJitter(0.2, 0.2, 0.2),
            ]
            if training
            else [transforms.Resize(case.size), transforms.CenterCrop(case.size)]
        )
        self.transform = transforms.Compose(
            [*spatial, transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        )

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """A clip, (C, T, H, W) for the 3D network and (T, C, H, W) for the 2D one, and its class."""
        entry = self.entries[index]
        capture = cv2.VideoCapture(str(entry.clip_path))
        frames = []
        while capture.grab():
            frames.append(capture.retrieve()[1])
        capture.release()
        chosen = np.linspace(0, len(frames) - 1, self.case.frames).round().astype(int)
        pictures = [Image.fromarray(cv2.cvtColor(frames[i], cv2.COLOR_BGR2RGB)) for i in chosen]
        tensors = [self.transform(picture) for picture in pictures]
        clip = torch.stack(tensors, dim=1 if self.case.network == "r3d_18" else 0)
        return clip, self.classes.index(entry.label)


class FrameMean(nn.Module):
    """A network of single frames; its logits' mean over time."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = self.network(clips.flatten(0, 1))
        return logits.view(*clips.shape[:2], -1).mean(dim=1)


def torchvision_network(case: Case, classes: int) -> nn.Module:
    network = r3d_18() if case.network == "r3d_18" else resnet18()
    network.fc = nn.Linear(network.fc.in_features, classes)
    stages = [getattr(network, name) for name in STAGES if hasattr(network, name)]
    for stage in stages[: case.frozen]:
        stage.requires_grad_(False)
    whole: nn.Module = network if case.network == "r3d_18" else FrameMean(network)
    return whole


def notebook(case: Case, clips: Clips, epochs: int) -> list[float]:
    """Seconds of each epoch of the loop that one finds in notebooks."""
    ends = [time.perf_counter()]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    classes = clips.manifest.classes
    train = DataLoader(VideoFiles(clips.train, classes, case, True), BATCH, shuffle=True, num_workers=WORKERS)
    val = DataLoader(VideoFiles(clips.val, classes, case, False), BATCH, num_workers=WORKERS)
    network = torchvision_network(case, len(classes)).to(device)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=LR)
    criterion = nn.CrossEntropyLoss()
    for _ in range(epochs):
        loss_sum, correct = 0.0, 0
        network.train()
        for pixels, labels in train:
            targets = labels.to(device)
            optimizer.zero_grad()
            logits = network(pixels.to(device))
            loss = criterion(logits, targets)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item()
            correct += (logits.argmax(1) == targets).sum().item()
        network.eval()
        with torch.no_grad():
            for pixels, labels in val:
                targets = labels.to(device)
                logits = network(pixels.to(device))
                loss_sum += criterion(logits, targets).item()
                correct += (logits.argmax(1) == targets).sum().item()
        ends.append(time.perf_counter())
    return between(ends)


def vidclf(case: Case, clips: Clips, epochs: int) -> list[float]:
    """Seconds of each epoch of vidclf; the caches must be empty."""
    experiment = experiment_of(case, clips.manifest, epochs)
    store = clip_store(experiment)
    classes = clips.manifest.classes
    ends = [time.perf_counter()]
    store.build([entry.clip_path for entry in (*clips.train, *clips.val)])
    classifier = MODELS[experiment.kind].build(experiment, classes)

    def report(step: int, _: object) -> None:
        if step > 0:
            ends.append(time.perf_counter())

    train, val = (ClipSet.of_entries(entries, classes, store) for entries in (clips.train, clips.val))
    classifier.fit(train, val, report)
    return between(ends)


def between(times: list[float]) -> list[float]:
    return [end - start for start, end in pairwise(times)]


def experiment_of(case: Case, manifest: Manifest, epochs: int) -> ExperimentConfig:
    kind = "volume3d" if case.network == "r3d_18" else "frames2d"
    tree: dict[str, Any] = {
        "data": {"manifest": str(manifest.path), "frames": case.frames, "size": case.size},
        "model": {
            "kind": kind,
            "network": case.network,
            "weights": "none",
            "frozen_stages": case.frozen,
        },
        "train": {
            "epochs": epochs,
            "batch_size": BATCH,
            "optimizer": "adam",
            "weight_decay": 0.0,
            "lr": LR,
            "views": 1,
            "patience": 0,
        },
    }
    return parse_experiment(tree, "benchmark")


def rendered(folder: Path, train: int, val: int) -> Clips:
    """So many clips of each split, of all classes."""
    subjects = 10 + max(train // 3, 2 * val)
    manifest = read_manifest(render_demo_set(folder, subjects=subjects, takes=1, seed=0).absolute())
    return Clips(manifest, spread(manifest.split("train"), train), spread(manifest.split("val"), val))


def spread(entries: Sequence[Entry], count: int) -> Sequence[Entry]:
    """Evenly spaced entries, as neighbours are of one class."""
    return [entries[index] for index in np.linspace(0, len(entries) - 1, count).round().astype(int)]


def warm_up() -> None:
    """A step of training: whoever makes torch's first optimizer waits for its imports."""
    layer = nn.Conv3d(3, 8, 3)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.zeros(2, 3, 4, 32, 32)).sum().backward()
    optimizer.step()


def show_machine(clips: Clips) -> None:
    found = profiling.environment()
    libraries = ("python", "torch", "torchvision", "opencv-python-headless")
    resolved = experiment_of(CASES[0], clips.manifest, epochs=1).resolved()
    precision = config.lookup(config.dump(resolved), "train.precision")
    print(f"{found['cpu']}, {found['cores']} cores, {torch.get_num_threads()} threads, on {found['device']}")
    print(", ".join(f"{name} {found[name]}" for name in libraries))
    print(f"{len(clips.train)} train and {len(clips.val)} val clips, batches of {BATCH}")
    print(f"precision: vidclf {precision} (auto), notebook fp32\n")
    titles = ("notebook s/epoch", "vidclf s/epoch", "notebook / vidclf", "aim")
    print(f"{'':<30}" + "".join(f"{title:>20}" for title in titles) + f"{'cores that':>12}")
    print(f"{'':<30}" + f"{'first':>11}{'later':>9}" * len(titles) + f"{'others used':>12}")


def others_cpu() -> float:
    """CPU seconds so far of all processes but this one and its children."""
    machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
    return machine.user + machine.system - sum(own[:4])


def show(case: Case, theirs: list[float], ours: list[float], others: float) -> None:
    pairs = [(seconds[0], statistics.median(seconds[1:])) for seconds in (theirs, ours)]
    (their_first, their_later), (our_first, our_later) = pairs
    ratios = (their_first / our_first, their_later / our_later)
    title = f"{case.name}, {case.network} {case.frames}x{case.size}"
    figures = "".join(f"{first:11.2f}{later:9.3f}" for first, later in pairs)
    print(
        f"{title:<30}{figures}{ratios[0]:11.1f}{ratios[1]:9.1f}{1:11}{case.aim:9}{others:12.1f}", flush=True
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=12, help="clips to train on (12)")
    parser.add_argument("--val", type=int, default=4, help="clips of validation (4)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs, two or more (3)")
    parser.add_argument("--size", choices=("both", "224", "112"), default="both", help="pixels (both)")
    names = list(dict.fromkeys(case.name for case in CASES))
    parser.add_argument("--cases", default=",".join(names), help=f"some of {','.join(names)}")
    given = parser.parse_args()
    given.cases = given.cases.split(",")
    if unknown := set(given.cases) - set(names):
        parser.error(f"--cases: {', '.join(sorted(unknown))}: none of {', '.join(names)}")
    if given.epochs < 2 or min(given.clips, given.val) < 1:
        parser.error("two epochs and a clip of each split are the fewest")
    return given


def main(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clips = rendered(Path(folder, "demo"), given.clips, given.val)
        show_machine(clips)
        warm_up()
        for case in CASES:
            if case.name not in given.cases or given.size not in ("both", str(case.size)):
                continue
            before, started = others_cpu(), time.perf_counter()
            theirs = notebook(case, clips, given.epochs)
            with tempfile.TemporaryDirectory(dir=folder) as cache:
                os.environ["VIDCLF_CACHE"] = cache
                ours = vidclf(case, clips, max(given.epochs, case.epochs))
            others = (others_cpu() - before) / (time.perf_counter() - started)
            show(case, theirs, ours, others)


if __name__ == "__main__":
    main(arguments())
