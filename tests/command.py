"""The command line as a user calls it."""

from typer.testing import CliRunner, Result

from vidclf.cli.app import app


def run(*arguments: object, expect: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == expect, f"{result.output}\n{result.exception!r}"
    assert "Traceback (most recent" not in result.stderr
    return result
