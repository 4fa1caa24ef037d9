"""The commands below ``vidclf data``."""

import csv
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidclf.cli.console import (
    FAILED,
    JsonOption,
    counted_bar,
    make_console,
    print_json,
    print_table,
    progress_bar,
    say,
)

if TYPE_CHECKING:
    from vidclf.data.check import ClipCheck
    from vidclf.data.importing import ImportResult
    from vidclf.data.leaks import LeakReport

_SHOWN_SUSPICIONS = 20
"""Suspected pairs that a terminal shows."""

data_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Clips: import, check, report on, render; caches."
)


ManifestArgument = Annotated[
    str,
    typer.Argument(metavar="MANIFEST", help="A CSV file with a column clip_path; a path or URL."),
]


class GroupScope(StrEnum):
    """What makes two groups one."""

    DATASET = "dataset"
    CLASS = "class"


class Groups(StrEnum):
    """Where groups come from."""

    NAME = "name"
    SCENES = "scenes"


ClassesOption = Annotated[str | None, typer.Option(metavar="A,B", help="Only these classes.")]
GroupsOption = Annotated[
    Groups,
    typer.Option(help="Groups from the names, or scenes: clips alike in colours and places are one group."),
]


def listed(text: str | None) -> list[str] | None:
    """The names of ``A, B``; one that holds a comma stands in quotes."""
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True))] if text else None


@data_app.command("demo", epilog="Example: `vidclf data demo data/demo`")
def data_demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to render into.")],
    subjects: Annotated[int, typer.Option(min=3, help="Stick figures; each is one group.")] = 17,
    takes: Annotated[int, typer.Option(min=1, help="Clips of each figure and action.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other figures.")] = 0,
) -> None:
    """Renders clips of a stick figure doing PullUps, PushUps and Punch, with their manifest.

    Also writes DIR/new_clip.avi: a figure that is in no split, to try a model on.
    """
    from vidclf.data import demo

    total = demo.demo_clip_count(subjects, takes)
    with counted_bar("Rendering", total) as advance:
        manifest = demo.render_demo_set(folder, subjects, takes, seed, advance)
    say(f"{total} clips and new_clip.avi in {folder}; their manifest is {manifest}")
    say("Next: vidclf tune studies/demo.toml (it looks for the clips in $VIDCLF_DATA/demo, else data/demo)")


