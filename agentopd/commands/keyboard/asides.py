"""What a person may ask beside the game: what a teacher would be told, and to stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentopd.base.parts import closest
from agentopd.environment.contract import Info, legal_actions, system_prompt

ASIDE = "?"
"""What begins a question; two of them begin an answer that begins with one."""
_TOLD = {
    "oracle": "the best next actions from here",
    "facts": "named values that rubrics read",
    "feedback": "what may honestly be said of the last answer",
    "mistake": "a short name of what was wrong with it",
    "guide": "advice that holds for every task",
    "reference": "a solution of the whole task, as it was known at the start",
    "document": "the passage on what is asked here",
    "metrics": "numbers for the log",
}
"""Keys of `info`, most of which a student never reads."""
_BESIDE = {
    "legal": "the actions that may be taken from here",
    "rules": "the rules again",
    "again": "what was seen last, again",
    "restart": "the same task from its start",
    "next": "the next task",
    "quit": "stop",
    "help": "this list",
}
_ONCE = ("guide", "reference")
"""Keys that hold for the whole episode, told when it begins."""


@dataclass
class Told:
    """What an environment has said beside its observations.

    Attributes:
        prompt: `info` of the reset.
        info: `info` of the last step, or of the reset.
    """

    env: Any
    prompt: Info
    info: Info
    observation: str

    def heard(self, observation: str, info: Info) -> None:
        """A step was made."""
        self.observation, self.info = observation, info


@dataclass(frozen=True)
class Aside:
    """What is answered to a question; `action` is what is to be done: again, restart, next, quit,
    or nothing.
    """

    lines: list[str] = field(default_factory=list)
    action: str = ""


def asked(typed: str, told: Told) -> Aside:
    """The answer to a line that begins with `?`; the beginning of a word will do."""
    word = typed.removeprefix(ASIDE).strip().lower() or "help"
    known = [*_TOLD, *_BESIDE]
    found = [word] if word in known else [name for name in known if name.startswith(word)]
    if len(found) != 1:
        meant = ", ".join(ASIDE + name for name in found) or closest(word, known)
        return Aside([f"{ASIDE}{word} is no question of one meaning: {meant}"])
    name = found[0]
    if name in _TOLD:
        return Aside(_told(name, told))
    answers: Mapping[str, Callable[[], list[str]]] = {
        "help": _help,
        "legal": lambda: [", ".join(legal_actions(told.env)) or "no list of actions is told"],
        "rules": lambda: [system_prompt(told.env) or "there are no rules"],
    }
    return Aside(answers[name]()) if name in answers else Aside(action=name)


def _told(name: str, told: Told) -> list[str]:
    """A key of `info` in lines."""
    value = (told.prompt if name in _ONCE else told.info).get(name)
    if isinstance(value, Mapping) and value:
        return [f"{key}: {_short(one)}" for key, one in value.items()]
    return [str(value)] if value else [f"the environment tells no {name} here"]


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _help() -> list[str]:
    lines = [f"{ASIDE}{name:<10} {what}" for name, what in {**_TOLD, **_BESIDE}.items()]
    return [
        *lines,
        f"{ASIDE * 2}TEXT      an answer that begins with {ASIDE}",
        "\\           at the end of a line: the answer goes on in the next one",
    ]
