"""What opponents that are language models share."""

from __future__ import annotations

from pydantic import Field

from agentopd.environment.opponents import Opponent


class Speaking(Opponent):
    """A language model that plays, wherever it runs.

    Args:
        temperature: at which its answers are drawn; 0 takes the likeliest tokens.
        max_turn_tokens: after which an answer is cut.
    """

    temperature: float = Field(default=1.0, ge=0)
    max_turn_tokens: int = Field(default=64, ge=1)
