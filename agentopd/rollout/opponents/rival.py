"""Self-play: an opponent that is the student, as it was a while ago.

A run holds one copy of its student, which plays against it and is renewed every so many steps, as
the lagged teacher is (`teachers/copies.py`); checkpoints keep it. Whoever plays a model that does
not learn, `agentopd eval` for one, lets it play against itself.
"""

from __future__ import annotations

import torch
from pydantic import Field

from agentopd.environment.opponents import Opponent, OpponentFailed, Player, Seat
from agentopd.environment.settings import EnvSettings
from agentopd.models.model import LanguageModel
from agentopd.rollout.opponents.model import Speaker
from agentopd.rollout.opponents.speaking import Speaking


class SelfOpponent(Speaking, kind="self"):
    """The student as it was at the last multiple of `every` steps.

    Args:
        every: how many steps its copy stays behind at most.
    """

    is_student = True

    every: int = Field(default=10, ge=1)

    def sit(self, seat: Seat) -> Player:
        """See `Opponent.sit`.

        Raises:
            OpponentFailed: always, for the student is brought by whoever plays it.
        """
        raise OpponentFailed(
            "opponent self is the student, and nobody plays here who is one: train, or "
            "agentopd eval a model; or name another opponent"
        )


class Mirror:
    """Lets a model play against itself. It is a `Host`; nothing is loaded before it is asked."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._speaker: Speaker | None = None

    def sit(self, opponent: Opponent, seat: Seat) -> Player:
        """See `Host.sit`."""
        assert isinstance(opponent, Speaking)
        self._speaker = self._speaker or Speaker(self._model)
        return self._speaker.open(opponent, seat)


class Rival(Mirror):
    """The copy of a run's student that plays against it.

    Args:
        every: see `SelfOpponent`.
    """

    def __init__(self, student: LanguageModel, every: int) -> None:
        super().__init__(student.frozen_copy())
        self._every = every

    def sync(self, student: LanguageModel, step: int) -> None:
        """Follow the student, which has just finished `step` (counted from 0)."""
        if (step + 1) % self._every == 0:
            self.restore(student.weights())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights that must survive a restart."""
        return self._model.weights()

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """The reverse of `tensors`.

        Raises:
            ValueError: a weight is missing.
        """
        self._model.load_weights(tensors)
        if self._speaker is not None:
            self._speaker.renew()


def rival_of(opponent: Opponent | None, env: EnvSettings, student: LanguageModel) -> Rival | None:
    """The copy that plays against a run's student in `env`, which knows it from then on; None where
    it plays against others, or nobody.
    """
    if not isinstance(opponent, SelfOpponent):
        return None
    rival = Rival(student, opponent.every)
    env.face(rival)
    return rival
