"""`agentopd methods`: how it is called."""

from __future__ import annotations

from typing import Annotated

import typer

from agentopd.commands import listing


def methods(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A method, or the file of a row of your own."),
    ] = None,
) -> None:
    """List the methods for method=NAME, or explain one of them.

    The list is by group, a line a method: what it is, what is told, at which
    unit, by which teacher. Of one method: its row, its equation put together
    from its parts, the way of its data, what it costs beside opd.

    agentopd methods skill_sd
    """
    if name is None:
        listing.methods()
    else:
        listing.method(name)
