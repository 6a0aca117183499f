"""How Hanoi is played: first where the largest misplaced disk belongs, and which disk to move."""

from __future__ import annotations

import random

from agentopd.env import Info
from agentopd.envs.hanoi import PEGS, Hanoi, moves
from agentopd.zoo.demonstrations.told import Player


class HanoiPlayer(Player):
    """Says `3 to B, move 1` before it moves."""

    pieces = (r"\n?(?:Goal:|;)? ?[A-E]:",)

    def other(self, env: Hanoi, info: Info, rng: random.Random) -> str:
        """Any move that the rules allow."""
        (source, target), _ = rng.choice(list(moves(env.position, env.pegs)))
        return PEGS[source] + PEGS[target]

    def thought(self, env: Hanoi, info: Info, action: str) -> str:
        """The largest misplaced disk, the peg it belongs on, the disk that is moved."""
        largest = max(d for d in range(env.disks) if env.position[d] != env.goal[d])
        source = PEGS.index(action[0])
        moved = env.position.index(source) + 1 if source in env.position else "-"
        return f"{largest + 1} to {PEGS[env.goal[largest]]}, move {moved}"
