"""Baselines of a comparison: the most frequent class, and published figures."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vidclf import config
from vidclf.comparison.rows import ModelRow, RowGroup
from vidclf.data.manifest import read_manifest
from vidclf.data.splitting import split_by_fold
from vidclf.evaluation import metrics
from vidclf.exceptions import InputError
from vidclf.models.base import Published
from vidclf.runs.experiment import clip_counts
from vidclf.runs.folder import Attempt

Counts = Mapping[str, Mapping[str, int]]
"""Clips by split and class."""


@dataclass(frozen=True)
class Baselines:
    """What a group of rows is measured against.

    Attributes:
        counts: Clips by split and class, as the rows saw them; with several folds one for each.
        majority: The most frequent class of train, judged on val; ``None`` where the clips are not known.
        published: Figures that sources give for this data set, never ranked as ours.
        notes: What could not be had, and why.
    """

    counts: Sequence[Counts]
    majority: ModelRow | None
    published: Sequence[ModelRow]
    notes: Sequence[str]

    @property
    def val_clips(self) -> int | None:
        """Clips that each figure rests on; over several folds all of them."""
        return sum(sum(each["val"].values()) for each in self.counts) or None


def baselines(group: RowGroup, experiments: Path) -> Baselines:
    """The baselines of a group, with the figures that files below ``experiments`` publish, if that exists.

    Nothing is trained, and no video file is opened.
    """
    notes: list[str] = []
    try:
        counts = _counts(group)
    except InputError as error:
        counts = []
        notes.append(
            f"{group.clips.name}: no baseline of the most frequent class: {str(error).splitlines()[0]}"
        )
    majority = _majority(group, counts) if counts else None
    return Baselines(counts, majority, list(_published(group, experiments, notes)), notes)


def _counts(group: RowGroup) -> list[Counts]:
    """As recorded with a run of these clips, else from the manifest."""
    recorded = next(_records(group), None)
    if recorded is not None and not group.clips.folds:
        return [recorded]
    manifest = read_manifest(group.rows[0].manifest)
    entries = manifest.entries
    if recorded is not None and clip_counts(entries) != recorded:
        raise InputError(f"{manifest.name}: holds other clips now")
    match group.clips.folds.split():
        case []:
            return [clip_counts(entries)]
        case ["fold", fold, "of", folds]:
            return [clip_counts(split_by_fold(entries, int(folds), int(fold), seed=0))]
        case [folds, *_]:
            every = range(int(folds))
            return [clip_counts(split_by_fold(entries, int(folds), fold, seed=0)) for fold in every]
    raise AssertionError(group.clips.folds)


def _records(group: RowGroup) -> Iterator[Counts]:
    """Clips by split and class as runs of this very data set recorded them."""
    own: list[Attempt] = [study.own_attempt for study in group.studies.values()]
    own += [row.attempt for row in group.rows if row.attempt is not None and row.origin == "run"]
    for attempt in own:
        try:
            dataset = attempt.identity().dataset
        except FileNotFoundError:
            continue
        if dataset.get("digest") and group.clips.digest.startswith(dataset["digest"]):
            yield json.loads(dataset["profile"])


def _majority(group: RowGroup, counts: Sequence[Counts]) -> ModelRow:
    """What a model scores that says the training shares of the classes of every clip; over folds the mean."""
    scores = [_prior_scores(each) for each in counts]
    means = {f"val/{name}": float(np.mean([score[name] for score in scores])) for name in scores[0]}
    return ModelRow(
        study="",
        number=0,
        state="complete",
        base="majority",
        model="majority",
        value=means.get(group.metric),
        params={},
        metrics=means,
        clips=group.clips,
        origin="majority",
    )


def _prior_scores(counts: Counts) -> dict[str, float]:
    """`vidclf.evaluation.metrics.evaluate` of one division of the clips; needs their numbers only."""
    classes = sorted(set().union(*counts.values()))
    train = np.array([counts["train"].get(name, 0) for name in classes], dtype=np.float64)
    val = [counts["val"].get(name, 0) for name in classes]
    labels = np.repeat(np.arange(len(classes)), val)
    return metrics.evaluate(labels, np.tile(train / train.sum(), (len(labels), 1)), classes)


def _published(group: RowGroup, experiments: Path, notes: list[str]) -> Iterator[ModelRow]:
    """Figures for the data set of this name, from the rows' own configs and from experiment files."""
    trees = [
        (name, tree)
        for name, tree in _trees(group, experiments, notes)
        if "published" in tree
        and Path(str(config.lookup(tree, "data.manifest"))).parent.name == group.clips.name
    ]
    if not trees:
        return
    seen = set()
    for name, tree in trees:
        try:
            published = config.validate(Published, tree["published"], f"{name}: published")
        except InputError as error:
            notes += error.problems
            continue
        row = ModelRow(
            study="",
            number=0,
            state="published",
            base=name,
            model=str(config.lookup(tree, "model.kind")),
            value=None,
            params={},
            metrics=published.metrics,
            clips=group.clips,
            origin="published",
            network=str(config.lookup(tree, "model.network") or ""),
            source=published.source,
        )
        key = config.digest([row.family, row.source, dict(row.metrics)])
        if key not in seen:
            seen.add(key)
            yield replace(row, value=published.metrics.get(group.metric))


def _trees(group: RowGroup, experiments: Path, notes: list[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Configs by name: experiment files first, as their names say most."""
    for path in sorted(experiments.rglob("*.toml")):
        try:
            yield path.relative_to(experiments).with_suffix("").as_posix(), config.read_toml(path)
        except InputError as error:
            notes += error.problems
    for study in group.studies.values():
        yield from study.stored["bases"].items()
    for row in group.rows:
        if row.origin == "run" and row.attempt is not None:
            yield row.base, config.read_toml(row.attempt.config)
