"""What the models say of a whole step before its first micro-batch, where something needs that, and
what is paid by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from agentopd.base.types import Lesson, Trajectory
from agentopd.learning.method import Method
from agentopd.mixes.scored import PaysTurns, Scoring
from agentopd.signal.evidence import Measured
from agentopd.signal.schedules import History
from agentopd.signal.tokens import Tokens

# K turns of all taught episodes


@dataclass(frozen=True)
class Survey:
    """The episodes that the models are asked about: numbers a token, no hidden states or logits.

    Attributes:
        tokens: of all lessons, end to end.
        measured: what student and teacher say of them; nothing of it is differentiated.
    """

    lessons: Sequence[Lesson]
    tokens: Tokens
    measured: Measured

    @classmethod
    def of(cls, lessons: Sequence[Lesson], measured: Measured) -> Survey:
        """The survey of these lessons, in the order in which their tokens were measured."""
        device = measured.student.logprob_N.device
        return cls(lessons, Tokens.of(lessons, device), measured)

    def by_turn(self, values_K: torch.Tensor) -> dict[int, dict[int, float]]:
        """A value of each turn (K,) by episode number and turn."""
        turns, found = self.tokens.turns, dict[int, dict[int, float]]()
        rows = zip(turns.lesson_K.tolist(), turns.depth_K.tolist(), values_K.tolist(), strict=True)
        for lesson, depth, value in rows:
            found.setdefault(self.lessons[lesson].trajectory.episode, {})[depth] = value
        return found


def scores(
    method: Method, trajectories: Sequence[Trajectory], survey: Survey | None
) -> dict[int, float]:
    """What the mix asks for: the score of each episode that has one, by its number."""
    unit, mix = method.unit, method.mix
    found: dict[int, float] = {}
    if mix.scored_by == "unit":
        assert isinstance(unit, Scoring)
        given = {t.episode: unit.score(t) for t in trajectories}
        found = {episode: score for episode, score in given.items() if score is not None}
    elif mix.scored_by and survey is not None:
        score_L = mix.scored(survey.measured, survey.tokens, survey.lessons).tolist()
        found = {x.trajectory.episode: score_L[i] for i, x in enumerate(survey.lessons)}
    return dict.fromkeys(found, 0.0) if method.control == "zero_signal" else found


def turn_advantages(
    method: Method,
    trajectories: Sequence[Trajectory],
    rewards: Mapping[int, float],
    survey: Survey | None,
    history: History,
) -> dict[int, dict[int, float]]:
    """The advantages of single turns, by episode number and turn, where those of an episode differ;
    empty where they do not.

    Args:
        rewards: of each episode that has one.
    """
    mix, rule = method.mix, method.mix.rl_channel
    if survey is None or rule is None or not isinstance(mix, PaysTurns):
        return {}
    if method.control == "zero_signal":
        return {}
    share_K = mix.turn_shares(survey.measured, survey.tokens)
    own = survey.by_turn(share_K)
    paid = {e: {k: share * rewards[e] for k, share in turns.items()} for e, turns in own.items()}
    return rule.of_turns(trajectories, paid, history)
