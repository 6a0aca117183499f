"""Text adventures that TextWorld makes from a seed: `agentopd.make("fiction:simple")`.

What is mapped: the banner and the status line are cut off; the goal stands in the first
observation, because it is another one for each game; the reward is what the score rose by, as a
share of the highest, so that a won game gives 1 in all. Every command that begins with a verb of
the game is the game's to answer, since "the door is locked" is what a player learns from. The rest
is refused before the game hears it: `restart`, `undo`, `save` and TextWorld's own debugging
commands would leave the world that is followed beside the game behind, and several commands in a
line are several turns.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from agentopd.environment.contract import Info, TextEnv, parse_action
from agentopd.environment.splits import split_of
from agentopd.envs.adapters.fiction_games import (
    KINDS,
    Story,
    alone,
    check_settings,
    load,
    own_settings,
    story,
)
from agentopd.envs.puzzle import SPLITS, Outcome, Prompt, Split, check_choice, check_number

Goal = Literal["brief", "detailed"]

_ATTEMPTS = 1_000
_WITHOUT_QUEST = 20
"""Seeds in a row of which TextWorld makes no game, after which none will be made."""
_LONGEST = 100
_PLAIN = re.compile(r"[a-z0-9][a-z0-9 '-]*")
"""One command: with a full stop or a comma it would be two."""
_MISSING = "No <action></action> in the answer."
_ENDED = re.compile(r"\s*Would you like to RESTART.*", re.DOTALL)
_COOKING = """, cook THING with THING, chop, slice or dice THING with THING, prepare meal, \
drink THING"""
_RULES = """You play a text adventure, one command a turn.
Commands are: look, inventory, go north (or south, east, west), examine THING, open THING, close \
THING, unlock or lock THING with KEY, take THING, take THING from PLACE, drop THING, put THING on \
PLACE, insert THING into PLACE, eat THING{more}.
You may think first inside <think></think>. End your answer with one command inside \
<action></action>, for example
<action>go north</action>."""
_BRIEF = "Text adventure: one command inside <action></action>."
_ROUTINE = {
    "simple": "Find the key, leave the bedroom, find the food and put it on the stove.",
    "coin_collector": "Explore one room after the other and do not go back to where you were.",
    "treasure_hunter": "Look for the one thing that is asked for; taking another one loses.",
    "cooking": "Read the cookbook, fetch the ingredients, cook and cut each as it says and only "
    "once, prepare the meal in the kitchen and eat it.",
    "custom": "Look into containers, take keys and open what is closed on the way to the goal.",
}


def build(name: str, **options: Any) -> Fiction:
    """The environment of `fiction:NAME`; see `Fiction`."""
    return Fiction(name, **options)


class Fiction(TextEnv):
    """A game of TextWorld.

    Args:
        kind: `simple`, `coin_collector`, `treasure_hunter`, `cooking` or `custom`.
        split: which games `reset(seed=...)` draws; splits never share a seed of TextWorld's.
            Cooking's own splits of foods and recipes go along.
        max_turns: answers before the episode is truncated.
        prompt: the forms of commands, or one line.
        goal: what is to be reached, or TextWorld's own words, which for all kinds but cooking tell
            the way there step by step.
        show_commands: whether each observation lists the commands that make sense.
        cache: a folder where compiled games are kept for other processes and later runs.
        settings: of the kind, see `KINDS`: `level=3` for example.

    Raises:
        ValueError: there is no such kind, option or value, or TextWorld is not installed.
    """

    action_between = "\n"

    def __init__(
        self,
        kind: str,
        *,
        split: Split = "train",
        max_turns: int = 50,
        prompt: Prompt = "full",
        goal: Goal = "brief",
        show_commands: bool = False,
        cache: str | None = None,
        **settings: Any,
    ) -> None:
        check_choice("split", split, SPLITS)
        check_choice("prompt", prompt, ("full", "brief"))
        check_choice("goal", goal, ("brief", "detailed"))
        check_number("max_turns", max_turns, 1)
        checked = check_settings(kind, settings)
        self._textworld = load()
        self.kind, self.split, self._goal = kind, split, goal
        self._settings = tuple(sorted(own_settings(kind, checked, split, goal).items()))
        self._label = "/".join(f"{key}={checked[key]}" for key in KINDS[kind])
        self._lists, self._cache = show_commands, cache
        self.turn_limit = self.max_turns = max_turns
        more = _COOKING if kind == "cooking" else ""
        self.system_prompt = _RULES.format(more=more) if prompt == "full" else _BRIEF
        self._game: Any = None
        self.turns = 0
        self._playing = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Start the game of `seed`.

        Raises:
            ValueError: options are given, TextWorld makes no such game, or its solution takes more
                than `max_turns`.
        """
        super().reset(seed=seed)
        if options:
            raise ValueError(f"a game of TextWorld takes no options at reset, got {options}")
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        self._playing = False
        drawn, game = self._draw(number)
        self.task_id = f"{self.kind}/{self.split}/{drawn}"
        self._start(game)
        path: Sequence[str] = self._state["extra.walkthrough"] or self._plan
        if len(path) > self.turn_limit:
            raise ValueError(
                f"a {self.kind} of {len(path)} steps cannot be solved in {self.turn_limit} turns: "
                "raise max_turns or make the game smaller"
            )
        self.turns, self._playing = 0, True
        opening: str = self._state["feedback"]
        # A room's name stands in such signs; before the first there are the banner and the goal.
        self._shown = f"{self._objective(path[-1])}\n{_tidy(opening[opening.index('-= ') :])}"
        told = {
            "reference": "\n".join(path), "skill": self.kind, "guide": _ROUTINE[self.kind],
        }  # fmt: skip
        return self._observed(), self._info() | told

    def _draw(self, number: int) -> tuple[int, Story]:
        """TextWorld's seed for ours, and its game."""
        rng = random.Random(f"{self.kind}/{self._label}/{self.split}/{number}")
        failed = 0
        for _ in range(_ATTEMPTS):
            drawn = rng.randrange(2**31)
            if split_of(self.kind, str(drawn)) != self.split:
                continue
            if found := story(self.kind, self._settings, drawn, self._cache):
                return drawn, found
            failed += 1
            if failed == _WITHOUT_QUEST:
                break
        raise ValueError(
            f"TextWorld finds no quest in a {self.kind} of {self._label}: "
            "shorten the quest or enlarge the world"
        )

    def _start(self, game: Story) -> None:
        wanted = self._textworld.EnvInfos(
            policy_commands=True,
            admissible_commands=True,
            won=True,
            lost=True,
            moves=True,
            score=True,
            extras=["walkthrough"],
        )
        # Once started, a game needs its files no more.
        with tempfile.TemporaryDirectory() as folder, alone(0):
            path = str(game.write(Path(folder), "game"))
            if self._game is None:
                self._game = self._textworld.start(path, wanted)
            else:
                self._game.load(path)
            self._state = self._game.reset()

    def _objective(self, last: str) -> str:
        """What is to be reached; `last` is the command that reaches it."""
        if self._goal == "brief" and self.kind in ("coin_collector", "treasure_hunter"):
            thing = last.removeprefix("take ").partition(" from ")[0]
            return f"Find the {thing} and take it."
        if self._goal == "brief" and self.kind == "custom":
            return f"What you do in the end is: {last}."
        return str(self._state["objective"])

    @property
    def _plan(self) -> list[str]:
        """Commands that win from here; none where the game is over or cannot be won any more."""
        return list(self._state["policy_commands"] or ())

    @property
    def _over(self) -> bool:
        return bool(self._state["won"] or self._state["lost"])

    @property
    def _score(self) -> int:
        return int(self._state["score"] or 0)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Give the game the command that stands in `<action>`.

        Raises:
            ValueError: the episode is over, or none was begun.
        """
        if not self._playing:
            raise ValueError(f"no game of {self.kind} is being played: call reset() first")
        self.turns += 1
        score = self._score
        content = parse_action(action)
        outcome = Outcome(_MISSING, mistake="unreadable action")
        if content is not None:
            outcome = self._act(" ".join(content.lower().split()))
        if outcome.problem:
            self._shown = outcome.problem
        truncated = not self._over and self.turns >= self.turn_limit
        self._playing = not (self._over or truncated)
        info: Info = self._info() | {"action_valid": not outcome.mistake.endswith("action")}
        info["facts"] |= {"well_formed": content is not None, "nearer": False, **outcome.facts}
        info |= {"mistake": outcome.mistake, "feedback": outcome.problem or outcome.feedback}
        reward = (self._score - score) / max(int(self._state["max_score"]), 1)
        return self._observed(), reward, self._over, truncated, info

    def _act(self, command: str) -> Outcome:
        """Let the game answer, if it is one command to the game."""
        state = self._state
        sensible = command in {known.lower() for known in state["admissible_commands"]}
        verbs: list[str] = state["verbs"]
        if not sensible and (
            len(command) > _LONGEST
            or not _PLAIN.fullmatch(command)
            or " then " in command
            or command.split()[0] not in verbs
        ):
            problem = f"Write one command that begins with {', '.join(verbs[:-1])} or {verbs[-1]}."
            return Outcome(problem, mistake="unreadable action")
        plan, moves = self._plan, state["moves"]
        self._state, _, _ = self._game.step(command)
        self._shown = _tidy(self._state["feedback"])
        if not sensible and self._state["moves"] == moves:
            feedback = f"{command!r} does nothing here."
            return Outcome(feedback=feedback, mistake="impossible action")
        return self._judged(command, plan)

    def _judged(self, command: str, plan: Sequence[str]) -> Outcome:
        """What became of a command, by the plans before and after it."""
        if self._state["won"]:
            return Outcome(feedback=f"{command!r} wins the game.", facts={"nearer": True})
        if self._state["lost"]:
            return Outcome(feedback=f"{command!r} loses the game.", mistake="loses")
        if not self._plan:
            feedback = f"After {command!r} the game can no longer be won."
            return Outcome(feedback=feedback, mistake="cannot be won")
        left = len(self._plan)
        nearer = left < len(plan)
        if nearer:
            mistake, judged = "", "comes nearer"
        elif left == len(plan):
            mistake, judged = "no progress", "comes no nearer"
        else:
            mistake, judged = "leads away", "leads away"
        feedback = f"{command!r} {judged}; {left} to go."
        return Outcome(mistake=mistake, feedback=feedback, facts={"nearer": nearer})

    def legal_actions(self) -> Sequence[str]:
        """The commands that do something here."""
        return list(self._state["admissible_commands"])

    def render(self) -> str:
        """What was read last."""
        return self._observed()

    def close(self) -> None:
        """End the game."""
        self._playing = False
        if self._game is not None:
            self._game.close()
            self._game = None

    def _observed(self) -> str:
        if not self._lists or self._over:
            return self._shown
        return f"{self._shown}\nCommands: {', '.join(self._state['admissible_commands'])}."

    def _info(self) -> Info:
        plan, won = self._plan, bool(self._state["won"])
        info: Info = {
            "task_id": self.task_id,
            "success": won,
            "action_valid": True,
            "facts": {
                "score": self._score,
                "max_score": int(self._state["max_score"]),
                "won": won,
                "lost": bool(self._state["lost"]),
                "solvable": won or bool(plan),
            },
            "metrics": {"turns": float(self.turns), "score": float(self._score)},
        }
        if won or plan:
            info["facts"]["steps_to_go"] = len(plan)
        return info | ({"oracle": "\n".join(plan)} if plan else {})


def _tidy(text: str) -> str:
    """What the game says, without its prompt, status line and blank lines."""
    said = _ENDED.sub("", text.rpartition("\n>")[0] or text)
    return "\n".join(line.strip() for line in said.splitlines() if line.strip())
