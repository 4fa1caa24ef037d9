"""How a trial ends: what Optuna, its folder and the user are told."""

import contextlib
import time
from collections.abc import Callable, Sequence

from optuna.exceptions import UpdateFinishedTrialError

from vidclf import ranking
from vidclf.attempt import Attempt, Outcome, now_ms
from vidclf.ranking import TrialRow
from vidclf.search.display import Display, StudyState, finished_line
from vidclf.search.judging import finite
from vidclf.search.latency import Stopwatch
from vidclf.search.opening import Running
from vidclf.search.reconcile import (
    FencedError,
    bound_sizes,
    deaths,
    queue_again,
    root_of,
    settle,
    settle_or_interrupt,
)
from vidclf.search.record import BASE, INTERRUPTED, OpenStudy
from vidclf.search.tally import Tally
from vidclf.store import DatabaseAway

FENCED = "taken over by another supervisor, to which this one seemed dead"


class Closing:
    """Ends the trials of a session, and keeps count of what they leave."""

    def __init__(
        self,
        *,
        opened: OpenStudy,
        tally: Tally,
        stopwatch: Stopwatch,
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

    def end(self, running: Running, outcome: Outcome) -> None:
        """Ends a trial that needs no worker."""
        running.attempt.finish(outcome)
        self._register(running.attempt)
        self.settle(running, outcome)

    def settle(self, running: Running, outcome: Outcome, *, again: bool = False) -> bool:
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

    def _tell(self, running: Running, outcome: Outcome, again: bool) -> None:
        if running.fenced:
            raise FencedError
        if outcome.status == "complete" and self._stopwatch.wanted:
            shape = str(self._opened.frozen(running.trial.number).user_attrs.get("shape"))
            with contextlib.suppress(UpdateFinishedTrialError):  # which `settle` says, too
                bound_sizes(self._opened, running.trial, self._stopwatch.trusted(shape))
        settle(self._opened, running.trial, outcome, again=again)

    def _say(self, running: Running, outcome: Outcome, again: bool) -> None:
        state: str = "infeasible" if outcome.reason.startswith("infeasible") else outcome.status
        metric = self._opened.objective.metric
        self._shown.line(
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

    def bury(self, running: Running, cause: str) -> None:
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

    def interrupt(self, running: Running, *, queue: bool) -> None:
        """Ends a trial that is cut.

        Args:
            running: The trial; its worker has been stopped.
            queue: Others run the study, and are to run it again; else the next session does.
        """
        with contextlib.suppress(FencedError, DatabaseAway):
            settle_or_interrupt(self._opened, running.trial, "asked to stop", queue=queue)

    def drop(self, running: Running) -> None:
        """Keeps the folder of a trial that was taken over, as one that was cut."""
        running.attempt.finish(Outcome("interrupted", f"{INTERRUPTED}: {FENCED}", {}, now_ms()))
        self._state.running.pop(running.trial.number, None)
        self._tally.count()
        self._shown.line(f"trial {running.trial.number} was {FENCED}")

    def _drop_models(self, rows: Sequence[TrialRow]) -> None:
        """Deletes the models of trials that have fallen out of those that are kept."""
        stay = ranking.kept(rows, self._opened.objective.direction, self._keep)
        for number in self._models - {row.number for row in stay}:
            self._opened.attempt(number).drop_model()
            self._models.discard(number)
