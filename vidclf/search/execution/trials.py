"""How a trial begins, what Optuna is told of its steps, and how it ends."""

import contextlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from vidclf import config
from vidclf.evaluation.ranking import TrialRow
from vidclf.exceptions import DatabaseUnavailableError, FencedError
from vidclf.labels import trial_name
from vidclf.models.base import ExperimentConfig
from vidclf.runs.folder import SEARCHED_TAG, Attempt, Identity, Outcome, now_ms
from vidclf.search.definition.pruners import compares_repeats
from vidclf.search.execution.budget import BudgetCounter
from vidclf.search.execution.context import SessionContext
from vidclf.search.execution.display import finished_line
from vidclf.search.execution.latency import LatencyMeter
from vidclf.search.execution.recovery import bound_sizes, deaths, queue_again, settle, settle_or_interrupt
from vidclf.search.record.study import (
    BASE,
    DIED,
    INTERRUPTED,
    START,
    STOPPED,
    OpenStudy,
    root_of,
)
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
    opened: OpenStudy, trial: optuna.Trial, progress: TrialProgress, report: StepReport
) -> StepDecision:
    """Whether the trial may go on: within its bounds, and not what the study's pruner stops.

    Args:
        opened: The study.
        trial: A running trial; it is told the value of a new step, where there is one objective.
        progress: How far it has come; updated.
        report: A step's metrics; step 0 has the model's sizes.
    """
    if report.step == 0:
        broken = bound_sizes(opened, trial, report.metrics)
        return StepDecision(f"infeasible: {'; '.join(broken)}" if broken else "")
    value = _value(opened, progress, report)
    if value is None:
        return StepDecision()
    progress.step, progress.value = report.step, value
    if report.step <= progress.known_steps or len(opened.objectives) > 1:
        return StepDecision()
    trial.report(value, report.step)
    if trial.should_prune():
        unit = "epoch" if opened.repeats is None else "repeat"
        return StepDecision(f"pruned at {unit} {report.step}: {opened.objective.metric} {value:.4f}")
    return StepDecision()


def _value(opened: OpenStudy, progress: TrialProgress, report: StepReport) -> float | None:
    """What Optuna is told of a step: the best epoch so far; of repeats their mean, or each by itself."""
    kind = "epoch"
    if opened.repeats is not None:
        # Wilcoxon's test compares repeat by repeat.
        kind = "repeat" if compares_repeats(opened.study) else "mean"
    value = report.metrics.get(f"{kind}/{opened.objective.metric}")
    if value is None or not math.isfinite(value):
        return None  # pruners stop a trial for it, but one that ends with such a value is to fail
    if opened.repeats is not None:
        return value
    if report.step > progress.known_steps:
        better = max if opened.objective.direction == "maximize" else min
        progress.best = value if progress.best is None else better(progress.best, value)
    return progress.best


def require_finite(opened: OpenStudy, outcome: Outcome) -> Outcome:
    """The outcome, as a failure where a complete trial lacks a finite value of an objective."""
    for metric in (objective.metric for objective in opened.objectives):
        if outcome.status == "complete" and not math.isfinite(outcome.metrics.get(metric, math.nan)):
            reason = f"the objective {metric} is {outcome.metrics.get(metric, 'missing')}"
            return replace(outcome, status="failed", reason=reason, fingerprint=f"no finite {metric}")
    return outcome


@dataclass
class RunningTrial:
    """A trial that has begun and has not ended yet."""

    trial: optuna.Trial
    stem: str
    attempt: Attempt
    started: float
    progress: TrialProgress = field(default_factory=TrialProgress)
    fenced: bool = False


@dataclass(frozen=True)
class AskedTrial:
    """A configuration that is to be run."""

    trial: optuna.Trial
    stem: str
    experiment: ExperimentConfig


def begin_trial(session: SessionContext, trial: optuna.Trial, stem: str) -> RunningTrial:
    """Makes a trial's folder.

    Args:
        session: The session that runs it.
        trial: The trial.
        stem: Of its base.
    """
    opened, space = session.opened, session.definition.space
    attributes = opened.frozen(trial.number).user_attrs
    paths = (path for owner, path in space.dimensions if owner == stem and path in trial.params)
    searched = {path: trial.params[path] for path in paths}
    tags = {
        **session.provenance[stem],
        "vidclf.study": opened.name,
        "vidclf.trial": str(trial.number),
        "vidclf.base": stem,
        SEARCHED_TAG: json.dumps(searched),
        **({"vidclf.retry_of": str(attributes["retry_of"])} if "retry_of" in attributes else {}),
        **({"vidclf.start": attributes[START]} if START in attributes else {}),
    }
    attempt = opened.attempt(trial.number)
    attempt.create(
        Identity(
            id=opened.attempt_id(trial.number),
            experiment=opened.stored["experiment"],
            run_name=trial_name(trial.number, config.dump(space.bases[stem]), searched),
            parent=opened.attempt_id(),
            started_ms=now_ms(),
            tags=tags,
            dataset=session.dataset,
        )
    )
    return RunningTrial(trial, stem, attempt, time.monotonic())


