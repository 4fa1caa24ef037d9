"""``vidclf watch`` as a command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidclf.cli.console import (
    FAILED,
    JsonOption,
    StoreOption,
    make_console,
    print_json,
    progress_bar,
    say,
    tell,
)

if TYPE_CHECKING:
    from vidclf.registry.watch import WatchResult

_SHOWN = 5
"""Clips to label next that the terminal names."""


def watch(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="NAME@champion, NAME/VERSION, a run id, or a run's folder.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New clips, in it and below; no labels.")],
    rate: Annotated[
        float,
        typer.Option(min=0.0005, max=0.5, help="How often there may be an alarm though nothing has changed."),
    ] = 0.05,
    most: Annotated[
        int,
        typer.Option("--label", min=0, metavar="N", help="How many clips to name that are worth a label."),
    ] = 20,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE.html", help="Write one page that needs no network.")
    ] = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Do new clips still look like those that the model was judged on? Exit 1 if they do not.

    Compares how sure the model is, what it calls the clips and what it sees in them with its clips of val.
    Whole groups change sides in the test: those that the files' names tell, as in UCF-101, else the scenes
    that clips seem to show. Names the clips that are worth a label.
    """
    from vidclf.exceptions import InputError
    from vidclf.registry.resolve import resolve_model
    from vidclf.runs.store import find_store

    if to and to.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--to {to}: a page is written; name it {to.with_suffix('.html').name}")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    opened = find_store(store)
    saved = resolve_model(opened, model)  # a misspelt name is answered before anything slow is loaded

    from vidclf.registry.watch import watch as compare

    with progress_bar("Looking at the clips") as progress:
        found = compare(opened, model, saved, folder, most=most, progress=progress)
    if to:
        from vidclf.registry.watch_page import write_page

        try:
            write_page(found, model, rate, to)
        except OSError as error:
            raise InputError(f"--to {to}: cannot be written: {error.strerror}") from None
    alarm = found.drift.alarm(rate)
    if json_:
        print_json(found.as_dict(rate))
    else:
        _print(found, rate)
        if to:
            say(f"Written: {to}")
    if alarm:
        raise typer.Exit(FAILED)


def _print(found: "WatchResult", rate: float) -> None:
    from rich.table import Column, Table

    from vidclf.registry.watch import NAMES

    for path, reason in found.unreadable.items():
        say(f"left out: {path}: {reason}", "yellow")
    tell(found.basis)
    table = Table("", *(Column(heading, justify="right") for heading in ("distance", "usual", "p")))
    for each in found.drift.differences:
        table.add_row(NAMES[each.what], f"{each.distance:.3f}", f"{each.usual:.3f}", f"{each.p:.3g}")
    make_console(stderr=False).print(table)
    tell(found.verdict(rate))
    for clip in found.labelled_next()[:_SHOWN]:
        called = f"{clip['label']} {clip['confidence']:.2f}, group {clip['group']}"
        tell(f"label next: {clip['clip_path']}  ({called})")
    if (more := len(found.to_label) - _SHOWN) > 0:
        say(f"{more} more: --json and --to FILE.html have all")
