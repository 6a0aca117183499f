"""What the adapters to played texts share: turns, the form of `info`, what is shown, failures.

A foreign game says how an episode begins and what it answers to a command. The rest is here: the
command is what stands in `<action>`, each answer costs a turn, what is shown is Unicode of bounded
length, and whatever the game raises costs the episode and drops the game, so that the next episode
begins with a new one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from agentopd.environment.contract import Info, TextEnv, parse_action, written
from agentopd.envs.adapters.world_server import shortened
from agentopd.envs.puzzle import Outcome, Prompt, check_choice, check_number

SHOWN = 8_000
"""Characters of an observation, of which a longer one loses its middle."""


@dataclass(frozen=True)
class Begun:
    """How an episode begins: the task's name, what is read first, what a teacher is told of it.

    `skill` is the tag under which skills are filed.
    """

    task_id: str
    text: str
    skill: str
    guide: str = ""


@dataclass(frozen=True)
class Heard:
    """What a game answers to a command.

    `over` says that the task is, `truncated` that the game stopped before; `valid` that it could
    read the command.
    """

    text: str
    reward: float = 0.0
    over: bool = False
    truncated: bool = False
    success: bool = False
    valid: bool = True
    outcome: Outcome = field(default_factory=Outcome)


class Played(TextEnv, ABC):
    """A foreign game: one command a turn.

    Args:
        name: of the game, for messages.
        max_turns: answers before the episode is truncated.
        prompt: the full rules, or one line.
        rules: the texts of both kinds.
        shown: characters of an observation; the middle of a longer one is left out.

    Raises:
        ValueError: an option has no such value.
    """

    action_between: str | None = "\n"
    missing = "No <action></action> in the answer."
    """What is said of an answer that cannot be read."""

    def __init__(
        self,
        name: str,
        *,
        max_turns: int,
        prompt: Prompt,
        rules: Mapping[Prompt, str],
        shown: int = SHOWN,
    ) -> None:
        check_choice("prompt", prompt, ("full", "brief"))
        check_number("max_turns", max_turns, 1)
        check_number("shown", shown, 100)
        self.name, self._longest = name, shown
        self.turn_limit = self.max_turns = max_turns
        self.system_prompt = rules[prompt]
        self.task_id, self._shown = "", ""
        self.turns = 0
        self._playing = self._won = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Start the task of `seed`.

        Raises:
            ValueError: options are given, or there is no such task.
        """
        super().reset(seed=seed)
        if options:
            raise ValueError(f"{self.name} takes no options at reset, got {options}")
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        self.turns, self._playing, self._won = 0, False, False
        with ExitStack() as failing:
            failing.callback(self.drop)
            begun = self._begin(number)
            self.task_id, self._playing = begun.task_id, True
            self._shown = readable(begun.text, self._longest)
            told: Info = {"skill": begun.skill, "guide": begun.guide}
            if plan := self._in_time():
                told["reference"] = written(self, plan)
            info = self._info() | {key: text for key, text in told.items() if text}
            failing.pop_all()
        return self._shown, info

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Give the game what stands in `<action>`.

        Raises:
            ValueError: the episode is over, or none was begun.
        """
        if not self._playing:
            raise ValueError(f"no episode of {self.name} is being played: call reset() first")
        self.turns += 1
        command = self._read(readable(action, len(action)))
        with ExitStack() as failing:
            failing.callback(self.drop)
            heard = self._heard(command)
            self._won = self._won or heard.success
            late = heard.truncated or self.turns >= self.turn_limit
            self._playing = not (heard.over or late)
            info = self._info()
            failing.pop_all()
        outcome = heard.outcome
        self._shown = readable(heard.text, self._longest)
        info["facts"] |= {**outcome.facts, "well_formed": command is not None and heard.valid}
        info |= {"action_valid": heard.valid, "mistake": outcome.mistake}
        info["feedback"] = readable(outcome.problem or outcome.feedback, self._longest)
        return self._shown, heard.reward, heard.over, late and not heard.over, info

    def _heard(self, command: str | None) -> Heard:
        if command is None:
            outcome = Outcome(self.missing, mistake="unreadable action")
            return Heard(self.missing, valid=False, outcome=outcome)
        return self._act(command)

    def _read(self, answer: str) -> str | None:
        """The command in an answer, if it holds one."""
        return parse_action(answer)

    def render(self) -> str:
        """What was read last."""
        return self._shown

    def close(self) -> None:
        """Drop the game."""
        self._playing = False
        self.drop()

    @abstractmethod
    def _begin(self, number: int) -> Begun:
        """Start the task of that number."""

    @abstractmethod
    def _act(self, command: str) -> Heard:
        """Give the game a command, stripped."""

    def drop(self) -> None:
        """Let go of the game, which may be broken; the next episode starts a new one."""

    def _plan(self) -> Sequence[str]:
        """The next commands to success, where they are known."""
        return ()

    def _in_time(self) -> Sequence[str]:
        """The plan, where the turns that are left suffice for it."""
        plan = self._plan()
        return plan if len(plan) <= self.turn_limit - self.turns else ()

    def _facts(self) -> dict[str, Any]:
        """The facts of the state."""
        return {}

    def _metrics(self) -> dict[str, float]:
        """What is logged beside the turns."""
        return {}

    def _admissible(self) -> Sequence[str] | None:
        """The commands that may be given from here, where listing them costs nothing."""
        return None

    def legal_actions(self) -> Sequence[str] | None:
        """The commands that may be given from here, the oracle's among them; None if unknown."""
        listed = self._admissible()
        return None if listed is None else list(dict.fromkeys((*listed, *self._plan()[:1])))

    def _info(self) -> Info:
        info: Info = {
            "task_id": self.task_id,
            "success": self._won,
            "action_valid": True,
            "facts": self._facts(),
            "metrics": {"turns": float(self.turns), **self._metrics()},
        }
        if (listed := self._admissible()) is not None:
            info["admissible"] = [readable(command, self._longest) for command in listed]
        if self._playing and (plan := self._in_time()):
            info["oracle"] = written(self, plan)
        return info


class Path:
    """A known way to success that is valid as long as it is followed.

    Args:
        commands: the whole way.
    """

    def __init__(self, commands: Sequence[str]) -> None:
        self.left: list[str] = list(commands)
        """What remains of it; empty once it has been left."""

    def follow(self, command: str, unchanged: bool) -> bool:
        """Whether `command` was the next of the way; another one leaves it, unless the game is
        as it was.
        """
        on_it = bool(self.left) and command == self.left[0]
        if on_it:
            del self.left[0]
        elif not unchanged:
            self.left.clear()
        return on_it


def readable(text: str, limit: int) -> str:
    """`text` as it can be written, without its middle where it has more than `limit` characters."""
    return shortened(text.encode(errors="replace").decode(), limit)


def judged(command: str, on_path: bool, left: int, known: bool) -> Outcome:
    """What is said of a command by a known way.

    Args:
        command: what was done.
        on_path: whether it was the way's next.
        left: commands that remain.
        known: whether the way was known before the command.
    """
    if not known:
        return Outcome()
    short = command[:60]
    if on_path:
        feedback = f"{short!r} follows the way; {left} to go."
        return Outcome(feedback=feedback, facts={"planned": True})
    what = "is none of the way's" if left else "leaves the way that is known"
    return Outcome(mistake="off the way", feedback=f"{short!r} {what}.", facts={"planned": False})
