"""The teacher writes a turn where it disagrees most, learnt where the student goes on better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, PrivateAttr, model_validator

from agentopd.base.rows.costs import Cost
from agentopd.base.types import Attempt, EndReason, Owner, Trajectory
from agentopd.environment.settings import EnvSettings
from agentopd.models.model import LanguageModel
from agentopd.rollout.acting.attempts import APART
from agentopd.rollout.acting.branches import Opinions, branch, whole
from agentopd.rollout.acting.roles import STUDENTS, Direction, Voice
from agentopd.rollout.episode import Task
from agentopd.rollout.policies.prefix import PrefixRollout
from agentopd.rollout.sampler import Sampler

# N tokens of an episode that are learnt from

_PLACE = 0xB41D
"""Parts the random numbers of places from those of tokens."""


class BridgedRollout(PrefixRollout, kind="bridged"):
    """Episodes of `prefix`, and in each of them one turn for which the teacher's own is tried
    (FutureBridge-OPD 2608.01953).

    The turn is that with the largest mean of log p - log q over its tokens, of those that the
    student wrote, the environment could read and others followed. The teacher writes its own there,
    the bridge, in the same context and told nothing more. From behind either of them the student
    goes on for `horizon` turns, with the same random numbers. A bridge is kept if the teacher
    prefers (log q > log p) a larger share of the student's tokens behind it than behind the
    student's own turn. If a branch ends early, or holds a turn that the environment cannot read, it
    is not. Whether a task was solved is not looked at.

    A kept bridge is an episode of its own (`Trajectory.attempt`): the turns before it, from which
    nothing is learnt, and the teacher's tokens. Their importance ratios begin at the student's
    log-probabilities. What was played for it alone is no episode of the step; its tokens are
    counted.

    Where none of `left`, `decay` and `search` is given, nothing is replayed.

    Args:
        horizon: turns of a branch behind the bridge.
        trigger: where a bridge is tried: at the turn of the largest `disagreement`, or at a
            `random` one of the same turns.
        validated: whether branches are played; otherwise every bridge is kept.
        tokens_per_batch: padded tokens in one forward pass, where both models are asked.
    """

    needs_law: ClassVar[bool] = False

    horizon: int = Field(default=3, ge=1)
    trigger: Literal["disagreement", "random"] = "disagreement"
    validated: bool = True
    tokens_per_batch: int = Field(default=4_096, ge=64)

    _spent: tuple[int, int] = PrivateAttr(default=(0, 0))

    @model_validator(mode="after")
    def _plays_on(self) -> BridgedRollout:
        if self.single:
            raise ValueError(
                "rollout: bridged plays on from the turn where a bridge is tried, and with single: "
                "true no step is made in the environment: leave single out"
            )
        return self

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        found = super().unread()
        return found if self.validated else found | {"horizon": "validated: true"}

    @property
    def actors(self) -> frozenset[Owner]:
        """See `Rollout.actors`."""
        return frozenset({Owner.STUDENT, Owner.TEACHER})

    @property
    def learns(self) -> frozenset[Owner]:
        """See `Rollout.learns`."""
        return STUDENTS | {Owner.TEACHER}

    @property
    def foreign(self) -> bool:
        """See `Rollout.foreign`."""
        return True

    @property
    def recomputes(self) -> bool:
        """See `Rollout.recomputes`."""
        return True

    @property
    def spent(self) -> tuple[int, int]:
        """See `Rollout.spent`."""
        return self._spent

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`."""
        where = "B: the teacher's own turn, where one is tried"
        played = super().costs if self._begins else (Cost("student", "samples", "S"),)
        found = [*played, Cost("teacher", "samples", "B", where=where)]
        if self.trigger == "disagreement":
            found += [Cost("teacher", "reads", "L"), Cost("student", "reads", "L")]
        if self.validated:
            where = f"F: what the student says in {self.horizon} turns; L_F: all up to their end"
            found += [
                Cost("student", "samples", "F", 2.0, where=where),
                Cost("teacher", "reads", "L_F", 2.0),
                Cost("student", "reads", "L_F", 2.0),
            ]
        return tuple(found)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        first = super().formula if self._begins else "p"
        kept = "that lead on better" if self.validated else "in the student's place"
        return f"{first}; q in single turns {kept}"

    def collect(
        self, env: EnvSettings, student: LanguageModel, sampler: Sampler, seed: int, step: int
    ) -> list[Trajectory]:
        """See `Rollout.collect`; bridges stand behind all episodes. One that could not be played,
        as the environment does not repeat itself, is given as failed.
        """
        played = super().collect(env, student, sampler, seed, step)
        company = _Company(self, env, student, sampler, seed)
        trials = company.trials(played)
        kept = [trial for trial in trials if trial.written]
        if self.validated:
            trials = company.branched(trials)
            kept = company.preferred(trials)
        failed = [failure for trial in trials if (failure := trial.failure) is not None]
        given = [*(trial.sample for trial in kept), *failed]
        every = [t for trial in trials for t in trial.played]
        self._spent = (
            sum(t.student_tokens for t in every) - sum(t.student_tokens for t in given),
            sum(t.acted_tokens for t in every) - sum(t.acted_tokens for t in given),
        )
        return [*played, *given]

    def place(
        self, trajectory: Trajectory, gap_N: npt.NDArray[np.float32] | None, seed: int
    ) -> int | None:
        """The turn of an episode for which a bridge is tried; None if there is none.

        Args:
            gap_N: log q - log p of its tokens; None where no turn could be chosen by them.
            seed: of the run.
        """
        open_ = [
            turn.index
            for turn in trajectory.turns[:-1]
            if turn.valid and trajectory.owner[turn.start] == Owner.STUDENT
        ]
        if trajectory.end is EndReason.ERROR or not open_:
            return None
        if self.trigger == "random":
            return int(np.random.default_rng((_PLACE, seed, trajectory.episode)).choice(open_))
        assert gap_N is not None, "a turn of the student's has tokens"
        turn_N = trajectory.turn[trajectory.trainable]
        return max(open_, key=lambda turn: -float(gap_N[turn_N == turn].mean(dtype=np.float64)))


