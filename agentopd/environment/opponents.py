"""Who plays against the student in a game for two, inside the environment.

An opponent is a part: `random`, `scripted`, `model`, `server`, `self`, or `module:Class` of one's
own. An environment for two seats it anew in every episode, hands it what the game tells its side,
and plays its answers: to the student they are observations, and none of its tokens is the
student's.

What an opponent fails to do is never laid to the student: an answer that the game refuses is asked
for again, then a legal move of chance takes its place and is counted; where no legal move is known,
or the opponent itself breaks down, `OpponentFailed` costs the episode, which is then in no group
and in no lesson.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import Field, ValidationError

from agentopd.base.parts import Part, closest

_LATE = {
    "model": "agentopd.rollout.opponents.model:ModelOpponent",
    "server": "agentopd.rollout.opponents.served:ServedOpponent",
    "self": "agentopd.rollout.opponents.rival:SelfOpponent",
}
"""Kinds that stand on models or servers, which are imported when one of them is named."""
_FORM = "<action>{}</action>"


class OpponentFailed(ValueError):
    """An opponent does not play; the message is one line that names it."""


@dataclass(frozen=True)
class Asked:
    """A move that an opponent is asked for.

    Attributes:
        observation: what the game has told its side since its last answer.
        legal: the moves that may be made, each as `<action>` holds it; empty where the game does
            not say.
        policy: how an exact player would choose, searching so many moves ahead (None for as many as
            the game allows): a probability for each move worth making; empty where nobody knows.
    """

    observation: str
    legal: tuple[str, ...]
    policy: Callable[[int | None], Mapping[str, float]]


@dataclass(frozen=True)
class Seat:
    """Where an opponent sits down: the rules that it is told, what fixes its chance, and worked
    examples as a student reads them.
    """

    rules: str
    seed: int
    examples: tuple[tuple[str, str], ...] = ()


class Player(Protocol):
    """An opponent in one episode."""

    def answer(self, asked: Asked) -> str:
        """The next answer, its move inside `<action></action>`.

        Raises:
            OpponentFailed: there is none.
        """
        ...

    def leave(self) -> None:
        """The episode is over; twice is once."""
        ...


class Opponent(Part, family="opponent"):
    """Who plays against the student: `sit`, and the rest is optional.

    Args:
        attempts: answers to one move that the game may refuse, before a legal move of chance takes
            its place.
    """

    needs_legal: ClassVar[bool] = False
    """Whether there is no such opponent where the game does not say which moves are legal."""
    needs_policy: ClassVar[bool] = False
    """Whether there is none where nobody knows how to play exactly."""
    blocking: ClassVar[bool] = False
    """Whether it waits for something else, a server say."""
    is_student: ClassVar[bool] = False
    """Whether it is the student, or a copy of it, which whoever plays has to bring."""

    attempts: int = Field(default=2, ge=1)

    @abstractmethod
    def sit(self, seat: Seat) -> Player:
        """A player for one episode.

        Raises:
            OpponentFailed: it cannot play.
        """

    @property
    def label(self) -> str:
        """What it is called in the names of tasks and in messages; no path of a machine."""
        return self.kind or type(self).__name__


class Host(Protocol):
    """Who brings an opponent that `is_student`."""

    def sit(self, opponent: Opponent, seat: Seat) -> Player:
        """A player for one episode."""
        ...


@dataclass
class _Drawing:
    """Plays what a policy draws, with a random state of its own."""

    choose: Callable[[Asked, random.Random], str]
    chance: random.Random

    def answer(self, asked: Asked) -> str:
        return _FORM.format(self.choose(asked, self.chance))

    def leave(self) -> None:
        """Nothing is held."""


class RandomOpponent(Opponent, kind="random"):
    """Any of the legal moves."""

    needs_legal = True

    def sit(self, seat: Seat) -> Player:
        """See `Opponent.sit`."""
        return _Drawing(_any, random.Random(seat.seed))


def _any(asked: Asked, chance: random.Random) -> str:
    """One of the legal moves.

    Raises:
        OpponentFailed: none is known.
    """
    if not asked.legal:
        raise OpponentFailed(
            "opponent random finds no legal move here, for the game does not say which there are: "
            "let a model play against the student, as in opponent=zoo:NAME"
        )
    return asked.legal[chance.randrange(len(asked.legal))]


class ScriptedOpponent(Opponent, kind="scripted"):
    """The best move by exact play or a short search; one of them, where several are as good.

    Args:
        depth: moves that a search looks ahead, where it does not reach the end; the game's own
            number if not given.
        slips: the share of its moves that are any legal one instead, so that it can be beaten.
    """

    needs_legal = needs_policy = True

    depth: int | None = Field(default=None, ge=1, le=12)
    slips: float = Field(default=0.0, ge=0, le=1)

    def sit(self, seat: Seat) -> Player:
        """See `Opponent.sit`."""
        return _Drawing(self._pick, random.Random(seat.seed))

    def _pick(self, asked: Asked, chance: random.Random) -> str:
        if chance.random() < self.slips:
            return _any(asked, chance)
        policy = asked.policy(self.depth)
        return chance.choices([*policy], [*policy.values()])[0]


def read_opponent(written: Any) -> Opponent:
    """An opponent as an option names it.

    Args:
        written: a kind, with its settings as a mapping; `zoo:NAME` or a model's folder, which
            plays; the address of a server; or `module:Class`.

    Raises:
        ValueError: there is none of that name, or a setting is wrong; one line.
    """
    if isinstance(written, Opponent):
        return written
    described = _described(written)
    kind = str(described.get("kind"))
    if ":" not in kind and kind not in (known := _kinds()):
        raise ValueError(
            f"no opponent is called {kind!r}; {closest(kind, known)}; or zoo:NAME, a model's "
            "folder, a server's address, module:Class"
        )
    try:
        return Opponent.model_validate(described | {"kind": _LATE.get(kind, kind)})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("opponent", *first["loc"])))
        raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error


def _described(written: Any) -> dict[str, Any]:
    """The kind and the settings that `written` stands for."""
    if isinstance(written, Mapping):
        return {str(key): value for key, value in written.items()}
    if not isinstance(written, str) or not written:
        raise ValueError(
            f"an opponent is a name or a mapping with its kind, not {written!r}: write "
            "opponent=random, for example"
        )
    if written.startswith(("http://", "https://")):
        return {"kind": "server", "server": written}
    if written.startswith("zoo:") or Path(written).is_dir() or "/" in written:
        return {"kind": "model", "model": written}
    return {"kind": written}


def _kinds() -> set[str]:
    return {*_LATE, *(member.kind for member in Opponent.members())}
