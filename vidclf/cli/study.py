"""``vidclf tune`` and ``vidclf status``."""

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidclf.cli.console import (
    FAILED,
    INTERRUPTED,
    JsonOption,
    SetOption,
    StoreOption,
    make_console,
    messages_above,
    print_json,
    progress_bar,
    say,
    tell,
)

if TYPE_CHECKING:
    from vidclf.evaluation.ranking import TrialRow
    from vidclf.search.record.study import OpenStudy


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
        bool,
        typer.Option(
            "--dry-run",
            help="Check everything, show the plan, run nothing; with --json each base as resolved too.",
        ),
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
    import time

    import psutil

    from vidclf import config

    begun = time.monotonic() - (time.time() - psutil.Process().create_time())
    config.read_toml(study)  # a misspelt name is answered before anything slow is loaded

    from vidclf.runs.store import find_store, open_store
    from vidclf.search.execution import tune as search
    from vidclf.search.execution.display import Display
    from vidclf.search.report.data import status as state_of

    opened_store = find_store(store) if dry_run else open_store(store)
    request = search.TuneRequest(
        study, config.parse_assignments(set_ or []), trials, workers, per_gpu, continue_as, join, ray, begun
    )
    definition = search.plan(request, opened_store)
    warnings: list[str] = []
    if dry_run or search.warm_up(definition, opened_store):
        with progress_bar("Preparing clips") as progress:
            warnings = search.check(definition, progress)
    if dry_run:
        for warning in warnings:
            say(f"warning: {warning}", "yellow")
        _print_plan(search.describe_plan(definition, opened_store), json_)
        return
    with messages_above(make_console()) as console:
        opened, ending = search.tune(definition, opened_store, Display(console), warnings)
    if json_:
        print_json({**state_of(opened), "ending": ending})
    else:
        given = {
            "--continue-as": continue_as,
            "--join": join,
            "--ray": ray,
            "--per-gpu": per_gpu,
            "--store": store,
            "--workers": workers,
            "--set": set_,
            "--trials": trials,
        }
        _print_study(opened, ending, study, given)
    if ending == "interrupted":
        raise typer.Exit(INTERRUPTED)
    if ending == "errors" or not any(row.state == "complete" for row in opened.rows()):
        raise typer.Exit(FAILED)


