"""The neural classifier and its training loop."""

import contextlib
import copy
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vidclf.data.clips import ClipSet
from vidclf.data.staging import to_device
from vidclf.evaluation import metrics
from vidclf.models import devices, training
from vidclf.models.base import Probabilities, Report
from vidclf.models.checkpoint import CheckpointWriter, FitState, fit_identity
from vidclf.models.compiled import TrainingForward
from vidclf.models.forward import Forward
from vidclf.models.memory import BatchNormStatistics
from vidclf.models.networks import FrozenNorm, Pooling, save_network, saved_network
from vidclf.models.precision import reproducible, served
from vidclf.models.train_config import (
    Balance,
    Cache,
    Compile,
    Monitor,
    OptimizerName,
    Precision,
    Schedule,
)
from vidclf.models.video_network import (
    ExportableNetwork,
    ProbabilityGraph,
    VideoNetwork,
    multiply_accumulates,
    weights_of,
)
from vidclf.models.views import View, Views

_WEIGHTS = "weights.safetensors"
_ARGUMENTS = "network.json"


@dataclass
class NeuralClassifier:
    """A network with its preprocessing and training settings, as flat keyword arguments.

    Attributes without a word here are the keys of the same name in
    `NetworkConfig`, `vidclf.models.base.DataConfig` and `TrainConfig`.

    Attributes:
        classes: Number of classes.
        interpolation: How pictures are resized for evaluation, as the weights want it.
        mean: Of each channel, for values 0 to 1.
        std: Standard deviation of each channel.
        augment: Keyword arguments of `vidclf.data.augmentation.draw_view`.
        network_: The network; after `fit` with the weights of the best epoch.
        forward_: From clips to the network's logits.
        training_forward_: The same of training batches, compiled where ``compile`` says so.
        scaler_: Of the loss, so that its gradients are neither too large nor too small for fp16.
        parts_: Parts in which a batch was worked off: ``accumulation``, twice that once memory had run out,
            twice as many again the next time.
    """

    classes: int
    network: str
    weights: str
    dropout: float
    frozen_stages: int
    frozen_norm: FrozenNorm
    pooling: Pooling
    eval_views: int
    frames: int
    size: int
    resize: int | Sequence[int]
    interpolation: str
    mean: Sequence[float]
    std: Sequence[float]
    seed: int
    augment_seed: int
    augment: Mapping[str, Any]
    epochs: int
    batch_size: int
    optimizer: OptimizerName
    lr: float
    weight_decay: float
    schedule: Schedule
    step_size: int
    gamma: float
    warmup_epochs: int
    backbone_lr_scale: float
    clip_grad: float
    label_smoothing: float
    balance: Balance
    monitor: Monitor
    stop_monitor: Monitor
    patience: int
    min_delta: float
    min_epochs: int
    views: int
    accumulation: int
    cache: Cache
    precision: Precision
    compile: Compile = "off"
    network_: VideoNetwork = field(init=False)
    forward_: Forward = field(init=False)
    training_forward_: TrainingForward = field(init=False)
    scaler_: torch.amp.GradScaler = field(init=False)
    parts_: int = field(init=False, default=1)

    def fit(self, train: ClipSet, val: ClipSet, report: Report, checkpoint: Path | None = None) -> None:
        """Trains on ``train`` and keeps the weights of the epoch that ``monitor`` finds best on ``val``.

        Without val clips the last epoch's weights are kept, and nothing stops early.
        Step 0 also reports ``size/file_mb``: of the file of weights, in MiB; then every epoch is
        reported, also those that a checkpoint brings along. ``checkpoint`` is a folder that holds the state
        after one of the last epochs; a fit of the same settings on the same clips goes on from it.

        Raises:
            RuntimeError: The loss is no longer a number.
        """
        with self._reproducible():
            torch.manual_seed(self.seed)
            self._build(self.weights)
            file_mb = len(safetensors.torch.save(weights_of(self.network_))) / 2**20
            report(0, {**self.describe(), "size/file_mb": file_mb})
            optimizer = training.make_optimizer(
                self.network_.stages,
                self.network_.fresh_parameters(),
                optimizer=self.optimizer,
                lr=self.lr,
                weight_decay=self.weight_decay,
                backbone_lr_scale=self.backbone_lr_scale,
            )
            best = training.BestSoFar(self.monitor)
            stop = training.BestSoFar(self.stop_monitor, self.min_delta)
            progress = FitState(self.network_, optimizer, self.scaler_, best, stop, parts=self.accumulation)
            identity = "" if checkpoint is None else fit_identity(self._arguments(), train, val)
            if checkpoint is not None:
                progress.restore(checkpoint, identity)
            for epoch, curves in enumerate(progress.history, start=1):
                report(epoch, curves)
            judged = len(val) > 0
            epochs_left = self.epochs - len(progress.history)
            self.training_forward_.steps = epochs_left * math.ceil(len(train) / self.batch_size)
            with self.training_forward_, CheckpointWriter(checkpoint, identity) as writer:
                while not progress.finished(self.epochs, self.patience, self.min_epochs):
                    epoch = len(progress.history) + 1
                    curves = self._train_epoch(train, epoch, progress) | self._validate(val, epoch)
                    progress.advance(curves, judged=judged)
                    writer.offer(progress)
                    with writer.cut_here(progress):
                        report(epoch, curves)
                writer.write(progress)
            progress.restore_best()
            self.parts_ = progress.parts

    @contextlib.contextmanager
    def _reproducible(self) -> Iterator[None]:
        """Leaves torch's global random state as it was, and computes the same each time."""
        with devices.forked_rng(devices.current()), reproducible(self.precision):
            yield

    @property
    def calibrated(self) -> bool:
        """Its softmax is calibrated on val, after the fit."""
        return False

    @property
    def by_features(self) -> None:
        """It makes its features itself."""
        return None

    def exportable(self, clips: ClipSet, temperature: float) -> ExportableNetwork:
        """See `Classifier.exportable`."""
        views = self.forward_.views
        pixels = torch.cat([views.pixels(clips, [0], view) for view in views.evaluation()])
        one = self.eval_views == 1  # of several views the mean of the probabilities is calibrated, outside
        network = copy.deepcopy(self.network_).cpu()  # a graph would remember the GPU
        graph = ProbabilityGraph(network, temperature if one else 1.0)
        normalised = self.forward_.normalised(pixels).cpu()
        return ExportableNetwork(graph, normalised, self._arguments(), 1.0 if one else temperature)

    def batched(self, clips: int) -> Self:
        """A classifier of the same network that takes so many clips at once."""
        other = copy.copy(self)
        other.batch_size = clips
        return other

    def computation(self) -> Mapping[str, str]:
        """See `Classifier.computation`."""
        layout = str(self.network_.memory_format).removeprefix("torch.")
        return {"precision": self.precision, "layout": layout}

    def initialise(self) -> None:
        """Makes the network with random weights, which is enough to be timed."""
        with self._reproducible():
            torch.manual_seed(self.seed)
            self._build("none")

    def _build(self, weights: str) -> None:
        """Makes the network, and its way from clips to logits."""
        device = devices.current()
        self.network_ = VideoNetwork(
            self.network,
            weights=weights,
            classes=self.classes,
            dropout=self.dropout,
            frozen_stages=self.frozen_stages,
            frozen_norm=self.frozen_norm,
            pooling=self.pooling,
        )
        self.scaler_ = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        views = Views(
            frames=self.frames,
            size=self.size,
            resize=self.resize,
            interpolation=self.interpolation,
            eval_views=self.eval_views,
            augment_seed=self.augment_seed,
            augment=self.augment,
            device=device,
            room=devices.cache_bytes(device),
        )
        self.forward_ = Forward(
            self.network_,
            views,
            mean=self.mean,
            std=self.std,
            precision=self.precision,
            fixed_views=self.views > 0,
            cache=self.cache,
        )
        self.training_forward_ = TrainingForward(self.forward_, self.compile, self.network, self.precision)

    def _train_epoch(self, clips: ClipSet, epoch: int, progress: FitState) -> dict[str, float]:
        """One pass over the training clips; its curves are those of the views it trained on."""
        self.network_.train()
        generator = np.random.default_rng([self.seed, epoch])
        torch.manual_seed(int(generator.integers(2**62)))
        order = training.epoch_order(
            clips.labels, self.classes, balanced=self.balance in {"sampler", "both"}, generator=generator
        )
        weights = np.ones(self.classes)
        if self.balance in {"loss", "both"}:
            weights = training.class_weights(clips.labels, self.classes)
        device = self.forward_.views.device
        class_weights = to_device(torch.from_numpy(weights).float(), device)
        batches = training.batches(order, self.batch_size)
        view = View(augmented=True, number=epoch % self.views if self.views else epoch)
        # Sums stay on the device until the epoch is over: to read one is to wait for all that is queued.
        loss_sum, correct, lr = torch.zeros((), device=device), torch.zeros((), device=device), 0.0
        inputs_of_batches = self.forward_.inputs(clips, batches, view)
        for step, (indices, inputs) in enumerate(zip(batches, inputs_of_batches, strict=True)):
            lr = self._set_lr(progress.optimizer, epoch - 1 + (step + 0.5) / len(batches))
            progress.optimizer.zero_grad()
            targets = to_device(torch.from_numpy(clips.labels[indices]), device)
            loss, hits = self._backward(inputs, targets, class_weights, progress)
            if self.clip_grad > 0:
                self.scaler_.unscale_(progress.optimizer)
                torch.nn.utils.clip_grad_norm_(self.network_.parameters(), self.clip_grad)
            self.scaler_.step(progress.optimizer)
            self.scaler_.update()
            loss_sum += loss * float(weights[clips.labels[indices]].sum())
            correct += hits
        summed, right = torch.stack([loss_sum, correct]).tolist()
        mean_loss = summed / float(weights[clips.labels[order]].sum())
        if not math.isfinite(mean_loss):
            raise training.diverged(epoch, lr)
        return {
            "epoch/train/loss": mean_loss,
            "epoch/train/accuracy": right / len(order),
            "epoch/lr": lr,
        }

    def _set_lr(self, optimizer: torch.optim.Optimizer, progress: float) -> float:
        """Sets the learning rates after ``progress`` epochs and returns the head's."""
        factor = training.lr_factor(
            progress,
            schedule=self.schedule,
            epochs=self.epochs,
            warmup_epochs=self.warmup_epochs,
            step_size=self.step_size,
            gamma=self.gamma,
        )
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        return self.lr * factor

    def _backward(
        self, inputs: Tensor, targets: Tensor, class_weights: Tensor, progress: FitState
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the batch's mean loss; in twice the parts each time that memory runs out.

        Returns:
            The loss, and how many clips are classified correctly; scalars on the device.
        """
        statistics = BatchNormStatistics(self.network_)
        while True:
            try:
                return self._accumulate(inputs, targets, class_weights, progress.parts)
            except RuntimeError as error:
                largest = math.ceil(len(inputs) / progress.parts)
                saved = self.forward_.memory.save(error, largest)
                if saved is None:
                    raise
                progress.parts *= 1 + (saved == "clips")
            self.training_forward_.give_up()
            # Out here, as inside the handler the traceback would still hold the failed attempt's tensors.
            progress.optimizer.zero_grad()
            statistics.restore()
            devices.release_memory()

    def _accumulate(
        self, inputs: Tensor, targets: Tensor, class_weights: Tensor, parts: int
    ) -> tuple[Tensor, Tensor]:
        total_weight = class_weights[targets].sum()
        losses, hits = [], []
        for part, part_targets in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
            # Gradients of several parts would lie in the memory that a CUDA graph writes anew each time.
            logits = (self.training_forward_ if parts == 1 else self.forward_.logits)(part)
            summed = functional.cross_entropy(
                logits, part_targets, class_weights, reduction="sum", label_smoothing=self.label_smoothing
            )
            loss = summed / total_weight
            self.scaler_.scale(loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            hits.append((logits.argmax(dim=1) == part_targets).sum())
        return torch.stack(losses).sum(), torch.stack(hits).sum()

    def _validate(self, clips: ClipSet, epoch: int) -> dict[str, float]:
        if not len(clips):
            return {}
        probabilities = self.predict_proba(clips)
        if not np.isfinite(probabilities).all():
            raise training.diverged(epoch, self.lr)
        scores = metrics.curve_values(clips.labels, probabilities)
        return {f"epoch/val/{name}": value for name, value in scores.items()}

    def predict_proba(self, clips: ClipSet) -> Probabilities:
        """Class probabilities of each clip, the mean over its evaluation views; shape (clips, classes)."""
        logits = self.forward_.over_views(clips, self.batch_size, self.classes, self.forward_.logits)
        return np.asarray(logits.softmax(dim=2).sum(dim=0) / self.eval_views)

    def embed(self, clips: ClipSet) -> NDArray[np.float64]:
        """The pooled features before the head, the mean over the evaluation views; shape (clips, width)."""
        width, compute = self.network_.width, self.forward_.embeddings
        features = self.forward_.over_views(clips, self.batch_size, width, compute)
        return np.asarray(features.sum(dim=0) / self.eval_views)

    def save(self, directory: Path) -> None:
        """Writes the weights and the arguments that rebuild the network."""
        safetensors.torch.save_file(weights_of(self.network_), directory / _WEIGHTS)
        arguments = json.dumps(self._arguments(), indent=1)
        (directory / _ARGUMENTS).write_text(arguments + "\n", encoding="utf-8")
        save_network(self.network, directory)

    def _arguments(self) -> dict[str, Any]:
        """What makes another classifier like this one; ``compile`` says only how."""
        fields = (item.name for item in dataclasses.fields(self) if item.init and item.name != "compile")
        return {name: getattr(self, name) for name in fields}

    def describe(self) -> Mapping[str, float]:
        """``size/parameters``, ``size/trainable_parameters``, ``cost/macs`` of a clip's evaluation views.

        Where memory had run out in training also ``cost/parts``.
        """
        macs = multiply_accumulates(self.network, self.pooling, self.classes, self.frames, self.size)
        return {
            **self.network_.sizes(),
            "cost/macs": float(self.eval_views * macs),
            **({"cost/parts": float(self.parts_)} if self.parts_ > self.accumulation else {}),
        }


def load(directory: Path) -> NeuralClassifier:
    """The classifier that `NeuralClassifier.save` wrote into ``directory``."""
    classifier = NeuralClassifier(**json.loads((directory / _ARGUMENTS).read_text(encoding="utf-8")))
    classifier.network = saved_network(classifier.network, directory)
    classifier.precision = served(classifier.precision)
    classifier.initialise()
    classifier.network_.load_state_dict(safetensors.torch.load_file(directory / _WEIGHTS))
    return classifier
