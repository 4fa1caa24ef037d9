"""Samplers: the ``[sampler]`` section of a study file, one class for each name."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    PartialFixedSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial
from pydantic import BeforeValidator, Field, SerializeAsAny

from vidclf import config
from vidclf.search.definition.grid import ExhaustiveSampler, every_point, most_points, unbounded
from vidclf.search.definition.space import Space, distribution
from vidclf.search.definition.strategy import Strategy, validate_strategy
from vidclf.search.record.study import BASE

MOST_POINTS = 10_000
"""Points that an exhaustive search may have; they are listed beforehand, at half a millisecond each."""


class SamplerConfig(Strategy):
    """Proposes configurations."""

    seed: int = Field(0, ge=0)
    """Seed; a resumed study derives a new one from it, so that it proposes new points."""

    conditional: ClassVar[bool] = True
    """Whether it takes a space in which a parameter is not always searched."""
    objectives: ClassVar[float] = float("inf")
    """How many objectives it takes at most."""
    reseeded: ClassVar[bool] = True
    """Whether a resume needs another seed to propose new points."""

    @abstractmethod
    def build(self, seed: int, space: Space) -> BaseSampler:
        """Optuna's sampler.

        Args:
            seed: Of this start of the study, see `build_sampler`.
            space: What it searches.
        """

    def problems(self, space: Space) -> Iterator[str]:
        """Why it cannot search a space that is as conditional as it takes it."""
        yield from ()


class TPEConfig(SamplerConfig):
    """Tree-structured Parzen estimator."""

    name: Literal["tpe"] = "tpe"
    startup_trials: int = Field(10, ge=1)
    """Random trials before the model of the space is used."""
    ei_candidates: int = Field(24, ge=1)
    """Candidates that a proposal is the best of."""

    def build(self, seed: int, space: Space) -> BaseSampler:
        return TPESampler(
            seed=seed,
            n_startup_trials=self.startup_trials,
            n_ei_candidates=self.ei_candidates,
            multivariate=True,
            group=True,
            constant_liar=True,
        )


class GPConfig(SamplerConfig):
    """Gaussian process."""

    conditional = False
    name: Literal["gp"] = "gp"
    startup_trials: int = Field(10, ge=1)
    """Random trials before the model of the space is used."""
    deterministic: bool = False
    """The same configuration always has the same value."""

    def build(self, seed: int, space: Space) -> BaseSampler:
        return GPSampler(
            seed=seed,
            n_startup_trials=self.startup_trials,
            deterministic_objective=self.deterministic,
            warn_independent_sampling=False,
        )


class CMAESConfig(SamplerConfig):
    """Covariance matrix adaptation evolution strategy."""

    conditional, objectives = False, 1
    name: Literal["cmaes"] = "cmaes"
    startup_trials: int = Field(1, ge=1)
    """Random trials before the first generation."""
    population_size: int | None = Field(None, ge=2)
    """Trials of a generation; unset: 4 + 3 ln(parameters)."""

    def build(self, seed: int, space: Space) -> BaseSampler:
        return CmaEsSampler(
            seed=seed,
            n_startup_trials=self.startup_trials,
            popsize=self.population_size,
            warn_independent_sampling=False,
        )

    def problems(self, space: Space) -> Iterator[str]:
        searched = [distribution(dimension) for dimension in space.dimensions.values()]
        if all(isinstance(each, CategoricalDistribution) or each.single() for each in searched):
            yield "the sampler cmaes moves along ranges, and this space has only choices"


class NSGAIIConfig(SamplerConfig):
    """Genetic algorithm; of a conditional space it varies what all trials have, the rest is random."""

    name: Literal["nsgaii"] = "nsgaii"
    population_size: int = Field(20, ge=2)
    """Trials of a generation."""
    mutation_prob: float | None = Field(None, ge=0, le=1)
    """How likely a value is drawn anew; unset: 1 / parameters."""

    def build(self, seed: int, space: Space) -> BaseSampler:
        return NSGAIISampler(
            seed=seed, population_size=self.population_size, mutation_prob=self.mutation_prob
        )


class QMCConfig(SamplerConfig):
    """Quasi-Monte Carlo: a sequence of low discrepancy. The study keeps how far it is."""

    reseeded = False
    name: Literal["qmc"] = "qmc"
    kind: Literal["sobol", "halton"] = "sobol"
    """The sequence."""
    scramble: bool = True
    """Randomise the sequence, which else begins in a corner of the space."""

    def build(self, seed: int, space: Space) -> BaseSampler:
        return _WholeSpaceQMC(space, qmc_type=self.kind, scramble=self.scramble, seed=seed)


class RandomConfig(SamplerConfig):
    """Independent random values."""

    name: Literal["random"] = "random"

    def build(self, seed: int, space: Space) -> BaseSampler:
        return RandomSampler(seed=seed)


class GridConfig(SamplerConfig):
    """Every combination of the values of a finite space once, in random order."""

    conditional = False
    name: Literal["grid"] = "grid"
    points: int | None = Field(None, ge=2)
    """Values for a real range without a step and for any logarithmic one, ends included."""

    def build(self, seed: int, space: Space) -> BaseSampler:
        return ExhaustiveSampler(every_point(space, self.points), seed)

    def problems(self, space: Space) -> Iterator[str]:
        yield from _size_problems(self.name, space, self.points, "or set sampler.points")


class BruteForceConfig(SamplerConfig):
    """Every configuration of a finite space once, in random order; the space may be conditional."""

    name: Literal["brute_force"] = "brute_force"

    def build(self, seed: int, space: Space) -> BaseSampler:
        return ExhaustiveSampler(every_point(space), seed)

    def problems(self, space: Space) -> Iterator[str]:
        yield from _size_problems(self.name, space, None, "or take the sampler grid with points")


SAMPLERS: Mapping[str, type[SamplerConfig]] = {
    "tpe": TPEConfig,
    "gp": GPConfig,
    "cmaes": CMAESConfig,
    "nsgaii": NSGAIIConfig,
    "qmc": QMCConfig,
    "random": RandomConfig,
    "grid": GridConfig,
    "brute_force": BruteForceConfig,
}
Sampler = Annotated[
    SerializeAsAny[SamplerConfig], BeforeValidator(partial(validate_strategy, "sampler", SAMPLERS, "tpe"))
]
"""The ``[sampler]`` section of a file."""


def build_sampler(settings: SamplerConfig, space: Space, *start: int | str) -> BaseSampler:
    """The sampler of a study.

    Args:
        settings: Which, and its options.
        space: What it searches.
        start: What tells this start from others, so that each proposes new points: how many
            trials there are, and the supervisor where several share the study.
    """
    material = [settings.seed, *start] if settings.reseeded else [settings.seed]
    seed = int(config.digest(material)[:8], 16)
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        return settings.build(seed, space)


def fixed_to(sampler: BaseSampler, stem: str, space: Space) -> BaseSampler:
    """The same sampler, for trials of one base."""
    if len(space.bases) == 1:
        return sampler
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        return PartialFixedSampler({BASE: stem}, sampler)


class _WholeSpaceQMC(QMCSampler):
    """Spreads points over all parameters of the space.

    Optuna's own takes the parameters of the first trial and leaves those of other bases to chance.
    """

    def __init__(self, space: Space, **options: Any) -> None:
        super().__init__(**options, warn_independent_sampling=False)
        self._whole: dict[str, BaseDistribution] = {}
        if len(space.bases) > 1:
            self._whole[BASE] = CategoricalDistribution(sorted(space.bases))
        for (_, path), dimension in space.dimensions.items():
            if not (searched := distribution(dimension)).single():
                self._whole.setdefault(path, searched)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return dict(self._whole)


def sampler_problems(settings: SamplerConfig, space: Space, objectives: int) -> Iterator[str]:
    """Why the sampler cannot search this space."""
    if objectives > settings.objectives:
        able = ", ".join(name for name, kind in SAMPLERS.items() if kind.objectives >= objectives)
        yield f"the sampler {settings.name} takes one objective, not {objectives}; {able} take several"
    reason = _conditional(space)
    if reason and not settings.conditional:
        able = ", ".join(name for name, kind in SAMPLERS.items() if kind.conditional)
        yield (
            f"the sampler {settings.name} searches the same parameters in each trial, but {reason}; "
            f"{able} take that"
        )
    else:
        yield from settings.problems(space)


def _conditional(space: Space) -> str:
    """What makes the space conditional, if anything."""
    if len(space.bases) > 1:
        return f"the parameters depend on the base ({', '.join(space.bases)})"
    for (_, path), dimension in space.dimensions.items():
        for key, value in dimension.when.items():
            return f"{path} is searched only when {key} = {value}"
    return ""


def _size_problems(name: str, space: Space, points: int | None, advice: str) -> Iterator[str]:
    if ranges := ", ".join(unbounded(space, points)):
        yield f"the sampler {name} tries every value, but {ranges} has no step; give it one, {advice}"
    elif (size := most_points(space, points)) > MOST_POINTS:
        yield f"the sampler {name} would try up to {size} points; the most it takes is {MOST_POINTS}"
