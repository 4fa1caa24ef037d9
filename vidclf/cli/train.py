"""``vidclf train`` as a command."""

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidclf.cli.console import (
    FAILED,
    JsonOption,
    SetOption,
    StoreOption,
    print_json,
    print_table,
    progress_bar,
    report_epoch,
    resumable,
    say,
    tell,
)
from vidclf.progress import Progress

if TYPE_CHECKING:
    from vidclf.models.base import ExperimentConfig
    from vidclf.runs.folder import Attempt, Outcome
    from vidclf.runs.store import Store
    from vidclf.tracking.train import TrainResult


def train(
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT.toml", help="The run as a file.")],
    set_: SetOption = None,
    again: Annotated[
        bool, typer.Option("--again", help="Train even if this very run is there already.")
    ] = False,
    test: Annotated[
        bool,
        typer.Option("--test", help="Also judge it by the test split; the read is counted, so keep it rare."),
    ] = False,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Trains one experiment as a tracked run, and saves its model.

    Intervals, of test only, are for clips of new groups, weighed by clips, or by groups for a
    group_weighted metric; under 5 groups there are none.
    """
    from vidclf import config

    config.read_toml(experiment)  # a misspelt name is answered before anything slow is loaded

    from vidclf.runs.experiment import load_experiment
    from vidclf.runs.store import open_store

    started = time.perf_counter()
    loaded = load_experiment(experiment, config.parse_assignments(set_ or []))  # and so is a misspelt key

    from vidclf.tracking.train import train as run

    opened = open_store(store)
    with resumable(), progress_bar("Preparing clips") as progress:
        if test:
            _check_test(loaded, progress)
        trained = run(
            loaded,
            experiment.stem,
            opened,
            again=again,
            report=report_epoch,
            progress=progress,
        )
    outcome = trained.outcome
    if test and outcome.status == "complete":
        outcome = _read_test(opened, trained.attempt)
    if json_:
        complete = outcome.status == "complete"
        print_json(
            {
                "run_id": trained.run_id,
                "status": outcome.status,
                "metrics": dict(outcome.metrics),
                "model_dir": str(trained.attempt.model) if complete else None,
                "reused": trained.reused,
                "reason": outcome.reason,
            }
        )
    else:
        _print_trained(trained, outcome.metrics, time.perf_counter() - started)
        tell(f"Run {trained.run_id} in {trained.attempt.folder}")
    if outcome.status != "complete":
        say(f"{outcome.status}: {outcome.reason}", "red")
        say(f"Traceback: {trained.attempt.artifacts / 'traceback.txt'}")
        raise typer.Exit(FAILED)
    if not json_:
        model = shlex.quote(str(trained.attempt.model))
        say(f"Label clips:  vidclf predict {model} CLIP...\nAll figures:  vidclf ui, or --json")


def _check_test(experiment: "ExperimentConfig", progress: Progress) -> None:
    """Refuses to train for a test split that is not there."""
    from vidclf.data.manifest import read_manifest
    from vidclf.exceptions import InputError

    manifest = read_manifest(experiment.data.manifest, progress)
    if not any(entry.split == "test" for entry in manifest.entries):
        raise InputError(f"--test: {manifest.name} has no test clips")


def _read_test(store: "Store", attempt: "Attempt") -> "Outcome":
    """Judges a trained model by the test split; its figures are added to the attempt's."""
    from vidclf.exceptions import InputError, NotComparableError
    from vidclf.registry.test_split import read_test, show
    from vidclf.tracking.deliverer import Deliverer
    from vidclf.tracking.lookup import words

    try:
        with progress_bar("Reading test") as progress:
            result = read_test(store, attempt, progress=progress)
    except NotComparableError as why:
        raise InputError(f"--test: {why}") from None
    show(store, attempt, result)
    say(f"{words(result.reads)}: each further read makes its figures mean less")
    Deliverer(store).deliver(attempt)
    outcome = attempt.outcome()
    assert outcome is not None
    return outcome


def _print_trained(trained: "TrainResult", metrics: Mapping[str, float], seconds: float) -> None:
    from rich.table import Column

    from vidclf.evaluation.ranking import FILE_LATENCY, LATENCY, SIZE, disturbed

    if trained.reused:
        say("This config was trained on these clips before; here is that run (--again trains anew).")
    splits = [split for split in ("val", "test") if f"{split}/macro_f1" in metrics]
    for split in splits:
        scores = f"macro F1 {metrics[f'{split}/macro_f1']:.4f}, accuracy {metrics[f'{split}/accuracy']:.4f}"
        tell(f"{split}: {scores} on {_judged(trained.attempt, split)}")
    columns = [
        Column(f"{split} (95 % interval)" if f"{split}/macro_f1_low" in metrics else split, justify="right")
        for split in splits
    ]
    parts = [full.partition("/") for full in metrics]
    names = dict.fromkeys(name for split, _, name in parts if split in splits)
    rows = [
        (name, *(_with_interval(metrics, f"{split}/{name}") for split in splits))
        for name in sorted(names, key=lambda name: name != "macro_f1")
        if name.startswith("recall/") or not name.endswith(("_low", "_high"))  # a class may be kick_low
    ]
    if rows:
        print_table(("metric", *columns), rows)
    costs = {
        LATENCY: "{:.1f} ms a clip",
        FILE_LATENCY: "{:.1f} ms from file to label",
        SIZE: "{:.2f} MB",
        "cost/fit_seconds": "fitted in {:.1f} s",
    }
    words = [form.format(metrics[name]) for name, form in costs.items() if name in metrics]
    tell(", ".join(words if trained.reused else [*words, f"{seconds:.1f} s in all"]))
    if busy := disturbed(metrics):
        say(f"warning: timed while {busy}: too high. vidclf bench measures again.", "yellow")


def _with_interval(metrics: Mapping[str, float], name: str) -> str:
    """The metric, with its 95 % interval where it has one."""
    if name not in metrics:
        return "–"
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return f"{metrics[name]:.4f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")


def _judged(attempt: "Attempt", split: str) -> str:
    """How many clips of how many groups the model was judged on, and how alike those are, in words."""
    from vidclf.evaluation.intervals import correlation
    from vidclf.evaluation.predictions import read_predictions
    from vidclf.labels import plural

    table = read_predictions(attempt.artifacts / split / "predictions.csv")
    clips, groups = f"{len(table)} clips", table["group"].nunique()
    if (table["group"] == "").any():
        return clips
    alike = correlation(table["label"].to_numpy(), table["predicted"].to_numpy(), table["group"].to_numpy())
    inside = "" if alike is None else f", correlation inside groups {alike:.2f}"
    return f"{clips} of {plural(groups, 'group')}{inside}"
