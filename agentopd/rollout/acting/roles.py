"""Who writes which turn of an episode, told what, and whose tokens are learnt from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import gymnasium

from agentopd.base.types import Owner, Trajectory, Turn
from agentopd.environment.contract import Info
from agentopd.rollout.acting.earlier import Place

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
        blend: where given, the student writes told and untold at once, see `Mixture.blend`.
    """

    owner: Owner = Owner.STUDENT
    told: bool = False
    share: float = 0.0
    blend: float | None = None

    @property
    def actor(self) -> Owner:
        """Whose sampler is asked: the mixtures' where two write."""
        return self.owner if self.blend is None else Owner.MIXTURE


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


Piece = Literal["episode", "outcome", "feedback", "reflection", "privilege", "phrase"]
"""What of an earlier attempt a later one may be told: `privilege` is what the sources say of it,
`phrase` the words with which the student goes on, as it was solved or not."""


class Recall(Protocol):
    """Puts in words what is known of an attempt once it is over."""

    def told(
        self,
        attempt: Trajectory,
        written: Mapping[Piece, str],
        pieces: Sequence[Piece],
        tokens: int,
    ) -> str:
        """What the next attempt is told of this one; empty where there is nothing to tell.

        Args:
            written: what models wrote of it: a reflection, what the sources of privilege say.
            tokens: the most that is quoted of it.
        """
        ...

    def phrase(self, attempt: Trajectory) -> str:
        """The words with which the student goes on after it."""
        ...

    def asked(
        self, attempt: Trajectory, batch: Sequence[Trajectory], level: int, tokens: int
    ) -> tuple[str, str]:
        """The rules, and the request, under which the student writes its reflection.

        Args:
            batch: all episodes of the step that are over.
            level: what is disclosed to it: 0: the attempt alone; 1: how it ended and what was said
                of it; 2: the best action of each turn; 3: the solution; 4: a solved peer.
        """
        ...

    def foretold(
        self, attempt: Trajectory, advice: str | None, tokens: int
    ) -> tuple[str, str, str]:
        """The rules, the request under which it foresees what will be said, and what was said; of
        an attempt of which nothing was, the last is empty.

        Args:
            advice: what the sources of privilege say of it, which is then what will be said; None
                where they are not asked, and the environment alone says something.
        """
        ...


class Adviser(Protocol):
    """Has the sources of privilege speak of episodes that are over, for whoever acts next."""

    @property
    def sources(self) -> int:
        """How many there are."""
        ...

    @property
    def place(self) -> Place:
        """Where the method's view puts what they say, in a prompt."""
        ...

    def of(
        self,
        about: Sequence[Trajectory],
        batch: Sequence[Trajectory],
        source: int | None = None,
    ) -> dict[int, str]:
        """What is said of each of these episodes, by its number; those of which nothing is said
        are left out.

        Args:
            batch: all episodes of the step that are over.
            source: the number of the one that speaks; all do where not given.
        """
        ...


class Script(Protocol):
    """The turns with which one episode begins, which nobody samples."""

    def line(self, env: gymnasium.Env[str, str], turn: int, info: Info) -> str | list[int] | None:
        """The next answer, given what the environment has just said in `info`: its text without
        the token that ends it, or all of its tokens; None where the script is over.

        Raises:
            ValueError: it has no line where it needs one.
        """
        ...

    def heard(self, turn: int) -> str | None:
        """What the environment said before a turn when it was first played; None where that is not
        known.
        """
        ...


@dataclass(frozen=True)
class Reply:
    """What an environment says after a turn."""

    observation: str = ""
    reward: float = 0.0
    info: Mapping[str, Any] = field(default_factory=lambda: {"success": False})


@dataclass(frozen=True)
class Direction:
    """How an episode is acted; as it is by default, by the student alone.

    Attributes:
        voices: who writes each turn; the last writes all further ones.
        script: what is said before anybody is asked.
        replies: what is said after each turn in place of the environment, which is reset and in
            which no step is made; None where it is played.
        teller: what told voices read; None where nobody is told anything.
        told_history: whether what was told stands in the history that is kept and learnt from;
            otherwise whoever is told reads a history of their own.
        untold: the number of a second record of the episode, where the history that was read and
            the one without what was told are both kept; None where one of them is.
        learnt: whose tokens are learnt from.
        turns: of an episode, where the rollout allows fewer than usual.
        tokens: that may be sampled in the episode; None for no such limit.
    """

    voices: tuple[Voice, ...] = (STUDENT,)
    script: Script | None = None
    replies: Callable[[int], Reply] | None = None
    teller: Teller | None = None
    told_history: bool = False
    untold: int | None = None
    learnt: Collection[Owner] = STUDENTS
    turns: int | None = None
    tokens: int | None = None

    def voice(self, turn: int) -> Voice:
        """Who writes a turn."""
        return self.voices[min(turn, len(self.voices) - 1)]


ALONE = Direction()
"""The student alone."""
