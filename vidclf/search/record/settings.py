"""Sections of a study file that are stored with the study: objective, constraints, budget and gates."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from vidclf import config
from vidclf.config import Section, did_you_mean
from vidclf.evaluation.metrics import METRICS
from vidclf.runs.repeats import RepeatBy, Repeats

Direction = Literal["maximize", "minimize"]
SIZES = ("size/file_mb", "size/parameters", "size/trainable_parameters")
LATENCIES = ("latency/p50_ms", "latency/file_p50_ms")
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

    @property
    def repetition(self) -> Repeats | None:
        """How each configuration is repeated; ``None`` where it is run once."""
        return Repeats(self.repeats, self.repeat_by) if self.repeats > 1 else None

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = [f"val/{name}" for name in METRICS] + list(SIZES)
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

    def limits(self) -> str:
        """Its bounds in words, as ``max 20``."""
        bounds = {"min": self.min, "max": self.max}
        return ", ".join(f"{name} {value:g}" for name, value in bounds.items() if value is not None)


class Budget(Section):
    """When the search ends."""

    trials: int = Field(1000, ge=1)
    """Complete, pruned and given-up trials in total, also after a resume; may be left out beside seconds."""
    seconds: float | None = Field(None, gt=0)
    """Wall time of all sessions together, the whole of each ``vidclf tune``. No trial begins that is not
    expected to end in time; one that still runs then is stopped, and goes on where there is more time."""
    patience: int | None = Field(None, ge=1)
    """Trials in a row that bring no better value after which the search ends."""
    retries: int = Field(2, ge=0)
    """How often a configuration whose worker dies is run again before it is given up."""

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if not {"trials", "seconds"} & self.model_fields_set:
            raise ValueError("trials or seconds is required: when does the search end?")
        return self


COSTS = SIZES + LATENCIES
"""What is known of a model without reading the test split."""


class Gates(Section):
    """The ``[gates]`` of a study: what its best model must reach to be promoted."""

    min: dict[str, float] = Field(default_factory=dict)
    """Least value by metric, as ``{ "test/macro_f1" = 0.8 }``."""
    max: dict[str, float] = Field(default_factory=dict)
    """Largest value by metric, as ``{ "latency/p50_ms" = 50, "size/file_mb" = 20 }``."""
    class_recall: float | None = Field(None, ge=0, le=1)
    """Floor of every class's recall on test: refused where a class is certainly below it."""

    @field_validator("min", "max")
    @classmethod
    def _known(cls, bounds: dict[str, float]) -> dict[str, float]:
        known = [*(f"test/{name}" for name in METRICS), *COSTS]
        for metric in bounds:
            if metric not in known and not metric.startswith("test/recall/"):
                raise ValueError(
                    f"no gate on {metric!r}{did_you_mean(metric, known)} (there are {', '.join(known)})"
                )
        return bounds

    def merged(self, other: "Gates") -> "Gates":
        """These gates with the other's in their place where both have one."""
        mine, theirs = (gates.model_dump(exclude_none=True) for gates in (self, other))
        bounds = {"min": self.min | other.min, "max": self.max | other.max}
        return Gates.model_validate(mine | theirs | bounds)
