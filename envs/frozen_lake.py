"""FrozenLake in words: Gymnasium's `FrozenLake-v1` underneath, other maps for every seed.

`gymnasium.make("agentopd/FrozenLake-v0")` after `import agentopd`. Where a move leads, and how
likely, is Gymnasium's own transition table: it is stepped, and the oracle reads it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

from agentopd.envs.puzzle import (
    Outcome,
    Puzzle,
    Rules,
    Split,
    Wording,
    check_band,
    check_choice,
    check_number,
)

# S states (cells, row by row), A actions, K turns left

MOVES = ("left", "down", "right", "up")
"""The names of Gymnasium's actions 0 to 3."""
Map = tuple[str, ...]
"""Rows of S start, G goal, H hole, F ice."""
Table = Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]]
"""State and action to (probability, next state, reward, whether it ends)."""

_LETTERS = {move[0]: move for move in MOVES}
_SEEN = str.maketrans("SFHG", "..OG")
_SAME = 1e-9
"""Chances that differ less are equal."""
_RULES = """You cross a frozen lake: reach the goal and do not step into a hole.
You walk up, down, left or right; row 1 is at the top, column 1 on the left."""
_GRID = " @ is you, . ice, O a hole, G the goal."
_SLIPS = " The ice is slippery: you may slide to either side of where you want to go."
_BRIEF = "Frozen lake: reach the goal with up, down, left, right; avoid the holes."
_GUIDE = "Go towards the goal, around the holes, and not back."
_GUIDE_SLIPPERY = "Choose the move that cannot slide into a hole, even if it looks wrong."


