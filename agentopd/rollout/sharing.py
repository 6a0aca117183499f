"""What contexts have in common from their beginning on, so that it is read once and copied.

The members of a group open with the same words, and all episodes of an environment with the same
rules. In alphabetical order those that share most stand beside each other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

Ids = list[int]


def common(some: Ids, others: Ids) -> int:
    """How many tokens two sequences have in common from their beginning on."""
    same, differ = 0, min(len(some), len(others))
    if some[:differ] == others[:differ]:
        return differ
    while differ - same > 1:
        middle = (same + differ) // 2
        if some[same:middle] == others[same:middle]:
            same = middle
        else:
            differ = middle
    return same


def longest_common(sought: Ids, among: Sequence[Ids]) -> tuple[int, int]:
    """Which of `among`, which are in order, has most in common with `sought`, and how much.

    Returns:
        Its number and the tokens in common; -1 and 0 if none has any.
    """
    at = bisect_left(among, sought)
    near = [n for n in (at - 1, at) if 0 <= n < len(among)]
    found = [(common(among[n], sought), -n) for n in near]
    most, number = max(found, default=(0, 1))
    return (-number, most) if most else (-1, 0)


def followers(contexts: Sequence[Ids], held: Sequence[int], free: Sequence[bool]) -> dict[int, int]:
    """Who had better wait until another has read what both begin with.

    Args:
        held: how many tokens of each context are there already.
        free: whether each may wait at all; whoever may not can still be waited for.

    Returns:
        By their numbers, how many tokens each need not read then.
    """
    order = sorted(range(len(contexts)), key=lambda n: (contexts[n], free[n]))
    found: dict[int, int] = {}
    leader = -1
    for n in order:
        shared = 0
        if leader >= 0 and free[n]:
            # Its last token each reads itself: what comes next is said from there.
            most = min(common(contexts[leader], contexts[n]), len(contexts[n]) - 1)
            shared = most - held[n]
        if shared > 0:
            found[n] = shared
        else:
            leader = n
    return found
