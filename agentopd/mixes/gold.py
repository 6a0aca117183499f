"""Gold episodes: demonstrations whose likelihood is raised beside whatever else a step learns.

The term has an average of its own, over its own tokens: how many episodes the student plays in a
step changes nothing about it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from pydantic import Field

from agentopd.base.parts import Settings
from agentopd.base.types import Trajectory
from agentopd.models.model import LanguageModel
from agentopd.rollout.policies.demonstrations import demonstrations_for
from agentopd.stored.demonstrations import Choice


class Gold(Settings):
    """A term beside the method's own (Stable-OPD 2604.08527): `coefficient` times the mean of
    -log p over demonstrations' tokens.

    Args:
        path: a store that `agentopd collect` wrote, or a run's folder; `previous` in a stage.
        coefficient: of the term; the paper does not tell its own.
        per_prompt: demonstrations for each task of a step: of that very task where the store has
            some, any others where it has none.
        keep: which of them are used.
    """

    path: str
    coefficient: float = Field(default=0.1, gt=0)
    per_prompt: int = Field(default=1, ge=1)
    keep: Choice = Choice()

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"{self.coefficient:g} mean over gold episodes of grad log p(y)"

    def store(self, student: LanguageModel) -> list[Trajectory]:
        """All demonstrations that there are.

        Raises:
            ValueError: there are none, or the student cannot read them.
        """
        return demonstrations_for(student, self.path, self.keep)

    def beside(
        self, played: Sequence[Trajectory], store: Sequence[Trajectory], seed: int, step: int
    ) -> GoldEpisodes:
        """The demonstrations that stand beside a step's episodes.

        Args:
            played: the step's episodes.
            store: all that there are; those of a task have its environment's seed.
            seed: of the run, from which chance follows.
        """
        rng = random.Random(f"gold/{seed}/{step}")
        shuffled = rng.sample(list(store), len(store))
        found: list[Trajectory] = []
        for task in dict.fromkeys(t.seed for t in played):
            own = [t for t in shuffled if t.seed == task]
            found += islice(own or rng.sample(shuffled, len(shuffled)), self.per_prompt)
        numbered = [replace(t, episode=-1 - number) for number, t in enumerate(found)]
        return GoldEpisodes(numbered, self.coefficient)


@dataclass(frozen=True)
class GoldEpisodes:
    """The gold episodes of one step, numbered apart from those that were played."""

    trajectories: Sequence[Trajectory] = ()
    coefficient: float = 0.0


NONE = GoldEpisodes()
"""No gold episodes."""
