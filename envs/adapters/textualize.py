"""Words for any Gymnasium environment with discrete actions.

    env = Textualize(
        gymnasium.make("CliffWalking-v1"),
        rules="Walk to the bottom right corner, around the cliff.",
        describe=lambda env, place: f"You are in row {place // 12}, column {place % 12}.",
        actions={"up": 0, "right": 1, "down": 2, "left": 3},
    )

The oracle of a tabular environment (`env.unwrapped.P` and `.s`, as in Gymnasium's toys) is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import gymnasium

from agentopd.environment.contract import Info, TextEnv, parse_action
from agentopd.envs.adapters.ansi import marked
from agentopd.envs.adapters.planning import Planner, Table
from agentopd.envs.puzzle import Outcome, check_number

Describe = Callable[[gymnasium.Env[Any, Any], Any], str]
"""An environment and what it observed, in words."""

_LONGEST = 100
_MISSING = "No <action></action> in the answer."


def drawn(env: gymnasium.Env[Any, Any], observation: Any) -> str:
    """What `render` draws, of an environment made with `render_mode="ansi"`."""
    return str(env.render())


def gained(reward: float) -> bool:
    """Whether the last reward is above 0."""
    return reward > 0


class Textualize(TextEnv):
    """A Gymnasium environment in words: one action a turn, its rewards as they are.

    Args:
        env: the environment; its time limit truncates as `max_turns` does.
        actions: word -> action, without spaces; case does not matter.
        describe: what is observed, in words; if not given, what the environment draws as text.
            Colours become words in brackets, `[F on red]`.
        rules: the system prompt. `{actions}` in it becomes the words.
        guide: advice that holds for every task.
        max_turns: answers before the episode is truncated, those too that cannot be read; the
            environment's time limit if not given, or 100.
        success: whether an episode that ended with this reward solved its task.

    Raises:
        ValueError: an action's name is no single word or names two, an action is none of the
            environment's, there is nothing to describe it with, or `max_turns` is below 1.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        *,
        actions: Mapping[str, Any],
        describe: Describe = drawn,
        rules: str = "Choose one of: {actions}. Write it inside <action></action>.",
        guide: str = "",
        max_turns: int | None = None,
        success: Callable[[float], bool] = gained,
    ) -> None:
        self.env, self._describe, self._solves = env, describe, success
        self.name = env.spec.id if env.spec else type(env.unwrapped).__name__
        self.actions = self._named(actions)
        if describe is drawn and env.render_mode != "ansi":
            raise ValueError(_undrawn(env, self.name))
        own = env.spec.max_episode_steps if env.spec else None
        limit = (own or _LONGEST) if max_turns is None else max_turns
        check_number("max_turns", limit, 1)
        self.max_turns = self.turn_limit = limit
        self.system_prompt = rules.replace("{actions}", ", ".join(self.actions))
        self._guide = guide
        table: Table = getattr(env.unwrapped, "P", {})
        # An array has no hash, and no oracle names it.
        self._words = {a: word for word, a in self.actions.items() if isinstance(a, Hashable)}
        named = table and set(table[0]) <= set(self._words)
        self.planner = Planner(table, limit) if named else None
        self.stochastic = self.planner is not None and not self.planner.deterministic
        self.turns = 0
        self._playing = False

    def _named(self, actions: Mapping[str, Any]) -> dict[str, Any]:
        """The actions by their words in small letters."""
        named: dict[str, Any] = {}
        for word, action in actions.items():
            if word.split() != [word]:
                raise ValueError(
                    f"the action {word!r} is no single word: an oracle is split at spaces"
                )
            if word.lower() in named:
                raise ValueError(
                    f"two actions are called {word.lower()!r}, as case does not matter: rename one"
                )
            if not self.env.action_space.contains(action):
                raise ValueError(
                    f"the action {word!r} stands for {action!r}, which is none of {self.name}'s: "
                    f"they are {self.env.action_space}"
                )
            named[word.lower()] = action
        if not named:
            raise ValueError(f"there are no actions to play {self.name} with: name some")
        return named

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Start the task of `seed`; options, where there are any, are the environment's own."""
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        # Some environments take an empty dictionary for a choice: NetHack's reset fails of it.
        self._seen, _ = self.env.reset(seed=number, options=options or None)
        self.turns, self._playing, self._solved = 0, True, False
        self._begin()
        fixed = self.planner is not None and self.planner.deterministic
        self.task_id = f"{self.name}/" + (f"from {self._state}" if fixed else f"seed {number}")
        info = self._info()
        plan = info["oracle"] if fixed else ""
        told = {"skill": self.name, "reference": plan, "guide": self._guide}
        return self._show(), info | {key: text for key, text in told.items() if text}

    def _begin(self) -> None:
        """What a kind of its own does once an episode has begun."""

    @property
    def _state(self) -> int:
        return int(self.env.unwrapped.s)  # type: ignore[attr-defined]

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Do the action that the answer names; an answer that names none changes nothing.

        Raises:
            ValueError: the episode is over, or none was begun.
        """
        if not self._playing:
            raise ValueError(f"no episode of {self.name} is being played: call reset() first")
        self.turns += 1
        content = parse_action(action)
        word = " ".join((content or "").lower().split())
        reward, terminated = 0.0, False
        if word in self.actions:
            reward, terminated, truncated, outcome = self._act(word)
        else:
            listed = ", ".join(self.actions)
            problem = f"{word[:20]!r} is not one of: {listed}."
            outcome = Outcome(_MISSING if content is None else problem, mistake="unreadable action")
            truncated = False
        truncated = not terminated and (truncated or self.turns >= self.turn_limit)
        self._playing = not (terminated or truncated)
        info: Info = self._info() | {
            "action_valid": not outcome.problem,
            "mistake": outcome.mistake,
            "feedback": outcome.problem or outcome.feedback,
        }
        info["facts"] |= {**outcome.facts, "well_formed": not outcome.problem}
        if "oracle" in info and not self._playing:
            del info["oracle"]
        shown = "\n".join(filter(None, (outcome.problem, self._show())))
        return shown, reward, terminated, truncated, info

    def _act(self, word: str) -> tuple[float, bool, bool, Outcome]:
        """Reward, terminated, truncated, and what became of the action."""
        best: list[int] = []
        if self.planner:
            best = self.planner.best(self._state, self.turn_limit - self.turns + 1)
        action = self.actions[word]
        self._seen, reward, terminated, truncated, _ = self.env.step(action)
        self._solved = bool(terminated and self._solves(float(reward)))
        if not best:
            return float(reward), bool(terminated), bool(truncated), Outcome()
        good = action in best
        ended = f"it ends {'well' if self._solved else 'badly'}." if terminated else ""
        left = self.turn_limit - self.turns
        if not terminated and self.planner and self.planner.deterministic:
            ended = f"{len(self.planner.plan(self._state, left))} to go."
        judged = f"{word} was {'the best' if good else 'not the best'} action"
        feedback = f"{judged}; {ended}" if ended else f"{judged}."
        mistake = "" if good else "not the best"
        outcome = Outcome(mistake=mistake, feedback=feedback, facts={"best": good})
        return float(reward), bool(terminated), bool(truncated), outcome

    def legal_actions(self) -> Sequence[str]:
        """The words."""
        return list(self.actions)

    def render(self) -> str:
        """The state as it stands."""
        return self._show()

    def close(self) -> None:
        """Close the environment inside."""
        self.env.close()

    def _show(self) -> str:
        return marked(self._describe(self.env, self._seen)).strip("\n")

    def _info(self) -> Info:
        info: Info = {
            "task_id": self.task_id,
            "success": self._solved,
            "action_valid": True,
            "facts": {},
            "metrics": {"turns": float(self.turns)},
        }
        left = self.turn_limit - self.turns
        if self.planner and self._playing and left:
            plan = self.planner.plan(self._state, left)
            info["oracle"] = " ".join(self._words[action] for action in plan)
            info["facts"]["value"] = self.planner.value(self._state, left)
            if self.planner.deterministic:
                info["facts"]["moves_left"] = len(plan)
        return info


def _undrawn(env: gymnasium.Env[Any, Any], name: str) -> str:
    """Why `drawn` cannot describe an environment, and what can."""
    if "ansi" in env.metadata.get("render_modes", ()):
        made = f"made with render_mode={env.render_mode!r}: make it with render_mode='ansi'"
    else:
        made = "not drawn as text"
    return f"{name} is {made}, or put what is observed into words: describe=lambda env, seen: ..."
