"""All that can be said of one method, as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from agentopd.base.rows.costs import Cost
from agentopd.base.rows.header import Row
from agentopd.base.written import FOLDER, find_config
from agentopd.looking.methods.cost import bills, changing, collected, costs, legend
from agentopd.looking.methods.equation import equation, schedules
from agentopd.looking.methods.flow import collected as played
from agentopd.looking.methods.flow import flow, legs_in_words
from agentopd.running.config import RunConfig
from agentopd.running.reading import load_config, load_method, stage_configs
from agentopd.running.stages.settings import Leg

_WIDTH = 100


def page(name: str) -> str:
    """The page of a method: its row, equation, flow and cost.

    Args:
        name: of a published method, or the path of a row of one's own.

    Raises:
        ConfigError: there is no such row, or its parts make no sense together.
    """
    load_method(name)  # of a name that is wrong the closest one is told
    path = Path(name) if Path(name).suffix else FOLDER / "methods" / f"{name}.yaml"
    row = Row.read(path, name)
    config = load_config(find_config("quickstart"), [f"method={name}"])
    return "\n".join([*_head(row), *_row(row), *_body(config)]) + "\n"


def _head(row: Row) -> Iterator[str]:
    arxiv = row.arxiv if row.arxiv == "-" else f"arXiv {row.arxiv}"
    yield f"{row.name} ({row.group}, {arxiv})"
    yield from _wrapped(row.text)
    yield from _wrapped(f"Inferred: {row.inferred}")
    yield f"  {row.command}"


def _row(row: Row) -> Iterator[str]:
    yield from ("", "Row")
    dumped = yaml.safe_dump(row.values, sort_keys=False, default_flow_style=None, width=_WIDTH - 4)
    yield from textwrap.indent(dumped.rstrip(), "  ").splitlines()


def _body(config: RunConfig) -> Iterator[str]:
    """What it does: of a method in stages, stage by stage."""
    if not config.stages:
        yield from _explained(config)
        return
    for title, stage, leg in legs_in_words(stage_configs(config)):
        yield from ("", title.capitalize())
        if leg.stage.collect is not None:
            yield from _indented(played(leg, stage))
            yield from _cost(collected(leg.stage.collect, stage))
            continue
        yield from _indented([("begins with", _start(leg))])
        if stage.steps:
            yield from _explained(stage)


def _explained(config: RunConfig) -> Iterator[str]:
    yield from ("", "Equation")
    yield from _indented(equation(config).items(), " = ")
    yield from _indented(
        ((f"schedule.{name}", said) for name, said in schedules(config).items()), " multiplies by "
    )
    yield from ("", "Flow")
    yield from _indented(flow(config))
    yield from _cost(costs(config), changing(config))


def _cost(found: list[Cost], changed: Sequence[str] = ()) -> Iterator[str]:
    yield from ("", "Cost of an episode, in tokens")
    yield from _indented(
        (bill.what, f"{bill.tokens}{f', {bill.relative} times opd' if bill.relative else ''}")
        for bill in bills(found)
    )
    for said in [*legend(found), *changed]:
        yield from _wrapped(said)


def _start(leg: Leg) -> str:
    stage = leg.stage
    if stage.merge:
        return f"the mean of the students of the branches {', '.join(stage.merge)}"
    before = f"where branch {stage.branch} has come to" if stage.branch else ""
    said = {"previous": before or "the student of the stage before"}
    said["initial"] = "the run's own student"
    return said.get(leg.stage.start, leg.stage.start)


def _indented(pairs: Iterable[tuple[str, str]], between: str = "  ") -> Iterator[str]:
    """Lines of a name and what is said of it, one under the other."""
    listed = [*pairs]
    widest = max((len(name) for name, _ in listed), default=0)
    for name, said in listed:
        first = f"  {name:<{widest}}{between}"
        yield from textwrap.wrap(
            said, _WIDTH, initial_indent=first, subsequent_indent=" " * len(first)
        )


def _wrapped(said: str) -> list[str]:
    return textwrap.wrap(said, _WIDTH, initial_indent="  ", subsequent_indent="  ")
