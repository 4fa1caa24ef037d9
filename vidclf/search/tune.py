"""``vidclf tune``: a study from its file to its leaderboard."""

import contextlib
import csv
import dataclasses
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from vidclf import compare, config
from vidclf.compare import TrialRow
from vidclf.config import Choice, Dimension, InputError
from vidclf.data.manifest import read_manifest
from vidclf.data.report import write_report
from vidclf.experiment import dataset_record, divided, parse_experiment, prepare, provenance
from vidclf.search import page
from vidclf.search.display import Display, StudyState
from vidclf.search.reconcile import Ownership, reconcile
from vidclf.search.record import OpenStudy, find_study
from vidclf.search.strategies import build_pruner, build_sampler
from vidclf.search.study import StudyDefinition, check_same, load_study, open_study
from vidclf.search.supervisor import Ending, Supervisor, measure_latencies
from vidclf.search.worker import Worker
from vidclf.store import Attempt, Identity, Outcome, Store, now_ms
from vidclf.tracking.deliverer import Deliverer
from vidclf.tracking.deliverer import prepare as prepare_mlflow
from vidclf.tracking.package import deliver_model
from vidclf.tracking.thread import DelivererThread
from vidclf.tracking.views import save_study_view


@dataclass(frozen=True)
class Request:
    """What the user asks of a study.

    Attributes:
        path: The study file.
        overrides: ``--set`` values for the bases.
        trials: Budget in place of the file's.
        workers: Worker processes in place of the file's.
    """

    path: Path
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    trials: int | None = None
    workers: int | None = None


def plan(request: Request, store: Store) -> StudyDefinition:
    """The checked study with the request's settings.

    Raises:
        InputError: Every problem of its files.
    """
    definition = load_study(request.path, request.overrides, store)
    file = definition.file
    if request.trials is not None:
        file = file.model_copy(update={"budget": file.budget.model_copy(update={"trials": request.trials})})
    if request.workers is not None:
        file = file.model_copy(update={"workers": request.workers})
    return dataclasses.replace(definition, file=file)


def describe_plan(definition: StudyDefinition, store: Store) -> dict[str, Any]:
    """What a study would do, as plain data; creates nothing.

    Raises:
        InputError: A study of this name asks something else.
    """
    file = definition.file
    stored = check_same(definition, definition.fingerprint(), store)
    used = find_study(definition.name, store).logical() if stored else 0
    return {
        "study": definition.name,
        "question": file.question,
        "objective": f"{file.objective.direction} {file.objective.metric}",
        "used": used,
        "total": file.budget.trials,
        "space": [
            {
                "base": stem,
                "key": key,
                "searched": ", ".join(f"{name} {value}" for name, value in _shown(dimension).items()),
            }
            for (stem, key), dimension in definition.space.dimensions.items()
        ],
    }


def _shown(dimension: Dimension) -> dict[str, Any]:
    return dimension.model_dump(mode="json", exclude_defaults=True)


def tune(
    definition: StudyDefinition, store: Store, shown: Display, warnings: Sequence[str]
) -> tuple[OpenStudy, Ending]:
    """Starts or resumes a study and runs it until its budget is used up or it is stopped.

    Args:
        definition: The study.
        store: Where its runs lie.
        shown: Progress of the search.
        warnings: What `check` found, to be shown.

    Raises:
        InputError: The study of this name asks something else, or another process runs it.
    """
    opened = open_study(definition, store)
    ownership = Ownership(opened, shown.line)
    crew: list[Worker] = []
    try:
        requeued = reconcile(opened)
        if opened.logical() < definition.file.budget.trials:
            # Started before MLflow is, because their imports take as long.
            crew += [Worker(_threads(definition)) for _ in range(definition.file.workers)]
        prepare_mlflow(store)
        with shown:
            for warning in warnings:
                shown.line(f"warning: {warning}")
            if requeued:
                shown.line(f"{requeued} interrupted trials run again")
            return opened, _session(opened, definition, ownership, crew, shown)
    finally:
        for worker in crew:
            worker.stop()
        ownership.release()


