"""The commands that decide what is shipped."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from vidclf.terminal import JsonOption, StoreOption, print_json, report_epoch, say, tell

if TYPE_CHECKING:
    from vidclf.registry.candidate import Candidate


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
    """Registers the best finished trial of a study, or one run, as NAME@champion.

    A trial whose model was not kept is trained again first, if you agree.
    """
    from vidclf.registry.candidate import find_candidate
    from vidclf.registry.promote import promote as register
    from vidclf.store import open_store

    opened_store = open_store(store)
    candidate = find_candidate(study_or_run, opened_store)
    asks = not yes and not json_ and sys.stdin.isatty()
    if not candidate.attempt.model.is_dir():
        _train_again(candidate, asks=asks, yes=yes)
    if asks:
        typer.confirm(f"Register {candidate.label} as {name}@{alias}?", abort=True, err=True)
    promoted = register(opened_store, candidate.attempt, name, alias)
    if json_:
        print_json(
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
    tell(f"{candidate.label} {word} {promoted.name} version {promoted.version}, @{promoted.alias}")
    say("No gate was checked and the test split was not read: this is the first version of its name.")
    say(f"Next: vidclf predict {promoted.name}@{promoted.alias} CLIP...")


def _train_again(candidate: "Candidate", *, asks: bool, yes: bool) -> None:
    from vidclf.config import InputError
    from vidclf.finish import check_clips, train_model

    check_clips(candidate.attempt)
    if asks:
        typer.confirm(f"The model of {candidate.label} was not kept. Train it again?", abort=True, err=True)
    elif not yes:
        raise InputError(f"the model of {candidate.label} was not kept; --yes trains it again")
    say(f"training {candidate.label} again …")
    train_model(candidate.attempt, candidate.repeats, report_epoch)
