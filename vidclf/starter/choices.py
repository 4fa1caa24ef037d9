"""What is chosen for a folder of clips, from what they and the machine are, and why."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from joblib import cpu_count

from vidclf.data.manifest import Entry
from vidclf.data.splitting import group_of

HEAD_ONLY = 5
"""Stages of R3D-18: all frozen, only the head learns."""
TESTABLE = 3
"""Groups of test from which on there is an interval."""
_ROOM = 3.0
"""Times that the largest class outnumbers the smallest from which on classes are balanced."""
_FEW_GROUPS = 5
"""Groups of val below which one division of the clips says more about the division than about the model."""
_FOLDS = 3
_USUAL_SHARE = 15
"""Percent of the clips in val, and in test."""
USUAL = f"{100 - 2 * _USUAL_SHARE},{_USUAL_SHARE},{_USUAL_SHARE}"
_LONG_SECONDS = 6.0
"""Median length of clips from which on 16 frames are far apart."""


@dataclass(frozen=True)
class Machine:
    """What there is to train on."""

    cores: int
    gpu: str | None

    @classmethod
    def here(cls) -> "Machine":
        gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
        return cls(cpu_count(), gpu)


@dataclass(frozen=True)
class Look:
    """What a folder of clips holds.

    Attributes:
        classes: Clips by class.
        splits: Clips by split.
        groups: Groups by split; a clip that names none is its own.
        grouped: Whether every clip names its group.
        fewest: The fewest groups that a class has in train and val together.
        seconds: Shortest, median and longest clip.
        frames: Fewest decoded frames of a clip.
        size: Most frequent width and height in pixels.
        left_out: Clips that cannot be decoded, with the reason.
    """

    classes: dict[str, int]
    splits: dict[str, int]
    groups: dict[str, int]
    grouped: bool
    fewest: int
    seconds: tuple[float, float, float]
    frames: int
    size: tuple[int, int]
    left_out: dict[str, str]

    @property
    def imbalance(self) -> float:
        """How many times the largest class outnumbers the smallest."""
        return max(self.classes.values()) / min(self.classes.values())


@dataclass(frozen=True)
class Choice:
    """A value that was chosen for these clips, and why."""

    key: str
    value: Any
    reason: str


def choose_division(entries: Sequence[Entry]) -> Choice:
    """How the clips are divided: as their folders say, else the shares of train, val and test in percent."""
    if all(entry.split for entry in entries):
        return Choice("split", "file", "the clips lie below train, val and test")
    groups = len({group_of(entry) for entry in entries})
    if groups * _USUAL_SHARE / 100 >= TESTABLE:
        return Choice("shares", USUAL, "the default")
    if groups < 2 * TESTABLE:
        words = f"the default; {groups} groups are too few for a test that tells anything"
        return Choice("shares", USUAL, words)
    test = math.ceil(100 * TESTABLE / groups)
    val = min(test, (100 - test) // 3)
    words = f"{groups} groups: of fewer than {TESTABLE} in test nothing could be told"
    return Choice("shares", f"{100 - val - test},{val},{test}", words)


def network2d(machine: Machine) -> str:
    return "resnet18" if machine.gpu else "squeezenet1_1"


def choose(look: Look, machine: Machine) -> list[Choice]:
    """What is set by what the clips and the machine are; all else keeps its default."""
    size = Choice("data.size", 112, "pixels; at 224 an epoch takes about four times as long")
    chosen = [_frames(look), size]
    train = look.splits["train"]
    batch = max(2, min(8, train // 4))
    chosen.append(Choice("train.batch_size", batch, f"{train} clips in train"))
    epochs = 20 if train < 200 else 12
    chosen.append(
        Choice("train.epochs", epochs, "few clips need more rounds" if epochs > 12 else "the default")
    )
    if look.imbalance >= _ROOM:
        words = f"the largest class has {look.imbalance:.1f} times the clips of the smallest"
        chosen += [Choice("train.balance", "loss", words), Choice("model.class_weight", "balanced", words)]
    if machine.gpu:
        stages = Choice("model.frozen_stages", 3, "of 5: the first ones keep their weights")
    else:
        views = "no GPU: what the frozen stages give for four views of a clip is kept"
        chosen.append(Choice("train.views", 4, views))
        stages = Choice(
            "model.frozen_stages", HEAD_ONLY, "no GPU: only the head is trained, on features kept"
        )
    network = Choice("model.network", network2d(machine), "for a GPU" if machine.gpu else "small and quick")
    chosen += [stages, network]
    if look.groups["val"] < _FEW_GROUPS and look.fewest >= _FOLDS:
        words = f"val has {look.groups['val']} groups: one division says more about them than about models"
        chosen.append(Choice("objective.repeats", _FOLDS, words))
    trials = 60 if machine.gpu else 24
    chosen.append(Choice("budget.trials", trials, machine.gpu or f"{machine.cores} cores, no GPU"))
    workers = 1 if machine.gpu else max(1, min(4, machine.cores // 2))
    words = "on one GPU" if machine.gpu else "a trial with less than two cores is slow"
    chosen.append(Choice("workers", workers, words))
    return chosen


def _frames(look: Look) -> Choice:
    shortest, median, longest = look.seconds
    if look.frames < 16:
        return Choice("data.frames", 8, f"short clips: the shortest has {look.frames} frames")
    words = f"clips last {shortest:.1f} to {longest:.1f} s, half of them up to {median:.1f} s"
    return Choice("data.frames", 32 if median > _LONG_SECONDS else 16, words)
