"""Another model acts: in the student's place, now and then, or in every token with it."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from agentopd.base.rows.costs import Cost
from agentopd.base.types import Owner
from agentopd.rollout.acting.roles import STUDENT, Direction, Voice
from agentopd.rollout.episode import Task
from agentopd.rollout.policies.directed import Directed, Learnt, owners

_COIN = 0xC01
"""Parts the random numbers of coins from those of tokens."""


class ActedRollout(Directed, kind="acted"):
    """The teacher plays, and the student learns from its episodes.

    What is kept is the history without what the teacher was told. Its tokens carry the teacher's
    own log-probabilities, so that importance ratios lead from it to the student.

    Args:
        told: whether it is told what the sources of privilege say, where the view puts it.
    """

    told: bool = False

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`."""
        return (Cost("teacher", "samples", "S"),)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"q given {'h~' if self.told else 'h'}"

    @property
    def actors(self) -> frozenset[Owner]:
        """See `Rollout.actors`."""
        return frozenset({Owner.TEACHER})

    @property
    def learns(self) -> frozenset[Owner]:
        """See `Rollout.learns`."""
        return owners(("teacher",))

    @property
    def tells(self) -> bool:
        """See `Rollout.tells`."""
        return self.told

    @property
    def foreign(self) -> bool:
        """See `Rollout.foreign`."""
        return True

    def direction(self, task: Task, seed: int, step: int) -> Direction:
        """See `Directed.direction`."""
        return Direction(
            voices=(Voice(Owner.TEACHER, told=self.told),),
            teller=self.cast.teller if self.told else None,
            learnt=self.learns,
        )


class MixedRollout(Directed, kind="mixed"):
    """Now the teacher acts and now the student, as a coin falls.

    The coin is thrown once a turn (Guided-OPD 2606.15912, DAgger 1011.0686), an episode, or a batch
    (GKD 2306.13649), or a token: then every token is drawn from (1 - share) p + share q, the
    mixture of both models' distributions (MiniLLM 2306.08543), and its log-probability is the
    mixture's.

    Args:
        per: what a coin is thrown for.
        share: the probability that it falls for the teacher, before `schedule.share` multiplies it.
        told: whether the teacher is told what the sources of privilege say.
        learn: whose tokens are learnt from; those of a mixture are the student's. The teacher's
            are never learnt from by accident: they carry its log-probabilities, and count with the
            importance ratio of both models.
    """

    tunable: ClassVar[tuple[str, ...]] = (*Directed.tunable, "share")
    per: Literal["turn", "episode", "batch", "token"] = "turn"
    share: float = Field(default=0.5, ge=0, le=1)
    told: bool = False
    learn: tuple[Learnt, ...] = Field(default=("student",), min_length=1)

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`."""
        both = self.per == "token"  # each model then speaks of every token
        return (
            Cost("student", "samples", "S", 1.0 if both else 1 - self.share),
            Cost("teacher", "samples", "S", 1.0 if both else self.share),
        )

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        if self.per == "token":
            return f"{1 - self.share:g} p + {self.share:g} q"
        return f"q with the chance {self.share:g} for each {self.per}, else p"

    @property
    def actors(self) -> frozenset[Owner]:
        """See `Rollout.actors`."""
        other = Owner.MIXTURE if self.per == "token" else Owner.TEACHER
        return frozenset({Owner.STUDENT, other})

    @property
    def learns(self) -> frozenset[Owner]:
        """See `Rollout.learns`."""
        return owners(self.learn)

    @property
    def tells(self) -> bool:
        """See `Rollout.tells`."""
        return self.told

    @property
    def foreign(self) -> bool:
        """See `Rollout.foreign`."""
        return self.per == "token" or "teacher" in self.learn

    def direction(self, task: Task, seed: int, step: int) -> Direction:
        """See `Directed.direction`."""
        return Direction(
            voices=self._voices(task, seed, step),
            teller=self.cast.teller if self.told else None,
            learnt=self.learns,
        )

    def _voices(self, task: Task, seed: int, step: int) -> tuple[Voice, ...]:
        if self.per == "token":
            mixed = Voice(Owner.MIXTURE, told=self.told, share=self.share)
            return (mixed if self.share else STUDENT,)
        number, throws = {
            "batch": (step, 1),
            "episode": (task.episode, 1),
            "turn": (task.episode, self.max_turns),
        }[self.per]
        coins = np.random.default_rng((_COIN, seed, number)).random(throws)
        teacher = Voice(Owner.TEACHER, told=self.told)
        return tuple(teacher if coin < self.share else STUDENT for coin in coins)
