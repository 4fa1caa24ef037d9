"""Searches that try every point of a finite space once: ``grid`` and ``brute_force``."""

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
from optuna.trial import FrozenTrial, TrialState

from vidclf import config
from vidclf.config import Scalar
from vidclf.exceptions import InputError
from vidclf.search.definition.space import Space, distribution

Point = Mapping[str, Scalar]


class ExhaustiveSampler(BaseSampler):
    """Proposes points that no trial holds yet, in an order that the seed decides.

    Optuna's own samplers of this kind call a grid point visited by its number, so that one
    that was cut short or queued by hand takes another's place, and raise when nothing is left.
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
        fitting = [point for point in self._free(study, trial) if point.items() >= trial.params.items()]
        if not fitting:  # the values so far were given by hand, or nothing is free
            fitting = [point for point in self._points.values() if param_name in point]
        if not fitting:
            return RandomSampler(self._random.getrandbits(31)).sample_independent(
                study, trial, param_name, param_distribution
            )
        return self._random.choice(fitting)[param_name]

    def _free(self, study: optuna.Study, asking: FrozenTrial | None = None) -> list[Point]:
        held = {
            config.digest(trial.params)
            for trial in study.get_trials(deepcopy=False)
            if asking is None or trial.number != asking.number
        }
        return [point for key, point in self._points.items() if key not in held]

    def used_up(self, study: optuna.Study) -> bool:
        """Whether every point has its trial, and no trial waits to run."""
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return not waiting and not self._free(study)


def exhausted(study: optuna.Study) -> bool:
    """Whether the study's sampler has proposed all that there is: the study ends with what is running."""
    return isinstance(study.sampler, ExhaustiveSampler) and study.sampler.used_up(study)


def every_point(space: Space, points: int | None = None) -> list[Point]:
    """All configurations of a space, without those whose values exclude each other.

    Args:
        space: Finite, but for what ``points`` makes finite.
        points: See `values`.
    """
    odometer = _GridOrderSampler(points)
    study = optuna.create_study(sampler=odometer)
    found: list[Point] = []
    while True:
        trial = study.ask()
        try:
            space.suggest(trial)
            found.append(dict(trial.params))
        except InputError:
            pass
        if not odometer.advance():
            return found


class _GridOrderSampler(BaseSampler):
    """Counts through all values of all parameters, the last one fastest."""

    def __init__(self, points: int | None) -> None:
        self._points = points
        self._wheels: list[list[Scalar]] = []
        """Values left to try by parameter, in the order in which they are asked for; the first is shown."""
        self._place = 0

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
        if self._place == len(self._wheels):
            self._wheels.append(values(param_distribution, self._points))
        self._place += 1
        return self._wheels[self._place - 1][0]

    def advance(self) -> bool:
        """Turns to the next point; false where there is none."""
        self._place = 0
        while self._wheels:
            del self._wheels[-1][0]
            if self._wheels[-1]:
                return True
            self._wheels.pop()
        return False


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
    assert searched.step is not None
    # In decimals, as 0.1 + 0.2 is not 0.3.
    low, high, step = (Decimal(str(value)) for value in (searched.low, searched.high, searched.step))
    return [float(low + place * step) for place in range(int((high - low) / step) + 1)]


def endless(space: Space) -> list[str]:
    """Keys of real ranges without a step."""
    return sorted(
        {
            path
            for (_, path), dimension in space.dimensions.items()
            if isinstance(searched := distribution(dimension), FloatDistribution)
            and searched.step is None
            and not searched.single()
        }
    )


def most_points(space: Space, points: int | None) -> int:
    """How many points a finite space can have at most; what depends on conditions counts as if they held."""
    return sum(
        math.prod(
            _size(distribution(dimension), points)
            for (owner, _), dimension in space.dimensions.items()
            if owner == stem
        )
        for stem in space.bases
    )


def _size(searched: BaseDistribution, points: int | None) -> int:
    """How many `values` there are at most, without listing them: there may be billions."""
    if searched.single():
        return 1
    if isinstance(searched, CategoricalDistribution):
        return len(searched.choices)
    assert isinstance(searched, IntDistribution | FloatDistribution)
    if points is not None and (searched.log or searched.step is None):
        return points
    assert searched.step is not None
    return round((searched.high - searched.low) / searched.step) + 1
