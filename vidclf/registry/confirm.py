"""Confirms a study's finalists on fresh seeds and on clips that did not select them.

The best of many trials is partly lucky. Each finalist is trained anew under fresh seeds, in folds over clips
of train, which the search never scored; val does in every fit what it did in the search, it only chooses the
epoch that is kept. A study that was selected by folds has scored all of its clips: fresh seeds are then all
that is new, and the figures stay optimistic: they are means over the same folds.
"""

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from vidclf import config
from vidclf.data.clips import ClipSet
from vidclf.data.manifest import Entry, Manifest, read_manifest
from vidclf.data.splitting import every_fold, group_of
from vidclf.evaluation import intervals, ranking
from vidclf.evaluation.intervals import CONFIDENCE
from vidclf.evaluation.predictions import predictions_table, read_predictions
from vidclf.evaluation.ranking import FIT_SECONDS, TrialRow
from vidclf.evaluation.significance import BestAmong, PairedComparison, best_among, paired
from vidclf.exceptions import InputError
from vidclf.inference import profiling
from vidclf.models import MODELS, load_model
from vidclf.progress import Advance, silent
from vidclf.registry.confirm_report import Confirmation, Finalist, write_report
from vidclf.registry.download import fetch_trial
from vidclf.registry.test_split import ScoredClips
from vidclf.runs.experiment import ExperimentConfig, clip_store, dataset_record, divided, experiment_of
from vidclf.runs.folder import Attempt, Identity, Outcome, now_ms
from vidclf.runs.retrain import check_clips, train_model
from vidclf.search.record.owners import live_owners
from vidclf.search.record.study import OpenStudy

logger = logging.getLogger(__name__)

FIRST_SEED = 1000
"""Seeds of the search are far below."""
_MOST_FOLDS = 5


@dataclass(frozen=True)
class Fold:
    """One division of the clips.

    Attributes:
        val: To choose the epoch by.
        scored: To judge by; in no other fold.
    """

    train: Sequence[Entry]
    val: Sequence[Entry]
    scored: Sequence[Entry]


@dataclass(frozen=True)
class Plan:
    """What there is to do.

    Attributes:
        rows: The finalists.
        seeds: Of each finalist, by its number: one where no seed makes another model.
        folds: Of each finalist, by its number: bases may divide clips differently.
        optimistic: Whether the search has scored these clips before.
    """

    rows: Sequence[TrialRow]
    seeds: Mapping[int, Sequence[int]]
    folds: Mapping[int, Sequence[Fold]]
    optimistic: bool

    @property
    def fits(self) -> int:
        """How many models there are to train."""
        return sum(map(self._fits_of, self.rows))

    @property
    def seconds(self) -> float:
        """How long they will take at most, by what the trials took; 0 where that is not known."""
        return sum(row.metrics.get(FIT_SECONDS, 0.0) * self._fits_of(row) for row in self.rows)

    @property
    def groups(self) -> int:
        """Groups of the clips that are judged."""
        folds = next(iter(self.folds.values()), ())
        return len({group_of(entry) for fold in folds for entry in fold.scored})

    def _fits_of(self, row: TrialRow) -> int:
        return len(self.seeds[row.number]) * len(self.folds[row.number])


def plan(opened: OpenStudy, top: int, seeds: int) -> Plan:
    """Chooses finalists and divides the clips.

    Args:
        opened: The study.
        top: How many of its best trials are tried again.
        seeds: How often each.

    Raises:
        InputError: The study runs, has nothing complete, searches for what no chance decides, or its clips
            cannot be divided.
    """
    if not opened.objective.metric.startswith("val/"):
        raise InputError(
            f"the study {opened.name} searches for the best {opened.objective.metric}, which other seeds and "
            "clips do not change: there is nothing to confirm"
        )
    owners = live_owners(opened)
    if owners:
        raise InputError(
            f"the study {opened.name} is running ({', '.join(map(str, owners))}): latencies are "
            "measured with nothing else running, so wait for its end"
        )
    pairs = ranking.with_twins(opened.require_ranked(), opened.answers)
    rows = list(itertools.islice((row for row, first in pairs if first is row), top))
    if not opened.own_attempt.exists():
        raise InputError(
            f"the study {opened.name} ran in another store than {opened.store.folder}, and what is confirmed "
            "is written beside it: confirm it with --store where it ran; promote works from anywhere"
        )
    for row in rows:
        check_clips(fetch_trial(opened, row.number))
    by_fold = opened.repeats is not None and opened.repeats.by == "fold"
    experiments = {row.number: experiment_of(opened.attempt(row.number)) for row in rows}
    folds = {
        number: _searched_folds(opened, made) if by_fold else _fresh_folds(made)
        for number, made in experiments.items()
    }
    fresh = {
        number: range(FIRST_SEED, FIRST_SEED + (seeds if made.seeded else 1))
        for number, made in experiments.items()
    }
    return Plan(rows, fresh, folds, by_fold)


