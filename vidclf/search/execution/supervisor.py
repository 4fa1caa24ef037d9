"""The supervisor: asks Optuna for trials, has workers run them, and tells Optuna how they end."""

import contextlib
import logging
import multiprocessing.connection
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from vidclf import config
from vidclf.exceptions import InputError
from vidclf.models import MODELS
from vidclf.models.base import ExperimentConfig
from vidclf.runs.folder import Outcome, now_ms
from vidclf.search.definition.grid import ExhaustiveSampler, exhausted
from vidclf.search.definition.samplers import fixed_to
from vidclf.search.execution.budget import RANDOM_AFTER, BudgetCounter, Ending
from vidclf.search.execution.context import SessionContext
from vidclf.search.execution.display import DisplayedTrial
from vidclf.search.execution.latency import LatencyMeter
from vidclf.search.execution.recovery import SupervisorGroup, bound_sizes, is_owned, put_back, release
from vidclf.search.execution.trials import (
    FENCED,
    AskedTrial,
    RunningTrial,
    TrialFinisher,
    TrialProgress,
    begin_trial,
    judge,
)
from vidclf.search.execution.worker_pool import StartingWorkers, machine_of
from vidclf.search.record.study import AHEAD, BASE, OWNER, REPEATS
from vidclf.system import Connection
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

logger = logging.getLogger(__name__)


