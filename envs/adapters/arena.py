"""TextArena's games for one player: `agentopd.make("textarena:GuessTheNumber-v0")`.

Every episode plays a fresh game without TextArena's own wrappers, whose history outlives a reset.
The game's messages since the last answer are the observation, its rules the first of them: they
hold the task itself in many games (numbers, clues, the board), which no system prompt may.

What is mapped: an answer the game refuses costs a turn and never ends the episode (TextArena ends
it at the second in a row); the turn limit is ours, counts every answer and truncates a game that is
not over (TextArena's counts the valid ones, is off by one and ends the game); draws come from a
random state of the episode's own (TextArena seeds the process's); what a game prints is swallowed.
The reward is the game's own, given at its end; the whole of it, 1, is success.
"""

from __future__ import annotations

import inspect
import math
import random
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

import yaml

from agentopd.environment.contract import Info, TextEnv, parse_action
from agentopd.environment.splits import split_of
from agentopd.envs.adapters.arena_library import find_game, foreign, reason
from agentopd.envs.adapters.arena_oracles import KNOWN
from agentopd.envs.adapters.duels.env import Duel
from agentopd.envs.adapters.isolation import Isolation
from agentopd.envs.puzzle import SPLITS, Outcome, Prompt, Split, check_choice, check_number

_LONGEST = 1_000
"""Answers where a game has no limit of its own."""
_ATTEMPTS = 500
_SHARES = {"train": 3, "validation": 1, "test": 1}
"""Of few tasks, a tenth may be none."""
_ANSWER = """You play a game, one move a turn; its rules follow.
You may think first inside <think></think>. End your answer with your move inside \
<action></action>; its square brackets may be left out."""
_EXAMPLE = " For example\n<action>{}</action>."
_BRIEF = "Play the game: one move inside <action></action>."
_MISSING = "No <action></action> in the answer."
_COUNTING = ("LightsOut",)
"""Games that count the turns themselves: an end on the last one is the limit's."""
_REFUSAL = re.compile(r"Reason: (.*?) Please resubmit", re.DOTALL)
"""The part of a refusal that says what was wrong."""


def build(name: str, **options: Any) -> Arena | Duel:
    """The environment of `textarena:NAME`; see `Arena`, and with an `opponent` see `Duel`.

    Options may stand in the name too: `textarena:Nim-v0?opponent=random&seat=0`.

    Raises:
        ValueError: an option there is not written KEY=VALUE, or is given twice; or see the classes.
    """
    name, asked, query = name.partition("?")
    given = {**_options(name, query), **options} if asked else options
    if clash := sorted({*options} & {*_options(name, query)}):
        raise ValueError(f"{name} is given {clash[0]!r} in its name and as an option: leave one")
    return Duel(name, **given) if {"opponent", "seat"} & {*given} else Arena(name, **given)


