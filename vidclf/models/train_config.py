"""The ``[train]`` section of neural kinds, and the values that its keys can have."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from vidclf.config import Section, did_you_mean
from vidclf.evaluation import metrics

MONITORS = tuple(f"val/{name}" for name in metrics.CURVES)
"""Names of the val curves, without their leading ``epoch/``."""


def _check_monitor(name: str) -> str:
    if name not in MONITORS:
        raise ValueError(f"expected one of {', '.join(MONITORS)}{did_you_mean(name, MONITORS)}")
    return name


Monitor = Annotated[str, AfterValidator(_check_monitor)]
OptimizerName = Literal["adamw", "adam", "sgd"]
Schedule = Literal["constant", "step", "cosine"]
Balance = Literal["none", "sampler", "loss", "both"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Cache = Literal["auto", "off"]
Compile = Literal["off", "on", "auto"]


class TrainConfig(Section):
    """The ``[train]`` section of neural kinds."""

    epochs: int = Field(12, ge=1)
    """Epochs at most."""
    batch_size: int = Field(8, ge=1)
    """Clips a step."""
    optimizer: OptimizerName = "adamw"
    """``sgd`` has momentum 0.9."""
    lr: float = Field(3e-4, gt=0)
    """Learning rate of the head at its highest."""
    weight_decay: float = Field(1e-2, ge=0)
    """Decoupled with ``adamw``, else an L2 penalty."""
    schedule: Schedule = "cosine"
    """How the learning rate goes on after the warm-up."""
    step_size: int = Field(5, ge=1)
    """With ``step``: epochs between two reductions."""
    gamma: float = Field(0.5, gt=0, le=1)
    """With ``step``: factor of each reduction."""
    warmup_epochs: int = Field(1, ge=0)
    """Epochs over which the learning rate rises linearly from zero."""
    backbone_lr_scale: float = Field(1.0, gt=0)
    """Learning rate of the backbone as a multiple of the head's."""
    clip_grad: float = Field(0.0, ge=0)
    """Upper limit of the gradient's norm; 0: none."""
    label_smoothing: float = Field(0.0, ge=0, le=1)
    """Share of the target that is spread evenly over all classes."""
    balance: Balance = "none"
    """Against imbalance: draw clips of rare classes more often, weigh them in the loss, or both."""
    monitor: Monitor = "val/macro_f1"
    """Curve that chooses the epoch whose weights are kept."""
    stop_monitor: Monitor | None = None
    """Curve that stops early; unset: ``monitor``."""
    patience: int = Field(5, ge=0)
    """Epochs without improvement before training stops; 0: never."""
    min_delta: float = Field(0.0, ge=0)
    """What counts as improvement for early stopping must exceed this."""
    min_epochs: int = Field(3, ge=1)
    """Epochs before early stopping may stop."""
    views: int = Field(0, ge=0)
    """Augmented views of a clip that epochs take in turns; 0: a fresh view each epoch."""
    accumulation: int = Field(1, ge=1)
    """Parts in which a batch is worked off before its one step, where memory does not hold it at once."""
    cache: Cache = "auto"
    """``auto`` keeps what the frozen stages make of views that come again; ``off`` computes it each time."""
    precision: Literal["auto"] | Precision = "auto"
    """``auto``: bf16 where the device has instructions for it, else fp16 on CUDA, else fp32; ``tf32``: fp32
    with the rounded products of CUDA's tensor cores. ``tf32`` and ``fp16`` mean fp32 where CUDA is not."""
    compile: Compile = "off"
    """``on``: `torch.compile` of both passes of full training batches, on CUDA with CUDA graphs; ``auto``:
    where that saves more than it takes, measured once for each network and shape. Figures differ from those
    of ``off`` by rounding, with ``auto`` by what was measured. No GPU has measured it yet: hence ``off``."""
