"""Study files, and the Optuna study that each of them names."""

import copy
import json
import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field, model_validator

from vidclf import config
from vidclf.compare import TrialRow
from vidclf.config import InputError, Section, Tree
from vidclf.data.manifest import content_digest, read_manifest
from vidclf.experiment import experiment_name, load_experiment, parse_experiment
from vidclf.models.base import ExperimentConfig
from vidclf.search.space import BASE, Space, build_space
from vidclf.store import Attempt, Store

Direction = Literal["maximize", "minimize"]
DEFINITION = "vidclf/definition"
"""Study attribute that holds what the study was made from."""

_LATENCY = "vidclf/latency"
"""Prefix of the study attributes that hold latency metrics by shape."""

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
_LATER_SAMPLERS = ("gp", "cmaes", "nsgaii", "qmc", "grid", "brute_force")
_LATER_PRUNERS = ("hyperband", "asha", "percentile", "patient", "threshold", "wilcoxon")


class Objective(Section):
    """What the search improves."""

    metric: str
    """A final metric of the val split, as ``val/macro_f1``."""
    direction: Direction
    """``maximize`` or ``minimize``."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.metric.startswith("val/"):
            raise ValueError(f"objective.metric = {self.metric!r}: a study optimises a val/… metric")
        return self


class Constraint(Section):
    """A bound that a trial must keep to be feasible."""

    metric: str = Field(pattern="^size/(parameters|trainable_parameters|file_mb)$")
    """``size/file_mb``, ``size/parameters`` or ``size/trainable_parameters``."""
    min: float | None = None
    """Smallest feasible value."""
    max: float | None = None
    """Largest feasible value."""

    def violation(self, value: float) -> float:
        """At most 0 where ``value`` is feasible."""
        above = value - self.max if self.max is not None else -1.0
        below = self.min - value if self.min is not None else -1.0
        return max(above, below)


class Budget(Section):
    """When the search ends."""

    trials: int = Field(ge=1)
    """Complete, pruned and given-up trials in total, also after a resume."""


class SamplerConfig(Section):
    """Who proposes configurations."""

    name: str = "tpe"
    """``tpe`` or ``random``."""
    seed: int = Field(0, ge=0)
    """Seed; a resumed study derives a new one from it, so that it proposes new points."""
    startup_trials: int = Field(10, ge=1)
    """tpe: random trials before the model of the space is used."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _known("sampler", self.name, ("tpe", "random"), _LATER_SAMPLERS)
        if self.name == "random" and "startup_trials" in self.model_fields_set:
            raise ValueError("sampler.startup_trials has no effect with the sampler random")
        return self


class PrunerConfig(Section):
    """Who stops trials early."""

    name: str = "none"
    """``median`` or ``none``."""
    startup_trials: int = Field(5, ge=0)
    """median: complete trials of the same base before any is pruned."""
    warmup_epochs: int = Field(0, ge=0)
    """median: epochs in which none is pruned."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _known("pruner", self.name, ("median", "none"), _LATER_PRUNERS)
        if self.name == "none" and self.model_fields_set - {"name"}:
            raise ValueError("the pruner none has no options")
        return self


def _known(noun: str, name: str, known: tuple[str, ...], later: tuple[str, ...]) -> None:
    if name in later:
        raise ValueError(f"the {noun} {name} is not in this version of vidclf; it has {', '.join(known)}")
    if name not in known:
        raise ValueError(
            f"unknown {noun} {name!r}{config.did_you_mean(name, known)} (it has {', '.join(known)})"
        )


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


def open_storage(store: Store) -> optuna.storages.BaseStorage:
    """Optuna's database, created and migrated where needed: once, before any worker starts."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    embedded = store.optuna_uri.startswith("sqlite:")
    options = {"connect_args": {"timeout": 60}} if embedded else {}
    return optuna.storages.RDBStorage(store.optuna_uri, engine_kwargs=options)


def study_names(store: Store) -> list[str]:
    """Names of all studies of the store, oldest first; asking creates no database."""
    if (
        store.optuna_uri.startswith("sqlite:")
        and not Path(store.optuna_uri.removeprefix("sqlite:///")).exists()
    ):
        return []
    return list(optuna.get_all_study_names(open_storage(store)))


def stored_definition(store: Store, name: str) -> dict[str, Any] | None:
    """What the study ``name`` was made from, ``None`` where there is no such study."""
    if name not in study_names(store):
        return None
    storage = open_storage(store)
    attributes = optuna.load_study(study_name=name, storage=storage).user_attrs
    if DEFINITION not in attributes:
        raise InputError(
            f"the study {name} in {store.optuna_uri} was not made by vidclf; choose another name"
        )
    return cast(dict[str, Any], json.loads(attributes[DEFINITION]))


