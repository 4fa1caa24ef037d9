"""The commands that decide what is shipped: confirm, promote and rollback."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidclf.cli.console import (
    GATE_REFUSED,
    JsonOption,
    StoreOption,
    counted_bar,
    make_console,
    print_json,
    progress_bar,
    report_epoch,
    resumable,
    say,
    tell,
)

if TYPE_CHECKING:
    from vidclf.registry.confirm_report import Confirmation
    from vidclf.registry.gates import Gate
    from vidclf.registry.promote import Candidate
    from vidclf.search.record.settings import Gates


_WORTH_TELLING = 90.0
"""Seconds from which on it is told how long something will take."""


def confirm(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study's name or file.")],
    top: Annotated[int, typer.Option(min=1, metavar="K", help="How many of the best trials.")] = 3,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Fresh seeds for each.")] = 3,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Trains a study's best trials again, on seeds and clips that did not choose them.

    The best of many trials is partly lucky. Here each finalist is judged out of fold on clips of train,
    which the search never scored, and the winner is who is best on average. Nothing that was done before is
    done again, so an interrupted call goes on. Test is not read.

    Intervals and verdicts are for clips of new groups, weighed by clips, or by groups for a
    group_weighted metric; under 5 groups there are none.
    """
    from vidclf.runs.store import open_store
    from vidclf.search.record.names import name_of_study

    opened_store = open_store(store)
    name = name_of_study(study, opened_store)  # a misspelt one is answered before anything slow is loaded

    from vidclf.evaluation.intervals import FEWEST_GROUPS
    from vidclf.labels import plural
    from vidclf.registry import confirm as work
    from vidclf.registry.confirm_report import as_dict
    from vidclf.search.record.study import find_study
    from vidclf.tracking.deliverer import Deliverer

    opened = find_study(name, opened_store)
    planned = work.plan(opened, top, seeds)
    minutes = f", about {planned.seconds / 60:.0f} minutes" if planned.seconds > _WORTH_TELLING else ""
    say(f"{planned.fits} fits for {plural(len(planned.rows), 'finalist')}, in folds{minutes}")
    if planned.groups < FEWEST_GROUPS:
        few = plural(planned.groups, "group")
        say(
            f"note: the clips are of {few}, so that which is the best cannot be told, as of fewer than "
            f"{FEWEST_GROUPS}: new seeds are all that this adds",
            "yellow",
        )
    with resumable(), counted_bar("Confirming", planned.fits) as progress:
        found = work.confirm(opened, planned, progress)
    deliverer = Deliverer(opened_store)
    told = [opened.attempt(row.number) for row in planned.rows]
    for shape in {row.shape for row in planned.rows}:  # their latencies were measured again
        told += opened.of_shape(shape)
    for attempt in {attempt.folder: attempt for attempt in told}.values():
        deliverer.deliver(attempt)
    for finalist in found.finalists:
        deliverer.deliver(finalist.attempt)
    deliverer.deliver(opened.own_attempt)
    if json_:
        print_json(as_dict(found))
        return
    _print_confirmation(found)
    say(f"Ship it:  vidclf promote {shlex.quote(found.study)} --as NAME")


def _print_confirmation(found: "Confirmation") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from vidclf.evaluation.ranking import FILE_LATENCY, LATENCY

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    headings = (
        "trial",
        "base",
        f"{found.metric} (search)",
        "mean",
        "by seed",
        "95 % interval",
        "behind the best",
        "ms/clip",
        "ms/file",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("base", "by seed") else "right")
    behind = found.best.behind if found.best else None
    for place, each in enumerate(found.finalists):
        reached = f"{each.reached.low:.3f} to {each.reached.high:.3f}" if each.reached else "–"
        table.add_row(
            str(each.row.number),
            each.row.base,
            f"{each.row.value:.4f}",
            f"{each.mean:.4f}",
            " ".join(f"{score:.3f}" for score in each.scores),
            reached,
            f"{behind[place][0]:.3f} to {behind[place][1]:.3f}" if behind else "–",
            f"{each.figures[LATENCY]:.1f}",
            f"{each.figures[FILE_LATENCY]:.1f}",
        )
    make_console(stderr=False).print(table)
    for note in found.notes:
        tell(note)


