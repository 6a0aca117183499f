"""`agentopd prepare`: how it is called."""

from __future__ import annotations

from typing import Annotated

import typer

from agentopd.commands import acting, preparing
from agentopd.commands import parameters as given
from agentopd.commands.place import place


def prepare(
    model: given.Model,
    env: given.Environment = None,
    option: given.Options = None,
    wrapper: given.Wrappers = None,
    change: given.Changes = None,
    episodes: Annotated[
        int, typer.Option(min=1, metavar="N", help="Tasks to play, alone and with each privilege.")
    ] = 16,
    step: Annotated[
        bool, typer.Option(help="Also measure a small step of learning, which needs its memory.")
    ] = True,
    as_json: given.JsonFile = None,
) -> None:
    """Measure, before a training, what decides whether it succeeds, and say what to change.

    The chat template's exactness and ends, how many answers can be read and are
    cut, success alone and told what a teacher may know, by how much that makes
    the best action likelier, what habits score, tokens, seconds and memory. The
    exit code is 1 when training would be pointless, else 0.

    agentopd prepare zoo:sokoban-easy --env agentopd/Sokoban-v0 -o prompt=brief

    agentopd prepare ./SmolLM2-135M-Instruct --env agentopd/FrozenLake-v0 --set view=every_turn
    """
    place_of = place(env, acting.parse_options(option or []), wrapper or [], run=model)
    preparing.prepare(model, place_of, change or [], episodes, step, as_json)
