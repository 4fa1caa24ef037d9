"""What all commands share: how they print."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import typer

from vidclf.cli import console

LONG = """
import typer
from vidclf.cli.console import Commands, print_json
app = typer.Typer(cls=Commands)
app.callback()(lambda: None)
app.command("answer")(lambda: print_json(list(range(200_000))))
app()
"""


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
    with console.counted("Confirming", 6) as done:
        for _ in range(6):
            done()
    said = capsys.readouterr().err.splitlines()
    assert said == ["Confirming: 2 of 6", "Confirming: 4 of 6", "Confirming: 6 of 6"]
    with console.counted("Quick", 1) as done:
        done()
    assert capsys.readouterr().err == ""


def test_what_can_be_gone_on_with_says_so_when_it_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stopped, console.resumable():
        raise KeyboardInterrupt
    assert stopped.value.exit_code == console.INTERRUPTED
    assert "the same command goes on from there" in capsys.readouterr().err
