"""Tasks of reasoning-gym, a question and an answer: `agentopd.make("reasoning:chain_sum")`.

All 106 data sets of 0.1.25 run, `composite` once it is told of which. Copies, by `copy` and
`pickle`, are for all but `arc_1d` and `string_manipulation`, which hold functions without a name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from agentopd.environment.checks.subject import Caught
from agentopd.environment.contract import Info, TextEnv, parse_action
from agentopd.envs.adapters import library
from agentopd.envs.adapters.isolation import Isolation
from agentopd.envs.puzzle import Prompt, check_choice, check_number

_SOLVED = 0.99
"""The score from which an answer is right; some scores are off by rounding."""
_RULES = """You solve a task.
You may think first inside <think></think>. End your answer with the solution alone inside \
<action></action>."""
_BRIEF = "Solve the task: the answer inside <action></action>."
_MISSING = "No <action></action> in the answer."


def build(name: str, **options: Any) -> Reasoning:
    """The environment of `reasoning:NAME`; see `Reasoning`."""
    return Reasoning(name, **options)


def _factory() -> Any:
    """The module that makes data sets; it cannot be copied with an environment that holds it."""
    return library("reasoning_gym.factory", "reasoning")


def _with_parts(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a composite as reasoning-gym takes them, from those a file can hold."""
    part = library("reasoning_gym.composite", "reasoning").DatasetSpec
    parts = [part(**{"weight": 1, "config": {}, **given}) for given in config.get("datasets", ())]
    return {**config, "datasets": parts}


class Reasoning(TextEnv):
    """One task of reasoning-gym; a wrong answer may be mended while turns are left.

    Args:
        name: of the data set.
        max_turns: answers before the episode is truncated.
        prompt: with the form of answers, or one line.
        config: of the data set, `min_terms=2` for example. `composite` draws from several:
            `datasets=[{"name": "chain_sum", "weight": 2, "config": {"min_terms": 2}}, ...]`, where
            `weight` is 1 and `config` empty if not given.

    Raises:
        ValueError: there is no such data set or setting, or reasoning-gym is not installed.
    """

    action_between = None

    def __init__(
        self, name: str, *, max_turns: int = 1, prompt: Prompt = "full", **config: Any
    ) -> None:
        check_choice("prompt", prompt, ("full", "brief"))
        check_number("max_turns", max_turns, 1)
        known = _factory().DATASETS
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {close[0]}?" if close else "its gallery lists them"
            raise ValueError(f"reasoning-gym has no data set {name!r}; {hint}")
        self.name, self._config = name, config
        self.turn_limit = self.max_turns = max_turns
        self.system_prompt = _RULES if prompt == "full" else _BRIEF
        self.turns = 0
        self._playing = False
        self._draw(0)

    def _draw(self, seed: int) -> None:
        self._isolation, caught = Isolation(seed, numpy=True), Caught()
        with self._isolation, caught:
            config = _with_parts(self._config) if self.name == "composite" else self._config
            tasks = _factory().create_dataset(self.name, seed=seed, size=1, **config)
            self._tasks, self._task = tasks, tasks[0]
        if caught.error:
            raise ValueError(
                f"reasoning-gym makes no task of {self.name} with {self._config}: {caught.error}"
            )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Ask the question of `seed`.

        Raises:
            ValueError: options are given, or the data set makes no task of its settings.
        """
        super().reset(seed=seed)
        if options:
            raise ValueError(f"a task of reasoning-gym takes no options at reset, got {options}")
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        self._draw(number)
        self.task_id = f"{self.name}/{number}"
        self.turns, self._playing, self._score, self._best = 0, True, 0.0, 0.0
        info: Info = self._info() | {"skill": self.name}
        if self._gold:
            info["reference"] = self._gold
        return str(self._task["question"]), info

    @property
    def _gold(self) -> str:
        """The right answer; empty where the data set has none to show."""
        return str(self._task["answer"] or "").strip()

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Score what stands in `<action>`; its score is the reward.

        Raises:
            ValueError: the episode is over, or none was begun.
        """
        if not self._playing:
            raise ValueError(f"no task of {self.name} is being solved: call reset() first")
        self.turns += 1
        content = parse_action(action)
        self._score = 0.0 if content is None else self._scored(content)
        self._best = max(self._best, self._score)
        solved = self._score >= _SOLVED
        truncated = not solved and self.turns >= self.turn_limit
        self._playing = not (solved or truncated)
        info: Info = self._info() | {"action_valid": content is not None}
        info["facts"]["well_formed"] = content is not None
        if content is None:
            shown, info["mistake"], info["feedback"] = _MISSING, "unreadable action", _MISSING
        else:
            shown = "Right." if solved else f"Not right yet: the score is {self._score:.2f} of 1."
            info["mistake"] = "" if solved else "wrong answer"
            judged = "right" if solved else "wrong"
            info["feedback"] = f"{content[:40]!r} is {judged} and scores {self._score:.2f}."
        return shown, self._score, solved, truncated, info

    def _scored(self, answer: str) -> float:
        """The data set's own score; 0 where it stumbles over the answer."""
        score, caught = 0.0, Caught()
        with self._isolation, caught:
            score = float(self._tasks.score_answer(answer, self._task))
        return score

    def render(self) -> str:
        """The question."""
        return str(self._task["question"])

    def _info(self) -> Info:
        solved = self._score >= _SOLVED
        info: Info = {
            "task_id": self.task_id,
            "success": solved,
            "action_valid": True,
            "facts": {"score": self._score, "best_score": self._best},
            "metrics": {"turns": float(self.turns), "score": self._score},
        }
        return info | ({"oracle": self._gold} if self._gold and not solved else {})
