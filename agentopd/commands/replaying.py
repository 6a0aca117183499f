"""`agentopd replay`: a run's saved episodes under other settings."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from agentopd.base.console import quiet_libraries, stdout, table, warn, working
from agentopd.base.files import write_whole
from agentopd.base.written import last_stage


def replay(
    run: Path,
    changes: Sequence[str],
    arms: Sequence[str],
    step: int | None,
    rescore: bool,
    as_json: Path | None,
    plot: bool,
) -> None:
    """Print the arms beside each other; write them as JSON and as a figure where asked.

    Args:
        changes: the overrides of one arm, which is named by them.
        arms: a name and overrides each, in one string.

    Raises:
        ValueError: see `agentopd.looking.replay.compare.replay`; or an arm has no name or no
            override.
    """
    run = last_stage(run)
    with working("replaying"):
        quiet_libraries()
        from agentopd.looking.replay.compare import replay as compare

        found = compare(run, _arms(changes, arms), step, rescore).summary()
    for name, arm in found["arms"].items():
        for notice in arm["notices"]:
            warn(f"arm {name}: {notice}")
    stdout().print(_table(found))
    inexact = [name for name, arm in found["arms"].items() if not arm["exact"]]
    if inexact:
        typer.echo(
            f"{', '.join(inexact)}: not all of the vocabulary was kept; tokens that neither model "
            "holds for likely count as one"
        )
    rows = [
        name
        for name, arm in found["arms"].items()
        if any(override.startswith("method=") for override in arm["overrides"])
    ]
    if rows:
        typer.echo(f"{', '.join(rows)}: without the row's rollout; the episodes are the run's own")
    if as_json is not None:
        write_whole(as_json, json.dumps(found, indent=1) + "\n")
        typer.echo(f"the numbers: {as_json}")
    if plot:
        from agentopd.looking.replay.plot import draw_replay

        path = run / "replay" / f"step-{found['step']:05d}.png"
        draw_replay(found, path)
        typer.echo(f"the figure: {path}")


def _arms(changes: Sequence[str], arms: Sequence[str]) -> dict[str, list[str]]:
    found = {" ".join(changes): list(changes)} if changes else {}
    for text in arms:
        name, *overrides = shlex.split(text) or [""]
        if not name or "=" in name or not overrides:
            raise ValueError(
                f"--arm {text!r} needs a name and overrides, such as --arm 'jsd divergence=jsd'"
            )
        if name in found:
            raise ValueError(f"two arms are called {name!r}: rename one")
        found[name] = overrides
    return found


def _table(summary: Mapping[str, Any]) -> Any:
    """A row a turn and a column an arm: the turn's share of the signal, and its mean."""
    arms = list(summary["arms"].values())
    tokens = summary["tokens_by_turn"]
    rows: list[list[str]] = [
        [f"turn {turn + 1}", f"{count:,}"]
        + [_cell(arm["share_by_turn"][turn], arm["mean_by_turn"][turn]) for arm in arms]
        for turn, count in enumerate(tokens)
    ]
    for label in ("solved", "unsolved"):
        own = [arm["by_success"][label] for arm in arms]
        rows.append([label, ""] + [_cell(x["share"], x["mean"]) for x in own])
    rows.append(["correlation", ""] + [_number(arm["correlation"]) for arm in arms])
    rows.append(["same sign", ""] + [_percent(arm["sign_agreement"]) for arm in arms])
    rows.append(["mass", ""] + [_percent(arm["mass"]) for arm in arms])
    headings = (f"step {summary['step']}", "tokens", *summary["arms"])
    return table(headings, rows, numbers=len(headings) - 1)


def _cell(share: float, mean: float | None) -> str:
    return f"{_percent(share)}  {'-' if mean is None else f'{mean:+.1e}'}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"
