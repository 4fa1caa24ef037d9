"""The exhaustive sampler behind ``grid`` and ``brute_force``, and the points of a finite space."""

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from vidclf import config
from vidclf.config import Scalar
from vidclf.exceptions import InputError
from vidclf.search.definition.space import Space, distribution
from vidclf.search.record.study import BASE

Point = Mapping[str, Scalar]


class ExhaustiveSampler(BaseSampler):
    """Proposes points that no trial has yet, in an order that the seed decides.

    Optuna 5.0's own cannot take its place, as was tried. Outside of `Study.optimize` both raise when the
    last point is told. After a trial that failed before it had all its parameters, as one given back or
    one whose supervisor was killed, `BruteForceSampler` raises ("param_name mismatch") and `GridSampler`
    never proposes its point. `GridSampler` refuses trials queued with some of their values, proposes
    queued points again, and has no conditions; `BruteForceSampler` takes a trial for each combination
    that the bases refuse.
    """

    def __init__(self, points: Sequence[Point], seed: int) -> None:
        self._points = {config.digest(dict(point)): point for point in points}
        self._random = random.Random(seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The value of a free point that has the values so far, where there is one."""
        free = [point for point in self._free(study, trial) if point.items() >= trial.params.items()]
        # Where the values so far were given by hand, or nothing is free, that of any point.
        for points in (free, self._points.values()):
            if candidates := [point[param_name] for point in points if param_name in point]:
                return self._random.choice(candidates)
        fallback = RandomSampler(self._random.getrandbits(31))
        return fallback.sample_independent(study, trial, param_name, param_distribution)

    def _free(self, study: optuna.Study, asking: FrozenTrial | None = None) -> list[Point]:
        taken = {
            config.digest(trial.params)
            for trial in study.get_trials(deepcopy=False)
            if asking is None or trial.number != asking.number
        }
        return [point for key, point in self._points.items() if key not in taken]

    def is_exhausted(self, study: optuna.Study) -> bool:
        """Whether every point has its trial, and no trial waits to run."""
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return not waiting and not self._free(study)


def exhausted(study: optuna.Study) -> bool:
    """Whether the study's sampler has proposed all that there is: the study ends with what is running."""
    return isinstance(study.sampler, ExhaustiveSampler) and study.sampler.is_exhausted(study)


def every_point(space: Space, points: int | None = None) -> list[Point]:
    """All configurations of a space, without those whose values exclude each other.

    Args:
        space: Finite, but for what ``points`` makes finite.
        points: See `values`.
    """
    found: dict[str, Point] = {}
    for stem in space.bases:
        base: Point = {BASE: stem} if len(space.bases) > 1 else {}
        searched = {
            path: values(distribution(dimension), points)
            for (owner, path), dimension in space.dimensions.items()
            if owner == stem
        }
        for combination in itertools.product(*searched.values()):
            trial = FixedTrial({**base, **dict(zip(searched, combination, strict=True))})
            try:
                space.suggest(trial)
            except InputError:
                continue
            # The same point for every value of a parameter whose condition does not hold.
            found.setdefault(config.digest(trial.params), trial.params)
    return list(found.values())


def values(searched: BaseDistribution, points: int | None) -> list[Scalar]:
    """All values of a parameter.

    Args:
        searched: Its distribution.
        points: So many values, ends included, for a real range without a step and for any
            logarithmic one: evenly spaced, or by equal ratios.
    """
    if isinstance(searched, CategoricalDistribution):
        return [cast(Scalar, choice) for choice in searched.choices]
    assert isinstance(searched, IntDistribution | FloatDistribution)
    if points is not None and (searched.log or searched.step is None):
        space = np.geomspace if searched.log else np.linspace
        spaced = space(searched.low, searched.high, points).clip(searched.low, searched.high)
        if isinstance(searched, IntDistribution):
            return sorted({int(value) for value in spaced.round()})
        return sorted({float(value) for value in spaced})
    if isinstance(searched, IntDistribution):
        return list(range(searched.low, searched.high + 1, searched.step))
    # In decimals, as 0.1 + 0.2 is not 0.3; without a step only a single value is left.
    low, high, step = (Decimal(str(value)) for value in (searched.low, searched.high, searched.step or 1.0))
    return [float(low + place * step) for place in range(int((high - low) / step) + 1)]


def unbounded(space: Space, points: int | None) -> list[str]:
    """Keys of the ranges that have infinitely many values."""
    return sorted(
        {
            path
            for (_, path), dimension in space.dimensions.items()
            if math.isinf(_count(distribution(dimension), points))
        }
    )


def most_points(space: Space, points: int | None) -> int:
    """How many points a finite space can have at most; what depends on conditions counts as if they held."""
    return sum(
        math.prod(
            int(_count(distribution(dimension), points))
            for (owner, _), dimension in space.dimensions.items()
            if owner == stem
        )
        for stem in space.bases
    )


def _count(searched: BaseDistribution, points: int | None) -> float:
    """How many `values` there are at most, without listing them: there may be billions."""
    if searched.single():
        return 1
    if isinstance(searched, CategoricalDistribution):
        return len(searched.choices)
    assert isinstance(searched, IntDistribution | FloatDistribution)
    if points is not None and (searched.log or searched.step is None):
        return points
    return round((searched.high - searched.low) / searched.step) + 1 if searched.step else math.inf
