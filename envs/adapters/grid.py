"""MiniGrid and BabyAI in words: `agentopd.make("grid:BabyAI-GoToRedBall-v0")`."""

from __future__ import annotations

from typing import Any

import gymnasium

from agentopd.environment.checks.subject import Caught
from agentopd.environment.contract import Info
from agentopd.envs.adapters import library
from agentopd.envs.adapters.isolation import Isolation
from agentopd.envs.adapters.textualize import Textualize
from agentopd.envs.puzzle import Outcome, Prompt, check_choice

_ACTIONS = {
    "left": 0, "right": 1, "forward": 2, "pickup": 3, "drop": 4, "toggle": 5, "done": 6,
}  # fmt: skip
_UNSEEN = ("unseen", "empty", "floor", "wall", "agent")
"""What is not listed; walls are told by how far the way is free."""
_TRIED = 5
"""Tasks of which BabyAI's limit, another one for each, is taken."""
_DOORS = ("open", "closed", "locked")
_BRIEF = "Grid: do the mission with {actions}."
_RULES = """You carry out a mission in a grid of rooms. You see what lies ahead of you; places are \
counted in steps from where you stand and look.
left and right turn you, forward goes one step; pickup, drop and toggle (doors, boxes) act on the \
cell before you.
You may think first inside <think></think>. End your answer with one action inside \
<action></action>, one of: {actions}."""
_GUIDE = "Turn until what you look for is straight ahead, and walk; toggle closed doors."


def build(
    name: str, *, prompt: Prompt = "full", max_turns: int | None = None, **options: Any
) -> Grid:
    """The environment of `grid:NAME`, an id of minigrid's.

    Args:
        name: as it is registered, `MiniGrid-DoorKey-5x5-v0` for example.
        prompt: the full rules, or one line.
        max_turns: answers before the episode is truncated; if not given, the environment's own
            number, of several the largest that a few tasks have.
        options: the environment's own.

    Raises:
        ValueError: there is no such environment, or minigrid is not installed.
    """
    check_choice("prompt", prompt, ("full", "brief"))
    library("minigrid", "grid")
    if not name.startswith(("MiniGrid-", "BabyAI-")):
        raise ValueError(f"{name!r} is none of minigrid's: names begin with MiniGrid- or BabyAI-")
    env = _Quiet(gymnasium.make(name, disable_env_checker=True, **options))
    limit = _own_limit(env) if max_turns is None else max_turns
    return Grid(env, _RULES if prompt == "full" else _BRIEF, limit)


def _own_limit(env: gymnasium.Env[Any, Any]) -> int:
    """The most steps that the environment allows on a few of its tasks."""
    found = []
    for seed in range(_TRIED):
        env.reset(seed=seed)
        found.append(int(env.unwrapped.max_steps))  # type: ignore[attr-defined]
    return max(found)


class Grid(Textualize):
    """A grid in words; BabyAI's bot is the oracle of BabyAI's own missions."""

    def __init__(self, env: gymnasium.Env[Any, Any], rules: str, limit: int) -> None:
        self._bot: Any = None
        self._advice: int | None = None
        # Some know the first three alone.
        known = {word: a for word, a in _ACTIONS.items() if env.action_space.contains(a)}
        super().__init__(
            env, actions=known, describe=seen, rules=rules, guide=_GUIDE, max_turns=limit
        )

    def _begin(self) -> None:
        # One limit for all tasks; the reward falls with the share of it that was needed.
        self.env.unwrapped.max_steps = self.turn_limit  # type: ignore[attr-defined]
        self._bot, self._advice = None, None
        if hasattr(self.env.unwrapped, "instrs"):
            bots = library("minigrid.utils.baby_ai_bot", "grid")
            self._bot = bots.BabyAIBot(self.env.unwrapped)
            self._ask(None)

    def _ask(self, done: int | None) -> None:
        """Let the bot plan on after the action that was done; it gives up where it is lost."""
        advice, caught = None, Caught()
        with Isolation(0), caught:
            advice = int(self._bot.replan(done))
        self._advice = advice
        if caught.error:
            self._bot = None

    def _act(self, word: str) -> tuple[float, bool, bool, Outcome]:
        advice = self._advice
        reward, terminated, truncated, outcome = super()._act(word)
        if self._bot is None:
            return reward, terminated, truncated, outcome
        self._advice = None
        if not (terminated or truncated):
            self._ask(self.actions[word])
        planned = advice == self.actions[word]
        judged = "follows" if planned else "leaves"
        outcome = Outcome(
            mistake="" if planned else "off the plan",
            feedback=f"{word} {judged} the plan.",
            facts={"planned": planned},
        )
        return reward, terminated, truncated, outcome

    def _info(self) -> Info:
        info = super()._info()
        if self._playing and self._advice is not None:
            info["oracle"] = self._words[self._advice]
        return info


class _Quiet(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Swallows what the environment prints."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        with Isolation(0):
            return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        with Isolation(0):
            return self.env.step(action)


def seen(env: gymnasium.Env[Any, Any], observation: Any) -> str:
    """The mission, what is carried and what is in view, nearest first."""
    names = library("minigrid.core.constants", "grid")
    image = observation["image"]
    width, depth = image.shape[:2]
    listed: list[tuple[int, str]] = []
    for across in range(width):
        for down in range(depth):
            kind, colour, state = (int(number) for number in image[across, down])
            side, ahead = across - width // 2, depth - 1 - down
            what = names.IDX_TO_OBJECT[kind]
            if what in _UNSEEN or (side, ahead) == (0, 0):
                continue
            door = f"{_DOORS[state]} " if what == "door" else ""
            text = f"{door}{names.IDX_TO_COLOR[colour]} {what} {_place(side, ahead)}"
            listed.append((abs(side) + ahead, text))
    carried: Any = env.unwrapped.carrying  # type: ignore[attr-defined]
    hands = f"You carry a {carried.color} {carried.type}. " if carried else ""
    free = 0
    while free + 1 < depth and names.IDX_TO_OBJECT[int(image[width // 2, depth - 2 - free, 0])] in (
        "empty", "floor", "goal",
    ):  # fmt: skip
        free += 1
    view = "; ".join(text for _, text in sorted(listed)) or "nothing"
    return f"Mission: {observation['mission']}. {hands}Free ahead: {free}. In view: {view}."


def _place(side: int, ahead: int) -> str:
    across = f"{abs(side)} {'left' if side < 0 else 'right'}" if side else ""
    return " ".join(filter(None, (f"{ahead} ahead" if ahead else "", across)))
