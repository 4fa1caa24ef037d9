"""The command line. Commands parse and print; the work is done elsewhere, and imported when it is needed."""

import os
from collections.abc import Callable
from typing import Annotated

import typer

from vidclf.cli.compare import compare
from vidclf.cli.console import Commands, tell
from vidclf.cli.data import data_app
from vidclf.cli.doctor import doctor
from vidclf.cli.init import init
from vidclf.cli.models import bench, export, predict, ui
from vidclf.cli.registry import confirm, promote, rollback
from vidclf.cli.review import review
from vidclf.cli.shrink import shrink
from vidclf.cli.study import status, tune
from vidclf.cli.train import train
from vidclf.cli.watch import watch

COMMANDS: dict[Callable[..., None], str] = {
    init: "vidclf init my_clips",
    train: "vidclf train experiments/gestures3/svm.toml --set model.C=10",
    tune: "vidclf tune studies/demo.toml --trials 20 --workers 2",
    status: "vidclf status demo",
    compare: "vidclf compare demo --to compare.html",
    confirm: "vidclf confirm demo --top 3",
    promote: "vidclf promote demo --as exercises --max latency/p50_ms=50",
    rollback: "vidclf rollback exercises",
    shrink: "vidclf shrink demo --precision int8",
    review: "vidclf review data/mine/manifest.csv --retrain",
    predict: "vidclf predict exercises@champion clip.avi",
    watch: "vidclf watch exercises@champion new_clips/ --to watch.html",
    bench: "vidclf bench exercises@champion --clip clip.avi",
    export: "vidclf export exercises@champion --format onnx --to exercises.onnx",
    ui: "vidclf ui --port 5001",
    doctor: "vidclf doctor --fix",
}
"""Every command beside those of `vidclf data`, in the order of the help, with its example."""

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which video classifier should I ship? Describe a run as a file, describe a search as a file, "
    "and get an honest, side-by-side answer.",
    epilog="First steps: `vidclf init my_clips` on your own clips; or `vidclf data demo data/demo`, "
    "`vidclf tune studies/demo.toml`, `vidclf ui`.",
)
app.add_typer(data_app, name="data")
for command, example in COMMANDS.items():
    app.command(epilog=f"Example: `{example}`")(command)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        tell(f"vidclf {version('vidclf')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show it, and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the console script."""
    os.environ["VIDCLF_COMMAND"] = "1"  # see `vidclf.models.estimators.COMMAND`, which is slow to import
    app()
