"""Default values for a folder of clips, chosen from the clips and the machine, each with its reason."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from joblib import cpu_count

from vidclf.data.manifest import Entry
from vidclf.data.splitting import group_of
from vidclf.evaluation.intervals import FEWEST_GROUPS
from vidclf.labels import plural
from vidclf.models import devices
from vidclf.models.networks import NETWORKS

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
        name = devices.name()
        return cls(cpu_count(), None if name == "cpu" else name)


@dataclass(frozen=True)
class FolderSummary:
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
class DefaultValue:
    """A value that was chosen for these clips, and why.

    Attributes:
        file: What it stands in: the ``manifest``, all ``experiments``, those of ``networks``, one of them by
            its stem, or the ``study``.
        key: What it is called there.
        value: What was chosen.
        reason: Why.
    """

    file: str
    key: str
    value: Any
    reason: str


def choose_division(entries: Sequence[Entry]) -> DefaultValue:
    """How the clips are divided: as their folders say, else the shares of train, val and test in percent."""
    if all(entry.split for entry in entries):
        return DefaultValue("manifest", "split", "file", "the clips lie below train, val and test")
    groups = len({group_of(entry) for entry in entries})
    if groups * _USUAL_SHARE / 100 >= FEWEST_GROUPS:
        return DefaultValue("manifest", "shares", USUAL, "the default")
    if groups < 3 * FEWEST_GROUPS:
        words = f"the default; {groups} groups are too few for a test that tells anything"
        return DefaultValue("manifest", "shares", USUAL, words)
    test = math.ceil(100 * FEWEST_GROUPS / groups)
    val = min(test, (100 - test) // 3)
    words = f"{groups} groups: of fewer than {FEWEST_GROUPS} in test nothing could be told"
    return DefaultValue("manifest", "shares", f"{100 - val - test},{val},{test}", words)


def networks(machine: Machine) -> dict[str, str]:
    """The network of each experiment that has one, by its stem."""
    of_frames = "resnet18" if machine.gpu else "squeezenet1_1"
    return {"mix": of_frames, "2d": of_frames, "3d": "r3d_18"}


def choose(look: FolderSummary, machine: Machine) -> list[DefaultValue]:
    """What is set by what the clips and the machine are; all else keeps its default."""
    return [*_for_experiments(look), *_for_networks(look, machine), *_for_study(look, machine)]


def _for_experiments(look: FolderSummary) -> Iterator[DefaultValue]:
    yield _frames(look)
    yield DefaultValue(
        "experiments", "data.size", 112, "pixels; at 224 an epoch takes about four times as long"
    )
    if look.imbalance >= _ROOM:
        for stem in ("svm", "mix"):
            yield DefaultValue(stem, "model.class_weight", "balanced", _unequal(look))


def _for_networks(look: FolderSummary, machine: Machine) -> Iterator[DefaultValue]:
    train = look.splits["train"]
    batch = max(2, min(8, train // 4))
    yield DefaultValue("networks", "train.batch_size", batch, f"2 to 8, by the {train} clips in train")
    few = train < 200
    words = f"{train} clips in train: {'few need more rounds' if few else 'so many need fewer rounds'}"
    yield DefaultValue("networks", "train.epochs", 20 if few else 12, words)
    if look.imbalance >= _ROOM:
        yield DefaultValue("networks", "train.balance", "loss", _unequal(look))
    if not machine.gpu:
        words = "no GPU: what the frozen stages give for four views of a clip is kept"
        yield DefaultValue("networks", "train.views", 4, words)
    reasons = {
        "mix": "the same as of 2d, so that what it sees is computed once",
        "2d": "for a GPU" if machine.gpu else "small: quick to train and to answer without a GPU",
        "3d": "a plain ResNet of volumes, pretrained on Kinetics-400",
    }
    for stem, name in networks(machine).items():
        yield DefaultValue(stem, "model.network", name, reasons[stem])
        if stem == "mix":
            continue
        stages = len(NETWORKS[name].stages)
        if machine.gpu:
            yield DefaultValue(
                stem, "model.frozen_stages", 3, f"of {stages}: the first ones keep their weights"
            )
        else:
            words = f"of {stages}, no GPU: only the head is trained, on features kept"
            yield DefaultValue(stem, "model.frozen_stages", stages, words)


def _for_study(look: FolderSummary, machine: Machine) -> Iterator[DefaultValue]:
    folds = min(_FOLDS, look.fewest)
    if look.groups["val"] < _FEW_GROUPS and folds > 1:
        groups = plural(look.groups["val"], "group")
        words = f"val has {groups}: one division says more about the division than about models"
        yield DefaultValue("study", "objective.repeats", folds, words)
    where = machine.gpu or f"{machine.cores} cores without a GPU"
    words = f"a first look on {where}; tune --trials N goes on from there"
    yield DefaultValue("study", "budget.trials", 60 if machine.gpu else 24, words)
    workers = 1 if machine.gpu else max(1, min(4, machine.cores // 2))
    words = "on one GPU" if machine.gpu else f"{machine.cores} cores: a trial with less than two is slow"
    yield DefaultValue("study", "workers", workers, words)
    if machine.gpu:
        yield DefaultValue("study", "model.frozen_stages", "default", "none to all of each network")


def _unequal(look: FolderSummary) -> str:
    return f"the largest class has {look.imbalance:.1f} times the clips of the smallest"


def _frames(look: FolderSummary) -> DefaultValue:
    shortest, median, longest = look.seconds
    if look.frames < 16:
        words = f"short clips: the shortest has {look.frames} frames"
        return DefaultValue("experiments", "data.frames", 8, words)
    words = f"clips last {shortest:.1f} to {longest:.1f} s, half of them up to {median:.1f} s"
    return DefaultValue("experiments", "data.frames", 32 if median > _LONG_SECONDS else 16, words)
