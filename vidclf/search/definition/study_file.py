"""Study files: loading, validation, and comparison with the stored study on resume."""

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, cast

import optuna
from optuna.storages import BaseStorage
from pydantic import Field, ValidationError, model_validator

from vidclf import config
from vidclf.config import Scalar, Section
from vidclf.data.manifest import read_manifest
from vidclf.evaluation.metrics import CURVES
from vidclf.exceptions import InputError
from vidclf.models.base import ExperimentConfig
from vidclf.runs.experiment import experiment_name, load_experiment, portable
from vidclf.runs.repeats import Repeats
from vidclf.runs.store import Store, check_name, locked, without_password
from vidclf.search.definition.pruners import NoPrunerConfig, Pruner, pruner_problems
from vidclf.search.definition.samplers import Sampler, TPEConfig, sampler_problems
from vidclf.search.definition.space import Space, build_space
from vidclf.search.definition.warm_start import base_of, enqueue_first, start_problems
from vidclf.search.record.names import study_names
from vidclf.search.record.settings import Budget, Constraint, Gates, Objective
from vidclf.search.record.storage import open_storage
from vidclf.search.record.study import DEFINITION, OpenStudy, stored_definition
from vidclf.workers.protocol import Resources

CURVE_METRICS = tuple(f"val/{name}" for name in CURVES)
"""Objectives that neural models also report each epoch, and that a pruner can therefore follow."""

_MAKING_SECONDS = 30.0
"""Longest wait for another process to make a study: it takes three statements."""


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
    objective: Objective | Annotated[tuple[Objective, ...], Field(min_length=1, strict=False)]
    """What the search improves; several make a search for the best compromises, without pruning."""
    constraint: Annotated[tuple[Constraint, ...], Field(strict=False)] = ()
    """Bounds that a trial must keep."""
    budget: Budget
    """When the search ends."""
    resources: Resources = Resources()
    """What each worker takes of a machine of a Ray cluster; may change when the study is resumed."""
    gates: Gates = Gates()
    """What its best model must reach to be promoted; may change when the study is resumed."""
    sampler: Sampler = TPEConfig()
    """Proposes configurations."""
    pruner: Pruner = NoPrunerConfig()
    """Stops trials early."""
    space: dict[str, Any] = Field(default_factory=dict)
    """Dimension by dotted path; none where several bases are compared as they are."""
    start: Annotated[tuple[dict[str, Scalar], ...], Field(strict=False)] = ()
    """Points that are tried first, after the bases' own values: values by dotted path, and ``base``."""

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return self.objective if isinstance(self.objective, tuple) else (self.objective,)

    @property
    def repetition(self) -> Repeats | None:
        return self.objectives[0].repetition

    def aims(self) -> str:
        """The objectives in words."""
        aims = ", ".join(f"{objective.direction} {objective.metric}" for objective in self.objectives)
        return f"{aims}, mean of {self.repetition}" if self.repetition else aims

    @model_validator(mode="after")
    def _check(self) -> Self:
        first, *others = self.objectives
        if first.repeats == 1 and first.repeat_by != "seed":
            raise ValueError("objective.repeat_by has no effect without objective.repeats of 2 or more")
        if others:
            self._check_several()
        elif not first.metric.startswith("val/"):
            raise ValueError(
                f"objective.metric = {first.metric!r} alone is no aim: the smallest model would win. Give it "
                "as a [[constraint]], or beside a val/… metric as one of several [[objective]]s"
            )
        if not self.space and (isinstance(self.base, str) or len(self.base) == 1):
            raise ValueError("space is required: with one base there is nothing else to search")
        constrained = [constraint.metric for constraint in self.constraint]
        for metric in sorted({metric for metric in constrained if constrained.count(metric) > 1}):
            raise ValueError(f"two [[constraint]]s on {metric}: give one with both its min and its max")
        if self.pruner.name != "none" and first.repeats == 1 and first.metric not in CURVE_METRICS:
            raise ValueError(
                f"objective.metric = {first.metric!r} has no curve to prune on; "
                f'set pruner.name = "none" or choose one of {", ".join(CURVE_METRICS)}'
            )
        return self

    def _check_several(self) -> None:
        metrics = [objective.metric for objective in self.objectives]
        if len(set(metrics)) < len(metrics):
            raise ValueError("two [[objective]]s have the same metric")
        if not metrics[0].startswith("val/"):
            raise ValueError(f"the first [[objective]] ranks the trials: a val/… metric, not {metrics[0]}")
        if len({(objective.repeats, objective.repeat_by) for objective in self.objectives}) > 1:
            raise ValueError("all [[objective]]s have the same repeats and repeat_by")
        if self.pruner.name != "none":
            raise ValueError('several [[objective]]s cannot be pruned on; set pruner.name = "none"')


