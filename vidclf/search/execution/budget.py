"""Counts a running study's trials, time and errors, and decides when they end it."""

import math
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from vidclf.evaluation.ranking import TrialRow
from vidclf.runs.folder import Outcome
from vidclf.search.definition.study_file import StudyFile
from vidclf.search.execution import costs
from vidclf.search.execution.display import StudyState
from vidclf.search.record.study import DIED, INTERRUPTED, OWNER, STOPPED, OpenStudy, counts, root_of

Ending = Literal["finished", "time", "patience", "exhausted", "interrupted", "errors"]
"""Why a study stopped: all trials done, its time used up, no better value for long, nothing new to try,
asked to stop, the same error again and again."""

RANDOM_AFTER = 5
"""Repeated configurations in a row after which the next is drawn at random."""
EXHAUSTED_AFTER = 20
"""Repeated configurations in a row that end a study: its space holds nothing new."""
ERRORS_IN_A_ROW = 3
"""Trials in a row with the same error that stop a study: the code or the data is broken, not the trial."""


class BudgetClock:
    """The wall time of a study's commands, that of earlier sessions included."""

    def __init__(
        self, opened: OpenStudy, seconds: float | None, begun: float | None, preparing: float
    ) -> None:
        """Args:
        opened: The study; it remembers the time.
        seconds: That there are, ``None``: as many as it takes.
        begun: When this command began, on the monotonic clock; ``None``: now.
        preparing: See `costs.closing_seconds`.
        """
        self._opened, self._seconds, self.preparing = opened, seconds, preparing
        self._begun = time.monotonic() if begun is None else begun
        self._before = opened.seconds()

    @property
    def limited(self) -> bool:
        return self._seconds is not None

    def left(self) -> float:
        """Seconds until the command has to end."""
        return math.inf if self._seconds is None else self._seconds - self._used()

    def left_to_finish(self) -> float:
        """Seconds until what comes last has to begin."""
        return self.left() - costs.closing_seconds(self._opened, self.preparing)

    def reserved(self, seconds: float) -> float:
        """What is set aside of the budget for work that is expected to take so long: a quarter at most."""
        return seconds if self._seconds is None else min(seconds, self._seconds / 4)

    def save(self) -> None:
        """Has the study remember the time."""
        self._opened.set_seconds(self._used())

    def _used(self) -> float:
        return self._before + time.monotonic() - self._begun


class BudgetCounter:
    """Counts a session's trials, on top of what the study had before, and what they cost."""

    repeats: int
    """Configurations in a row that an earlier trial has."""

    repeats_of: Counter[str]
    """The same of each base."""

    elsewhere: int
    """Trials that other supervisors run."""

    def __init__(
        self, opened: OpenStudy, file: StudyFile, state: StudyState, uuid: str, clock: BudgetClock
    ) -> None:
        """Args:
        opened: The study.
        file: Says when it ends.
        state: What the user sees; its counts are kept up to date.
        uuid: The supervisor whose session it is.
        clock: Of the study.
        """
        self._opened, self._state, self._uuid, self._clock = opened, state, uuid, clock
        self._budget, self._keep = file.budget, file.keep
        self._direction = file.objectives[0].direction if len(file.objectives) == 1 else None
        self.repeats, self.repeats_of = 0, Counter()
        self._errors: deque[str] = deque(maxlen=ERRORS_IN_A_ROW)
        self.refresh()

    def ending(self) -> Ending | None:
        """Why no trial is to begin any more, ``None`` where one may; how many are left is not looked at."""
        if self.repeats >= EXHAUSTED_AFTER:
            return "exhausted"
        if len(self._errors) == ERRORS_IN_A_ROW and self._errors[0] and len(set(self._errors)) == 1:
            return "errors"
        if self._clock.limited and self.next_base() is None:
            return "time"
        if self._budget.patience is not None and self._state.since_best >= self._budget.patience:
            return "patience"
        return None

    def left(self) -> float:
        """Seconds until the last trial has to end, so that there is time for what comes after it."""
        return self._clock.left() - self._reserve

    def next_base(self) -> str | None:
        """The base whose turn it is; ``None`` where no trial would end in time."""
        now, running = time.monotonic(), dict[str, list[float]]()
        for displayed in self._state.running.values():
            running.setdefault(displayed.base, []).append(now - displayed.started)
        exhausted = [stem for stem, repeats in self.repeats_of.items() if repeats >= RANDOM_AFTER]
        return costs.next_base(self._state.costs, running, self.left(), exhausted)

    def remaining(self, running: int) -> int:
        """How many trials may begin, beside this supervisor's ``running`` ones; as last counted."""
        if self._all_asked:
            return 0
        return self._state.total - self._state.used - self.elsewhere - running

    def admits(self, number: int) -> bool:
        """Whether the budget has room for a trial that was just asked for.

        Every supervisor counts the configurations below it, whose numbers the database has given out, so that
        all agree which are within; what runs again counts where it was first asked for.
        """
        return self._admits(self._opened.trials(), number)

    def _admits(self, trials: Sequence[FrozenTrial], number: int) -> bool:
        """The same of a trial that is yet to be asked for, the next new one too."""
        root = next((root_of(trial) for trial in trials[number : number + 1]), number)
        return self._opened.admitted(trials, below=root) < self._state.total

    def add(self, trial: optuna.Trial, outcome: Outcome) -> list[TrialRow]:
        """Counts a trial that has been settled; the rows of all."""
        self._errors.append(outcome.fingerprint)
        self._state.running.pop(trial.number, None)
        self._state.finished_here += 1
        self._state.cache_lookups += outcome.metrics.get("cost/cache_lookups", 0)
        self._state.cache_hits += outcome.metrics.get("cost/cache_hits", 0)
        return self.refresh()

    def refresh(self) -> list[TrialRow]:
        """Reads the trials once, for all that is counted; the rows of all."""
        trials = self._opened.trials()
        rows = self._opened.rows(trials)
        found = Counter(row.state for row in rows)
        self._state.counts = {
            state: found[state]
            for state in ("complete", "pruned", "failed", INTERRUPTED, DIED, STOPPED)
            if found[state]
        }
        self.count(trials)
        best = self._opened.ranked(rows)[:1]
        self._state.best = (best[0].value or 0.0, best[0].number, best[0].base) if best else None
        self._state.since_best = _since(trials, best[0].number) if best else 0
        self._state.costs = costs.costs_of(trials, list(self._opened.stored["bases"]), self._direction)
        finishing = costs.finishing_seconds(self._opened, trials, self._keep, self._clock.preparing)
        self._reserve = self._clock.reserved(finishing)
        self._state.finishing = finishing
        return rows

    def count(self, trials: Sequence[FrozenTrial] | None = None) -> None:
        """Counts what the budget is used for and who runs what; of all trials, or of these."""
        trials = self._opened.trials() if trials is None else trials
        self._state.used = self._opened.logical(trials)
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        self.elsewhere = sum(trial.user_attrs.get(OWNER) != self._uuid for trial in running)
        # Cut trials that are not queued again yet make room that is for nothing else.
        waiting = [trial.number for trial in trials if trial.state == TrialState.WAITING]
        self._all_asked = not any(self._admits(trials, number) for number in [*waiting, len(trials)])


def _since(trials: Sequence[FrozenTrial], best: int) -> int:
    """How many counting trials have ended after trial ``best``."""
    ended = next(trial.datetime_complete for trial in trials if trial.number == best)
    return sum(
        counts(trial)
        for trial in trials
        if ended is not None and trial.datetime_complete is not None and trial.datetime_complete > ended
    )
