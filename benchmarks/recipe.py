"""What settings for small data are worth: python benchmarks/recipe.py [FOLDER_OF_DATA --lite0 FILE].

Each setting beside the plain recipe, out of fold by whole groups under five seeds, each with other folds, and
by the weights of the last epoch, which nothing chose. FOLDER_OF_DATA holds ``ucf101-3`` and ``gestures3`` (a
folder a class) and ``weights/squeezenet1_1-imagenet.pth``; what is missing is left out, and the rendered set
needs none of it. ``--lite0`` names a file of timm's weights for ``tf_efficientnet_lite0``.

Beside macro F1: its difference to the plain recipe with the 95 % interval over seeds (Student's t: for these
clips and other seeds) and that for clips of new groups (`vidclf.evaluation.significance.paired`), the
difference of the mean log loss, and seconds of CPU for a fit and the predictions. What only judges otherwise
(averages of weights, views) is looked at with the plain recipe's own fits. What vidclf has no key for is
done here, in `Tried`.
"""

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms import v2

from vidclf import config
from vidclf.data.clips import ClipSet
from vidclf.data.demo import render_demo_set
from vidclf.data.importing import GroupScope, import_clips
from vidclf.data.manifest import Entry, read_manifest
from vidclf.data.splitting import group_of, split_by_fold
from vidclf.evaluation import metrics
from vidclf.evaluation.significance import paired
from vidclf.inference import profiling
from vidclf.models import MODELS
from vidclf.models.base import Probabilities
from vidclf.models.checkpoint import FitState
from vidclf.models.classifier import NeuralClassifier
from vidclf.runs.experiment import clip_store, parse_experiment

Tree = dict[str, Any]
SEEDS, FOLDS = 5, 3