def _searched_folds(opened: OpenStudy, experiment: ExperimentConfig) -> list[Fold]:
    """The folds of the search: fold i chose the epoch there, and does here."""
    assert opened.repeats is not None
    found = []
    for index in range(opened.repeats.count):
        splits = divided(opened.repeats.variant(experiment, index), manifest_of(experiment))
        found.append(Fold(splits["train"], splits["val"], splits["val"]))
    return found


def _fresh_folds(experiment: ExperimentConfig) -> list[Fold]:
    """Folds over train, as many as its groups allow; val stands beside each."""
    splits = divided(experiment, manifest_of(experiment))
    try:
        divisions = every_fold(splits["train"], _MOST_FOLDS)
    except InputError as error:
        raise InputError(f"train: {error}") from None
    return [
        Fold(
            [entry for entry in entries if entry.split == "train"],
            splits["val"],
            [entry for entry in entries if entry.split == "val"],
        )
        for entries in divisions
    ]


def manifest_of(experiment: ExperimentConfig) -> Manifest:
    """The clips that an experiment is about."""
    return read_manifest(experiment.data.manifest)


def confirm(opened: OpenStudy, planned: Plan, progress: Advance = silent) -> Confirmation:
    """Trains, judges and times the finalists; what an earlier call has finished is not done again.

    Args:
        opened: The study.
        planned: From `plan`.
        progress: Called after each fit.
    """
    judged = [_judge(opened, row, planned, progress) for row in planned.rows]
    logger.info("measuring the finalists' latencies in turn …")
    latencies = _measure_latencies(opened, planned.rows)
    finalists = [replace(each, figures={**each.figures, **latencies[each.row.number]}) for each in judged]
    for finalist in finalists:
        finalist.attempt.record(len(finalist.scores), finalist.figures)
        finalist.attempt.finish(Outcome("complete", "", finalist.figures, now_ms()))
    sign = -1 if opened.objective.direction == "maximize" else 1
    metric = _metric(opened)
    by_mean = sorted(finalists, key=lambda finalist: sign * finalist.mean)
    found = Confirmation(
        opened.name,
        metric,
        intervals.comparable(metric),
        by_mean,
        _best(opened, by_mean, metric),
        finalists[0],
        planned.optimistic,
        all(manifest_of(experiment_of(opened.attempt(row.number))).grouped for row in planned.rows),
    )
    write_report(opened, found)
    return found


def _metric(opened: OpenStudy) -> str:
    return opened.objective.metric.removeprefix("val/")


def _judge(opened: OpenStudy, row: TrialRow, planned: Plan, progress: Advance) -> Finalist:
    experiment, metric = experiment_of(opened.attempt(row.number)), _metric(opened)
    attempt = _own_attempt(opened, row, experiment)
    folds, tables = planned.folds[row.number], []
    manifest = manifest_of(experiment)
    for seed in planned.seeds[row.number]:
        parts = []
        for index, fold in enumerate(folds):
            name = f"{seed}-{index}-of-{len(folds)}"
            table = _fitted(_fresh(experiment, seed), manifest, attempt, fold, name)
            parts.append(table.assign(fold=index if planned.optimistic else 0))
            progress()
        table = pd.concat(parts).sort_values("clip_path", kind="stable").reset_index(drop=True)
        tables.append(table.assign(repeat=seed))
    scored = [ScoredClips.of(table, manifest.classes) for table in tables]
    evaluated = [_evaluated(table, manifest.classes) for table in tables]
    names = set.intersection(*(set(each) for each in evaluated))
    figures = {
        f"confirm/{name}": float(np.mean([each[name] for each in evaluated])) for name in sorted(names)
    }
    scores = [each[metric] for each in evaluated]
    guesses = np.stack([each.guesses for each in scored])
    compared = intervals.comparable(metric)
    reached = None
    if not planned.optimistic:
        first, tries = scored[0], len(planned.rows)
        reached = intervals.interval(compared, first.labels, guesses, first.groups, CONFIDENCE, tries)
    if len(scores) > 1:
        figures[f"confirm/{metric}_std"] = float(np.std(scores, ddof=1))
    if reached is not None:
        figures |= {f"confirm/{compared}_low": reached.low, f"confirm/{compared}_high": reached.high}
    for folder in (attempt.artifacts, opened.attempt(row.number).artifacts / "confirm"):
        folder.mkdir(parents=True, exist_ok=True)
        pd.concat(tables).to_csv(folder / "predictions.csv", index=False)
    first = scored[0]
    basis = intervals.basis(compared, first.labels, guesses, first.groups)
    return Finalist(row, attempt, scores, reached if compared == metric else None, figures, guesses, basis)


