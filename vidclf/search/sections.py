"""Sections of a study's file that its record keeps: what is searched for, within what, for how long."""

from typing import Literal, Self

from pydantic import Field, model_validator

from vidclf import config
from vidclf.config import Section
from vidclf.repeats import RepeatBy

Direction = Literal["maximize", "minimize"]
SCORES = (
    "accuracy",
    "balanced_accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "weighted_precision",
    "weighted_recall",
    "weighted_f1",
    "top3_accuracy",
    "top5_accuracy",
    "roc_auc",
    "loss",
    "ece",
)
"""What `vidclf.metrics.evaluate` computes, beside ``recall/<class>``; it takes a second to import."""
SIZES = ("size/file_mb", "size/parameters", "size/trainable_parameters")
LATENCIES = (
    "latency/p50_ms",
    "latency/p90_ms",
    "latency/p95_ms",
    "latency/file_p50_ms",
    "latency/file_p90_ms",
)
"""What a constraint can bound, beside the sizes; measured once for each shape of a model."""


class Objective(Section):
    """What the search improves."""

    metric: str
    """A final metric of the val split, as ``val/macro_f1``."""
    direction: Direction
    """``maximize`` or ``minimize``."""
    repeats: int = Field(1, ge=1)
    """How often each configuration is run; the metric is then the mean."""
    repeat_by: RepeatBy = "seed"
    """What differs between repeats: the ``seed``, or the ``fold`` of train and val that is judged on."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = [f"val/{name}" for name in SCORES] + list(SIZES)
        if self.metric not in known and not self.metric.startswith("val/recall/"):
            raise ValueError(
                f"objective.metric = {self.metric!r}: a study optimises a val/… metric"
                f"{config.did_you_mean(self.metric, known)} (there are {', '.join(known)})"
            )
        return self


class Constraint(Section):
    """A bound that a trial must keep to be feasible."""

    metric: str
    """A ``size/…`` or ``latency/…``, as ``size/file_mb`` or ``latency/p50_ms``."""
    min: float | None = None
    """Smallest feasible value."""
    max: float | None = None
    """Largest feasible value."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = SIZES + LATENCIES
        if self.metric not in known:
            raise ValueError(
                f"metric = {self.metric!r} cannot be constrained{config.did_you_mean(self.metric, known)} "
                f"(there are {', '.join(known)})"
            )
        if self.min is None and self.max is None:
            raise ValueError(f"the constraint on {self.metric} needs min or max")
        return self

    def violation(self, value: float) -> float:
        """At most 0 where ``value`` is feasible."""
        above = value - self.max if self.max is not None else -1.0
        below = self.min - value if self.min is not None else -1.0
        return max(above, below)


class Budget(Section):
    """When the search ends."""

    trials: int = Field(ge=1)
    """Complete, pruned and given-up trials in total, also after a resume."""
    seconds: float | None = Field(None, gt=0)
    """Wall time of all sessions together after which no trial begins."""
    patience: int | None = Field(None, ge=1)
    """Trials in a row that bring no better value after which the search ends."""
    retries: int = Field(2, ge=0)
    """How often a configuration whose worker dies is run again before it is given up."""


class Resources(Section):
    """What a worker takes of a machine, for `--ray`."""

    cpus: float = Field(1.0, gt=0)
    """Cores of each worker; of one and more, a whole number."""
    gpus: float = Field(0.0, ge=0)
    """GPUs of each worker: 0.25 packs four of them on one; of one and more, a whole number."""
    max_workers: int | None = Field(None, ge=1)
    """Most workers at once, also when the cluster grows; unset: as many as it holds when the study starts."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, value in (("cpus", self.cpus), ("gpus", self.gpus)):
            if value > 1 and value != int(value):  # Ray's rule
                raise ValueError(f"{name} = {value:g}: more than one is a whole number")
        return self

    @property
    def threads(self) -> int:
        """Of each worker."""
        return max(1, int(self.cpus))

    def words(self) -> str:
        """As ``2 CPU, 0.5 GPU``."""
        return f"{self.cpus:g} CPU" + (f", {self.gpus:g} GPU" if self.gpus else "")
