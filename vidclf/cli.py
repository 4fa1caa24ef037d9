"""The command line. Commands parse and print; the work is done elsewhere, and imported when it is needed."""

import contextlib
import itertools
import json
import os
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.console import Console

    from vidclf.data.check import ClipCheck
    from vidclf.data.sources import Imported
    from vidclf.search.record import OpenStudy
    from vidclf.store import Store

FAILED, BAD_INPUT, GATE_REFUSED, OWN_BUG, INTERRUPTED = 1, 2, 3, 70, 130
PIPED_WIDTH = 160
"""Columns of a table that does not go to a terminal."""


class GroupScope(StrEnum):
    """What makes two groups one."""

    DATASET = "dataset"
    CLASS = "class"


class Groups(StrEnum):
    """Where groups come from."""

    NAME = "name"
    SCENES = "scenes"


class Commands(TyperGroup):
    """Turns what goes wrong into one clear message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        with contextlib.suppress(ValueError):  # only the main thread may
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _say("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            code = _explained(error)
            if code is None:
                raise
            raise typer.Exit(code) from None


def _explained(error: Exception) -> int | None:
    """Prints an error's message; its exit code, ``None`` where it is the command line's own signal."""
    from vidclf.config import InputError
    from vidclf.data.video import ClipError

    if type(error).__module__.startswith(("typer", "click")):
        return None
    if isinstance(error, InputError | ClipError):
        _say("error: " + "\n       ".join(str(error).splitlines()), "red")
        return BAD_INPUT
    if type(error).__name__ == "GateRefused":
        _say(f"refused: {error}", "yellow")
        return GATE_REFUSED
    with tempfile.NamedTemporaryFile("w", prefix="vidclf-", suffix=".log", delete=False) as log:
        log.write("".join(traceback.format_exception(error)))
    _say(f"a bug in vidclf: {type(error).__name__}: {error} (traceback in {log.name})", "red")
    return OWN_BUG


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which video classifier should I ship? Describe a run as a file, describe a search as a file, "
    "and get an honest, side-by-side answer.",
    epilog="First steps: `vidclf data demo data/demo`, `vidclf tune studies/demo.toml`, `vidclf ui`.",
)
data_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Clips: import, render, split."
)
app.add_typer(data_app, name="data")

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", metavar="DIR", help="Folder of the embedded store [VIDCLF_STORE, ./mlruns]."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Another value for a key, as train.epochs=2; repeatable."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")]


def main() -> None:
    """Entry point of the console script."""
    app()


def _console(stderr: bool = True) -> "Console":
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, markup=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPED_WIDTH
    return console


def _say(text: str, style: str | None = None) -> None:
    """A word beside the result, on stderr."""
    _console().print(text, style=style, soft_wrap=True)


def _tell(text: str) -> None:
    """A line of the result, on stdout."""
    _console(stderr=False).print(text, soft_wrap=True)


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=1, default=str)
    sys.stdout.write("\n")


def _refuse_later(options: Mapping[str, object]) -> None:
    """Names the options that are asked for and come in a later version."""
    from vidclf.config import InputError

    asked = [f"{option} is not in this version of vidclf" for option, value in options.items() if value]
    if asked:
        raise InputError(*asked)


def _store(folder: Path | None) -> "Store":
    from vidclf.store import open_store

    return open_store(folder)


@contextlib.contextmanager
def _progress(task: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr that appears when it is first told of work."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(task), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=_console(), transient=True)
    number = bar.add_task(task, total=None)

    def update(done: int, total: int) -> None:
        bar.start()
        bar.update(number, completed=done, total=total)

    try:
        yield update
    finally:
        if bar.live.is_started:
            bar.stop()


@contextlib.contextmanager
def _counted(task: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar that moves on by one at each call."""
    with _progress(task) as progress:
        done = itertools.count(1)
        yield lambda: progress(next(done), total)


