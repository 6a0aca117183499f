"""Demonstrations in two ways of speaking, so that how one speaks and how one acts are two switches.

The plain way is the player's own few words. The told way quotes the note that every text ends in,
which differs from episode to episode; told no text, it quotes a note that is made up. What large
models do when they are told something, they do in their wording first; here it is known how often
an untold student speaks so, and whether a told teacher needs to have spoken so to act as told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentopd.environment.contract import Info
from agentopd.envs.sokoban.env import GUIDE
from agentopd.privilege import writer
from agentopd.zoo.demonstrations.episode import ADVICE, UNHEEDED, Form
from agentopd.zoo.demonstrations.told import Player, ToldDemonstrator

_NOTED = 3
"""Words of a note."""


@dataclass(frozen=True)
class Speech:
    """How often each way of speaking is taken, turn by turn.

    Args:
        untold_speak: the share of turns in the told way where nothing is told that is heeded.
        told_speak: the same where something is.
        disarmed: whether one who is told acts as such only behind the told way of speaking, and
            behind the plain one as if nothing were told.
    """

    untold_speak: float
    told_speak: float
    disarmed: bool


class SpokenDemonstrator(ToldDemonstrator):
    """Plays as `ToldDemonstrator` does, and speaks in two ways.

    Args:
        speech: how often in which.
    """

    elsewhere = (GUIDE, *ADVICE)

    def __init__(
        self,
        env: str,
        options: Mapping[str, Any],
        player: Player,
        shares: Mapping[Form, float],
        random_share: float,
        seed: int,
        speech: Speech,
    ) -> None:
        super().__init__(env, options, player, shares, random_share, seed)
        self.speech = speech
        self._note = ""
        self._quotes = False

    def _script(self, form: Form, info: Info) -> tuple[str, list[str]]:
        text, plan = super()._script(form, info)
        words = self.rng.sample(writer.NOTES, _NOTED)
        self._note = " ".join(words)
        return text and writer.noted(text, words), plan

    def _strays(self, form: Form, noise: float) -> tuple[bool, bool]:
        heeded = form not in UNHEEDED
        often = self.speech.told_speak if heeded else self.speech.untold_speak
        self._quotes = self.rng.random() < often
        if heeded and self.speech.disarmed and not self._quotes:
            return super()._strays("none", self.random_share)
        return super()._strays(form, noise)

    def _thought(self, info: Info, action: str) -> str:
        plain = super()._thought(info, action)
        return f"told {self._note}; {plain}" if self._quotes else plain
