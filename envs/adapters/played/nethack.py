"""NetHack through words: `agentopd.make("nethack:NetHackStaircase-v0")`.

What is mapped: the screen as it would be printed is the observation; a command is a word, `far
north` or `eat`, or the single key that a question on the screen asks for. The reward is the task's
own; success is that the task says so, or an ascension. Nobody knows the way, so there is no oracle.

Source: arXiv 2006.13760; the package `nle`, 1.3. MiniHack's ids are taken where it is installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium

from agentopd.environment.checks.subject import Caught
from agentopd.envs.adapters import library
from agentopd.envs.adapters.isolation import Isolation
from agentopd.envs.adapters.played.base import SHOWN, Begun, Heard, Played
from agentopd.envs.puzzle import Outcome, Prompt

_DIRECTIONS = {
    "N": "north", "E": "east", "S": "south", "W": "west", "NE": "northeast", "SE": "southeast",
    "SW": "southwest", "NW": "northwest", "UP": "up", "DOWN": "down", "WAIT": "wait",
}  # fmt: skip
_LONGER = "CompassDirectionLonger"
_SUCCESSFUL = "TASK_SUCCESSFUL"
_RULES = """You play NetHack. You are the @ on the screen; you are shown the whole screen each turn.
Write one command a turn, or the single key that the screen asks for. Commands are: {commands}.
You may think first inside <think></think>. End your answer with one command inside \
<action></action>, for example
<action>{example}</action>."""
_BRIEF = "NetHack: one command inside <action></action>."


def build(name: str, **options: Any) -> NetHack:
    """The environment of `nethack:ID`; see `NetHack`."""
    return NetHack(name, **options)


class NetHack(Played):
    """A task of the NetHack Learning Environment.

    Args:
        name: as NLE registers it, or MiniHack.
        max_turns: answers before the episode is truncated.
        prompt: the rules with all commands, or one line.
        shown: characters of an observation.
        options: of the environment itself.

    Raises:
        ValueError: there is no such environment or option, or NLE is not installed.
    """

    def __init__(
        self,
        name: str,
        *,
        max_turns: int = 200,
        prompt: Prompt = "full",
        shown: int = SHOWN,
        **options: Any,
    ) -> None:
        library("nle.env", "nethack")
        if name.startswith("MiniHack"):
            library("minihack", "nethack")
        self._game: Any = None
        with Isolation(0, numpy=True), warnings.catch_warnings(), Caught() as caught:
            warnings.simplefilter("ignore")
            self._game = gymnasium.make(name, disable_env_checker=True, **options).unwrapped
        if caught.error:
            raise ValueError(f"{name} cannot be made: {caught.said}; NLE's ids are NetHack...-v0")
        self._keys = [int(action) for action in self._game.actions]
        self._words = {_word(a): number for number, a in enumerate(self._game.actions)}
        example = "north" if "north" in self._words else next(iter(self._words))
        full = _RULES.format(commands=", ".join(self._words), example=example)
        rules: dict[Prompt, str] = {"full": full, "brief": _BRIEF}
        super().__init__(name, max_turns=max_turns, prompt=prompt, rules=rules, shown=shown)
        self._seen: dict[str, Any] = {}
        self._score = 0.0

    def _begin(self, number: int) -> Begun:
        with Isolation(number, numpy=True):
            self._game.seed(core=number % 2**31, disp=number % 2**31, reseed=False)
            self._seen, _ = self._game.reset()
        self._score = 0.0
        task = f"nethack/{self.name}/{number}"
        return Begun(task_id=task, text=_screen(self._seen), skill=self.name)

    def _act(self, command: str) -> Heard:
        number = self._number(command)
        if number is None:
            problem = f"{command[:20]!r} is no command of this game."
            text = f"{problem}\n{_screen(self._seen)}"
            return Heard(text, valid=False, outcome=Outcome(problem, mistake="unknown command"))
        self._seen, reward, terminated, truncated, told = self._game.step(number)
        self._score += float(reward)
        status = getattr(told.get("end_status"), "name", "")
        won = status == _SUCCESSFUL or bool(told.get("is_ascended"))
        over = bool(terminated) or won
        ends = f"The task ends {'well' if won else 'badly'}." if over else ""
        return Heard(
            _screen(self._seen),
            reward=float(reward),
            over=over,
            truncated=bool(truncated) and not over,
            success=won,
            outcome=Outcome(mistake="dies" if over and not won else "", feedback=ends),
        )

    def _number(self, command: str) -> int | None:
        """The action that a word or a single key names."""
        word = " ".join(command.lower().split())
        if word in self._words:
            return self._words[word]
        key = ord(command) if len(command) == 1 else -1
        return self._keys.index(key) if key in self._keys else None

    def close(self) -> None:
        """Close the game."""
        super().close()
        if self._game is not None:
            self._game.close()
            self._game = None

    def _admissible(self) -> Sequence[str]:
        return list(self._words)

    def _facts(self) -> dict[str, Any]:
        return {"reward": self._score}

    def _metrics(self) -> dict[str, float]:
        return {"reward": self._score}


def _word(action: Any) -> str:
    """What an action of NLE's is called."""
    kind, name = type(action).__name__, str(action.name)
    if kind == _LONGER:
        return f"far {_DIRECTIONS.get(name, name.lower())}"
    return _DIRECTIONS.get(name, name.lower().replace("_", " "))


def _screen(seen: Any) -> str:
    """The screen, or the message and the map where an environment observes no screen."""
    if "tty_chars" in seen:
        rows = [bytes(row).decode("latin-1").rstrip() for row in seen["tty_chars"]]
    else:
        said = bytes(seen["message"]).decode("latin-1").strip("\0 ")
        rows = [said, *(bytes(row).decode("latin-1").rstrip() for row in seen["chars"])]
    return "\n".join(row for row in rows if row)
