"""The neural classifier and its training loop."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vidclf.data.augmentation import eval_view, train_view
from vidclf.data.clips import ClipSet
from vidclf.data.manifest import content_digest
from vidclf.models import networks, training
from vidclf.models.base import Probabilities, Report
from vidclf.models.networks import FrozenNorm
from vidclf.models.training import Balance, Monitor, OptimizerName, Precision, Schedule

_WEIGHTS = "weights.safetensors"
_ARGUMENTS = "network.json"


@dataclass
class NeuralClassifier:
    """A network with its preprocessing and training settings, as flat keyword arguments.

    Attributes without a word here are the keys of the same name in
    `NetworkConfig`, `vidclf.models.base.DataConfig` and `TrainConfig`.

    Attributes:
        classes: Number of classes.
        mean: Of each channel, for values 0 to 1.
        std: Standard deviation of each channel.
        augment: Keyword arguments of `train_view`.
        network_: The network; after `fit` with the weights of the best epoch.
        accumulation_: Parts in which a batch is processed: 1, or 2 once memory ran out.
    """

    classes: int
    network: str
    weights: str
    dropout: float
    frozen_stages: int
    frozen_norm: FrozenNorm
    frames: int
    size: int
    resize: int | Sequence[int]
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
    precision: Precision
    network_: networks.VideoNetwork = field(init=False)
    accumulation_: int = field(init=False, default=1)

    def fit(self, train: ClipSet, val: ClipSet, report: Report) -> None:
        """Trains on ``train`` and keeps the weights of the epoch that ``monitor`` finds best on ``val``.

        Without val clips the last epoch's weights are kept, and nothing stops early.
        Step 0 also reports ``size/file_mb``: of the file of weights, in MiB.

        Raises:
            RuntimeError: The loss is no longer a number.
        """
        with self._reproducible():
            torch.manual_seed(self.seed)
            self.accumulation_ = 1
            self.network_ = self._build(self.weights)
            report(
                0, {**self.describe(), "size/file_mb": len(safetensors.torch.save(self._weights())) / 2**20}
            )
            optimizer = training.make_optimizer(
                self.network_.stages,
                self.network_.head,
                optimizer=self.optimizer,
                lr=self.lr,
                weight_decay=self.weight_decay,
                backbone_lr_scale=self.backbone_lr_scale,
            )
            best, stop = training.Best(self.monitor), training.Best(self.stop_monitor, self.min_delta)
            best_weights: dict[str, Tensor] = {}
            for epoch in range(1, self.epochs + 1):
                curves = self._train_epoch(train, epoch, optimizer) | self._validate(val, epoch)
                if not len(val) or best.improves(curves):
                    best_weights = self._weights()
                report(epoch, curves)
                stalled = len(val) > 0 and not stop.improves(curves) and stop.waited >= self.patience > 0
                if stalled and epoch >= self.min_epochs:
                    break
            self.network_.load_state_dict(best_weights)

    @contextlib.contextmanager
    def _reproducible(self) -> Iterator[None]:
        """Leaves torch's global random state as it was, and has cuDNN compute the same each time."""
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with (
            torch.random.fork_rng(devices),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        ):
            yield

    def _build(self, weights: str) -> networks.VideoNetwork:
        network = networks.build_network(
            self.network,
            weights=weights,
            classes=self.classes,
            dropout=self.dropout,
            frozen_stages=self.frozen_stages,
            frozen_norm=self.frozen_norm,
        )
        layout = torch.channels_last if network.dims == 2 else torch.channels_last_3d
        return network.to(_device()).to(memory_format=layout)

    def _train_epoch(self, clips: ClipSet, epoch: int, optimizer: torch.optim.Optimizer) -> dict[str, float]:
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
        class_weights = torch.from_numpy(weights).float().to(_device())
        batches = training.batches(order, self.batch_size)
        view = epoch % self.views if self.views else epoch
        loss_sum, weight_sum, correct, lr = 0.0, 0.0, 0, 0.0
        pixels_of_batches = training.prefetched(partial(self._train_pixels, clips, view=view), batches)
        for step, (indices, pixels) in enumerate(zip(batches, pixels_of_batches, strict=True)):
            lr = self._set_lr(optimizer, epoch - 1 + (step + 0.5) / len(batches))
            targets = torch.from_numpy(clips.labels[indices]).to(_device())
            optimizer.zero_grad()
            loss, hits = self._backward(pixels, targets, class_weights, optimizer)
            if not math.isfinite(loss):
                raise _diverged(epoch, lr)
            if self.clip_grad > 0:
                torch.nn.utils.clip_grad_norm_(self.network_.parameters(), self.clip_grad)
            optimizer.step()
            weight = float(weights[clips.labels[indices]].sum())
            loss_sum, weight_sum, correct = loss_sum + loss * weight, weight_sum + weight, correct + hits
        return {
            "epoch/train/loss": loss_sum / weight_sum,
            "epoch/train/accuracy": correct / len(order),
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
        self, pixels: Tensor, targets: Tensor, class_weights: Tensor, optimizer: torch.optim.Optimizer
    ) -> tuple[float, int]:
        """Gradients of the batch's mean loss; in two parts from the first time that memory runs out.

        Returns:
            The loss, and how many clips are classified correctly.
        """
        with contextlib.suppress(torch.OutOfMemoryError):
            return self._accumulate(pixels, targets, class_weights)
        # Out here, as inside a handler the traceback would still hold the failed attempt's tensors.
        self.accumulation_ = 2
        optimizer.zero_grad()
        torch.cuda.empty_cache()
        return self._accumulate(pixels, targets, class_weights)

    def _accumulate(self, pixels: Tensor, targets: Tensor, class_weights: Tensor) -> tuple[float, int]:
        total_weight = class_weights[targets].sum()
        loss_sum, hits = 0.0, 0
        parts = zip(pixels.chunk(self.accumulation_), targets.chunk(self.accumulation_), strict=True)
        for part_pixels, part_targets in parts:
            logits = self._logits(part_pixels)
            summed = functional.cross_entropy(
                logits, part_targets, class_weights, reduction="sum", label_smoothing=self.label_smoothing
            )
            loss = summed / total_weight
            loss.backward()  # type: ignore[no-untyped-call]
            loss_sum += loss.item()
            hits += int((logits.argmax(dim=1) == part_targets).sum())
        return loss_sum, hits

    def _validate(self, clips: ClipSet, epoch: int) -> dict[str, float]:
        if not len(clips):
            return {}
        probabilities = self.predict_proba(clips)
        if not np.isfinite(probabilities).all():
            raise _diverged(epoch, self.lr)
        scores = training.scores(clips.labels, probabilities)
        return {f"epoch/val/{name}": value for name, value in scores.items()}

    def predict_proba(self, clips: ClipSet) -> Probabilities:
        """Class probabilities of each clip's evaluation view, shape (clips, classes)."""
        self.network_.eval()
        batches = training.batches(range(len(clips)), self.batch_size)
        rows = [np.empty((0, self.classes))]
        with torch.inference_mode():
            for pixels in training.prefetched(partial(self._eval_pixels, clips), batches):
                rows.append(self._logits(pixels).double().softmax(dim=1).cpu().numpy())
        return np.concatenate(rows)

    def _train_pixels(self, clips: ClipSet, indices: NDArray[np.int64], view: int) -> Tensor:
        """Augmented views of a batch, uint8 (B, T, 3, size, size)."""
        return torch.stack(
            [
                train_view(
                    clips.grid(index),
                    self.frames,
                    self.size,
                    seed=self.augment_seed,
                    clip=_content_key(clips.paths[index]),
                    view=view,
                    **self.augment,
                )
                for index in indices
            ]
        )

    def _eval_pixels(self, clips: ClipSet, indices: NDArray[np.int64]) -> Tensor:
        """Evaluation views of a batch, uint8 (B, T, 3, size, size)."""
        return torch.stack(
            [eval_view(clips.grid(index), self.frames, self.size, self.resize) for index in indices]
        )

    def _logits(self, pixels: Tensor) -> Tensor:
        """float32 (B, classes) of pixels (B, T, 3, size, size)."""
        device = _device()
        mean, std = (
            255 * torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std)
        )
        inputs = (pixels.to(device).float() - mean) / std
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits: Tensor = self.network_(inputs)
        return logits.float()

    def _weights(self) -> dict[str, Tensor]:
        """A copy of all weights in main memory."""
        return {
            name: values.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, values in self.network_.state_dict().items()
        }

    def save(self, directory: Path) -> None:
        """Writes the weights and the arguments that rebuild the network."""
        safetensors.torch.save_file(self._weights(), directory / _WEIGHTS)
        arguments = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.init}
        (directory / _ARGUMENTS).write_text(json.dumps(arguments, indent=1) + "\n", encoding="utf-8")

    def describe(self) -> Mapping[str, float]:
        """``size/parameters`` and ``size/trainable_parameters``."""
        parameters = list(self.network_.parameters())
        return {
            "size/parameters": float(sum(values.numel() for values in parameters)),
            "size/trainable_parameters": float(
                sum(values.numel() for values in parameters if values.requires_grad)
            ),
        }


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _diverged(epoch: int, lr: float) -> RuntimeError:
    return RuntimeError(
        f"the loss is no longer a number in epoch {epoch} at a learning rate of {lr:.3g}: "
        "lower train.lr, or set train.clip_grad"
    )


def _content_key(path: Path) -> str:
    """What identifies a clip in its views: its file's content, or its name where it lies in memory only."""
    return content_digest(path) if path.exists() else path.as_posix()


def load(directory: Path) -> NeuralClassifier:
    """The classifier that `NeuralClassifier.save` wrote into ``directory``."""
    classifier = NeuralClassifier(**json.loads((directory / _ARGUMENTS).read_text(encoding="utf-8")))
    with classifier._reproducible():
        classifier.network_ = classifier._build("none")
    classifier.network_.load_state_dict(safetensors.torch.load_file(directory / _WEIGHTS))
    return classifier
