"""Classical models fitted on moving squares in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.clips import CLASSES, moving_square
from vidclf import config
from vidclf.data.clips import ClipSet
from vidclf.models import MODELS
from vidclf.models.estimators import ClassicalClassifier

SMALL: dict[str, dict[str, Any]] = {
    "forest": {"trees": 20},
    "boosting": {"iterations": 10, "min_leaf": 2},
    "knn": {"neighbours": 3},
}
"""What keeps the tests quick, and boosting able to split a dozen clips."""


def experiment(kind: str = "svm", **values: Any) -> Any:
    base = {"data": {"manifest": "/m.csv", "frames": 6, "size": 32}, "model": {"kind": kind}}
    dotted = {key.replace("__", "."): value for key, value in values.items()}
    return config.validate(MODELS[kind].config, config.override(base, dotted), "test")


def clips(
    labels: Sequence[int], seed: int = 0, group_size: int = 4, classes: tuple[str, ...] = CLASSES
) -> ClipSet:
    """Squares that move down (0) or right (1); so many neighbours in the list are one group."""
    frames = [
        moving_square(CLASSES[label], np.random.default_rng((seed, index)))
        for index, label in enumerate(labels)
    ]
    return ClipSet(
        tuple(Path(f"{index}") for index in range(len(labels))),
        np.array(labels, dtype=np.int64),
        tuple(f"g{index // group_size}" for index in range(len(labels))),
        classes,
        lambda path: frames[int(str(path))],
    )


def silent(step: int, values: Any) -> None:
    raise AssertionError("nothing is known before training")


def fitted(kind: str, train: ClipSet, values: dict[str, Any], seed: int = 0) -> ClassicalClassifier:
    model = {"features": ["flow"], **SMALL.get(kind, {}), **values}
    described = experiment(kind, seed=seed, **{f"model__{key}": value for key, value in model.items()})
    classifier: Any = MODELS[kind].build(described, train.classes)
    classifier.fit(train, train, silent)
    return classifier  # type: ignore[no-any-return]
