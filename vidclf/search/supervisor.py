"""The supervisor: the one process that holds a study; it hands trials to its workers."""

import contextlib
import multiprocessing.connection
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from vidclf import config, ranking
from vidclf.config import InputError
from vidclf.models.base import ExperimentConfig
from vidclf.ranking import TrialRow
from vidclf.search import display as screen
from vidclf.search.company import Company
from vidclf.search.crew import Arrivals, machine_of
from vidclf.search.exhaustive import exhausted
from vidclf.search.judging import Course, finite, judge
from vidclf.search.latency import Stopwatch
from vidclf.search.opening import Asked, Opening, Running
from vidclf.search.ownership import Ownership
from vidclf.search.reconcile import (
    FencedError,
    bound_sizes,
    deaths,
    put_back,
    queue_again,
    release,
    root_of,
    settle,
    settle_or_interrupt,
)
from vidclf.search.record import AHEAD, BASE, INTERRUPTED, OWNER, Budget, OpenStudy
from vidclf.search.space import Space
from vidclf.search.tally import Ending, Tally
from vidclf.search.worker import LatencyTask, Message, Paused, Progress, Resume, RunTask, Verdict, Worker
from vidclf.store import Attempt, DatabaseAway, Outcome, now_ms

_FENCED = "taken over by another supervisor, to which this one seemed dead"


