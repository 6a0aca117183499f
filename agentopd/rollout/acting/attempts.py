"""Episodes that belong to one attempt at a task: their marks, their numbers, what they are paid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from agentopd.base.types import Attempt, EndReason, Record, Trajectory
from agentopd.environment.contract import without_reasoning

APART = 10**9
"""Parts the numbers of a run's further episodes at its tasks from those of all first ones."""
_PLACES: dict[Record, float] = {
    "played": 0,
    "joined": 0.5,
    "written": 1,
    "untold": 2,
    "foreseen": 3,
}
"""Of an attempt's records, among the numbers that it has."""
_EACH = 4
"""How many times `APART` an attempt has."""
_BETWEEN = APART // 10
"""Parts the numbers of what was written of one attempt."""


def numbered(mark: Attempt) -> int:
    """An attempt's episode number, which no other episode of the run has."""
    place = int((_EACH * mark.number + _PLACES[mark.kind]) * APART)
    return mark.first + place + mark.version * _BETWEEN


def mark_of(trajectory: Trajectory) -> Attempt:
    """Which attempt it belongs to."""
    assert trajectory.attempt is not None
    return trajectory.attempt


def said(written: Trajectory) -> str:
    """What a reflection says; empty where none came to be."""
    if not written.turns:
        return ""
    return without_reasoning(written.turns[0].action).strip()


def rewarded(written: Sequence[Trajectory], attempts: Sequence[Trajectory]) -> list[Trajectory]:
    """Reflections with the rewards of the attempts that were told them; nothing is learnt from one
    whose attempt could not be played.
    """
    found = []
    rewards = {mark_of(t).first: t.reward for t in attempts if t.end is not EndReason.ERROR}
    for text in written:
        reward = rewards.get(mark_of(text).first)
        if reward is None or not text.turns:
            text = replace(text, trainable=np.zeros_like(text.trainable))
        else:
            turns = (replace(text.turns[0], reward=reward),)
            text = replace(text, turns=turns)
        found.append(text)
    return found
