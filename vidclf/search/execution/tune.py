"""Plans, describes, checks and runs a study for ``vidclf tune``."""

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from vidclf import config
from vidclf.config import Choice, Dimension
from vidclf.data.manifest import read_manifest
from vidclf.exceptions import InputError
from vidclf.labels import plural
from vidclf.models import devices
from vidclf.progress import Progress, silent
from vidclf.runs.experiment import divided, parse_experiment, prepare
from vidclf.runs.store import Store, check_name
from vidclf.search.definition.study_file import StudyDefinition, check_same, load_study, open_study
from vidclf.search.definition.warm_start import check_alike, enqueue_first, seed
from vidclf.search.execution import costs
from vidclf.search.execution.budget import Ending
from vidclf.search.execution.consistency import mend_study
from vidclf.search.execution.context import SessionContext
from vidclf.search.execution.display import Display
from vidclf.search.execution.session import run_session
from vidclf.search.execution.worker_pool import check_ray, gpu_count, on_cluster, start_workers
from vidclf.search.record.owners import Ownership
from vidclf.search.record.study import BASE, FIXED, START, OpenStudy, counts, find_study, stored_definition
from vidclf.tracking.background import DelivererThread
from vidclf.tracking.deliverer import prepare as prepare_mlflow
from vidclf.workers.local import describe_machine, preload
from vidclf.workers.protocol import Worker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TuneRequest:
    """What the user asks of a study.

    Attributes:
        path: The study file.
        overrides: ``--set`` values for the bases.
        trials: Budget in place of the file's.
        workers: Worker processes in place of the file's.
        per_gpu: Workers that share a GPU; there are as many as all GPUs take where ``workers`` is not given.
        continue_as: Name of a new study that takes over the finished trials of the one in the file.
        join: Run trials beside other supervisors of the study; where there is none, begin it.
        ray: Address of a Ray cluster whose workers run it; ``auto``: the one that runs here; ``local``:
            one that is started here for it.
        begun: When the user asked, on the monotonic clock.
    """

    path: Path
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    trials: int | None = None
    workers: int | None = None
    per_gpu: int | None = None
    continue_as: str | None = None
    join: bool = False
    ray: str | None = None
    begun: float = dataclasses.field(default_factory=time.monotonic)


@devices.left_alone(describe_machine)
def plan(request: TuneRequest, store: Store) -> StudyDefinition:
    """The checked study with the request's settings.

    Raises:
        InputError: Every problem of its files.
    """
    if request.join and request.continue_as:
        raise InputError(
            "--join and --continue-as: begin the new study first, then join it by a file of its own"
        )
    if request.ray is not None:
        if request.per_gpu is not None:
            raise InputError(
                "--per-gpu: with --ray the study's [resources] say it, as gpus = 0.25 for four on each GPU"
            )
        check_ray(request.ray)
    definition = load_study(request.path, request.overrides, store, request.continue_as)
    file, changes = definition.file, dict[str, Any]()
    if request.trials is not None:
        changes["budget"] = file.budget.model_copy(update={"trials": request.trials})
    workers = request.workers
    if request.per_gpu is not None:
        workers = workers or request.per_gpu * gpu_count()
    if workers is not None:
        changes["workers"] = workers
        if request.ray is not None:
            changes["resources"] = file.resources.model_copy(update={"max_workers": workers})
    definition = dataclasses.replace(
        definition,
        file=file.model_copy(update=changes),
        join=request.join,
        ray=request.ray,
        begun=request.begun,
    )
    if request.continue_as is None:
        return definition
    if request.continue_as == definition.name:
        raise InputError(f"--continue-as {definition.name}: that is the study to go on from; choose another")
    check_name(request.continue_as)
    check_alike(definition.fingerprint(), find_study(definition.name, store))
    return dataclasses.replace(definition, name=request.continue_as, continued=definition.name)


