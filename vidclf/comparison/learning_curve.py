"""Learning curves: the score of a model by its number of training groups."""

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from vidclf.comparison.rows import METRIC, ModelRow, RowGroup
from vidclf.comparison.verdict_text import metric_words
from vidclf.data.clips import ClipSet
from vidclf.data.manifest import Entry
from vidclf.data.splitting import group_of
from vidclf.evaluation import metrics
from vidclf.models import MODELS
from vidclf.progress import Advance
from vidclf.runs.experiment import clip_store, divided, experiment_of, prepare

logger = logging.getLogger(__name__)

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the training groups."""
DRAWS = 3
_MOST_SECONDS = 600.0
"""A neural model that would take longer is left out."""
_CLEAR = 0.02
"""Least gain from the last quarter of the groups that makes more of them worth advising."""


@dataclass(frozen=True)
class LearningCurve:
    """How a model's score grows with its training clips.

    Attributes:
        row: The model.
        metric: What it is judged by.
        groups: Training groups at each of `SHARES`.
        scores: One for each draw, at each of `SHARES`.
    """

    row: ModelRow
    metric: str
    groups: Sequence[int]
    scores: Sequence[Sequence[float]]

    @property
    def means(self) -> list[float]:
        """The mean score at each of `SHARES`."""
        return [statistics.mean(draws) for draws in self.scores]

    @property
    def words(self) -> str:
        """What the curve says."""
        means = self.means
        spread = max(statistics.stdev(draws) for draws in self.scores[-2:])
        gain = means[-1] - means[-2]
        course = ", ".join(
            f"{mean:.3f} with {groups}" for mean, groups in zip(means, self.groups, strict=True)
        )
        said = f"{self.row.family}: {metric_words(self.metric)} {course} training groups."
        if len(set(self.groups)) < len(SHARES):
            return f"{said} There are too few training groups for a curve."
        if gain > max(spread, _CLEAR):
            return f"{said} It still rises: more clips of new groups would help."
        if gain < -max(spread, _CLEAR):
            return f"{said} It falls at the end: by chance, or because some clips mislead."
        if spread > _CLEAR:
            return (
                f"{said} The draws differ by {spread:.3f}, more than the last groups bring: this cannot be "
                "decided."
            )
        return f"{said} It has levelled off: more of the same would not help much."


def chosen(group: RowGroup) -> list[ModelRow]:
    """Whose curve to draw: the best classical row, and the best of all where it can be trained in time."""
    rows: list[ModelRow] = []
    classical = [
        row for row in group.ranked if MODELS[row.model].initialise is None and row.model != "majority"
    ]
    for row in (*classical[:1], *group.choice_first[:1]):
        seconds = DRAWS * sum(SHARES) * row.metrics.get("cost/fit_seconds", 0.0)
        if any(row is each for each in rows) or row.attempt is None or not row.attempt.config.exists():
            continue
        if seconds > _MOST_SECONDS:
            logger.info(
                "learning curve: %s is left out, it would train for %.0f minutes", row.label, seconds / 60
            )
            continue
        logger.info(
            "learning curve: training %s (%s) %d times, about %.0f s of fitting",
            row.label,
            row.family,
            DRAWS * len(SHARES),
            seconds,
        )
        rows.append(row)
    return rows


def grow(row: ModelRow, metric: str, progress: Advance) -> LearningCurve:
    """Trains a row's configuration on growing parts of the training groups.

    A draw is an order of the groups, of which each part takes the first so many, and a seed of its own;
    where classical models have no chance in them, all draws of the whole are equal.

    Args:
        row: A trial or run whose config is on disk.
        metric: What to judge by; `METRIC` where that is none that grows.
        progress: Called after each fit.

    Raises:
        InputError: Its clips cannot be read.
    """
    assert row.attempt is not None
    metric = metric if metric in {f"val/{name}" for name in metrics.METRICS} - {"val/loss"} else METRIC
    experiment = experiment_of(row.attempt)
    manifest, _ = prepare(experiment)
    splits, store = divided(experiment, manifest), clip_store(experiment)
    val = ClipSet.of_entries(splits["val"], manifest.classes, store)
    parts = [_parts(splits["train"], draw) for draw in range(DRAWS)]
    scores: list[list[float]] = []
    for place in range(len(SHARES)):
        scores.append([])
        for draw in range(DRAWS):
            train = ClipSet.of_entries(parts[draw][place], manifest.classes, store)
            seeded = experiment.model_copy(update={"seed": experiment.seed + draw})
            classifier = MODELS[experiment.kind].build(seeded, manifest.classes)
            classifier.fit(train, val, lambda step, values: None)
            found = metrics.evaluate(val.labels, classifier.predict_proba(val), manifest.classes)
            scores[-1].append(found[metric.removeprefix("val/")])
            progress()
    groups = [len({group_of(entry) for entry in part}) for part in parts[0]]
    return LearningCurve(row, metric, groups, scores)


def _parts(entries: Sequence[Entry], draw: int) -> list[list[Entry]]:
    """The clips of the first groups of a shuffled order, for each of `SHARES`; each part has every class."""
    names = sorted({group_of(entry) for entry in entries})
    order = [names[place] for place in np.random.default_rng(draw).permutation(len(names))]
    parts = []
    for share in SHARES:
        taken = set(order[: ceil(share * len(order))])
        for label in sorted({entry.label for entry in entries}):
            having = [
                name for name in order if any(group_of(e) == name and e.label == label for e in entries)
            ]
            if not taken.intersection(having):
                taken.add(having[0])
        parts.append([entry for entry in entries if group_of(entry) in taken])
    return parts
