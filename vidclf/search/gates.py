"""The ``[gates]`` of a study file."""

from pydantic import Field, field_validator

from vidclf.config import Section, did_you_mean
from vidclf.search.sections import LATENCIES, SCORES, SIZES

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
        known = [*(f"test/{name}" for name in SCORES), *COSTS]
        for metric in bounds:
            if metric not in known and not metric.startswith("test/recall/"):
                raise ValueError(
                    f"no gate on {metric!r}{did_you_mean(metric, known)} (there are {', '.join(known)})"
                )
        return bounds

    def merged(self, other: "Gates") -> "Gates":
        """These gates with the other's in their place where both have one."""
        floor = self.class_recall if other.class_recall is None else other.class_recall
        return Gates(min=self.min | other.min, max=self.max | other.max, class_recall=floor)
