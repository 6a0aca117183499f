"""How richly episodes search: where they come, where they come back to, what they try again.

A teacher that is told the way never looks for it, and a student that learns its ways may cease to
look (RLSD, arXiv 2604.03128). Success alone does not show that.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentopd.base.types import Trajectory


def search_probes(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Means over the turns or episodes of `trajectories`; zeros where there are no turns.

    A state is the text that is shown before an answer, so that where it tells of the move before,
    one place is several states.

    Returns:
        states: different states an episode.
        revisits: share of the turns that come into a state in which the episode was before, but
            for those that stay where they were.
        backtracks: share of the turns that come back to where the turn before the last began.
        repeats: share of the turns that try in a state what was tried in it before.
    """
    seen = [_of_an_episode(trajectory) for trajectory in trajectories if trajectory.turns]
    turns = max(sum(len(trajectory.turns) for trajectory in trajectories), 1)
    states, revisits, backtracks, repeats = (
        sum(counts) for counts in (zip(*seen, strict=True) if seen else [()] * 4)
    )
    return {
        "states": states / max(len(seen), 1),
        "revisits": revisits / turns,
        "backtracks": backtracks / turns,
        "repeats": repeats / turns,
    }


def _of_an_episode(trajectory: Trajectory) -> tuple[int, int, int, int]:
    """The counts, in the order of `search_probes`."""
    states = [turn.observation for turn in trajectory.turns]
    tried: set[tuple[str, str]] = set()
    revisits = backtracks = repeats = 0
    for place, (state, turn) in enumerate(zip(states, trajectory.turns, strict=True)):
        moved = place > 0 and state != states[place - 1]
        revisits += moved and state in states[:place]
        backtracks += moved and place > 1 and state == states[place - 2]
        repeats += (state, turn.action) in tried
        tried.add((state, turn.action))
    return len(set(states)), revisits, backtracks, repeats
