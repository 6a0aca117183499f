"""`agentopd study`: how it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentopd.commands import parameters as given
from agentopd.commands import running


def study(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A pathology that comes with agentopd; all; or a study's file of your own.",
        ),
    ],
    overrides: given.Overrides = None,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where each study has a folder of its name.")
    ] = Path("runs/pathologies"),
    workers: given.Workers = 2,
    engine: given.Engine = "local",
) -> None:
    """Run a study of a pathology, or all of them, with the cause measured beside its outcome.

    As compare does, and goes on with what has begun. Before any step it is
    measured what student and teacher are to each other: success alone and told,
    how likely the untold student speaks as its told teacher does, and what the
    teacher thinks of the best action behind the student's words and its own.

    agentopd study blind

    agentopd study mine.yaml student.path=./my-model
    """
    running.study(name, overrides or [], out, workers, engine)
