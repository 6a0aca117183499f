"""Which of TextArena's games for two can be played exactly, or nearly."""

from __future__ import annotations

from collections.abc import Mapping

from agentopd.envs.adapters.duels.cards import KuhnPoker
from agentopd.envs.adapters.duels.lore import ConnectFour, Lore, Nim, TicTacToe, WildTicTacToe

KNOWN: Mapping[str, type[Lore]] = {
    "ConnectFour": ConnectFour,
    "KuhnPoker": KuhnPoker,
    "Nim": Nim,
    "TicTacToe": TicTacToe,
    "WildTicTacToe": WildTicTacToe,
}
"""Game -> what is known of it."""