@dataclass(frozen=True)
class StudyDefinition:
    """A checked study, ready to run.

    Attributes:
        name: Its name everywhere.
        file: Its settings.
        space: Its bases and dimensions.
        overrides: ``--set`` values that its bases carry.
        continued: The study whose finished trials this one takes over.
        join: Other supervisors may run it too.
        ray: Address of the Ray cluster whose workers run it; ``None``: this machine's do.
        begun: When the command that runs it began, on the monotonic clock; ``None``: when its trials do.
    """

    name: str
    file: StudyFile
    space: Space
    overrides: Mapping[str, Any]
    continued: str | None = None
    join: bool = False
    ray: str | None = None
    begun: float | None = None

    @property
    def experiment(self) -> str:
        """MLflow experiment of its runs: that of the first base."""
        return experiment_name(next(iter(self.space.bases.values())))

    def fingerprint(self) -> dict[str, Any]:
        """What must be equal on resume, by a readable key; free of paths."""
        flat: dict[str, Any] = {
            "objective": ", ".join(f"{item.direction} {item.metric}" for item in self.file.objectives),
            "repeats": str(self.file.repetition or "none"),
            "constraints": sorted(str(config.dump(constraint)) for constraint in self.file.constraint),
        }
        for dimension, value in config.flatten(self.space.describe()).items():
            flat[f"space: {dimension}"] = value
        for stem, base in self.space.bases.items():
            for path, value in portable(base).items():
                if path != "train.precision":
                    flat[f"base {stem}: {path}"] = value
            flat[f"base {stem}: clips"] = read_manifest(base.data.manifest).digest()
        return cast(dict[str, Any], json.loads(json.dumps(flat)))


def load_study(
    path: Path, overrides: Mapping[str, Any], store: Store, successor: str | None = None
) -> StudyDefinition:
    """Reads and checks a study file and its bases.

    Args:
        path: The TOML file.
        overrides: ``--set`` values; empty on a resume: those that the study was started with.
        store: Where the study may already exist.
        successor: The study that is to take over this one's finished trials; it may exist, too.

    Raises:
        InputError: Every problem of the study file and its bases.
    """
    tree = config.read_toml(path)
    if "model" in tree and "space" not in tree:
        raise InputError(f"{path}: this is an experiment; run it with: vidclf train {path}")
    try:
        file = config.validate(StudyFile, tree, str(path))
    except InputError as error:
        raise InputError(*error.problems, *_space_problems(path, tree)) from None
    name = file.name or path.stem
    check_name(name)
    given = "--set"
    for resumed in filter(None, (successor, name) if not overrides else ()):
        if stored := stored_definition(store, resumed):
            overrides, given = stored["overrides"], f"the study {resumed} was started with --set"
            break
    searched = sorted(overrides.keys() & file.space.keys())
    if searched:
        raise InputError(*(f"{given} {key}: {path} searches over it; change its [space]" for key in searched))
    bases, overrides = _load_bases(path, file, overrides, given)
    space = build_space(file.space, bases, str(path), path.parent.absolute())
    problems = list(start_problems(file.start, space, str(path)))
    problems += [
        f"{path}: {problem}"
        for problem in (
            *sampler_problems(file.sampler, space, len(file.objectives)),
            *pruner_problems(file.pruner, space, file.objectives[0].repeats),
        )
    ]
    if problems:
        raise InputError(*problems)
    return StudyDefinition(name, file, space, overrides)


def _space_problems(path: Path, tree: Mapping[str, Any]) -> Sequence[str]:
    """What is wrong with the space and the bases of a file that has other problems too."""
    parts = {key: tree[key] for key in ("base", "space") if key in tree}
    required = {"objective": {"metric": "val/loss", "direction": "minimize"}, "budget": {"trials": 1}}
    try:
        file = StudyFile.model_validate({**required, **parts, "pruner": {"name": "none"}})
    except ValidationError:  # which has been told
        return ()
    try:
        bases, _ = _load_bases(path, file, {}, "")
        build_space(file.space, bases, str(path), path.parent.absolute())
    except InputError as error:
        return error.problems
    return ()


