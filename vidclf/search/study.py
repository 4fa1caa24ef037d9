"""Study files: what is searched, checked before the first trial, and compared on resume."""

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, cast

import optuna
from pydantic import Field, model_validator

from vidclf import config
from vidclf.config import InputError, Section, Tree
from vidclf.data.manifest import content_digest, read_manifest
from vidclf.experiment import experiment_name, load_experiment
from vidclf.models.base import ExperimentConfig
from vidclf.search.record import (
    DEFINITION,
    Constraint,
    Objective,
    OpenStudy,
    open_storage,
    stored_definition,
)
from vidclf.search.space import Space, build_space
from vidclf.search.strategies import PrunerConfig, SamplerConfig
from vidclf.store import Store

CURVE_METRICS = ("val/loss", "val/accuracy", "val/macro_f1", "val/balanced_accuracy")
"""Objectives that neural models also report each epoch, and that a pruner can therefore follow."""

_LATER = (
    "objective.repeats",
    "objective.repeat_by",
    "budget.seconds",
    "budget.patience",
    "budget.retries",
    "start",
    "resources",
    "gates",
)


class Budget(Section):
    """When the search ends."""

    trials: int = Field(ge=1)
    """Complete, pruned and given-up trials in total, also after a resume."""


class StudyFile(Section):
    """A study as written in its TOML file."""

    question: str = ""
    """What the study is to answer."""
    name: str | None = Field(None, pattern=r"^[\w.-]+$")
    """Name of the study; unset: the file's stem."""
    base: str | Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    """Experiment file or files that the space varies; relative to the study file."""
    keep: int = Field(3, ge=1)
    """How many of the best models are kept for the registry, beside the Pareto front."""
    workers: int = Field(1, ge=1)
    """Worker processes."""
    objective: Objective
    """What the search improves."""
    constraint: Annotated[tuple[Constraint, ...], Field(strict=False)] = ()
    """Bounds that a trial must keep."""
    budget: Budget
    """When the search ends."""
    sampler: SamplerConfig = SamplerConfig()
    """Who proposes configurations."""
    pruner: PrunerConfig = PrunerConfig()
    """Who stops trials early."""
    space: dict[str, Any] = Field(min_length=1)
    """Dimension by dotted path."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.pruner.name != "none" and self.objective.metric not in CURVE_METRICS:
            raise ValueError(
                f"objective.metric = {self.objective.metric!r} has no curve to prune on; "
                f'set pruner.name = "none" or choose one of {", ".join(CURVE_METRICS)}'
            )
        return self


@dataclass(frozen=True)
class StudyDefinition:
    """A checked study, ready to run.

    Attributes:
        name: Its name everywhere.
        file: Its settings.
        space: Its bases and dimensions.
        overrides: ``--set`` values that its bases carry.
    """

    name: str
    file: StudyFile
    space: Space
    overrides: Mapping[str, Any]

    @property
    def experiment(self) -> str:
        """MLflow experiment of its runs: that of the first base."""
        return experiment_name(next(iter(self.space.bases.values())))

    def fingerprint(self) -> dict[str, Any]:
        """What must be equal on resume, by a readable key; free of paths."""
        flat: dict[str, Any] = {
            "objective": f"{self.file.objective.direction} {self.file.objective.metric}",
            "constraints": sorted(str(config.dump(constraint)) for constraint in self.file.constraint),
        }
        for dimension, value in config.flatten(self.space.describe()).items():
            flat[f"space: {dimension}"] = value
        for stem, base in self.space.bases.items():
            for path, value in _portable(base).items():
                flat[f"base {stem}: {path}"] = value
            flat[f"base {stem}: clips"] = read_manifest(Path(base.data.manifest)).digest()
        return cast(dict[str, Any], json.loads(json.dumps(flat)))


def _portable(base: ExperimentConfig) -> dict[str, Any]:
    """The base's values that decide results, with the digest of its weights file for the path."""
    values = config.flatten(config.dump(base))
    left_out = ("data.manifest", "experiment", "train.precision")
    values = {path: value for path, value in values.items() if path not in left_out}
    values = {path: value for path, value in values.items() if not path.startswith("published.")}
    weights = values.get("model.weights")
    if weights not in (None, "pretrained", "none"):
        values["model.weights"] = f"sha256 {content_digest(Path(weights))}"
    return values


