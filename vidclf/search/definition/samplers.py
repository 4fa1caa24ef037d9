"""Who proposes configurations."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial
from pydantic import Field, model_validator

from vidclf import config
from vidclf.config import Section
from vidclf.search.definition.grid import ExhaustiveSampler, endless, every_point, most_points
from vidclf.search.definition.space import Space, distribution
from vidclf.search.record.settings import Defaults, check_options, given_options
from vidclf.search.record.study import BASE

MOST_POINTS = 10_000
"""Points that a search of every point may have; they are listed beforehand, at half a millisecond each."""


class SamplerConfig(Section):
    """Who proposes configurations."""

    name: str = "tpe"
    """``tpe``, ``gp``, ``cmaes``, ``nsgaii``, ``qmc``, ``random``, ``grid`` or ``brute_force``."""
    seed: int = Field(0, ge=0)
    """Seed; a resumed study derives a new one from it, so that it proposes new points."""
    startup_trials: int | None = Field(None, ge=1)
    """tpe, gp, cmaes: random trials before the model of the space is used; 10, 10 and 1."""
    ei_candidates: int | None = Field(None, ge=1)
    """tpe: candidates that a proposal is the best of; 24."""
    deterministic: bool | None = None
    """gp: the same configuration always has the same value; false."""
    population_size: int | None = Field(None, ge=2)
    """nsgaii, cmaes: trials of a generation; 20, for cmaes a few more the more parameters there are."""
    mutation_prob: float | None = Field(None, ge=0, le=1)
    """nsgaii: how likely a value is drawn anew; 1 / parameters."""
    kind: Literal["sobol", "halton"] | None = None
    """qmc: the sequence; sobol."""
    scramble: bool | None = None
    """qmc: randomise the sequence, which else begins in a corner of the space; true."""
    points: int | None = Field(None, ge=2)
    """grid: values for a real range without a step and for any logarithmic one, ends included."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_options(
            "sampler",
            self.name,
            given_options(self, ("name", "seed")),
            {name: spec.options for name, spec in SAMPLERS.items()},
        )
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The sampler's options, its defaults among them."""
        return {**SAMPLERS[self.name].options, **given_options(self, ("name", "seed"))}


def _tpe(seed: int, space: Space, *, startup_trials: int, ei_candidates: int) -> BaseSampler:
    return TPESampler(
        seed=seed,
        n_startup_trials=startup_trials,
        n_ei_candidates=ei_candidates,
        multivariate=True,
        group=True,
        constant_liar=True,
    )


def _gp(seed: int, space: Space, *, startup_trials: int, deterministic: bool) -> BaseSampler:
    return GPSampler(
        seed=seed,
        n_startup_trials=startup_trials,
        deterministic_objective=deterministic,
        warn_independent_sampling=False,
    )


def _cmaes(seed: int, space: Space, *, startup_trials: int, population_size: int | None) -> BaseSampler:
    return CmaEsSampler(
        seed=seed,
        n_startup_trials=startup_trials,
        popsize=population_size,
        warn_independent_sampling=False,
    )


def _nsgaii(seed: int, space: Space, *, population_size: int, mutation_prob: float | None) -> BaseSampler:
    return NSGAIISampler(seed=seed, population_size=population_size, mutation_prob=mutation_prob)


def _qmc(seed: int, space: Space, *, kind: str, scramble: bool) -> BaseSampler:
    return _WholeSpaceQMC(space, qmc_type=kind, scramble=scramble, seed=seed)


def _random(seed: int, space: Space) -> BaseSampler:
    return RandomSampler(seed=seed)


def _exhaustive(seed: int, space: Space, *, points: int | None = None) -> BaseSampler:
    return ExhaustiveSampler(every_point(space, points), seed)


@dataclass(frozen=True)
class SamplerSpec:
    """A sampler.

    Attributes:
        build: Makes it from a seed, the space and its options.
        options: Its options with their defaults.
        conditional: Whether it takes a space in which a parameter is not always searched.
        objectives: How many objectives it takes at most.
        reseeded: Whether a resume needs another seed to propose new points.
    """

    build: Callable[..., BaseSampler]
    options: Defaults
    conditional: bool = True
    objectives: float = float("inf")
    reseeded: bool = True


SAMPLERS: Mapping[str, SamplerSpec] = {
    "tpe": SamplerSpec(_tpe, {"startup_trials": 10, "ei_candidates": 24}),
    "gp": SamplerSpec(_gp, {"startup_trials": 10, "deterministic": False}, conditional=False),
    "cmaes": SamplerSpec(
        _cmaes, {"startup_trials": 1, "population_size": None}, conditional=False, objectives=1
    ),
    # Of a conditional space it crosses and mutates what all trials have; the rest is drawn at random.
    "nsgaii": SamplerSpec(_nsgaii, {"population_size": 20, "mutation_prob": None}),
    # How far the sequence is stands in the study.
    "qmc": SamplerSpec(_qmc, {"kind": "sobol", "scramble": True}, reseeded=False),
    "random": SamplerSpec(_random, {}),
    "grid": SamplerSpec(_exhaustive, {"points": None}, conditional=False),
    "brute_force": SamplerSpec(_exhaustive, {}),
}


def build_sampler(settings: SamplerConfig, space: Space, *start: int | str) -> BaseSampler:
    """The sampler of a study.

    Args:
        settings: Which, and its options.
        space: What it searches.
        start: What tells this start from others, so that each proposes new points: how many
            trials there are, and the supervisor where several share the study.
    """
    spec = SAMPLERS[settings.name]
    material = [settings.seed, *start] if spec.reseeded else [settings.seed]
    seed = int(config.digest(material)[:8], 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return spec.build(seed, space, **settings.options)


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
    name, spec = settings.name, SAMPLERS[settings.name]
    if objectives > spec.objectives:
        able = ", ".join(other for other, its in SAMPLERS.items() if its.objectives >= objectives)
        yield f"the sampler {name} takes one objective, not {objectives}; {able} take several"
    reason = _conditional(space)
    if reason and not spec.conditional:
        able = ", ".join(other for other, its in SAMPLERS.items() if its.conditional)
        yield f"the sampler {name} searches the same parameters in each trial, but {reason}; {able} take that"
        return
    if name == "cmaes" and all(
        isinstance(searched := distribution(dimension), CategoricalDistribution) or searched.single()
        for dimension in space.dimensions.values()
    ):
        yield "the sampler cmaes moves along ranges, and this space has only choices"
    if spec.build is _exhaustive:
        yield from _size_problems(settings, space)


def _conditional(space: Space) -> str:
    """What makes the space conditional, if anything."""
    if len(space.bases) > 1:
        return f"the parameters depend on the base ({', '.join(space.bases)})"
    for (_, path), dimension in space.dimensions.items():
        for key, value in dimension.when.items():
            return f"{path} is searched only when {key} = {value}"
    return ""


def _size_problems(settings: SamplerConfig, space: Space) -> Iterator[str]:
    points = settings.points
    if points is None and (ranges := endless(space)):
        cure = "or set sampler.points" if settings.name == "grid" else "or take the sampler grid with points"
        keys = ", ".join(ranges)
        yield f"the sampler {settings.name} tries every value, but {keys} has no step; give it one, {cure}"
    elif (size := most_points(space, points)) > MOST_POINTS:
        yield f"the sampler {settings.name} would try up to {size} points; the most it takes is {MOST_POINTS}"
