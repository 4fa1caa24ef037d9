"""What a study does when its trials are done: models that are lacking, latencies, pictures."""

import multiprocessing.connection
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from optuna.trial import FrozenTrial, TrialState

from vidclf import config, ranking
from vidclf.data.manifest import read_manifest
from vidclf.experiment import divided
from vidclf.repeats import Repeats
from vidclf.search.crew import hire, machine_of, ready
from vidclf.search.display import Display
from vidclf.search.latency import measure_latencies
from vidclf.search.record import CONTENDED, OpenStudy
from vidclf.search.study import StudyDefinition
from vidclf.search.worker import Finished, FinishTask, Worker
from vidclf.store import Attempt


def finish_trials(
    opened: OpenStudy,
    definition: StudyDefinition,
    crew: list[Worker],
    shown: Display,
    own: Callable[[FrozenTrial], bool],
) -> None:
    """Trains the kept trials' models where they have none, times all shapes, draws what is kept.

    Args:
        opened: The study; all its trials are done.
        definition: The same, as its file has it.
        crew: Idle workers. Kept up to date: one is hired where none is left, and one of each machine outlives
            the timing.
        shown: Told what is done.
        own: Which trials are for this supervisor.
    """
    lacking = [attempt for attempt in _kept(opened, definition, own) if not attempt.model.is_dir()]
    if lacking:
        shown.line(f"training the models of {len(lacking)} kept trials …")
        _hand_out(lacking, opened, definition, crew, shown)
    _measure(opened, definition, crew, shown, own)
    undrawn = [attempt for attempt in _kept(opened, definition, own) if not attempt.drawn.exists()]
    undrawn = [attempt for attempt in undrawn if attempt.model.is_dir()]
    if undrawn:
        shown.line(f"drawing the models of {len(undrawn)} kept trials …")
        _hand_out(undrawn, opened, definition, crew, shown)


def _kept(
    opened: OpenStudy, definition: StudyDefinition, own: Callable[[FrozenTrial], bool]
) -> list[Attempt]:
    trials = opened.trials()
    kept = ranking.kept(opened.rows(trials), opened.objective.direction, definition.file.keep)
    return [opened.attempt(row.number) for row in kept if own(trials[row.number])]


def _hand_out(
    attempts: Sequence[Attempt],
    opened: OpenStudy,
    definition: StudyDefinition,
    crew: list[Worker],
    shown: Display,
) -> None:
    """Has the workers finish the attempts; a worker that dies is replaced, its attempt left as it is."""
    crew += [ready(worker, shown.line) for worker in hire(definition, 1)] if not crew else []
    left, busy = list(attempts), dict[Worker, Attempt]()
    while left or busy:
        for worker in crew:
            if left and worker not in busy:
                busy[worker] = left.pop(0)
                worker.send(FinishTask(busy[worker].folder, opened.repeats))
        news = multiprocessing.connection.wait([worker.connection for worker in busy])
        for worker in [worker for worker in busy if worker.connection in news]:
            attempt, message = busy.pop(worker), worker.receive()
            if message is None:
                shown.line(f"trial {int(attempt.folder.name)}: {worker.death()}")
                crew[crew.index(worker)] = ready(worker.replacement(), shown.line)
            elif error := cast(Finished, message).error:
                shown.line(f"trial {int(attempt.folder.name)} has no model or pictures: {error}")


def _measure(
    opened: OpenStudy,
    definition: StudyDefinition,
    crew: list[Worker],
    shown: Display,
    own: Callable[[FrozenTrial], bool],
) -> None:
    """Measures the latency of each shape that has none yet, on its own machine with one worker left there.

    ``crew`` has those workers afterwards; the latencies are handed on.
    """
    unknown: dict[str, Path] = {}
    machines: dict[str, str | None] = {}
    complete = [trial for trial in opened.trials([TrialState.COMPLETE]) if own(trial)]
    for trial in complete:
        shape, model = trial.user_attrs.get("shape"), opened.attempt(trial.number).model
        if shape and CONTENDED in (opened.latency(shape) or {CONTENDED: 1.0}) and model.exists():
            unknown.setdefault(shape, model)
            machines[shape] = trial.user_attrs.get("machine")
    if unknown:
        crew += [ready(worker, shown.line) for worker in hire(definition, 1)] if not crew else []
        left = _one_each(crew)
        shown.line(f"measuring the latency of {len(unknown)} shapes, with nothing else running …")
        for machine, worker in left.items():
            # Before there were other machines, trials did not say on which they ran.
            here = {shape: model for shape, model in unknown.items() if machines[shape] in (machine, None)}
            for shape, metrics in measure_latencies(here, a_clip(definition), worker, shown.line):
                opened.set_latency(shape, metrics)
        if away := sum(machine not in (*left, None) for machine in machines.values()):
            shown.line(f"{away} shapes were not measured: no worker is left on the machine that they ran on")
    for trial in complete:
        attempt = opened.attempt(trial.number)
        outcome, known = attempt.outcome(), opened.latency(trial.user_attrs.get("shape", ""))
        if outcome and known and ranking.LATENCY not in outcome.metrics:
            attempt.add_metrics(known)


def _one_each(crew: list[Worker]) -> dict[str, Worker]:
    """One worker for each machine that the crew is on, by the machine's digest; the others are stopped."""
    left: dict[str, Worker] = {}
    for worker in crew:
        if left.setdefault(config.digest(machine_of(worker)), worker) is not worker:
            worker.stop()
    crew[:] = left.values()
    return left


def a_clip(definition: StudyDefinition) -> Path:
    """What latencies are measured on: the first clip of val."""
    base = next(iter(definition.space.bases.values()))
    first = definition.file.objectives[0]
    if first.repeats > 1:
        base = Repeats(first.repeats, first.repeat_by).variant(base, 0)
    return divided(base, read_manifest(base.data.manifest))["val"][0].clip_path