def load_study(path: Path, overrides: Mapping[str, Any], store: Store) -> StudyDefinition:
    """Reads and checks a study file and its bases.

    Args:
        path: The TOML file.
        overrides: ``--set`` values; empty on a resume: those that the study was started with.
        store: Where the study may already exist.

    Raises:
        InputError: Every problem of the study file and its bases.
    """
    tree = config.read_toml(path)
    _refuse_later(tree, str(path))
    file = config.validate(StudyFile, tree, str(path))
    name = file.name or path.stem
    stored = stored_definition(store, name)
    if not overrides and stored:
        overrides = stored["overrides"]
    searched = sorted(overrides.keys() & file.space.keys())
    if searched:
        raise InputError(*(f"--set {key}: {path} searches over it; change its [space]" for key in searched))
    bases = _load_bases(path, file, overrides)
    space = build_space(file.space, bases, str(path), path.parent.absolute())
    return StudyDefinition(name, file, space, overrides)


def _refuse_later(tree: Tree, source: str) -> None:
    problems = [
        f"{source}: {key} is not in this version of vidclf" for key in _LATER if config.lookup(tree, key)
    ]
    if isinstance(tree.get("objective"), list):
        problems.append(
            f"{source}: several [[objective]]s are not in this version of vidclf; give one [objective]"
        )
    if problems:
        raise InputError(*problems)


def _load_bases(path: Path, file: StudyFile, overrides: Mapping[str, Any]) -> dict[str, ExperimentConfig]:
    bases: dict[str, ExperimentConfig] = {}
    problems: list[str] = []
    used: set[str] = set()
    known: set[str] = set()
    for text in (file.base,) if isinstance(file.base, str) else file.base:
        base_path = Path(config.expand_path(text, path.parent))
        if base_path.stem in bases:
            problems.append(f"{path}: base: two files are called {base_path.stem}; rename one")
            continue
        try:
            base = load_experiment(base_path)
            fields = set(config.schema_fields(type(base)))
            known |= fields
            mine = {key: value for key, value in overrides.items() if key in fields}
            used |= mine.keys()
            bases[base_path.stem] = load_experiment(base_path, mine) if mine else base
        except InputError as error:
            problems += error.problems
    if not problems:
        problems += [
            f"--set {key}: no base of {path} has this key{config.did_you_mean(key, sorted(known))}"
            for key in sorted(overrides.keys() - used)
        ]
    if problems:
        raise InputError(*problems)
    return bases


def open_study(definition: StudyDefinition, store: Store) -> OpenStudy:
    """Creates the study, or resumes the one of this name.

    Raises:
        InputError: A study of this name asks something else; the differences are shown.
    """
    storage = open_storage(store)
    stored = stored_definition(store, definition.name)
    fingerprint = definition.fingerprint()
    if stored:
        changes = list(_differences(stored["fingerprint"], fingerprint))
        if changes:
            raise InputError(
                f"the study {definition.name} exists and asks something else:",
                *(f"  {change}" for change in changes),
                "Undo the change to resume it, or give this one another name (name = … in its file).",
            )
        study = optuna.load_study(study_name=definition.name, storage=storage)
    else:
        direction = definition.file.objective.direction
        study = optuna.create_study(study_name=definition.name, storage=storage, direction=direction)
        stored = _record(definition, fingerprint)
        study.set_user_attr(DEFINITION, json.dumps(stored))
    return OpenStudy(study, storage, stored, store)


def _record(definition: StudyDefinition, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "uuid": uuid.uuid4().hex,
        "question": definition.file.question,
        "objective": config.dump(definition.file.objective),
        "constraints": [config.dump(constraint) for constraint in definition.file.constraint],
        "bases": {stem: config.dump(base) for stem, base in definition.space.bases.items()},
        "experiment": definition.experiment,
        "overrides": dict(definition.overrides),
        "fingerprint": fingerprint,
    }


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[str]:
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
