"""What went wrong in episodes: the reasons, counted; and when it is all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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


def unopened(trajectories: Sequence[Trajectory]) -> int:
    """How many episodes could not be opened: their environment was not built or not reset."""
    return sum(bool(t.error) and not t.prompt for t in trajectories)


def mixed_groups(trajectories: Sequence[Trajectory]) -> str:
    """A line that says so where episodes of one task played different ones; empty elsewhere.

    Advantages compare the episodes of a group, which share the seed of `reset`: an environment that
    ignores it, or draws from elsewhere, gives each of them a task of its own.
    """
    names: dict[int, set[str]] = {}
    for t in trajectories:
        if (name := t.prompt.get("task_id")) is not None:
            names.setdefault(t.task, set()).add(str(name))
    mixed = [sorted(found) for found in names.values() if len(found) > 1]
    if not mixed:
        return ""
    first, second, *_ = mixed[0]
    return (
        f"{len(mixed)} of {len(names)} groups hold episodes of different tasks ({first!r}, "
        f"{second!r}): the environment does not choose its task by the seed alone; agentopd "
        "check-env says where"
    )


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


def some_failed(found: Mapping[str, int], episodes: int, what: str, closed: int = 0) -> str:
    """A line that says so; empty where none failed.

    Args:
        what: as for `refuse_failures`.
        closed: episodes of these that could not be opened.
    """
    if not found:
        return ""
    count = sum(found.values())
    told = f"{count} of {episodes} episodes {what} ended in errors; the first: {next(iter(found))}"
    if not closed:
        return told
    return f"{told}; {closed} could not be opened: rollout.slots is how many are open at once"


def outgrown(ends: Mapping[str, int], episodes: int, what: str) -> str:
    """A line on episodes that were broken off where no further turn fitted; empty without any.

    Args:
        ends: how many episodes ended by each `EndReason`.
        what: as for `refuse_failures`.
    """
    if not (count := ends.get("context_limit", 0)):
        return ""
    return f"max_context ended {count} of {episodes} episodes {what}: raise it, or shorten answers"


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


def unheard(count: int, episodes: int, what: str) -> str:
    """A line on episodes whose teacher could not read all of its context; empty without any.

    Args:
        count: how many they are.
        what: as for `refuse_failures`.
    """
    if not count:
        return ""
    return (
        f"the teacher's context of {count} of {episodes} episodes {what} is longer than its model "
        "can read: they have no lesson. The next steps leave more room; a smaller "
        "rollout.max_context leaves it from the start"
    )


def most_frequent(found: Counter[str]) -> dict[str, int]:
    """The twenty most frequent reasons; the episodes of all others are counted as one."""
    kept = dict(found.most_common(_MOST))
    rest = found.total() - sum(kept.values())
    return kept | {"other reasons": rest} if rest else kept
