"""Answers that close with a confidence: how often the episode's group has solved the task."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from agentopd.base.types import Owner, Trajectory
from agentopd.models.chat import ChatTemplate

# T tokens of a trajectory

_LINE = re.compile(r"\s*\bconfidence:\s*[\d.]+\s*%?\s*\Z", re.IGNORECASE)


def line(share: float) -> str:
    """The line that closes an answer."""
    return f"Confidence: {share:.2f}"


def longest_line(episodes: int, template: ChatTemplate) -> int:
    """The most tokens that closing an answer adds, in groups of so many episodes."""
    lines = {f"\n{line(solved / episodes)}" for solved in range(episodes + 1)}
    return max(len(template.encode_content(text)) for text in lines)


def closed(trajectory: Trajectory, share: float, template: ChatTemplate) -> Trajectory:
    """The episode with its last answer closed by the confidence line, in the place of one that the
    student has written.

    The line, and the token that ends the answer, were sampled by nobody there: they belong to a
    demonstration, and have no log-probability. An answer that was cut stays as it is. What stood
    behind the answer, which nobody has answered to, is left out.
    """
    if not trajectory.turns or trajectory.turns[-1].cut:
        return trajectory
    turn = trajectory.turns[-1]
    own = trajectory.ids[turn.start : turn.stop - 1].tolist()
    kept = _before_line(own, template)
    said = template.decode(own[:kept])
    written = template.encode_content(line(share) if said.endswith("\n") else f"\n{line(share)}")
    added, cut = [*written, int(trajectory.ids[turn.stop - 1])], turn.start + kept
    stop = cut + len(added)

    def with_added(values_T: npt.NDArray[Any], value: Any) -> npt.NDArray[Any]:
        return np.append(values_T[:cut], np.full(len(added), value)).astype(values_T.dtype)

    messages = [m for m in trajectory.messages if m.start <= turn.start]
    told = trajectory.told
    return replace(
        trajectory,
        ids=np.append(trajectory.ids[:cut], np.array(added, dtype=np.int64)),
        turn=with_added(trajectory.turn, turn.index),
        trainable=with_added(trajectory.trainable, True),
        owner=with_added(trajectory.owner, Owner.DEMO),
        logprob=with_added(trajectory.logprob, np.nan),
        told=None if told is None else with_added(told, False),
        messages=(*messages[:-1], replace(messages[-1], stop=stop - 1)),
        turns=(*trajectory.turns[:-1], replace(turn, act=min(turn.act, cut), stop=stop)),
        segments=(*trajectory.segments[:-1], (trajectory.segments[-1][0], stop)),
    )


def _before_line(ids: Sequence[int], template: ChatTemplate) -> int:
    """How many of an answer's tokens stand before the line that closes it; all without one."""
    found = _LINE.search(template.decode(ids))
    count = len(ids)
    while found and count and len(template.decode(ids[:count]).rstrip()) > found.start():
        count -= 1
    return count
