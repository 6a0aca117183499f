"""Kuhn's poker, played as its equilibrium plays it (Kuhn, 1950)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agentopd.envs.adapters.duels.lore import Lore
from agentopd.envs.puzzle import Outcome

_THIRD = 1 / 3
_CARDS = "JQK"
_POLICY: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    # one of its equilibria, in which the first player bluffs with a jack once in three times
    "first": {
        "J": {"check": 2 * _THIRD, "bet": _THIRD},
        "Q": {"check": 1.0},
        "K": {"bet": 1.0},
    },
    "after check": {
        "J": {"check": 2 * _THIRD, "bet": _THIRD},
        "Q": {"check": 1.0},
        "K": {"bet": 1.0},
    },
    "after check and bet": {
        "J": {"fold": 1.0},
        "Q": {"call": 2 * _THIRD, "fold": _THIRD},
        "K": {"call": 1.0},
    },
    "after bet": {
        "J": {"fold": 1.0},
        "Q": {"fold": 2 * _THIRD, "call": _THIRD},
        "K": {"call": 1.0},
    },
}
"""How likely each action is, by what was done before and the own card."""


class KuhnPoker(Lore):
    """Each round as the equilibrium plays it; the own card is known, the other's is not used."""

    example = "check"
    guide = (
        "Call and bet with the king, fold the jack to a bet, and bet it one time in three; "
        "check the queen, and call with it sometimes."
    )

    def __init__(self, game: Any) -> None:
        super().__init__(game)
        self._expected: Mapping[str, float] = {}

    @staticmethod
    def rules(game: Any) -> str:
        """See `Lore.rules`."""
        return (
            f"Kuhn's poker, {game.max_rounds} rounds with J, Q, K: check or bet one chip; call a "
            "bet or fold."
        )

    @staticmethod
    def limit(game: Any) -> int:
        """See `Lore.limit`: two actions a round, and some mistakes."""
        return 3 * int(game.max_rounds)

    def show(self, seat: int) -> str:
        """See `Lore.show`."""
        state = self.game.state.game_state
        chips = state["player_chips"]
        return (
            f"Round {state['current_round']}: you hold {_CARDS[state['player_cards'][seat]]}, "
            f"{' or '.join(self.legal())}; chips {chips[seat]} to {chips[1 - seat]}."
        )

    def legal(self) -> tuple[str, ...]:
        """See `Lore.legal`."""
        return tuple(self.game.state.game_state["current_legal_action_tree"])

    def policy(self, depth: int | None) -> Mapping[str, float]:
        """See `Lore.policy`; there is nothing to search."""
        found = _POLICY[self._done][self._card]
        return dict(sorted(found.items(), key=lambda one: -one[1]))

    def facts(self) -> dict[str, Any]:
        """See `Lore.facts`."""
        return {"card": self._card, "before": self._done}

    def expect(self) -> None:
        """See `Lore.expect`."""
        self._expected = self.policy(None)

    def judge(self, content: str) -> Outcome:
        """See `Lore.judge`."""
        found = re.search(r"check|bet|fold|call", content.lower())
        assert found is not None, "the game took the action"
        made, most = found[0], next(iter(self._expected))
        facts = {"best": made == most, "kept": made in self._expected}
        if made in self._expected:
            share = f"{self._expected[made]:.0%}"
            return Outcome(feedback=f"The equilibrium does {made} here, {share}.", facts=facts)
        said = f"The equilibrium never does {made} here: {most} was better."
        return Outcome(mistake="off the equilibrium", feedback=said, facts=facts)

    @property
    def _card(self) -> str:
        state = self.game.state
        return _CARDS[state.game_state["player_cards"][int(state.current_player_id)]]

    @property
    def _done(self) -> str:
        """What was done in this round before."""
        state = self.game.state
        tree = state.game_state["current_legal_action_tree"]
        if "check" in tree:
            return "first" if isinstance(tree["check"], dict) else "after check"
        first = int(state.current_player_id) == state.game_state["starting_player"]
        return "after check and bet" if first else "after bet"
