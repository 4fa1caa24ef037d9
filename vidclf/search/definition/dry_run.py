"""Dry run: what a study would do, as plain data."""

import statistics
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from vidclf import config
from vidclf.data.manifest import read_manifest
from vidclf.runs.experiment import divided
from vidclf.runs.store import Store
from vidclf.search.definition.study_file import StudyDefinition, check_same
from vidclf.search.definition.warm_start import enqueue_first
from vidclf.search.record.study import FIXED, START, OpenStudy, counts, find_study


def describe_plan(definition: StudyDefinition, store: Store) -> dict[str, Any]:
    """What a study would do, as plain data; creates nothing.

    Returns:
        ``study``, ``question``, ``objective``, ``used`` and ``total`` trials, ``workers``; ``resources``:
        who they are, in words; ``clips`` by split; ``space``: what is searched in each base; ``bases``: each
        as resolved here; ``first``: the points that are tried before anything is sampled; ``sample``: one
        random configuration; ``seconds_left`` and ``store_bytes`` (in the end, models included): from the
        trials so far, ``None`` before the first.

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
            {
                "base": stem,
                "key": key,
                "searched": ", ".join(f"{name} {value}" for name, value in shown.items()),
            }
            for (stem, key), dimension in definition.space.dimensions.items()
            for shown in [dimension.model_dump(mode="json", exclude_defaults=True)]
        ],
        "bases": bases,
        "first": _first_points(definition),
        "sample": _sample(definition),
        **_estimates(opened, max(0, file.budget.trials - used), file.workers),
    }


def _resources(definition: StudyDefinition) -> str:
    file = definition.file
    if definition.ray is None:
        return f"{file.workers} worker{'s' * (file.workers > 1)} on this machine"
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


def _estimates(opened: OpenStudy | None, trials: int, workers: int) -> dict[str, float | None]:
    """Time left and disk in all, from what the trials so far took."""
    finished = opened.trials([TrialState.COMPLETE, TrialState.PRUNED]) if opened else []
    finished = [trial for trial in finished if counts(trial)]  # another study's have no folder here
    durations = [trial.duration.total_seconds() for trial in finished if trial.duration]
    if opened is None or not durations:
        return {"seconds_left": None, "store_bytes": None}
    folders = [opened.attempt(trial.number).folder for trial in finished]
    held = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    return {
        "seconds_left": statistics.mean(durations) * trials / workers,
        "store_bytes": held + held / len(finished) * trials,
    }
