"""A teacher that learns: it acts told, and is paid by what another student says of its answers.

The one that learns is the run's student, which is told something; the one that reads it, told
nothing and never learning, stands in the teacher's place: `rollout: {kind: hinted, learn_under:
both}`, `view.tells: actor`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field

from agentopd.base.rows.symbols import times
from agentopd.base.types import Lesson, Trajectory
from agentopd.mixes.shared import PaidByTeacher
from agentopd.signal.beside import Beside
from agentopd.signal.evidence import Measured
from agentopd.signal.tokens import Tokens, mean_by
from agentopd.weights.episode import spike

# N tokens of some lessons, K their turns, L the lessons


class ReadByStudent(PaidByTeacher):
    """What a teacher that learns is paid by a student that reads it; nothing is learnt of the
    record without what was told. The student that reads stands in the teacher's place.
    """

    def chosen(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """See `Mix.chosen`."""
        return [t for t in trajectories if t.acts]

    def check(self, beside: Beside) -> None:
        """See `Mix.check`."""
        super().check(beside)
        if beside.teacher_told or not beside.both_histories:
            raise ValueError(
                f"mix: {self.kind} pays the student, which acts told, by what the teacher says of "
                "its answers when that is told nothing: use rollout: {kind: hinted, learn_under: "
                "both, ratio: sampled} and view.tells: actor"
            )


class StudentLikelihood(ReadByStudent, kind="student_likelihood"):
    """A teacher whose explanations make a student likely to find the solution (RLT 2506.08388).

    With log q of who learns and log p of the student that reads, in nats, an episode's score is

        mean log p + least min log p                        over the tokens of its actions
        - kl (mean (log q - log p) + most max (log q - log p))   over those of its thoughts

    In an answer without thoughts all is action; without any, the second part is 0.

    Args:
        least: of the least likely token of the actions.
        kl: lambda, by which thoughts that the student would not have count against it.
        most: of the worst token of the thoughts.
        penalty: is added where the task was not solved, or an answer could not be read: what was
            thought then explains no solution.
    """

    least: float = Field(default=0.01, ge=0)
    kl: float = Field(default=3.0, ge=0)
    most: float = Field(default=0.01, ge=0)
    penalty: float = Field(default=-1.0, le=0)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        likely = f"mean + {times(self.least, 'min')} of log q(y) in actions"
        strange = times(self.kl, f"(mean + {times(self.most, 'max')})")
        less = f" - {strange} of log mu(y) - log q(y) in thoughts" if self.kl else ""
        return f"R with {likely}{less} as the reward, {self.penalty:+g} in failures"

    def scored(self, said: Measured, tokens: Tokens, lessons: Sequence[Lesson]) -> torch.Tensor:
        """See `Mix.scored`."""
        assert said.teacher is not None
        logprob_N, acted_N = said.teacher.logprob_N, _in_actions(tokens, lessons)
        likely_L = _mean_and_worst(logprob_N, acted_N, tokens, self.least)
        # Of what is strange to the student the worst is the greatest.
        known_N = logprob_N - tokens.behaviour_N
        familiar_L = _mean_and_worst(known_N, ~acted_N, tokens, self.most)
        return likely_L + self.kl * familiar_L

    def rewards(
        self, trajectories: Sequence[Trajectory], scores: Mapping[int, float]
    ) -> dict[int, float]:
        """See `Mix.rewards`."""
        return {
            t.episode: scores[t.episode] + (0.0 if _explains(t) else self.penalty)
            for t in trajectories
            if t.episode in scores
        }


class StudentSurprise(ReadByStudent, kind="student_surprise"):
    """A teacher that solves the task in steps that a student could have taken: the reward times
    exp(-(strength / beta) log mean exp(beta s)) (the teacher of Pedagogical RL).

    s = log p(likeliest token) - log p(y) >= 0 of the student that reads; see `weight: spike`.

    Args:
        strength: lambda; 0 is the reward alone.
        beta: as it grows the one most surprising token of the episode counts alone.
    """

    strength: float = Field(default=0.5, ge=0)
    beta: float = Field(default=5.0, gt=0)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        surprise = times(self.beta, "(log max q - log q(y))")
        power = f"{-self.strength / self.beta:g}"
        return f"R with the environment's reward times (mean exp({surprise}))^{power} as the reward"

    def scored(self, said: Measured, tokens: Tokens, lessons: Sequence[Lesson]) -> torch.Tensor:
        """See `Mix.scored`."""
        assert said.teacher is not None
        return spike(said.teacher, tokens.lesson_N, tokens.lessons, self.strength, self.beta)

    def rewards(
        self, trajectories: Sequence[Trajectory], scores: Mapping[int, float]
    ) -> dict[int, float]:
        """See `Mix.rewards`."""
        return {
            t.episode: t.reward * scores[t.episode] for t in trajectories if t.episode in scores
        }


def _in_actions(tokens: Tokens, lessons: Sequence[Lesson]) -> torch.Tensor:
    """(N,) bool, the tokens behind their answer's thoughts."""
    spoken = tokens.turns
    places = zip(spoken.lesson_K.tolist(), spoken.depth_K.tolist(), strict=True)
    acts = [lessons[lesson].trajectory.turns[depth].act for lesson, depth in places]
    act_K = torch.tensor(acts, device=tokens.place_N.device)
    return tokens.place_N >= act_K[spoken.at_N]


def _mean_and_worst(
    value_N: torch.Tensor, chosen_N: torch.Tensor, tokens: Tokens, worst: float
) -> torch.Tensor:
    """(L,) the mean of each episode's chosen values plus `worst` times the least of them; 0 where
    none is chosen.
    """
    mine_N, at_N = value_N[chosen_N], tokens.lesson_N[chosen_N]
    least_L = mine_N.new_zeros(tokens.lessons)
    least_L = least_L.scatter_reduce(0, at_N, mine_N, "amin", include_self=False)
    return mean_by(mine_N, at_N, tokens.lessons) + worst * least_L


def _explains(trajectory: Trajectory) -> bool:
    """Whether an episode leads to the solution, in answers that all could be read."""
    return trajectory.success and all(turn.valid for turn in trajectory.turns)
