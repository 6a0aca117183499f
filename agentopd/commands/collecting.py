"""`agentopd collect`: a store of demonstrations."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from agentopd.base.console import quiet_libraries, working
from agentopd.base.written import find_config, read_mapping


def collect(
    named: Path, overrides: Sequence[str], how: Mapping[str, Any], keep: str, out: Path
) -> None:
    """Collect, and say how much of it was kept.

    Args:
        how: of `CollectSettings`, all but what is kept.

    Raises:
        ValueError: see `agentopd.running.collecting.collect.collect`; or `keep` is unknown.
        typer.Exit: with code 130 when Ctrl-C came.
    """
    which = _kept(keep)
    read_mapping(find_config(named))  # what is not there is told before torch is loaded
    with working("loading"):
        quiet_libraries()
        from pydantic import ValidationError

        from agentopd.base.stopping import Interrupted
        from agentopd.running.collecting.collect import collect as make
        from agentopd.running.collecting.settings import CollectSettings
        from agentopd.running.reading import load_config

        config = load_config(find_config(named), overrides)
        try:
            settings = CollectSettings.model_validate({**how, "keep": which})
        except ValidationError as error:
            first = error.errors()[0]
            option = str(first["loc"][0]) if first["loc"] else "label"
            said = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"--{option}: {said}") from error
    told: list[str] = []

    def tell(found: dict[str, Any]) -> None:
        told.append(_counts(found))
        typer.echo(told[-1])

    try:
        found = make(config, settings, out, tell)
    except Interrupted as stopped:
        typer.echo(f"stopped; to go on:\n  {shlex.join(['agentopd', *sys.argv[1:]])}", err=True)
        raise typer.Exit(130) from stopped
    if _counts(found) not in told:  # the store had ended before
        typer.echo(_counts(found))
    typer.echo(f"the demonstrations: {out}")


def _kept(keep: str) -> dict[str, Any]:
    name, equals, value = keep.partition("=")
    if keep == "all":
        return {}
    if keep == "success":
        return {"success": True}
    try:
        if name == "reward" and equals:
            return {"reward": float(value)}
    except ValueError:
        pass
    raise ValueError(f"--keep {keep!r} is none of all, success and reward=NUMBER")


def _counts(found: dict[str, Any]) -> str:
    behind = f", behind {found['earlier']:,} earlier ones" if found["earlier"] else ""
    return (
        f"{found['played']:,} episodes, {found['solved']:,} solved; kept {found['kept']:,}{behind} "
        f"with {found['tokens']:,} tokens to learn from"
    )