def _evaluated(table: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, float]:
    """Each metric's mean over the folds that have it."""
    parts = [ScoredClips.of(part, classes).evaluated() for _, part in table.groupby("fold")]
    names = sorted(set().union(*parts))
    return {name: float(np.mean([part[name] for part in parts if name in part])) for name in names}


def _own_attempt(opened: OpenStudy, row: TrialRow, experiment: ExperimentConfig) -> Attempt:
    """The folder of a finalist's new figures; its run stands under the study's."""
    attempt = opened.store.attempt(opened.series, f"confirm-{row.number:05d}")
    if attempt.exists():
        attempt.reopen()
        return attempt
    attempt.create(
        Identity(
            id=f"{opened.attempt_id(row.number)}/confirm",
            experiment=opened.stored["experiment"],
            run_name=f"confirm · {opened.attempt(row.number).identity().run_name}",
            parent=opened.attempt_id(),
            started_ms=now_ms(),
            tags={"vidclf.role": "confirm", "vidclf.study": opened.name, "vidclf.confirms": str(row.number)},
            dataset=dataset_record(experiment, manifest_of(experiment)),
        )
    )
    config.write_toml(config.dump(experiment), attempt.config)
    return attempt


def _fresh(experiment: ExperimentConfig, seed: int) -> ExperimentConfig:
    data = experiment.data.model_copy(update={"augment_seed": seed})
    return experiment.model_copy(update={"seed": seed, "data": data})


def _fitted(
    experiment: ExperimentConfig, manifest: Manifest, attempt: Attempt, fold: Fold, name: str
) -> pd.DataFrame:
    """Predictions of a fold's scored clips by a model that never saw their groups."""
    path = attempt.folder / "fits" / f"{name}.csv"
    if path.exists():
        return read_predictions(path)
    store = clip_store(experiment)
    train, val, scored = (
        ClipSet.of_entries(entries, manifest.classes, store)
        for entries in (fold.train, fold.val, fold.scored)
    )
    classifier = MODELS[experiment.kind].build(experiment, manifest.classes)
    checkpoint = attempt.checkpoint / name
    classifier.fit(train, val, lambda *_: None, checkpoint)
    table = predictions_table(
        scored.paths, scored.labels, classifier.predict_proba(scored), scored.classes, scored.groups
    )
    path.parent.mkdir(exist_ok=True)
    config.write_text(table.to_csv(index=False), path)
    attempt.drop_checkpoint()
    return read_predictions(path)


def _best(opened: OpenStudy, finalists: Sequence[Finalist], metric: str) -> BestAmong | None:
    """Which finalists may be the best, on the clips that all were judged by."""
    if len(finalists) < 2:
        return None
    tables = [read_predictions(each.attempt.artifacts / "predictions.csv") for each in finalists]
    firsts = [table[table["repeat"] == FIRST_SEED] for table in tables]
    if any(set(first["clip_path"]) != set(firsts[0]["clip_path"]) for first in firsts):
        return None
    classes = manifest_of(experiment_of(opened.attempt(finalists[0].row.number))).classes
    judged, compared = ScoredClips.of(firsts[0], classes), intervals.comparable(metric)
    folds = firsts[0]["fold"].to_numpy(np.int64)

    def compare(one: int, other: int, alpha: float) -> PairedComparison | None:
        guesses = finalists[one].guesses, finalists[other].guesses
        return paired(compared, judged.labels, *guesses, judged.groups, alpha, folds)

    return best_among(len(finalists), compare, 1 - CONFIDENCE)


def _measure_latencies(opened: OpenStudy, rows: Sequence[TrialRow]) -> dict[int, dict[str, float]]:
    """Measures the saved models in turn; the study takes that over for all trials of their shapes."""
    models = {}
    for row in rows:
        attempt = opened.attempt(row.number)
        if not attempt.model.is_dir():
            logger.info("the model of trial %d was not kept: training it again …", row.number)
            train_model(attempt, opened.repeats)
        models[row.number] = load_model(attempt.model)
    experiment = experiment_of(opened.attempt(rows[0].number))
    entries = manifest_of(experiment).entries
    clip = next(entry.clip_path for entry in entries if entry.split != "test")
    measured, here = profiling.measure_side_by_side(models, clip), config.digest(profiling.machine())
    for row in reversed(rows):  # of finalists of one shape the best ranked speaks for it
        if opened.frozen(row.number).user_attrs.get("machine") == here:
            opened.replace_latency(row.shape, measured[row.number])
    return measured