FENCED = "taken over by another supervisor, to which this one seemed dead"


class TrialFinisher:
    """Ends the trials of a session."""

    def __init__(self, session: SessionContext, counter: BudgetCounter, meter: LatencyMeter) -> None:
        """Args:
        session: The session.
        counter: Counts what has ended.
        meter: Has the latencies that constraints need.
        """
        self._session, self._opened = session, session.opened
        self._counter, self._meter = counter, meter
        self._with_model: set[int] = set()

    def finish_without_worker(self, running: RunningTrial, outcome: Outcome) -> None:
        """Ends a trial that needs no worker."""
        running.attempt.finish(outcome)
        self._session.register(running.attempt)
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
        checked = require_finite(self._opened, outcome)
        if checked is not outcome:
            outcome = checked
            running.attempt.finish(outcome)
        try:
            self._tell(running, outcome, again)
        except FencedError:
            self.abandon(running)
            return False
        rows = self._counter.add(running.trial, outcome)
        self._session.trial_ended()
        if running.attempt.model.is_dir():
            self._with_model.add(running.trial.number)
            self._drop_models(rows)
        state = self._session.state
        if state.best and self._session.ownership.leads:
            self._opened.own_attempt.record(state.used, {"study/best": state.best[0]})
        self._log(running, outcome, again)
        return True

    def _tell(self, running: RunningTrial, outcome: Outcome, again: bool) -> None:
        if running.fenced:
            raise FencedError
        if outcome.status == "complete" and self._meter.required:
            shape = str(self._opened.frozen(running.trial.number).user_attrs.get("shape"))
            with contextlib.suppress(UpdateFinishedTrialError):  # which `settle` says, too
                bound_sizes(self._opened, running.trial, self._meter.uncontended(shape))
        kind, seconds = DIED if again else "", time.monotonic() - running.started
        settle(self._opened, running.trial, outcome, kind=kind, seconds=seconds)

    def _log(self, running: RunningTrial, outcome: Outcome, again: bool) -> None:
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

    def worker_died(self, running: RunningTrial, cause: str) -> None:
        """Ends a trial whose worker has died: it is queued again, or fails for good.

        One that had ended, and whose worker died before it could say so, keeps its outcome.
        """
        ended = running.attempt.outcome()
        if ended is not None:
            self.settle(running, ended)
            return
        root = root_of(self._opened.frozen(running.trial.number))
        died = deaths(self._opened, root)
        again = died < self._session.definition.file.budget.retries
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
            self._counter.count()  # or the study might end before it is run again

    def interrupt(self, running: RunningTrial, *, queue: bool, by_time: bool = False) -> None:
        """Ends a trial that is interrupted.

        Args:
            running: The trial; its worker has been stopped.
            queue: Others run the study, and are to run it again; else the next session does.
            by_time: The study's time is used up.
        """
        kind, why = (STOPPED, "budget.seconds is used up") if by_time else (INTERRUPTED, "asked to stop")
        seconds = time.monotonic() - running.started
        with contextlib.suppress(DatabaseUnavailableError):
            try:
                settle_or_interrupt(self._opened, running.trial, why, queue=queue, kind=kind, seconds=seconds)
            except FencedError:
                self._disown(running)

    def abandon(self, running: RunningTrial) -> None:
        """Gives up a trial that was taken over."""
        self._disown(running)
        self._session.state.running.pop(running.trial.number, None)
        self._counter.count()
        logger.info(f"trial {running.trial.number} was {FENCED}")

    def _disown(self, running: RunningTrial) -> None:
        """Marks the folder of a trial that was taken over as interrupted, unless its outcome was kept."""
        if self._opened.frozen(running.trial.number).state != TrialState.COMPLETE:
            running.attempt.finish(Outcome("interrupted", f"{INTERRUPTED}: {FENCED}", {}, now_ms()))

    def _drop_models(self, rows: Sequence[TrialRow]) -> None:
        """Deletes the models of trials that have fallen out of those that are kept."""
        for number in self._with_model - {row.number for row in self._session.kept(rows)}:
            self._opened.attempt(number).drop_model()
            self._with_model.discard(number)