@dataclass
class Tried(NeuralClassifier):
    """A network trained and judged in ways that vidclf has no key for; each is off by its default.

    Attributes:
        ema: Decays a step of moving averages of the weights.
        mixup: Alpha of the Beta distribution of two clips' shares, mixed where training begins in the network
            (Zhang et al., ICLR 2018; Verma et al., ICML 2019, inside a network).
        cutmix: The same of the area of a box that is another clip's, one for all frames (Yun et al., ICCV
            2019; for clips VideoMix, arXiv:2012.03457).
        layer_decay: Factor of the learning rate of each stage to that of the next one (Clark et al., ICLR
            2020).
        drop_path: Probability that the last residual block is left out, rising from 0 with depth (Huang et
            al., ECCV 2016).
        magnitude: Of two operations of RandAugment (Cubuk et al., CVPRW 2020), of 30, drawn once a clip.
        averages_: By decay, the network with the average of its weights.
        drawn_: Of what is drawn for a batch.
    """

    ema: tuple[float, ...] = ()
    mixup: float = 0.0
    cutmix: float = 0.0
    layer_decay: float = 1.0
    drop_path: float = 0.0
    magnitude: int = 0
    averages_: dict[float, AveragedModel] = field(init=False, default_factory=dict)
    drawn_: np.random.Generator = field(init=False)

    def _train_epoch(self, clips: ClipSet, epoch: int, progress: FitState) -> dict[str, float]:
        if epoch == 1:
            self.drawn_ = np.random.default_rng([self.seed, 1])
            _drop_blocks(self.network_, self.drop_path)
            self._split_by_stage(progress.optimizer)
            for decay in self.ema:
                average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
                self.averages_[decay] = AveragedModel(self.network_, multi_avg_fn=average, use_buffers=True)
            progress.optimizer.register_step_post_hook(self._averaged)
        return super()._train_epoch(clips, epoch, progress)

    def _averaged(self, *_: object) -> None:
        for average in self.averages_.values():
            average.update_parameters(self.network_)

    def _split_by_stage(self, optimizer: torch.optim.Optimizer) -> None:
        if self.layer_decay == 1:
            return
        (backbone, *head), stages = optimizer.param_groups, self.network_.stages[self.frozen_stages :]
        split = [
            {
                **backbone,
                "params": list(stage.parameters()),
                "peak_lr": backbone["peak_lr"] * self.layer_decay ** (len(stages) - place),
            }
            for place, stage in enumerate(stages)
        ]
        optimizer.param_groups[:] = [*split, *head]

    def _accumulate(
        self, inputs: Tensor, targets: Tensor, class_weights: Tensor, parts: int
    ) -> tuple[Tensor, Tensor]:
        if not (self.mixup or self.cutmix or self.magnitude):
            return super()._accumulate(inputs, targets, class_weights, parts)
        if self.magnitude:
            change = v2.RandAugment(2, self.magnitude, interpolation=v2.InterpolationMode.BILINEAR)
            inputs = torch.stack([change(clip) for clip in inputs])
        others, share = torch.from_numpy(self.drawn_.permutation(len(inputs))), 1.0
        with self.forward_.computing():
            kept = inputs.dtype != torch.uint8
            maps = inputs.float() if kept else self.network_.prefix(self.forward_.normalised(inputs))
            if self.mixup:
                share = self.drawn_.beta(self.mixup, self.mixup)
                maps = share * maps + (1 - share) * maps[others]
            elif self.cutmix:
                maps, share = self._cut(maps, others)
            logits = self.network_.head(self.network_.features(maps)).float()
        losses = [
            functional.cross_entropy(logits, each, class_weights, label_smoothing=self.label_smoothing)
            for each in (targets, targets[others])
        ]
        loss = share * losses[0] + (1 - share) * losses[1]
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), (logits.argmax(dim=1) == targets).sum()

    def _cut(self, maps: Tensor, others: Tensor) -> tuple[Tensor, float]:
        """Maps with a box of other clips', and the share that stayed."""
        height, width = maps.shape[-2:]
        side = float(np.sqrt(1 - self.drawn_.beta(self.cutmix, self.cutmix)))
        middle = self.drawn_.uniform(size=2) * (height, width)
        top, left, bottom, right = (
            int(np.clip(round(middle[axis] + way * side * edge / 2), 0, edge))
            for way in (-1, 1)
            for axis, edge in enumerate((height, width))
        )
        mixed = maps.clone()
        mixed[..., top:bottom, left:right] = maps[others][..., top:bottom, left:right]
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)

    @torch.inference_mode()
    def mirrored(self, clips: ClipSet) -> Probabilities:
        """Probabilities of each clip, the mean of its own and its mirror image's."""
        plain = self.predict_proba(clips)
        (view,) = self.forward_.views.evaluation()
        images = (self.forward_.views.pixels(clips, [place], view).flip(-1) for place in range(len(clips)))
        logits = torch.cat([self.forward_.logits(image) for image in images])
        return np.asarray((plain + logits.double().softmax(dim=1).numpy()) / 2)

    def by_views(self, clips: ClipSet, count: int) -> Probabilities:
        """Probabilities of each clip, the mean of so many views."""
        self.eval_views = self.forward_.views.eval_views = count
        probabilities = self.predict_proba(clips)
        self.eval_views = self.forward_.views.eval_views = 1
        return probabilities

    def averaged(self, clips: ClipSet, decay: float) -> Probabilities:
        """Probabilities of each clip by an average of the weights, which the network then has."""
        self.network_.load_state_dict(self.averages_[decay].module.state_dict())
        return self.predict_proba(clips)


def _drop_blocks(network: nn.Module, most: float) -> None:
    """Sets timm's stochastic depth, which rises from block to block."""
    blocks = [module for module in network.modules() if hasattr(module, "drop_path")]
    for place, block in enumerate(blocks if most else ()):
        block.drop_path = DropPath(most * place / len(blocks))


Way = Callable[[Tried, ClipSet], Probabilities]

TRAINED: Mapping[str, Tree] = {
    "plain": {"ema": (0.9, 0.97)},
    "mixup 0.4": {"mixup": 0.4},
    "CutMix 1": {"cutmix": 1.0},
    "layer decay 0.5": {"layer_decay": 0.5},
    "stochastic depth 0.2": {"drop_path": 0.2},
    "RandAugment 7": {"magnitude": 7, "train.cache": "off"},
}
"""Keys with a dot are of an experiment, others of `Tried`."""
JUDGED: Mapping[str, Way] = {
    "4 views": lambda model, clips: model.by_views(clips, 4),
    "mirrored too": Tried.mirrored,
    "EMA 0.9": lambda model, clips: model.averaged(clips, 0.9),
    "EMA 0.97": lambda model, clips: model.averaged(clips, 0.97),
}
"""Of the plain fits; averages last, as they replace the weights."""