@data_app.command("demo", epilog="Example: `vidclf data demo data/demo`")
def data_demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to render into.")],
    subjects: Annotated[int, typer.Option(min=3, help="Stick figures; each is one group.")] = 12,
    takes: Annotated[int, typer.Option(min=1, help="Clips of each figure and action.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other figures.")] = 0,
) -> None:
    """Renders clips of a stick figure doing PullUps, PushUps and Punch, with their manifest.

    Also writes DIR/new_clip.avi: a figure that is in no split, to try a model on.
    """
    from vidclf.data import demo

    total = demo.demo_clip_count(subjects, takes)
    with _counted("Rendering", total) as advance:
        manifest = demo.render_demo_set(folder, subjects, takes, seed, advance)
    _say(f"{total} clips and new_clip.avi in {folder}; their manifest is {manifest}")
    _say("Next: vidclf tune studies/demo.toml (it looks for the clips in $VIDCLF_DATA/demo, else data/demo)")


@data_app.command("import", epilog="Example: `vidclf data import my_clips --to data/mine/manifest.csv`")
def data_import(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Folders with a folder per class, or CSV files.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="MANIFEST.csv", help="The manifest to write.")],
    classes: Annotated[str | None, typer.Option(metavar="A,B", help="Only these classes.")] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="group|file|official:N|random",
            help="By group; as the source says; UCF-101's list N with val carved out of train by group; or "
            "clip by clip, which leaks. Default: file where the source gives a split, else group.",
        ),
    ] = None,
    shares: Annotated[
        str, typer.Option(metavar="70,15,15", help="Train, val and test in percent.")
    ] = "70,15,15",
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives another split.")] = 0,
    group_scope: Annotated[
        GroupScope,
        typer.Option(
            help="Whether equal group names in different classes are one group (dataset, the safe default)."
        ),
    ] = GroupScope.DATASET,
    groups: Annotated[
        Groups,
        typer.Option(
            help="Groups from the names, or scenes: clips whose backgrounds look alike are one group."
        ),
    ] = Groups.NAME,
    extend: Annotated[
        Path | None,
        typer.Option(metavar="OLD.csv", help="Keep this manifest's clips, its groups in their splits."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Writes a manifest: the clips of each class, split so that no group is on two sides.

    A group is read from UCF-101's naming: `v_PullUps_g03_c02.avi` is group `g03`. Where
    the names carry none, each clip is its own group.
    """
    from vidclf.data.sources import import_clips

    imported = import_clips(
        sources,
        to,
        classes=classes.split(",") if classes else None,
        split=split,
        shares=shares,
        seed=seed,
        group_scope=group_scope.value,
        extend=extend,
        by_scene=groups == Groups.SCENES,
    )
    if json_:
        counts = {"clips": imported.counts(), "groups": imported.groups()}
        _print_json({"manifest": str(to), **counts, "notes": list(imported.notes)})
        return
    _print_imported(imported)
    for note in imported.notes:
        _say(f"note: {note}", "yellow")
    _say(f"Written: {to}")


@data_app.command("check", epilog="Example: `vidclf data check data/mine/manifest.csv --drop clean.csv`")
def data_check(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="A CSV file with a column clip_path.")],
    drop: Annotated[
        Path | None, typer.Option(metavar="CLEAN.csv", help="Write a manifest without the bad clips.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Decodes every clip to its end, names each bad one and why, and finds leaks between splits.

    Clips are decoded in child processes with limits on time and memory, so no file can
    take the command down. Exit 1 where any clip is not ok or a split leaks.
    """
    from vidclf.data import check

    table, entries = check.read_clip_list(manifest)
    with _counted("Checking", len(entries)) as advance:
        checks = check.check_clips([entry.clip_path for entry in entries], advance)
    leaks = check.find_leaks(entries)
    leaks += check.find_twins(entries, leaks)
    bad = [item for item in checks if item.verdict != "ok"]
    if json_:
        _print_json(
            {"clips": [item.as_dict() for item in checks], "leaks": [leak.as_dict() for leak in leaks]}
        )
    else:
        _print_checks(bad, len(checks))
        for leak in leaks:
            _say(f"leak: {leak.why} in {' and '.join(leak.splits)}: {leak.a} and {leak.b}", "yellow")
    if drop:
        check.write_clean(table, checks, drop)
        _say(f"Written: {drop}, with {len(checks) - len(bad)} clips; dropped {len(bad)}")
    if bad or leaks:
        raise typer.Exit(FAILED)


@data_app.command("report", epilog="Example: `vidclf data report data/mine/manifest.csv --to report.html`")
def data_report(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="A CSV file with a column clip_path.")],
    to: Annotated[Path, typer.Option("--to", metavar="report.html", help="The page to write.")],
) -> None:
    """Writes one HTML page: classes, durations, sizes, imbalance, groups, bad files, leaks, sample frames."""
    from vidclf.data import check, report

    _, entries = check.read_clip_list(manifest)
    with _counted("Checking", len(entries)) as advance:
        report.write_report(entries, str(manifest), to, advance)
    _say(f"Written: {to}")