@data_app.command("import", epilog="Example: `vidclf data import my_clips --to data/mine/manifest.csv`")
def data_import(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders with a folder per class, or lists (.csv .tsv .txt .json); paths or URLs.",
        ),
    ],
    to: Annotated[str, typer.Option("--to", metavar="MANIFEST.csv", help="The manifest to write.")],
    classes: ClassesOption = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="group|file|official:N|random",
            help="By group; as the source says; list N of UCF-101 or HMDB-51 with val carved out of train by "
            "group; or clip by clip, which leaks. Default: file where the source gives a split, else group.",
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
    groups: GroupsOption = Groups.NAME,
    extend: Annotated[
        str | None,
        typer.Option(metavar="OLD.csv", help="Keep this manifest's clips, its groups in their splits."),
    ] = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B", help="With scenes: these two clips are of one. Kept beside the manifest."
        ),
    ] = None,
    apart: Annotated[
        list[str] | None,
        typer.Option(metavar="A,B", help="With scenes: these two clips are of two. Kept likewise."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Writes a manifest: the clips of each class, split so that no group is on two sides.

    A group is read from UCF-101's naming: `v_PullUps_g03_c02.avi` is group `g03`. Where
    the names carry none, each clip is its own group. What was not taken is counted.
    """
    from vidclf.data.importing import import_clips
    from vidclf.data.remote import local_target

    with progress_bar("Importing clips") as progress:
        imported = import_clips(
            sources,
            local_target("--to", to),
            classes=listed(classes),
            split=split,
            shares=shares,
            seed=seed,
            group_scope=group_scope.value,
            extend=extend,
            by_scene=groups == Groups.SCENES,
            merge=merge or (),
            apart=apart or (),
            progress=progress,
        )
    if json_:
        counts = {"clips": imported.counts(), "groups": imported.groups()}
        notes = [*imported.notes, *filter(None, [imported.unreadable])]
        print_json({"manifest": to, **counts, "notes": notes})
        return
    if imported.leaks:
        say(f"note: {imported.leaks}", "yellow")
    _print_imported(imported)
    if imported.unreadable:
        say(f"warning: {imported.unreadable}", "yellow")
    for note in imported.notes[bool(imported.leaks) :]:
        say(f"note: {note}", "yellow")
    say(f"Written: {to}")


@data_app.command("check", epilog="Example: `vidclf data check data/mine/manifest.csv --drop clean.csv`")
def data_check(
    manifest: ManifestArgument,
    drop: Annotated[
        str | None, typer.Option(metavar="CLEAN.csv", help="Write a manifest without the bad clips.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Decodes every clip to its end, names each bad one and why, and finds leaks and doubtful labels.

    Clips are decoded in child processes with limits on time and memory, so no file can
    take the command down. Exit 1 where any clip is not ok, a split leaks or is suspected to,
    or one file is of two classes; not where names of classes merely look alike.
    """
    from vidclf.data import check, leaks
    from vidclf.data.answers import read_answers
    from vidclf.data.class_names import alike_classes, files_of_two_classes
    from vidclf.data.remote import local_file, local_target

    clean = local_target("--drop", drop) if drop else None
    with progress_bar("Fetching") as progress:
        table, entries = check.read_clip_list(manifest, progress)
    with counted_bar("Checking", len(entries)) as advance:
        checks = check.check_clips([entry.clip_path for entry in entries], advance)
    with counted_bar("Comparing", len(check.decodable(checks))) as advance:
        found = leaks.find_leaks(
            entries, check.decodable(checks), read_answers(local_file(manifest)), advance
        )
    contradictory = files_of_two_classes(entries)
    labels = [*alike_classes(entries), *contradictory]
    bad = [item for item in checks if item.verdict != "ok"]
    if json_:
        print_json({"clips": [item.as_dict() for item in checks], **found.as_dict(), "labels": labels})
    else:
        if found.headline:
            say(found.headline, "yellow")
        _print_checks(checks)
        _print_leaks(found)
        for finding in labels:
            say(f"label: {finding}", "yellow")
    if clean:
        check.write_clean(table, checks, clean)
        say(f"Written: {clean}, with {len(checks) - len(bad)} clips; dropped {len(bad)}")
    if bad or found.leaks or found.suspected or contradictory:
        raise typer.Exit(FAILED)


@data_app.command("report", epilog="Example: `vidclf data report data/mine/manifest.csv --to report.html`")
def data_report(
    manifest: ManifestArgument,
    to: Annotated[str, typer.Option("--to", metavar="report.html", help="The page to write.")],
) -> None:
    """Writes one HTML page: classes, durations, sizes, bad files, leaks, sample frames, clips by group."""
    from vidclf.data import check
    from vidclf.data.answers import read_answers
    from vidclf.data.remote import local_file, local_target, public
    from vidclf.reports import dataset_page

    page = local_target("--to", to)
    with progress_bar("Fetching") as progress:
        _, entries = check.read_clip_list(manifest, progress)
    with counted_bar("Checking", len(entries)) as advance:
        answers = read_answers(local_file(manifest))
        dataset_page.write_report(entries, public(manifest), page, advance, answers)
    say(f"Written: {to}")


@data_app.command("store", epilog="Example: `vidclf data store --clear`")
def data_store(
    clear: Annotated[bool, typer.Option("--clear", help="Empty the caches.")] = False,
    json_: JsonOption = False,
) -> None:
    """What the caches of fetched and decoded clips hold, and how much they may take.

    Fetched clips that a running command works with are not cleared.
    """
    from vidclf.data import cache

    held = cache.clear() if clear else cache.usage()
    if json_:
        limit = cache.limit_bytes()
        print_json(
            {"folder": str(cache.folder()), "entries": held.entries, "bytes": held.bytes, "limit": limit}
        )
        return
    for name, count in held.entries.items():
        say(f"{name}: {count} entries, {held.bytes[name] / 1e9:.2f} GB")
    word = "cleared" if clear else f"of {cache.limit_bytes() / 1e9:.1f} GB (VIDCLF_CACHE_GB) in"
    say(f"{held.total / 1e9:.2f} GB {word} {cache.folder()}")
    if clear and (left := cache.usage()).total:
        say(f"{left.total / 1e9:.2f} GB of that are still there: a running command uses them", "yellow")


def _print_checks(checks: "Sequence[ClipCheck]") -> None:
    bad = [item for item in checks if item.verdict != "ok"]
    if bad:
        print_table(("clip", "verdict", "why"), ((item.name, item.verdict, item.reason) for item in bad))
    for item in checks:
        for note in item.facts.notes if item.facts else ():
            say(f"note: {item.name}: {note}")
    say(f"{len(checks)} clips: {len(checks) - len(bad)} decode to their end, {len(bad)} do not")


def _print_leaks(found: "LeakReport") -> None:
    """Certain leaks, all of them, and the surest suspicions."""
    from vidclf.labels import plural

    for leak in found.leaks:
        say(f"leak: {leak}", "yellow")
    for leak in found.suspected[:_SHOWN_SUSPICIONS]:
        say(f"suspected: {leak}", "yellow")
    if (rest := len(found.suspected) - _SHOWN_SUSPICIONS) > 0:
        say(f"and {plural(rest, 'suspected pair')} more: --json has all", "yellow")


def _print_imported(imported: "ImportResult") -> None:
    from rich.table import Table

    table = Table("class", *(f"{split} clips" for split in imported.groups()))
    for label, counts in imported.counts().items():
        table.add_row(label, *map(str, counts.values()))
    table.add_section()
    table.add_row("groups", *map(str, imported.groups().values()))
    make_console(stderr=False).print(table)
