"""``vidclf shrink`` as a command."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vidclf.cli.console import (
    JsonOption,
    StoreOption,
    print_json,
    print_table,
    progress_bar,
    resumable,
    say,
    tell,
)

if TYPE_CHECKING:
    from vidclf.comparison.parents import BesideParent
    from vidclf.models.onnx_config import Bits
    from vidclf.registry.shrink import Parent, Shrunk

_PAYS = {True: "yes", False: "no", None: "not told"}


def shrink(
    model: Annotated[
        str,
        typer.Argument(
            metavar="STUDY_OR_MODEL",
            help="A study, whose best network is taken, a run id, NAME@champion, NAME/3, or a folder.",
        ),
    ],
    precision: Annotated[
        Literal["int8", "fp32"] | None,
        typer.Option(help="Of weights and activations [both, one after the other]."),
    ] = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Turns a trained network into an ONNX graph, in single precision and in eight bits, and judges each.

    Each is a run like any other, made and judged on its parent's clips: ranges of activations come from clips
    of train, figures from val, latencies are taken in turn with the parent's. `vidclf compare` lists it with
    a paired test against its parent, `vidclf promote` ships it. Nothing is trained. What is slower here, or
    worse, is said not to pay.
    """
    from vidclf.registry import shrink as work
    from vidclf.runs.store import open_store

    opened = open_store(store)
    parent = work.find_parent(model, opened)
    chosen: tuple[Bits, ...] = (precision,) if precision else ("fp32", "int8")
    experiments = {each: work.plan(parent, each) for each in chosen}
    with resumable(), progress_bar("Preparing clips") as progress:
        made = work.shrink(parent, experiments, opened, progress)

    from vidclf.comparison.parents import beside_parent

    metric = "macro_f1"
    found = [(each, beside) for each in made if (beside := beside_parent(each.attempt, metric)) is not None]
    if json_:
        print_json(
            {"parent": str(parent.model), "models": [_as_dict(each, beside) for each, beside in found]}
        )
        return
    _print(parent, found)


def _as_dict(made: "Shrunk", beside: "BesideParent") -> dict[str, Any]:
    test = beside.found
    return {
        "precision": made.precision,
        "run_id": made.run_id,
        "model_dir": str(made.attempt.model),
        "metrics": dict(made.metrics),
        "clips": beside.clips,
        "alike": beside.alike,
        "difference": test.difference if test else None,
        "low": test.low if test else None,
        "high": test.high if test else None,
        "verdict": beside.verdict,
        "pays": beside.pays,
    }


def _print(parent: "Parent", found: Sequence[tuple["Shrunk", "BesideParent"]]) -> None:
    from rich.table import Column

    from vidclf.evaluation.ranking import FILE_LATENCY, LATENCY, SIZE

    first = found[0][1]
    lines = [("parent", first.parent, "", first.parent_costs, "")]
    for each, beside in found:
        alike = f"{beside.alike} of {beside.clips}"
        lines.append((each.precision, beside.score, alike, beside.costs, _PAYS[beside.pays]))
    costs = ((LATENCY, ".1f"), (FILE_LATENCY, ".1f"), (SIZE, ".2f"))
    headings = ("macro F1 on val", "labelled alike", "ms/clip", "ms/file", "MB", "pays here")
    rows = [
        (name, f"{score:.4f}", alike, *(format(own[key], form) for key, form in costs), pays)
        for name, score, alike, own, pays in lines
    ]
    print_table(("", *(Column(heading, justify="right") for heading in headings)), rows)
    for each, beside in found:
        tell(beside.words(each.precision, parent.label))
    paying = [pair for pair in found if pair[1].pays]
    if not paying:
        untold = any(beside.pays is None for _, beside in found)
        why = "Whether one pays cannot be told; on a quiet machine and clips of more groups it can."
        say(f"{why if untold else 'None pays on this machine.'} Keep the parent.")
        return
    best, _ = min(paying, key=lambda pair: pair[1].costs[LATENCY])
    say(f"Ship it:  vidclf promote {best.run_id} --as NAME")
    say("Where its parent is the champion, add --accept not-worse=0.05, or what you can do with.")
    say(f"Label clips:  vidclf predict {shlex.quote(str(best.attempt.model))} CLIP...")