class FrozenLake(Puzzle):
    """Reach the goal without stepping into a hole.

    Args:
        split: which maps `reset(seed=...)` draws; splits never share one, nor a mirror image.
        size: rows and columns.
        holes: holes of a map; start and goal lie anywhere else.
        slippery: moves go astray to either side. No plan is safe then: the oracle is the move with
            the highest chance in the turns that are left, by value iteration.
        success_rate: how likely a move on slippery ice goes where it should.
        min_moves: moves of the shortest way, without slips.
        max_moves: the most of them.
        min_chance: on slippery ice, the least chance with which best play succeeds.
        view: the map in sentences, or drawn.
        max_turns: answers before the episode is truncated.
        prompt: the full rules, one line for models that were trained on the game, or the rules
            with some turns played well (`fewshot`).

    `reset(options={"task": "SF HG"})` plays a map of your own, its rows separated by spaces.

    Raises:
        ValueError: an option has no such value.
    """

    unread = dict.fromkeys(("moves_closer", "moved", "best", "hit_edge", "fell", "slipped"), False)

    def __init__(
        self,
        *,
        split: Split = "train",
        size: int = 4,
        holes: int = 4,
        slippery: bool = False,
        success_rate: float = 1 / 3,
        min_moves: int = 2,
        max_moves: int = 8,
        min_chance: float = 0.5,
        view: Literal["words", "grid"] = "words",
        max_turns: int | None = None,
        prompt: Rules = "full",
    ) -> None:
        turns = (40 if slippery else 12) if max_turns is None else max_turns
        check_number("size", size, 2, 16)
        check_number("holes", holes, 0, size * size - 2)
        check_choice("slippery", slippery, (True, False))
        check_choice("view", view, ("words", "grid"))
        check_band("moves", min_moves, max_moves, turns)
        if not 0 < success_rate <= 1 or not 0 <= min_chance <= 1:
            raise ValueError(
                "success_rate lies above 0 and min_chance from 0, both up to 1; "
                f"got {success_rate} and {min_chance}"
            )
        self.size, self.holes, self.view = size, holes, view
        self.slippery, self.success_rate = slippery, success_rate
        self.stochastic = slippery
        self.band, self.min_chance = (min_moves, max_moves), min_chance
        label = f"size={size} holes={holes} moves={min_moves}-{max_moves}"
        if slippery:
            label += f" slippery={success_rate} chance={min_chance} turns={turns}"
        brief = _BRIEF + _SLIPS if slippery else _BRIEF
        rules = _RULES + (_GRID if view == "grid" else "") + (_SLIPS if slippery else "")
        guide = _GUIDE_SLIPPERY if slippery else _GUIDE
        wording = Wording(rules, brief, "move", "up", guide)
        super().__init__(
            "frozen_lake", wording, split=split, max_turns=turns, prompt=prompt, label=label
        )

    @property
    def solved(self) -> bool:
        """Whether the goal is reached."""
        return self.cell == self.ice.goal

    @property
    def over(self) -> bool:
        """Whether the goal is reached or a hole."""
        return self.solved or self.ice.is_hole(self.cell)

    def legal_actions(self) -> Sequence[str]:
        """Every move; one off the edge stays where it is."""
        return MOVES

    def _choose(self, number: int, text: str | None) -> str:
        self._slips = number
        if text is not None:
            rows = read_map(text)
            self.ice = self._freeze(rows)
            if not self.ice.chance(self.ice.start, self.turn_limit):
                raise ValueError(
                    f"the goal of {text!r} cannot be reached in {self.turn_limit} turns: take out "
                    "holes or raise max_turns"
                )
        else:
            rows = self._draw(number, self._propose, canonical, self._admits)
        slips = f"/{number}" if self.slippery else ""
        return " ".join(rows) + slips

    def _propose(self, rng: random.Random) -> Map:
        cells = ["F"] * self.size**2
        start, goal, *holes = rng.sample(range(len(cells)), self.holes + 2)
        cells[start], cells[goal] = "S", "G"
        for hole in holes:
            cells[hole] = "H"
        return tuple("".join(cells[at : at + self.size]) for at in range(0, len(cells), self.size))

    def _admits(self, rows: Map) -> bool:
        self.ice = ice = self._freeze(rows)
        if not self.band[0] <= (ice.distance(ice.start) or 0) <= self.band[1]:
            return False
        return not self.slippery or ice.chance(ice.start, self.turn_limit) >= self.min_chance

    def _freeze(self, rows: Map) -> Ice:
        return Ice(rows, self.slippery, self.success_rate, self.turn_limit)

    def _restart(self) -> None:
        self.cell = int(self.ice.lake.reset(seed=self._slips)[0])

    def _show(self) -> str:
        size = len(self.ice.rows[0])
        if self.ice.is_hole(self.cell):
            return "You are in a hole."
        if self.view == "grid":
            cells = list("".join(self.ice.rows).translate(_SEEN))
            cells[self.cell] = "@"
            return "\n".join("".join(cells[at : at + size]) for at in range(0, len(cells), size))
        here, there = (f"row {at // size + 1} column {at % size + 1}" for at in self._ends())
        if self.solved:
            return f"You: {here}. You are at the goal."
        holes = [
            f"{at // size + 1},{at % size + 1}"
            for at, letter in enumerate("".join(self.ice.rows))
            if letter == "H"
        ]
        around = f"Holes (row,column): {' '.join(holes)}." if holes else "No holes."
        return f"You: {here}. Goal: {there}. {around}"

    def _ends(self) -> tuple[int, int]:
        return self.cell, self.ice.goal

    def _act(self, content: str) -> Outcome:
        word = content.lower()
        move = _LETTERS.get(word, word)
        if move not in MOVES:
            return Outcome(problem=f"{content[:20]!r} is not a move: use up, down, left or right.")
        before, action = self.cell, MOVES.index(move)
        # The action is judged before the ice has its say: a good move may end badly.
        left = self.turn_limit - self.turns + 1
        best = self.ice.is_best(before, action, left)
        aim = self.ice.aim(before, action)
        self.cell = int(self.ice.lake.step(action)[0])
        slipped = self.cell != aim
        closer = (self.ice.distance(self.cell) or 0) < (self.ice.distance(before) or 0)
        fell = self.ice.is_hole(self.cell)
        mistake = self._mistake(best, before, aim, fell)
        facts = {
            "moves_closer": closer and not fell,
            "moved": self.cell != before,
            "best": best,
            "hit_edge": aim == before,
            "fell": fell,
            "slipped": slipped,
        }
        feedback = self._comment(move, mistake, slipped, best, before)
        return Outcome(mistake=mistake, feedback=feedback, facts=facts)

    def _mistake(self, best: bool, before: int, aim: int, fell: bool) -> str:
        if best:
            return ""
        if fell and self.cell == aim:
            return "hole"
        if self.slippery:
            return "risk"
        return "edge" if aim == before else "away"

    def _comment(self, move: str, mistake: str, slipped: bool, best: bool, before: int) -> str:
        if self.solved:
            return f"{move} reaches the goal."
        if self.slippery:
            judged = "was the best move" if best else "was not the best move"
            fate = " and slid" if slipped else ""
            if self.over:
                return f"{move} {judged}{fate}; it ends in a hole."
            chance = self.ice.chance(self.cell, self.turn_limit - self.turns)
            return f"{move} {judged}{fate}; the chance is {chance:.0%}."
        if mistake == "hole":
            return f"{move} steps into a hole, it is lost."
        said = {"": "moves closer", "edge": "hits the edge", "away": "moves away"}[mistake]
        return f"{move} {said}, {self.ice.distance(self.cell)} to go."

    def _oracle(self) -> Sequence[str]:
        if self.over:
            return ()
        if self.slippery:
            left = self.turn_limit - self.turns
            return (MOVES[self.ice.best(self.cell, left)],) if left else ()
        return tuple(MOVES[action] for action in self.ice.way(self.cell))

    def _reference(self) -> str:
        """The way; on slippery ice, the best first move of every cell that is neither end."""
        if not self.slippery:
            return super()._reference()
        width = len(self.ice.rows[0])
        signs = [
            letter if letter in "HG" else MOVES[self.ice.best(cell, self.turn_limit)]
            for cell, letter in enumerate("".join(self.ice.rows))
        ]
        rows = [" ".join(signs[at : at + width]) for at in range(0, len(signs), width)]
        return "\n".join(rows)

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"solvable": not self.ice.is_hole(self.cell)}
        if self.slippery:
            facts["chance"] = self.ice.chance(self.cell, self.turn_limit - self.turns)
        if (distance := self.ice.distance(self.cell)) is not None:
            facts["moves_left"] = distance
        return facts


