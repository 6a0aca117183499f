"""Which of a step's work each process does: whole tasks, of about as much work each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

T = TypeVar("T")


def shares(
    items: Sequence[T],
    count: int,
    task: Callable[[T], Hashable],
    work: Callable[[T], float],
) -> list[list[T]]:
    """The items in `count` shares, each in the order of the items.

    Items of one task stay together. The largest tasks are given out first, each to whoever has
    least so far; of equals, to the first. So it is the same wherever it is worked out.
    """
    tasks: dict[Hashable, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        tasks[task(item)].append(place)
    sized = [(sum(work(items[place]) for place in places), places) for places in tasks.values()]
    loads, found = [0.0] * count, [list[int]() for _ in range(count)]
    for size, places in sorted(sized, key=lambda one: -one[0]):
        least = loads.index(min(loads))
        loads[least] += size
        found[least] += places
    return [[items[place] for place in sorted(places)] for places in found]
