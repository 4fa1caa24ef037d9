"""Studies that never ran, for what is written about a study."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tests.clips import write_experiment
from tests.studies import METRIC, fabricated
from vidclf import config
from vidclf.evaluation.ranking import LATENCY, SIZE
from vidclf.runs.experiment import load_experiment
from vidclf.runs.folder import Identity
from vidclf.runs.store import open_store
from vidclf.search.record.study import REPEATS, OpenStudy

START = datetime(2026, 1, 2, 3, 4, 5)
SPACE: dict[str, BaseDistribution] = {
    "base": CategoricalDistribution(["svm", "tiny"]),
    "data.frames": CategoricalDistribution([2, 4]),
    "model.C": FloatDistribution(0.01, 100.0, log=True),
    "model.kernel": CategoricalDistribution(["linear", "rbf"]),
    "model.gamma": FloatDistribution(1e-4, 1.0, log=True),
    "train.lr": FloatDistribution(1e-5, 1e-1, log=True),
}
ENDS = ("complete", "complete", "complete", "pruned", "failed", "interrupted", "infeasible", "again", "large")
_STATES = {
    **dict.fromkeys(("complete", "infeasible"), TrialState.COMPLETE),
    **dict.fromkeys(("failed", "interrupted", "again"), TrialState.FAIL),
    **dict.fromkeys(("pruned", "large"), TrialState.PRUNED),
}


def fabricated_study(
    folder: Path,
    trials: Iterable[FrozenTrial],
    *,
    question: str = "Which?",
    metric: str = METRIC,
    direction: str = "maximize",
    repeats: int = 1,
) -> OpenStudy:
    """A study on the bases ``svm`` and ``tiny`` whose trials may have at most 100 MB."""
    bases = {
        "svm": write_experiment(folder / "svm.toml", "svm", folder / "m.csv"),
        "tiny": write_experiment(folder / "tiny.toml", "frames2d", folder / "m.csv"),
    }
    opened = fabricated(
        open_store(),
        optuna.storages.InMemoryStorage(),
        direction=direction,
        question=question,
        objectives=[{"metric": metric, "direction": direction, "repeats": repeats}],
        constraints=[{"metric": SIZE, "max": 100.0}],
        bases={stem: config.dump(load_experiment(path)) for stem, path in bases.items()},
        experiment="squares",
    )
    opened.study.add_trials(trials)
    profile = json.dumps({"train": {"a": 9}, "val": {"a": 10, "b": 10}})
    dataset = {"name": "squares", "digest": "0", "source": "m.csv", "profile": profile}
    opened.own_attempt.create(Identity("id", "squares", "s", None, 0, dataset=dataset))
    file = {"sampler": {"name": "tpe"}, "pruner": {"name": "median"}, "budget": {"trials": 60}}
    config.write_toml(file, opened.own_attempt.artifacts / "study.toml")
    return opened


def fabricated_trial(
    number: int,
    base: str,
    value: float,
    *,
    end: str = "complete",
    ms: float | None = None,
    mb: float = 1.0,
    metric: str = METRIC,
    reason: str = "boom",
    steps: Mapping[int, float] | None = None,
    **params: Any,
) -> FrozenTrial:
    """A trial that took 7.5 seconds, from 10 seconds after the one before.

    Args:
        number: Its place in the study.
        base: Its base experiment.
        value: Its objective where it has completed.
        end: One of `ENDS`; ``again`` repeats trial 0 and was not run, ``large`` was never trained.
        ms: Its latency.
        mb: Its size.
        metric: The objective.
        reason: Why it is not complete.
        steps: Values that it reported.
        params: Searched values, with ``__`` for a dot.
    """
    found = {metric: value, SIZE: mb, **({} if ms is None else {LATENCY: ms})}
    values = {"base": base, **{name.replace("__", "."): value for name, value in params.items()}}
    complete = _STATES[end] == TrialState.COMPLETE
    trial = create_trial(
        state=_STATES[end],
        value=value if complete else None,
        params=values,
        distributions={name: SPACE[name] for name in values},
        user_attrs={
            "metrics": found if complete else {},
            "reason": "" if complete else reason,
            "reason_kind": end,
            **({REPEATS: 0} if end == "again" else {}),
        },
        intermediate_values=dict(steps or {}),
        constraints={SIZE: mb - 100.0},
    )
    trial.datetime_start = START + timedelta(seconds=10 * number)
    trial.datetime_complete = trial.datetime_start + timedelta(seconds=7.5)
    return trial


def many_trials(metric: str = METRIC, latency: bool = True, reason: str = "boom") -> Iterator[FrozenTrial]:
    """Trials whose value grows with ``model.C`` and ``train.lr``; the tenth svm is the best of all."""
    for number in itertools.count():
        end = ENDS[(number // 2) % len(ENDS)]
        base = ("svm", "tiny")[number % 2]
        rank = number * 7 % 40
        params: dict[str, Any] = {"data__frames": (2, 4)[number // 2 % 2]}
        if base == "svm":
            params |= {"model__C": 10 ** (rank / 10 - 2), "model__kernel": ("linear", "rbf")[number % 4 // 2]}
            params |= {"model__gamma": 0.01 * (number + 1)} if params["model__kernel"] == "rbf" else {}
        else:
            params["train__lr"] = 10 ** (rank / 10 - 5)
        value = (0.95 if base == "svm" else 0.9) * (0.4 + rank / 80)
        yield fabricated_trial(
            number,
            base,
            value,
            end=end,
            ms=5.0 + rank if latency else None,
            mb=120.0 if end in ("infeasible", "large") else 0.5 + number % 2,
            metric=metric,
            reason=reason,
            steps=None if number % 2 == 0 or end == "large" else {1: value / 2, 2: value},
            **params,
        )
