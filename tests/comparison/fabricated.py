"""Stores with studies and runs that never ran, for what is compared."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from sklearn.metrics import f1_score
from typer.testing import Result

from tests import command
from tests.studies import fabricated
from vidclf.comparison import verdict_text
from vidclf.comparison.baselines import Baselines
from vidclf.comparison.data import Comparison, GroupReport
from vidclf.comparison.rows import EvaluationClips, ModelRow, RowGroup
from vidclf.data.manifest import Manifest
from vidclf.evaluation.predictions import predictions_table
from vidclf.evaluation.ranking import LATENCY, LATENCY_HIGH, LATENCY_LOW, SIZE
from vidclf.runs.folder import Attempt, Identity
from vidclf.runs.store import Store
from vidclf.search.record.storage import open_storage

BASES = CategoricalDistribution(["svm", "tiny"])
C = FloatDistribution(0.01, 100.0, log=True)
LR = FloatDistribution(1e-5, 1e-1, log=True)
# base, macro F1, ms, MB of each trial of the study "s"; a score of None was pruned.
TRIALS: Sequence[tuple[str, float | None, float, float]] = (
    ("svm", 0.90, 20.0, 2.0),
    ("svm", 0.85, 30.0, 2.0),
    ("tiny", 0.80, 4.0, 0.2),
    ("tiny", 0.60, 2.0, 0.2),
    ("tiny", None, 2.0, 0.2),
)


def timed(ms: float) -> dict[str, float]:
    """A latency and its interval, a tenth either way."""
    return {LATENCY: ms, LATENCY_LOW: 0.9 * ms, LATENCY_HIGH: 1.1 * ms}


def identity(name: str, digest: str, **tags: str) -> Identity:
    every = {"vidclf.data_digest": digest, "vidclf.test_digest": "t" * 64, "split/leak": "false", **tags}
    counts = {
        "train": {"down": 4, "right": 2},
        "val": {"down": 2, "right": 2},
        "test": {"down": 1, "right": 1},
    }
    dataset = {"name": "squares", "digest": digest[:32], "source": "m.csv", "profile": json.dumps(counts)}
    return Identity(f"id-{name}", "squares", name, None, 1, every, {}, dataset)


def add_study(
    store: Store, name: str, bases: Mapping[str, Any], digest: str, trials: Sequence[Any] = TRIALS
) -> None:
    opened = fabricated(
        store,
        open_storage(store),
        name,
        uuid=f"{name}-0123456789",
        question="Which?",
        bases=bases,
        experiment="squares",
        fingerprint={f"base {stem}: clips": digest for stem in bases},
    )
    for number, (base, value, ms, mb) in enumerate(trials):
        key, kind = ("model.C", C) if base == "svm" else ("train.lr", LR)
        scores = {"val/macro_f1": value, "val/accuracy": value, SIZE: mb, **timed(ms)} if value else {}
        opened.study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if value else TrialState.PRUNED,
                value=value,
                params={"base": base, key: 0.05},
                distributions={"base": BASES, key: kind},
                user_attrs={"metrics": scores},
            )
        )
        opened.attempt(number).create(
            identity(f"{name}-{number}", digest, **{"vidclf.study": name, "vidclf.trial": str(number)})
        )
    opened.own_attempt.create(
        identity(f"{name}-study", digest, **{"vidclf.study": name, "vidclf.role": "study"})
    )


def write_predictions(attempt: Attempt, manifest: Manifest, right: Sequence[float]) -> None:
    """Predictions for val; ``right`` is each clip's probability of its label."""
    entries = manifest.split("val")
    labels = np.array([manifest.classes.index(entry.label) for entry in entries])
    probabilities = np.tile(1 - np.array(right)[:, None], (1, 2))
    probabilities[np.arange(len(labels)), labels] = right
    paths, groups = [entry.clip_path for entry in entries], [entry.group for entry in entries]
    table = predictions_table(paths, labels, probabilities, manifest.classes, groups)
    (attempt.artifacts / "val").mkdir(parents=True, exist_ok=True)
    table.to_csv(attempt.artifacts / "val" / "predictions.csv", index=False)


def repeated(folder: Path, says: Sequence[str], *, by_fold: bool, groups: int = 15) -> ModelRow:
    """A row of repeats that each say one of three classes of every clip, or the right one ("").

    Groups are of 90 clips in all; the score is the mean macro F1, as `vidclf.runs.repeats` has it.
    """
    attempt, scores, size = Attempt(folder), [], 90 // groups
    for repeat, said in enumerate(says):
        clips = [clip for clip in range(90) if not by_fold or clip // size % len(says) == repeat]
        table = pd.DataFrame({"clip_path": [f"{clip:02}" for clip in clips]})
        table["group"] = [f"g{clip // size}" for clip in clips]
        table["label"] = ["abc"[clip % 3] for clip in clips]
        table["predicted"] = said or table["label"]
        artifacts = attempt.artifacts / "repeats" / str(repeat) if repeat else attempt.artifacts
        (artifacts / "val").mkdir(parents=True)
        table.to_csv(artifacts / "val" / "predictions.csv", index=False)
        scores.append(f1_score(table["label"], table["predicted"], average="macro"))
    clips_ = EvaluationClips("c", "", f"{len(says)} folds" if by_fold else "")
    value = float(np.mean(scores))
    return ModelRow(folder.name, 0, "complete", "svm", "svm", value, {}, {}, attempt=attempt, clips=clips_)


def labels(rows: Sequence[ModelRow]) -> list[str]:
    return [row.label for row in rows]


def measured_of(clips_: int = 4) -> Baselines:
    return Baselines([{"train": {"a": 1}, "val": {"a": clips_}}], None, [], [])


def confirmed(folder: Path, wrong: set[int], groups: int = 12, repeats: int = 2) -> ModelRow:
    """A row whose confirmed predictions are wrong on those of 2 clips a group."""
    rows = [
        {"clip_path": f"{clip}", "label": "ab"[clip % 2], "group": f"g{clip // 2}", "repeat": repeat}
        for repeat in range(repeats)
        for clip in range(2 * groups)
    ]
    for row in rows:
        clip = int(row["clip_path"])  # type: ignore[arg-type]
        row["predicted"] = "ab"[(clip + (clip in wrong)) % 2]
    attempt = Attempt(folder)
    (attempt.artifacts / "confirm").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(attempt.artifacts / "confirm" / "predictions.csv", index=False)
    return ModelRow(folder.name, 0, "complete", "svm", "svm", 0.9, {}, {}, attempt=attempt)


def run(made: tuple[Store, Path], *arguments: object, expect: int = 0) -> Result:
    return command.run("compare", *arguments, "--store", made[0].folder, expect=expect)


def comparison_of(store: Store, group: RowGroup, measured: Baselines) -> Comparison:
    """A comparison of one group, without notes and learning curves."""
    return Comparison([report_of(group, measured)], False, store)


def report_of(group: RowGroup, measured: Baselines) -> GroupReport:
    name, answer = verdict_text.name_of(group, [group]), verdict_text.answer(group, measured)
    return GroupReport(name, group, measured, answer, [], {}, [])
