"""The end of a study: trains missing models, measures latencies, draws figures, marks the best trials."""

import logging
import math
import multiprocessing.connection
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optuna.trial import TrialState

from vidclf import config
from vidclf.evaluation import ranking
from vidclf.evaluation.ranking import CONTENDED, TrialRow
from vidclf.labels import plural
from vidclf.runs.folder import Attempt
from vidclf.search.definition.study_file import StudyDefinition
from vidclf.search.execution.context import SessionContext
from vidclf.search.execution.costs import FINISHING
from vidclf.search.execution.latency import LEAST_SECONDS, measure_latencies
from vidclf.search.execution.worker_pool import machine_of, start_workers, wait_until_ready
from vidclf.search.record.study import OpenStudy
from vidclf.tracking.consistency import runs_by_attempt
from vidclf.tracking.deliverer import Deliverer
from vidclf.tracking.views import INFEASIBLE, mark_standings, save_study_view
from vidclf.workers.protocol import Finished, FinishTask, Paused, Resume, Worker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyFinalizer:
    """Trains missing models of the kept trials, measures all shapes, and draws the kept models' figures.

    Where the study's time is bounded, what is not expected to end in time is left out, and the user told.

    Attributes:
        session: The session; all trials of its study are done.
        workers: Idle ones. Kept up to date: one is started where none is left, and one on each machine is
            left after the measurements.
        left: Seconds until what comes last has to begin.
        taken: Seconds of each step so far, by its name in `FINISHING`.
    """

    session: SessionContext
    workers: list[Worker]
    left: Callable[[], float] = lambda: math.inf
    taken: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def opened(self) -> OpenStudy:
        return self.session.opened

    def run(self) -> None:
        lacking = [attempt for attempt in self._kept() if not attempt.model.is_dir()]
        if lacking:
            logger.info(f"training the models of {plural(len(lacking), 'kept trial')} …")
            self.run_tasks(lacking, "trained")
        self._measure()
        undrawn = [
            attempt for attempt in self._kept() if attempt.model.is_dir() and not attempt.drawn.exists()
        ]
        if undrawn:
            logger.info(f"drawing the models of {plural(len(undrawn), 'kept trial')} …")
            self.run_tasks(undrawn, "drawn")
        means = {name: statistics.mean(seconds) for name, seconds in self.taken.items() if seconds}
        if means:
            self.opened.set_finishing({**self.opened.finishing(), **means})

    def _in_time(self, name: str) -> bool:
        """Whether there is time for one more step of a name."""
        expected = {**FINISHING, **self.opened.finishing()}[name]
        return self.left() > max(self.taken[name] or [expected])

    def _kept(self) -> list[Attempt]:
        trials = self.opened.trials()
        kept, own = self.session.kept(self.opened.rows(trials)), self.session.own_trials()
        return [self.opened.attempt(row.number) for row in kept if own(trials[row.number])]

    def _ensure_worker(self) -> None:
        if not self.workers:
            self.workers.extend(map(wait_until_ready, start_workers(self.session.definition, 1)))

    def run_tasks(self, attempts: Sequence[Attempt], done: str) -> None:
        """Has the workers train or draw the models; where one dies it is replaced and its attempt skipped.

        Args:
            attempts: What lacks a model or pictures.
            done: What the user is told of each.
        """
        left, busy, ended = list(attempts), dict[Worker, Attempt](), 0
        begun: dict[Worker, float] = {}
        while left or busy:
            idle = len(self.workers) - len(busy) or not self.workers
            if left and idle and not self._in_time(done):
                logger.info(f"{plural(len(left), 'kept trial')} not {done}, as budget.seconds is used up")
                left.clear()
                continue
            self._ensure_worker()
            for worker in self.workers:
                if left and worker not in busy:
                    busy[worker] = left.pop(0)
                    begun[worker] = time.monotonic()
                    worker.send(FinishTask(busy[worker].folder, self.opened.repeats))
            ready = multiprocessing.connection.wait([worker.connection for worker in busy])
            for worker in [worker for worker in busy if worker.connection in ready]:
                message = worker.receive()
                if isinstance(message, Paused):  # requested while trials ran, see `protocol.answer`
                    worker.send(Resume())
                    continue
                name, ended = f"trial {int(busy.pop(worker).folder.name)}", ended + 1
                if not isinstance(message, Finished):
                    logger.info(f"{name}: {worker.exit_reason()}")
                    self.workers[self.workers.index(worker)] = wait_until_ready(worker.replacement())
                elif message.error:
                    logger.info(f"{name} has no model or pictures: {message.error}")
                else:
                    seconds = time.monotonic() - begun[worker]
                    self.taken[done].append(seconds)
                    logger.info(f"{name} {done}, {seconds:.1f} s ({ended} of {len(attempts)})")

    def _measure(self) -> None:
        """Measures the latency of each shape that has none yet, and hands latencies on to their trials."""
        unknown: dict[str, Path] = {}
        machines: dict[str, str | None] = {}
        known = self.opened.latencies()
        own = self.session.own_trials()
        complete = [trial for trial in self.opened.trials([TrialState.COMPLETE]) if own(trial)]
        for trial in complete:
            shape, model = trial.user_attrs.get("shape"), self.opened.attempt(trial.number).model
            if shape and CONTENDED in known.get(shape, (CONTENDED,)) and model.exists():
                unknown.setdefault(shape, model)
                machines[shape] = trial.user_attrs.get("machine")
        if unknown:
            self._measure_shapes(unknown, machines)
            known = self.opened.latencies()
        for trial in complete:
            attempt = self.opened.attempt(trial.number)
            outcome, latency = attempt.outcome(), known.get(trial.user_attrs.get("shape", ""))
            if outcome and latency and ranking.LATENCY not in outcome.metrics:
                attempt.add_metrics(latency)

    def _measure_shapes(self, models: dict[str, Path], machines: dict[str, str | None]) -> None:
        """Measures shapes on the machines that their models were trained on, with one worker left on each.

        Args:
            models: A saved model of each shape.
            machines: Digest of the machine that trained it, by shape; ``None``: not known.
        """
        if self.left() < LEAST_SECONDS:
            logger.info(f"{plural(len(models), 'shape')} not timed, as budget.seconds is used up")
            return
        self._ensure_worker()
        left, measured = _one_each(self.workers), 0
        logger.info(f"measuring the latency of {plural(len(models), 'shape')}, nothing else runs …")
        for machine, worker in left.items():
            # Before there were other machines, trials did not say on which they ran.
            here = {shape: model for shape, model in models.items() if machines[shape] in (machine, None)}
            began = time.monotonic()
            for shape, metrics in measure_latencies(here, self.session.latency_clip, worker, self.left):
                self.opened.set_latency(shape, metrics)
                self.taken["timed"].append(time.monotonic() - began)
                began, measured = time.monotonic(), measured + 1
        if measured < len(models) and self.left() < LEAST_SECONDS:
            logger.info(f"{plural(len(models) - measured, 'shape')} not timed, as budget.seconds is used up")
        if away := sum(machine not in (*left, None) for machine in machines.values()):
            logger.info(f"{plural(away, 'shape')} could not be measured: their machine has no worker left")


