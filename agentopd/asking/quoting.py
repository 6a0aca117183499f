"""Episodes as a model reads them: quoted line by line, within so many tokens."""

from __future__ import annotations

from collections.abc import Sequence

from agentopd.base.types import Turn
from agentopd.models.chat import ChatTemplate

CUT = "> [...]"
"""What stands where something was left out of a quote."""


def quote(text: str) -> str:
    """Every line of a text behind a mark, so that none can pass for one of the request."""
    return "\n".join(f"> {line}" for line in text.splitlines() or [""])


def played(turns: Sequence[Turn], skip_task: bool = False) -> str:
    """What was seen and answered, turn by turn.

    Args:
        skip_task: leave out the first observation, which is told elsewhere.
    """
    said: list[str] = []
    for number, turn in enumerate(turns, 1):
        if number > 1 or not skip_task:
            said.append(f"Turn {number}, observation:\n{quote(turn.observation)}")
        said.append(f"Turn {number}, answer:\n{quote(turn.action)}")
    return "\n".join(said)


def shortened(quoted: str, most: int, template: ChatTemplate) -> str:
    """A quote of at most `most` tokens, without its middle, or only the mark of what was cut."""
    ids = template.encode_content(quoted)
    if len(ids) <= most:
        return quoted
    half = (most - len(template.encode_content(CUT))) // 2
    if half < 1:
        return CUT
    # The end begins anywhere in a line: it is quoted anew, or it might stand outside a quote.
    head, tail = template.decode(ids[:half]).rstrip(), template.decode(ids[-half:])
    return f"{head}\n{CUT}\n> {tail}"


def fair_share(sizes: Sequence[int], budget: int) -> int:
    """How much each may have of a budget, where what the small ones leave goes to the others."""
    share, left = 0, budget
    for place, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - place)
        left -= min(size, share)
    return share
