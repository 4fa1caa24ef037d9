"""Tells Optuna how trials ended, and recovers those whose supervisor or worker died."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Container, Mapping
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from vidclf.exceptions import DatabaseUnavailableError, FencedError
from vidclf.labels import plural
from vidclf.runs.folder import Outcome, now_ms
from vidclf.search.record.owners import RENEWAL_SECONDS, STANDSTILL_SECONDS, Owner, Ownership
from vidclf.search.record.study import (
    AHEAD,
    DIED,
    FIXED,
    INTERRUPTED,
    OWNER,
    RELEASED,
    RUN_AGAIN,
    SECONDS,
    START,
    OpenStudy,
    root_of,
)

logger = logging.getLogger(__name__)


def reconcile(opened: OpenStudy) -> int:
    """Settles trials that dead supervisors left behind; the caller owns the study alone.

    Returns:
        How many trials were queued again.
    """
    return take_over(opened) + queue_lost(opened)


def take_over(
    opened: OpenStudy, live: Container[str] = (), overdue: Callable[[int], bool] = lambda _: True
) -> int:
    """Settles running trials whose supervisor is dead.

    A trial whose attempt finished before its supervisor died keeps its value; any other is
    failed as interrupted and queued to run again. Of several that take over the same trial one
    succeeds.

    Args:
        opened: The study.
        live: Supervisors that live, by uuid.
        overdue: Of a trial by number that has no owner: whether one would have signed it by now.

    Returns:
        How many trials were queued again.
    """
    queued = 0
    for frozen in opened.trials([TrialState.RUNNING]):
        owner = frozen.user_attrs.get(OWNER)
        if owner in live or (owner is None and not overdue(frozen.number)):
            continue
        if frozen.user_attrs.get(AHEAD) and not live:
            put_back(opened, frozen.number, owner)
            continue
        with contextlib.suppress(FencedError):
            trial = opened.trial(frozen.number)
            queued += settle_or_interrupt(opened, trial, "its supervisor died", queue=True)
    return queued


def queue_lost(opened: OpenStudy, overdue: Callable[[int], bool] = lambda _: True) -> int:
    """Queues cut trials again whose supervisor died before it could.

    Args:
        opened: The study.
        overdue: Of a cut trial by number: whether another supervisor would have queued it by now.

    Returns:
        How many trials were queued.
    """
    # What the budget had no room for may find it later, when there are to be more trials.
    retried = {t.user_attrs.get("retry_of") for t in opened.trials() if RELEASED not in t.user_attrs}
    lost = [
        frozen
        for frozen in opened.trials([TrialState.FAIL])
        if frozen.user_attrs.get("reason_kind") in RUN_AGAIN and frozen.number not in retried
        if overdue(frozen.number)
    ]
    for frozen in lost:
        queue_again(opened, frozen)
    return len(lost)


def is_owned(opened: OpenStudy, number: int, owner: str | None) -> bool:
    """Whether nobody has taken a running trial over from its owner, as from a machine that slept."""
    frozen = opened.frozen(number)
    return frozen.state == TrialState.RUNNING and frozen.user_attrs.get(OWNER) == owner


def put_back(opened: OpenStudy, number: int, owner: str | None) -> None:
    """Has a trial that was asked for ahead, and not begun, asked for again before any new one.

    Where the database is away, the next session does; where another supervisor took the trial over, it did.

    Args:
        opened: The study.
        number: The trial.
        owner: Who asked for it, by uuid.
    """
    with contextlib.suppress(DatabaseUnavailableError, UpdateFinishedTrialError):
        if is_owned(opened, number, owner):
            trial = opened.trial(number)
            trial.set_user_attr(AHEAD, False)
            trial.set_user_attr(OWNER, None)  # whoever asks for it next has not signed it at once
            opened.storage.set_trial_state_values(opened.trial_id(number), TrialState.WAITING)


def settle(
    opened: OpenStudy,
    trial: optuna.Trial,
    outcome: Outcome,
    *,
    kind: str = "",
    seconds: float | None = None,
) -> None:
    """Tells Optuna how an attempt ended; a crash is FAIL, never PRUNED and never a bad value.

    Args:
        opened: The study.
        trial: The trial.
        outcome: How its attempt ended.
        kind: Of a failure after which it runs again: `DIED` or `STOPPED`; else the outcome's status.
        seconds: How long a worker had it; ``None``: not known.

    Raises:
        FencedError: It was settled by another supervisor.
    """
    try:
        if seconds is not None:
            trial.set_user_attr(SECONDS, seconds)
        _tell(opened, trial, outcome, kind or outcome.status)
    except UpdateFinishedTrialError as error:
        raise FencedError from error
    except ValueError as error:  # how Optuna refuses one that ended while it was told
        if opened.frozen(trial.number).state == TrialState.RUNNING:
            raise
        raise FencedError from error


def _tell(opened: OpenStudy, trial: optuna.Trial, outcome: Outcome, kind: str) -> None:
    trial.set_user_attr("metrics", dict(outcome.metrics))
    if outcome.status == "complete":
        bound_sizes(opened, trial, outcome.metrics)
        opened.study.tell(trial, [outcome.metrics[objective.metric] for objective in opened.objectives])
        return
    trial.set_user_attr("reason", outcome.reason)
    trial.set_user_attr("reason_kind", kind)
    opened.study.tell(trial, state=TrialState.PRUNED if outcome.status == "pruned" else TrialState.FAIL)


def release(opened: OpenStudy, trial: optuna.Trial) -> None:
    """Gives back a trial that the budget has no room for: others had asked at the same moment.

    It ends, and is left out of all counts; the values of one that was queued are queued behind the others.
    """
    frozen = opened.frozen(trial.number)
    trial.set_user_attr(RELEASED, True)
    opened.study.tell(trial, state=TrialState.FAIL)
    if FIXED in frozen.system_attrs and "retry_of" not in frozen.user_attrs:  # else `queue_lost` finds it
        first = {key: value for key, value in frozen.user_attrs.items() if key == START}
        opened.study.enqueue_trial(frozen.system_attrs[FIXED], user_attrs=first)


def bound_sizes(opened: OpenStudy, trial: optuna.Trial, metrics: Mapping[str, float]) -> list[str]:
    """Records, once each, how far the known sizes are from their bounds.

    Returns:
        The bounds that are broken, in words.
    """
    known = opened.frozen(trial.number).constraints
    broken = []
    for constraint in opened.constraints:
        if constraint.metric not in metrics:
            continue
        violation = constraint.violation(metrics[constraint.metric])
        if constraint.metric not in known:
            trial.set_constraint(constraint.metric, violation)
        if violation > 0:
            broken.append(f"{constraint.metric} = {metrics[constraint.metric]:g} ({constraint.limits()})")
    return broken


def settle_or_interrupt(
    opened: OpenStudy,
    trial: optuna.Trial,
    why: str,
    *,
    queue: bool,
    kind: str = INTERRUPTED,
    seconds: float | None = None,
) -> bool:
    """Settles a trial that nobody runs any more.

    One whose attempt had finished keeps its outcome; any other is failed as interrupted, and does not count.

    Args:
        opened: The study.
        trial: The trial.
        why: What interrupted it.
        queue: Queue it again at once, where it is to run again; else `queue_lost` does.
        kind: `INTERRUPTED` or `STOPPED`.
        seconds: How long a worker had it; ``None``: not known.

    Returns:
        Whether it was queued again.

    Raises:
        FencedError: Another supervisor settled it first.
        DatabaseAway: The next session settles it by its folder.
    """
    attempt = opened.attempt(trial.number)
    outcome = attempt.outcome()
    wanted = {objective.metric for objective in opened.objectives}
    if outcome is None or (outcome.status == "complete" and not wanted <= outcome.metrics.keys()):
        outcome = Outcome("interrupted", f"{kind}: {why}", {}, now_ms())
        if attempt.exists():
            attempt.finish(outcome)
    cut = outcome.status == "interrupted"
    settle(opened, trial, outcome, kind=kind if cut else "", seconds=seconds)
    settled = opened.frozen(trial.number)
    again = queue and settled.user_attrs.get("reason_kind") in RUN_AGAIN
    if again:
        queue_again(opened, settled)
    return again


def queue_again(opened: OpenStudy, trial: FrozenTrial) -> None:
    """Adds the same configuration once more, to be asked for before any new one.

    It brings along what was reported of it, so that what was decided then is not decided anew, and what it
    was to be where it was cut before it had its values.
    """
    kept = {key: value for key, value in trial.user_attrs.items() if key == START}
    opened.study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=trial.intermediate_values,
            system_attrs=inherited(trial),
            user_attrs={**kept, "retry_of": trial.number, "root": root_of(trial)},
        )
    )


def inherited(trial: FrozenTrial) -> dict[str, Any]:
    """Values that it was queued with, and where successive halving has compared it, as Optuna notes both."""
    return {
        key: value
        for key, value in trial.system_attrs.items()
        if key == FIXED or key.startswith("completed_rung_")
    }


def deaths(opened: OpenStudy, root: int) -> int:
    """How often a worker died over a configuration and it was run again."""
    return sum(
        trial.user_attrs.get("reason_kind") == DIED and root_of(trial) == root
        for trial in opened.trials([TrialState.FAIL])
    )


POLL_SECONDS = 2.0
"""Between two refreshes of a supervisor that runs no trials itself."""


class SupervisorGroup:
    """The supervisors that run a study beside this one."""

    others: dict[str, Owner]
    """The other live supervisors by uuid, as last seen."""

    def __init__(self, opened: OpenStudy, ownership: Ownership) -> None:
        """Args:
        opened: The study.
        ownership: This supervisor's hold on it.
        """
        self._opened, self._ownership = opened, ownership
        self.others = {}
        self._refreshed = -math.inf
        self._first_seen: dict[int, float] = {}

    @property
    def alone_here(self) -> bool:
        """Whether no other supervisor of this host computes."""
        return not any(other.here for other in self.others.values())

    def refresh(self, *, waiting: bool) -> bool:
        """Updates the list of live supervisors and queues the trials of dead ones again, where that is due.

        Args:
            waiting: This supervisor runs no trials itself, so it is due more often.

        Returns:
            Whether it was due.

        Raises:
            InputError: Another supervisor has taken the study over.
        """
        if time.monotonic() - self._refreshed < (POLL_SECONDS if waiting else RENEWAL_SECONDS):
            return False
        self._ownership.check()
        registered = self._ownership.registered()  # first, so that nobody is struck off who comes just now
        others = self._ownership.others()
        live = {*others, self._ownership.uuid}
        for uuid in registered - live:
            self._ownership.forget(uuid)
        self._announce(others)
        queued = take_over(self._opened, live, self._overdue)
        if self._ownership.first():  # one of them only, or a trial would be queued twice
            queued += queue_lost(self._opened, self._overdue if others else lambda _: True)
        if queued:
            logger.info(f"running again: {plural(queued, 'trial')} of a supervisor that died")
        self.others, self._refreshed = others, time.monotonic()
        return True

    def _announce(self, others: dict[str, Owner]) -> None:
        for uuid in others.keys() - self.others.keys():
            logger.info(f"{others[uuid]} runs trials of this study too")
        for uuid in self.others.keys() - others.keys():
            logger.info(f"{self.others[uuid]} does not run this study any more")

    def _overdue(self, number: int) -> bool:
        """Whether the trial has been seen so for a minute; by this host's clock, as hosts' clocks differ."""
        since = self._first_seen.setdefault(number, time.monotonic())
        return time.monotonic() - since > STANDSTILL_SECONDS
