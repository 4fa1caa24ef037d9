"""``vidclf compare`` as a command."""

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidclf.cli.console import JsonOption, StoreOption, make_console, print_json, progress_bar, say, tell

if TYPE_CHECKING:
    from rich.table import Table

    from vidclf.comparison.data import Comparison, GroupReport
    from vidclf.comparison.rows import ModelRow

_MOST_ROWS = 1000
"""Models in a terminal's table: ten thousand take it longer to draw than all else."""


def compare(
    studies_or_runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY_OR_RUN]...",
            help="Studies' names or files, run ids, or names of runs' folders; none: all of the store.",
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every trial, not only the best of each family and study.")
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="FILE.html",
            help="Write one page that needs no network; MLflow gets it too, as a run of its own.",
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the rows as CSV.")] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC", help="Rank by this, as val/accuracy [the studies' objective, val/macro_f1]."
        ),
    ] = None,
    learning_curve: Annotated[
        bool,
        typer.Option(
            "--learning-curve",
            help="Train the best of each family, if that takes ten minutes at most, on 25, 50, 75 and 100 % "
            "of the training groups, three times each: would more clips help?",
        ),
    ] = False,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Which model to ship: studies and single runs side by side, with baselines and what each costs.

    Models that were judged on different clips are never ranked together. Published figures come from the
    files below `experiments/` in the current folder, and from what the runs were made from.
    """
    from vidclf.comparison.data import build
    from vidclf.data.tables import for_spreadsheets
    from vidclf.exceptions import InputError
    from vidclf.runs.store import find_store

    if to and to.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--to {to}: a page is written; name it {to.with_suffix('.html').name}")
    with progress_bar("Training") as progress, _without_collection():
        comparison = build(
            studies_or_runs or [],
            find_store(store),
            metric=metric,
            every=every,
            progress=progress if learning_curve else None,
        )
    if csv:
        csv.parent.mkdir(parents=True, exist_ok=True)
        for_spreadsheets(comparison.as_table()).to_csv(csv, index=False, lineterminator="\n")
    if to:
        with _without_collection():
            _write(comparison, to)
    if json_:
        print_json(comparison.as_dict())
    else:
        _print(comparison)


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Ten thousand trials are a million objects that all stay: looking through them again and again for what
    could be freed takes a third of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _write(comparison: "Comparison", to: Path) -> None:
    """Writes the page and gives it to MLflow, without which it stands for itself."""
    from vidclf.comparison.page import log_page, write_page
    from vidclf.exceptions import InputError

    try:
        write_page(comparison, to)
    except OSError as error:
        raise InputError(f"--to {to}: cannot be written: {error.strerror}") from None
    try:
        run = log_page(comparison, to)
    except InputError as error:
        say(f"warning: MLflow did not get the page: {error}")
    else:
        say(f"{to}, and in MLflow as the run {run}")


def _print(comparison: "Comparison") -> None:
    from vidclf.comparison.data import MOST_NOTES
    from vidclf.labels import plural

    console = make_console(stderr=False)
    for report in comparison.reports:
        if report.doubt:
            say(report.doubt, "yellow")
        rows = report.rows(every=comparison.every, most=_MOST_ROWS)
        console.print(_table(report, rows))
        hidden = len(report.rows(every=comparison.every)) - len(rows)
        if hidden:
            say(f"{hidden:,} more rows are not shown: --csv FILE and --json have all")
        tell(report.answer.headline)
        for other in report.answer.others:
            tell(f"  {other}")
        for curve in report.learning_curves:
            tell(f"  {curve.words}")
        tell("")
    for note in comparison.notes[:MOST_NOTES]:
        say(f"note: {note}")
    if further := comparison.notes[MOST_NOTES:]:
        say(f"{plural(len(further), 'more note')}: --to FILE.html and --json have all")


def _table(report: "GroupReport", rows: "list[ModelRow]") -> "Table":
    from vidclf.comparison.verdict_text import INTERVAL, interval_words, values_of
    from vidclf.evaluation.ranking import FILE_LATENCY, LATENCY, SIZE
    from vidclf.reports.tables import PARAMS_WIDTH, Column, cost_columns, rich_table, score_column

    group = report.group
    front = {id(row) for row in group.front}

    def rank(row: "ModelRow") -> str:
        number = group.rank(row)
        return f"{number}{'*' if id(row) in front else ' '}" if number else "– "

    def which(row: "ModelRow") -> str:
        return report.marked(row) + ("" if row.state in ("complete", "published") else f" ({row.state})")

    columns = [
        Column("rank", rank),
        Column("model", lambda row: row.family, left=True),
        Column("which", which, left=True, wrap=1),
        score_column(group.metric.partition("/")[2]),
        Column(INTERVAL, lambda row: interval_words(report.intervals.get(id(row)))),
        *cost_columns(LATENCY, FILE_LATENCY, SIZE),
        Column("searched values", values_of, left=True, wrap=PARAMS_WIDTH),
    ]
    clips = f", {report.baselines.val_clips} clips" if report.baselines.val_clips else ""
    note = "* Pareto front: no other model is better, faster and smaller at once, to two digits."
    return rich_table(f"{report.name}: best by {group.metric}{clips}", columns, rows, note if front else "")
