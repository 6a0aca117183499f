"""Best play in Gymnasium's tabular environments, by dynamic programming over the turns left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

# S states, A actions, W ways an action may go, K turns left

Table = Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]]
"""State and action to (probability, next state, reward, whether it ends), `env.unwrapped.P`."""

_SAME = 1e-10
"""Values that differ less, in largest rewards, are equal."""
_HASTE = 1e-8
"""What a turn costs, in largest rewards: of two equal sums the sooner one is better."""


class Planner:
    """The best actions from any state with any number of turns left.

    The sum of rewards is maximised, undiscounted; of equals, the plan with fewer turns.

    Args:
        table: the transitions; every state has the same actions.
        turns: the most turns that may be left.
    """

    def __init__(self, table: Table, turns: int) -> None:
        self._table, self._turns = table, turns
        self.deterministic = all(
            len(ways) == 1 for choices in table.values() for ways in choices.values()
        )
        self._scale = max(
            abs(reward) for row in table.values() for ways in row.values() for *_, reward, _ in ways
        )

    @cached_property
    def value_KSA(self) -> npt.NDArray[np.float64]:
        """The sum of rewards that an action leads to, best play given, less the cost of turns."""
        most = max(len(ways) for row in self._table.values() for ways in row.values())
        shape = (len(self._table), len(self._table[0]), most)
        chance_SAW, reward_SAW, goes_on_SAW = (np.zeros(shape) for _ in range(3))
        target_SAW = np.zeros(shape, dtype=np.int64)
        for state, choices in self._table.items():
            for action, ways in choices.items():
                for way, (chance, target, reward, ends) in enumerate(ways):
                    chance_SAW[state, action, way] = chance
                    target_SAW[state, action, way] = target
                    reward_SAW[state, action, way] = reward
                    goes_on_SAW[state, action, way] = not ends
        value_KSA = np.zeros((self._turns + 1, *shape[:2]))
        for left in range(1, self._turns + 1):
            after_S = value_KSA[left - 1].max(axis=1)
            return_SAW = reward_SAW - _HASTE * self._scale + goes_on_SAW * after_S[target_SAW]
            value_KSA[left] = (chance_SAW * return_SAW).sum(axis=2)
        return value_KSA

    def best(self, state: int, left: int) -> list[int]:
        """The actions that none is better than, with `left` turns left."""
        value_A = self.value_KSA[left, state]
        return [
            int(action) for action in np.flatnonzero(value_A > value_A.max() - _SAME * self._scale)
        ]

    def value(self, state: int, left: int) -> float:
        """The sum of rewards that best play can expect."""
        return round(float(self.value_KSA[left, state].max()), 4)

    def plan(self, state: int, left: int) -> list[int]:
        """The best actions to the end; only the next one where chance has a say."""
        actions: list[int] = []
        while left:
            actions.append(self.best(state, left)[0])
            if not self.deterministic:
                break
            _, state, _, ends = self._table[state][actions[-1]][0]
            if ends:
                break
            left -= 1
        return actions
