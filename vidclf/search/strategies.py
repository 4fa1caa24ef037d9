"""Who proposes configurations, and who stops trials early."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any, Self

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field, model_validator

from vidclf import config
from vidclf.config import Section
from vidclf.search.record import BASE

_LATER_SAMPLERS = ("gp", "cmaes", "nsgaii", "qmc", "grid", "brute_force")
_LATER_PRUNERS = ("hyperband", "asha", "percentile", "patient", "threshold", "wilcoxon")


class SamplerConfig(Section):
    """Who proposes configurations."""

    name: str = "tpe"
    """``tpe`` or ``random``."""
    seed: int = Field(0, ge=0)
    """Seed; a resumed study derives a new one from it, so that it proposes new points."""
    startup_trials: int = Field(10, ge=1)
    """tpe: random trials before the model of the space is used."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _known("sampler", self.name, ("tpe", "random"), _LATER_SAMPLERS)
        if self.name == "random" and "startup_trials" in self.model_fields_set:
            raise ValueError("sampler.startup_trials has no effect with the sampler random")
        return self


class PrunerConfig(Section):
    """Who stops trials early."""

    name: str = "none"
    """``median`` or ``none``."""
    startup_trials: int = Field(5, ge=0)
    """median: complete trials of the same base before any is pruned."""
    warmup_epochs: int = Field(0, ge=0)
    """median: epochs in which none is pruned."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _known("pruner", self.name, ("median", "none"), _LATER_PRUNERS)
        if self.name == "none" and self.model_fields_set - {"name"}:
            raise ValueError("the pruner none has no options")
        return self


def _known(noun: str, name: str, known: tuple[str, ...], later: tuple[str, ...]) -> None:
    if name in later:
        raise ValueError(f"the {noun} {name} is not in this version of vidclf; it has {', '.join(known)}")
    if name not in known:
        raise ValueError(
            f"unknown {noun} {name!r}{config.did_you_mean(name, known)} (it has {', '.join(known)})"
        )


def build_sampler(settings: SamplerConfig, trials_at_start: int) -> BaseSampler:
    """The sampler; its seed depends on how many trials exist, so that a resume proposes new points."""
    seed = int(config.digest([settings.seed, trials_at_start])[:8], 16)
    if settings.name == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, n_startup_trials=settings.startup_trials, group=True, constant_liar=True)


def build_pruner(settings: PrunerConfig) -> BasePruner:
    if settings.name == "none":
        return NopPruner()
    return PerBasePruner(
        MedianPruner(n_startup_trials=settings.startup_trials, n_warmup_steps=settings.warmup_epochs + 1)
    )


class PerBasePruner(BasePruner):
    """Shows a pruner only the trials of the asking trial's base: families learn at different speeds."""

    def __init__(self, inner: BasePruner) -> None:
        self._inner = inner

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return self._inner.prune(_same_base(study, trial.params.get(BASE)), trial)


def _same_base(study: optuna.Study, base: Any) -> optuna.Study:
    """A view of the study that holds only the trials of one base."""
    view = copy.copy(study)

    def get_trials(deepcopy: bool = True, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        trials = study.get_trials(deepcopy=deepcopy, states=tuple(states) if states else None)
        return [trial for trial in trials if trial.params.get(BASE) == base]

    vars(view)["get_trials"] = get_trials
    return view
