"""What went wrong in episodes: the reasons, counted; and when it is all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line reads this before torch
    from agentopd.base.types import Trajectory

_LONGEST = 300
_MOST = 20


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


def unusable(shares: Mapping[str, Any], what: str) -> dict[str, str]:
    """A line for each share of the answers that is all of them: `cut`, or `invalid`.

    Args:
        shares: by name; see `refuse_failures` for `what`.
    """
    lines = {
        "cut": f"all answers {what} were cut: rollout.max_turn_tokens is too small, or the model "
        "does not end its answers",
        "invalid": f"no answer {what} could be read as an action: look at some with agentopd play, "
        "and tell the model the form in the environment's rules",
    }
    return {name: line for name, line in lines.items() if shares.get(name) == 1.0}


def most_frequent(found: Counter[str]) -> dict[str, int]:
    """The twenty most frequent reasons; the episodes of all others are counted as one."""
    kept = dict(found.most_common(_MOST))
    rest = found.total() - sum(kept.values())
    return kept | {"other reasons": rest} if rest else kept
