"""``vidclf init``: looks at a folder of clips and writes a first experiment of each family and a study."""

import itertools
import json
import math
import os
import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vidclf.config import InputError
from vidclf.data.check import ClipCheck, check_clips
from vidclf.data.manifest import SPLITS, Entry
from vidclf.data.sources import import_clips, read_sources
from vidclf.data.splitting import group_of
from vidclf.models.networks import published_weights
from vidclf.models.weights import downloaded_file

Reachable = Callable[[str], bool]

_UNUSABLE = ("unreadable", "empty", "damaged")
"""Verdicts of `data check` that `train` refuses."""
_ROOM = 3.0
"""Times that the largest class outnumbers the smallest from which on classes are balanced."""
_FEW_GROUPS = 5
"""Groups of val below which one division of the clips says more about the division than about the model."""
_FOLDS = 3
_USUAL_SHARE = 15
"""Percent of the clips in val, and in test."""
_TESTABLE = 3
"""Groups of test from which on there is an interval."""
_HEAD_ONLY = 5
"""Stages of R3D-18: all frozen, only the head learns."""
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
        return cls(os.cpu_count() or 1, gpu)


@dataclass(frozen=True)
class Look:
    """What a folder of clips holds.

    Attributes:
        classes: Clips by class.
        splits: Clips by split.
        groups: Groups by split; a clip that names none is its own.
        grouped: Whether every clip names its group.
        seconds: Shortest, median and longest clip.
        frames: Fewest decoded frames of a clip.
        size: Most frequent width and height in pixels.
        left_out: Clips that cannot be decoded, with the reason.
    """

    classes: dict[str, int]
    splits: dict[str, int]
    groups: dict[str, int]
    grouped: bool
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


@dataclass(frozen=True)
class Started:
    """What was written.

    Attributes:
        manifest: The CSV file.
        experiments: One file a family, by stem.
        study: The study over those that can begin here.
        look: What the folder holds.
        choices: What was chosen, and why.
        waiting: Families that are not in the study yet, and what they wait for.
        notes: What a user should know of the data.
    """

    manifest: Path
    experiments: dict[str, Path]
    study: Path
    look: Look
    choices: tuple[Choice, ...]
    waiting: dict[str, str]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            **asdict(self),
            "manifest": str(self.manifest),
            "experiments": {stem: str(path) for stem, path in self.experiments.items()},
            "study": str(self.study),
        }


