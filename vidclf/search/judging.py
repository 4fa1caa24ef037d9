"""Judges trials: what Optuna is told of a step, whether the trial may go on, whether its end counts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import optuna

from vidclf.attempt import Outcome
from vidclf.search.messages import Progress, Verdict
from vidclf.search.pruners import compares_repeats
from vidclf.search.reconcile import bound_sizes
from vidclf.search.record import OpenStudy


@dataclass
class Course:
    """How far a trial has come.

    Attributes:
        known_steps: Steps that an earlier attempt at the same reported: what was decided then is not decided
            anew.
        best: Best finite value of an epoch so far, the earlier attempt's included.
        step: The last one whose value counted.
        value: What Optuna is told of it, ``None`` before the first.
    """

    known_steps: int = 0
    best: float | None = None
    step: int = 0
    value: float | None = None

    @classmethod
    def after(cls, known: Mapping[int, float]) -> Self:
        """Of a trial whose earlier attempt reported these values by step."""
        last = max(known, default=0)
        return cls(last, known.get(last))


def judge(opened: OpenStudy, trial: optuna.Trial, course: Course, progress: Progress) -> Verdict:
    """Whether the trial may go on: within its bounds, and not what the study's pruner stops.

    Args:
        opened: The study.
        trial: A running trial; it is told the value of a new step, where there is one objective.
        course: Its course so far; brought up to date.
        progress: A step's metrics; step 0 has the model's sizes.
    """
    if progress.step == 0:
        broken = bound_sizes(opened, trial, progress.metrics)
        return Verdict(f"infeasible: {'; '.join(broken)}" if broken else "")
    value = _value(opened, course, progress)
    if value is None:
        return Verdict()
    course.step, course.value = progress.step, value
    if progress.step <= course.known_steps or len(opened.objectives) > 1:
        return Verdict()
    trial.report(value, progress.step)
    if trial.should_prune():
        unit = "epoch" if opened.repeats is None else "repeat"
        return Verdict(f"pruned at {unit} {progress.step}: {opened.objective.metric} {value:.4f}")
    return Verdict()


def _value(opened: OpenStudy, course: Course, progress: Progress) -> float | None:
    """What Optuna is told of a step: the best epoch so far; of repeats their mean, or each by itself."""
    kind = "epoch"
    if opened.repeats is not None:
        # Wilcoxon's test compares repeat by repeat.
        kind = "repeat" if compares_repeats(opened.study) else "mean"
    value = progress.metrics.get(f"{kind}/{opened.objective.metric}")
    if value is None or not math.isfinite(value):
        return None  # pruners stop a trial for it, but one that ends with such a value is to fail
    if opened.repeats is not None:
        return value
    if progress.step > course.known_steps:
        better = max if opened.objective.direction == "maximize" else min
        course.best = value if course.best is None else better(course.best, value)
    return course.best


def finite(opened: OpenStudy, outcome: Outcome) -> Outcome:
    """The outcome, as a failure where a complete trial lacks a finite value of an objective."""
    for metric in (objective.metric for objective in opened.objectives):
        if outcome.status == "complete" and not math.isfinite(outcome.metrics.get(metric, math.nan)):
            reason = f"the objective {metric} is {outcome.metrics.get(metric, 'missing')}"
            return replace(outcome, status="failed", reason=reason, fingerprint=f"no finite {metric}")
    return outcome
