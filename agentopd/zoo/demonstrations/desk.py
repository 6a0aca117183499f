"""How Desk is played with single calls: first what is to be done in which app, then the call."""

from __future__ import annotations

import copy
import random
from typing import Any

from agentopd.environment.contract import Info, actions
from agentopd.envs.desk import names
from agentopd.envs.desk.api import Call
from agentopd.envs.desk.calls import parse_call
from agentopd.envs.desk.desk import APPS
from agentopd.envs.desk.env import Desk
from agentopd.envs.desk.generate import phone
from agentopd.zoo.demonstrations.told import Player

_POOL = 300
"""Tasks whose calls somebody who knows the APIs alone might try."""
_END = "supervisor.complete_task()"
_WORDS = (
    *(*names.FIRST, *names.LAST, *names.EVENTS, *names.TODOS, *names.SUBJECTS),
    *(*names.SONGS, *names.CARDS, *names.TOWNS, *names.NOTES),
)


class DeskPlayer(Player):
    """Says `look in contacts` before it calls."""

    # A space belongs to the word before it and a dash to the number: each token of a name or date
    # then tells the next one, which is what copying goes by.
    pieces = (
        r'[a-z]+\.[a-z_]+\((?:[a-z_]+="?)?',  # an API and the name of its first argument
        r', [a-z_]+="?',  # another argument
        r'[^\p{L}\p{N}]*"[a-z_]+": "?',  # a field of a record
        r"\p{N}{3,4}-",  # a year, or how phone numbers begin
        r"\p{N}{2}[-:]\p{N}{2}",  # a day of the year, or a time
        r"\p{N}{1,2}\.?",
        r"\p{L}+ ?",
        r"[^\p{L}\p{N}]+",
    )

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def best(self, env: Desk, info: Info) -> str:
        """The oracle's call, or the end where nothing can be mended."""
        return actions(env, info.get("oracle", _END))[0]

    def other(self, env: Desk, info: Info, rng: random.Random) -> str:
        """A call as some task needs one, about what the instruction names."""
        if not self.calls:
            twin = copy.deepcopy(env)
            plans = [str(twin.reset(seed=n)[1]["reference"]) for n in range(_POOL)]
            self.calls = [parse_call(line) for plan in plans for line in actions(env, plan)]
        task = env.task
        wanted = [*(call for stage in task.reads for call in stage), *(g.call for g in task.goals)]
        asked = [value for call in wanted for value in call.arguments.values()]
        named = [v for v in asked if type(v) is not bool and str(v) in task.instruction]
        call = rng.choice(self.calls)
        said = {k: _like(v, named, rng) for k, v in call.arguments.items() if k != "status"}
        return str(Call(call.app, call.api, {**call.arguments, **said}))

    def text(self, rng: random.Random) -> str:
        """Names, titles, dates, times, amounts and phone numbers in a row."""
        return " ".join(_value(rng) for _ in range(rng.randint(4, 20)))

    def thought(self, env: Desk, info: Info, action: str) -> str:
        """Look, change, finish or give up; where."""
        call = parse_call(action)
        if call.api == "complete_task":
            return "give up" if "status" in call.arguments else "finish"
        return f"{'change' if APPS[call.app].apis[call.api].writes else 'look in'} {call.app}"


def _like(value: Any, named: list[Any], rng: random.Random) -> Any:
    """A named value of the same type, or `value` where there is none."""
    return rng.choice([v for v in named if type(v) is type(value)] or [value])


def _value(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(_WORDS)
    if kind < 0.7:
        return f"{rng.randint(2020, 2032)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    if kind < 0.8:
        return f"{rng.randint(8, 20):02}:{rng.choice((0, 30)):02}"
    return f"{rng.randint(0, 999)}.{rng.randint(0, 99)}" if kind < 0.9 else phone(rng)
