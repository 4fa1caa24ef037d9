"""Tries a study's finalists again, on seeds and clips that did not choose them.

The best of many trials is partly lucky. Each finalist is trained anew under fresh seeds, in folds over clips
of train, which the search never scored; val does in every fit what it did in the search, it only chooses the
epoch that is kept. A study that was selected by folds has scored all of its clips: fresh seeds are then all
that is new, and the figures stay optimistic.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vidclf import compare, config, intervals, metrics, profiling
from vidclf.compare import TrialRow
from vidclf.config import InputError
from vidclf.data.clips import ClipSet
from vidclf.data.manifest import Entry, Manifest, read_manifest
from vidclf.data.splitting import split_by_fold
from vidclf.experiment import ExperimentConfig, clip_store, dataset_record, divided, parse_experiment
from vidclf.finish import check_clips, train_model
from vidclf.intervals import Interval, Paired
from vidclf.models import MODELS, load_model
from vidclf.search.reconcile import live_owner
from vidclf.search.record import OpenStudy
from vidclf.store import Attempt, Identity, Outcome, now_ms

FIRST_SEED = 1000
"""Seeds of the search are far below."""
MOST_FOLDS = 5
CONFIDENCE = 0.95
REPORT = "confirm.json"
"""Artifact of the study's own run: what was found."""
_ROUNDS = 3
"""Times that the finalists' latencies are measured, one model after another."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Fold:
    """One division of the clips.

    Attributes:
        train: To train on.
        val: To choose the epoch by.
        scored: To judge by; in no other fold.
    """

    train: Sequence[Entry]
    val: Sequence[Entry]
    scored: Sequence[Entry]


@dataclass(frozen=True)
class Finalist:
    """A trial that was tried again.

    Attributes:
        row: The trial.
        attempt: Where its new figures are.
        scores: The objective of each seed.
        reached: Where the true value lies; ``None`` where there are too few groups.
        figures: Means over the seeds as ``confirm/…``, latencies among them.
        guesses: Predicted classes, shape (seeds, clips).
        against: The paired comparison with the winner, ``None`` for the winner or without enough groups.
    """

    row: TrialRow
    attempt: Attempt
    scores: Sequence[float]
    reached: Interval | None
    figures: Mapping[str, float]
    guesses: NDArray[np.int64]
    against: Paired | None = None

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))


@dataclass(frozen=True)
class Confirmation:
    """What `confirm` found.

    Attributes:
        study: Name of the study.
        metric: The objective's name without its split, as ``macro_f1``.
        finalists: By mean, the winner first.
        leader: Who was ahead in the search.
        optimistic: Whether the clips had chosen the finalists before.
        notes: What it means, in words.
    """

    study: str
    metric: str
    finalists: Sequence[Finalist]
    leader: Finalist
    optimistic: bool
    notes: Sequence[str]

    @property
    def winner(self) -> Finalist:
        return self.finalists[0]


@dataclass(frozen=True)
class Plan:
    """What there is to do.

    Attributes:
        rows: The finalists.
        seeds: Fresh ones.
        folds: Of each finalist, by its number: bases may divide clips differently.
        optimistic: See `Confirmation`.
    """

    rows: Sequence[TrialRow]
    seeds: Sequence[int]
    folds: Mapping[int, Sequence[Fold]]
    optimistic: bool

    @property
    def fits(self) -> int:
        return len(self.seeds) * sum(map(len, self.folds.values()))


def plan(opened: OpenStudy, top: int, seeds: int) -> Plan:
    """Chooses finalists and divides the clips.

    Raises:
        InputError: The study runs, has nothing complete, or its clips cannot be divided.
    """
    owner = live_owner(opened)
    if owner is not None:
        raise InputError(
            f"the study {opened.name} is running (process {owner.pid} on {owner.host}): latencies are "
            "measured with nothing else running, so wait for its end"
        )
    rows = compare.ranked(opened.rows(), opened.objective.direction)[:top]
    if not rows:
        raise InputError(
            f"the study {opened.name} has no complete, feasible trial yet; run vidclf tune first"
        )
    for row in rows:
        check_clips(opened.attempt(row.number))
    by_fold = opened.repeats is not None and opened.repeats.by == "fold"
    experiments = {row.number: _experiment(opened.attempt(row.number)) for row in rows}
    folds = {
        number: _searched_folds(opened, made) if by_fold else _fresh_folds(made)
        for number, made in experiments.items()
    }
    return Plan(rows, range(FIRST_SEED, FIRST_SEED + seeds), folds, by_fold)


def _experiment(attempt: Attempt) -> ExperimentConfig:
    return parse_experiment(config.read_toml(attempt.config), str(attempt.config))


def _manifest(experiment: ExperimentConfig) -> Manifest:
    return read_manifest(Path(experiment.data.manifest))


def _searched_folds(opened: OpenStudy, experiment: ExperimentConfig) -> list[Fold]:
    """The folds of the search: fold i chose the epoch there, and does here."""
    assert opened.repeats is not None
    found = []
    for index in range(opened.repeats.count):
        splits = divided(opened.repeats.variant(experiment, index), _manifest(experiment))
        found.append(Fold(splits["train"], splits["val"], splits["val"]))
    return found


def _fresh_folds(experiment: ExperimentConfig) -> list[Fold]:
    """Folds over train, as many as its groups allow; val stands beside each."""
    splits = divided(experiment, _manifest(experiment))
    own = [replace(entry, split="train") for entry in splits["train"]]
    problem = ""
    for count in range(min(MOST_FOLDS, len(own)), 1, -1):
        try:
            divisions = [split_by_fold(own, count, fold, seed=0) for fold in range(count)]
        except InputError as error:
            problem = str(error)
            continue
        return [
            Fold(
                [entry for entry in entries if entry.split == "train"],
                splits["val"],
                [entry for entry in entries if entry.split == "val"],
            )
            for entries in divisions
        ]
    raise InputError(f"the clips of train cannot be divided into folds: {problem or 'there are too few'}")


def confirm(
    opened: OpenStudy, planned: Plan, progress: Callable[[], None] = lambda: None, say: Say = lambda _: None
) -> Confirmation:
    """Trains, judges and times the finalists; what an earlier call has finished is not done again.

    Args:
        opened: The study.
        planned: What to do.
        progress: Called after each fit.
        say: Told what is being done.
    """
    finalists = [_judge(opened, row, planned, progress) for row in planned.rows]
    say("measuring the finalists' latencies in turn …")
    latencies = _latencies(opened, planned.rows, say)
    for finalist in finalists:
        figures = {**finalist.figures, **latencies.get(finalist.row.number, {})}
        finalist.attempt.record(len(planned.seeds), figures)
        finalist.attempt.finish(Outcome("complete", "", figures, now_ms()))
    sign = -1 if opened.objective.direction == "maximize" else 1
    leader = finalists[0]
    finalists.sort(key=lambda finalist: sign * finalist.mean)
    metric = _metric(opened)
    winner, *others = (
        replace(each, figures={**each.figures, **latencies.get(each.row.number, {})}) for each in finalists
    )
    found = Confirmation(
        opened.name,
        metric,
        [winner, *(replace(each, against=_paired(opened, winner, each, metric)) for each in others)],
        leader,
        planned.optimistic,
        [],
    )
    found = replace(found, notes=_words(found, len(planned.seeds)))
    _write(opened, found)
    return found


def _metric(opened: OpenStudy) -> str:
    return opened.objective.metric.removeprefix("val/")


def _judge(opened: OpenStudy, row: TrialRow, planned: Plan, progress: Callable[[], None]) -> Finalist:
    experiment, metric = _experiment(opened.attempt(row.number)), _metric(opened)
    attempt = _own_attempt(opened, row, experiment)
    folds, tables, evaluated = planned.folds[row.number], [], []
    manifest = _manifest(experiment)
    for seed in planned.seeds:
        parts = []
        for index, fold in enumerate(folds):
            name = f"{seed}-{index}-of-{len(folds)}"
            parts.append(_fitted(_fresh(experiment, seed), manifest, attempt, fold, name))
            progress()
        table = pd.concat(parts).sort_values("clip_path", kind="stable").reset_index(drop=True)
        tables.append(table.assign(repeat=seed))
        evaluated.append(_evaluated(table, manifest.classes))
    names = set.intersection(*(set(each) for each in evaluated))
    figures = {
        f"confirm/{name}": float(np.mean([each[name] for each in evaluated])) for name in sorted(names)
    }
    scores = [each[metric] for each in evaluated]
    labels, groups = _labels(tables[0], manifest.classes), [str(group) for group in tables[0]["group"]]
    guesses = np.stack([_indices(table["predicted"], manifest.classes) for table in tables])
    known = metric if metric in intervals.METRICS else "macro_f1"
    reached = intervals.interval(known, labels, guesses, groups, CONFIDENCE)
    if len(scores) > 1:
        figures[f"confirm/{metric}_std"] = float(np.std(scores, ddof=1))
    if reached is not None and not planned.optimistic:
        figures |= {f"confirm/{known}_low": reached.low, f"confirm/{known}_high": reached.high}
    for folder in (attempt.artifacts, opened.attempt(row.number).artifacts / "confirm"):
        folder.mkdir(parents=True, exist_ok=True)
        pd.concat(tables).to_csv(folder / "predictions.csv", index=False)
    reached = None if planned.optimistic else reached
    return Finalist(row, attempt, scores, reached, figures, guesses)


def _own_attempt(opened: OpenStudy, row: TrialRow, experiment: ExperimentConfig) -> Attempt:
    """The folder of a finalist's new figures; its run stands under the study's."""
    attempt = opened.store.attempt(opened.series, f"confirm-{row.number:05d}")
    if (attempt.folder / "attempt.json").exists():
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
            dataset=dataset_record(experiment, _manifest(experiment)),
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
    texts = {"clip_path": str, "label": str, "predicted": str, "group": str}
    if path.exists():
        return pd.read_csv(path, dtype=texts, keep_default_na=False)
    store = clip_store(experiment)
    train, val, scored = (
        ClipSet.of_entries(entries, manifest.classes, store)
        for entries in (fold.train, fold.val, fold.scored)
    )
    classifier = MODELS[experiment.kind].build(experiment, manifest.classes)
    checkpoint = attempt.checkpoint / name
    classifier.fit(train, val, lambda *_: None, checkpoint)
    table = metrics.predictions_table(
        scored.paths, scored.labels, classifier.predict_proba(scored), scored.classes, scored.groups
    )
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    table.to_csv(partial, index=False)
    partial.replace(path)
    attempt.drop_checkpoint()
    return pd.read_csv(path, dtype=texts, keep_default_na=False)


def _evaluated(table: pd.DataFrame, classes: Sequence[str]) -> dict[str, float]:
    probabilities = table[[f"probability/{name}" for name in classes]].to_numpy(np.float64)
    return metrics.evaluate(_labels(table, classes), probabilities, classes)


def _labels(table: pd.DataFrame, classes: Sequence[str]) -> NDArray[np.int64]:
    return _indices(table["label"], classes)


def _indices(names: "pd.Series[str]", classes: Sequence[str]) -> NDArray[np.int64]:
    places = {name: place for place, name in enumerate(classes)}
    return np.array([places[name] for name in names], dtype=np.int64)


def _paired(opened: OpenStudy, winner: Finalist, other: Finalist, metric: str) -> Paired | None:
    """The winner against another on the clips that both were judged by."""
    tables = [pd.read_csv(each.attempt.artifacts / "predictions.csv") for each in (winner, other)]
    first = tables[0][tables[0]["repeat"] == FIRST_SEED]
    same = set(tables[0]["clip_path"]) == set(tables[1]["clip_path"])
    if not same or winner.guesses.shape != other.guesses.shape:
        return None
    classes = _manifest(_experiment(opened.attempt(winner.row.number))).classes
    groups = [str(group) for group in first["group"]]
    known = metric if metric in intervals.METRICS else "macro_f1"
    return intervals.paired(
        known, _labels(first, classes), winner.guesses, other.guesses, groups, 1 - CONFIDENCE
    )


def _latencies(opened: OpenStudy, rows: Sequence[TrialRow], say: Say) -> dict[int, dict[str, float]]:
    """Median latencies of the saved models, in turn and in several rounds: all meet the same machine."""
    models = {}
    for row in rows:
        attempt = opened.attempt(row.number)
        if not attempt.model.is_dir():
            say(f"the model of trial {row.number} was not kept: training it again …")
            train_model(attempt, opened.repeats)
        models[row.number] = load_model(attempt.model)
    experiment = _experiment(opened.attempt(rows[0].number))
    entries = _manifest(experiment).entries
    clip = next(entry.clip_path for entry in entries if entry.split != "test")
    measured: dict[int, list[dict[str, float]]] = {number: [] for number in models}
    for _ in range(_ROUNDS):
        for number, model in models.items():
            measured[number].append(profiling.measure_latency(model, clip, runs=10, warmup=2, limit_s=10))
    keys = ("latency/p50_ms", "latency/file_p50_ms")
    return {
        number: {
            f"confirm/{key.replace('/', '_')}": float(np.median([each[key] for each in rounds]))
            for key in keys
        }
        for number, rounds in measured.items()
    }


def _words(found: Confirmation, seeds: int) -> list[str]:
    winner = found.winner
    clips = winner.guesses.shape[1]
    basis = f"{found.metric} over {clips} clips out of fold, mean of {seeds} fresh seeds"
    notes = [f"Trial {winner.row.number} wins by its mean: {basis}."]
    if found.optimistic:
        notes.append(
            "The search has scored these clips: only the seeds are new, and the figures stay optimistic."
        )
    notes += list(_verdicts(found))
    best = found.leader
    if winner.row.number != best.row.number:
        notes.append(
            f"In the search trial {best.row.number} was ahead; that was luck, or too little to tell."
        )
    notes.append(f"In the search it had {winner.row.value:.4f}, here {winner.mean:.4f}.")
    notes.append(
        f"Its own weights would ship (trial {winner.row.number}, trained on all of train): the fits here "
        "only judged its configuration."
    )
    return notes


def _verdicts(found: Confirmation) -> Iterator[str]:
    for other in found.finalists[1:]:
        against, name = other.against, f"trial {other.row.number}"
        if against is None:
            yield f"Against {name}: too few groups to tell."
        elif against.verdict == "cannot tell":
            yield (
                f"Not distinguishable from {name} at {CONFIDENCE:.0%}: {against.difference:+.4f} "
                f"[{against.low:+.4f}, {against.high:+.4f}], {against.groups} groups."
            )
        else:
            yield (
                f"{against.verdict.capitalize()} than {name} at {CONFIDENCE:.0%}: "
                f"{against.difference:+.4f} [{against.low:+.4f}, {against.high:+.4f}], "
                f"{against.groups} groups."
            )


def as_dict(found: Confirmation) -> dict[str, object]:
    """As printed with ``--json`` and kept beside the study."""
    return {
        "study": found.study,
        "metric": found.metric,
        "optimistic": found.optimistic,
        "winner": found.winner.row.number,
        "finalists": [
            {
                "trial": each.row.number,
                "base": each.row.base,
                "params": dict(each.row.params),
                "searched": each.row.value,
                "mean": each.mean,
                "scores": list(each.scores),
                "low": each.reached.low if each.reached else None,
                "high": each.reached.high if each.reached else None,
                "figures": dict(each.figures),
                "verdict": each.against.verdict if each.against else None,
            }
            for each in found.finalists
        ],
        "notes": list(found.notes),
    }


def _write(opened: OpenStudy, found: Confirmation) -> None:
    text = json.dumps(as_dict(found), indent=1) + "\n"
    (opened.own_attempt.artifacts / REPORT).write_text(text, encoding="utf-8")


def winner_of(opened: OpenStudy) -> int | None:
    """The trial that `confirm` found best, ``None`` where it was not asked."""
    path = opened.own_attempt.artifacts / REPORT
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["winner"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
