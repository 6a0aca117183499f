"""Who writes which turn of an episode, told what, and whose tokens are learnt from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import gymnasium

from agentopd.base.types import Owner, Turn
from agentopd.environment.contract import Info

STUDENTS = frozenset({Owner.STUDENT, Owner.MIXTURE})
"""Those in whose tokens the student has a say."""


@dataclass(frozen=True, slots=True)
class Voice:
    """Who writes a turn.

    Attributes:
        owner: the student, the teacher, or a mixture of both.
        told: whether it reads what `Direction.teller` tells; of a mixture, whether the teacher
            does.
        share: the teacher's, in every token of a mixture.
    """

    owner: Owner = Owner.STUDENT
    told: bool = False
    share: float = 0.0


STUDENT = Voice()


class Telling(Protocol):
    """What one episode's actor is told beside what the environment says."""

    def begin(
        self, env: gymnasium.Env[str, str], prompt: Info, system: str, observation: str
    ) -> tuple[str, str]:
        """The rules and the first observation, with what is told in them.

        Raises:
            ValueError: there is nothing to tell.
        """
        ...

    def observe(self, turns: Sequence[Turn], observation: str) -> str:
        """An observation after these turns, with what is told in it."""
        ...


class Teller(Protocol):
    """Begins tellings, one an episode."""

    def __call__(self) -> Telling:
        """What is told in a new episode."""
        ...


class Script(Protocol):
    """The turns with which an episode begins, which nobody samples."""

    def line(self, env: gymnasium.Env[str, str], turn: int, info: Info) -> str | None:
        """The next answer, without the token that ends it, given what the environment has just said
        in `info`; None where the script is over.
        """
        ...

    def heard(self, turn: int) -> str | None:
        """What the environment said before a turn when it was first played; None where that is not
        known.
        """
        ...


@dataclass(frozen=True)
class Direction:
    """How an episode is acted; as it is by default, by the student alone.

    Attributes:
        voices: who writes each turn; the last writes all further ones.
        script: what is said before anybody is asked.
        teller: what told voices read; None where nobody is told anything.
        told_history: whether what was told stands in the history that is kept and learnt from;
            otherwise whoever is told reads a history of their own.
        learnt: whose tokens are learnt from.
        turns: of an episode, where the rollout allows fewer than usual.
        tokens: that may be sampled in the episode; None for no such limit.
    """

    voices: tuple[Voice, ...] = (STUDENT,)
    script: Script | None = None
    teller: Teller | None = None
    told_history: bool = False
    learnt: Collection[Owner] = STUDENTS
    turns: int | None = None
    tokens: int | None = None

    def voice(self, turn: int) -> Voice:
        """Who writes a turn."""
        return self.voices[min(turn, len(self.voices) - 1)]


ALONE = Direction()
"""The student alone."""