@dataclass(frozen=True)
class _Trial:
    """A bridge that was tried.

    Attributes:
        own: the episode in which the student wrote another turn in its place.
        bridge: the turns before it and the teacher's own.
        base, onward: the branches behind the student's turn and behind the bridge; None where
            they were not played.
    """

    own: Trajectory
    turn: int
    bridge: Trajectory
    base: Trajectory | None = None
    onward: Trajectory | None = None

    @property
    def written(self) -> bool:
        """Whether the bridge is there."""
        return self.bridge.end is not EndReason.ERROR and len(self.bridge.turns) == self.turn + 1

    @property
    def leads_on(self) -> bool:
        """Whether the environment could read the bridge, and goes on behind it."""
        on = self.bridge.end is EndReason.TURN_LIMIT
        return self.written and on and self.bridge.turns[-1].valid

    @property
    def played(self) -> list[Trajectory]:
        """All that was played for it."""
        return [t for t in (self.bridge, self.base, self.onward) if t is not None]

    @property
    def sample(self) -> Trajectory:
        """The bridge as it is learnt from: ratios begin at the student, not at who wrote it."""
        return replace(self.bridge, attempt=self._mark, told=self.bridge.owner == Owner.TEACHER)

    @property
    def failure(self) -> Trajectory | None:
        """What of it could not be played."""
        failed = (t for t in self.played if t.end is EndReason.ERROR)
        return next((replace(t, attempt=self._mark) for t in failed), None)

    @property
    def _mark(self) -> Attempt:
        return Attempt(number=0, first=self.own.episode, kind="bridge")


@dataclass(frozen=True)
class _Company:
    """Who tries the bridges of one step."""

    rollout: BridgedRollout
    env: EnvSettings
    student: LanguageModel
    sampler: Sampler
    seed: int

    def trials(self, played: Sequence[Trajectory]) -> list[_Trial]:
        """The bridges of some episodes, written by the teacher."""
        rollout, teacher = self.rollout, Voice(Owner.TEACHER)
        gaps = self._gaps(played) if rollout.trigger == "disagreement" else {}
        places = [(t, rollout.place(t, gaps.get(t.episode), self.seed)) for t in played]
        at = [(t, turn) for t, turn in places if turn is not None]
        own = {Owner.TEACHER}
        written = self._play([(t, branch(t, turn, 1, teacher, own)) for t, turn in at], 1)
        return [_Trial(t, turn, written[t.episode]) for t, turn in at]

    def branched(self, trials: Sequence[_Trial]) -> list[_Trial]:
        """The same with their branches, where a bridge leads on."""
        on, far = [trial for trial in trials if trial.leads_on], self.rollout.horizon
        base = self._play([(x.own, branch(x.own, x.turn + 1, far)) for x in on], 2)
        onward = self._play([(x.own, branch(x.bridge, x.turn + 1, far)) for x in on], 2)
        numbered = [(trial.own.episode, trial) for trial in trials]
        return [replace(x, base=base.get(n), onward=onward.get(n)) for n, x in numbered]

    def preferred(self, trials: Sequence[_Trial]) -> list[_Trial]:
        """Those whose bridge leads to a larger share of tokens that the teacher prefers."""
        known = list[tuple[_Trial, Trajectory, Trajectory]]()
        for x in trials:
            turns = x.turn + 1 + self.rollout.horizon
            if x.base and x.onward and whole(x.base, turns) and whole(x.onward, turns):
                known.append((x, x.base, x.onward))
        base = self._shares([base for _, base, _ in known])
        onward = self._shares([onward for _, _, onward in known])
        return [x for (x, _, _), was, now in zip(known, base, onward, strict=True) if now > was]

    def _shares(self, branches: Sequence[Trajectory]) -> list[float]:
        """The share of each branch's tokens that the teacher prefers."""
        gaps = self._gaps(branches)
        return [float((gaps[t.episode] > 0).mean()) for t in branches]

    def _gaps(self, trajectories: Sequence[Trajectory]) -> dict[int, npt.NDArray[np.float32]]:
        rollout = self.rollout
        assert rollout.cast.teacher is not None, "a method whose teacher acts has one"
        return Opinions(
            student=self.student,
            teacher=rollout.cast.teacher.model,
            temperature=rollout.temperature or 1.0,
            budget=rollout.tokens_per_batch,
            processes=rollout.processes,
        ).gaps(trajectories)

    def _play(
        self, branches: Sequence[tuple[Trajectory, Direction]], apart: int
    ) -> dict[int, Trajectory]:
        """The trajectory of each branch, by the number of the episode that it is one of."""
        far = apart * APART
        tasks = [Task(t.episode + far, t.task, t.seed, direction) for t, direction in branches]
        played = self.rollout.play(self.env, self.student, self.sampler, self.seed, tasks)
        return {t.episode - far: t for t in played}