class Supervisor:
    """Asks Optuna, hands out, listens, tells; until the budget is used up."""

    def __init__(
        self,
        *,
        opened: OpenStudy,
        space: Space,
        budget: Budget,
        keep: int,
        ask_ahead_from: int,
        ownership: Ownership,
        shown: screen.Display,
        state: screen.StudyState,
        opening: Opening,
        register: Callable[[Attempt], None],
        clip: Path,
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        """Args:
        opened: The study, owned and reconciled.
        space: Where to sample.
        budget: When the search ends.
        keep: How many of the best models stay, beside the Pareto front.
        ask_ahead_from: Trials after which the next one is asked for while workers are busy: before, the
            sampler would know too little of those that run.
        ownership: This process's hold on the study.
        shown: What the user sees.
        state: Its content.
        opening: Makes the trials' folders.
        register: Told of each new attempt folder.
        clip: What latencies are measured on, where a constraint asks for them.
        settled: Called when a trial has ended.
        """
        self._opened = opened
        self._space = space
        self._budget = budget
        self._keep = keep
        self._ask_ahead_from = ask_ahead_from
        self._ownership = ownership
        self._shown = shown
        self._state = state
        self._opening = opening
        self._register = register
        self._clip = clip
        self._company = Company(opened, ownership, shown.line)
        self._stopwatch = Stopwatch(opened, shown.line, lambda: self._company.alone_here)
        self._held: list[tuple[Worker, Message | None]] = []
        self._settled = settled
        self._running: dict[Worker, Running] = {}
        self._idle: list[Worker] = []
        self._arrivals = Arrivals(shown.line)
        self._ahead: Asked | None = None
        self._models: set[int] = set()
        self._stop = False
        self._tally = Tally(opened, budget, state, ownership.uuid)
        self._machines: dict[Worker, Mapping[str, str]] = {}

    def stop(self) -> None:
        """Ends the study at the next opportunity; running trials are interrupted."""
        self._stop = True

    def run(self, crew: Sequence[Worker]) -> tuple[Ending, list[Worker]]:
        """Runs trials until the budget is used up.

        Args:
            crew: Workers that are idle, or on their way.

        Returns:
            Why it ended, and the workers that are idle and well.
        """
        self._idle = self._arrivals.admit(crew)
        try:
            return self._loop(), self._idle
        finally:
            if self._ahead:
                put_back(self._opened, self._ahead.trial.number)
            for worker, running in self._running.items():
                worker.stop()
                self._interrupt(running)
            self._running.clear()
            self._arrivals.stop()
            self._tally.refresh()
            self._tally.save_seconds()

    def _interrupt(self, running: Running) -> None:
        """Settles a trial that is cut; where others run the study, it is for them to run again."""
        with contextlib.suppress(FencedError, DatabaseAway):
            settle_or_interrupt(self._opened, running.trial, "asked to stop")
            cut = self._opened.frozen(running.trial.number)
            if self._company.others and cut.state == TrialState.FAIL:
                queue_again(self._opened, cut)

    def _loop(self) -> Ending:
        while not self._stop:
            self._look_around()
            ending = self._ending()
            if ending is None and self._idle and (self._ahead or self._budget_left()):
                self._start()
                continue
            if not self._running and (ending or not self._more_to_come()):
                return ending or "finished"
            self._arrivals.remind(others=bool(self._running or self._idle))
            if not self._listen() and ending is None and self._may_ask_ahead():
                self._ahead = self._ask(ahead=True)
            self._state.awaited = len(self._arrivals.workers)
            self._shown.refresh(self._state)
        return "interrupted"

    def _more_to_come(self) -> bool:
        """Whether a trial is to begin yet, here or because another supervisor's does not end."""
        unfinished = self._company.others and self._state.used < self._state.total
        return bool(self._ahead or self._budget_left() or self._tally.elsewhere or unfinished)

    def _look_around(self) -> None:
        """Takes over from other supervisors that are dead, and notes the time, now and then."""
        if self._company.look(waiting=not self._running):
            self._tally.count()
            self._tally.save_seconds()

    def _ending(self) -> Ending | None:
        ending = self._tally.ending()
        if ending is None and self._ahead is None and exhausted(self._opened.study):
            return "finished"
        return ending

    def _budget_left(self, after: int = 0) -> bool:
        """Whether there are more than ``after`` trials to begin."""
        if self._company.others:
            self._tally.count()
        return self._tally.room(len(self._running)) > after

    def _may_ask_ahead(self) -> bool:
        """Whether a worker that becomes free would have to wait, and the sampler knows enough by now."""
        busy = self._ahead is None and not self._idle
        return busy and self._state.used >= self._ask_ahead_from and self._budget_left(len(self._running))

    def _ask(self, *, ahead: bool = False) -> Asked | None:
        """A configuration that is to be run; ``None`` where it was settled at once.

        That is so where its value is known already, where its values exclude each other, and where
        other supervisors have used up the budget at the same moment.
        """
        trial = self._opened.study.ask()
        trial.set_user_attr(OWNER, self._ownership.uuid)
        if not self._tally.admits(trial.number):
            release(self._opened, trial)
            self._tally.count()
            return None
        try:
            stem, experiment = self._space.suggest(trial)
        except InputError as error:
            self._give_up(trial, error)
            return None
        earlier = self._tally.earlier(trial.params)
        if earlier is not None:
            self._reuse(trial, stem, experiment, earlier)
            return None
        self._tally.repeats = 0
        if ahead:
            trial.set_user_attr(AHEAD, True)
        return Asked(trial, stem, experiment)

    def _start(self) -> None:
        """Hands the next configuration to an idle worker."""
        ahead, self._ahead = self._ahead, None
        if ahead:
            if not self._still_own(ahead.trial):
                return
            ahead.trial.set_user_attr(AHEAD, False)
            earlier = self._tally.earlier(ahead.trial.params)
            if earlier is not None:  # the same has ended since it was asked for
                self._reuse(ahead.trial, ahead.stem, ahead.experiment, earlier)
                return
        asked = ahead or self._ask()
        if asked is None:
            return
        trial, stem = asked.trial, asked.stem
        running = self._opening.begin(trial, stem)
        frozen = self._opened.frozen(trial.number)
        if "retry_of" in frozen.user_attrs:
            running.attempt.take_checkpoint(self._opened.attempt(frozen.user_attrs["retry_of"]))
        running.course = Course.after(frozen.intermediate_values)
        worker = self._idle.pop()
        shape = self._shape(trial, asked.experiment, worker)
        if self._too_slow(worker, running, asked.experiment, shape):
            self._idle.append(worker)
            return
        self._running[worker] = running
        self._state.running[trial.number] = screen.TrialState(stem)
        worker.send(RunTask(config.dump(asked.experiment), running.attempt.folder, self._opened.repeats))
        self._register(running.attempt)

    def _still_own(self, trial: optuna.Trial) -> bool:
        """Whether nobody has taken the trial over meanwhile, as from a machine that slept."""
        frozen = self._opened.frozen(trial.number)
        return frozen.state == TrialState.RUNNING and frozen.user_attrs.get(OWNER) == self._ownership.uuid

    def _shape(self, trial: optuna.Trial, experiment: ExperimentConfig, worker: Worker) -> str:
        """Records what latency depends on: the worker's machine, and what of the model decides it."""
        machine = self._machines.setdefault(worker, machine_of(worker))
        shape = {**machine, **experiment.resolved().shape()}
        if worker.machine:  # there, what is automatic may be another than here
            shape["asked"] = config.lookup(config.dump(experiment), "train.precision")
        digest = config.digest(shape)
        trial.set_user_attr("shape", digest)
        trial.set_user_attr("machine", config.digest(machine))
        return digest

    def _too_slow(self, worker: Worker, running: Running, experiment: ExperimentConfig, shape: str) -> bool:
        """Settles a trial whose model is known to be too slow before it is trained."""
        if not self._stopwatch.wanted:
            return False
        if self._opened.latency(shape) is None and experiment.timed_untrained:
            self._time(worker, shape, experiment=config.dump(experiment))
        broken = bound_sizes(self._opened, running.trial, self._stopwatch.trusted(shape))
        if not broken:
            return False
        outcome = Outcome("pruned", f"infeasible: {'; '.join(broken)}", {}, now_ms())
        config.write_toml(config.dump(experiment), running.attempt.config)
        self._end(running, outcome)
        return True

    def _give_up(self, trial: optuna.Trial, error: InputError) -> None:
        """Fails a configuration whose values are each allowed but not together."""
        stem = str(trial.params.get(BASE, next(iter(self._space.bases))))
        running = self._opening.begin(trial, stem)
        outcome = Outcome("failed", f"no such model: {error}", {}, now_ms(), "values that exclude each other")
        self._end(running, outcome)

    def _end(self, running: Running, outcome: Outcome) -> None:
        """Ends a trial that needs no worker."""
        running.attempt.finish(outcome)
        self._register(running.attempt)
        self._settle(running, outcome)

    def _reuse(self, trial: optuna.Trial, stem: str, experiment: ExperimentConfig, earlier: int) -> None:
        """Tells the value that this very configuration already has."""
        self._tally.repeats += 1
        running = self._opening.begin(trial, stem, earlier)
        before = self._opened.frozen(earlier).user_attrs
        trial.set_user_attr("reused_from", earlier)
        trial.set_user_attr("shape", before.get("shape"))
        trial.set_user_attr("machine", before.get("machine"))
        config.write_toml(config.dump(experiment), running.attempt.config)
        running.attempt.record(0, before["metrics"])
        outcome = Outcome("complete", f"same configuration as trial {earlier}", before["metrics"], now_ms())
        self._end(running, outcome)

    def _listen(self) -> bool:
        """Waits half a second at most for news of the workers, and answers them; whether there was any."""
        held, self._held = self._held, []
        for worker, message in held:
            self._hear(worker, message)
        listened = (*self._running, *self._idle, *self._arrivals.workers)
        connections = {worker.connection: worker for worker in listened}
        # A worker that is free must not wait for a question that nobody waits for yet.
        timeout = 0.0 if self._may_ask_ahead() else 0.5
        news = multiprocessing.connection.wait(list(connections), timeout)
        for ready in news:
            worker = next(worker for connection, worker in connections.items() if connection is ready)
            self._hear(worker, worker.receive())
        return bool(news or held)

    def _hear(self, worker: Worker, message: Message | None) -> None:
        """Answers one message; ``None`` is the worker's death."""
        if isinstance(message, Paused):  # too late, or after an answer that it waited for
            worker.send(Resume())
            return
        if worker in self._arrivals.workers:
            arrived = self._arrivals.hear(worker, message)
            self._idle += [arrived] if arrived else []
            return
        if worker in self._idle:  # it can only have died
            self._idle.remove(worker)
            self._idle += self._arrivals.admit([worker.replacement()])
            return
        running = self._running[worker]
        if isinstance(message, Progress):
            try:
                worker.send(self._judge(running, message))
            except UpdateFinishedTrialError:
                running.fenced = True
                worker.send(Verdict(_FENCED))
            return
        del self._running[worker]
        if isinstance(message, Outcome):
            self._time_once(worker, running, message)
            self._idle.append(worker)
            self._settle(running, message)
        else:
            self._bury(running, worker.death())
            self._idle += self._arrivals.admit([worker.replacement()])

    def _time_once(self, worker: Worker, running: Running, outcome: Outcome) -> None:
        """Measures a trained model of a new shape where a constraint asks for its latency."""
        shape = str(self._opened.frozen(running.trial.number).user_attrs["shape"])
        complete = outcome.status == "complete" and running.attempt.model.is_dir()
        if self._stopwatch.wanted and complete and self._opened.latency(shape) is None:
            self._time(worker, shape, folder=running.attempt.model)

    def _time(
        self,
        worker: Worker,
        shape: str,
        *,
        folder: Path | None = None,
        experiment: Mapping[str, Any] | None = None,
    ) -> None:
        """Measures a shape on an idle worker while the others wait; what they say instead is heard later."""
        task = LatencyTask(self._clip, folder, experiment)
        self._held += self._stopwatch.time(worker, task, shape, list(self._running))

    def _bury(self, running: Running, cause: str) -> None:
        """Settles a trial whose worker has died: it runs again, or is given up."""
        root = root_of(self._opened.frozen(running.trial.number))
        died = deaths(self._opened, root)
        again = died < self._budget.retries
        if not again:
            running.attempt.drop_checkpoint()
            cause = f"given up: {cause}" + (f", {died + 1} times in all" if died else "")
        outcome = Outcome("failed", cause, {}, now_ms())
        # Optuna first: from a folder that says failed, the next session would give the trial up.
        settled = self._settle(running, outcome, again=again)
        if settled:
            running.attempt.finish(outcome)
        if settled and again:
            queue_again(self._opened, self._opened.frozen(running.trial.number))
            self._tally.count()  # or the study might end before it is run again

    def _judge(self, running: Running, progress: Progress) -> Verdict:
        """Whether the trial may go on; the user sees how far it has come."""
        verdict = judge(self._opened, running.trial, running.course, progress)
        shown = self._state.running[running.trial.number]
        shown.step, shown.value = running.course.step, running.course.value
        return verdict

    def _settle(self, running: Running, outcome: Outcome, *, again: bool = False) -> bool:
        """Tells Optuna, and the user; ``False`` where another supervisor has done so."""
        metric = self._opened.objective.metric
        checked = finite(self._opened, outcome)
        if checked is not outcome:
            outcome = checked
            running.attempt.finish(outcome)
        try:
            self._tell(running, outcome, again)
        except FencedError:
            self._drop(running)
            return False
        number = running.trial.number
        value = outcome.metrics.get(metric) if outcome.status == "complete" else None
        rows = self._tally.add(running.trial, outcome)
        self._settled()
        if running.attempt.model.is_dir():
            self._models.add(number)
            self._drop_models(rows)
        if self._state.best and self._ownership.leads:
            self._opened.own_attempt.record(self._state.used, {"study/best": self._state.best[0]})
        params = {key: item for key, item in running.trial.params.items() if key != BASE}
        state: str = "infeasible" if outcome.reason.startswith("infeasible") else outcome.status
        state = "runs again" if again else state
        self._shown.line(
            screen.finished_line(
                number,
                base=running.stem,
                state=state,
                seconds=time.monotonic() - running.started,
                value=value,
                note=outcome.reason,
                params=params,
            )
        )
        return True

    def _tell(self, running: Running, outcome: Outcome, again: bool) -> None:
        if running.fenced:
            raise FencedError
        if outcome.status == "complete" and self._stopwatch.wanted:
            shape = str(self._opened.frozen(running.trial.number).user_attrs.get("shape"))
            with contextlib.suppress(UpdateFinishedTrialError):  # which `settle` says, too
                bound_sizes(self._opened, running.trial, self._stopwatch.trusted(shape))
        settle(self._opened, running.trial, outcome, again=again)

    def _drop(self, running: Running) -> None:
        """Keeps the folder of a trial that was taken over, as one that was cut."""
        running.attempt.finish(Outcome("interrupted", f"{INTERRUPTED}: {_FENCED}", {}, now_ms()))
        self._state.running.pop(running.trial.number, None)
        self._tally.count()
        self._shown.line(f"trial {running.trial.number} was {_FENCED}")

    def _drop_models(self, rows: Sequence[TrialRow]) -> None:
        """Deletes the models of trials that have fallen out of those that are kept."""
        stay = ranking.kept(rows, self._opened.objective.direction, self._keep)
        for number in self._models - {row.number for row in stay}:
            self._opened.attempt(number).drop_model()
            self._models.discard(number)