def _load_bases(
    path: Path, file: StudyFile, overrides: Mapping[str, Any], given: str
) -> tuple[dict[str, ExperimentConfig], dict[str, Any]]:
    """The bases by stem, and the overrides with their paths made absolute.

    Args:
        path: The study file.
        file: What it says.
        overrides: Values by dotted path.
        given: Where they come from, for messages.

    Raises:
        InputError: Every problem of the bases, or every override whose key none of them has.
    """
    bases: dict[str, ExperimentConfig] = {}
    problems: list[str] = []
    resolved: dict[str, Any] = {}
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
            if config.lookup(config.dump(base), "model.network") is None and "model.network" not in overrides:
                fields -= {"model.weights"}  # without a network they would be idle, and refused
            mine = {key: value for key, value in overrides.items() if key in fields}
            mine = config.resolve_paths(type(base), mine, Path.cwd())
            resolved |= mine
            bases[base_path.stem] = load_experiment(base_path, mine) if mine else base
        except InputError as error:
            problems += error.problems
    if not problems:
        problems += [
            f"{given} {key}: no base of {path} has this key{config.did_you_mean(key, sorted(known))}"
            for key in sorted(overrides.keys() - resolved.keys())
        ]
    if problems:
        raise InputError(*problems)
    return bases, resolved


def open_study(definition: StudyDefinition, store: Store) -> OpenStudy:
    """Creates the study, or resumes the one of this name.

    Raises:
        InputError: A study of this name asks something else; the differences are shown.
    """
    storage = open_storage(store)
    fingerprint = definition.fingerprint()
    store.attempts.mkdir(parents=True, exist_ok=True)
    # Of the commands on one store one makes the study, and the others find it made.
    with locked(store.attempts):
        while True:
            if stored := check_same(definition, fingerprint, store):
                study = optuna.load_study(study_name=definition.name, storage=storage)
                return OpenStudy(study, storage, stored, store)
            if definition.name in study_names(store):
                _clear(definition.name, store, storage)
            directions = [objective.direction for objective in definition.file.objectives]
            try:
                study = optuna.create_study(
                    study_name=definition.name, storage=storage, directions=directions
                )
            except optuna.exceptions.DuplicatedStudyError:  # of another store on the same server
                continue
            enqueue_first(study, definition.space, definition.file.start)
            stored = _record(definition, fingerprint)
            study.set_user_attr(DEFINITION, json.dumps(stored))
            return OpenStudy(study, storage, stored, store)


def _clear(name: str, store: Store, storage: BaseStorage) -> None:
    """Deletes a study that was cut off while it was made, or waits for the command that is making it.

    In the store's own database none can be, as the caller holds the store's lock; in one that stores share,
    nothing tells one that is dead from one that is slow.

    Raises:
        InputError: The other command does not make it.
    """
    if "optuna" in store.databases:
        storage.delete_study(storage.get_study_id_from_name(name))
        return
    end = time.monotonic() + _MAKING_SECONDS
    while name in study_names(store) and not stored_definition(store, name):
        if time.monotonic() >= end:
            where = without_password(store.optuna_uri)
            raise InputError(
                f"the study {name} in {where} was begun by another command and is not there after "
                f"{_MAKING_SECONDS:.0f} s; if that command is dead, delete it with: "
                f"optuna delete-study --study-name {name} --storage {where}"
            )
        time.sleep(0.2)


def check_same(
    definition: StudyDefinition, fingerprint: Mapping[str, Any], store: Store
) -> dict[str, Any] | None:
    """What the study of this name was made from, ``None`` where there is none yet.

    Raises:
        InputError: It asks something else; the differences are shown.
    """
    stored = stored_definition(store, definition.name)
    changes = list(_differences(stored["fingerprint"], fingerprint)) if stored else []
    if changes:
        raise InputError(
            f"the study {definition.name} exists and asks something else:",
            *(f"  {change}" for change in changes),
            "Undo the change to resume it, or start a new study with --continue-as NAME, which takes over "
            "those of its finished trials that fit.",
        )
    return stored


def _record(definition: StudyDefinition, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "uuid": uuid.uuid4().hex,
        "question": definition.file.question,
        "objectives": [config.dump(objective) for objective in definition.file.objectives],
        "constraints": [config.dump(constraint) for constraint in definition.file.constraint],
        "bases": {stem: config.dump(base) for stem, base in definition.space.bases.items()},
        "experiment": definition.experiment,
        "overrides": dict(definition.overrides),
        "fingerprint": fingerprint,
    }


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[str]:
    bases = [{base for key in each if (base := base_of(key))} for each in (before, after)]
    yield from (f"base {base} is new" for base in sorted(bases[1] - bases[0]))
    yield from (f"base {base} is not there any more" for base in sorted(bases[0] - bases[1]))
    for key in sorted(before.keys() | after.keys()):
        base = base_of(key)
        known = base is None or all(base in each for each in bases)
        if known and before.get(key) != after.get(key):
            yield f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