@dataclass(frozen=True)
class Case:
    """A set and the plain recipe for it.

    Attributes:
        name: Of the set and its network.
        manifest: Of the clips; their splits do not count.
        base: The experiment.
    """

    name: str
    manifest: Path
    base: Tree


@dataclass(frozen=True)
class Judged:
    """Predictions out of fold under each seed.

    Attributes:
        guesses: Classes, shape (seeds, clips).
        macro_f1: Of each seed.
        loss: Mean log loss of each seed.
        seconds: Of CPU for a fit.
    """

    guesses: NDArray[np.int64]
    macro_f1: list[float]
    loss: list[float]
    seconds: float


def fit(
    case: Case, setting: Tree, seed: int, entries: Sequence[Entry], ways: Mapping[str, Way]
) -> dict[str, tuple[Probabilities, float]]:
    """By each way the probabilities of the clips of val, and seconds of CPU with the fit."""
    tree = case.base | {key: value for key, value in setting.items() if "." in key}
    tree |= {"data.manifest": str(case.manifest), "seed": seed}
    experiment = parse_experiment(config.override({}, tree), "recipe").resolved()
    classes, store = tuple(sorted({entry.label for entry in entries})), clip_store(experiment)
    train, val = (
        ClipSet.of_entries([entry for entry in entries if entry.split == split], classes, store)
        for split in ("train", "val")
    )
    built: Any = MODELS[experiment.kind].build(experiment, classes)
    flat = {item.name: getattr(built, item.name) for item in dataclasses.fields(built) if item.init}
    model = Tried(**flat, **{key: value for key, value in setting.items() if "." not in key})
    started = time.process_time()
    # No clip of val is looked at in training: the weights of the last epoch stay.
    model.fit(train, ClipSet.of_entries([], classes, store), lambda step, curves: None)
    fitted = time.process_time() - started
    found = {}
    for name, way in ways.items():
        started = time.process_time()
        found[name] = way(model, val), fitted + time.process_time() - started
    return found