def _print_plan(plan: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    from rich.table import Table

    from vidclf.search.execution.display import clock, listed

    console = make_console(stderr=False)
    console.print(plan["study"], plan["question"])
    clips = ", ".join(f"{count} {split}" for split, count in plan["clips"].items())
    console.print(f"{plan['objective']}; {plan['used']} of {plan['total']} trials done; clips: {clips}")
    console.print(plan["resources"])
    bases: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in plan["space"]:
        bases[row["key"], row["searched"]].append(row["base"])
    table = Table("key", "searched", "in")
    for (key, searched), stems in bases.items():
        table.add_row(key, searched, ", ".join(stems))
    console.print(table)
    for point in plan["first"]:
        console.print("tried first:", _assignments(point))
    sample = {"base": plan["sample"]["base"], **plan["sample"]["params"]}
    console.print("a sample:   ", _assignments(sample))
    if plan["trial_seconds"]:
        console.print(f"a trial took: {listed(plan['trial_seconds'])}")
    if plan["seconds_left"] is not None:
        disk = f", {plan['store_bytes'] / 1e6:.0f} MB in all" if plan["store_bytes"] is not None else ""
        about = "about" if plan["trial_seconds"] else "at most"
        console.print(f"{about} {clock(plan['seconds_left'])} left{disk}")


def _assignments(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{key} = {value}" for key, value in values.items())


def _again(study: Path, given: Mapping[str, Any]) -> str:
    """The command that goes on with a study, with the options that were given."""
    words = ["vidclf", "tune", str(study)]
    for option, value in given.items():
        values = value if isinstance(value, list) else [value]
        words += [f"{option}={each}" if each is not True else option for each in values if each]
    return shlex.join(words)


def _print_study(opened: "OpenStudy", ending: str, study: Path, given: Mapping[str, Any]) -> None:
    rows = opened.rows()
    best = opened.ranked(rows)
    if best:
        _print_leaderboard(opened, rows)
    failed = [row for row in rows if row.state == "failed"]
    for row in failed[:3]:
        say(f"trial {row.number} failed: {row.reason.splitlines()[0]}", "red")
    words = {
        "finished": _all_done(opened, study, given),
        "time": "The time is used up (budget.seconds).",
        "patience": "Stopped: for long no trial has been better (budget.patience).",
        "exhausted": "The space holds nothing new to try.",
        "interrupted": "Stopped; nothing finished is lost.",
        "errors": f"Stopped: the same error three times in a row: {failed[-1].reason if failed else ''}",
    }
    say(words[ending])
    untried = sorted(opened.stored["bases"].keys() - {row.base for row in rows})
    if ending == "time" and best and untried:
        say(f"Not tried yet: {', '.join(untried)}. With more of budget.seconds they are.", "yellow")
    if ending == "interrupted":
        say(f"Go on with the same command: {_again(study, given)}")
    elif ending != "errors" and best:
        name = shlex.quote(opened.name)
        say(
            f"Look at it:     {_where_to_look(opened)}\nCheck the best: vidclf confirm {name}\n"
            f"Then ship it:   vidclf promote {name} --as NAME"
        )
    elif ending == "time":
        again = _again(study, given)
        say(f"No trial has ended in it. What was prepared is kept: raise budget.seconds, then {again}")
    elif reason := opened.nothing_feasible(rows):
        say(f"{reason[0].upper()}{reason[1:]}. Loosen a constraint, or search for smaller models.", "yellow")


def _print_leaderboard(opened: "OpenStudy", rows: "Sequence[TrialRow]") -> None:
    from vidclf.evaluation import ranking
    from vidclf.reports.tables import study_leaderboard
    from vidclf.search.report.data import selected_figures

    objective, twins = opened.objective, ranking.twins(opened.ranked(rows), opened.answers)
    caution = selected_figures(opened)
    table = study_leaderboard(rows, objective.metric, objective.direction, caution=caution, twins=twins)
    make_console(stderr=False).print(table)


def _all_done(opened: "OpenStudy", study: Path, given: Mapping[str, Any]) -> str:
    """What is done; where the file asks for more trials than `--trials` did, how to go on."""
    from vidclf import config

    done = opened.logical()
    if done < (opened.budget() or done):
        return f"Every configuration of the space has been tried, in {done} trials."
    whole = config.lookup(config.read_toml(study), "budget.trials")  # none where it asks for seconds alone
    if whole is not None and done < whole:
        again = _again(study, {**given, "--trials": None})
        return f"{done} trials are done; for all {whole} of the file:  {again}"
    return f"All {done} trials are done."


def _where_to_look(opened: "OpenStudy") -> str:
    """A link where MLflow's UI is served already, else the command that serves it."""
    from vidclf.tracking.ui import links, served_elsewhere

    if served_elsewhere(opened.store):
        return links(opened.store, opened.store.mlflow_uri.rstrip("/"), opened.name)[0]
    return f"vidclf ui --study {shlex.quote(opened.name)}"


def status(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="A study's name or file; none: all.")
    ] = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Where a study stands; without a name, all studies."""
    from vidclf.runs.store import find_store
    from vidclf.search.record.names import name_of_study, study_names

    opened_store = find_store(store)
    names = [name_of_study(study, opened_store)] if study else study_names(opened_store)

    from vidclf.search.record.study import find_study
    from vidclf.search.report.data import status as state_of

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
        for owner in state["silent"]:
            running += f", no sign of process {owner['pid']} on {owner['host']} (the next tune takes it over)"
        tell(f"{opened.name}: {budget['used']}/{budget['total']} trials ({counts}){running}")
        if study and state["best"]:
            _print_leaderboard(opened, opened.rows())
