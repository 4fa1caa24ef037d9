"""Search spaces as data, over one or several base experiments."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic.fields import FieldInfo

from vidclf import config
from vidclf.config import Choice, Dimension, Range, Scalar, Tree
from vidclf.exceptions import InputError
from vidclf.models import MODELS
from vidclf.models.base import ExperimentConfig
from vidclf.runs.experiment import parse_experiment
from vidclf.search.record.study import BASE

_NETWORK = "model.network"
_NOT_SEARCHED = ("data.manifest", "experiment")


@dataclass(frozen=True)
class Space:
    """What a study searches.

    Attributes:
        bases: Experiment by the stem of its file.
        dimensions: Search dimension by (stem, dotted path); only those that the stem's schema has.
    """

    bases: Mapping[str, ExperimentConfig]
    dimensions: Mapping[tuple[str, str], Dimension]

    def suggest(self, trial: optuna.trial.BaseTrial) -> tuple[str, ExperimentConfig]:
        """Samples a configuration.

        Returns:
            The stem of its base, and the checked config.
        """
        stem = next(iter(self.bases))
        if len(self.bases) > 1:
            stem = str(trial.suggest_categorical(BASE, sorted(self.bases)))
        tree = config.dump(self.bases[stem])
        pending = {path: dimension for (owner, path), dimension in self.dimensions.items() if owner == stem}
        while pending:
            path = next(
                path for path, dimension in pending.items() if not pending.keys() & dimension.when.keys()
            )
            dimension = pending.pop(path)
            if is_active(dimension, tree, stem):
                tree = config.override(tree, {path: _suggest(trial, path, dimension)})
        return stem, parse_experiment(tree, f"trial {trial.number}")

    def notes(self) -> list[str]:
        """What a user may not expect: values that steps do not reach, bases of which nothing is searched."""
        uneven = {
            path: f"{path}: steps of {dimension.step:g} from {dimension.low:g} end at {dimension.highest:g}, "
            f"so {dimension.high:g} is never tried"
            for (_, path), dimension in self.dimensions.items()
            if isinstance(dimension, Range) and dimension.highest < dimension.high
        }
        searched = {owner for owner, _ in self.dimensions}
        fixed = [stem for stem in self.bases if searched and stem not in searched]
        single = "nothing of the base {} is searched: it runs once, and its other trials take that result"
        return [*uneven.values(), *(single.format(stem) for stem in fixed)]

    def describe(self) -> Tree:
        """The space as plain data, for fingerprints and records."""
        return {
            f"{stem}: {path}": config.dump(dimension) for (stem, path), dimension in self.dimensions.items()
        }


def is_active(dimension: Dimension, tree: Tree, stem: str) -> bool:
    """Whether a dimension is searched where the base and its values are these."""
    if not dimension.when:
        return True
    known = {BASE: stem}
    tree = config.dump(parse_experiment(tree, "a sampled configuration").resolved())
    return all(
        known.get(path, config.lookup(tree, path)) == wanted for path, wanted in dimension.when.items()
    )


def _suggest(trial: optuna.trial.BaseTrial, path: str, dimension: Dimension) -> Scalar:
    if isinstance(dimension, Choice):
        return cast(Scalar, trial.suggest_categorical(path, list(dimension.choices)))
    low, high = dimension.low, dimension.highest
    if dimension.integer:
        step = int(dimension.step or 1)
        return trial.suggest_int(path, int(low), int(high), step=step, log=dimension.log)
    return trial.suggest_float(path, low, high, step=dimension.step, log=dimension.log)


def distribution(dimension: Dimension) -> BaseDistribution:
    """What `Space.suggest` samples a dimension from."""
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.choices)
    if dimension.integer:
        return IntDistribution(
            int(dimension.low), int(dimension.highest), dimension.log, int(dimension.step or 1)
        )
    return FloatDistribution(dimension.low, dimension.highest, dimension.log, dimension.step)


def build_space(
    table: Mapping[str, Any], bases: Mapping[str, ExperimentConfig], source: str, folder: Path
) -> Space:
    """Checks a ``[space]`` table against the bases.

    Args:
        table: Dimension by dotted path: ``{low, high, …}``, ``{choices}`` or ``"default"``.
        bases: Experiment by stem.
        source: The study file, for messages.
        folder: What relative paths among the choices are relative to.

    Raises:
        InputError: Every problem: unknown keys, values that a base refuses, circular ``when``.
    """
    problems: list[str] = []
    dimensions: dict[tuple[str, str], Dimension] = {}
    known = sorted({path for base in bases.values() for path in config.schema_fields(type(base))})
    for path, value in table.items():
        if path in _NOT_SEARCHED:
            problems.append(f"{source}: space: {path} is the same for all trials, or they can't be ranked")
            continue
        if path not in known:
            problems.append(f"{source}: space: no base has the key {path}{config.meant_key(path, known)}")
            continue
        for stem, base in bases.items():
            fields = config.schema_fields(type(base))
            if path in fields:
                try:
                    dimension = _dimension(path, value, base, f"{source}: space.{path}", folder)
                    dimensions[stem, path] = _typed(dimension, fields[path])
                except InputError as error:
                    problems += [problem for problem in error.problems if problem not in problems]
    problems += _when_problems(dimensions, [*known, BASE], source)
    if not problems:
        problems += _refused_values(dimensions, bases, source)
    problems += _clashes(dimensions, source)
    if problems:
        raise InputError(*problems)
    return Space(bases, dimensions)


def _dimension(path: str, value: Any, base: ExperimentConfig, source: str, folder: Path) -> Dimension:
    if value == "default":
        default = base.own_range(path) or MODELS[base.kind].space.get(path)
        if default is None:
            raise InputError(
                f"{source}: {base.kind} has no default range; give {{ low, high }} or {{ choices }}"
            )
        return default
    if not isinstance(value, Mapping):
        raise InputError(f'{source}: expected {{ low, high }}, {{ choices }} or "default", not {value!r}')
    if "choices" not in value:
        return config.validate(Range, value, source)
    choice = config.validate(Choice, value, source)
    resolved = [config.resolve_paths(type(base), {path: item}, folder)[path] for item in choice.choices]
    return choice.model_copy(update={"choices": tuple(resolved)})


def _typed(dimension: Dimension, field: FieldInfo) -> Dimension:
    """A range written in whole numbers over a real-valued key is a real range."""
    types = get_args(field.annotation) or (field.annotation,)
    if isinstance(dimension, Range) and float in types and int not in types:
        return dimension.model_copy(update={"low": float(dimension.low), "high": float(dimension.high)})
    return dimension


def _when_problems(
    dimensions: Mapping[tuple[str, str], Dimension], known: list[str], source: str
) -> Iterator[str]:
    conditions = {path: set(dimension.when) for (_, path), dimension in dimensions.items()}
    for path, keys in conditions.items():
        for key in sorted(keys - set(known)):
            yield f"{source}: space.{path}.when: no base has the key {key}{config.meant_key(key, known)}"
    resolved: set[str] = set()
    while (
        ready := {path for path, keys in conditions.items() if not keys & conditions.keys() - resolved}
        - resolved
    ):
        resolved |= ready
    circular = sorted(conditions.keys() - resolved)
    if circular:
        yield f"{source}: space: the conditions of {', '.join(circular)} wait for each other"


def _refused_values(
    dimensions: Mapping[tuple[str, str], Dimension], bases: Mapping[str, ExperimentConfig], source: str
) -> Iterator[str]:
    """Tries the ends of every range and every choice on its base, alone and then with each network."""
    seen: set[str] = set()
    for stem, base in bases.items():
        own = {path: dimension for (owner, path), dimension in dimensions.items() if owner == stem}
        own = {path: item for path, item in own.items() if item.when.get(BASE, stem) == stem}
        tree, refused = config.dump(base), set[tuple[str, Scalar]]()
        for path, dimension in own.items():
            for values in _joint_values({path: dimension}, tree):
                for problem in _refusals(values, tree, f"{source}: space.{path}"):
                    refused.add((path, values[path]))
                    if problem not in seen:
                        seen.add(problem)
                        yield f"{problem} (in base {stem})"
        for path in own:
            if _NETWORK not in own or path == _NETWORK:
                continue
            for values in _joint_values({_NETWORK: own[_NETWORK], path: own[path]}, tree):
                if not refused & values.items():
                    together = f"{_NETWORK} = {values[_NETWORK]} with {path} = {values[path]}"
                    for problem in _refusals(values, tree, f"{source}: space: {together}"):
                        yield f"{problem} (in base {stem}; keep them apart with when, or search fewer values)"


def _joint_values(chosen: Mapping[str, Dimension], tree: Tree) -> Iterator[dict[str, Scalar]]:
    """Every combination of the dimensions' extreme values, with what they are searched under."""
    conditions: dict[str, Scalar] = {}
    for dimension in chosen.values():
        for key, value in dimension.when.items():
            if key != BASE and (config.lookup(tree, key) is None or conditions.get(key, value) != value):
                return
            conditions |= {key: value} if key != BASE else {}
    ends = [
        dimension.choices if isinstance(dimension, Choice) else (dimension.low, dimension.high)
        for dimension in chosen.values()
    ]
    for values in itertools.product(*ends):
        point = dict(zip(chosen, values, strict=True))
        if all(point.get(key, value) == value for key, value in conditions.items()):
            yield conditions | point


def _refusals(values: Mapping[str, Scalar], tree: Tree, source: str) -> Sequence[str]:
    try:
        parse_experiment(config.override(tree, values), source)
    except InputError as error:
        return error.problems
    return ()


def _clashes(dimensions: Mapping[tuple[str, str], Dimension], source: str) -> Iterator[str]:
    """Optuna knows one list of choices a parameter; bases with other defaults can't share it."""
    choices: dict[str, tuple[Scalar, ...]] = {}
    for (_, path), dimension in dimensions.items():
        options = dimension.choices if isinstance(dimension, Choice) else ()
        if choices.setdefault(path, options) != options:
            yield f"{source}: space.{path}: the bases' defaults differ; write the choices out"