@devices.left_alone(describe_machine)
def describe_plan(definition: StudyDefinition, store: Store) -> dict[str, Any]:
    """What a study would do, as plain data; creates nothing.

    Returns:
        ``study``, ``question``, ``objective``, ``used`` and ``total`` trials, ``workers``; ``resources``:
        who they are, in words; ``clips`` by split; ``space``: what is searched in each base; ``bases``: each
        as resolved here; ``first``: the points that are tried before anything is sampled; ``sample``: one
        random configuration; ``seconds_left``, ``trial_seconds`` by base, and ``store_bytes`` (in the end,
        models included): from the trials so far, ``None`` before the first, but for a time that is bounded.

    Raises:
        InputError: A study of this name asks something else.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file = definition.file
    opened = (
        find_study(definition.name, store)
        if check_same(definition, definition.fingerprint(), store)
        else None
    )
    used = opened.logical() if opened else 0
    base = next(iter(definition.space.bases.values()))
    splits = divided(base, read_manifest(base.data.manifest))
    bases = {stem: config.dump(each.resolved()) for stem, each in definition.space.bases.items()}
    return {
        "study": definition.name,
        "question": file.question,
        "objective": file.aims(),
        "used": used,
        "total": file.budget.trials,
        "workers": file.workers,
        "resources": _resources(definition),
        "clips": {split: len(entries) for split, entries in splits.items()},
        "space": [
            {"base": stem, "key": key, "searched": _range_words(dimension)}
            for (stem, key), dimension in definition.space.dimensions.items()
            if dimension.when.get(BASE, stem) == stem
        ],
        "bases": bases,
        "first": _first_points(definition),
        "sample": _sample(definition),
        **_estimates(opened, definition, used),
    }


def _range_words(dimension: Dimension) -> str:
    if isinstance(dimension, Choice):
        words = ", ".join(map(str, dimension.choices))
    else:
        step = f", step {dimension.step:g}" if dimension.step is not None else ""
        words = f"{dimension.low:g} to {dimension.high:g}{', log' * dimension.log}{step}"
    when = [f"{key} = {value}" for key, value in dimension.when.items() if key != BASE]
    return f"{words}, when {', '.join(when)}" if when else words


def _resources(definition: StudyDefinition) -> str:
    file = definition.file
    if definition.ray is None:
        return f"{plural(file.workers, 'worker')} on this machine"
    most = file.resources.max_workers
    count = f"up to {most}" if most else "as many as the cluster holds now"
    return f"workers on Ray ({definition.ray}): {count}, each with {file.resources.words()}"


def _first_points(definition: StudyDefinition) -> list[dict[str, Any]]:
    study = optuna.create_study()
    enqueue_first(study, definition.space, definition.file.start)
    return [
        {"from": trial.user_attrs[START], **trial.system_attrs[FIXED]}
        for trial in study.get_trials(deepcopy=False)
    ]


def _sample(definition: StudyDefinition) -> dict[str, Any]:
    study = optuna.create_study(sampler=RandomSampler(seed=definition.file.sampler.seed))
    trial = study.ask()
    stem, experiment = definition.space.suggest(trial)
    return {"base": stem, "params": dict(trial.params), "experiment": config.dump(experiment)}


def _estimates(opened: OpenStudy | None, definition: StudyDefinition, used: int) -> dict[str, Any]:
    """Time left, what trials of each base cost, and disk in all, from what the trials so far took."""
    file = definition.file
    trials, clock = max(0, file.budget.trials - used), file.budget.seconds
    finished = opened.trials([TrialState.COMPLETE, TrialState.PRUNED]) if opened else []
    finished = [trial for trial in finished if counts(trial)]  # another study's have no folder here
    known = costs.costs_of(finished, list(definition.space.bases), None)
    seconds = costs.forecast(known, trials, file.workers)
    taken = {stem: cost.seconds for stem, cost in known.items() if cost.seconds is not None}
    if opened is None or seconds is None:
        left = None if clock is None else clock - (opened.seconds() if opened else 0.0)
        return {"seconds_left": left, "trial_seconds": taken, "store_bytes": None}
    seconds += costs.finishing_seconds(opened, finished, file.keep)
    if clock is not None:
        seconds = min(seconds, max(0.0, clock - opened.seconds()))
    folders = [opened.attempt(trial.number).folder for trial in finished]
    held = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    return {
        "seconds_left": seconds,
        "trial_seconds": taken,
        "store_bytes": held + held / len(finished) * trials,
    }


@devices.left_alone(describe_machine)
def tune(
    definition: StudyDefinition, store: Store, display: Display, warnings: Sequence[str]
) -> tuple[OpenStudy, Ending]:
    """Starts or resumes a study and runs it until its budget is used up or it is stopped.

    Args:
        definition: The study.
        store: Where its runs lie.
        display: Shows the progress of the search.
        warnings: What `check` found, to be shown.

    Returns:
        The study, and why it stopped.

    Raises:
        InputError: The study of this name asks something else, or another process runs it, or the Ray
            cluster that it is to run on cannot be used.
        DatabaseAway: The study's database went away for too long; the study goes on later.
    """
    if definition.ray is None and "resources" in definition.file.model_fields_set:
        warnings = [*warnings, "[resources] are for --ray; here the study has its number of workers"]
    with on_cluster(definition) as sized:
        return _tune(sized, store, display, warnings)


def _tune(
    definition: StudyDefinition, store: Store, display: Display, warnings: Sequence[str]
) -> tuple[OpenStudy, Ending]:
    """As `tune`, with the cluster connected."""
    entered = time.monotonic()
    opened = open_study(definition, store)
    if definition.continued is not None and not opened.trials([TrialState.COMPLETE]):
        taken, left = seed(opened, find_study(definition.continued, store), definition.space)
        logger.info(
            f"taken over: {plural(taken, 'finished trial')} of {definition.continued}"
            + (f"; {left} lie outside of this space" if left else "")
        )
    ownership = Ownership(opened, join=definition.join)
    workers: list[Worker] = []
    requeued = 0
    try:
        if ownership.leads:
            opened.set_budget(max(definition.file.budget.trials, opened.logical()))
            requeued = 0 if ownership.others() else mend_study(opened)
        else:
            definition = _with_common_budget(definition, opened)
        trials_left = _trials_left(definition, opened)
        prepare_mlflow(store)
        deliverer = DelivererThread(store)
        if trials_left:
            workers += start_workers(definition, definition.file.workers)
        preparing = time.monotonic() - entered
        session = SessionContext(
            opened, definition, ownership, display, deliverer.register, preparing=preparing
        )
        with display:
            for warning in warnings:
                logger.warning(warning)
            if requeued:
                logger.info(f"running again: {plural(requeued, 'interrupted trial')}")
            return opened, run_session(session, deliverer, workers)
    finally:
        for worker in workers:
            worker.stop()
        ownership.release()


def _with_common_budget(definition: StudyDefinition, opened: OpenStudy) -> StudyDefinition:
    """The definition with the budget of the supervisor that leads: all keep the same."""
    file, trials = definition.file, opened.budget()
    if trials is None or trials == file.budget.trials:
        return definition
    logger.info(f"the study's budget is {trials} trials, as the supervisor that leads it has set")
    budget = file.budget.model_copy(update={"trials": trials})
    return dataclasses.replace(definition, file=file.model_copy(update={"budget": budget}))


def _trials_left(definition: StudyDefinition, opened: OpenStudy) -> bool:
    budget = definition.file.budget
    return opened.logical() < budget.trials and (budget.seconds is None or opened.seconds() < budget.seconds)


def warm_up(definition: StudyDefinition, store: Store) -> bool:
    """Has what workers need be imported while clips and weights are checked, where there are trials to run.

    Returns:
        Whether there are; without, nothing needs to be checked.
    """
    begun = stored_definition(store, definition.name) is not None
    # Who joins keeps to the budget of the supervisor that leads, which may be larger.
    left = not begun or definition.join or _trials_left(definition, find_study(definition.name, store))
    if left and definition.ray is None:
        preload()
    return left


@devices.left_alone(describe_machine)
def check(definition: StudyDefinition, progress: Progress = silent) -> list[str]:
    """Checks data and weights of every base, and of the networks and weights that the space offers.

    Args:
        definition: The study.
        progress: Called with (clips done, clips in all) while clips are decoded.

    Returns:
        Warnings about the space and the clips.

    Raises:
        InputError: Every problem of every base.
    """
    space = definition.space
    warnings: list[str] = space.notes()
    problems: list[str] = []
    repeats = definition.file.repetition
    for stem, base in space.bases.items():
        try:
            warnings += prepare(repeats.variant(base, 0) if repeats else base, progress)[1]
            for path in ("model.network", "model.weights"):
                dimension = space.dimensions.get((stem, path))
                for choice in dimension.choices if isinstance(dimension, Choice) else ():
                    tree = config.override(config.dump(base), {path: choice})
                    parse_experiment(tree, f"{stem} with {path} = {choice}").check_weights()
        except InputError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise InputError(*problems)
    digests = {stem: read_manifest(base.data.manifest).digest() for stem, base in space.bases.items()}
    if len(set(digests.values())) > 1:
        raise InputError(
            f"the bases {', '.join(digests)} have different clips or splits, so their figures can't be ranked"
        )
    return list(dict.fromkeys(warnings))
