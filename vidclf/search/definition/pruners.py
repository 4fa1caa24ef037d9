"""Who stops trials early: one pruner for each base, shown that base's trials alone."""

import binascii
import math
import warnings
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

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
from pydantic import Field, model_validator

from vidclf import config
from vidclf.config import Choice, Section
from vidclf.search.record.settings import Defaults, check_options, given_options
from vidclf.search.record.study import BASE, root_of

if TYPE_CHECKING:  # models take a second to import
    from vidclf.search.definition.space import Space

_EPOCHS = "train.epochs"


class PrunerConfig(Section):
    """Who stops trials early; with repeats an epoch is a repeat."""

    name: str = "none"
    """``median``, ``percentile``, ``patient``, ``hyperband``, ``asha``, ``threshold``, ``wilcoxon``
    or ``none``."""
    startup_trials: int | None = Field(None, ge=0)
    """median, percentile, patient: complete trials of the same base before any is pruned; 5."""
    warmup_epochs: int | None = Field(None, ge=0)
    """median, percentile, patient, threshold: epochs in which none is pruned; 0."""
    percentile: float | None = Field(None, gt=0, lt=100)
    """percentile, patient: so many percent of the trials, the best ones, go on; 25 and 50."""
    patience: int | None = Field(None, ge=1)
    """patient: epochs without progress before a trial is compared with others; 3."""
    min_delta: float | None = Field(None, ge=0)
    """patient: what is more than this is progress; 0."""
    min_epochs: int | None = Field(None, ge=1)
    """hyperband, asha: epochs before a trial is compared with others for the first time; 1."""
    reduction_factor: int | None = Field(None, ge=2)
    """hyperband, asha: one of so many trials goes on, for so many times the epochs; 3 and 4."""
    lower: float | None = None
    """threshold: prune below this value."""
    upper: float | None = None
    """threshold: prune above this value."""
    p_threshold: float | None = Field(None, gt=0, lt=1)
    """wilcoxon: p-value under which a trial counts as worse than the best one; 0.1."""
    startup_repeats: int | None = Field(None, ge=2)
    """wilcoxon: repeats before a trial is compared; 2."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_options(
            "pruner",
            self.name,
            given_options(self, ("name",)),
            {name: spec.options for name, spec in PRUNERS.items()},
        )
        if self.name == "threshold":
            if self.lower is None and self.upper is None:
                raise ValueError("the pruner threshold needs pruner.lower or pruner.upper")
            if self.lower is not None and self.upper is not None and self.lower >= self.upper:
                raise ValueError(f"pruner.lower = {self.lower} is not below pruner.upper = {self.upper}")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The pruner's options, its defaults among them."""
        return {**PRUNERS[self.name].options, **given_options(self, ("name",))}


def _none(last: int) -> BasePruner:
    return NopPruner()


def _percentile(
    last: int, *, startup_trials: int, warmup_epochs: int, percentile: float = 50.0
) -> BasePruner:
    return PercentilePruner(percentile, n_startup_trials=startup_trials, n_warmup_steps=warmup_epochs + 1)


def _patient(last: int, *, patience: int, min_delta: float, **options: Any) -> BasePruner:
    return PatientPruner(_percentile(last, **options), patience, min_delta)


def _hyperband(last: int, *, min_epochs: int, reduction_factor: int) -> BasePruner:
    return Hyperband(min_epochs, last, reduction_factor)


def _asha(last: int, *, min_epochs: int, reduction_factor: int) -> BasePruner:
    return SuccessiveHalvingPruner(min_resource=min_epochs, reduction_factor=reduction_factor)


def _threshold(last: int, *, lower: float | None, upper: float | None, warmup_epochs: int) -> BasePruner:
    return ThresholdPruner(lower=lower, upper=upper, n_warmup_steps=warmup_epochs + 1)


def _wilcoxon(last: int, *, p_threshold: float, startup_repeats: int) -> BasePruner:
    return WilcoxonPruner(p_threshold=p_threshold, n_startup_steps=startup_repeats)


@dataclass(frozen=True)
class PrunerSpec:
    """A pruner.

    Attributes:
        build: Makes it from the most epochs (or the repeats) of a base, and its options.
        options: Its options with their defaults.
        paired: Whether it compares the single repeats of two trials, rather than their best or mean so far.
    """

    build: Callable[..., BasePruner]
    options: Defaults
    paired: bool = False