def _options(name: str, query: str) -> dict[str, Any]:
    """What stands behind the question mark of a name; values are YAML.

    Raises:
        ValueError: it is no list of KEY=VALUE, or a value is no YAML.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
        found = {key: yaml.safe_load(value) for key, value in pairs}
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"textarena:{name}?{query}: write options as KEY=VALUE, with & between them, as in "
            f"textarena:{name}?opponent=random&seat=0"
        ) from error
    if len(found) < len(pairs):
        raise ValueError(f"textarena:{name}?{query}: an option stands there twice, leave one")
    return found


class Arena(TextEnv):
    """A game of TextArena for one player.

    Args:
        name: as TextArena registers it, without -raw and -train.
        max_turns: answers before the episode is truncated; the game's own number if not given.
        prompt: the game's own rules as first observation; or, of games that `KNOWN` knows, one line
            as system prompt, for models that were trained on the game.
        split: of games that `KNOWN` knows, which tasks `reset(seed=...)` draws; splits never share
            one. If not given, seeds are TextArena's.
        game: options of the game itself, `min_number=1` for example.

    Raises:
        ValueError: there is no such game or option, the game takes more players or the network, or
            something that it needs is missing.
    """

    def __init__(
        self,
        name: str,
        *,
        max_turns: int | None = None,
        prompt: Prompt = "full",
        split: Split | None = None,
        **game: Any,
    ) -> None:
        check_choice("prompt", prompt, ("full", "brief"))
        check_choice("split", split, (*SPLITS, None))
        self.name, self.split = name, split
        self.skill = name.partition("-v")[0]
        self._knows = KNOWN.get(self.skill)
        if split is not None and self._knows is None:
            raise ValueError(f"{name} has no splits: leave split out, and keep seeds for tests")
        self._type, self._options = find_game(name, game)
        takes_limit = "max_turns" in inspect.signature(self._type).parameters
        if max_turns is not None:
            check_number("max_turns", max_turns, 1)
            if takes_limit:
                self._options = {**self._options, "max_turns": max_turns}
        made = self._make(Isolation(0))
        self.turn_limit = max_turns or (int(made.max_turns) if takes_limit else _LONGEST)
        self.max_turns = self.turn_limit
        self._brief = prompt == "brief"
        self.system_prompt = self._prompt(made)
        self.turns = 0
        self._playing = False

    def _make(self, isolation: Isolation) -> Any:
        with foreign(isolation) as caught:
            return self._type(**self._options)
        raise ValueError(f"{self.name} cannot be played here: {reason(caught.error)}")

    def _prompt(self, game: Any) -> str:
        if self._brief:
            return self._knows.rules(game) if self._knows else _BRIEF
        return _ANSWER + (_EXAMPLE.format(self._knows.example) if self._knows else "")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Start the game of `seed`.

        Raises:
            ValueError: options are given, the game cannot be set up, or the split has no task.
        """
        super().reset(seed=seed)
        if options:
            raise ValueError(f"a game of TextArena takes no options at reset, got {options}")
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        self.task_id = self._draw(number)
        self.turns, self._playing = 0, True
        told = {"skill": self.skill}
        if self._knowledge:
            path = " ".join(self._knowledge.solution())
            told |= {"guide": self._knowledge.guide, "reference": path}
            if self._brief:
                self._heard()
                return self._knowledge.opening(), self._info() | told
        return self._heard(), self._info() | told

    def _draw(self, number: int) -> str:
        """Set up the game of seed `number`; the task's name."""
        if self.split is None:
            self._start(number)
        else:
            rng = random.Random(f"{self.name}/{self.split}/{number}")
            for _ in range(_ATTEMPTS):
                self._start(rng.randrange(2**31))
                assert self._knowledge is not None
                if split_of(self.name, self._knowledge.key, _SHARES) == self.split:
                    break
            else:
                raise ValueError(f"no task of {self.name} lies in the split {self.split!r}")
        named = self._knowledge.task if self._knowledge else str(number)
        return f"{self.name}/{self.split or 'any'}/{named}"

    def _start(self, seed: int) -> None:
        self._isolation = Isolation(seed)
        self._game = self._make(self._isolation)
        with foreign(self._isolation) as caught:
            self._game.reset(num_players=1, seed=seed)
        if caught.error:
            raise ValueError(f"{self.name} cannot be played here: {reason(caught.error)}")
        # Invalid answers and the turn limit are ours to count.
        self._game.state.error_allowance = self._game.state.max_turns = math.inf
        self._knowledge = self._knows(self._game) if self._knows else None

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Hand the game what stands in `<action>`, in brackets if it has none.

        Raises:
            ValueError: the episode is over, or none was begun.
        """
        if not self._playing:
            raise ValueError(f"no episode of {self.name} is being played: call reset() first")
        self.turns += 1
        content = parse_action(action)
        if content is None:
            shown, outcome = _MISSING, Outcome(_MISSING, mistake="unreadable action")
        else:
            shown, outcome = self._play(content)
        over, score = self._score
        success = over and score >= 1
        late = not success and self.turns >= self.turn_limit
        truncated = late and (not over or self.skill in _COUNTING)
        self._playing = not (over or truncated)
        info: Info = self._info() | {"action_valid": not outcome.problem}
        if self._knowledge:
            info["facts"] |= {**self._knowledge.unread, **outcome.facts}
            info["facts"]["well_formed"] = not outcome.problem
        info |= {"mistake": outcome.mistake, "feedback": outcome.problem or outcome.feedback}
        return shown, score, over and not truncated, truncated, info

    def legal_actions(self) -> Sequence[str] | None:
        """The moves of a game that is known; see `agentopd.envs.adapters.arena_oracles`."""
        return self._knowledge.legal() if self._knowledge else None

    def _play(self, content: str) -> tuple[str, Outcome]:
        """What the game says to a move, and what became of it."""
        with foreign(self._isolation) as caught:
            self._game.step(content if "[" in content else f"[{content}]")
        shown = self._heard()
        state = self._game.state
        if caught.error or state.error_count:
            found = None if caught.error else _REFUSAL.search(shown)
            problem = found[1] if found else f"{content[:20]!r} is refused."
            shown = shown if shown and not self._brief else problem
            return shown, Outcome(problem, mistake="refused action")
        reason = str(state.game_info[0].get("reason") or "") if state.done else ""
        shown = "\n".join(filter(None, (shown, reason)))
        if self._knowledge:
            return shown, self._knowledge.judge(content)
        ended = f"It ends with {self._score[1]:.2f} of 1: {reason}" if state.done else ""
        return shown, Outcome(feedback=ended)

    def _heard(self) -> str:
        """The game's messages since the last call; some games post what is no text."""
        said = self._game.get_observation()[1]
        return "\n".join(str(text) for source, text, _ in said if source == -1)

    @property
    def _score(self) -> tuple[bool, float]:
        """Whether the game is over, and its reward: 0 before."""
        state = self._game.state
        return bool(state.done), float((state.rewards or {}).get(0, 0) if state.done else 0)

    def _info(self) -> Info:
        over, score = self._score
        info: Info = {
            "task_id": self.task_id,
            "success": over and score >= 1,
            "action_valid": True,
            "metrics": {"turns": float(self.turns), "score": score},
        }
        if self._knowledge:
            info["facts"] = self._knowledge.facts()
            if not over and (plan := self._knowledge.plan()):
                info["oracle"] = " ".join(plan)
        return info