class Ice:
    """One map: Gymnasium's lake, and what its transition table says about success."""

    def __init__(self, rows: Map, slippery: bool, success_rate: float, turns: int) -> None:
        options: dict[str, Any] = {"desc": list(rows), "is_slippery": slippery}
        if slippery:
            options["success_rate"] = success_rate
        # The class behind `FrozenLake-v1`, without the wrappers that `gymnasium.make` adds.
        self.lake = FrozenLakeEnv(**options)
        self.rows, self.slippery = rows, slippery
        letters = "".join(rows)
        self.start, self.goal = letters.index("S"), letters.index("G")
        self.table = cast("Table", self.lake.P)
        self._turns = turns
        self._distances = distances(self.table, self.goal)

    @cached_property
    def _play(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        return best_play(self.table, self.goal, self._turns)

    def is_hole(self, cell: int) -> bool:
        """Whether `cell` is a hole."""
        return "".join(self.rows)[cell] == "H"

    def aim(self, cell: int, action: int) -> int:
        """Where `action` leads if it does not slip."""
        # Gymnasium lists the wanted direction between the two that a slip takes.
        ways = self.table[cell][action]
        return int(ways[len(ways) // 2][1])

    def chance(self, cell: int, turns: int) -> float:
        """The chance to reach the goal in `turns`, best play given."""
        return float(self._play[0][turns, cell])

    def distance(self, cell: int) -> int | None:
        """The fewest moves to the goal, no move slipping; None where there is no way."""
        return self._distances.get(cell)

    def best(self, cell: int, turns: int) -> int:
        """The action with the highest chance in `turns`; the first of equals."""
        return int(self._play[1][turns, cell].argmax())

    def is_best(self, cell: int, action: int, turns: int) -> bool:
        """Whether no action has a higher chance in `turns`; without slips, no shorter way."""
        if self.slippery:
            return bool(self._play[1][turns, cell, action])
        return self._distances.get(self.aim(cell, action)) == self._distances[cell] - 1

    def way(self, cell: int) -> list[int]:
        """The actions of a shortest way, no move slipping."""
        actions: list[int] = []
        while cell != self.goal:
            action = next(
                a
                for a in range(len(MOVES))
                if self._distances.get(self.aim(cell, a)) == self._distances[cell] - 1
            )
            actions.append(action)
            cell = self.aim(cell, action)
        return actions


def best_play(
    table: Table, goal: int, turns: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Value iteration over the turns that are left.

    Returns:
        The chance to reach `goal` (turns + 1, states) and whether an action is among the best
        (turns + 1, states, actions); every action is with no turn left.
    """
    states, actions = len(table), len(MOVES)
    probability_SAS = np.zeros((states, actions, states))
    for state, choices in table.items():
        for action, ways in choices.items():
            for probability, target, _, _ in ways:
                probability_SAS[state, action, target] += probability
    chance_KS = np.zeros((turns + 1, states))
    chance_KS[:, goal] = 1
    best_KSA = np.ones((turns + 1, states, actions), dtype=np.bool_)
    for left in range(1, turns + 1):
        chance_SA = probability_SAS @ chance_KS[left - 1]
        chance_KS[left] = chance_SA.max(axis=1)
        best_KSA[left] = chance_SA > chance_KS[left][:, None] - _SAME
    return chance_KS, best_KSA


def distances(table: Table, goal: int) -> dict[int, int]:
    """The fewest moves from each cell to `goal`, if no move slips; other cells are left out."""
    sources: dict[int, list[int]] = {}
    for state, choices in table.items():
        for ways in choices.values():
            sources.setdefault(int(ways[len(ways) // 2][1]), []).append(state)
    found, queue = {goal: 0}, [goal]
    for cell in queue:
        for source in sources.get(cell, ()):
            if source not in found:
                found[source] = found[cell] + 1
                queue.append(source)
    return found


def read_map(text: str) -> Map:
    """The rows of a map.

    Raises:
        ValueError: the rows differ in length, hold other letters, or not one start and one goal.
    """
    rows = tuple(text.upper().split())
    letters = "".join(rows)
    if not rows or len({len(row) for row in rows}) != 1 or set(letters) - set("SFHG"):
        raise ValueError(f"a map is rows of equal length of S, F, H and G, not {text!r}")
    if letters.count("S") != 1 or letters.count("G") != 1:
        raise ValueError(f"a map has one start S and one goal G, unlike {text!r}")
    return rows


def canonical(rows: Map) -> str:
    """The same text for a map and all its mirror images and rotations."""
    turned: list[Map] = []
    for _ in range(4):
        rows = tuple("".join(column) for column in zip(*rows[::-1], strict=True))
        turned += [rows, tuple(row[::-1] for row in rows)]
    return " ".join(min(turned))