PRUNERS: Mapping[str, PrunerSpec] = {
    "median": PrunerSpec(_percentile, {"startup_trials": 5, "warmup_epochs": 0}),
    "percentile": PrunerSpec(_percentile, {"percentile": 25.0, "startup_trials": 5, "warmup_epochs": 0}),
    "patient": PrunerSpec(
        _patient,
        {"patience": 3, "min_delta": 0.0, "percentile": 50.0, "startup_trials": 5, "warmup_epochs": 0},
    ),
    "hyperband": PrunerSpec(_hyperband, {"min_epochs": 1, "reduction_factor": 3}),
    "asha": PrunerSpec(_asha, {"min_epochs": 1, "reduction_factor": 4}),
    "threshold": PrunerSpec(_threshold, {"lower": None, "upper": None, "warmup_epochs": 0}),
    "wilcoxon": PrunerSpec(_wilcoxon, {"p_threshold": 0.1, "startup_repeats": 2}, paired=True),
    "none": PrunerSpec(_none, {}),
}


def build_pruner(settings: PrunerConfig, space: "Space", repeats: int = 1) -> BasePruner:
    """The pruner of a study.

    Args:
        settings: Which, and its options.
        space: The study's bases, and how long each can train.
        repeats: How often each configuration is run; from 2 on a step is a repeat, else an epoch.
    """
    spec = PRUNERS[settings.name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        inner = {stem: spec.build(last, **settings.options) for stem, last in _most(space, repeats).items()}
    lasts = {stem: repeats if repeats > 1 else _own_epochs(space, stem) for stem in space.bases}
    return PerBasePruner(inner, lasts, None if repeats > 1 else _EPOCHS, paired=spec.paired)


def _most(space: "Space", repeats: int) -> dict[str, int]:
    """The most steps that a trial can have, by the stem of its base."""
    return {stem: repeats if repeats > 1 else _most_epochs(space, stem) for stem in space.bases}


def _own_epochs(space: "Space", stem: str) -> int:
    """Epochs of a base as its file has them; 1 for a model that reports once."""
    return int(config.lookup(config.dump(space.bases[stem]), _EPOCHS) or 1)


def _most_epochs(space: "Space", stem: str) -> int:
    """The most epochs that a base can train, its own among them where they are not always searched."""
    dimension = space.dimensions.get((stem, _EPOCHS))
    own = _own_epochs(space, stem)
    if dimension is None or dimension.when.get(BASE, stem) != stem:
        return own
    most = int(max(map(int, dimension.choices)) if isinstance(dimension, Choice) else dimension.high)
    return max(most, own) if dimension.when.keys() - {BASE} else most


def pruner_problems(settings: PrunerConfig, space: "Space", repeats: int) -> Iterator[str]:
    """Why the pruner cannot follow these trials."""
    options = settings.options
    if options.get("min_epochs", 0) >= (longest := max(_most(space, repeats).values())) > 1:
        least_epochs = options["min_epochs"]
        yield f"pruner.min_epochs = {least_epochs} leaves nothing to prune: the longest trial has {longest}"
    if PRUNERS[settings.name].paired:
        threshold = options["p_threshold"]
        if repeats == 1:
            yield f"the pruner {settings.name} compares repeats; set objective.repeats"
        elif (least := 0.5 ** (repeats - 1)) >= threshold:
            # The least p-value of the signed-rank test over n pairs is 1 / 2^n.
            enough = math.floor(-math.log2(threshold)) + 2
            yield (
                f"pruner.p_threshold = {threshold} is out of reach before the last of {repeats} repeats, "
                f"where p is at least {least:g}; it takes objective.repeats = {enough}"
            )


class PerBasePruner(BasePruner):
    """Compares a trial with those of its own base: families learn at different speeds.

    Of a configuration that was cut short and went on, the last attempt stands for all. A trial's
    last step is not pruned: nothing would be saved, and its value lost.
    """

    def __init__(
        self,
        inner: Mapping[str, BasePruner],
        lasts: Mapping[str, int],
        epochs: str | None,
        *,
        paired: bool,
    ) -> None:
        """Args:
        inner: Pruner by the stem of a base.
        lasts: The last step of a trial by stem, where it is not searched.
        epochs: Key of a trial's last step, where it is searched; ``None``: it never is.
        paired: Whether it compares the single repeats of two trials.
        """
        self.paired = paired
        self._inner = inner
        self._lasts = lasts
        self._epochs = epochs

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        stem = self._stem(trial)
        attempts = {root_of(other): other.number for other in study.get_trials(deepcopy=False)}

        def is_peer(other: FrozenTrial) -> bool:
            return (
                self._stem(other) == stem
                and attempts.get(root_of(other)) == other.number
                and root_of(other) != root_of(trial)
                and "reused_from" not in other.user_attrs
            )

        # Asked at its last step too, because some pruners remember what they saw.
        verdict = self._inner[stem].prune(_Peers(study, is_peer), trial)
        last = int(trial.params.get(self._epochs or "", self._lasts[stem]))
        return verdict and (trial.last_step or 0) < last

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
    """Successive halving in several brackets, the later ones more patient.

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
    """Asks another pruner once a trial has stopped to make progress.

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
