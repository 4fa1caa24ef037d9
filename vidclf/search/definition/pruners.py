"""Pruners: the ``[pruner]`` section of a study file, one class for each name, and how they judge a trial.

Each base has a pruner of its own, which is shown that base's trials alone.
"""

import binascii
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping
from functools import partial
from typing import Annotated, ClassVar, Literal, Self

import optuna
from optuna.pruners import (
    BasePruner,
    NopPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
    WilcoxonPruner,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from vidclf import config
from vidclf.config import Choice
from vidclf.search.definition.space import Space
from vidclf.search.definition.strategy import Strategy, validate_strategy
from vidclf.search.record.study import BASE, root_of

_EPOCHS = "train.epochs"


class PrunerConfig(Strategy):
    """Stops trials early; with repeats an epoch is a repeat."""

    paired: ClassVar[bool] = False
    """Whether it compares the single repeats of two trials, rather than their best or mean so far."""

    @abstractmethod
    def build(self, max_steps: int) -> BasePruner:
        """The pruner of one base.

        Args:
            max_steps: The most epochs, or repeats, that a trial of the base can have.
        """

    def problems(self, max_steps: int, repeats: int) -> Iterator[str]:
        """Why it could never prune.

        Args:
            max_steps: The most epochs, or repeats, that a trial can have.
            repeats: How often each configuration is run.
        """
        yield from ()


class NoPrunerConfig(PrunerConfig):
    """Every trial runs to its end."""

    name: Literal["none"] = "none"

    def build(self, max_steps: int) -> BasePruner:
        return NopPruner()


class _ComparingConfig(PrunerConfig):
    """Compares a trial with the others at the same epoch."""

    startup_trials: int = Field(5, ge=0)
    """Complete trials of the same base before any is pruned."""
    warmup_epochs: int = Field(0, ge=0)
    """Epochs in which none is pruned."""

    def _percentile_pruner(self, percentile: float) -> BasePruner:
        return PercentilePruner(
            percentile, n_startup_trials=self.startup_trials, n_warmup_steps=self.warmup_epochs + 1
        )


class MedianConfig(_ComparingConfig):
    """Only trials better than the median go on."""

    name: Literal["median"] = "median"

    def build(self, max_steps: int) -> BasePruner:
        return self._percentile_pruner(50.0)


class PercentileConfig(_ComparingConfig):
    """Only the best trials go on."""

    name: Literal["percentile"] = "percentile"
    percentile: float = Field(25.0, gt=0, lt=100)
    """So many percent of the trials, the best ones, go on."""

    def build(self, max_steps: int) -> BasePruner:
        return self._percentile_pruner(self.percentile)


class PatientConfig(_ComparingConfig):
    """As percentile, for trials that have stopped to improve."""

    name: Literal["patient"] = "patient"
    patience: int = Field(3, ge=1)
    """Epochs without an improvement before a trial is compared with others."""
    min_delta: float = Field(0.0, ge=0)
    """What is more than this is an improvement."""
    percentile: float = Field(50.0, gt=0, lt=100)
    """So many percent of the trials, the best ones, go on."""

    def build(self, max_steps: int) -> BasePruner:
        return PatientPruner(self._percentile_pruner(self.percentile), self.patience, self.min_delta)


class _HalvingConfig(PrunerConfig):
    """Successive halving: ever fewer trials go on, for ever more epochs."""

    min_epochs: int = Field(1, ge=1)
    """Epochs before a trial is compared with others for the first time."""

    def problems(self, max_steps: int, repeats: int) -> Iterator[str]:
        if self.min_epochs >= max_steps > 1:
            yield (
                f"pruner.min_epochs = {self.min_epochs} leaves nothing to prune: "
                f"the longest trial has {max_steps}"
            )


class HyperbandConfig(_HalvingConfig):
    """Successive halving in several brackets."""

    name: Literal["hyperband"] = "hyperband"
    reduction_factor: int = Field(3, ge=2)
    """One of so many trials goes on, for so many times the epochs."""

    def build(self, max_steps: int) -> BasePruner:
        return Hyperband(self.min_epochs, max_steps, self.reduction_factor)


class ASHAConfig(_HalvingConfig):
    """Asynchronous successive halving."""

    name: Literal["asha"] = "asha"
    reduction_factor: int = Field(4, ge=2)
    """One of so many trials goes on, for so many times the epochs."""

    def build(self, max_steps: int) -> BasePruner:
        return SuccessiveHalvingPruner(min_resource=self.min_epochs, reduction_factor=self.reduction_factor)


class ThresholdConfig(PrunerConfig):
    """Prunes trials whose values leave a range."""

    name: Literal["threshold"] = "threshold"
    lower: float | None = None
    """Prune below this value."""
    upper: float | None = None
    """Prune above this value."""
    warmup_epochs: int = Field(0, ge=0)
    """Epochs in which none is pruned."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lower is None and self.upper is None:
            raise ValueError("the pruner threshold needs pruner.lower or pruner.upper")
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError(f"pruner.lower = {self.lower} is not below pruner.upper = {self.upper}")
        return self

    def build(self, max_steps: int) -> BasePruner:
        return ThresholdPruner(lower=self.lower, upper=self.upper, n_warmup_steps=self.warmup_epochs + 1)


class WilcoxonConfig(PrunerConfig):
    """Prunes what a signed-rank test over the repeats finds to be worse than the best trial."""

    paired = True
    name: Literal["wilcoxon"] = "wilcoxon"
    p_threshold: float = Field(0.1, gt=0, lt=1)
    """p-value under which a trial counts as worse than the best one."""
    startup_repeats: int = Field(2, ge=2)
    """Repeats before a trial is compared."""

    def build(self, max_steps: int) -> BasePruner:
        return WilcoxonPruner(p_threshold=self.p_threshold, n_startup_steps=self.startup_repeats)

    def problems(self, max_steps: int, repeats: int) -> Iterator[str]:
        if repeats == 1:
            yield "the pruner wilcoxon compares repeats; set objective.repeats"
        elif (least := 0.5 ** (repeats - 1)) >= self.p_threshold:
            # The least p-value of the signed-rank test over n pairs is 1 / 2^n.
            enough = math.floor(-math.log2(self.p_threshold)) + 2
            yield (
                f"pruner.p_threshold = {self.p_threshold} is out of reach before the last of {repeats} "
                f"repeats, where p is at least {least:g}; it takes objective.repeats = {enough}"
            )


PRUNERS: Mapping[str, type[PrunerConfig]] = {
    "median": MedianConfig,
    "percentile": PercentileConfig,
    "patient": PatientConfig,
    "hyperband": HyperbandConfig,
    "asha": ASHAConfig,
    "threshold": ThresholdConfig,
    "wilcoxon": WilcoxonConfig,
    "none": NoPrunerConfig,
}
Pruner = Annotated[
    SerializeAsAny[PrunerConfig], BeforeValidator(partial(validate_strategy, "pruner", PRUNERS, "none"))
]
"""The ``[pruner]`` section of a file."""


def build_pruner(settings: PrunerConfig, space: Space, repeats: int = 1) -> BasePruner:
    """The pruner of a study.

    Args:
        settings: Which, and its options.
        space: The study's bases, and how long each can train.
        repeats: How often each configuration is run; from 2 on a step is a repeat, else an epoch.
    """
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        inner = {stem: settings.build(steps) for stem, steps in _max_steps(space, repeats).items()}
    last_steps = {stem: repeats if repeats > 1 else _own_epochs(space, stem) for stem in space.bases}
    return PerBasePruner(inner, last_steps, None if repeats > 1 else _EPOCHS, paired=settings.paired)


def pruner_problems(settings: PrunerConfig, space: Space, repeats: int) -> Iterator[str]:
    """Why the pruner cannot follow these trials."""
    return settings.problems(max(_max_steps(space, repeats).values()), repeats)


def _max_steps(space: Space, repeats: int) -> dict[str, int]:
    """The most steps that a trial can have, by the stem of its base."""
    return {stem: repeats if repeats > 1 else _max_epochs(space, stem) for stem in space.bases}


def _own_epochs(space: Space, stem: str) -> int:
    """Epochs of a base as its file has them; 1 for a model that reports once."""
    return int(config.lookup(config.dump(space.bases[stem]), _EPOCHS) or 1)


def _max_epochs(space: Space, stem: str) -> int:
    """The most epochs that a base can train, its own among them where they are not always searched."""
    dimension = space.dimensions.get((stem, _EPOCHS))
    own = _own_epochs(space, stem)
    if dimension is None or dimension.when.get(BASE, stem) != stem:
        return own
    most = int(max(map(int, dimension.choices)) if isinstance(dimension, Choice) else dimension.high)
    return max(most, own) if dimension.when.keys() - {BASE} else most


class PerBasePruner(BasePruner):
    """Compares a trial with those of its own base: families learn at different speeds.

    Of a configuration that was cut short and went on, the last attempt stands for all. A trial's
    last step is not pruned: nothing would be saved, and its value lost.
    """

    def __init__(
        self,
        inner: Mapping[str, BasePruner],
        last_steps: Mapping[str, int],
        epochs: str | None,
        *,
        paired: bool,
    ) -> None:
        """Args:
        inner: Pruner by the stem of a base.
        last_steps: The last step of a trial by stem, where it is not searched.
        epochs: Key of a trial's last step, where it is searched; ``None``: it never is.
        paired: Whether it compares the single repeats of two trials.
        """
        self.paired = paired
        self._inner = inner
        self._last_steps = last_steps
        self._epochs = epochs

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        stem = self._stem(trial)
        attempts = {root_of(other): other.number for other in study.get_trials(deepcopy=False)}

        def is_peer(other: FrozenTrial) -> bool:
            return (
                self._stem(other) == stem
                and attempts.get(root_of(other)) == other.number
                and root_of(other) != root_of(trial)
            )

        # Asked at its last step too, because some pruners remember what they saw.
        pruned = self._inner[stem].prune(_Peers(study, is_peer), trial)
        last = int(trial.params.get(self._epochs or "", self._last_steps[stem]))
        return pruned and (trial.last_step or 0) < last

    def _stem(self, trial: FrozenTrial) -> str:
        return str(trial.params.get(BASE, next(iter(self._inner))))


def compares_repeats(study: optuna.Study) -> bool:
    """Whether the study's pruner compares the single repeats of two trials, not their means so far."""
    return isinstance(study.pruner, PerBasePruner) and study.pruner.paired


class _Peers(optuna.Study):
    """A study with only some of its trials, for a pruner to look at."""

    def __init__(self, study: optuna.Study, keep: Callable[[FrozenTrial], bool]) -> None:
        vars(self).update(vars(study))
        self._study = study
        self._keep = keep

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [trial for trial in self._study.get_trials(deepcopy, states) if self._keep(trial)]

    @property
    def best_trial(self) -> FrozenTrial:
        trials = self.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        feasible = [trial for trial in trials if all(value <= 0 for value in trial.constraints.values())]
        best = max if self.direction == StudyDirection.MAXIMIZE else min
        # A ValueError where there is none, as Optuna's.
        return best(feasible, key=lambda trial: float(trial.values[0]))


class Hyperband(BasePruner):
    """Successive halving in several brackets, the later ones with later first comparisons.

    Optuna's own reads the trials past the study that it is given, so it would compare bases; it
    draws a bracket from the study's name and the trial's number, so a trial that goes on after an
    interruption would change its bracket; and it shows the sampler one bracket at a time.
    """

    def __init__(self, min_epochs: int, max_epochs: int, reduction_factor: int) -> None:
        exponent = 0
        while min_epochs * reduction_factor ** (exponent + 1) <= max_epochs:
            exponent += 1
        self._brackets = [
            SuccessiveHalvingPruner(
                min_resource=min_epochs, reduction_factor=reduction_factor, min_early_stopping_rate=bracket
            )
            for bracket in range(exponent + 1)
        ]
        # As in the paper: so many trials that each bracket costs about the same.
        self._shares = [
            math.ceil((exponent + 1) * reduction_factor ** (exponent - bracket) / (exponent - bracket + 1))
            for bracket in range(exponent + 1)
        ]

    def bracket(self, trial: FrozenTrial) -> int:
        """The trial's bracket; that of its first attempt."""
        place = binascii.crc32(f"hyperband {root_of(trial)}".encode()) % sum(self._shares)
        for bracket, share in enumerate(self._shares):
            place -= share
            if place < 0:
                return bracket
        raise AssertionError

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        mine = self.bracket(trial)
        return self._brackets[mine].prune(_Peers(study, lambda other: self.bracket(other) == mine), trial)


class PatientPruner(BasePruner):
    """Asks another pruner once a trial has stopped to improve.

    Optuna's own waits for values to fall below an earlier one, which best-so-far values never do.
    """

    def __init__(self, inner: BasePruner, patience: int, min_delta: float) -> None:
        self._inner = inner
        self._patience = patience
        self._min_delta = min_delta

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        values = [value for _, value in sorted(trial.intermediate_values.items())]
        if len(values) <= self._patience:
            return False
        gain = values[-1] - values[-1 - self._patience]
        if study.direction == StudyDirection.MINIMIZE:
            gain = -gain
        return gain <= self._min_delta and self._inner.prune(study, trial)
