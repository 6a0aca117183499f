"""Desk's scenarios, played call by call without an environment."""

from __future__ import annotations

import functools

from agentopd.envs.desk.api import ApiError, Call
from agentopd.envs.desk.desk import APPS, Desk
from agentopd.envs.desk.state import Logins, State
from agentopd.envs.desk.tasks.library import (
    Scenario,
    scenario,
    select,
)
from agentopd.envs.desk.tasks.oracle import Oracle
from agentopd.envs.desk.tasks.story import Template
from agentopd.envs.desk.tasks.task import Check, evaluate

SEEDS = range(20)
CHALLENGE = {template.name for template in select("test-challenge", None, None, None)}


@functools.cache
def scenarios(template: Template) -> list[Scenario]:
    """Nobody changes their worlds: episodes are played on copies."""
    split = "test-challenge" if template.name in CHALLENGE else "train"
    return [scenario(split, [template], seed) for seed in SEEDS]


def newcomer(played: Scenario, logins: Logins = "open") -> State:
    """The state the scenario begins in."""
    return State(played.world.copy(), APPS, logins)


def calls_of(played: Scenario) -> list[Call]:
    """The oracle's calls from the start."""
    plan = Oracle(played.task, newcomer(played)).plan(newcomer(played))
    assert plan is not None
    return [call for stage in plan for call in stage]


def after(played: Scenario, calls: list[Call]) -> list[Check]:
    """The checks after some calls; a refused one counts as made."""
    state = newcomer(played)
    for each in calls:
        try:
            Desk(state).call(each)
        except ApiError:
            continue
    return evaluate(played.task, played.world, state)


def failed(checks: list[Check]) -> set[str]:
    """The kinds of the checks that did not pass."""
    return {check.kind for check in checks if not check.passed}
