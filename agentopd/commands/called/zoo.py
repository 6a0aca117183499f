"""`agentopd zoo`: how its commands are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentopd.commands import listing
from agentopd.commands.parameters import Episodes

zoo = typer.Typer(no_args_is_help=True, help="List, build and measure the embedded models.")


@zoo.command("list")
def zoo_list() -> None:
    """List the embedded models."""
    listing.zoo()


@zoo.command("build")
def zoo_build(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE.yaml",
            help="A model of `agentopd zoo list`, or the recipe of a student for an environment of "
            "your own.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="The folder to write; the embedded one's, or one named as the recipe, if not "
            "given.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="In place of the recipe's, for a trial.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help="Of torch.")] = None,
) -> None:
    """Train an embedded model again, from its seed, or a student for an environment of your own."""
    listing.build(name, out, steps, threads)


@zoo.command("measure")
def zoo_measure(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model of `agentopd zoo list`.")],
    episodes: Episodes = 512,
) -> None:
    """Measure an embedded model on held-out levels, alone and when told; prints JSON."""
    listing.measure(name, episodes)
