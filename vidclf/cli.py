"""The command line. Commands parse and print; the work is done elsewhere, and imported when it is needed."""

import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidclf.cli_compare import compare as compare_command
from vidclf.cli_data import data_app
from vidclf.cli_doctor import doctor
from vidclf.cli_init import init
from vidclf.cli_models import bench, export, predict, ui
from vidclf.cli_registry import confirm, promote, rollback
from vidclf.terminal import (
    FAILED,
    INTERRUPTED,
    Commands,
    JsonOption,
    StoreOption,
    make_console,
    print_json,
    progress_bar,
    report_epoch,
    say,
    tell,
)

if TYPE_CHECKING:
    from vidclf.models.base import ExperimentConfig
    from vidclf.search.record import OpenStudy
    from vidclf.store import Attempt, Outcome, Store

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
app.add_typer(data_app, name="data")

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Another value for a key, as train.epochs=2; repeatable."
    ),
]


def main() -> None:
    """Entry point of the console script."""
    app()


app.command(epilog="Example: `vidclf init my_clips`")(init)


@app.command(epilog="Example: `vidclf train experiments/gestures3/svm.toml --set model.C=10`")
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
    """Trains one experiment as a tracked run, and saves its model."""
    from vidclf import config
    from vidclf.experiment import load_experiment
    from vidclf.store import open_store
    from vidclf.train import train as run

    opened = open_store(store)
    started = time.perf_counter()
    with progress_bar("Preparing clips") as progress:
        loaded = load_experiment(experiment, config.parse_assignments(set_ or []))
        if test:
            _check_test(loaded, progress)
        trained = run(
            loaded,
            experiment.stem,
            opened,
            again=again,
            report=report_epoch,
            progress=progress,
            say=say,
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
        _print_trained(trained.reused, outcome.metrics, time.perf_counter() - started)
        tell(f"Run {trained.run_id} in {trained.attempt.folder}")
    if outcome.status != "complete":
        say(f"{outcome.status}: {outcome.reason}", "red")
        say(f"Traceback: {trained.attempt.artifacts / 'traceback.txt'}")
        raise typer.Exit(FAILED)
    if not json_:
        model = shlex.quote(str(trained.attempt.model))
        say(f"Label clips:  vidclf predict {model} CLIP...\nLook at it:   vidclf ui")


def _check_test(experiment: "ExperimentConfig", progress: Callable[[int, int], None]) -> None:
    """Refuses to train for a test split that is not there."""
    from vidclf.config import InputError
    from vidclf.data.manifest import read_manifest

    manifest = read_manifest(experiment.data.manifest, progress, say)
    if not any(entry.split == "test" for entry in manifest.entries):
        raise InputError(f"--test: {manifest.name} has no test clips")


def _read_test(store: "Store", attempt: "Attempt") -> "Outcome":
    """Judges a trained model by the test split; its figures are added to the attempt's."""
    from vidclf.config import InputError
    from vidclf.registry.testing import Incomparable, read_test
    from vidclf.tracking.deliverer import Deliverer
    from vidclf.tracking.ledger import words

    try:
        with progress_bar("Reading test") as progress:
            result = read_test(store, attempt, progress=progress)
    except Incomparable as why:
        raise InputError(f"--test: {why}") from None
    say(f"{words(result.reads)}: each further read makes its figures mean less")
    Deliverer(store).deliver(attempt)
    outcome = attempt.outcome()
    assert outcome is not None
    return outcome


def _print_trained(reused: bool, metrics: Mapping[str, float], seconds: float) -> None:
    from rich.table import Table

    if reused:
        say("This config was trained on these clips before; here is that run (--again trains anew).")
    table = Table("metric", "value", title=f"{seconds:.1f} s", title_justify="left")
    for name, value in metrics.items():
        table.add_row(name, f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}")
    make_console(stderr=False).print(table)


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
    join: Annotated[
        bool,
        typer.Option(
            "--join", help="Run trials beside other processes or machines that run this study, or begin it."
        ),
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Run on a Ray cluster: HOST:6379 from one of its nodes, ray://HOST:10001 from outside, "
            "auto: the one that runs here, local: one started here. The study's [resources] say what each "
            "worker takes, and --workers how many there are at most.",
        ),
    ] = None,
    per_gpu: Annotated[
        int | None, typer.Option("--per-gpu", min=1, metavar="N", help="Workers that share each GPU.")
    ] = None,
    continue_as: Annotated[
        str | None,
        typer.Option(
            "--continue-as",
            metavar="NAME",
            help="Start a new study that takes over the finished trials of this one that fit it.",
        ),
    ] = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Starts a study, or resumes the one of its name.

    `--set` changes every base that has the key. Ctrl-C stops cleanly; the same command goes on.
    """
    from vidclf import config
    from vidclf.search import tune as search
    from vidclf.search.display import display_for
    from vidclf.search.plan import describe_plan
    from vidclf.search.status import status as state_of
    from vidclf.store import find_store, open_store

    opened_store = find_store(store) if dry_run else open_store(store)
    request = search.Request(
        study, config.parse_assignments(set_ or []), trials, workers, per_gpu, continue_as, join, ray
    )
    definition = search.plan(request, opened_store)
    if dry_run:
        with progress_bar("Preparing clips") as progress:
            search.check(definition, progress, say)
        _print_plan(describe_plan(definition, opened_store), json_)
        return
    with progress_bar("Preparing clips") as progress:
        warnings = search.check(definition, progress, say)
    opened, ending = search.tune(definition, opened_store, display_for(make_console()), warnings)
    if json_:
        print_json({**state_of(opened), "ending": ending})
    else:
        _print_study(opened, ending, study)
    if ending == "interrupted":
        raise typer.Exit(INTERRUPTED)
    if ending == "errors" or not any(row.state == "complete" for row in opened.rows()):
        raise typer.Exit(FAILED)


def _print_plan(plan: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    import tomli_w
    from rich.table import Table

    console = make_console(stderr=False)
    console.print(plan["study"], plan["question"])
    clips = ", ".join(f"{count} {split}" for split, count in plan["clips"].items())
    console.print(f"{plan['objective']}; {plan['used']} of {plan['total']} trials done; clips: {clips}")
    console.print(plan["resources"], highlight=False)
    table = Table("base", "key", "searched")
    for row in plan["space"]:
        table.add_row(row["base"], row["key"], row["searched"])
    console.print(table)
    for point in plan["first"]:
        console.print("tried first:", _assignments(point), highlight=False, markup=False)
    sample = {"base": plan["sample"]["base"], **plan["sample"]["params"]}
    console.print("a sample:   ", _assignments(sample), highlight=False, markup=False)
    for stem, tree in plan["bases"].items():
        console.print(f"\n{stem}, as resolved here:", highlight=False)
        console.print(tomli_w.dumps(tree), highlight=False, markup=False)
    if plan["seconds_left"] is not None:
        console.print(
            f"about {plan['seconds_left'] / 60:.0f} minutes and {plan['store_bytes'] / 1e6:.0f} MB in all, "
            "as the trials so far"
        )


def _assignments(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{key} = {value}" for key, value in values.items())


def _print_study(opened: "OpenStudy", ending: str, study: Path) -> None:
    from vidclf import ranking
    from vidclf.search.status import test_words

    console = make_console(stderr=False)
    rows = opened.rows()
    objective = opened.objective
    if ranking.ranked(rows, objective.direction):
        test = test_words(opened)
        console.print(ranking.leaderboard(rows, objective.metric, objective.direction, test=test))
    failed = [row for row in rows if row.state == "failed"]
    for row in failed[:3]:
        say(f"trial {row.number} failed: {row.reason.splitlines()[0]}", "red")
    words = {
        "finished": "The budget is used up.",
        "time": "The time is used up.",
        "patience": "Stopped: for long no trial has been better (budget.patience).",
        "exhausted": "The space holds nothing new to try.",
        "interrupted": "Stopped; nothing finished is lost.",
        "errors": f"Stopped: the same error three times in a row: {failed[-1].reason if failed else ''}",
    }
    say(words[ending])
    if ending == "interrupted":
        say(f"Go on with the same command: vidclf tune {shlex.quote(str(study))}")
    elif ending != "errors" and ranking.ranked(rows, objective.direction):
        name = shlex.quote(opened.name)
        say(f"Look at it:     {_where_to_look(opened)}\nShip the best:  vidclf promote {name} --as NAME")


def _where_to_look(opened: "OpenStudy") -> str:
    """A link where MLflow's UI is served already, else the command that serves it."""
    from vidclf.tracking.ui import links, served_elsewhere

    if served_elsewhere(opened.store):
        return links(opened.store, opened.store.mlflow_uri.rstrip("/"), opened.name)[0]
    return f"vidclf ui --study {shlex.quote(opened.name)}"


