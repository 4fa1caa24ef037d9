"""Learning curves: the score of a model by its number of training groups."""

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from vidclf.comparison.gathering import METRIC
from vidclf.comparison.rows import ModelRow, RowGroup
from vidclf.comparison.verdict_text import metric_words
from vidclf.data.clips import ClipSet
from vidclf.data.manifest import Entry
from vidclf.data.splitting import group_of
from vidclf.evaluation import intervals, metrics, significance
from vidclf.evaluation.metrics import Labels
from vidclf.evaluation.ranking import FIT_SECONDS
from vidclf.evaluation.significance import PairedComparison
from vidclf.models import MODELS
from vidclf.progress import Advance
from vidclf.runs.experiment import clip_store, divided, experiment_of, prepare
from vidclf.runs.repeats import Repeats

logger = logging.getLogger(__name__)

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the training groups."""
DRAWS = 3
_MOST_SECONDS = 600.0
"""A neural model that would take longer is left out."""
_HALF = SHARES.index(0.5)
_CLEAR = 0.02
"""Under so much gain from the last half of the groups, more of them are not worth advising."""


@dataclass(frozen=True)
class LearningCurve:
    """How a model's score grows with its training clips.

    Attributes:
        row: The model.
        metric: What it is judged by.
        groups: Training groups at each of `SHARES`.
        scores: One for each draw, at each of `SHARES`.
        gain: All groups against half of them, on the groups of val; ``None`` where those are too few.
    """

    row: ModelRow
    metric: str
    groups: Sequence[int]
    scores: Sequence[Sequence[float]]
    gain: PairedComparison | None

    @property
    def means(self) -> list[float]:
        """The mean score at each of `SHARES`."""
        return [statistics.mean(draws) for draws in self.scores]

    @property
    def words(self) -> str:
        """What the curve says.

        It rises or falls where the last half of the groups changes the score by more than chance on val's
        groups explains (`vidclf.evaluation.significance.paired`) and by more than the draws of half of them
        differ. Of 300 simulated curves that were flat, none then rises; by the draws alone 11 % did.
        """
        means, gain = self.means, self.gain
        course = ", ".join(
            f"{mean:.3f} with {groups}" for mean, groups in zip(means, self.groups, strict=True)
        )
        said = f"{self.row.family}: {metric_words(self.metric)} {course} training groups."
        if folds := self.row.clips.out_of_fold:
            said += f" Judged on the first of {folds} folds."
        if len(set(self.groups)) < len(SHARES):
            return f"{said} There are too few training groups for a curve."
        if gain is None:
            return f"{said} val has too few groups to tell whether it rises."
        change = means[-1] - means[_HALF]
        certain = gain.verdict != "cannot tell" and abs(change) > statistics.stdev(self.scores[_HALF])
        if certain and change > 0:
            return f"{said} It still rises: more clips of new groups would help."
        if certain:
            return f"{said} It falls at the end: by chance, or because some clips mislead."
        words = (
            f"the last half of the groups brings {gain.difference:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
        )
        if gain.high < _CLEAR:
            return f"{said} It has levelled off, {words}: more of the same would not help much."
        return f"{said} Whether it still rises cannot be decided: {words}."


def chosen(group: RowGroup) -> list[ModelRow]:
    """Whose curve to draw: the best of each family that can be trained in time."""
    rows: list[ModelRow] = []
    for row in group.best:
        seconds = DRAWS * sum(SHARES) * row.metrics.get(FIT_SECONDS, 0.0) / (row.clips.out_of_fold or 1)
        learns = row.model != "majority" and MODELS[row.model].learns
        if not learns or row.attempt is None or not row.attempt.config.exists():
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
    where classical models have no chance in them, all draws of the whole are equal. After a search by folds
    it is judged on the first of them.

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
    if folds := row.clips.out_of_fold:
        experiment = Repeats(folds, "fold").variant(experiment, 0)
    manifest, _ = prepare(experiment)
    splits, store = divided(experiment, manifest), clip_store(experiment)
    val = ClipSet.of_entries(splits["val"], manifest.classes, store)
    parts = [_parts(splits["train"], draw) for draw in range(DRAWS)]
    scores: list[list[float]] = []
    guesses: list[list[Labels]] = []
    for place in range(len(SHARES)):
        scores.append([])
        guesses.append([])
        for draw in range(DRAWS):
            train = ClipSet.of_entries(parts[draw][place], manifest.classes, store)
            seeded = experiment.model_copy(update={"seed": experiment.seed + draw})
            classifier = MODELS[experiment.kind].build(seeded, manifest.classes)
            classifier.fit(train, val, lambda step, values: None)
            probabilities = classifier.predict_proba(val)
            found = metrics.evaluate(val.labels, probabilities, manifest.classes, val.groups)
            scores[-1].append(found[metric.removeprefix("val/")])
            guesses[-1].append(metrics.predicted(probabilities))
            progress()
    groups = [len({group_of(entry) for entry in part}) for part in parts[0]]
    compared = intervals.comparable(metric.removeprefix("val/"))
    whole, half = np.stack(guesses[-1]), np.stack(guesses[_HALF])
    gain = significance.paired(compared, val.labels, whole, half, val.groups)
    return LearningCurve(row, metric, groups, scores, gain)


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
