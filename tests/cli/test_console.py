"""What all commands share: how they print."""

import io
import logging
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import typer
from rich.console import Console

from vidclf.cli import console

LONG = """
import typer
from vidclf.cli.console import Commands, print_json
app = typer.Typer(cls=Commands)
app.callback()(lambda: None)
app.command("answer")(lambda: print_json(list(range(200_000))))
app()
"""


@pytest.mark.slow
def test_json_may_be_read_in_part() -> None:
    """A reader that stops, as `head` does, is no bug of the command."""
    process = subprocess.Popen(
        [sys.executable, "-c", LONG, "answer"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "[\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 1


WAITING = """
import signal, sys, time, typer
from vidclf.cli.console import Commands
if sys.argv[2:]:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
app = typer.Typer(cls=Commands)
app.callback()(lambda: None)
def wait(words: list[str] | None = typer.Argument(None)) -> None:
    print("begun", flush=True)
    time.sleep(1 if words else 60)
app.command("wait")(wait)
app()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.slow
def test_what_stops_a_command_is_said_in_one_line(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    assert (process.communicate(timeout=60)[1], process.returncode) == ("interrupted\n", 130)


@pytest.mark.slow
def test_under_nohup_a_closed_terminal_stops_nothing() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, "wait", "nohup"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 0
    process.stdout.close()


@pytest.mark.parametrize("place", ["folder", "file/below"])
def test_a_file_that_cannot_be_written_is_no_bug(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="directory") as caught:
        (tmp_path / place).write_text("")
    assert console.explained(caught.value) == console.BAD_INPUT
    assert str(tmp_path / place) in capsys.readouterr().err.replace("\n", "")


def test_a_file_that_nobody_named_is_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert console.explained(FileNotFoundError(2, "No such file", "own.json")) == console.OWN_BUG
    assert "own.json" in next(tmp_path.glob("vidclf-*.log")).read_text()


def test_progress_in_a_pipe_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 5.0, 10.0, 15.0, 21.0, 22.0, 23.0, 24.0, 25.0])
    monkeypatch.setattr(console, "monotonic", lambda: next(now))
    with console.counted_bar("Confirming", 6) as done:
        for _ in range(6):
            done()
    said = capsys.readouterr().err.splitlines()
    assert said == ["Confirming: 2 of 6", "Confirming: 4 of 6", "Confirming: 6 of 6"]
    with console.counted_bar("Quick", 1) as done:
        done()
    assert capsys.readouterr().err == ""


def test_messages_of_the_package_go_to_stderr_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_messages()
    logger = logging.getLogger("vidclf.somewhere")
    logger.debug("not shown")
    logger.info("[1] %s", "a long line " * 90)
    logger.warning("few groups")
    shown = capsys.readouterr()
    assert shown.err == f"[1] {'a long line ' * 90}\nwarning: few groups\n"
    assert shown.out == ""


def test_names_are_shown_as_they_are_called_and_control_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    console.tell("[red]:bug:\x1b[31m\x9b1m\r")
    console.print_table(["class"], [[":bug:\x1b[2J"]])
    shown = capsys.readouterr().out
    assert shown.startswith("[red]:bug:\\x1b[31m\\x9b1m\\x0d\n")
    assert ":bug:\\x1b[2J" in shown
    assert "\x1b" not in shown


def test_messages_are_printed_above_a_live_display(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_messages()
    logger = logging.getLogger("vidclf.somewhere")
    terminal, pipe = io.StringIO(), io.StringIO()
    with console.messages_above(Console(file=terminal, force_terminal=True, highlight=False)):
        logger.info("trial 0 complete")
    assert terminal.getvalue() == "trial 0 complete\n"
    with console.messages_above(Console(file=pipe)):
        logger.info("trial 1 complete")
    assert pipe.getvalue() == ""
    logger.info("trial 2 complete")
    assert capsys.readouterr().err == "trial 1 complete\ntrial 2 complete\n"


def test_what_can_be_gone_on_with_says_so_when_it_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stopped, console.resumable():
        raise KeyboardInterrupt
    assert stopped.value.exit_code == console.INTERRUPTED
    assert "the same command goes on from there" in capsys.readouterr().err