@app.command(epilog="Example: `vidclf status demo`")
def status(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="A study's name or file; none: all.")
    ] = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Where a study stands; without a name, all studies."""
    from vidclf import ranking
    from vidclf.search.record import find_study, study_names
    from vidclf.search.status import status as state_of
    from vidclf.search.status import test_words
    from vidclf.store import find_store

    opened_store = find_store(store)
    names = [study] if study else study_names(opened_store)
    found = [find_study(name, opened_store) for name in names]
    if json_:
        states = [state_of(opened) for opened in found]
        print_json(states[0] if study else states)
        return
    if not found:
        there = "has no study yet" if opened_store.folder.exists() else "does not exist yet"
        say(f"{opened_store.folder} {there}; vidclf tune STUDY.toml makes one")
    for opened in found:
        state = state_of(opened)
        counts = (
            ", ".join(f"{count} {name}" for name, count in state["trials"].items() if count) or "no trials"
        )
        budget = state["budget"]
        hosts = ", ".join(dict.fromkeys(owner["host"] for owner in state["owners"]))
        running = f", running on {hosts}" if hosts else ""
        tell(f"{opened.name}: {budget['used']}/{budget['total']} trials ({counts}){running}")
        if study and state["best"]:
            objective = opened.objective
            test = test_words(opened)
            table = ranking.leaderboard(opened.rows(), objective.metric, objective.direction, test=test)
            make_console(stderr=False).print(table)


app.command("compare", epilog="Example: `vidclf compare demo --to compare.html`")(compare_command)
app.command(epilog="Example: `vidclf confirm demo --top 3`")(confirm)
app.command(epilog="Example: `vidclf promote demo --as exercises --max latency/p50_ms=50`")(promote)
app.command(epilog="Example: `vidclf rollback exercises`")(rollback)
app.command(epilog="Example: `vidclf predict exercises@champion clip.avi`")(predict)
app.command(epilog="Example: `vidclf bench exercises@champion --clip clip.avi`")(bench)
app.command(epilog="Example: `vidclf export exercises@champion --format onnx --to exercises.onnx`")(export)
app.command(epilog="Example: `vidclf ui --port 5001`")(ui)
app.command(epilog="Example: `vidclf doctor --fix`")(doctor)
