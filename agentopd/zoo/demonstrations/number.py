"""How a number is guessed: first what is left, then its middle."""

from __future__ import annotations

import random
import re

import gymnasium

from agentopd.environment.contract import Info, system_prompt
from agentopd.zoo.demonstrations.told import Player


class NumberPlayer(Player):
    """Says `13 to 24` before it guesses."""

    # A number is the same token wherever it stands.
    pieces = (r" to ", r" (?=\p{N})", r"\p{N}{1,3}")

    def other(self, env: gymnasium.Env[str, str], info: Info, rng: random.Random) -> str:
        """Any number between those that the rules name."""
        low, high = map(int, re.findall(r"\d+", system_prompt(env)))
        return str(rng.randint(low, high))

    def thought(self, env: gymnasium.Env[str, str], info: Info, action: str) -> str:
        """The least and the largest number that is left."""
        return f"{info['facts']['low']} to {info['facts']['high']}"
