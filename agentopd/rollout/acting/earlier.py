"""What is known of earlier attempts, told in a later one's prompt; and questions about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium

from agentopd.base.types import Trajectory, Turn
from agentopd.environment.contract import Info, TextEnv
from agentopd.environment.settings import EnvSettings
from agentopd.environment.wrappers import Env

Place = Literal["system", "observation"]
"""Where it stands: behind the rules, or behind the first observation."""


@dataclass(frozen=True)
class Told:
    """One text, told at the start. It is a `Telling`."""

    text: str
    place: Place

    def begin(
        self, env: gymnasium.Env[str, str], prompt: Info, system: str, observation: str
    ) -> tuple[str, str]:
        """See `Telling.begin`."""
        if self.place == "system":
            return _joined(system, self.text), observation
        return system, _joined(observation, self.text)

    def observe(self, turns: Sequence[Turn], observation: str) -> str:
        """See `Telling.observe`: nothing more is told."""
        return observation


@dataclass(frozen=True)
class Given:
    """One answer, which nobody samples. It is a `Script`."""

    answer: str

    def line(self, env: gymnasium.Env[str, str], turn: int, info: Info) -> str:
        """See `Script.line`."""
        return self.answer

    def heard(self, turn: int) -> None:
        """See `Script.heard`: nobody has answered before."""


@dataclass(frozen=True)
class Question:
    """What the student is asked about an attempt.

    Attributes:
        about: the attempt.
        answer: what the student should answer; None where it answers for itself.
        version: of several questions of one kind about the attempt, which, counted from 0.
    """

    about: Trajectory
    system: str
    request: str
    answer: str | None = None
    version: int = 0


class Questions(EnvSettings):
    """Environments that ask once, the question whose place the seed is, and end with the answer."""

    asked: tuple[Question, ...]

    def bare(self, **more: Any) -> Env:
        """See `EnvSettings.bare`."""
        return _QuestionEnv(self.asked)

    def around(self, env: Env) -> Env:
        """See `EnvSettings.around`: what asks has no wrappers."""
        return env


class _QuestionEnv(TextEnv):
    """Asks one of several questions."""

    def __init__(self, asked: Sequence[Question]) -> None:
        self.asked = asked

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        super().reset(seed=seed)
        question = self.asked[seed or 0]
        self.system_prompt = question.system
        return question.request, dict(question.about.prompt)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        return "", 0.0, True, False, {"success": False}


def _joined(text: str, told: str) -> str:
    return "\n\n".join(filter(None, (text, told)))
