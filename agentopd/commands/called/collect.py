"""`agentopd collect`: how it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentopd.commands import collecting
from agentopd.commands import parameters as given


def collect(
    config: given.Config,
    overrides: given.Overrides = None,
    by: Annotated[
        str,
        typer.Option(
            metavar="WHO",
            help="oracle, teacher, student, told (the student told its privilege), rollout "
            "(whoever acts in the run's own), or a file of text that ends in .jsonl.",
        ),
    ] = "oracle",
    keep: Annotated[
        str,
        typer.Option(metavar="WHICH", help="all, success, or reward=NUMBER: so much or more."),
    ] = "all",
    episodes: Annotated[
        int, typer.Option(min=1, metavar="N", help="That are played, one a training task.")
    ] = 256,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="WHO",
            help="oracle or teacher: who answers in every state of what is kept; a record is then "
            "one state.",
        ),
    ] = None,
    onto: Annotated[
        Path | None, typer.Option(metavar="STORE", help="That the new one begins with.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Of the store.")] = Path("demos"),
) -> None:
    """Collect demonstrations to learn from: played, or read from text.

    What was interrupted goes on with the same command. They are learnt from with
    rollout={kind: demonstrations, path: FOLDER} and mix=nll, or beside another
    method with gold={path: FOLDER}.

    agentopd collect configs/quickstart.yaml --by oracle --episodes 512 --out demos

    A line of text is an episode:
    {"turns": [{"observation": "...", "answer": "..."}], "success": true}
    """
    how = {"by": by, "episodes": episodes, "label": label, "onto": onto and str(onto)}
    collecting.collect(config, overrides or [], how, keep, out)