def judged(
    case: Case, setting: Tree, ways: Mapping[str, Way], entries: Sequence[Entry], labels: NDArray[np.int64]
) -> dict[str, Judged]:
    """One way to train under every seed, by each way to judge."""
    shape = (SEEDS, len(entries), labels.max() + 1)
    probabilities = {name: np.zeros(shape) for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(SEEDS):
        for fold in range(FOLDS):
            split = split_by_fold(entries, FOLDS, fold, seed)
            mine = [entry.split == "val" for entry in split]
            for name, (some, taken) in fit(case, setting, seed, split, ways).items():
                probabilities[name][seed, mine] = some
                seconds[name].append(taken)
    found = {}
    for name, all_seeds in probabilities.items():
        curves = [metrics.curve_values(labels, of_seed) for of_seed in all_seeds]
        macro_f1, loss = ([each[curve] for each in curves] for curve in ("macro_f1", "loss"))
        found[name] = Judged(all_seeds.argmax(axis=2), macro_f1, loss, statistics.mean(seconds[name]))
    return found


def show(case: Case, settings: Mapping[str, Tree]) -> None:
    """The table of a set."""
    entries = [replace(entry, split="train") for entry in read_manifest(case.manifest).entries]
    classes = sorted({entry.label for entry in entries})
    labels = np.array([classes.index(entry.label) for entry in entries])
    groups = np.array([group_of(entry) for entry in entries])
    print(f"\n{case.name}: {len(entries)} clips, {len(set(groups))} groups, {FOLDS} folds x {SEEDS} seeds")
    print(
        f"  {'':<22}{'macro F1':>9}{'more':>8}{'other seeds':>18}{'new groups':>18}{'log loss':>10}{'s':>7}"
    )
    plain: Judged | None = None
    for setting, tree in settings.items():
        ways: dict[str, Way] = {setting: Tried.predict_proba, **(JUDGED if plain is None else {})}
        for name, found in judged(case, tree, ways, entries, labels).items():
            row = f"  {name:<22}{statistics.mean(found.macro_f1):9.3f}"
            if plain is None:
                plain, row = found, f"{row}{'':44}{statistics.mean(found.loss):10.3f}"
            else:
                row += _difference(found, plain, labels, groups)
            print(f"{row}{found.seconds:7.1f}", flush=True)


def _difference(found: Judged, plain: Judged, labels: NDArray[np.int64], groups: NDArray[np.str_]) -> str:
    more = np.subtract(found.macro_f1, plain.macro_f1)
    half = float(stats.t.ppf(0.975, SEEDS - 1) * stats.sem(more))
    seeds = f"{more.mean() - half:+.3f} to {more.mean() + half:+.3f}"
    pair = paired("macro_f1", labels, found.guesses, plain.guesses, groups.tolist())
    new = f"{pair.low:+.3f} to {pair.high:+.3f}" if pair else "too few"
    return f"{more.mean():+8.3f}{seeds:>18}{new:>18}{np.subtract(found.loss, plain.loss).mean():+10.3f}"


def cases(folder: Path, data: Path | None, lite0: Path | None) -> list[Case]:
    """The sets that are there."""
    tiny3d: Tree = {
        "data.frames": 16, "data.size": 64, "data.grid": 32, "data.store_side": 80,
        "augment.scale": [0.8, 1.0], "augment.saturation": 0.0,
        "model.kind": "volume3d", "model.network": "tiny3d", "model.weights": "none", "model.dropout": 0.2,
        "train.epochs": 10, "train.batch_size": 4, "train.lr": 2e-3, "train.patience": 0,
    }  # fmt: skip
    fine: Tree = {
        "data.frames": 4, "data.size": 112, "data.grid": 32, "data.store_side": 128,
        "model.kind": "frames2d", "train.epochs": 10, "train.batch_size": 8, "train.lr": 1e-2,
        "train.backbone_lr_scale": 0.1, "train.label_smoothing": 0.2, "train.patience": 0, "train.views": 4,
    }  # fmt: skip
    demo = render_demo_set(folder / "demo", 15, 3, 0, lambda: None)
    found = [Case("rendered, tiny3d", demo, tiny3d)]
    squeezenet = fine | {"model.network": "squeezenet1_1", "model.frozen_stages": 2}
    squeezenet |= {"model.weights": str(data and data / "weights" / "squeezenet1_1-imagenet.pth")}
    efficientnet = fine | {"model.network": "timm:tf_efficientnet_lite0", "model.frozen_stages": 5}
    scopes: dict[str, GroupScope] = {"ucf101-3": "class", "gestures3": "dataset"}
    for name, scope in scopes.items():
        if data is None or not (data / name).is_dir():
            continue
        manifest = folder / f"{name}.csv"
        import_clips([data / name], manifest, shares="100,0,0", group_scope=scope)
        found.append(Case(f"{name}, squeezenet1_1", manifest, squeezenet))
        if lite0:
            found.append(Case(f"{name}, lite0", manifest, efficientnet | {"model.weights": str(lite0)}))
    return found


def applies(setting: Tree, case: Case) -> bool:
    return "drop_path" not in setting or str(case.base["model.network"]).startswith("timm:")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--lite0", type=Path)
    parser.add_argument("--only", default="", help="only sets whose name holds this text")
    parser.add_argument("--settings", default=",".join(TRAINED), help="comma-separated, after plain")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    environment = profiling.environment()
    print(f"{environment['cpu']}, one thread, torch {environment['torch']}")
    names = dict.fromkeys(["plain", *chosen.settings.split(",")])
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("VIDCLF_CACHE", str(Path(folder, "cache")))
        for case in cases(Path(folder), chosen.data, chosen.lite0):
            if chosen.only in case.name:
                show(case, {name: TRAINED[name] for name in names if applies(TRAINED[name], case)})


if __name__ == "__main__":
    main()
