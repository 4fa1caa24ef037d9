"""The life of a trial: how it begins, what Optuna is told of its steps, and how it ends."""

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from vidclf import config
from vidclf.evaluation import ranking
from vidclf.evaluation.ranking import TrialRow
from vidclf.exceptions import DatabaseUnavailableError, FencedError
from vidclf.labels import trial_name
from vidclf.models.base import ExperimentConfig
from vidclf.runs.folder import SEARCHED_TAG, Attempt, Identity, Outcome, now_ms
from vidclf.search.definition.pruners import compares_repeats
from vidclf.search.definition.space import Space
from vidclf.search.execution.budget import BudgetCounter
from vidclf.search.execution.display import Display, StudyState, finished_line
from vidclf.search.execution.latency import LatencyMeter
from vidclf.search.execution.recovery import bound_sizes, deaths, queue_again, settle, settle_or_interrupt
from vidclf.search.record.study import BASE, INTERRUPTED, START, OpenStudy, root_of
from vidclf.workers.protocol import StepDecision, StepReport

logger = logging.getLogger(__name__)


@dataclass
class TrialProgress:
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


def judge(
    opened: OpenStudy, trial: optuna.Trial, course: TrialProgress, progress: StepReport
) -> StepDecision:
    """Whether the trial may go on: within its bounds, and not what the study's pruner stops.

    Args:
        opened: The study.
        trial: A running trial; it is told the value of a new step, where there is one objective.
        course: Its course so far; brought up to date.
        progress: A step's metrics; step 0 has the model's sizes.
    """
    if progress.step == 0:
        broken = bound_sizes(opened, trial, progress.metrics)
        return StepDecision(f"infeasible: {'; '.join(broken)}" if broken else "")
    value = _value(opened, course, progress)
    if value is None:
        return StepDecision()
    course.step, course.value = progress.step, value
    if progress.step <= course.known_steps or len(opened.objectives) > 1:
        return StepDecision()
    trial.report(value, progress.step)
    if trial.should_prune():
        unit = "epoch" if opened.repeats is None else "repeat"
        return StepDecision(f"pruned at {unit} {progress.step}: {opened.objective.metric} {value:.4f}")
    return StepDecision()


def _value(opened: OpenStudy, course: TrialProgress, progress: StepReport) -> float | None:
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


@dataclass
class RunningTrial:
    """A trial that has begun and is not settled yet."""

    trial: optuna.Trial
    stem: str
    attempt: Attempt
    started: float
    course: TrialProgress = field(default_factory=TrialProgress)
    fenced: bool = False


@dataclass(frozen=True)
class AskedTrial:
    """A configuration that is to be run."""

    trial: optuna.Trial
    stem: str
    experiment: ExperimentConfig


@dataclass(frozen=True)
class TrialStarter:
    """Makes the folders of a session's trials.

    Attributes:
        opened: The study.
        space: What it searches.
        tags: Provenance by stem.
        dataset: The data set, as MLflow lists it.
    """

    opened: OpenStudy
    space: Space
    tags: Mapping[str, Mapping[str, str]]
    dataset: Mapping[str, str]

    def begin(self, trial: optuna.Trial, stem: str, earlier: int | None = None) -> RunningTrial:
        """Makes a trial's folder; ``earlier``: the trial whose value it takes."""
        attempt = self.opened.attempt(trial.number)
        attempt.create(self._identity(trial, stem, earlier))
        return RunningTrial(trial, stem, attempt, time.monotonic())

    def _identity(self, trial: optuna.Trial, stem: str, earlier: int | None) -> Identity:
        attributes = self.opened.frozen(trial.number).user_attrs
        base = config.dump(self.space.bases[stem])
        paths = (path for owner, path in self.space.dimensions if owner == stem and path in trial.params)
        searched = {path: trial.params[path] for path in paths}
        tags = {
            **self.tags[stem],
            "vidclf.study": self.opened.name,
            "vidclf.trial": str(trial.number),
            "vidclf.base": stem,
            SEARCHED_TAG: json.dumps(searched),
            **({"vidclf.retry_of": str(attributes["retry_of"])} if "retry_of" in attributes else {}),
            **({"vidclf.start": attributes[START]} if START in attributes else {}),
            **({"vidclf.reused_from": str(earlier)} if earlier is not None else {}),
        }
        return Identity(
            id=self.opened.attempt_id(trial.number),
            experiment=self.opened.stored["experiment"],
            run_name=trial_name(trial.number, base, searched),
            parent=self.opened.attempt_id(),
            started_ms=now_ms(),
            tags=tags,
            dataset=self.dataset,
        )


FENCED = "taken over by another supervisor, to which this one seemed dead"


