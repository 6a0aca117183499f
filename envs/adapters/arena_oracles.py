"""What is known of single games of TextArena: the best moves, facts, feedback, advice.

A game without an entry in `KNOWN` is played all the same; a teacher can be told its rules alone.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

from agentopd.envs.hanoi import PEGS, Position, distances, moves
from agentopd.envs.puzzle import Outcome


class Knowledge(ABC):
    """One episode of a game, followed from its start.

    Args:
        game: TextArena's, just reset.
    """

    example: ClassVar[str]
    guide: ClassVar[str]
    unread: ClassVar[Mapping[str, bool]] = {"moves_closer": False}
    """The facts of a step that the game refused."""

    def __init__(self, game: Any) -> None:
        self.game = game

    @staticmethod
    @abstractmethod
    def rules(game: Any) -> str:
        """The rules in a line."""

    @property
    @abstractmethod
    def key(self) -> str:
        """What makes two tasks the same one."""

    @property
    def task(self) -> str:
        """A name of the task that does not give it away."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:12]

    @abstractmethod
    def opening(self) -> str:
        """The first observation for a student that does not read the game's rules."""

    @abstractmethod
    def plan(self) -> Sequence[str]:
        """The best next moves from here."""

    @abstractmethod
    def legal(self) -> Sequence[str]:
        """The moves that the rules allow from here."""

    def solution(self) -> Sequence[str]:
        """The moves that solve the whole task, as they are known at the start."""
        return self.plan()

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """The facts of the state."""

    @abstractmethod
    def judge(self, content: str) -> Outcome:
        """What became of a move that the game took; called once, after it."""


class GuessTheNumber(Knowledge):
    """Halving what is left; the plan does not look at the number, so a student can learn it."""

    example = "10"
    guide = "Guess the middle of what is left."
    unread = {"moves_closer": False, "best": False, "ruled_out": False}  # noqa: RUF012

    def __init__(self, game: Any) -> None:
        super().__init__(game)
        self.low, self.high = int(game.min_number), int(game.max_number)
        self.number = int(game.game_number)
        self._key = f"{self.low}-{self.high}/{self.number}"

    @staticmethod
    def rules(game: Any) -> str:
        return (
            f"Guess the number from {game.min_number} to {game.max_number}, told higher or lower."
        )

    @property
    def key(self) -> str:
        return self._key

    def opening(self) -> str:
        return "Make a guess."

    def plan(self) -> Sequence[str]:
        return (str((self.low + self.high) // 2),)

    def legal(self) -> Sequence[str]:
        return [str(n) for n in range(int(self.game.min_number), int(self.game.max_number) + 1)]

    def solution(self) -> Sequence[str]:
        low, high, path = self.low, self.high, list[int]()
        while not path or path[-1] != self.number:
            path.append((low + high) // 2)
            low, high = _narrowed(low, high, path[-1], self.number)
        return [str(guess) for guess in path]

    def facts(self) -> dict[str, Any]:
        left = self.high - self.low + 1
        return {"number": self.number, "low": self.low, "high": self.high, "numbers_left": left}

    def judge(self, content: str) -> Outcome:
        found = re.search(r"\[(\d+)\]", content if "[" in content else f"[{content}]")
        assert found is not None, "the game took the guess"
        guess, low, high = int(found[1]), self.low, self.high
        self.low, self.high = _narrowed(low, high, guess, self.number)
        ruled_out = not low <= guess <= high
        best = guess in ((low + high) // 2, (low + high + 1) // 2)
        mistake = "ruled out" if ruled_out else "" if best else "off the middle"
        facts = {"moves_closer": not ruled_out, "best": best, "ruled_out": ruled_out}
        if guess == self.number:
            return Outcome(mistake=mistake, feedback=f"{guess} is the number.", facts=facts)
        said = {"": "is the middle", "ruled out": "was ruled out before"}.get(
            mistake, f"is off the middle {(low + high) // 2}"
        )
        feedback = f"{guess} {said}; {self.low} to {self.high} is left."
        return Outcome(mistake=mistake, feedback=feedback, facts=facts)


def _narrowed(low: int, high: int, guess: int, number: int) -> tuple[int, int]:
    """What is left of `low` to `high` once `guess` is compared with `number`."""
    if guess == number:
        return number, number
    return (max(low, guess + 1), high) if guess < number else (low, min(high, guess - 1))


class TowerOfHanoi(Knowledge):
    """The exact search of our own Hanoi; the game has one task, whatever the seed."""

    example = "AC"
    guide = "Place the largest misplaced disk first: clear it and its tower of smaller disks."

    def __init__(self, game: Any) -> None:
        super().__init__(game)
        pegs, disks = len(game.state.game_state["towers"]), int(game.num_disks)
        self._distances = _to_tower(disks, pegs)
        self._pegs, self._left = pegs, self._distances[self._position]

    @staticmethod
    def rules(game: Any) -> str:
        return f"Hanoi: move {game.num_disks} disks from A to C; AC moves the top disk of A to C."

    @property
    def key(self) -> str:
        return str(self.game.num_disks)

    @property
    def _position(self) -> Position:
        """The tower of each disk, the smallest first."""
        towers = self.game.state.game_state["towers"]
        places = {disk: PEGS.index(name) for name, disks in towers.items() for disk in disks}
        return tuple(places[disk] for disk in sorted(places))

    def opening(self) -> str:
        towers = self.game.state.game_state["towers"]
        return "\n".join(f"{name}: {disks}" for name, disks in towers.items())

    def plan(self) -> Sequence[str]:
        position, plan = self._position, list[str]()
        while (left := self._distances[position]) > 0:
            (source, target), position = next(
                (move, after)
                for move, after in moves(position, self._pegs)
                if self._distances[after] < left
            )
            plan.append(PEGS[source] + PEGS[target])
        return plan

    def legal(self) -> Sequence[str]:
        return [PEGS[a] + PEGS[b] for (a, b), _ in moves(self._position, self._pegs)]

    def facts(self) -> dict[str, Any]:
        return {"moves_left": self._distances[self._position]}

    def judge(self, content: str) -> Outcome:
        before, self._left = self._left, self._distances[self._position]
        closer = self._left < before
        mistake = "" if closer else "away" if self._left > before else "detour"
        said = {"": "moves closer", "away": "moves away", "detour": "is a detour"}[mistake]
        feedback = f"{content[:20]} {said}, {self._left} to go."
        return Outcome(mistake=mistake, feedback=feedback, facts={"moves_closer": closer})


@lru_cache(maxsize=8)
def _to_tower(disks: int, pegs: int) -> Mapping[Position, int]:
    """The fewest moves from every position to the last peg, the same in every episode."""
    return distances((pegs - 1,) * disks, pegs)


KNOWN: Mapping[str, type[Knowledge]] = {
    "GuessTheNumber": GuessTheNumber,
    "TowerOfHanoi": TowerOfHanoi,
}
"""Game -> what is known of it."""
