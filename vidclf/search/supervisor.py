"""The supervisor: the one process that holds a study; it hands trials to its workers."""

import math
import multiprocessing.connection
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from vidclf import compare, config, profiling
from vidclf.config import InputError
from vidclf.models.base import ExperimentConfig
from vidclf.search import display as screen
from vidclf.search.reconcile import Ownership, bound_sizes, settle, settle_or_interrupt
from vidclf.search.record import BASE, OpenStudy
from vidclf.search.space import Space
from vidclf.search.worker import LatencyTask, Measured, Progress, RunTask, Verdict, Worker
from vidclf.store import Attempt, Identity, Outcome, now_ms

Ending = Literal["finished", "exhausted", "interrupted", "errors"]
"""Why a study stopped: budget used up, nothing new to try, asked to stop, the same error again and again."""

RENEWAL_SECONDS = 15.0
EXHAUSTED_AFTER = 20
"""Repeated configurations in a row that end a study: its space holds nothing new."""
ERRORS_IN_A_ROW = 3
"""Trials in a row with the same error that stop a study: the code or the data is broken, not the trial."""


@dataclass
class Running:
    """A trial in a worker's hands."""

    trial: optuna.Trial
    stem: str
    attempt: Attempt
    started: float
    best: float | None = None


class Supervisor:
    """Asks Optuna, hands out, listens, tells; until the budget is used up."""

    def __init__(
        self,
        *,
        opened: OpenStudy,
        space: Space,
        ownership: Ownership,
        shown: screen.Display,
        state: screen.StudyState,
        tags: Mapping[str, Mapping[str, str]],
        dataset: Mapping[str, str],
        register: Callable[[Attempt], None],
    ) -> None:
        """Args:
        opened: The study, owned and reconciled.
        space: Where to sample.
        ownership: This process's hold on the study.
        shown: What the user sees.
        state: Its content.
        tags: Provenance by stem.
        dataset: The data set, as MLflow lists it.
        register: Told of each new attempt folder.
        """
        self._opened = opened
        self._space = space
        self._ownership = ownership
        self._shown = shown
        self._state = state
        self._tags = tags
        self._dataset = dataset
        self._register = register
        self._running: dict[Worker, Running] = {}
        self._idle: list[Worker] = []
        self._repeats = 0
        self._errors: deque[str] = deque(maxlen=ERRORS_IN_A_ROW)
        self._stop = False
        self._renewed = time.monotonic()
        environment = profiling.environment()
        self._machine = {key: environment[key] for key in ("cpu", "cores", "device", "torch")}
        self._values = {
            _key(trial.params): (trial.number, float(trial.value or 0.0))
            for trial in reversed(opened.trials([TrialState.COMPLETE]))
        }
        self._refresh_counts()

    def stop(self) -> None:
        """Ends the study at the next opportunity; running trials are interrupted."""
        self._stop = True

    def run(self, crew: Sequence[Worker], threads: int) -> tuple[Ending, list[Worker]]:
        """Runs trials until the budget is used up.

        Args:
            crew: Idle workers.
            threads: Cores of a worker that replaces a dead one.

        Returns:
            Why it ended, and the workers that are idle and well.
        """
        self._idle = list(crew)
        try:
            return self._loop(threads), self._idle
        finally:
            for worker, running in self._running.items():
                worker.stop()
                settle_or_interrupt(self._opened, running.trial, "asked to stop")
            self._running.clear()
            self._refresh_counts()

    def _loop(self, threads: int) -> Ending:
        while not self._stop:
            ending = self._ending()
            if ending is None and self._idle and self._budget_left():
                self._start(self._idle.pop())
                continue
            if not self._running:
                return ending or "finished"
            self._listen(threads)
            self._shown.refresh(self._state)
            if time.monotonic() - self._renewed > RENEWAL_SECONDS:
                self._ownership.renew()
                self._renewed = time.monotonic()
        return "interrupted"

    def _ending(self) -> Ending | None:
        if self._repeats >= EXHAUSTED_AFTER:
            return "exhausted"
        if len(self._errors) == ERRORS_IN_A_ROW and self._errors[0] and len(set(self._errors)) == 1:
            return "errors"
        return None

    def _budget_left(self) -> bool:
        return self._state.used + len(self._running) < self._state.total

    def _start(self, worker: Worker) -> None:
        """Asks for a trial and hands it to the worker, or settles it at once as a repetition."""
        trial = self._opened.study.ask()
        trial.set_user_attr("owner", self._ownership.uuid)
        attempt = self._opened.attempt(trial.number)
        try:
            stem, experiment = self._space.suggest(trial)
        except InputError as error:
            self._idle.append(worker)
            self._give_up(trial, attempt, error)
            return
        earlier = self._values.get(_key(trial.params))
        attempt.create(self._identity(trial, stem, earlier))
        cut_short = self._opened.frozen(trial.number).user_attrs.get("retry_of")
        if cut_short is not None:
            attempt.take_checkpoint(self._opened.attempt(cut_short))
        running = Running(trial, stem, attempt, time.monotonic())
        if earlier is not None:
            self._idle.append(worker)
            self._reuse(running, experiment, earlier[0])
            return
        self._repeats = 0
        shape = {**self._machine, **experiment.resolved().shape()}
        trial.set_user_attr("shape", config.digest(shape))
        self._running[worker] = running
        self._state.running[trial.number] = screen.TrialState(stem)
        worker.send(RunTask(config.dump(experiment), attempt.folder))
        self._register(attempt)

    def _give_up(self, trial: optuna.Trial, attempt: Attempt, error: InputError) -> None:
        """Fails a configuration whose values are each allowed but not together."""
        stem = str(trial.params.get(BASE, next(iter(self._space.bases))))
        attempt.create(self._identity(trial, stem, None))
        outcome = Outcome("failed", f"no such model: {error}", {}, now_ms(), "values that exclude each other")
        attempt.finish(outcome)
        self._register(attempt)
        self._settle(Running(trial, stem, attempt, time.monotonic()), outcome)

    def _identity(self, trial: optuna.Trial, stem: str, earlier: tuple[int, float] | None) -> Identity:
        attributes = self._opened.frozen(trial.number).user_attrs
        tags = {
            **self._tags[stem],
            "vidclf.study": self._opened.name,
            "vidclf.trial": str(trial.number),
            "vidclf.base": stem,
            **({"vidclf.retry_of": str(attributes["retry_of"])} if "retry_of" in attributes else {}),
            **({"vidclf.reused_from": str(earlier[0])} if earlier else {}),
        }
        return Identity(
            id=self._opened.attempt_id(trial.number),
            experiment=self._opened.stored["experiment"],
            run_name=f"{self._opened.name} {trial.number:03d} {stem}",
            parent=self._opened.attempt_id(),
            started_ms=now_ms(),
            tags=tags,
            dataset=self._dataset,
        )

    def _reuse(self, running: Running, experiment: ExperimentConfig, earlier: int) -> None:
        """Tells the value that this very configuration already has."""
        self._repeats += 1
        before = self._opened.frozen(earlier).user_attrs
        running.trial.set_user_attr("reused_from", earlier)
        running.trial.set_user_attr("shape", before.get("shape"))
        config.write_toml(config.dump(experiment), running.attempt.config)
        running.attempt.record(0, before["metrics"])
        outcome = Outcome("complete", f"same configuration as trial {earlier}", before["metrics"], now_ms())
        running.attempt.finish(outcome)
        self._register(running.attempt)
        self._settle(running, outcome)

    def _listen(self, threads: int) -> None:
        """Waits half a second at most for news of the workers, and answers them."""
        connections = {worker.connection: worker for worker in self._running}
        for ready in multiprocessing.connection.wait(list(connections), timeout=0.5):
            worker = next(worker for connection, worker in connections.items() if connection is ready)
            running = self._running[worker]
            message = worker.receive()
            if isinstance(message, Progress):
                worker.send(self._judge(running, message))
                continue
            del self._running[worker]
            if isinstance(message, Outcome):
                self._idle.append(worker)
                self._settle(running, message)
            else:
                outcome = Outcome("failed", worker.death(), {}, now_ms())
                running.attempt.finish(outcome)
                worker.stop()
                running.attempt.drop_checkpoint()
                self._idle.append(Worker(threads))
                self._settle(running, outcome)

    def _judge(self, running: Running, progress: Progress) -> Verdict:
        """Whether the trial may go on: within its bounds, and no worse than its family's median."""
        if progress.step == 0:
            broken = bound_sizes(self._opened, running.trial, progress.metrics)
            return Verdict(f"infeasible: {'; '.join(broken)}" if broken else "")
        value = progress.metrics.get(f"epoch/{self._opened.objective.metric}")
        if value is None or not math.isfinite(value):
            return Verdict()
        better = max if self._opened.objective.direction == "maximize" else min
        running.best = value if running.best is None else better(running.best, value)
        shown = self._state.running[running.trial.number]
        shown.step, shown.value = progress.step, running.best
        running.trial.report(running.best, progress.step)
        if running.trial.should_prune():
            return Verdict(
                f"pruned at epoch {progress.step}: {self._opened.objective.metric} {running.best:.4f}"
            )
        return Verdict()

    def _settle(self, running: Running, outcome: Outcome) -> None:
        """Tells Optuna, and the user."""
        metric = self._opened.objective.metric
        if outcome.status == "complete" and not math.isfinite(outcome.metrics.get(metric, math.nan)):
            reason = f"the objective {metric} is {outcome.metrics.get(metric, 'missing')}"
            outcome = Outcome("failed", reason, outcome.metrics, outcome.ended_ms, f"no finite {metric}")
            running.attempt.finish(outcome)
        settle(self._opened, running.trial, outcome)
        number = running.trial.number
        value = outcome.metrics.get(metric) if outcome.status == "complete" else None
        if value is not None:
            self._values.setdefault(_key(running.trial.params), (number, value))
        self._errors.append(outcome.fingerprint)
        self._state.running.pop(number, None)
        self._state.finished_here += 1
        self._refresh_counts()
        if self._state.best:
            self._opened.own_attempt.record(self._state.used, {"study/best": self._state.best[0]})
        params = {key: item for key, item in running.trial.params.items() if key != BASE}
        state = "infeasible" if outcome.reason.startswith("infeasible") else outcome.status
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

    def _refresh_counts(self) -> None:
        rows = self._opened.rows()
        found = Counter(row.state for row in rows)
        self._state.counts = {
            state: found[state] for state in ("complete", "pruned", "failed", "interrupted") if found[state]
        }
        best = compare.ranked(rows, self._opened.objective.direction)[:1]
        self._state.best = (best[0].value or 0.0, best[0].number, best[0].base) if best else None


def _key(params: Mapping[str, Any]) -> str:
    """Equal for equal configurations."""
    return config.digest(dict(params))


def measure_latencies(
    models: Mapping[str, Path], clip: Path, worker: Worker, say: Callable[[str], None]
) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Times one model of each shape, with nothing else of ours running.

    Args:
        models: Folder of a saved model by shape.
        clip: A video file to time on.
        worker: The only worker left.
        say: Told when a model cannot be timed.

    Yields:
        Shape and latency metrics, as soon as they are known; shapes that could not be timed are left out.
    """
    for shape, folder in models.items():
        worker.send(LatencyTask(folder, clip))
        message = worker.receive()
        if not isinstance(message, Measured):
            say(f"latency was not measured: {worker.death()}")
            return
        if message.error:
            say(f"latency of {folder.parent.name} was not measured: {message.error}")
        else:
            yield shape, message.metrics
