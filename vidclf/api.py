"""The Python API: the five names of ``import vidclf``."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vidclf.cli.console import show_messages
from vidclf.comparison.data import build
from vidclf.exceptions import InputError
from vidclf.inference.predict import Prediction, predict_files
from vidclf.models import load_model as load_saved
from vidclf.models.saved import SavedModel
from vidclf.registry.resolve import resolve_model
from vidclf.runs import experiment as files
from vidclf.runs.experiment import ExperimentConfig
from vidclf.runs.folder import Status
from vidclf.runs.store import find_store, open_store
from vidclf.search.execution import tune
from vidclf.search.execution.budget import Ending
from vidclf.search.execution.display import Display
from vidclf.search.report.data import best_of
from vidclf.tracking.train import train

PathLike = str | Path

if not logging.getLogger("vidclf").hasHandlers():  # else the program has its own way to show messages
    show_messages()


@dataclass(frozen=True)
class Run:
    """One tracked run.

    Attributes:
        run_id: In MLflow; ``None`` where it was not delivered yet.
        status: ``complete``, or how it ended otherwise.
        reason: Why it is not complete; empty otherwise.
        metrics: Final metrics, as ``val/macro_f1``.
        folder: Its record: config, journal, artifacts.
        reused: Whether this very run had been there already.
    """

    run_id: str | None
    status: Status
    reason: str
    metrics: Mapping[str, float]
    folder: Path
    reused: bool

    def model(self) -> "Model":
        """Its model.

        Raises:
            InputError: It has none.
        """
        return load_model(self.folder)


@dataclass(frozen=True)
class Study:
    """A study after a session.

    Attributes:
        name: Its name.
        ending: Why it stopped: ``finished``, ``time``, ``patience``, ``exhausted``, ``interrupted`` or
            ``errors``.
        best: Number, base, value and searched values of the best feasible trial; ``None`` without any.
        trials: One row a trial: ``trial``, ``state``, ``base``, ``value``, its searched values, its metrics.
            They are selected on val, and so optimistic.
    """

    name: str
    ending: Ending
    best: Mapping[str, Any] | None
    trials: pd.DataFrame


@dataclass(frozen=True)
class Model:
    """A saved model, ready to label videos.

    Attributes:
        folder: Where its files lie.
        saved: Its card and classifier.
    """

    folder: Path
    saved: SavedModel

    @property
    def classes(self) -> tuple[str, ...]:
        """Its labels, in the order of every probability vector."""
        return tuple(self.saved.card.classes)

    def predict(
        self, videos: PathLike | Sequence[PathLike], *, window: float | None = None
    ) -> list[Prediction]:
        """Labels video files, paths or URLs; a bad one has an ``error`` and no label, and spoils no other.

        Args:
            videos: One or several.
            window: Label every window of so many seconds; ``None``: files as wholes.
        """
        several = [videos] if isinstance(videos, str | Path) else list(videos)
        return predict_files(self.saved, several, window=window)


def load_experiment(path: PathLike, overrides: Mapping[str, Any] | None = None) -> ExperimentConfig:
    """A checked experiment file.

    Args:
        path: The TOML file.
        overrides: Other values by dotted path, as ``{"train.epochs": 2}``.

    Raises:
        InputError: Every problem of it, each with its key.
    """
    return files.load_experiment(Path(path), overrides)


def run_experiment(
    experiment: ExperimentConfig | PathLike,
    *,
    overrides: Mapping[str, Any] | None = None,
    name: str | None = None,
    store: PathLike | None = None,
    again: bool = False,
    report: Callable[[int, Mapping[str, float]], None] = lambda _step, _metrics: None,
) -> Run:
    """Trains an experiment as a tracked run, as ``vidclf train`` does.

    Args:
        experiment: A file, or what `load_experiment` gave.
        overrides: Other values by dotted path, for a file: `load_experiment` takes them too.
        name: Of the run; the file's stem, or the kind of model.
        store: Folder of the store; ``None``: ``VIDCLF_STORE``, else ``mlruns``.
        again: Train even where this very run is there already.
        report: Called with (epoch, metrics).

    Raises:
        InputError: Before anything was written.
    """
    if isinstance(experiment, str | Path):
        name = name or Path(experiment).stem
        experiment = load_experiment(experiment, overrides)
    elif overrides:
        raise InputError("overrides: the experiment has been read already; give them to load_experiment")
    trained = train(
        experiment,
        name or experiment.model.kind,
        open_store(_path(store)),
        again=again,
        report=report,
    )
    outcome, attempt = trained.outcome, trained.attempt
    return Run(
        trained.run_id, outcome.status, outcome.reason, outcome.metrics, attempt.folder, trained.reused
    )


def run_study(
    path: PathLike,
    *,
    overrides: Mapping[str, Any] | None = None,
    trials: int | None = None,
    workers: int | None = None,
    store: PathLike | None = None,
) -> Study:
    """Starts or resumes a study and runs it to its end, as ``vidclf tune`` does.

    Its workers are processes that do not run the calling script. Ctrl-C stops the study cleanly.

    Args:
        path: The study file.
        overrides: Other values for the bases, by dotted path.
        trials: Budget in total, in place of the file's.
        workers: Worker processes, in place of the file's.
        store: Folder of the store; ``None``: ``VIDCLF_STORE``, else ``mlruns``.

    Raises:
        InputError: Every problem of its files, before the first trial.
    """
    opened_store = open_store(_path(store))
    request = tune.TuneRequest(Path(path), overrides or {}, trials, workers)
    definition = tune.plan(request, opened_store)
    warnings = tune.check(definition) if tune.warm_up(definition, opened_store) else []
    opened, ending = tune.tune(definition, opened_store, Display(), warnings)
    rows = opened.rows()
    table = pd.DataFrame(
        {"trial": row.number, "state": row.state, "base": row.base, "value": row.value}
        | dict(row.params)
        | dict(row.metrics)
        for row in rows
    )
    return Study(opened.name, ending, best_of(opened, rows), table)


def compare(
    studies_or_runs: Sequence[str] = (),
    *,
    every: bool = False,
    metric: str | None = None,
    store: PathLike | None = None,
) -> pd.DataFrame:
    """Studies, single runs and baselines side by side, best first, as ``vidclf compare`` has them.

    Args:
        studies_or_runs: Names of studies, run ids; none: all of the store.
        every: Every trial, not only the best of each family and study.
        metric: Rank by this; ``None``: the studies' objective.
        store: Folder of the store; ``None``: ``VIDCLF_STORE``, else ``mlruns``.

    Returns:
        One row a model, with a column for every metric and searched value; ``ship`` marks what the answer
        names, ``confirmed`` is what `vidclf confirm` gave it. What it says of them, in words, stands in
        ``attrs["notes"]``.

    Raises:
        InputError: A name means nothing here, or there is nothing to compare.
    """
    comparison = build(
        list(studies_or_runs),
        find_store(_path(store)),
        metric=metric,
        every=every,
    )
    table = comparison.as_table()
    table.attrs["notes"] = comparison.notes
    return table


def load_model(reference: PathLike, *, store: PathLike | None = None) -> Model:
    """A saved model; nothing in its files is run.

    Args:
        reference: ``NAME@champion``, ``NAME/3``, a run id, or a folder.
        store: Where runs and the registry are; ``None``: ``VIDCLF_STORE``, else ``mlruns``.

    Raises:
        InputError: There is no such model, or its files are damaged or not ours.
    """
    folder = resolve_model(find_store(_path(store)), str(reference))
    return Model(folder, load_saved(folder))


def _path(store: PathLike | None) -> Path | None:
    return None if store is None else Path(store)
