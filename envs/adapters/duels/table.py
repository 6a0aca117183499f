"""A game of TextArena for two on the table: whose turn it is, who hears what, who has won."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentopd.envs.adapters.arena_library import foreign, reason
from agentopd.envs.adapters.duels.listed import listed
from agentopd.envs.adapters.isolation import Isolation

_REFUSAL = re.compile(r"Reason: (.*?) Please resubmit", re.DOTALL)
"""The part of a refusal that says what was wrong."""
_GAME, _BOARD = -1, "GAME_BOARD"
"""How TextArena numbers itself as a speaker, and calls what shows the state."""


@dataclass(frozen=True)
class Message:
    """Something that a player is told: who says it, as a number, and what kind it is of."""

    source: int
    text: str
    kind: str


class Table:
    """One game, from its start to its end.

    What a player was told since its last move is kept apart for each. An answer that is refused is
    heard by nobody but who gave it.

    Args:
        kind: TextArena's class of the game, built with `options`.

    Raises:
        ValueError: the game cannot be set up here; with the reason.
    """

    def __init__(self, name: str, kind: type[Any], options: Mapping[str, Any], seed: int) -> None:
        self.skill = name.partition("-v")[0]
        self._isolation = Isolation(seed)
        self.game: Any = None
        with foreign(self._isolation) as caught:
            self.game = kind(**options)
            self.game.reset(num_players=2, seed=seed)
        if caught.error:
            raise ValueError(f"{name} cannot be played here: {reason(caught.error)}")
        # Refused answers are ours to count.
        self.game.state.error_allowance = math.inf
        self._heard: dict[int, list[Message]] = {0: [], 1: []}
        self._listed: dict[int, tuple[str, ...]] = {0: (), 1: ()}

    @property
    def mover(self) -> int:
        """Who is to move."""
        return int(self.game.state.current_player_id)

    @property
    def over(self) -> bool:
        """Whether the game has ended."""
        return bool(self.game.state.done)

    @property
    def ended(self) -> str:
        """What the game says of its end; empty before it."""
        told = self.game.state.game_info[0].get("reason") if self.over else ""
        return str(told or "")

    def reward(self, seat: int) -> float:
        """What the game gives to a player; 0 before its end."""
        return float((self.game.state.rewards or {}).get(seat, 0)) if self.over else 0.0

    def move(self, content: str) -> str:
        """Let who is to move do what `content` says.

        Returns:
            Why the game refuses it; empty where it takes it.
        """
        mover, state = self.mover, self.game.state
        self._listen()
        with foreign(self._isolation) as caught:
            self.game.step(content if "[" in content else f"[{content}]")
        if not caught.error and not state.error_count:
            self._heard[mover].clear()
            self._listen()
            return ""
        told = [str(text) for _, text, _ in state.observations[mover]]
        for messages in state.observations.values():
            messages.clear()
        found = next((m for text in told if (m := _REFUSAL.search(text))), None)
        return found[1] if found and not caught.error else f"{content[:20]!r} is refused."

    def listed(self) -> tuple[str, ...]:
        """The legal moves, if the game tells them to who is to move; it need not repeat them."""
        self._listen()
        mover = self.mover
        told = [m.text for m in self._heard[mover] if m.source == _GAME and m.kind == _BOARD]
        self._listed[mover] = listed(self.skill, told) or self._listed[mover]
        return self._listed[mover]

    def heard(self, seat: int) -> str:
        """What a player was told since its last move, in words; of several boards the last."""
        self._listen()
        messages = [m for m in self._heard[seat] if m.source != seat]
        boards = [m for m in messages if m.kind == _BOARD]
        kept = [m for m in messages if m.kind != _BOARD or m is boards[-1]]
        return "\n".join(_worded(m) for m in kept)

    def said(self, seat: int) -> str:
        """What the other player has done since a player's last move, without brackets."""
        self._listen()
        texts = (m.text for m in self._heard[seat] if m.source == 1 - seat)
        return ", then ".join(_bare(text) for text in texts)

    def _listen(self) -> None:
        """Take over what the game has told each player."""
        for seat, messages in self.game.state.observations.items():
            if seat in self._heard:
                self._heard[seat] += [Message(int(s), str(t), k.name) for s, t, k in messages]
                messages.clear()


def _bare(text: str) -> str:
    """The move in a text: what stands in its first brackets, if it has some."""
    return text.partition("[")[2].partition("]")[0].strip() or text.strip()


def _worded(message: Message) -> str:
    if message.source == _GAME:
        return message.text
    return f"Player {message.source}: {message.text}"