class TrialFinisher:
    """Ends the trials of a session, and keeps count of what they leave."""

    def __init__(
        self,
        *,
        opened: OpenStudy,
        tally: BudgetCounter,
        stopwatch: LatencyMeter,
        retries: int,
        keep: int,
        shown: Display,
        state: StudyState,
        leads: Callable[[], bool],
        register: Callable[[Attempt], None],
        settled: Callable[[], None],
    ) -> None:
        """Args:
        opened: The study.
        tally: Counts what has ended.
        stopwatch: Knows the latencies that constraints ask for.
        retries: How often a configuration whose worker died runs again.
        keep: How many of the best models stay, beside the Pareto front.
        shown: What the user sees.
        state: Its content; the tally keeps it up to date.
        leads: Whether this supervisor keeps the study's own run.
        register: Told of the folder of a trial that ends without having been with a worker.
        settled: Called when a trial has ended.
        """
        self._opened = opened
        self._tally = tally
        self._stopwatch = stopwatch
        self._retries = retries
        self._keep = keep
        self._shown = shown
        self._state = state
        self._leads = leads
        self._register = register
        self._settled = settled
        self._models: set[int] = set()

    def end(self, running: RunningTrial, outcome: Outcome) -> None:
        """Ends a trial that needs no worker."""
        running.attempt.finish(outcome)
        self._register(running.attempt)
        self.settle(running, outcome)

    def settle(self, running: RunningTrial, outcome: Outcome, *, again: bool = False) -> bool:
        """Tells Optuna and the user how an attempt ended.

        Args:
            running: The trial.
            outcome: What its folder says.
            again: Its worker died, and the same configuration is to run again.

        Returns:
            Whether it was this supervisor's to end; ``False`` where another has taken it over.
        """
        checked = finite(self._opened, outcome)
        if checked is not outcome:
            outcome = checked
            running.attempt.finish(outcome)
        try:
            self._tell(running, outcome, again)
        except FencedError:
            self.drop(running)
            return False
        rows = self._tally.add(running.trial, outcome)
        self._settled()
        if running.attempt.model.is_dir():
            self._models.add(running.trial.number)
            self._drop_models(rows)
        if self._state.best and self._leads():
            self._opened.own_attempt.record(self._state.used, {"study/best": self._state.best[0]})
        self._say(running, outcome, again)
        return True

    def _tell(self, running: RunningTrial, outcome: Outcome, again: bool) -> None:
        if running.fenced:
            raise FencedError
        if outcome.status == "complete" and self._stopwatch.wanted:
            shape = str(self._opened.frozen(running.trial.number).user_attrs.get("shape"))
            with contextlib.suppress(UpdateFinishedTrialError):  # which `settle` says, too
                bound_sizes(self._opened, running.trial, self._stopwatch.trusted(shape))
        settle(self._opened, running.trial, outcome, again=again)

    def _say(self, running: RunningTrial, outcome: Outcome, again: bool) -> None:
        state: str = "infeasible" if outcome.reason.startswith("infeasible") else outcome.status
        metric = self._opened.objective.metric
        logger.info(
            finished_line(
                running.trial.number,
                base=running.stem,
                state="runs again" if again else state,
                seconds=time.monotonic() - running.started,
                value=outcome.metrics.get(metric) if outcome.status == "complete" else None,
                note=outcome.reason,
                params={key: value for key, value in running.trial.params.items() if key != BASE},
            )
        )

    def bury(self, running: RunningTrial, cause: str) -> None:
        """Ends a trial whose worker has died: it runs again, or is given up."""
        root = root_of(self._opened.frozen(running.trial.number))
        died = deaths(self._opened, root)
        again = died < self._retries
        if not again:
            running.attempt.drop_checkpoint()
            cause = f"given up: {cause}" + (f", {died + 1} times in all" if died else "")
        outcome = Outcome("failed", cause, {}, now_ms())
        # Optuna first: from a folder that says failed, the next session would give the trial up.
        settled = self.settle(running, outcome, again=again)
        if settled:
            running.attempt.finish(outcome)
        if settled and again:
            queue_again(self._opened, self._opened.frozen(running.trial.number))
            self._tally.count()  # or the study might end before it is run again

    def interrupt(self, running: RunningTrial, *, queue: bool) -> None:
        """Ends a trial that is cut.

        Args:
            running: The trial; its worker has been stopped.
            queue: Others run the study, and are to run it again; else the next session does.
        """
        with contextlib.suppress(FencedError, DatabaseUnavailableError):
            settle_or_interrupt(self._opened, running.trial, "asked to stop", queue=queue)

    def drop(self, running: RunningTrial) -> None:
        """Keeps the folder of a trial that was taken over, as one that was cut."""
        running.attempt.finish(Outcome("interrupted", f"{INTERRUPTED}: {FENCED}", {}, now_ms()))
        self._state.running.pop(running.trial.number, None)
        self._tally.count()
        logger.info(f"trial {running.trial.number} was {FENCED}")

    def _drop_models(self, rows: Sequence[TrialRow]) -> None:
        """Deletes the models of trials that have fallen out of those that are kept."""
        stay = ranking.kept(rows, self._opened.objective.direction, self._keep)
        for number in self._models - {row.number for row in stay}:
            self._opened.attempt(number).drop_model()
            self._models.discard(number)
