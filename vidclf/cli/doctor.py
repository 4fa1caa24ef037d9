"""``vidclf doctor`` as a command."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from vidclf.cli.console import (
    FAILED,
    JsonOption,
    StoreOption,
    make_console,
    print_json,
    print_table,
    say,
    tell,
)

if TYPE_CHECKING:
    from vidclf.maintenance.doctor import DiskUsage, DoctorReport


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended.")] = False,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Finds what a crash, a move or a full disk left in the store, and shows what the store weighs.

    Looks for runs shown as running whose process is gone, folders, trials and runs that contradict or lack
    each other, files and cache entries that were cut short, and a store that was moved. Without `--fix`
    nothing is changed; problems that remain are exit code 1.
    """
    from vidclf.maintenance.doctor import examine, weigh
    from vidclf.runs.store import locate_store

    located = locate_store(store)
    examination = examine(located, fix=fix)
    weights = weigh(located)
    if json_:
        print_json(
            {
                "problems": [finding.as_dict() for finding in examination.findings],
                "notes": examination.notes,
                "store": str(located.folder),
                "weights": [vars(weight) for weight in weights],
                "bytes": sum(weight.bytes for weight in weights),
            }
        )
    else:
        if not located.folder.exists():
            say(f"{located.folder} does not exist yet")
        _print_findings(examination, fix, f"{located.folder}/")
        _print_weights(weights)
    if examination.left:
        raise typer.Exit(FAILED)


def _print_findings(examination: "DoctorReport", fix: bool, prefix: str) -> None:
    from rich.table import Column

    from vidclf.labels import plural

    for note in examination.notes:
        say(f"note: {note}")
    if not examination.findings:
        tell("Nothing is wrong.")
        return
    rows = []
    for finding in examination.findings:
        by_hand = finding.failure or ("with --fix" if finding.problem.mend and not fix else "by hand")
        mended = "yes" if finding.fixed else by_hand
        where = finding.problem.where.removeprefix(prefix)
        rows.append((finding.what, where, finding.problem.detail, mended))
    print_table(("what", Column("where", overflow="fold"), "why", "mended"), rows)
    left, found = len(examination.left), len(examination.findings)
    counted = plural(found, "problem")
    fixable = sum(finding.problem.mend is not None for finding in examination.left)
    tell(f"{counted}, {left} of them left" if left else f"{counted}, all mended")
    if fixable and not fix:
        say(f"Mend {fixable} of them:  vidclf doctor --fix")


def _print_weights(weights: "Sequence[DiskUsage]") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    where = Column("where", overflow="fold")
    table = Table("part", "name", "files", "MB", "models", "checkpoints", where, box=SIMPLE_HEAD)
    for column in table.columns[2:6]:
        column.justify = "right"
    for weight in weights:
        sizes = [f"{size / 1e6:,.1f}" if size else "" for size in (weight.models, weight.checkpoints)]
        megabytes = f"{weight.bytes / 1e6:,.1f}"
        table.add_row(weight.part, weight.name, f"{weight.files:,}", megabytes, *sizes, str(weight.where))
    table.add_section()
    files, total = sum(weight.files for weight in weights), sum(weight.bytes for weight in weights)
    table.add_row("all", "", f"{files:,}", f"{total / 1e6:,.1f}")
    make_console(stderr=False).print(table)