def _threads(definition: StudyDefinition) -> int:
    """Cores of each worker."""
    return max(1, (os.cpu_count() or 1) // definition.file.workers)


def _session(
    opened: OpenStudy, definition: StudyDefinition, ownership: Ownership, crew: list[Worker], shown: Display
) -> Ending:
    """Searches, measures and delivers, with the study's own run open; ``crew`` is kept up to date."""
    deliverer = DelivererThread(opened.store)
    ending: Ending = "interrupted"
    try:
        own = _open_own_attempt(opened, definition)
        _show_in_ui(opened, definition, own)
        for attempt in (own, *_attempts(opened)):
            deliverer.register(attempt)
        supervisor = _supervisor(opened, definition, ownership, shown, deliverer)
        with _stop_signals(supervisor.stop):
            ending, crew[:] = supervisor.run(crew, _threads(definition))
        if ending != "interrupted":
            _measure(opened, definition, crew, shown)
    except KeyboardInterrupt:
        ending = "interrupted"
    finally:
        _close(opened, definition, ending, shown, deliverer)
    return ending


def check(
    definition: StudyDefinition, progress: Callable[[int, int], None], say: Callable[[str], None]
) -> list[str]:
    """Checks data and weights of every base, and of the networks and weights that the space offers.

    Args:
        definition: The study.
        progress: Called with (clips done, clips in all) while clips are decoded.
        say: Told beforehand how much decoding will take, where that is much.

    Returns:
        Warnings about clips.

    Raises:
        InputError: Every problem of every base.
    """
    space = definition.space
    warnings: list[str] = []
    problems: list[str] = []
    for stem, base in space.bases.items():
        try:
            warnings += prepare(base, progress, say)[1]
            for path in ("model.network", "model.weights"):
                dimension = space.dimensions.get((stem, path))
                for choice in dimension.choices if isinstance(dimension, Choice) else ():
                    tree = config.override(config.dump(base), {path: choice})
                    parse_experiment(tree, f"{stem} with {path} = {choice}").check_weights()
        except InputError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise InputError(*problems)
    digests = {stem: read_manifest(Path(base.data.manifest)).digest() for stem, base in space.bases.items()}
    if len(set(digests.values())) > 1:
        raise InputError(
            f"the bases {', '.join(digests)} have different clips or splits, so their figures can't be ranked"
        )
    return list(dict.fromkeys(warnings))


def _attempts(opened: OpenStudy) -> Iterator[Attempt]:
    for trial in opened.trials():
        attempt = opened.attempt(trial.number)
        if (attempt.folder / "attempt.json").exists():
            yield attempt


def _open_own_attempt(opened: OpenStudy, definition: StudyDefinition) -> Attempt:
    """The folder behind the study's parent run, made or reopened."""
    own, file = opened.own_attempt, definition.file
    if (own.folder / "attempt.json").exists():
        own.reopen()
    else:
        own.create(
            Identity(
                id=opened.attempt_id(),
                experiment=opened.stored["experiment"],
                run_name=opened.name,
                parent=None,
                started_ms=now_ms(),
                tags={
                    "vidclf.study": opened.name,
                    "vidclf.role": "study",
                    "mlflow.note.content": file.question,
                },
                params={
                    "objective": f"{file.objective.direction} {file.objective.metric}",
                    "bases": ", ".join(definition.space.bases),
                    "sampler": file.sampler.name,
                    "pruner": file.pruner.name,
                    **{f"space: {key}": _short_json(value) for key, value in file.space.items()},
                },
                dataset=_dataset(definition),
            )
        )
    for stem, base in definition.space.bases.items():
        config.write_toml(config.dump(base), own.artifacts / f"{stem}.toml")
    config.write_toml(config.dump(file), own.artifacts / "study.toml")
    trials = max(file.budget.trials, opened.logical())
    session = {"started_ms": now_ms(), "trials": trials, "workers": file.workers}
    with (own.artifacts / "sessions.jsonl").open("a", encoding="utf-8") as sessions:
        sessions.write(json.dumps(session) + "\n")
    return own


def _dataset(definition: StudyDefinition) -> dict[str, str]:
    base = next(iter(definition.space.bases.values()))
    return dataset_record(base, read_manifest(Path(base.data.manifest)))


def _show_in_ui(opened: OpenStudy, definition: StudyDefinition, own: Attempt) -> None:
    """Saves the view that `vidclf ui` opens, so that the study can be watched from its first trial."""
    deliverer = Deliverer(opened.store)
    run_id = deliverer.deliver(own)
    if run_id is not None:
        save_study_view(
            deliverer,
            experiment=opened.stored["experiment"],
            study=opened.name,
            parent_run_id=run_id,
            metric=opened.objective.metric,
            direction=opened.objective.direction,
            params=["model.kind", *definition.file.space],
        )


def _short_json(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value


def _supervisor(
    opened: OpenStudy,
    definition: StudyDefinition,
    ownership: Ownership,
    shown: Display,
    deliverer: DelivererThread,
) -> Supervisor:
    file = definition.file
    opened.study.sampler = build_sampler(file.sampler, len(opened.trials()))
    opened.study.pruner = build_pruner(file.pruner)
    state = StudyState(
        opened.name, file.question, file.objective.metric, total=file.budget.trials, workers=file.workers
    )
    tags = {
        stem: provenance(base, read_manifest(Path(base.data.manifest)))
        for stem, base in definition.space.bases.items()
    }
    return Supervisor(
        opened=opened,
        space=definition.space,
        ownership=ownership,
        shown=shown,
        state=state,
        tags=tags,
        dataset=_dataset(definition),
        register=deliverer.register,
    )


@contextlib.contextmanager
def _stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Turns Ctrl-C and SIGTERM into a clean stop."""
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _close(
    opened: OpenStudy, definition: StudyDefinition, ending: Ending, shown: Display, deliverer: DelivererThread
) -> None:
    """Writes the study's page, delivers everything, and keeps the best models."""
    own = opened.own_attempt
    rows = opened.rows()
    _write_leaderboard(rows, opened.objective.direction, own.artifacts / "leaderboard.csv")
    page.write_study_page(opened, own.artifacts / "study.html")
    data_page = own.artifacts / "data.html"
    if ending != "interrupted" and not data_page.exists():
        manifest = read_manifest(Path(next(iter(definition.space.bases.values())).data.manifest))
        shown.line("writing the report on the data …")
        write_report(manifest.entries, manifest.path.parent.name, data_page)
    status = {"interrupted": "interrupted", "errors": "failed"}.get(ending, "complete")
    own.finish(Outcome(status, "" if status == "complete" else ending, _best_metrics(opened, rows), now_ms()))  # type: ignore[arg-type]
    deliverer.close(timeout=30.0)
    if deliverer.undelivered:
        shown.line(
            f"{deliverer.undelivered} runs could not be delivered to MLflow; the next tune delivers them"
        )
    elif ending != "interrupted":
        for row in kept(rows, opened.objective.direction, definition.file.keep):
            try:
                deliver_model(Deliverer(opened.store), opened.attempt(row.number))
            except InputError as error:
                shown.line(f"warning: {error}")


def _measure(opened: OpenStudy, definition: StudyDefinition, crew: list[Worker], shown: Display) -> None:
    """Measures the latency of each shape that has none yet, with one worker left, and hands it on."""
    unknown: dict[str, Path] = {}
    for trial in opened.trials([TrialState.COMPLETE]):
        shape, model = trial.user_attrs.get("shape"), opened.attempt(trial.number).model
        if shape and opened.latency(shape) is None and model.exists():
            unknown.setdefault(shape, model)
    if unknown:
        while len(crew) > 1:
            crew.pop().stop()
        if not crew:
            crew.append(Worker(_threads(definition)))
        shown.line(f"measuring the latency of {len(unknown)} shapes, with nothing else running …")
        base = next(iter(definition.space.bases.values()))
        clip = divided(base, read_manifest(Path(base.data.manifest)))["val"][0].clip_path
        for shape, metrics in measure_latencies(unknown, clip, crew[0], shown.line):
            opened.set_latency(shape, metrics)
    for trial in opened.trials([TrialState.COMPLETE]):
        attempt = opened.attempt(trial.number)
        outcome, known = attempt.outcome(), opened.latency(trial.user_attrs.get("shape", ""))
        if outcome and known and compare.LATENCY not in outcome.metrics:
            attempt.add_metrics(known)


def kept(rows: list[TrialRow], direction: str, keep: int) -> list[TrialRow]:
    """Trials whose models go to the registry's side: the best ``keep`` and the Pareto front."""
    best = compare.ranked(rows, direction)
    front = {row.number for row in compare.pareto_front(rows, direction)}
    return [row for rank, row in enumerate(best) if rank < keep or row.number in front]


def _best_metrics(opened: OpenStudy, rows: list[TrialRow]) -> dict[str, float]:
    best = compare.ranked(rows, opened.objective.direction)
    return {"study/best": best[0].value} if best and best[0].value is not None else {}


def _write_leaderboard(rows: list[TrialRow], direction: str, path: Path) -> None:
    best = compare.ranked(rows, direction)
    params = sorted({key for row in best for key in row.params})
    metrics = sorted({key for row in best for key in row.metrics})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "trial", "base", *params, *metrics])
        for rank, row in enumerate(best, start=1):
            values = [row.params.get(key, "") for key in params] + [
                row.metrics.get(key, "") for key in metrics
            ]
            writer.writerow([rank, row.number, row.base, *values])
