"""The Tower of Hanoi between any two positions: one disk a turn.

`gymnasium.make("agentopd/Hanoi-v0")` after `import agentopd`. The whole graph of positions is small
enough to be searched from the goal, so the oracle is exact.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

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

Position = tuple[int, ...]
"""The peg of each disk, the smallest disk first."""
Move = tuple[int, int]
"""From one peg to another."""
Place = Literal["any", "tower"]

PEGS = "ABCDE"
_MOST = 5_000
"""Positions of the largest puzzle."""
_FORMAT = re.compile(r"([a-e])(?:\s*(?:to|->|>|,|-)\s*|\s*)([a-e])", re.IGNORECASE)
_WORDING = Wording(
    rules="""You move disks between pegs until each lies where the goal has it.
You take the last disk of a peg, the smallest there, and put it on an empty peg or on a larger \
disk. Each peg is listed from bottom to top; larger numbers are larger disks.
AC moves the top disk of A to C.""",
    brief="Hanoi: move the top disk of A to C with AC; never onto a smaller disk.",
    action="move",
    example="AC",
    guide="Place the largest misplaced disk first: clear it and its peg of smaller disks.",
)


class Hanoi(Puzzle):
    """Bring the disks from one position to another.

    Args:
        split: which tasks `reset(seed=...)` draws; splits never share one, nor one that differs by
            the names of its pegs.
        disks: how many there are.
        pegs: how many there are.
        start: anywhere, or all on one peg.
        goal: anywhere, or all on one peg.
        min_moves: moves of the best solution.
        max_moves: the most of them.
        max_turns: answers before the episode is truncated.
        prompt: the full rules, one line for models that were trained on the puzzle, or the rules
            with some turns played well (`fewshot`).

    `reset(options={"task": "AAA>CCC"})` plays a task of your own: the peg of each disk from the
    smallest, first at the start, then in the goal.

    Raises:
        ValueError: an option has no such value, or the puzzle is too large to be searched.
    """

    unread = {"moves_closer": False, "legal": False, "same_disk": False}  # noqa: RUF012

    def __init__(
        self,
        *,
        split: Split = "train",
        disks: int = 3,
        pegs: int = 3,
        start: Place = "any",
        goal: Place = "any",
        min_moves: int = 2,
        max_moves: int = 7,
        max_turns: int = 12,
        prompt: Rules = "full",
    ) -> None:
        check_number("disks", disks, 1, 12)
        check_number("pegs", pegs, 3, len(PEGS))
        check_choice("start", start, ("any", "tower"))
        check_choice("goal", goal, ("any", "tower"))
        check_band("moves", min_moves, max_moves, max_turns)
        if pegs**disks > _MOST:
            raise ValueError(
                f"{disks} disks on {pegs} pegs have {pegs**disks} positions, and at most {_MOST} "
                "are searched: lower disks or pegs"
            )
        self.disks, self.pegs, self.band = disks, pegs, (min_moves, max_moves)
        self.places = (start, goal)
        label = f"disks={disks} pegs={pegs} {start}>{goal} moves={min_moves}-{max_moves}"
        super().__init__(
            "hanoi", _WORDING, split=split, max_turns=max_turns, prompt=prompt, label=label
        )

    @property
    def solved(self) -> bool:
        """Whether every disk is where the goal has it."""
        return self.position == self.goal

    def legal_actions(self) -> Sequence[str]:
        """The moves that the rules allow."""
        legal = moves(self.position, self.pegs)
        return [PEGS[source] + PEGS[target] for (source, target), _ in legal]

    def _choose(self, number: int, text: str | None) -> str:
        if text is None:
            task = self._draw(number, self._propose, self._key, self._admits)
        else:
            task = self._read_task(text)
        self.start, self.goal = task
        self._distances = distances(self.goal, self.pegs)
        return _spell(task)

    def _propose(self, rng: random.Random) -> tuple[Position, Position]:
        start, goal = (
            (rng.randrange(self.pegs),) * self.disks
            if place == "tower"
            else tuple(rng.randrange(self.pegs) for _ in range(self.disks))
            for place in self.places
        )
        return start, goal

    def _key(self, task: tuple[Position, Position]) -> str:
        return canonical(task, self.pegs)

    def _admits(self, task: tuple[Position, Position]) -> bool:
        start, goal = task
        return self.band[0] <= distances(goal, self.pegs)[start] <= self.band[1]

    def _read_task(self, text: str) -> tuple[Position, Position]:
        letters = PEGS[: self.pegs]
        sides = text.upper().split(">")
        if len(sides) != 2 or any(
            len(side) != self.disks or set(side) - set(letters) for side in sides
        ):
            raise ValueError(
                f"a task names {self.disks} of the pegs {letters} on either side of >, unlike "
                f"{text!r}"
            )
        start, goal = (tuple(map(letters.index, side)) for side in sides)
        if start == goal:
            raise ValueError(f"{text!r} starts at its goal: move a disk of it")
        return start, goal

    def _restart(self) -> None:
        self.position = self.start
        self._moved: int | None = None

    def _show(self) -> str:
        now = "\n".join(self._pegs(self.position))
        return f"{now}\nGoal: {'; '.join(self._pegs(self.goal))}"

    def _pegs(self, position: Position) -> Iterator[str]:
        """Each peg with its disks from bottom to top."""
        for peg, name in enumerate(PEGS[: self.pegs]):
            disks = [str(disk + 1) for disk, at in enumerate(position) if at == peg]
            yield f"{name}: {' '.join(reversed(disks)) or '-'}"

    def _act(self, content: str) -> Outcome:
        found = _FORMAT.fullmatch(content)
        names = [name.upper() for name in found.groups()] if found else []
        letters = PEGS[: self.pegs]
        if not names or set(names) - set(letters):
            example = letters[0] + letters[-1]
            return Outcome(
                problem=f"{content[:20]!r} is not a move: name two of the pegs {letters}, as in "
                f"{example}."
            )
        source, target = map(letters.index, names)
        disk = _top(self.position, source)
        if refused := self._refusal(disk, source, target):
            feedback = f"{''.join(names)} is not allowed, {self._left} to go."
            return Outcome(note=refused, mistake="illegal", feedback=feedback)
        assert disk is not None
        before, again = self._left, disk == self._moved
        self._moved = disk
        self.position = _moved(self.position, disk, target)
        closer = self._left < before
        facts = {"moves_closer": closer, "legal": True, "same_disk": again}
        mistake = "" if closer else "away" if self._left > before else "detour"
        said = {"": "moves closer", "away": "moves away", "detour": "is a detour"}[mistake]
        rest = "solves it." if self.solved else f"{said}, {self._left} to go."
        return Outcome(mistake=mistake, feedback=f"{''.join(names)} {rest}", facts=facts)

    def _refusal(self, disk: int | None, source: int, target: int) -> str:
        """Why the move is against the rules, or nothing."""
        if source == target:
            return f"Not allowed: {PEGS[source]} is named twice."
        if disk is None:
            return f"Not allowed: {PEGS[source]} is empty."
        under = _top(self.position, target)
        if under is not None and under < disk:
            return f"Not allowed: disk {disk + 1} is larger than disk {under + 1}."
        return ""

    @property
    def _left(self) -> int:
        """The fewest moves to the goal."""
        return self._distances[self.position]

    def _oracle(self) -> Sequence[str]:
        position, plan = self.position, []
        while (left := self._distances[position]) > 0:
            (source, target), position = next(
                (move, after)
                for move, after in moves(position, self.pegs)
                if self._distances[after] < left
            )
            plan.append(PEGS[source] + PEGS[target])
        return plan

    def _facts(self) -> dict[str, Any]:
        placed = sum(at == goal for at, goal in zip(self.position, self.goal, strict=True))
        largest = self.position[-1] == self.goal[-1]
        return {"moves_left": self._left, "disks_placed": placed, "largest_placed": largest}


def moves(position: Position, pegs: int) -> Iterator[tuple[Move, Position]]:
    """Every move that the rules allow, and the position after it."""
    tops = [_top(position, peg) for peg in range(pegs)]
    for source, disk in enumerate(tops):
        for target, under in enumerate(tops):
            if disk is not None and source != target and (under is None or under > disk):
                yield (source, target), _moved(position, disk, target)


def distances(goal: Position, pegs: int) -> dict[Position, int]:
    """The fewest moves from every position to `goal`; moves can be taken back."""
    found, queue = {goal: 0}, [goal]
    for position in queue:
        for _, after in moves(position, pegs):
            if after not in found:
                found[after] = found[position] + 1
                queue.append(after)
    return found


def canonical(task: tuple[Position, Position], pegs: int) -> str:
    """The same text for all tasks that differ by the names of the pegs."""
    start, goal = task
    return min(
        _spell((tuple(names[at] for at in start), tuple(names[at] for at in goal)))
        for names in itertools.permutations(range(pegs))
    )


def _spell(task: tuple[Position, Position]) -> str:
    return ">".join("".join(PEGS[peg] for peg in position) for position in task)


def _top(position: Position, peg: int) -> int | None:
    """The smallest disk on `peg`."""
    return position.index(peg) if peg in position else None


def _moved(position: Position, disk: int, target: int) -> Position:
    return (*position[:disk], target, *position[disk + 1 :])