def _one_each(workers: list[Worker]) -> dict[str, Worker]:
    """One worker for each machine, by the machine's digest; the others are stopped."""
    left: dict[str, Worker] = {}
    for worker in workers:
        if left.setdefault(config.digest(machine_of(worker)), worker) is not worker:
            worker.stop()
    workers[:] = left.values()
    return left


def show_in_ui(opened: OpenStudy, definition: StudyDefinition, run_id: str | None, *, standing: bool) -> None:
    """Saves the views that `vidclf ui` opens; ``standing``: with a column for the tags of `mark`."""
    if run_id is not None:
        save_study_view(
            Deliverer(opened.store),
            experiment=opened.stored["experiment"],
            study=opened.name,
            parent_run_id=run_id,
            objectives=[objective.metric for objective in opened.objectives],
            direction=opened.objective.direction,
            params={
                stem: [path for owner, path in definition.space.dimensions if owner == stem]
                for stem in definition.space.bases
            },
            conditional={path for (_, path), item in definition.space.dimensions.items() if item.when},
            standing=standing,
        )


def mark(opened: OpenStudy, definition: StudyDefinition, rows: list[TrialRow], stay: list[TrialRow]) -> None:
    """Tags in MLflow the best, Pareto-optimal, kept and infeasible trials."""
    deliverer = Deliverer(opened.store)
    best = opened.ranked(rows)
    front = ranking.pareto_front(rows, opened.objective.direction)
    leaders = {row.base: row for row in reversed(best)}
    run_ids = _run_ids(opened, deliverer, rows)
    twins = ranking.twins(best, opened.answers)
    standings = {}
    for row in rows:
        words = {
            "best": row in best[:1],
            "Pareto front": row in front,
            f"best {row.base}": row is leaders.get(row.base) and row not in best[:1],
            "kept": row in stay,
            f"predicts as trial {twins.get(row.number)}": row.number in twins,
            INFEASIBLE: row.value is not None and not row.feasible,
        }
        run_id = run_ids.get(row.number)
        word = next((word for word, holds in words.items() if holds), None)
        if word and run_id is not None:
            standings[run_id] = word
    parent = deliverer.receipt(opened.own_attempt).run_id
    if parent is not None:
        mark_standings(deliverer, parent, standings)
        show_in_ui(opened, definition, parent, standing=True)


def _run_ids(opened: OpenStudy, deliverer: Deliverer, rows: list[TrialRow]) -> dict[int, str]:
    """Each trial's run, from its receipt; MLflow is asked for those of other supervisors."""
    found = {row.number: deliverer.receipt(opened.attempt(row.number)).run_id for row in rows}
    if None in found.values():
        runs = runs_by_attempt(opened.store)
        for number in [number for number, run_id in found.items() if run_id is None]:
            run = runs.get(opened.attempt_id(number))
            found[number] = run.info.run_id if run else None
    return {number: run_id for number, run_id in found.items() if run_id is not None}
