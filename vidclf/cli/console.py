"""Shared by all commands: options, messages, tables, progress bars, error messages and exit codes."""

import contextlib
import errno
import json
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from vidclf import system
from vidclf.exceptions import ClipError, DatabaseUnavailableError, GateRefusedError, InputError
from vidclf.progress import Advance, Progress, counted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column
    from rich.text import Text

_USERS_FILES = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG}
"""Errors of a named file that the user alone can mend."""
FAILED, BAD_INPUT, GATE_REFUSED, OWN_BUG, INTERRUPTED = 1, 2, 3, 70, 130
PIPED_WIDTH = 160
"""Columns of a table that does not go to a terminal."""
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
LINE_SECONDS = 10.0
"""Between two lines of progress that do not go to a terminal, at least."""


StoreOption = Annotated[
    Path | None,
    typer.Option("--store", metavar="DIR", help="Folder of the embedded store [VIDCLF_STORE, ./mlruns]."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Another value for a key, as train.epochs=2; repeatable."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")]


class Commands(TyperGroup):
    """Turns what goes wrong into one clear message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        show_messages()
        with contextlib.suppress(ValueError):  # only the main thread may
            for number in set(system.stop_signals()) - {signal.SIGINT}:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, signal.default_int_handler)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            code = explained(error)
            if code is None:
                raise
            raise typer.Exit(code) from None


def explained(error: Exception) -> int | None:
    """Prints an error's message; its exit code, ``None`` where it is the command line's own signal."""
    if isinstance(error, typer.Exit | typer.Abort | TyperException):
        return None
    known = _known(error)
    if known is not None:
        code, text, style = known
        say(text, style)
        return code
    with tempfile.NamedTemporaryFile("w", prefix="vidclf-", suffix=".log", delete=False) as log:
        log.write("".join(traceback.format_exception(error)))
    say(f"a bug in vidclf: {type(error).__name__}: {error} (traceback in {log.name})", "red")
    return OWN_BUG


def _known(error: Exception) -> tuple[int, str, str] | None:
    """Exit code, message and style of an error that is no bug of vidclf."""
    if isinstance(error, InputError | ClipError):
        return BAD_INPUT, "error: " + "\n       ".join(str(error).splitlines()), "red"
    if isinstance(error, DatabaseUnavailableError):
        text = f"{error}; nothing that was finished is lost: when it is back, repeat the command"
        return (INTERRUPTED if error.interrupted else FAILED), text, "red"
    if isinstance(error, GateRefusedError):
        return GATE_REFUSED, f"refused: {error}", "yellow"
    return _of_surroundings(error)


def _of_surroundings(error: Exception) -> tuple[int, str, str] | None:
    """As `_known`, of errors that vidclf does not raise itself: a full disk, a server that is away."""
    if _disk_is_full(error):
        text = (
            "error: the disk is full. Nothing that was finished is lost: make room (vidclf doctor shows what "
            "the store weighs), then repeat the command"
        )
        return FAILED, text, "red"
    if _mlflow_is_away(error):
        request = str(error).partition(" failed with ")[0]
        text = (
            f"error: MLflow does not answer ({request}). Nothing is lost: when it is back, or "
            "MLFLOW_TRACKING_URI is right, repeat the command"
        )
        return BAD_INPUT, text, "red"
    if isinstance(error, OSError) and error.errno in _USERS_FILES and error.filename is not None:
        return BAD_INPUT, f"error: {os.fsdecode(error.filename)}: {error.strerror}", "red"
    return None


def _mlflow_is_away(error: Exception) -> bool:
    mlflow = sys.modules.get("mlflow.exceptions")  # seconds, and no error of it is raised before
    return (
        mlflow is not None
        and isinstance(error, mlflow.MlflowException)
        and str(error).startswith("API request to ")
    )


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether that is what an error, or one that led to it, comes from."""
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "disk is full" in str(error):  # SQLite's words
            return True
        error = error.__cause__ or error.__context__
    return False


