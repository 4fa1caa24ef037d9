"""Default values for a folder of clips, chosen from the clips and the machine, each with its reason."""

import importlib.util
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joblib import cpu_count

from vidclf.data.manifest import Entry
from vidclf.data.splitting import group_of
from vidclf.evaluation.intervals import FEWEST_GROUPS
from vidclf.labels import plural
from vidclf.models import devices
from vidclf.models.networks import spec_of

ENCODER = "hf:facebook/dinov2-small"
"""A large pretrained encoder of pictures that a laptop can run: 22 million weights, under Apache-2.0."""
_ENCODER_STAGES = 13
"""Its stem and blocks, which are known here without asking the hub."""
EXTRA = "hf"
"""What `ENCODER` needs: ``pip install 'vidclf[hf]'``."""
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
_LEAST_MINUTES = 10
_SECONDS_A_CLIP = 1.5
"""Of the search: 362 clips of UCF-101 take six minutes on two cores until nothing better is found."""


@dataclass(frozen=True)
class Machine:
    """What there is to train on.

    Attributes:
        cores: Of the CPU.
        gpu: What it is called; ``None`` without one.
        encoders: Whether the libraries that `ENCODER` needs are installed.
    """

    cores: int
    gpu: str | None
    encoders: bool = True

    @classmethod
    def here(cls) -> "Machine":
        name = devices.name()
        encoders = importlib.util.find_spec("transformers") is not None
        return cls(cpu_count(), None if name == "cpu" else name, encoders)


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


def networks(machine: Machine, given: Collection[str] = ()) -> dict[str, str]:
    """The network of each experiment that has one, by its stem.

    Args:
        machine: What there is to train on.
        given: Networks that take the place of the usual ones, of frames and of volumes.

    Raises:
        InputError: There is no such network, or its library is missing.
    """
    by_dims = {spec_of(name).dims: name for name in given}
    of_frames = by_dims.get(2, "resnet18" if machine.gpu else "squeezenet1_1")
    found = {"mix": of_frames, "2d": of_frames, "encoder": ENCODER, "3d": by_dims.get(3, "r3d_18")}
    return {stem: name for stem, name in found.items() if stem != "encoder" or of_frames != ENCODER}


def choose(look: FolderSummary, machine: Machine, used: Mapping[str, str]) -> list[DefaultValue]:
    """What is set by what the clips and the machine are; all else keeps its default.

    Args:
        look: The clips.
        machine: What there is to train on.
        used: The network of each experiment that has one, by its stem.
    """
    return [*_for_experiments(look), *_for_networks(look, machine, used), *_for_study(look, machine)]


def _for_experiments(look: FolderSummary) -> Iterator[DefaultValue]:
    yield _frames(look)
    yield DefaultValue(
        "experiments", "data.size", 112, "pixels; at 224 an epoch takes about four times as long"
    )
    if look.imbalance >= _ROOM:
        for stem in ("svm", "mix"):
            yield DefaultValue(stem, "model.class_weight", "balanced", _unequal(look))


def _for_networks(look: FolderSummary, machine: Machine, used: Mapping[str, str]) -> Iterator[DefaultValue]:
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
        yield DefaultValue("encoder", "train.views", 1, "no GPU: a view of a clip takes it a second or so")
    reasons = {
        "mix": "the same as of 2d, so that what it sees is computed once",
        "2d": "for a GPU" if machine.gpu else "small: quick to train and to answer without a GPU",
        "encoder": "DINOv2, trained on 142 million pictures without labels",
        "3d": "a plain ResNet of volumes, pretrained on Kinetics-400",
    }
    for stem, name in used.items():
        usual = name == networks(machine).get(stem)
        yield DefaultValue(stem, "model.network", name, reasons[stem] if usual else "as you named it")
        if stem == "mix":
            continue
        stages = _ENCODER_STAGES if name == ENCODER else len(spec_of(name).stages)
        if stem == "encoder":
            words = f"of {stages}: a light head on what it sees, which is computed once"
            yield DefaultValue(stem, "model.frozen_stages", stages, words)
        elif machine.gpu:
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
    words = "of more, the best would be the luckiest rather than better"
    yield DefaultValue("study", "budget.trials", 60, words)
    clips = look.splits["train"] + look.splits["val"]
    minutes = max(_LEAST_MINUTES, math.ceil(clips * _SECONDS_A_CLIP / 60))
    words = f"{minutes} minutes for all of it, whichever ends first; with more, the same command goes on"
    yield DefaultValue("study", "budget.seconds", 60 * minutes, words)
    workers = 1 if machine.gpu else max(1, min(4, machine.cores // 2))
    words = (
        f"on {machine.gpu}" if machine.gpu else f"{machine.cores} cores: a trial with less than two is slow"
    )
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
