"""A unit whose score is how much an episode looks like the teacher's (GAD 2511.10643)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, PrivateAttr

from agentopd.base.rows.costs import Cost
from agentopd.base.types import Trajectory
from agentopd.rollout.policies.demonstrations import demonstrations_for
from agentopd.signal.groups import groups
from agentopd.stored.demonstrations import ByTask, Choice
from agentopd.units.discriminator.network import Discriminator, accuracy, bradley_terry
from agentopd.units.stretches import TrajectoryUnit

if TYPE_CHECKING:
    from agentopd.models.model import LanguageModel
    from agentopd.teacher import Teacher

# P pairs of episodes


class DiscriminatorUnit(TrajectoryUnit, kind="discriminator"):
    """The whole episode, whose score is how much it looks like one of the teacher's (GAD
    2511.10643), for `mix: {kind: reward, score: unit}`.

    The discriminator D is a copy of the student with a scalar head, which learns to score the
    teacher's episodes above the student's.

    In every step D first scores the episodes, and these scores are their rewards; then it makes one
    step of its own on pairs of a student's and a teacher's episode of one task, by Bradley and
    Terry's loss, the mean of -log sigma(D(teacher's) - D(student's)). It reads the whole history as
    the student does, observations and thoughts included. An episode on a task of which no teacher's
    is stored is scored, and in no pair.

    Args:
        path: a folder of the teacher's episodes on the run's own tasks, as `agentopd collect --by
            teacher` leaves it; in a stage `previous` for those that the one before has left.
        keep: which of them are used.
        trunk: whether the copy is `trained` with its head, or `frozen`.
        learning_rate: of its AdamW.
        clip: its gradient's norm is clipped to this.
        tokens_per_batch: padded tokens in one forward pass of it.
    """

    path: str
    keep: Choice = Choice()
    trunk: Literal["trained", "frozen"] = "trained"
    learning_rate: float = Field(default=3e-4, gt=0)
    clip: float = Field(default=0.2, gt=0)
    tokens_per_batch: int = Field(default=4_096, ge=64)

    _network: Discriminator | None = PrivateAttr(default=None)
    _store: ByTask | None = PrivateAttr(default=None)
    # The step's trajectories are kept beside their scores, so that no id is used twice.
    _scores: dict[int, tuple[Trajectory, float]] = PrivateAttr(default_factory=dict)
    _numbers: dict[str, float] = PrivateAttr(default_factory=dict)

    @property
    def score_formula(self) -> str:
        """See `Unit.score_formula`."""
        return (
            "the discriminator's score, which learns to lower the mean over pairs of "
            "-log sigma(the teacher's score - the student's score)"
        )

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`."""
        where = "n: episodes of a group, beside which D learns each of the teacher's once"
        return Cost("discriminator", "learns", "L"), Cost(
            "discriminator", "learns", "L/n", where=where
        )

    def prepare(self, student: LanguageModel, teacher: Teacher) -> None:
        """See `Unit.prepare`.

        Raises:
            ValueError: nothing is stored, or the student cannot read it.
        """
        self._store = ByTask.of(demonstrations_for(student, self.path, self.keep), self.path)
        trained = self.trunk == "trained"
        self._network = Discriminator(
            student, trained, self.learning_rate, self.clip, self.tokens_per_batch
        )

    @property
    def network(self) -> Discriminator:
        """What scores, once `prepare` has made it."""
        assert self._network is not None, "prepare() comes first"
        return self._network

    def learn(self, trajectories: Sequence[Trajectory]) -> None:
        """See `Unit.learn`: the episodes are scored, then the discriminator learns."""
        pairs = self._pairs(trajectories)
        others = {id(theirs): theirs for theirs, _ in pairs}
        everyone = [*trajectories, *others.values()]
        if not everyone:
            return
        scores = self.network.scores(everyone)
        self._scores = {id(t): (t, s) for t, s in zip(everyone, scores.tolist(), strict=True)}
        self._numbers = {"discriminator_pairs": float(len(pairs))}
        if not pairs:
            return
        place = {id(t): number for number, t in enumerate(everyone)}
        theirs_P = scores[[place[id(theirs)] for theirs, _ in pairs]]
        own_P = scores[[place[id(own)] for _, own in pairs]]
        loss = bradley_terry(theirs_P, own_P)
        self._numbers["discriminator_loss"] = loss.item()
        self._numbers["discriminator_accuracy"] = accuracy(theirs_P, own_P)
        self.network.step(loss)

    @torch.no_grad()
    def score(self, trajectory: Trajectory) -> float:
        """D before the step's learning; of an episode that `learn` has not seen, D now."""
        known = self._scores.get(id(trajectory))
        return known[1] if known else self.network.scores([trajectory]).item()

    def scalars(self) -> dict[str, float]:
        """See `Unit.scalars`: loss and accuracy before the step's learning."""
        return dict(self._numbers)

    def tensors(self) -> dict[str, torch.Tensor]:
        """See `Unit.tensors`."""
        return self.network.tensors()

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """See `Unit.load`.

        Raises:
            ValueError: they are not this discriminator's.
        """
        self.network.restore(tensors)

    def _pairs(self, trajectories: Sequence[Trajectory]) -> list[tuple[Trajectory, Trajectory]]:
        """A teacher's and a student's episode of the same task each; a group goes through the
        teacher's in turn.

        Raises:
            ValueError: the teacher's were played in another environment.
        """
        assert self._store is not None, "prepare() comes first"
        found = []
        for group in groups(trajectories):
            known = self._store.on(group[0])
            found += [(known[n % len(known)], own) for n, own in enumerate(group) if known]
        return found