class Supervisor:
    """Runs trials on workers until the budget is used up."""

    def __init__(self, session: SessionContext) -> None:
        self._session = session
        self._opened, self._state = session.opened, session.state
        self._space, self._uuid = session.definition.space, session.ownership.uuid
        # Before that many trials the sampler would know too little of those that still run.
        self._ask_ahead_from = session.definition.file.sampler.options.get("startup_trials", 0)
        self._group = SupervisorGroup(session.opened, session.ownership)
        self._meter = LatencyMeter(session.opened)
        self._clock = session.clock
        self._counter = BudgetCounter(
            session.opened, session.definition.file, session.state, session.ownership.uuid, self._clock
        )
        self._finisher = TrialFinisher(session, self._counter, self._meter)
        self._unanswered: deque[tuple[Worker, Message | None]] = deque()
        self._running: dict[Worker, RunningTrial] = {}
        self._idle: list[Worker] = []
        self._starting = StartingWorkers()
        self._ahead: AskedTrial | None = None
        self._machines: dict[Worker, Mapping[str, str]] = {}
        self._stop = False
        self._stopped_by_time = False

    def stop(self) -> None:
        """Ends the study at the next opportunity; running trials are interrupted."""
        self._stop = True

    def run(self, workers: Sequence[Worker]) -> tuple[Ending, list[Worker]]:
        """Runs trials until the budget is used up.

        Args:
            workers: Idle ones, and ones that are starting.

        Returns:
            Why it ended, and the workers that are idle and alive.

        Raises:
            InputError: Another supervisor has taken the study over, to which this one seemed dead.
        """
        self._idle = self._starting.admit(workers)
        try:
            return self._loop(), self._idle
        finally:
            if self._ahead:
                put_back(self._opened, self._ahead.trial.number, self._uuid)
            for worker, running in self._running.items():
                worker.stop()
                queue = bool(self._group.others) and not self._stopped_by_time
                self._finisher.interrupt(running, queue=queue, by_time=self._stopped_by_time)
            self._running.clear()
            self._starting.stop()
            self._counter.refresh()
            if not self._session.ownership.fenced:
                self._clock.save()

    def _loop(self) -> Ending:
        while not self._stop:
            self._update_group()
            ending = self._ending()
            if self._running and self._counter.left() <= 0:
                self._stopped_by_time = True
                return "time"
            if ending is None and self._idle and (self._ahead or self._budget_left()):
                self._start()
                continue
            if not self._running and (ending or not self._trials_remain()):
                return ending or "finished"
            self._starting.check_waiting(available=bool(self._running or self._idle))
            if not self._receive() and ending is None and self._may_ask_ahead():
                self._ahead = self._ask(ahead=True)
            self._state.starting = len(self._starting.workers)
            self._state.time_left = self._clock.left() if self._clock.limited else None
            self._session.display.refresh(self._state)
        return "interrupted"

    def _trials_remain(self) -> bool:
        """Whether a trial may still begin: now, or when one of another supervisor fails to end."""
        begins = self._ahead or self._budget_left()
        unfinished = self._counter.elsewhere or self._group.others
        return bool(begins or (unfinished and self._state.used < self._state.total))

    def _update_group(self) -> None:
        """Where it is due, takes over from dead supervisors and saves the time used."""
        if self._group.refresh(waiting=not self._running):
            self._counter.count()
            self._clock.save()

    def _ending(self) -> Ending | None:
        ending = self._counter.ending()
        if ending is None and self._ahead is None and exhausted(self._opened.study):
            return "finished"
        return ending

    def _budget_left(self, after: int = 0) -> bool:
        """Whether there are more than ``after`` trials to begin."""
        if self._group.others:
            self._counter.count()
        return self._counter.remaining(len(self._running)) > after

    def _may_ask_ahead(self) -> bool:
        """Whether all workers are busy, budget is left, and the sampler has seen enough trials.

        Where time is what bounds the study, whose turn it is shows when a worker is free.
        """
        busy = self._ahead is None and not self._idle and not self._clock.limited
        return busy and self._state.used >= self._ask_ahead_from and self._budget_left(len(self._running))

    def _ask(self, *, ahead: bool = False) -> AskedTrial | None:
        """Asks Optuna for the next trial to run.

        Returns:
            ``None`` where the trial needs no worker: an earlier one has its configuration, its values exclude
            each other, the budget was used up by other supervisors, or one of them has taken it over.
        """
        try:
            with self._sampler():
                return self._sample(self._opened.study.ask(), ahead=ahead)
        except UpdateFinishedTrialError:
            self._counter.count()
            return None

    def _sample(self, trial: optuna.Trial, *, ahead: bool) -> AskedTrial | None:
        """Records the trial's owner and samples its values, see `_ask`."""
        trial.set_user_attr(OWNER, self._uuid)
        if not self._counter.admits(trial.number):
            release(self._opened, trial)
            self._counter.count()
            return None
        try:
            stem, experiment = self._space.suggest(trial)
        except InputError as error:
            self._fail_invalid(trial, error)
            return None
        if self._repeats(trial):
            self._counter.repeats_of[stem] += 1
            return None
        self._counter.repeats = self._counter.repeats_of[stem] = 0
        if ahead:
            trial.set_user_attr(AHEAD, True)
        return AskedTrial(trial, stem, experiment)

    @contextlib.contextmanager
    def _sampler(self) -> Iterator[None]:
        """The study's own sampler, for the base whose turn it is where time bounds the study.

        Draws at random where it has proposed only what is known.
        """
        study, own = self._opened.study, self._opened.study.sampler
        if isinstance(own, ExhaustiveSampler):
            pass
        elif self._counter.repeats >= RANDOM_AFTER:
            study.sampler = RandomSampler(seed=100 * self._state.used + self._counter.repeats)
        elif self._clock.limited and (stem := self._counter.next_base()):
            study.sampler = fixed_to(own, stem, self._space)
        try:
            yield
        finally:
            study.sampler = own

    def _repeats(self, trial: optuna.Trial) -> bool:
        """Ends a trial as failed, before it begins, where an earlier one has its configuration."""
        earlier = self._opened.repeated(self._opened.frozen(trial.number))
        if earlier is None:
            return False
        self._counter.repeats += 1
        trial.set_user_attr(REPEATS, earlier)
        self._opened.study.tell(trial, state=TrialState.FAIL)
        logger.debug(f"trial {trial.number} is not run: the same configuration as trial {earlier}")
        return True

    def _start(self) -> None:
        """Starts the next trial on an idle worker."""
        asked = self._next()
        if asked is None:
            return
        running = begin_trial(self._session, asked.trial, asked.stem)
        try:
            self._assign(running, asked)
        except UpdateFinishedTrialError:
            self._finisher.abandon(running)
            self._session.register(running.attempt)

    def _next(self) -> AskedTrial | None:
        """The trial that was asked for ahead, else one that is asked for now, see `_ask`."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return self._ask()
        if not is_owned(self._opened, ahead.trial.number, self._uuid):
            return None
        ahead.trial.set_user_attr(AHEAD, False)
        return ahead

    def _assign(self, running: RunningTrial, asked: AskedTrial) -> None:
        """Sends a trial to an idle worker, unless its model is known to be too slow.

        Raises:
            UpdateFinishedTrialError: Another supervisor has taken the trial over.
        """
        frozen = self._opened.frozen(asked.trial.number)
        if "retry_of" in frozen.user_attrs:
            running.attempt.take_checkpoint(self._opened.attempt(frozen.user_attrs["retry_of"]))
        running.progress = TrialProgress.after(frozen.intermediate_values)
        worker = self._idle[-1]
        shape = self._shape(asked.trial, asked.experiment, worker)
        if self._prune_too_slow(worker, running, asked.experiment, shape):
            return
        self._idle.remove(worker)
        self._running[worker] = running
        self._state.running[asked.trial.number] = DisplayedTrial(asked.stem)
        worker.send(RunTask(config.dump(asked.experiment), running.attempt.folder, self._opened.repeats))
        self._session.register(running.attempt)

    def _shape(self, trial: optuna.Trial, experiment: ExperimentConfig, worker: Worker) -> str:
        """Records the digest of what latency depends on: the worker's machine and the model's shape."""
        machine = self._machines.setdefault(worker, machine_of(worker))
        shape = {**machine, **experiment.resolved().shape()}
        if worker.machine:  # on another machine ``auto`` may mean another precision
            shape["asked"] = config.lookup(config.dump(experiment), "train.precision")
        digest = config.digest(shape)
        trial.set_user_attr("shape", digest)
        trial.set_user_attr("machine", config.digest(machine))
        return digest

    def _prune_too_slow(
        self, worker: Worker, running: RunningTrial, experiment: ExperimentConfig, shape: str
    ) -> bool:
        """Prunes a trial before it is trained where its model breaks a latency bound."""
        if not self._meter.required:
            return False
        if self._opened.latency(shape) is None and MODELS[experiment.kind].initialise:
            task = LatencyTask(self._session.latency_clip, experiment=config.dump(experiment))
            self._measure(worker, shape, task)
        broken = bound_sizes(self._opened, running.trial, self._meter.uncontended(shape))
        if not broken:
            return False
        outcome = Outcome("pruned", f"infeasible: {'; '.join(broken)}", {}, now_ms())
        config.write_toml(config.dump(experiment), running.attempt.config)
        self._finisher.finish_without_worker(running, outcome)
        return True

    def _fail_invalid(self, trial: optuna.Trial, error: InputError) -> None:
        """Fails a configuration whose values are each allowed but not together."""
        stem = str(trial.params.get(BASE, next(iter(self._space.bases))))
        running = begin_trial(self._session, trial, stem)
        outcome = Outcome("failed", f"no such model: {error}", {}, now_ms(), "values that exclude each other")
        self._finisher.finish_without_worker(running, outcome)

    def _receive(self) -> bool:
        """Handles the messages of the workers, waiting half a second at most; whether there were any."""
        waiting = self._workers_unanswered()
        sources = (*self._running, *self._idle, *self._starting.workers)
        connections = {worker.connection: worker for worker in sources if worker not in waiting}
        # Asking ahead uses the time in which no message is there; it must not delay one.
        timeout = 0.0 if waiting or self._may_ask_ahead() else 0.5
        for ready in multiprocessing.connection.wait(list(connections), timeout):
            worker = connections[cast(Connection, ready)]
            self._unanswered.append((worker, worker.receive()))
        received = bool(self._unanswered)
        while self._unanswered:
            self._handle(*self._unanswered.popleft())
        return received

    def _workers_unanswered(self) -> set[Worker]:
        """Workers whose message is not handled yet; they compute nothing meanwhile."""
        return {worker for worker, _ in self._unanswered}

    def _handle(self, worker: Worker, message: Message | None) -> None:
        """Handles one message; ``None``: the worker has died."""
        if isinstance(message, Paused):  # after the pause was over, or after an answer that it waited for
            worker.send(Resume())
            return
        if worker in self._starting.workers:
            ready = self._starting.handle(worker, message)
            self._idle += [ready] if ready else []
            return
        if worker in self._idle:  # it can only have died
            self._idle.remove(worker)
            self._idle += self._starting.admit([worker.replacement()])
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
            self._measure_trained(worker, running, message)
            self._idle.append(worker)
            self._finisher.settle(running, message)
        else:
            self._finisher.worker_died(running, worker.exit_reason())
            self._idle += self._starting.admit([worker.replacement()])

    def _measure_trained(self, worker: Worker, running: RunningTrial, outcome: Outcome) -> None:
        """Measures the latency of a trained model where a constraint needs it and its shape is new."""
        shape = str(self._opened.frozen(running.trial.number).user_attrs["shape"])
        complete = outcome.status == "complete" and running.attempt.model.is_dir()
        if self._meter.required and complete and self._opened.latency(shape) is None:
            self._measure(worker, shape, LatencyTask(self._session.latency_clip, running.attempt.model))

    def _measure(self, worker: Worker, shape: str, task: LatencyTask) -> None:
        """Measures a shape on an idle worker while the others pause; their messages are handled later."""
        busy = [other for other in self._running if other not in self._workers_unanswered()]
        self._unanswered += self._meter.measure(worker, task, shape, busy, alone=self._group.alone_here)

    def _judge(self, running: RunningTrial, report: StepReport) -> StepDecision:
        """Decides whether the trial goes on, and updates what is displayed of it."""
        decision = judge(self._opened, running.trial, running.progress, report)
        displayed = self._state.running[running.trial.number]
        displayed.step, displayed.value = running.progress.step, running.progress.value
        return decision
