"""What went wrong in episodes: the reasons, counted; and when it is all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line reads this before torch
    from agentopd.base.types import Trajectory

_LONGEST = 300
_MOST = 20
_FEW = 4


class EveryEpisodeFailed(ValueError):
    """Nothing can be learnt or measured; the message is for whoever wrote the environment."""


def failures(trajectories: Sequence[Trajectory]) -> Counter[str]:
    """How many episodes ended by each reason, in the order in which the reasons came up.

    A reason is its first line, cut after 300 characters.
    """
    told = (t.error.strip().partition("\n")[0][:_LONGEST] for t in trajectories if t.error)
    return Counter(told)


def refuse_failures(trajectories: Sequence[Trajectory], what: str) -> None:
    """Stop where no episode could be played.

    Args:
        what: names the episodes, such as "of step 3".

    Raises:
        EveryEpisodeFailed: all of them ended by an error.
    """
    found = failures(trajectories)
    if trajectories and found.total() == len(trajectories):
        raise EveryEpisodeFailed(
            f"all {len(trajectories)} episodes {what} ended in errors; "
            f"the first: {next(iter(found))}"
        )


def some_failed(found: Mapping[str, int], episodes: int, what: str) -> str:
    """A line that says so; empty where none failed. See `refuse_failures` for `what`."""
    if not found:
        return ""
    count = sum(found.values())
    return f"{count} of {episodes} episodes {what} ended in errors; the first: {next(iter(found))}"


def all_cut(share: float, answers: float, what: str) -> str:
    """A line that says so where every answer was cut; empty where one was not.

    Of fewer than four answers it is no news.

    Args:
        share: of the answers, those that reached the limit of tokens.
        what: names the answers, as in `refuse_failures`.
    """
    if share < 1 or answers < _FEW:
        return ""
    return (
        f"all {answers:.0f} answers {what} were cut at the limit of tokens: raise "
        "rollout.max_turn_tokens, or see that the student ends its answers with a token its "
        "tokenizer or generation settings name"
    )


def most_frequent(found: Counter[str]) -> dict[str, int]:
    """The twenty most frequent reasons; the episodes of all others are counted as one."""
    kept = dict(found.most_common(_MOST))
    rest = found.total() - sum(kept.values())
    return kept | {"other reasons": rest} if rest else kept