def promote(
    study_or_run: Annotated[
        str, typer.Argument(metavar="STUDY_OR_RUN", help="A study's name or file, or a run id.")
    ],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="Name in the registry.")],
    alias: Annotated[str, typer.Option(help="Alias that the version gets.")] = "champion",
    min_: Annotated[
        list[str] | None,
        typer.Option("--min", metavar="METRIC=VALUE", help="Gate, as test/macro_f1=0.8; repeatable."),
    ] = None,
    max_: Annotated[
        list[str] | None,
        typer.Option("--max", metavar="METRIC=VALUE", help="Gate, as latency/p50_ms=50; repeatable."),
    ] = None,
    class_recall: Annotated[
        float | None, typer.Option(help="Gate: no class's recall on test may be certainly below it.")
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT",
            help="not-worse=0.05: also a model that cannot be told from the champion and is certainly worse "
            "by less than that; untested: also where test has too few groups to tell anything.",
        ),
    ] = None,
    show: Annotated[
        bool,
        typer.Option(
            help="Tell the figures on test of a refused model too; the ledger notes it. Who tries on until "
            "they please ships what was lucky."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Judges a study's best trial, or one run, on the test split, and registers it as NAME@champion.

    Gates come from the study's `[gates]` and from here. The test split is read once, and the read is written
    down: the more often models were compared on its clips, the more certain a challenger must be to be better
    than the champion, on the same clips, group by group. Without a champion yet, the gates decide, and it
    must be better than chance. A refusal is exit 3, and tells the verdict alone.

    Intervals and verdicts are for clips of new groups, weighed by clips, or by groups for a
    group_weighted metric; under 5 test groups there are none.
    """
    from vidclf.comparison.verdict_text import leak_doubt
    from vidclf.exceptions import GateRefusedError
    from vidclf.registry.gates import Acceptance
    from vidclf.registry.promote import PromoteRequest, find_candidate
    from vidclf.registry.promote import promote as judge
    from vidclf.runs.store import open_store

    opened_store = open_store(store)
    gates, accepted = _flags(min_ or [], max_ or [], class_recall), Acceptance.parse(accept or [])
    candidate = find_candidate(study_or_run, opened_store)
    request = PromoteRequest(name, alias, candidate.gates.merged(gates), accepted, show)
    asks = not yes and not json_ and sys.stdin.isatty()
    if doubt := leak_doubt(candidate.attempt.identity().tags):
        say(doubt, "yellow")
    if not candidate.attempt.model.is_dir():
        _train_again(candidate, asks=asks, yes=yes)
    if asks:
        question = f"Read the test split, and register {candidate.label} as {name}@{alias} if it passes?"
        typer.confirm(question, abort=True, err=True)
    try:
        with progress_bar("Reading test") as progress:
            promoted = judge(opened_store, candidate, request, progress)
    except GateRefusedError as refusal:
        _print_gates(refusal.gates)
        if json_:
            judged = [asdict(gate) for gate in refusal.gates]
            asked = {"name": name, "version": None, "alias": alias}
            print_json({**asked, "gates": judged, "metrics": {}, "created": False})
        failed = [gate.gate for gate in refusal.gates if not gate.passed]
        say(f"refused by {len(failed)} of {len(refusal.gates)} gates: {'; '.join(failed)}", "yellow")
        raise typer.Exit(GATE_REFUSED) from None
    if json_:
        print_json(
            {
                "name": name,
                "version": promoted.version,
                "alias": alias,
                "gates": [asdict(gate) for gate in promoted.gates],
                "metrics": dict(promoted.metrics),
                "created": promoted.created,
                "run_id": promoted.run_id,
                "test_reads": promoted.reads,
            }
        )
        return
    _print_gates(promoted.gates)
    word = "is now" if promoted.created else "already is"
    tell(f"{candidate.label} {word} {name} version {promoted.version}, @{alias}")
    _print_test(promoted.metrics)
    if promoted.basis:
        tell(f"Intervals and verdicts are {promoted.basis}.")
    say(f"Next: vidclf predict {shlex.quote(f'{name}@{alias}')} CLIP...")


def _flags(least: Sequence[str], most: Sequence[str], class_recall: float | None) -> "Gates":
    from vidclf import config
    from vidclf.search.record.settings import Gates

    tree: dict[str, Any] = {"min": config.parse_assignments(least), "max": config.parse_assignments(most)}
    if class_recall is not None:
        tree["class_recall"] = class_recall
    return config.validate(Gates, tree, "--min, --max, --class-recall")


def _print_gates(gates: Sequence["Gate"]) -> None:
    for gate in gates:
        word, style = ("passed", None) if gate.passed else ("FAILED", "red")
        if gate.waived:
            word, style = "waived", "yellow"
        say(f"{word}  {gate.gate}: {gate.detail}", style)


def _print_test(metrics: Any) -> None:
    from vidclf.evaluation.intervals import FEWEST_GROUPS

    for name in ("accuracy", "macro_f1"):
        value = metrics.get(f"test/{name}")
        low, high = (metrics.get(f"test/{name}_{end}") for end in ("low", "high"))
        if value is not None:
            few = f", no interval: fewer than {FEWEST_GROUPS} groups"
            reached = few if low is None else f", 95 % interval {low:.3f} to {high:.3f}"
            tell(f"test/{name} {value:.4f}{reached}")


def _train_again(candidate: "Candidate", *, asks: bool, yes: bool) -> None:
    from vidclf.exceptions import InputError
    from vidclf.runs.retrain import check_clips, train_model

    check_clips(candidate.attempt)
    if asks:
        typer.confirm(f"The model of {candidate.label} was not kept. Train it again?", abort=True, err=True)
    elif not yes:
        raise InputError(f"the model of {candidate.label} was not kept; --yes trains it again")
    say(f"training {candidate.label} again …")
    train_model(candidate.attempt, candidate.repeats, report_epoch)


def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A registered model.")],
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Makes the champion before the present one champion again; the history keeps both."""
    from vidclf.exceptions import InputError
    from vidclf.registry import aliases
    from vidclf.runs.store import find_store
    from vidclf.tracking.deliverer import Deliverer
    from vidclf.tracking.lookup import mlflow_exists

    opened = find_store(store)
    if not mlflow_exists(opened):
        raise InputError(f"{name}: no such registered model, {opened.folder} has none")
    moved = aliases.rollback(opened, Deliverer(opened).client, name)
    if json_:
        print_json({"name": name, "alias": moved.alias, "version": moved.version, "before": moved.before})
        return
    tell(f"{name}@{moved.alias} is version {moved.version} again; it was version {moved.before}")
