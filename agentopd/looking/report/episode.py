"""One episode, ready to be drawn: boards, and tokens with the strength of the teacher's signal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from agentopd.looking.report.board import draw_board, split_board
from agentopd.looking.report.shape import Episode, Token, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownToken:
    """A token with its colour: `side` is `more`, `less` or `none`; `strength` in [0, 1]."""

    text: str
    side: str
    strength: float
    tip: str
    value: str
    breaks: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownTurn:
    """A turn with its board, if the observation holds one, and the text around it."""

    number: int
    above: str
    board: Markup | None
    below: str
    tokens: Sequence[ShownToken]
    total: float | None
    feedback: str
    reward: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownEpisode:
    """An episode for the page; colours are full at a signal of `scale` nats and beyond."""

    episode: Episode
    scale: float
    turns: Sequence[ShownTurn]


def show_episode(episode: Episode) -> ShownEpisode:
    """Draw the boards and set the scale of the colours.

    The scale is the 97th percentile of the signals' size, so that one extreme token does not make
    all others pale.
    """
    sizes = sorted(abs(t.signal) for turn in episode.turns for t in turn.tokens if t.signal)
    scale = sizes[math.ceil(0.97 * (len(sizes) - 1))] if sizes else 1.0
    turns = [_turn(turn, i, scale) for i, turn in enumerate(episode.turns, 1)]
    return ShownEpisode(episode=episode, scale=scale, turns=turns)


def _turn(turn: Turn, number: int, scale: float) -> ShownTurn:
    above, board, below = split_board(turn.observation)
    signals = [token.signal for token in turn.tokens if token.signal is not None]
    return ShownTurn(
        number=number,
        above=above.strip("\n"),
        board=draw_board(board) if board else None,
        below=below.strip("\n"),
        tokens=[_token(token, scale) for token in turn.tokens],
        total=sum(signals) if signals else None,
        feedback=turn.feedback,
        reward=turn.reward,
    )


def _token(token: Token, scale: float) -> ShownToken:
    signal = token.signal
    strength = 0.0 if signal is None else min(1.0, abs(signal) / scale)
    side = "none" if not signal else "more" if signal > 0 else "less"
    parts = ["no signal" if signal is None else f"{signed(signal)} nats"]
    if token.divergence is not None:
        parts.append(f"divergence {token.divergence:.3g}")
    return ShownToken(
        text=token.text.replace("\n", "↵") or "∅",
        side=side,
        strength=round(strength, 3),
        tip=", ".join(parts),
        value=signed(signal) if signal is not None and strength >= 0.3 else "",
        breaks="\n" in token.text,
    )


def signed(value: float) -> str:
    """A number with its sign, for narrow places: `+1.2`, `-0.35`, `0`.

    The minus is the typographic one, as wide as the plus.
    """
    digits = f"{abs(value):.1f}" if abs(value) >= 1 else f"{abs(value):.2f}"
    return "0" if float(digits) == 0 else ("+" if value > 0 else "\u2212") + digits
