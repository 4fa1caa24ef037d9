"""The supervisor: the one process that holds a study; it hands trials to its workers."""

import multiprocessing.connection
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from vidclf import config
from vidclf.exceptions import InputError
from vidclf.models.base import ExperimentConfig
from vidclf.runs.folder import Attempt, Outcome, now_ms
from vidclf.search.definition.grid import exhausted
from vidclf.search.definition.space import Space
from vidclf.search.execution.budget import BudgetCounter, Ending
from vidclf.search.execution.display import Display, ShownTrial, StudyState
from vidclf.search.execution.latency import LatencyMeter
from vidclf.search.execution.recovery import SupervisorGroup, bound_sizes, is_owned, put_back, release
from vidclf.search.execution.trials import (
    FENCED,
    AskedTrial,
    RunningTrial,
    TrialFinisher,
    TrialProgress,
    TrialStarter,
    judge,
)
from vidclf.search.execution.worker_pool import StartingWorkers, machine_of
from vidclf.search.record.owners import Ownership
from vidclf.search.record.settings import Budget
from vidclf.search.record.study import AHEAD, BASE, OWNER, OpenStudy
from vidclf.workers.protocol import (
    LatencyTask,
    Message,
    Paused,
    Resume,
    RunTask,
    StepDecision,
    StepReport,
    Worker,
)


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
        shown: Display,
        state: StudyState,
        opening: TrialStarter,
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
        self._ask_ahead_from = ask_ahead_from
        self._ownership = ownership
        self._shown = shown
        self._state = state
        self._opening = opening
        self._register = register
        self._clip = clip
        self._company = SupervisorGroup(opened, ownership)
        self._stopwatch = LatencyMeter(opened, lambda: self._company.alone_here)
        self._unheard: deque[tuple[Worker, Message | None]] = deque()
        self._running: dict[Worker, RunningTrial] = {}
        self._idle: list[Worker] = []
        self._arrivals = StartingWorkers()
        self._ahead: AskedTrial | None = None
        self._stop = False
        self._tally = BudgetCounter(opened, budget, state, ownership.uuid)
        self._closing = TrialFinisher(
            opened=opened,
            tally=self._tally,
            stopwatch=self._stopwatch,
            retries=budget.retries,
            keep=keep,
            shown=shown,
            state=state,
            leads=lambda: ownership.leads,
            register=register,
            settled=settled,
        )
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
                put_back(self._opened, self._ahead.trial.number, self._ownership.uuid)
            for worker, running in self._running.items():
                worker.stop()
                self._closing.interrupt(running, queue=bool(self._company.others))
            self._running.clear()
            self._arrivals.stop()
            self._tally.refresh()
            self._tally.save_seconds()

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
        begins = self._ahead or self._budget_left()
        unfinished = self._tally.elsewhere or self._company.others
        return bool(begins or (unfinished and self._state.used < self._state.total))

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

    def _ask(self, *, ahead: bool = False) -> AskedTrial | None:
        """A configuration that is to be run; ``None`` where it was settled at once.

        That is so where its value is known already, where its values exclude each other, where other
        supervisors have used up the budget at the same moment, and where one has taken it over.
        """
        trial = self._opened.study.ask()
        try:
            return self._sample(trial, ahead=ahead)
        except UpdateFinishedTrialError:
            self._tally.count()
            return None

    def _sample(self, trial: optuna.Trial, *, ahead: bool) -> AskedTrial | None:
        """Signs a trial and gives it its values, see `_ask`."""
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
        return AskedTrial(trial, stem, experiment)

    def _start(self) -> None:
        """Hands the next configuration to an idle worker."""
        asked = self._next()
        if asked is None:
            return
        running = self._opening.begin(asked.trial, asked.stem)
        try:
            self._hand_over(running, asked)
        except UpdateFinishedTrialError:
            self._closing.drop(running)
            self._register(running.attempt)

    def _next(self) -> AskedTrial | None:
        """What was asked for ahead, else what is asked for now, see `_ask`."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return self._ask()
        if not is_owned(self._opened, ahead.trial.number, self._ownership.uuid):
            return None
        ahead.trial.set_user_attr(AHEAD, False)
        earlier = self._tally.earlier(ahead.trial.params)
        if earlier is not None:  # the same has ended since it was asked for
            self._reuse(ahead.trial, ahead.stem, ahead.experiment, earlier)
            return None
        return ahead

    def _hand_over(self, running: RunningTrial, asked: AskedTrial) -> None:
        """Gives a trial to an idle worker, unless its model is known to be too slow.

        Raises:
            UpdateFinishedTrialError: Another supervisor has taken the trial over.
        """
        frozen = self._opened.frozen(asked.trial.number)
        if "retry_of" in frozen.user_attrs:
            running.attempt.take_checkpoint(self._opened.attempt(frozen.user_attrs["retry_of"]))
        running.course = TrialProgress.after(frozen.intermediate_values)
        worker = self._idle[-1]
        shape = self._shape(asked.trial, asked.experiment, worker)
        if self._too_slow(worker, running, asked.experiment, shape):
            return
        self._idle.remove(worker)
        self._running[worker] = running
        self._state.running[asked.trial.number] = ShownTrial(asked.stem)
        worker.send(RunTask(config.dump(asked.experiment), running.attempt.folder, self._opened.repeats))
        self._register(running.attempt)

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

    def _too_slow(
        self, worker: Worker, running: RunningTrial, experiment: ExperimentConfig, shape: str
    ) -> bool:
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
        self._closing.end(running, outcome)
        return True

    def _give_up(self, trial: optuna.Trial, error: InputError) -> None:
        """Fails a configuration whose values are each allowed but not together."""
        stem = str(trial.params.get(BASE, next(iter(self._space.bases))))
        running = self._opening.begin(trial, stem)
        outcome = Outcome("failed", f"no such model: {error}", {}, now_ms(), "values that exclude each other")
        self._closing.end(running, outcome)

    def _reuse(self, trial: optuna.Trial, stem: str, experiment: ExperimentConfig, earlier: int) -> None:
        """Tells the value that this very configuration already has."""
        self._tally.repeats += 1
        before = self._opened.frozen(earlier).user_attrs
        trial.set_user_attr("reused_from", earlier)
        trial.set_user_attr("shape", before.get("shape"))
        trial.set_user_attr("machine", before.get("machine"))
        running = self._opening.begin(trial, stem, earlier)
        config.write_toml(config.dump(experiment), running.attempt.config)
        running.attempt.record(0, before["metrics"])
        outcome = Outcome("complete", f"same configuration as trial {earlier}", before["metrics"], now_ms())
        self._closing.end(running, outcome)

    def _listen(self) -> bool:
        """Waits half a second at most for news of the workers, and answers them; whether there was any."""
        waiting = self._waiting()
        listened = (*self._running, *self._idle, *self._arrivals.workers)
        connections = {worker.connection: worker for worker in listened if worker not in waiting}
        # A worker that is free must not wait for a question that nobody waits for yet.
        timeout = 0.0 if waiting or self._may_ask_ahead() else 0.5
        for ready in multiprocessing.connection.wait(list(connections), timeout):
            worker = connections[cast(Connection, ready)]
            self._unheard.append((worker, worker.receive()))
        news = bool(self._unheard)
        while self._unheard:
            self._hear(*self._unheard.popleft())
        return news

    def _waiting(self) -> set[Worker]:
        """Workers that have said something, and compute nothing until they are heard."""
        return {worker for worker, _ in self._unheard}

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
        if isinstance(message, StepReport):
            try:
                worker.send(self._judge(running, message))
            except UpdateFinishedTrialError:
                running.fenced = True
                worker.send(StepDecision(FENCED))
            return
        del self._running[worker]
        if isinstance(message, Outcome):
            self._time_once(worker, running, message)
            self._idle.append(worker)
            self._closing.settle(running, message)
        else:
            self._closing.bury(running, worker.death())
            self._idle += self._arrivals.admit([worker.replacement()])

    def _time_once(self, worker: Worker, running: RunningTrial, outcome: Outcome) -> None:
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
        busy = [other for other in self._running if other not in self._waiting()]
        self._unheard += self._stopwatch.time(worker, task, shape, busy)

    def _judge(self, running: RunningTrial, progress: StepReport) -> StepDecision:
        """Whether the trial may go on; the user sees how far it has come."""
        verdict = judge(self._opened, running.trial, running.course, progress)
        shown = self._state.running[running.trial.number]
        shown.step, shown.value = running.course.step, running.course.value
        return verdict