def start(
    folder: Path,
    to: Path,
    *,
    name: str | None = None,
    force: bool = False,
    machine: Machine | None = None,
    reachable: Reachable = lambda _: False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Started:
    """Looks at the clips and writes ``data/NAME``, ``experiments/NAME`` and ``studies/NAME.toml``.

    Args:
        folder: A folder per class, also below train, val and test; or UCF-101's.
        to: The folder that gets the files.
        name: ``NAME``; ``None``: the clips' folder's.
        force: Replace files that exist.
        machine: What to plan for; ``None``: this one.
        reachable: Whether a URL's host answers, for weights that are not on this machine.
        progress: Called with (clips done, clips in all) while they are decoded.

    Raises:
        InputError: The folder holds no such clips, or a file exists; nothing was written then.
    """
    name = name or re.sub(r"[^\w.-]+", "_", folder.resolve().name).strip("._") or "clips"
    manifest = to / "data" / name / "manifest.csv"
    study = to / "studies" / f"{name}.toml"
    experiments = {stem: to / "experiments" / name / f"{stem}.toml" for stem in ("svm", "2d", "3d")}
    _refuse_existing([manifest, study, *experiments.values()], force)
    entries = read_sources([str(folder)])
    done = itertools.count(1)
    checks = check_clips([entry.clip_path for entry in entries], lambda: progress(next(done), len(entries)))
    unusable = {item.clip_path: item.reason for item in checks if item.verdict in _UNUSABLE}
    shares = _shares([entry for entry in entries if entry.clip_path not in unusable])
    imported = import_clips([folder], manifest, shares=shares.value, leave_out=unusable.keys())
    look = _look(imported.entries, [item for item in checks if item.clip_path not in unusable], unusable)
    machine = machine or Machine.here()
    waiting = {
        stem: reason
        for stem, network in (("2d", _network2d(machine)), ("3d", "r3d_18"))
        if (reason := _lacks(network, reachable))
    }
    choices = [shares, *_choices(look, machine)]
    values = {choice.key: choice for choice in choices}
    for stem, path in experiments.items():
        _write(path, _EXPERIMENTS[stem](name, look, values))
    _write(study, _study(name, values, [stem for stem in experiments if stem not in waiting], waiting))
    notes = imported.notes
    if look.groups["test"] < _TESTABLE:
        notes += ("test has too few groups to tell anything: vidclf promote will want --accept untested",)
    return Started(manifest, experiments, study, look, tuple(choices), waiting, notes)


def _refuse_existing(paths: Sequence[Path], force: bool) -> None:
    existing = [str(path) for path in paths if path.exists()]
    if existing and not force:
        raise InputError(
            f"{', '.join(existing)}: exists already; --force replaces it, --name NAME writes beside it"
        )


def _look(entries: Sequence[Entry], checks: Sequence[ClipCheck], unusable: dict[Path, str]) -> Look:
    facts = [item.facts for item in checks if item.facts]
    seconds = sorted(fact.seconds for fact in facts)
    by_split = {split: [entry for entry in entries if entry.split == split] for split in SPLITS}
    return Look(
        classes=dict(sorted(Counter(entry.label for entry in entries).items())),
        splits={split: len(found) for split, found in by_split.items()},
        groups={split: len({group_of(entry) for entry in found}) for split, found in by_split.items()},
        grouped=all(entry.group for entry in entries),
        seconds=(seconds[0], statistics.median(seconds), seconds[-1]),
        frames=min(fact.decoded for fact in facts),
        size=Counter((fact.width, fact.height) for fact in facts).most_common(1)[0][0],
        left_out={str(path): reason for path, reason in unusable.items()},
    )


def _shares(entries: Sequence[Entry]) -> Choice:
    """How much of the clips val and test get each."""
    groups = len({group_of(entry) for entry in entries})
    if groups * _USUAL_SHARE / 100 >= _TESTABLE:
        return Choice("shares", f"{100 - 2 * _USUAL_SHARE},{_USUAL_SHARE},{_USUAL_SHARE}", "the default")
    if groups < 2 * _TESTABLE:
        words = f"the default; {groups} groups are too few for a test that tells anything"
        return Choice("shares", f"{100 - 2 * _USUAL_SHARE},{_USUAL_SHARE},{_USUAL_SHARE}", words)
    test = math.ceil(100 * _TESTABLE / groups)
    val = min(test, (100 - test) // 3)
    words = f"{groups} groups: of fewer than {_TESTABLE} in test nothing could be told"
    return Choice("shares", f"{100 - val - test},{val},{test}", words)


def _network2d(machine: Machine) -> str:
    return "resnet18" if machine.gpu else "squeezenet1_1"


def _lacks(network: str, reachable: Reachable) -> str:
    """Why pretrained weights cannot be had now; empty where they can."""
    file = downloaded_file(network)
    url = published_weights(network).url
    if file.exists() or reachable(url):
        return ""
    return f"{url} does not answer; put that file at {file}, then repeat vidclf init with --force"


def _choices(look: Look, machine: Machine) -> list[Choice]:
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
            "model.frozen_stages", _HEAD_ONLY, "no GPU: only the head is trained, on features kept"
        )
    network = Choice("model.network", _network2d(machine), "for a GPU" if machine.gpu else "small and quick")
    chosen += [stages, network]
    if look.groups["val"] < _FEW_GROUPS and look.groups["train"] + look.groups["val"] >= _FOLDS:
        words = f"val has {look.groups['val']} groups: one division says more about them than about models"
        chosen.append(Choice("objective.repeats", _FOLDS, words))
    trials = 60 if machine.gpu else 24
    chosen.append(Choice("budget.trials", trials, machine.gpu or f"{machine.cores} cores, no GPU"))
    workers = 1 if machine.gpu else max(1, min(4, machine.cores // 2))
    chosen.append(Choice("workers", workers, "on one GPU" if machine.gpu else "that share the cores"))
    return chosen


def _frames(look: Look) -> Choice:
    shortest, median, longest = look.seconds
    if look.frames < 16:
        return Choice("data.frames", 8, f"the shortest clip has {look.frames} frames")
    words = f"clips last {shortest:.1f} to {longest:.1f} s, half of them up to {median:.1f} s"
    return Choice("data.frames", 32 if median > _LONG_SECONDS else 16, words)


Values = Mapping[str, Choice]


def _said(assignment: str, reason: str) -> str:
    return f"{assignment:<28} # {reason}\n"


def _line(values: Values, key: str) -> str:
    """One assignment with its reason; empty where nothing was chosen."""
    if key not in values:
        return ""
    name = key.rpartition(".")[2]
    return _said(f"{name} = {json.dumps(values[key].value)}", values[key].reason)


def _data(name: str, look: Look, values: Values) -> str:
    classes = ", ".join(f"{label} {count}" for label, count in look.classes.items())
    width, height = look.size
    return (
        f"# {sum(look.classes.values())} clips, mostly {width}x{height}: {classes}.\n"
        f'[data]\nmanifest = "../../data/{name}/manifest.csv"\n'
        + _line(values, "data.frames")
        + _line(values, "data.size")
    )


def _svm(name: str, look: Look, values: Values) -> str:
    return (
        "# Hand-made features and an SVM: the baseline that a network must beat. Small, fast, no weights.\n"
        + _data(name, look, values)
        + '\n[model]\nkind = "svm"\n'
        + _said('features = ["hog", "flow"]', "shape and motion; colour tells rooms apart, not actions")
        + _line(values, "model.class_weight")
    )


def _2d(name: str, look: Look, values: Values) -> str:
    return (
        "# A 2D network on single frames, averaged over time: what a frame shows.\n"
        + _data(name, look, values)
        + '\n[model]\nkind = "frames2d"\n'
        + _line(values, "model.network")
        + _weights()
        + (
            _said("frozen_stages = 3", "of 5: the first ones keep their weights")
            if values["model.frozen_stages"].value < _HEAD_ONLY
            else _said("frozen_stages = 4", "of 4: only the head is trained, on features kept")
        )
        + _train(values)
    )


def _3d(name: str, look: Look, values: Values) -> str:
    return (
        "# A 3D network on whole clips: how things move.\n"
        + _data(name, look, values)
        + '\n[model]\nkind = "volume3d"\nnetwork = "r3d_18"\n'
        + _weights()
        + _line(values, "model.frozen_stages")
        + _train(values)
    )


def _weights() -> str:
    return _said('weights = "pretrained"', 'or a local file of them, or "none" to train from scratch')


def _train(values: Values) -> str:
    return (
        "\n[train]\n"
        + _line(values, "train.epochs")
        + _line(values, "train.batch_size")
        + _said("lr = 1e-3", "the study tries others")
        + _line(values, "train.views")
        + _line(values, "train.balance")
    )


_EXPERIMENTS: Mapping[str, Callable[[str, Look, Values], str]] = {"svm": _svm, "2d": _2d, "3d": _3d}


def _study(name: str, values: Values, stems: Sequence[str], waiting: Mapping[str, str]) -> str:
    bases = ", ".join(f'"../experiments/{name}/{stem}.toml"' for stem in stems)
    later = "".join(
        f'# "../experiments/{name}/{stem}.toml" is left out: {why}\n' for stem, why in waiting.items()
    )
    folds, neural = "objective.repeats" in values, len(stems) > 1
    frames = values["data.frames"].value
    deep = values["model.frozen_stages"].value < _HEAD_ONLY
    return (
        f"# Clips in train, val and test: {values['shares'].value} percent ({values['shares'].reason}).\n"
        f'question = "{name}: which classifier is worth shipping?"\n'
        f"base     = [{bases}]\n{later}"
        + _line(values, "workers")
        + "\n[objective]\n"
        + _said('metric = "val/macro_f1"', "every class counts the same, however few clips it has")
        + 'direction = "maximize"\n'
        + _line(values, "objective.repeats")
        + (_said('repeat_by = "fold"', "each time other groups are judged") if folds else "")
        + "\n# [[constraint]]            # what a model must keep to be shipped\n"
        + '# metric = "latency/p50_ms"\n# max = 50\n'
        + "\n[budget]\n"
        + _line(values, "budget.trials")
        + '\n[sampler]\nname = "tpe"\nseed = 0\n\n[pruner]\n'
        + (
            _said('name = "median"', "stops trials that fall behind the others")
            if neural and not folds
            else _said('name = "none"', "nothing to compare by while a trial runs")
        )
        + "\n[space]                      # a key applies to each base that has it\n"
        + f'"data.frames" = {{ choices = [{frames // 2}, {frames}] }}\n'
        + '"model.C" = { low = 1e-2, high = 1e2, log = true }\n'
        + '"model.kernel" = { choices = ["linear", "rbf"] }\n'
        + '"model.gamma" = { low = 1e-4, high = 1e0, log = true, when = { "model.kernel" = "rbf" } }\n'
        + ("" if neural else "# with a network in base, these too:\n")
        + "".join(f"{'' if neural else '# '}{line}\n" for line in _NEURAL_SPACE)
        + (_said('"model.frozen_stages" = "default"', "none to all of each network") * (neural and deep))
    )


_NEURAL_SPACE = (
    '"train.lr" = { low = 1e-4, high = 1e-2, log = true }',
    '"train.label_smoothing" = { low = 0.0, high = 0.2 }',
)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