@dataclass(frozen=True)
class OpenStudy:
    """An Optuna study with what it was made from.

    Attributes:
        study: The study in Optuna's database.
        storage: That database.
        stored: Its definition, as recorded when it was made.
        store: Where its attempts lie.
    """

    study: optuna.Study
    storage: optuna.storages.BaseStorage
    stored: Mapping[str, Any]
    store: Store

    @property
    def name(self) -> str:
        return self.study.study_name

    @property
    def objective(self) -> Objective:
        return Objective(**self.stored["objective"])

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        return tuple(Constraint(**constraint) for constraint in self.stored["constraints"])

    @property
    def series(self) -> str:
        """Folder of its attempts; unique even if the study is deleted and made anew."""
        return f"{self.name}-{self.stored['uuid'][:8]}"

    def attempt(self, number: int) -> Attempt:
        return self.store.attempt(self.series, f"{number:05d}")

    @property
    def own_attempt(self) -> Attempt:
        """The folder that mirrors to the study's parent run."""
        return self.store.attempt(self.series, "study")

    def attempt_id(self, number: int | None = None) -> str:
        return f"{self.stored['uuid']}/{'study' if number is None else number}"

    def trials(self, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=tuple(states) if states else None)

    def trial(self, number: int) -> optuna.Trial:
        """The handle of an unfinished trial."""
        return optuna.Trial(self.study, self._trial_id(number))

    def frozen(self, number: int) -> FrozenTrial:
        """The trial as it stands in the database now."""
        return self.storage.get_trial(self._trial_id(number))

    def _trial_id(self, number: int) -> int:
        study_id = self.storage.get_study_id_from_name(self.name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def latency(self, shape: str) -> dict[str, float] | None:
        """Latency metrics of a shape, ``None`` where they were not measured yet."""
        return cast(dict[str, float] | None, self.study.user_attrs.get(f"{_LATENCY}/{shape}"))

    def set_latency(self, shape: str, metrics: Mapping[str, float]) -> None:
        self.study.set_user_attr(f"{_LATENCY}/{shape}", dict(metrics))

    def logical(self) -> int:
        """Trials that count against the budget: complete, pruned and given up."""
        return sum(counts(trial) for trial in self.trials())

    def rows(self) -> list[TrialRow]:
        """Every attempt, in order, from its summary in Optuna's database."""
        latencies = {
            key.removeprefix(f"{_LATENCY}/"): value
            for key, value in self.study.user_attrs.items()
            if key.startswith(f"{_LATENCY}/")
        }
        return [self._row(trial, latencies) for trial in self.trials()]

    def _row(self, trial: FrozenTrial, latencies: Mapping[str, Mapping[str, float]]) -> TrialRow:
        stems = list(self.stored["bases"])
        stem = trial.params.get(BASE, stems[0])
        constraints = trial.constraints
        return TrialRow(
            study=self.name,
            number=trial.number,
            state=_row_state(trial),
            base=stem,
            model=self.stored["bases"][stem]["model"]["kind"],
            value=trial.value if trial.state == TrialState.COMPLETE else None,
            params={key: value for key, value in trial.params.items() if key != BASE},
            metrics={
                **trial.user_attrs.get("metrics", {}),
                **latencies.get(trial.user_attrs.get("shape", ""), {}),
            },
            feasible=all(value <= 0 for value in constraints.values()),
            reason=trial.user_attrs.get("reason", ""),
            reused_from=trial.user_attrs.get("reused_from"),
        )


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial uses up budget: complete, pruned, or failed for good."""
    if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
        return True
    return trial.state == TrialState.FAIL and trial.user_attrs.get("reason_kind") != "interrupted"


def _row_state(trial: FrozenTrial) -> str:
    if trial.state == TrialState.FAIL and not counts(trial):
        return "interrupted"
    return {TrialState.FAIL: "failed"}.get(trial.state, trial.state.name.lower())


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


def find_study(name_or_file: str, store: Store) -> OpenStudy:
    """The existing study of that name, or that a study file names.

    Raises:
        InputError: There is none; says which there are.
    """
    name = name_or_file
    if name_or_file.endswith(".toml"):
        path = Path(name_or_file)
        name = str(config.read_toml(path).get("name") or path.stem)
    stored = stored_definition(store, name)
    if stored is None:
        names = study_names(store)
        known = f"it has {', '.join(names)}" if names else "it has none yet: vidclf tune STUDY.toml makes one"
        raise InputError(f"{store.folder}: no study {name}{config.did_you_mean(name, names)} ({known})")
    storage = open_storage(store)
    return OpenStudy(optuna.load_study(study_name=name, storage=storage), storage, stored, store)


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


def stored_base(stored: Mapping[str, Any], stem: str) -> ExperimentConfig:
    """The base experiment as it was when the study was made."""
    return parse_experiment(stored["bases"][stem], f"stored base {stem}")


def build_sampler(settings: SamplerConfig, trials_at_start: int) -> BaseSampler:
    """The sampler; its seed depends on how many trials exist, so that a resume proposes new points."""
    seed = int(config.digest([settings.seed, trials_at_start])[:8], 16)
    if settings.name == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, n_startup_trials=settings.startup_trials, group=True, constant_liar=True)


def build_pruner(settings: PrunerConfig) -> BasePruner:
    if settings.name == "none":
        return NopPruner()
    return PerBasePruner(
        MedianPruner(n_startup_trials=settings.startup_trials, n_warmup_steps=settings.warmup_epochs)
    )


class PerBasePruner(BasePruner):
    """Shows a pruner only the trials of the asking trial's base: families learn at different speeds."""

    def __init__(self, inner: BasePruner) -> None:
        self._inner = inner

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return self._inner.prune(_same_base(study, trial.params.get(BASE)), trial)


def _same_base(study: optuna.Study, base: Any) -> optuna.Study:
    """A view of the study that holds only the trials of one base."""
    view = copy.copy(study)

    def get_trials(deepcopy: bool = True, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        trials = study.get_trials(deepcopy=deepcopy, states=tuple(states) if states else None)
        return [trial for trial in trials if trial.params.get(BASE) == base]

    vars(view)["get_trials"] = get_trials
    return view
