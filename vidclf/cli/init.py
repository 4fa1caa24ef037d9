"""``vidclf init``."""

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidclf.cli.console import JsonOption, make_console, print_json, progress_bar, say, tell
from vidclf.cli.data import ClassesOption, Groups, GroupsOption, listed
from vidclf.exceptions import InputError

if TYPE_CHECKING:
    from vidclf.scaffold.scan import InitResult

_SECONDS = 3.0
"""Longest wait for a host of weights to answer."""


def init(
    clips: Annotated[
        Path, typer.Argument(metavar="CLIPS_FOLDER", help="A folder with a folder per class, or UCF-101's.")
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="DIR", help="Folder that gets data, experiments and studies.")
    ] = Path(),
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the data set; default: the folder's.")
    ] = None,
    classes: ClassesOption = None,
    groups: GroupsOption = Groups.NAME,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NETWORK=FILE",
            help="A network to try and its weights, as squeezenet1_1=squeezenet.pth; may be repeated.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    json_: JsonOption = False,
) -> None:
    """Looks at your clips and writes a manifest, first experiments and a study, with reasons.

    Every clip is decoded once: classes, lengths, sizes, groups and this machine decide the
    values. The files are yours: read their comments, change them, and run the study, which tries
    quick models first and takes as long as its budget.seconds say.
    """
    from vidclf.scaffold.scan import start

    with progress_bar("Looking at the clips") as progress:
        started = start(
            clips,
            to,
            name=name,
            classes=listed(classes),
            by_scene=groups == Groups.SCENES,
            weights=_weights(weights or ()),
            force=force,
            reachable=_answers,
            progress=progress,
        )
    if json_:
        print_json(started.as_dict())
    else:
        _print_started(started)
    _warn_of_trials(started.study.stem)


def _weights(given: Sequence[str]) -> dict[str, Path]:
    """Files by their networks.

    Raises:
        InputError: One is not written ``NETWORK=FILE``.
    """
    pairs = [text.partition("=") for text in given]
    if wrong := [
        text for text, (network, _, file) in zip(given, pairs, strict=True) if not network or not file
    ]:
        raise InputError(f"--weights {wrong[0]}: expected NETWORK=FILE, as squeezenet1_1=squeezenet.pth")
    return {network: Path(file) for network, _, file in pairs}


def _warn_of_trials(study: str) -> None:
    """Says so where the store has a study of this name, whose trials were made by other files."""
    from vidclf.runs.store import find_store
    from vidclf.search.record.names import study_names

    store = find_store(None)
    names = study_names(store)
    if study in names:
        free = next(name for number in itertools.count(2) if (name := f"{study}-{number}") not in names)
        say(
            f"note: {store.folder} has a study {study} already. Where the new files differ from its own, "
            f"tune --continue-as {shlex.quote(free)} begins another, which takes over the trials that fit.",
            "yellow",
        )


def _answers(url: str) -> bool:
    """Whether the URL's host takes connections."""
    import socket
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    try:
        with socket.create_connection((str(parts.hostname), parts.port or 443), timeout=_SECONDS):
            return True
    except OSError:
        return False


def _print_started(started: "InitResult") -> None:
    from rich.table import Table

    from vidclf.labels import plural

    look, console = started.look, make_console(stderr=False)
    for note in started.notes:
        say(f"note: {note}", "yellow")
    sides = ", ".join(
        f"{split} {count}" + (f" ({plural(look.groups[split], 'group')})" if look.grouped else "")
        for split, count in look.splits.items()
    )
    classes = ", ".join(f"{label} {count}" for label, count in look.classes.items())
    tell(f"{sum(look.classes.values())} clips: {classes}")
    tell(f"split by {'group' if look.grouped else 'clip, as they name no groups'}: {sides}")
    for path, reason in look.left_out.items():
        say(f"left out: {path}: {reason}", "yellow")
    table = Table("in", "key", "value", "because")
    for choice in started.choices:
        table.add_row(choice.file, choice.key, str(choice.value), choice.reason)
    console.print(table)
    for stem, reason in started.waiting.items():
        say(f"not in the study yet: {started.experiments[stem]}: {reason}", "yellow")
    for written in (started.manifest, *started.experiments.values(), started.study):
        say(f"Written: {written}")
    say(f"Next: vidclf tune {shlex.quote(str(started.study))} --dry-run, then without --dry-run")
