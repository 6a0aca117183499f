"""What is known of an episode, for the slots of a writer's template."""

from __future__ import annotations

from collections.abc import Sequence

from agentopd.asking.quoting import played, quote
from agentopd.base.types import Trajectory, Turn
from agentopd.privilege.base import before_turns
from agentopd.privilege.peers import actions_of, solved_peers


def slots_of(trajectory: Trajectory, batch: Sequence[Trajectory]) -> dict[str, str]:
    """All that is known once the episode and its siblings are over."""
    turns = trajectory.turns
    truth = [(t.index, str(info.get("oracle") or "")) for t, info in before_turns(trajectory)]
    said = [(t.index, str(t.info.get("feedback") or "")) for t in turns]
    peer = next(solved_peers(trajectory, batch), None)
    return {
        "task": quote(turns[0].observation) if turns else "",
        "guide": str(trajectory.prompt.get("guide") or ""),
        "episode": played(turns, skip_task=True),
        "outcome": outcome(trajectory),
        "feedback": _by_turn(said),
        "truth": _by_turn(truth),
        "reference": quote(ref) if (ref := str(trajectory.prompt.get("reference") or "")) else "",
        "peer": quote("\n".join(actions_of(peer))) if peer else "",
    }


def turn_slots(trajectory: Trajectory, turn: Turn) -> dict[str, str]:
    """What is known of one turn, and of what came of it."""
    after = trajectory.turns[turn.index + 1 :]
    said = str(turn.info.get("feedback") or "")
    seen = [*([after[0].observation] if after else []), *([said] if said else [])]
    return {
        "turn": str(turn.index + 1),
        "observation": quote(turn.observation),
        "answer": quote(turn.action),
        "next": quote("\n".join(seen)) if seen else "",
    }


def outcome(trajectory: Trajectory) -> str:
    """How an attempt ended."""
    count = len(trajectory.turns)
    ending = "solved" if trajectory.success else "not solved"
    return f"The task was {ending}, in {count} turn{'' if count == 1 else 's'}."


def _by_turn(said: Sequence[tuple[int, str]]) -> str:
    return "\n".join(quote(f"Turn {index + 1}: {text}") for index, text in said if text)
