"""Initial trials of a study: its bases' own values, given points, and finished trials of another study."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from vidclf import config
from vidclf.config import Choice, Dimension, Scalar
from vidclf.exceptions import InputError
from vidclf.search.definition.space import Space, is_active
from vidclf.search.record.study import BASE, SEEDED_FROM, START, OpenStudy

_MAY_DIFFER = ("space: ", "constraints")
"""Parts of the fingerprint that leave the value of a configuration as it is."""


def own_point(space: Space, stem: str) -> dict[str, Scalar]:
    """A base's own values of what is searched, without those that its range does not hold."""
    tree = config.dump(space.bases[stem])
    point: dict[str, Scalar] = {BASE: stem} if len(space.bases) > 1 else {}
    for (owner, path), dimension in space.dimensions.items():
        value = config.lookup(tree, path)
        if isinstance(value, list):
            value = "+".join(map(str, value))
        if owner == stem and is_active(dimension, tree, stem) and _holds(dimension, value):
            point[path] = value
    return point


def _holds(dimension: Dimension, value: Any) -> bool:
    if isinstance(dimension, Choice):
        return any(type(choice) is type(value) and choice == value for choice in dimension.choices)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not dimension.low <= value <= dimension.high or (dimension.integer and not isinstance(value, int)):
        return False
    steps = (value - dimension.low) / dimension.step if dimension.step else 0.0
    return abs(steps - round(steps)) < 1e-9


def start_problems(points: Sequence[Mapping[str, Scalar]], space: Space, source: str) -> Iterator[str]:
    """What is wrong with given points: unknown bases and keys, and values outside their ranges."""
    for place, point in enumerate(points, start=1):
        where = f"{source}: start {place}"
        stem = str(point.get(BASE, next(iter(space.bases))))
        if stem not in space.bases:
            yield f"{where}: base {stem!r} is none of {', '.join(space.bases)}"
            continue
        if len(space.bases) > 1 and BASE not in point:
            yield f"{where}: several bases: name one, as base = {stem!r}"
        searched = {path: dimension for (owner, path), dimension in space.dimensions.items() if owner == stem}
        for path, value in point.items():
            if path == BASE:
                continue
            if path not in searched:
                yield (
                    f"{where}: {path} is not searched in {stem}{config.did_you_mean(path, sorted(searched))}"
                )
            elif not _holds(searched[path], value):
                yield f"{where}: {path} = {value!r} is outside of its range"


def enqueue_first(study: optuna.Study, space: Space, given: Sequence[Mapping[str, Scalar]]) -> None:
    """Has each base's own values and then the given points tried before anything is sampled."""
    points = [("base", own_point(space, stem)) for stem in space.bases]
    points += [("given", dict(point)) for point in given]
    for origin, point in points:
        if len(space.bases) == 1:
            point.pop(BASE, None)
        study.enqueue_trial(point, user_attrs={START: origin}, skip_if_exists=True)


def check_alike(fingerprint: Mapping[str, Any], earlier: OpenStudy) -> None:
    """Refuses an earlier study whose values would be others in the new one; a base may be new there.

    Args:
        fingerprint: That of the new study's definition.
        earlier: The study whose finished trials are to be taken over.

    Raises:
        InputError: The differences.
    """
    before = earlier.stored["fingerprint"]
    differences = [
        f"  {key}: {before.get(key, 'absent')} -> {value}"
        for key, value in fingerprint.items()
        if not key.startswith(_MAY_DIFFER) and before.get(key) != value
        if base_of(key) in (None, *earlier.stored["bases"])
    ]
    if differences:
        raise InputError(
            f"the trials of {earlier.name} cannot be taken over, their values would be others here:",
            *differences,
            "Give the study a name of its own (name = … in its file) to start without them.",
        )


def base_of(key: str) -> str | None:
    """The base that a key of a fingerprint is of, as ``svm`` of ``base svm: data.frames``."""
    found = re.match(r"base (.+?): ", key)
    return found and found[1]


def seed(opened: OpenStudy, earlier: OpenStudy, space: Space) -> tuple[int, int]:
    """Gives a new study the finished trials of another one that are trials of its own space too.

    They inform the sampler; they have no runs here and use up no budget.

    Returns:
        How many were taken over, and how many were not.

    Raises:
        InputError: Their values mean something else here: the differences are shown.
    """
    check_alike(opened.stored["fingerprint"], earlier)
    bases = tuple(earlier.stored["bases"])
    finished = earlier.trials([TrialState.COMPLETE])
    fitting = [trial for frozen in finished if (trial := _refitted(frozen, bases, space, earlier.name))]
    for trial in fitting:
        opened.study.add_trial(trial)
    return len(fitting), len(finished) - len(fitting)


def _refitted(frozen: FrozenTrial, bases: Sequence[str], space: Space, study: str) -> FrozenTrial | None:
    """The trial with the distributions of ``space``; ``None`` where that does not hold its values.

    Args:
        frozen: The trial.
        bases: Those of its study; a study of a single one has no parameter for it.
        space: Where the trial is to be.
        study: The name of its study.
    """
    params = dict(frozen.params)
    base = params.pop(BASE, bases[0])
    if base not in space.bases:
        return None
    if len(space.bases) > 1:
        params = {BASE: base, **params}
    fixed = FixedTrial(params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            space.suggest(fixed)
        except (ValueError, KeyError, InputError):
            return None
        if fixed.distributions.keys() != params.keys():
            return None
        try:
            return create_trial(
                state=TrialState.COMPLETE,
                values=frozen.values,
                params=params,
                distributions=fixed.distributions,
                intermediate_values=frozen.intermediate_values,
                user_attrs={SEEDED_FROM: f"{study} {frozen.number}"},
                constraints=dict(frozen.constraints),
            )
        except ValueError:
            return None
