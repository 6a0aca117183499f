"""How Hanoi is played: from where the largest misplaced disk belongs down to one that is free."""

from __future__ import annotations

import random

from agentopd.environment.contract import Info
from agentopd.envs.hanoi import PEGS, Hanoi, moves
from agentopd.zoo.demonstrations.told import Player

Aim = tuple[int, int]
"""A disk, counted from 0, and the peg it is to go to."""


class HanoiPlayer(Player):
    """Says `3 to B, 2 to C, 1 to B` before it moves disk 1 to B; for three pegs."""

    pieces = (r"\n?(?:Goal:|;)? ?[A-E]:", r" to [A-E]", r", (?=\p{N})")

    def best(self, env: Hanoi, info: Info) -> str:
        """The move that the advice leads to, which is nearly always the oracle's."""
        disk, peg = aims(env)[-1]
        return PEGS[env.position[disk]] + PEGS[peg]

    def other(self, env: Hanoi, info: Info, rng: random.Random) -> str:
        """Any move that the rules allow."""
        (source, target), _ = rng.choice(list(moves(env.position, env.pegs)))
        return PEGS[source] + PEGS[target]

    def thought(self, env: Hanoi, info: Info, action: str) -> str:
        """The largest misplaced disk, those in its way, the disk that is moved; each with a peg."""
        source, target = map(PEGS.index, action)
        found = aims(env)
        moved = env.position.index(source) if source in env.position else found[-1][0]
        if found[-1] != (moved, target):
            found = [found[0], (moved, target)]
        return ", ".join(f"{disk + 1} to {PEGS[peg]}" for disk, peg in found)


def aims(env: Hanoi) -> list[Aim]:
    """The largest misplaced disk and its peg, then the largest in its way and the third peg, and so
    on down to one that is free.
    """
    at = env.position
    disk = max(d for d in range(env.disks) if at[d] != env.goal[d])
    found = [(disk, env.goal[disk])]
    while blocking := [d for d in range(disk) if at[d] in (at[disk], found[-1][1])]:
        aside = ({0, 1, 2} - {at[disk], found[-1][1]}).pop()
        disk = blocking[-1]
        found.append((disk, aside))
    return found