@data_app.command("store", epilog="Example: `vidclf data store --clear`")
def data_store(
    clear: Annotated[bool, typer.Option("--clear", help="Empty the caches.")] = False,
    json_: JsonOption = False,
) -> None:
    """What the caches of decoded clips hold, and how much they may take."""
    from vidclf.data import cache

    held = cache.clear() if clear else cache.usage()
    if json_:
        limit = cache.limit_bytes()
        _print_json(
            {"folder": str(cache.folder()), "entries": held.entries, "bytes": held.bytes, "limit": limit}
        )
        return
    for name, count in held.entries.items():
        _say(f"{name}: {count} entries, {held.bytes[name] / 1e9:.2f} GB")
    word = "cleared" if clear else f"of {cache.limit_bytes() / 1e9:.1f} GB (VIDCLF_CACHE_GB) in"
    _say(f"{held.total / 1e9:.2f} GB {word} {cache.folder()}")


def _print_checks(bad: "Sequence[ClipCheck]", total: int) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    if bad:
        table = Table("clip", "verdict", "why", box=SIMPLE_HEAD)
        for item in bad:
            table.add_row(str(item.clip_path), item.verdict, item.reason)
        _console(stderr=False).print(table)
    _say(f"{total} clips: {total - len(bad)} ok, {len(bad)} not")


def _print_imported(imported: "Imported") -> None:
    from rich.table import Table

    table = Table("class", *(f"{split} clips" for split in imported.groups()))
    for label, counts in imported.counts().items():
        table.add_row(label, *map(str, counts.values()))
    table.add_section()
    table.add_row("groups", *map(str, imported.groups().values()))
    _console(stderr=False).print(table)


