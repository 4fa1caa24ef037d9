"""What mended labels and groups are worth: a configuration by whole-group folds, before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from vidclf.data.clips import ClipSet
from vidclf.data.manifest import Entry
from vidclf.data.splitting import every_fold
from vidclf.evaluation import intervals, metrics
from vidclf.evaluation.metrics import Labels
from vidclf.evaluation.predictions import predictions_table
from vidclf.evaluation.significance import PairedComparison, paired
from vidclf.labels import plural
from vidclf.models import MODELS
from vidclf.models.base import ExperimentConfig
from vidclf.progress import Advance, Progress, counted, silent
from vidclf.runs.experiment import clip_store, parse_experiment

FOLDS = 5
"""Folds of whole groups, where there are groups enough."""
METRIC = "macro_f1"
_QUICK: Mapping[str, Mapping[str, object]] = {
    "logistic": {"kind": "logistic", "features": "hof+mbh"},
    "forest": {"kind": "forest", "features": "hof+mbh", "trees": 100},
}
"""Models that judge a manifest for which no study ran: some seconds for hundreds of clips."""


def quick_experiments(manifest: str) -> dict[str, ExperimentConfig]:
    """Hand-made features and classifiers of two kinds, which err differently."""
    data = {"manifest": manifest, "frames": 16, "size": 112}
    return {
        name: parse_experiment({"data": data, "model": dict(model)}, f"review, {name}")
        for name, model in _QUICK.items()
    }


def cross_validate(
    experiment: ExperimentConfig,
    folds: Sequence[Sequence[Entry]],
    classes: tuple[str, ...],
    progress: Advance = silent,
) -> pd.DataFrame:
    """Predictions of the clips that are val in one of the folds, by a model of the others.

    Args:
        experiment: What is trained.
        folds: The clips of each with their splits; of test none is looked at.
        classes: Of the manifest.
        progress: Called after each fold.
    """
    store, tables = clip_store(experiment), []
    for entries in folds:
        train, val = (
            ClipSet.of_entries([entry for entry in entries if entry.split == split], classes, store)
            for split in ("train", "val")
        )
        classifier = MODELS[experiment.kind].build(experiment, classes)
        classifier.fit(train, val, silent)
        probabilities = classifier.predict_proba(val)
        tables.append(predictions_table(val.paths, val.labels, probabilities, classes, val.groups))
        progress()
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class Gain:
    """A configuration before and after a review, on clips whose label did not change.

    Attributes:
        clips: Clips that were compared.
        before: Macro F1 of models of the old labels.
        after: Of the new ones.
        test: The paired comparison; ``None`` under five groups.
        basis: From how many groups it is.
    """

    clips: int
    before: float
    after: float
    test: PairedComparison | None
    basis: str

    def __str__(self) -> str:
        figures = f"macro F1 {self.before:.3f} before, {self.after:.3f} after"
        if self.test is None:
            return f"{figures}; too few groups for an interval ({self.basis})"
        told = {"better": "better", "worse": "worse", "cannot tell": "no difference can be told"}
        low, high = f"{self.test.low:+.3f}", f"{self.test.high:+.3f}"
        return f"{figures}, {low} to {high} at 95 %: {told[self.test.verdict]} ({self.basis})"


def compare(
    experiment: ExperimentConfig,
    before: Sequence[Entry],
    after: Sequence[Entry],
    progress: Progress = silent,
) -> Gain:
    """Trains a configuration on the old clips and on the new ones, by the same folds, and compares.

    Judged are clips of train and val that both have under one label, out of fold: a clip whose label was
    changed is in training with the old and the new one, and in no figure.

    Args:
        experiment: What is trained.
        before: The old manifest's clips.
        after: The new one's.
        progress: Called with (fits done, fits in all).

    Raises:
        InputError: The clips cannot be divided.
    """
    folds = every_fold([entry for entry in after if entry.split != "test"], FOLDS)
    classes = tuple(sorted({entry.label for entry in (*before, *after)}))
    advance = counted(progress, 2 * len(folds))
    new = cross_validate(experiment, folds, classes, advance)
    old = cross_validate(experiment, [_as_before(fold, before) for fold in folds], classes, advance)
    both = new.merge(
        old[["clip_path", "label", "predicted"]], on=["clip_path", "label"], suffixes=("", "_old")
    )
    place = {name: index for index, name in enumerate(classes)}
    labels, guesses, earlier = (
        np.array([place[name] for name in both[column]], dtype=np.int64)
        for column in ("label", "predicted", "predicted_old")
    )
    groups = list(both["group"])
    scores = metrics.macro_f1(labels, earlier), metrics.macro_f1(labels, guesses)
    found = paired(METRIC, labels, guesses, earlier, groups)
    return Gain(len(both), *scores, found, _basis(labels, guesses, groups))


def _basis(labels: Labels, guesses: Labels, groups: Sequence[str]) -> str:
    if len(set(groups)) < intervals.FEWEST_GROUPS:
        return f"{plural(len(labels), 'clip')} of {plural(len(set(groups)), 'group')}"
    return intervals.basis(METRIC, labels, guesses, groups)


def _as_before(fold: Sequence[Entry], before: Sequence[Entry]) -> list[Entry]:
    """The old clips in the places that a fold gives the new ones; those that are dropped are trained on."""
    places = {entry.clip_path: entry.split for entry in fold}
    return [
        replace(entry, split=places.get(entry.clip_path, "train"))
        for entry in before
        if entry.split != "test"
    ]
