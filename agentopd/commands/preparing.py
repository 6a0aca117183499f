"""`agentopd prepare`: what decides whether a training succeeds, measured before it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from agentopd.base.console import quiet_libraries, stdout, table, warn, working
from agentopd.base.files import write_whole
from agentopd.commands.place import stored

if TYPE_CHECKING:  # help and mistakes come before torch
    from agentopd.environment.settings import EnvSettings
    from agentopd.running.preparation.behaviour import Behaviour
    from agentopd.running.preparation.findings import Finding
    from agentopd.running.preparation.report import Prepared

_STYLE = {"error": "bold red", "warning": "yellow", "note": "dim"}


def prepare(
    model: str,
    env: EnvSettings,
    changes: Sequence[str],
    episodes: int,
    step: bool,
    as_json: Path | None,
) -> None:
    """Measure, print tables, and say what to change.

    Args:
        model: a model's folder, `zoo:NAME`, or a run's folder, whose settings are then the run's.
        changes: `key=value` of the run that is planned.

    Raises:
        ValueError: the model, the environment or a setting cannot be used.
        typer.Exit: with code 1 where training would be pointless.
    """
    env.build().close()  # a mistake there is told before torch is loaded
    with working("loading"):
        quiet_libraries()
        import torch

        from agentopd.commands.acting import model_path
        from agentopd.running.config import thread_count
        from agentopd.running.preparation.findings import findings
        from agentopd.running.preparation.report import prepare as measure
        from agentopd.running.reading import parse_config

        config = parse_config(_planned(model, model_path(model), env), changes)
        torch.set_num_threads(thread_count(config.threads))
    for notice in config.notices():
        warn(notice)
    console = stdout()
    with working("measuring"):
        found = measure(config, episodes, step, lambda doing: typer.echo(f"{doing} ...", err=True))
    said = findings(found, config)
    if as_json is not None:
        record = {**found.described(), "findings": [vars(finding) for finding in said]}
        write_whole(as_json, json.dumps(record, indent=2) + "\n")
    _print_chat(console, found)
    _print_behaviour(console, found)
    _print_shifts(console, found)
    _print_cost(console, found)
    _print_examples(console, found)
    _print_findings(console, said)
    if any(finding.level == "error" for finding in said):
        raise typer.Exit(1)


def _planned(model: str, path: str, env: EnvSettings) -> dict[str, Any]:
    """The run that is planned: a run's folder brings its own settings."""
    told: Mapping[str, Any] = stored(model)
    plan = {key: value for key, value in told.items() if key != "study"}
    student = {**plan.get("student", {}), "path": path}
    return {**plan, "student": student, "env": env.model_dump(mode="json")}


def _print_chat(console: Console, found: Prepared) -> None:
    """The chat template's part."""
    chat = found.chat
    stops = "; ".join(f"{token} ({', '.join(who)})" for token, who in chat.stops.items())
    rows = [
        ("ids as apply_chat_template", "yes" if chat.plain.exact else "no"),
        ("with a thought in front", "yes" if chat.thinking.exact else "no"),
        ("segments", f"{chat.plain.segments} of {chat.plain.turns} turns"),
        ("with thoughts", f"{chat.thinking.segments} of {chat.thinking.turns} turns"),
        ("system message", "yes" if chat.system else "no"),
        ("answers end with", stops),
    ]
    console.print(table(("chat template", ""), rows))


def _print_behaviour(console: Console, found: Prepared) -> None:
    """How the model acts alone and told, and habits beside it."""
    from agentopd.looking.report.finding import percent, span

    def row(name: str, acts: Behaviour) -> tuple[str, ...]:
        return (
            name,
            percent(acts.success),
            span(acts.interval),
            percent(1 - acts.invalid),
            percent(acts.cut),
            f"{acts.turns:.1f}",
            f"{acts.answer_tokens:.0f}",
            f"{acts.episode_tokens:.0f}",
        )

    rows = [row("alone", found.alone)]
    rows += [
        row(f"told {told.source} ({told.view})", told.behaviour)
        for told in found.told
        if told.behaviour
    ]
    rows += [
        (habit.name, percent(habit.success), span(habit.interval), *[""] * 5)
        for habit in found.habits
    ]
    headings = (
        f"{found.alone.episodes} episodes", "success", "95 % interval", "valid", "cut", "turns",
        "tokens a turn", "an episode",
    )  # fmt: skip
    console.print(table(headings, rows, numbers=len(headings) - 1))


def _print_shifts(console: Console, found: Prepared) -> None:
    """How much likelier the best action becomes."""

    def nats(value: float | None) -> str:
        return "\u2013" if value is None else f"{value:+.2f}"

    rows = [
        (
            f"{shift.source} ({shift.view})",
            f"{shift.alone:.2f}",
            f"{shift.told:.2f}",
            nats(shift.gain),
            nats(shift.first),
            nats(shift.later),
        )
        for told in found.told
        for shift in told.shifts
    ]
    headings = (
        "log P(best action), nats", "alone", "told", "gain", "first turn", "later turn",
    )  # fmt: skip
    if rows:
        console.print(table(headings, rows, numbers=len(headings) - 1))


def _print_cost(console: Console, found: Prepared) -> None:
    """What a step of the planned run takes."""
    cost = found.cost
    if cost is None:
        return

    def seconds(value: float | None) -> str:
        return "\u2013" if value is None else f"{value:,.1f}"

    headings = ("seconds of a step", "rollout", "teacher", "learner", "step", "evaluation", "run")
    row = ("as planned", *map(seconds, (
        cost.rollout, cost.teacher, cost.learner, cost.step, cost.evaluation, cost.run,
    )))  # fmt: skip
    console.print(table(headings, [row], numbers=len(headings) - 1))
    held = cost.peak / 2**30
    console.print(f"{cost.measured} episodes were learnt from; at most {held:.2f} GiB were held")


def _print_examples(console: Console, found: Prepared) -> None:
    console.print("answers, those first that could not be read:", style="dim")
    for text in found.alone.examples:
        console.print(f"  {text!r}", soft_wrap=True)


def _print_findings(console: Console, said: Sequence[Finding]) -> None:
    console.print()
    if not said:
        console.print("nothing stands in the way of a training")
    for finding in said:
        console.print(
            f"{finding.level}: {finding.said}", style=_STYLE[finding.level], soft_wrap=True
        )
        if finding.change:
            console.print(f"    change: {finding.change}", soft_wrap=True)
