"""Demonstrations in an environment that nobody wrote a player for: its own oracle is the player.

What is said of `agentopd.zoo.demonstrations.told` holds here. What somebody might try is a
legal action, where the environment lists them, and one that an oracle has named elsewhere, where it
does not. No thought stands before an action: nobody knows what would be thought.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal

import gymnasium

from agentopd.environment.contract import (
    HELD_OUT_SEED,
    Info,
    actions,
    declared,
    examples,
    legal_actions,
    system_prompt,
)
from agentopd.environment.settings import EnvSettings
from agentopd.privilege import writer
from agentopd.zoo.demonstrations.episode import UNHEEDED, Form, Piece
from agentopd.zoo.demonstrations.told import Player, ToldDemonstrator

Key = Literal["guide", "reference", "oracle"]
"""What of `info` a teacher is told: advice for all tasks, the task's solution, the next action."""
FORMS: dict[Key, Form] = {"guide": "skill", "reference": "solution", "oracle": "next"}

_ELSEWHERE = 0.4
"""The share of solutions that are of another task, and followed to the letter: who is to read them
must not take them for a sign that one plays well now.
"""
_TASKS = 64
"""Tasks whose oracles' actions are what somebody might try, where no list says that."""


class OracleWanted(ValueError):
    """Nobody can play an environment whose `info` names no next action."""


class OraclePlayer(Player):
    """Plays what the oracle says.

    Args:
        settings: the environment, in its wrappers.

    Raises:
        OracleWanted: it names no next action.
    """

    def __init__(self, settings: EnvSettings) -> None:
        self.known: list[str] = []
        env = settings.build()
        for seed in range(_TASKS):
            _, info = env.reset(seed=seed)
            self.known += dict.fromkeys(oracle_actions(env, info))
        env.close()
        if not self.known:
            raise OracleWanted(
                f"{settings.id} names no next best action in the {_TASKS} tasks that were tried: "
                'let reset and step say it in info["oracle"], from where the episode stands; it is '
                "what the student's demonstrations are played by"
            )

    def best(self, env: gymnasium.Env[str, str], info: Info) -> str:
        """The oracle's next action; where it has none, whatever might be tried."""
        named = oracle_actions(env, info)
        return named[0] if named else self.other(env, info, random.Random(repr(info)))

    def other(self, env: gymnasium.Env[str, str], info: Info, rng: random.Random) -> str:
        """A legal action, or one that some oracle has named."""
        return rng.choice(legal_actions(env) or self.known)

    def thought(self, env: gymnasium.Env[str, str], info: Info, action: str) -> str:
        """None."""
        return ""


def oracle_actions(env: gymnasium.Env[str, str], info: Info) -> list[str]:
    """The actions of `info`'s oracle; none where there is no oracle."""
    plan = info.get("oracle")
    return actions(env, plan) if isinstance(plan, str) else []


class OwnDemonstrator(ToldDemonstrator):
    """Plays training tasks of one environment in its wrappers.

    Args:
        settings: the environment.
        player: how it is played; None plays as its oracle says.
        told: what the student is to heed first. The next action stands behind each observation, and
            so do the words that say nothing; all else stands behind the rules.
        shares, random_share, seed: see `ToldDemonstrator`.
        max_turns: where an episode is left that has not ended by then.

    Raises:
        OracleWanted: see `OraclePlayer`.
    """

    def __init__(
        self,
        settings: EnvSettings,
        player: Player | None,
        told: Key,
        shares: Mapping[Form, float],
        random_share: float,
        seed: int,
        max_turns: int,
    ) -> None:
        self.own = player is None
        plays = player or OraclePlayer(settings)
        super().__init__(settings.id, settings.options, plays, shares, random_share, seed)
        self.env = settings.around(self.env)
        self.told, self.most_turns = told, max_turns

    def _opening(self, text: str) -> list[Piece]:
        rules = f"{system_prompt(self.env)}{text}"
        pieces = [Piece(f"<|system|>{rules}<|end|>", False)] if rules else []
        for asked, answer in examples(self.env):
            shown = f"<|user|>{asked}<|end|><|assistant|>{answer}<|end|>"
            pieces.append(Piece(shown, False))
        return pieces

    def _script(self, form: Form, info: Info) -> tuple[str, list[str]]:
        if self.told == "oracle" and form in UNHEEDED:  # it would stand behind the observations
            return "", []
        if form == "solution" and self.told == "reference" and self.rng.random() < _ELSEWHERE:
            _, other = self.env.reset(seed=self.rng.randrange(HELD_OUT_SEED))
            plan = str(other["reference"])
            return f"\n\n{writer.solution(plan)}", actions(self.env, plan)
        return super()._script(form, info)

    def _whisper(self, form: Form, info: Info, best: str) -> tuple[str, str]:
        if form == "next":
            told = self._other(info) if self.rng.random() < 0.5 else best
            return f"\n\n{writer.next_actions(told)}", told
        if form == "filler" and self.told == "oracle":
            return f"\n\n{self._idle(form, info)}", best
        return super()._whisper(form, info, best)

    def _best(self, info: Info) -> str:
        return self.player.best(self._seen(), info)

    def _other(self, info: Info) -> str:
        return self.player.other(self._seen(), info, self.rng)

    def _reply(self, info: Info, action: str) -> str:
        thought = self.player.thought(self._seen(), info, action)
        form = declared(self.env, "action_form", "<action>{}</action>").replace("{}", action)
        return f"<think>{thought}</think>{form}" if thought else form

    def _seen(self) -> gymnasium.Env[str, str]:
        """The environment as its player knows it: one that was written for it, without wrappers."""
        return self.env if self.own else self.env.unwrapped
