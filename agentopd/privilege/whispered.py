"""Environments in which an actor is told what a teacher would be, as far as it is known by then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from agentopd.base.types import EndReason, Privilege, Trajectory, Turn
from agentopd.environment.contract import Info, system_prompt
from agentopd.environment.settings import EnvSettings
from agentopd.privilege.base import Source
from agentopd.privilege.view import EveryTurnView, SystemView

Told = SystemView | EveryTurnView
"""The views in which an actor could read what is said: where it is put is known by then."""


class Whispered(EnvSettings):
    """Environments whose texts end with what the sources say of the task, where `view` puts it."""

    sources: tuple[Source, ...]
    view: Told

    def around(self, env: gymnasium.Env[str, str]) -> gymnasium.Env[str, str]:
        """See `EnvSettings.around`."""
        return WhisperingEnv(super().around(env), self.sources, self.view)


class Whisper:
    """What one episode's actor is told: text where the view would have inserted it.

    What is about the whole episode is what the sources say before any turn is played: a text that
    looks back does not exist yet. What is about a turn is what they say when it begins.
    """

    def __init__(self, sources: Sequence[Source], view: Told) -> None:
        self.sources, self.view = sources, view
        self._prompt: Info = {}
        self._always: list[str] = []

    def begin(
        self, env: gymnasium.Env[str, str], prompt: Info, system: str, observation: str
    ) -> tuple[str, str]:
        """The rules and the first observation, with what is told in them.

        Raises:
            ValueError: no source has anything to say.
        """
        for source in self.sources:
            source.enter(env)
        self._prompt, known = prompt, self._heard(prompt, ())
        self._always = [p.text for privileges in known for p in privileges or ()]
        shown = self.observe((), observation)
        if all(privileges is None for privileges in known) and shown == observation:
            raise ValueError("no source has anything to say before the episode is played")
        if isinstance(self.view, SystemView):
            system = self._joined(system, self._always)
        return system, shown

    def observe(self, turns: Sequence[Turn], observation: str) -> str:
        """An observation after these turns, with what is told before its answer."""
        if not isinstance(self.view, EveryTurnView):
            return observation
        now = len(turns)
        heard = self._heard(self._prompt, (*turns, _turn(now, "", 0.0, {})))
        of_turn = [p.text for privileges in heard for p in privileges or () if p.turn == now]
        return self._joined(observation, [*self._always, *of_turn])

    def _heard(self, prompt: Info, turns: Sequence[Turn]) -> list[tuple[Privilege, ...] | None]:
        so_far = _so_far(prompt, turns)
        return [source.whisper(so_far, ()) for source in self.sources]

    def _joined(self, text: str, texts: Sequence[str]) -> str:
        return text + (self.view.separator + "\n".join(texts) if texts else "")


class WhisperingEnv(gymnasium.Wrapper[str, str, str, str]):
    """Adds to its texts what a `Whisper` tells."""

    def __init__(self, env: gymnasium.Env[str, str], sources: Sequence[Source], view: Told) -> None:
        super().__init__(env)
        self.sources, self.view = sources, view
        self.system_prompt = ""
        self._turns: list[Turn] = []
        self._whisper = Whisper(sources, view)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        observation, prompt = self.env.reset(seed=seed, options=options)
        self._turns = []
        rules = system_prompt(self.env)
        self.system_prompt, shown = self._whisper.begin(self.env, prompt, rules, observation)
        return shown, prompt

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._turns.append(_turn(len(self._turns), action, float(reward), info))
        over = terminated or truncated
        shown = observation if over else self._whisper.observe(self._turns, observation)
        return shown, float(reward), terminated, truncated, info


def _turn(index: int, action: str, reward: float, info: Info) -> Turn:
    return Turn(
        index=index,
        observation="",
        action=action,
        start=0,
        act=0,
        stop=0,
        cut=False,
        reward=reward,
        info=info,
    )


def _so_far(prompt: Info, turns: Sequence[Turn]) -> Trajectory:
    """A trajectory of which nothing is known but what the environment said."""
    empty: Callable[..., Any] = np.empty
    return Trajectory(
        ids=empty(0, np.int64),
        turn=empty(0, np.int32),
        trainable=empty(0, np.bool_),
        owner=empty(0, np.uint8),
        logprob=empty(0, np.float32),
        messages=(),
        turns=tuple(turns),
        segments=(),
        env="",
        episode=0,
        task=0,
        seed=0,
        end=EndReason.TRUNCATED,
        prompt=prompt,
    )
