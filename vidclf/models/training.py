"""Parts of the training loop: sampling order, optimizer, schedule and early stopping."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vidclf.evaluation import metrics
from vidclf.models.train_config import Monitor, OptimizerName, Schedule

Item = TypeVar("Item")
Built = TypeVar("Built")

Batch = NDArray[np.int64]
"""Indices of the clips of one step."""

_SGD_MOMENTUM = 0.9
_PREFETCHED = 2
"""Batches made ahead of the one in use."""


def make_optimizer(
    backbone: nn.Module,
    head: Sequence[nn.Parameter],
    *,
    optimizer: OptimizerName,
    lr: float,
    weight_decay: float,
    backbone_lr_scale: float,
) -> torch.optim.Optimizer:
    """A fused optimizer over what is not frozen, the head in its last group.

    Each group keeps its highest learning rate as ``peak_lr``. The state is there before the first step, so no
    step asks for memory: where it is short, a backward pass finds that out, and can be done again.
    """
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    groups = [(trained, lr * backbone_lr_scale), (list(head), lr)]
    options = [{"params": params, "lr": peak, "peak_lr": peak} for params, peak in groups if params]
    made: torch.optim.Optimizer
    if optimizer == "sgd":
        made = torch.optim.SGD(options, momentum=_SGD_MOMENTUM, weight_decay=weight_decay, fused=True)
    else:
        make = torch.optim.AdamW if optimizer == "adamw" else torch.optim.Adam
        made = make(options, weight_decay=weight_decay, fused=True)
    for parameter in (parameter for group in made.param_groups for parameter in group["params"]):
        made.state[parameter].update(_first_state(parameter, optimizer))
    return made


def _first_state(parameter: nn.Parameter, optimizer: OptimizerName) -> dict[str, torch.Tensor]:
    """What torch's optimizer would begin with at its first step."""
    if optimizer == "sgd":
        # torch leaves it uninitialised where fp16 overflows in the first step (2.15), and goes on from that.
        return {"momentum_buffer": torch.zeros_like(parameter)}
    step = torch.zeros((), device=parameter.device)
    return {
        "step": step,
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


def lr_factor(
    progress: float, *, schedule: Schedule, epochs: int, warmup_epochs: int, step_size: int, gamma: float
) -> float:
    """Share of the highest learning rate after ``progress`` epochs, which may be a fraction."""
    if progress < warmup_epochs:
        return progress / warmup_epochs
    progress -= warmup_epochs
    if schedule == "step":
        return gamma ** (int(progress) // step_size)
    if schedule == "cosine":
        return float(0.5 + 0.5 * np.cos(np.pi * progress / (epochs - warmup_epochs)))
    return 1.0


def class_weights(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Weight of each class, inverse to its clips; a clip weighs 1 on average."""
    counts = np.bincount(labels, minlength=classes)
    weights: NDArray[np.float64] = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return weights


def epoch_order(
    labels: NDArray[np.int64], classes: int, *, balanced: bool, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Indices of the clips of one epoch: each once, or drawn with all classes alike."""
    if not balanced:
        return generator.permutation(len(labels))
    weights = class_weights(labels, classes)[labels]
    return generator.choice(len(labels), size=len(labels), p=weights / weights.sum())


@dataclass
class BestSoFar:
    """The best value of a curve so far.

    Attributes:
        monitor: Which curve, see `MONITORS`.
        min_delta: An improvement must exceed this.
        value: The best value, always the higher the better.
        waited: Epochs since.
    """

    monitor: Monitor
    min_delta: float = 0.0
    value: float = -np.inf
    waited: int = 0

    def improves(self, curves: Mapping[str, float]) -> bool:
        """Takes note of an epoch's curves; whether it is the best so far."""
        value = curves[f"epoch/{self.monitor}"]
        value = -value if metrics.lower_is_better(self.monitor) else value
        if value > self.value + self.min_delta:
            self.value, self.waited = value, 0
            return True
        self.waited += 1
        return False


def prefetched(build: Callable[[Item], Built], items: Iterable[Item]) -> Iterator[Built]:
    """``build(item)`` for each item in order, made ahead in a second thread."""
    with ThreadPoolExecutor(1) as pool:
        ahead: deque[Future[Built]] = deque()
        for item in items:
            ahead.append(pool.submit(build, item))
            if len(ahead) > _PREFETCHED:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def batches(order: Sequence[int] | Batch, batch_size: int) -> list[Batch]:
    """Consecutive parts of ``order``, the last one possibly smaller."""
    return [np.asarray(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]


def diverged(epoch: int, lr: float) -> RuntimeError:
    """The error of a training whose loss is no longer a number."""
    return RuntimeError(
        f"the loss is no longer a number in epoch {epoch} at a learning rate of {lr:.3g}: "
        "lower train.lr, or set train.clip_grad"
    )
