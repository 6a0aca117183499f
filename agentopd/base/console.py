"""What the terminal is told, and how: consoles, tables, errors, and silence from libraries."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

_MISTAKES = (ValueError, FileNotFoundError, NotADirectoryError, PermissionError)
_WIDTH_OF_A_PIPE = 160


class MistakesToLines(TyperGroup):
    """Commands whose user is told of a mistake in a line a problem on stderr, with exit code 2.

    Any other exception is a defect of the program and keeps its traceback; `--traceback` shows
    that of a mistake too.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except _MISTAKES as error:
            if ctx.params.get("traceback"):
                raise
            for line in _problems(error):
                typer.echo(f"{typer.style('error:', fg='red', bold=True)} {line}", err=True)
            raise typer.Exit(2) from error


def stdout() -> Console:
    """A console that prints text as it stands; one that is no terminal is wide, to keep lines."""
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH_OF_A_PIPE
    return console


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], numbers: int = 0) -> Table:
    """A plain table; the last `numbers` columns are aligned to the right."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, heading in enumerate(headings):
        right = place >= len(headings) - numbers
        made.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(str(cell) if isinstance(cell, int | float) else cell for cell in row))
    return made


def warn(message: str) -> None:
    """One line on stderr."""
    typer.echo(f"{typer.style('warning:', fg='yellow', bold=True)} {message}", err=True)


@contextmanager
def working(doing: str) -> Iterator[None]:
    """A spinner on stderr while something takes its time; nothing where stderr is no terminal."""
    console = Console(stderr=True, markup=False)
    if not console.is_terminal:
        yield
        return
    with console.status(doing):
        yield


def quiet_libraries() -> None:
    """Keep transformers from drawing bars of its own and from warning.

    Processes that are started afterwards are quiet too.
    """
    # Read while transformers is imported, here or in a worker process
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _problems(error: Exception) -> list[str]:
    """A line a problem."""
    if isinstance(error, OSError) and error.strerror:
        return [f"{error.filename}: {error.strerror}" if error.filename else error.strerror]
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
