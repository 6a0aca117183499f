"""What a model does in an environment: success, the form of its answers, their length."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agentopd.base.types import Trajectory
from agentopd.environment.settings import EnvSettings
from agentopd.models.model import LanguageModel
from agentopd.rollout.failures import refuse_failures
from agentopd.rollout.policies import Rollout
from agentopd.rollout.sampler import Sampler
from agentopd.running.evaluate import play_tasks, score

_SHOWN = 3
_USUAL = 0.95
_LONGEST = 400


@dataclass(frozen=True)
class Behaviour:
    """Some episodes on held-out tasks, in numbers.

    Attributes:
        invalid, cut: shares of the answers that could not be read, and that hit the limit.
        answer_tokens: mean tokens of an answer; `usual_tokens` holds 95 % of those that were not
            cut.
        context: tokens of the longest context.
        ends: episodes by `EndReason`.
        examples: some answers, those that could not be read first.
    """

    success: float
    interval: tuple[float, float]
    episodes: int
    turns: float
    invalid: float
    cut: float
    answer_tokens: float
    usual_tokens: int
    episode_tokens: float
    context: int
    ends: dict[str, int]
    seconds: float
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Player:
    """Who plays, and within which limits."""

    model: LanguageModel
    sampler: Sampler
    rollout: Rollout

    def play(
        self, env: EnvSettings, episodes: int, options: dict[str, Any]
    ) -> tuple[list[Trajectory], Behaviour]:
        """Play held-out tasks, and say what it was like.

        Raises:
            EveryEpisodeFailed: no task could be played.
        """
        began = time.perf_counter()
        played = play_tasks(env, self.model, self.sampler, self.rollout, episodes, options)
        seconds = time.perf_counter() - began
        refuse_failures(played, "played")
        return played, describe(played, seconds)


def describe(trajectories: Sequence[Trajectory], seconds: float) -> Behaviour:
    """Played episodes in numbers."""
    found = score(trajectories)
    turns = [turn for t in trajectories for turn in t.turns]
    lengths = [turn.stop - turn.start for turn in turns]
    whole = sorted(turn.stop - turn.start for turn in turns if not turn.cut)
    low, high = found["interval"]
    return Behaviour(
        success=found["success"],
        interval=(low, high),
        episodes=found["episodes"],
        turns=found["turns"],
        invalid=found["invalid"],
        cut=found["cut"],
        answer_tokens=sum(lengths) / max(len(lengths), 1),
        usual_tokens=whole[int(_USUAL * (len(whole) - 1))] if whole else 0,
        episode_tokens=sum(len(t.ids) for t in trajectories) / max(len(trajectories), 1),
        context=max((stop - start for t in trajectories for start, stop in t.segments), default=0),
        ends=found["ends"],
        seconds=seconds,
        examples=_examples(trajectories),
    )


def _examples(trajectories: Sequence[Trajectory]) -> list[str]:
    """First answers of different episodes, those that could not be read first."""
    first = [t.turns[0] for t in trajectories if t.turns]
    ordered = sorted(first, key=lambda turn: turn.valid)
    return list(dict.fromkeys(turn.action[:_LONGEST] for turn in ordered))[:_SHOWN]