def make_console(stderr: bool = True) -> "Console":
    from rich.console import Console

    class PlainConsole(Console):
        """Shows texts as they are: control characters, as a name of a file may hold, by their codes."""

        def render_str(self, text: str, **options: Any) -> "Text":
            return super().render_str(text.translate(_CONTROLS), **options)

    console = PlainConsole(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPED_WIDTH
    return console


def say(text: str, style: str | None = None) -> None:
    """A word beside the result, on stderr."""
    make_console().print(text, style=style, soft_wrap=True)


class MessageHandler(logging.Handler):
    """Prints the messages of the package to stderr, above a live display while there is one."""

    live: "Console | None" = None
    """The console of the live display."""

    def emit(self, record: logging.LogRecord) -> None:
        warning = record.levelno >= logging.WARNING
        text = f"warning: {record.getMessage()}" if warning else record.getMessage()
        style = "yellow" if warning else None
        if self.live is None:
            say(text, style)
        else:  # wrapped by rich, which has to know how many lines it moves the display down
            self.live.print(text, style=style)


_handler = MessageHandler()


def show_messages() -> None:
    """Has the messages of the package printed to stderr, from INFO on."""
    package = logging.getLogger("vidclf")
    package.addHandler(_handler)
    package.setLevel(logging.INFO)


@contextlib.contextmanager
def messages_above(console: "Console") -> Iterator["Console"]:
    """While a live display is drawn on a terminal's console, messages are printed above it."""
    _handler.live = console if console.is_terminal else None
    try:
        yield console
    finally:
        _handler.live = None


def tell(text: str) -> None:
    """A line of the result, on stdout."""
    make_console(stderr=False).print(text, soft_wrap=True)


def print_table(headings: "Sequence[str | Column]", rows: Iterable[Sequence[str]]) -> None:
    """A table of the result, on stdout."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(*headings, box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    make_console(stderr=False).print(table)


def print_json(value: Any) -> None:
    """The one JSON document of ``--json``, on stdout."""
    try:
        json.dump(value, sys.stdout, indent=1, default=str)
        sys.stdout.write("\n")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has seen enough, as `head` has; rich ends a table the same way
        make_console(stderr=False).on_broken_pipe()


class JsonList:
    """The one JSON document of ``--json`` where it is a list whose items come one by one, for hours."""

    def __init__(self) -> None:
        self._items = 0

    def add(self, item: Any) -> None:
        sys.stdout.write(",\n" if self._items else "[\n")
        self._items += 1
        json.dump(item, sys.stdout, default=str)
        sys.stdout.flush()

    def end(self) -> None:
        sys.stdout.write("\n]\n" if self._items else "[]\n")
        sys.stdout.flush()


def report_epoch(step: int, metrics: Mapping[str, float]) -> None:
    """One line for each epoch of a fit."""
    if step:
        shown = "  ".join(f"{name.removeprefix('epoch/')} {value:.4g}" for name, value in metrics.items())
        say(f"epoch {step}  {shown}")


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Around work that the same command goes on with after Ctrl-C, which says so."""
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted; what was finished is kept, and the same command goes on from there")
        raise typer.Exit(INTERRUPTED) from None


@contextlib.contextmanager
def progress_bar(task: str) -> Iterator[Progress]:
    """A progress bar on stderr that appears when it is first told of work; a line now and then in a pipe."""
    from rich import progress

    console = make_console()
    if not console.is_terminal:
        yield _LineProgress(task)
        return
    columns = (
        progress.TextColumn(task),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    bar = progress.Progress(*columns, console=console, transient=True)
    number = bar.add_task(task, total=None)

    def update(done: int, total: int) -> None:
        bar.start()
        bar.update(number, completed=done, total=total)

    try:
        with messages_above(console):
            yield update
    finally:
        if bar.live.is_started:
            bar.stop()


class _LineProgress:
    """Progress for a pipe or a log: a line when so much time has gone since the last one."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._spoke = monotonic()
        self._began = False

    def __call__(self, done: int, total: int) -> None:
        now = monotonic()
        if now - self._spoke >= LINE_SECONDS or (self._began and done == total):
            self._spoke, self._began = now, done < total
            say(f"{self._task}: {done} of {total}")


@contextlib.contextmanager
def counted_bar(task: str, total: int) -> Iterator[Advance]:
    """A progress bar that moves on by one at each call."""
    with progress_bar(task) as progress:
        yield counted(progress, total)
