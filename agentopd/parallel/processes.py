"""The processes of one run, as the loop knows them: one alone, which has nobody to ask."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from agentopd.parallel.shares import shares

if TYPE_CHECKING:  # the command line asks who it is before torch
    import torch

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True)
class Processes:
    """A run's processes. This one is alone: nothing is sent, and what it is given it gives back.

    `agentopd.parallel.group.Group` is one of several. All of them call the same operations in the
    same order; each waits there for the others.

    Attributes:
        rank: which of them this one is, counted from 0.
        size: how many there are.
        local: how many of them share this machine.
    """

    rank: int = 0
    size: int = 1
    local: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes the files and speaks to the terminal."""
        return self.rank == 0

    def share(
        self,
        items: Sequence[T],
        task: Callable[[T], Hashable],
        work: Callable[[T], float] = lambda _: 1.0,
    ) -> list[T]:
        """Those of the items that this process works on, in their order.

        Args:
            task: items of one task stay together.
            work: how much there is to do for an item; the shares are about equal in it.
        """
        return shares(items, self.size, task, work)[self.rank]

    def gather(self, own: Sequence[T], told: Callable[[T], T] = lambda item: item) -> list[T]:
        """All processes' items, in the order of the processes; of its own, each has the originals.

        Args:
            told: makes of an item what the other processes get.
        """
        del told
        return list(own)

    def any(self, here: bool) -> bool:
        """Whether it is so in some process."""
        return here

    @contextmanager
    def united(self, *kinds: type[Exception]) -> Iterator[None]:
        """What fails in one process fails in all: each waits for the others at the block's end.

        Args:
            kinds: exceptions of which the others are told; each of them raises its own, if it has
                one, or that of the lowest rank.
        """
        del kinds
        yield

    def refuse(self, what: str) -> None:
        """Stop several processes from what only one can do.

        Raises:
            ValueError: they are several.
        """
        if self.size > 1:
            raise ValueError(
                f"{what} is trained by one process, not by {self.size} together: start agentopd "
                "train by itself"
            )

    def check_device(self, name: str) -> None:
        """See that each process of a machine has a device of its own, or all share the CPU.

        Raises:
            ValueError: several would share one GPU.
        """
        if self.local > 1 and ":" in name:
            raise ValueError(
                f"device={name} is one GPU, and {self.local} processes of this machine would share "
                "it: device=cuda gives each the one of its number"
            )

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Make each parameter's gradient the sum over all processes; of one that has none in any,
        there is none afterwards either.
        """

    def check_alike(self, what: str, value: Callable[[], str]) -> None:
        """Wait for the others, and see that all have the same.

        Args:
            what: what is compared, for the message.
            value: told only where there is somebody to compare with.

        Raises:
            ValueError: they have not.
        """


ALONE = Processes()
"""What a run has that nobody launched several times."""


class Member(Protocol):
    """Whoever belongs to a run's processes."""

    processes: Processes


M = TypeVar("M", bound=Member)


def by_the_first(
    method: Callable[Concatenate[M, P], Any],
) -> Callable[Concatenate[M, P], None]:
    """A method that only the first process does; for the others it does nothing."""

    @wraps(method)
    def only(self: M, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.processes.first:
            method(self, *args, **kwargs)

    return only