@app.command(epilog="Example: `vidclf train experiments/gestures3/svm.toml --set model.C=10`")
def train(
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT.toml", help="The run as a file.")],
    set_: SetOption = None,
    again: Annotated[
        bool, typer.Option("--again", help="Train even if this very run is there already.")
    ] = False,
    test: Annotated[bool, typer.Option("--test", hidden=True)] = False,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Trains one experiment as a tracked run, and saves its model."""
    from vidclf import config
    from vidclf.train import train as run

    _refuse_later({"--test": test})
    opened = _store(store)
    started = time.perf_counter()
    with _progress("Decoding clips") as progress:
        trained = run(
            experiment,
            config.parse_assignments(set_ or []),
            opened,
            again=again,
            report=_report_epoch,
            progress=progress,
            say=_say,
        )
    outcome = trained.outcome
    if json_:
        complete = outcome.status == "complete"
        _print_json(
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
        _print_trained(trained.reused, outcome.metrics, time.perf_counter() - started)
        _tell(f"Run {trained.run_id} in {trained.attempt.folder}")
    if outcome.status != "complete":
        _say(f"{outcome.status}: {outcome.reason}", "red")
        _say(f"Traceback: {trained.attempt.artifacts / 'traceback.txt'}")
        raise typer.Exit(FAILED)
    if not json_:
        model = shlex.quote(str(trained.attempt.model))
        _say(f"Label clips:  vidclf predict {model} CLIP...\nLook at it:   vidclf ui")


def _report_epoch(step: int, metrics: Mapping[str, float]) -> None:
    if step:
        shown = "  ".join(f"{name.removeprefix('epoch/')} {value:.4g}" for name, value in metrics.items())
        _say(f"epoch {step}  {shown}")


def _print_trained(reused: bool, metrics: Mapping[str, float], seconds: float) -> None:
    from rich.table import Table

    if reused:
        _say("This config was trained on these clips before; here is that run (--again trains anew).")
    table = Table("metric", "value", title=f"{seconds:.1f} s", title_justify="left")
    for name, value in metrics.items():
        table.add_row(name, f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}")
    _console(stderr=False).print(table)


@app.command(epilog="Example: `vidclf tune studies/demo.toml --trials 20 --workers 2`")
def tune(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The search as a file.")],
    trials: Annotated[
        int | None, typer.Option(min=1, help="Budget in total, in place of the file's.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes, in place of the file's.")
    ] = None,
    set_: SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, show the plan, run nothing.")
    ] = False,
    join: Annotated[bool, typer.Option("--join", hidden=True)] = False,
    ray: Annotated[str | None, typer.Option("--ray", hidden=True)] = None,
    per_gpu: Annotated[int | None, typer.Option("--per-gpu", hidden=True)] = None,
    continue_as: Annotated[str | None, typer.Option("--continue-as", hidden=True)] = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Starts a study, or resumes the one of its name.

    `--set` changes every base that has the key. Ctrl-C stops cleanly; the same command goes on.
    """
    from vidclf import config
    from vidclf.search import tune as search
    from vidclf.search.display import display_for
    from vidclf.search.status import status as state_of
    from vidclf.store import find_store

    _refuse_later({"--join": join, "--ray": ray, "--per-gpu": per_gpu, "--continue-as": continue_as})
    opened_store = find_store(store) if dry_run else _store(store)
    request = search.Request(study, config.parse_assignments(set_ or []), trials, workers)
    definition = search.plan(request, opened_store)
    if dry_run:
        with _progress("Decoding clips") as progress:
            search.check(definition, progress, _say)
        _print_plan(search.describe_plan(definition, opened_store), json_)
        return
    with _progress("Decoding clips") as progress:
        warnings = search.check(definition, progress, _say)
    opened, ending = search.tune(definition, opened_store, display_for(_console()), warnings)
    if json_:
        _print_json({**state_of(opened), "ending": ending})
    else:
        _print_study(opened, ending, study)
    if ending == "interrupted":
        raise typer.Exit(INTERRUPTED)
    if ending == "errors" or not any(row.state == "complete" for row in opened.rows()):
        raise typer.Exit(FAILED)


def _print_plan(plan: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(plan)
        return
    from rich.table import Table

    console = _console(stderr=False)
    console.print(plan["study"], plan["question"])
    console.print(f"{plan['objective']}; {plan['used']} of {plan['total']} trials done")
    table = Table("base", "key", "searched")
    for row in plan["space"]:
        table.add_row(row["base"], row["key"], row["searched"])
    console.print(table)


def _print_study(opened: "OpenStudy", ending: str, study: Path) -> None:
    from vidclf import compare

    console = _console(stderr=False)
    rows = opened.rows()
    objective = opened.objective
    if compare.ranked(rows, objective.direction):
        console.print(compare.leaderboard(rows, objective.metric, objective.direction))
    failed = [row for row in rows if row.state == "failed"]
    for row in failed[:3]:
        _say(f"trial {row.number} failed: {row.reason.splitlines()[0]}", "red")
    words = {
        "finished": "The budget is used up.",
        "exhausted": "The space holds nothing new to try.",
        "interrupted": "Stopped; nothing finished is lost.",
        "errors": f"Stopped: the same error three times in a row: {failed[-1].reason if failed else ''}",
    }
    _say(words[ending])
    if ending == "interrupted":
        _say(f"Go on with the same command: vidclf tune {shlex.quote(str(study))}")
    elif ending != "errors" and compare.ranked(rows, objective.direction):
        _say(f"Look at it:     vidclf ui\nShip the best:  vidclf promote {opened.name} --as NAME")


@app.command(epilog="Example: `vidclf status demo`")
def status(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="A study's name or file; none: all.")
    ] = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Where a study stands; without a name, all studies."""
    from vidclf import compare
    from vidclf.search.record import find_study, study_names
    from vidclf.search.status import status as state_of
    from vidclf.store import find_store

    opened_store = find_store(store)
    names = [study] if study else study_names(opened_store)
    found = [find_study(name, opened_store) for name in names]
    if json_:
        states = [state_of(opened) for opened in found]
        _print_json(states[0] if study else states)
        return
    if not found:
        there = "has no study yet" if opened_store.folder.exists() else "does not exist yet"
        _say(f"{opened_store.folder} {there}; vidclf tune STUDY.toml makes one")
    for opened in found:
        state = state_of(opened)
        counts = (
            ", ".join(f"{count} {name}" for name, count in state["trials"].items() if count) or "no trials"
        )
        budget = state["budget"]
        running = f", running on {state['owner']['host']}" if state["owner"] else ""
        _tell(f"{opened.name}: {budget['used']}/{budget['total']} trials ({counts}){running}")
        if study and state["best"]:
            objective = opened.objective
            table = compare.leaderboard(opened.rows(), objective.metric, objective.direction)
            _console(stderr=False).print(table)


@app.command(epilog="Example: `vidclf promote demo --as exercises`")
def promote(
    study_or_run: Annotated[
        str, typer.Argument(metavar="STUDY_OR_RUN", help="A study's name or file, or a run id.")
    ],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="Name in the registry.")],
    alias: Annotated[str, typer.Option(help="Alias that the version gets.")] = "champion",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Registers the best finished trial of a study, or one run, as NAME@champion."""
    from vidclf.registry.candidate import find_candidate
    from vidclf.registry.promote import promote as register

    opened_store = _store(store)
    candidate = find_candidate(study_or_run, opened_store)
    if not yes and not json_ and sys.stdin.isatty():
        typer.confirm(f"Register {candidate.label} as {name}@{alias}?", abort=True, err=True)
    promoted = register(opened_store, candidate.attempt, name, alias)
    if json_:
        _print_json(
            {
                "name": promoted.name,
                "version": promoted.version,
                "alias": promoted.alias,
                "gates": [],
                "metrics": dict(candidate.metrics),
                "run_id": promoted.run_id,
            }
        )
        return
    word = "is now" if promoted.created else "already was"
    _tell(f"{candidate.label} {word} {promoted.name} version {promoted.version}, @{promoted.alias}")
    _say("No gate was checked and the test split was not read: this is the first version of its name.")
    _say(f"Next: vidclf predict {promoted.name}@{promoted.alias} CLIP...")


@app.command(epilog="Example: `vidclf predict exercises@champion clip.avi`")
def predict(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="NAME@champion, NAME/3, a run id, or a folder.")
    ],
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO...", help="Video files.")],
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the predictions as CSV.")] = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Labels video files; a file that cannot be read is an error of its own, exit 1."""
    from vidclf.predict import as_table, predict_files
    from vidclf.registry.promote import resolve_model
    from vidclf.store import find_store

    with _progress("Predicting") as progress:
        predictions = predict_files(resolve_model(find_store(store), model), videos, progress)
    if csv:
        as_table(predictions).to_csv(csv, index=False)
    if json_:
        _print_json([prediction.as_dict() for prediction in predictions])
    else:
        _print_predictions([prediction.as_dict() for prediction in predictions])
    if any(prediction.error for prediction in predictions):
        raise typer.Exit(FAILED)


def _print_predictions(predictions: Sequence[Mapping[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("clip", "label", "probabilities", "time", box=SIMPLE_HEAD)
    for item in predictions:
        likely = sorted(item["probabilities"].items(), key=lambda pair: -pair[1])
        chances = "  ".join(f"{name} {chance:.3f}" for name, chance in likely)
        milliseconds = f"{item['seconds'] * 1000:.0f} ms"
        table.add_row(item["clip_path"], item["label"] or "–", item["error"] or chances, milliseconds)
    _console(stderr=False).print(table)


@app.command(epilog="Example: `vidclf ui --port 5001`")
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    store: StoreOption = None,
) -> None:
    """Serves MLflow's UI on the store, with a link to the newest study's ranked trials."""
    from vidclf.tracking.ui import serve_ui

    serve_ui(_store(store), port, lambda link: _say(f"{link}\nCtrl-C stops it"))
