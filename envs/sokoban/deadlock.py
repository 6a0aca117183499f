"""Boxes that can never move again, whatever the player does.

A box is held along a line of cells by a wall on one side, by cells on both sides from which no goal
can be reached, or by a box that is itself frozen. Held along both lines it is frozen; off its goal
that ends the game, which a search need not find out by trying everything else first.
"""

from __future__ import annotations

from agentopd.envs.sokoban.geometry import Geometry


def deadlocked(geometry: Geometry, boxes: int, moved: int) -> bool:
    """Whether a box is frozen off its goal now that one has been pushed to `moved`."""
    if not boxes & geometry.around[moved]:
        return False
    frozen = _frozen(geometry, boxes, moved, 0)
    if not frozen:
        return False
    goals = geometry.goal_cells
    if frozen & ~goals:
        return True
    # All of these are on goals, but others may lean on the one that came.
    others = boxes & geometry.around[moved] & ~frozen
    while others:
        low = others & -others
        others ^= low
        if _frozen(geometry, boxes, low.bit_length() - 1, 0) & ~goals:
            return True
    return False


def _frozen(geometry: Geometry, boxes: int, box: int, fixed: int) -> int:
    """The boxes that freeze together with `box` if those in `fixed` do; none if it can move."""
    fixed |= 1 << box
    for beside in geometry.loose[box]:
        if beside & fixed:
            continue
        near = beside & boxes
        while near:
            low = near & -near
            near ^= low
            if found := _frozen(geometry, boxes, low.bit_length() - 1, fixed):
                fixed = found
                break
        else:
            return 0
    return fixed
