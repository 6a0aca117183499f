"""Which task a seed plays: templates by split, scenarios of three variants each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from agentopd.envs.desk.desk import ALWAYS, APPS
from agentopd.envs.desk.generate import generate
from agentopd.envs.desk.tasks.challenge import CHALLENGE
from agentopd.envs.desk.tasks.easy import EASY
from agentopd.envs.desk.tasks.hard import HARD
from agentopd.envs.desk.tasks.medium import MEDIUM
from agentopd.envs.desk.tasks.story import Story, Template
from agentopd.envs.desk.tasks.task import Task
from agentopd.envs.desk.world import World

Split = Literal["train", "validation", "test", "test-challenge"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test", "test-challenge")
VARIANTS = 3
"""Worlds in which a scenario is played: seeds 0, 1 and 2 are one scenario, 3, 4 and 5 the next."""
TEMPLATES: tuple[Template, ...] = (*EASY, *MEDIUM, *HARD, *CHALLENGE)


@dataclass(frozen=True)
class Scenario:
    """What a seed plays: a task in its world. `name` is shared by the variants."""

    name: str
    template: Template
    world: World
    task: Task


def select(
    split: Split,
    apps: Sequence[str] | None,
    difficulty: int | None,
    templates: Sequence[str] | None,
) -> tuple[Template, ...]:
    """The templates of a split that need no other apps, of one difficulty or by name.

    Raises:
        ValueError: a name is unknown, or nothing is left.
    """
    found = CHALLENGE if split == "test-challenge" else (*EASY, *MEDIUM, *HARD)
    if apps is not None:
        known_among("app", apps, [name for name in APPS if name not in ALWAYS])
        found = tuple(t for t in found if set(t.apps) <= set(apps))
    if difficulty is not None:
        found = tuple(t for t in found if t.difficulty == difficulty)
    if templates is not None:
        known_among("template", templates, [t.name for t in TEMPLATES])
        found = tuple(t for t in found if t.name in templates)
    if not found:
        raise ValueError(
            f"no template of the split {split} is left: apps, difficulty and templates exclude "
            "one another; drop one of these options (test-challenge has templates of its own)"
        )
    return found


def known_among(what: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Refuse unknown names, and what is no collection of names.

    Raises:
        ValueError: a name is unknown; the message gives the nearest.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"{what}s are a list of names, as [{known[0]}], not {given!r}")
    for name in given:
        if not isinstance(name, str):
            raise ValueError(f"{what}s are named by texts, not {name!r}")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
            raise ValueError(f"Desk has no {what} {name!r}; {hint}")


def scenario(split: Split, templates: Sequence[Template], seed: int) -> Scenario:
    """The task of a seed. The three variants share the template and differ in everything else."""
    number, variant = divmod(seed, VARIANTS)
    template = Random(f"desk/{split}/{number}").choice(templates)
    random = Random(f"desk/{split}/{number}/{variant}/{template.name}")
    world, pools = generate(random)
    task = template.write(Story(world, pools, random))
    return Scenario(f"desk/{split}/{template.name}/{number}", template, world, task)


def scenario_goal_completion(solved: Mapping[str, Sequence[bool]]) -> float:
    """The part of the scenarios of which every episode succeeded (AppWorld's SGC, 2407.18901).

    Args:
        solved: for each scenario (`info["scenario"]`) whether its episodes succeeded.

    Returns:
        Between 0 and 1; the mean of the successes is the task goal completion, TGC.

    Raises:
        ValueError: there is no scenario, or one without episodes.
    """
    if not solved or not all(solved.values()):
        raise ValueError("SGC needs at least one scenario, and an episode of each")
    return sum(all(episodes) for episodes in solved.values()) / len(solved)
