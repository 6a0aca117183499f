"""The command `agentopd`, run in the tests' own process."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from agentopd.cli import app

SOKOBAN = "agentopd/Sokoban-v0"


def call(*words: str | Path, typed: str | None = None) -> Result:
    """Run the command in this process; an exception that it does not turn into a line is raised."""
    result = CliRunner().invoke(app, [str(word) for word in words], input=typed)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def problem(result: Result) -> str:
    """The one line that a mistake costs."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")
