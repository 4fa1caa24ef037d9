"""Plans, checks and runs a study for ``vidclf tune``."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from vidclf import config
from vidclf.config import Choice
from vidclf.data.manifest import read_manifest
from vidclf.exceptions import InputError
from vidclf.labels import plural
from vidclf.progress import Progress, silent
from vidclf.runs.experiment import parse_experiment, prepare
from vidclf.runs.store import Store, check_name
from vidclf.search.definition.study_file import StudyDefinition, load_study, open_study
from vidclf.search.definition.warm_start import check_alike, seed
from vidclf.search.execution.budget import Ending
from vidclf.search.execution.consistency import mend_study
from vidclf.search.execution.context import SessionContext
from vidclf.search.execution.display import Display
from vidclf.search.execution.session import run_session
from vidclf.search.execution.worker_pool import check_ray, gpu_count, on_cluster, start_workers
from vidclf.search.record.owners import Ownership
from vidclf.search.record.study import OpenStudy, find_study
from vidclf.tracking.background import DelivererThread
from vidclf.tracking.deliverer import prepare as prepare_mlflow
from vidclf.workers.local import preload
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
    """

    path: Path
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    trials: int | None = None
    workers: int | None = None
    per_gpu: int | None = None
    continue_as: str | None = None
    join: bool = False
    ray: str | None = None


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
    definition = dataclasses.replace(definition, join=request.join, ray=request.ray)
    file = definition.file
    if request.trials is not None:
        file = file.model_copy(update={"budget": file.budget.model_copy(update={"trials": request.trials})})
    workers = request.workers
    if request.per_gpu is not None:
        workers = workers or request.per_gpu * gpu_count()
    if workers is not None:
        file = file.model_copy(update={"workers": workers})
    if workers is not None and request.ray is not None:
        resources = file.resources.model_copy(update={"max_workers": workers})
        file = file.model_copy(update={"resources": resources})
    if request.continue_as is None:
        return dataclasses.replace(definition, file=file, per_gpu=request.per_gpu)
    if request.continue_as == definition.name:
        raise InputError(f"--continue-as {definition.name}: that is the study to go on from; choose another")
    check_name(request.continue_as)
    check_alike(definition.fingerprint(), find_study(definition.name, store))
    return dataclasses.replace(
        definition,
        name=request.continue_as,
        file=file,
        per_gpu=request.per_gpu,
        continued=definition.name,
    )


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
        trials_left = opened.logical() < definition.file.budget.trials
        if trials_left and definition.ray is None:
            preload()  # while MLflow is prepared
        prepare_mlflow(store)
        deliverer = DelivererThread(store)
        if trials_left:
            workers += start_workers(definition, definition.file.workers)
        session = SessionContext(opened, definition, ownership, display, deliverer.register)
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


def check(definition: StudyDefinition, progress: Progress = silent) -> list[str]:
    """Checks data and weights of every base, and of the networks and weights that the space offers.

    Args:
        definition: The study.
        progress: Called with (clips done, clips in all) while clips are decoded.

    Returns:
        Warnings about clips.

    Raises:
        InputError: Every problem of every base.
    """
    space = definition.space
    warnings: list[str] = []
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
