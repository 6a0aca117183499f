"""One of several processes, which tell one another what each has done: torch.distributed's default
group, over Gloo between CPUs and NCCL between GPUs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist

from agentopd.parallel.processes import Processes

T = TypeVar("T")
_BUCKET = 2**24
"""Numbers that are sent at once: large enough to be fast, small beside any model."""


class ProcessLost(ValueError):
    """Another process of the run has ended, or does not answer."""


@dataclass(frozen=True)
class Group(Processes):
    """One of several processes; see `Processes` for what each operation promises.

    Raises:
        ProcessLost: of every operation: another process is gone.
    """

    parent: int = field(default_factory=os.getppid)
    """The launcher; where it is gone, nobody waits for the run any more."""

    def gather(self, own: Sequence[T], told: Callable[[T], T] = lambda item: item) -> list[T]:
        """See `Processes.gather`."""
        found: list[list[T]] = [[] for _ in range(self.size)]
        with _together():
            dist.all_gather_object(found, [told(item) for item in own])
        found[self.rank] = list(own)
        return [item for items in found for item in items]

    def any(self, here: bool) -> bool:
        """See `Processes.any`; also true once the launcher is gone."""
        return any(self.gather([here or os.getppid() != self.parent]))

    @contextmanager
    def united(self, *kinds: type[Exception]) -> Iterator[None]:
        """See `Processes.united`."""
        own: Exception | None = None
        try:
            yield
        except kinds as error:
            own = error
        failed = [error for error in self.gather([own]) if error is not None]
        if failed:
            raise own or failed[0]

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """See `Processes.add_gradients`.

        All processes get the same bits, so that equal weights stay equal.
        """
        everyone = list(parameters)
        has = self.gather([tuple(parameter.grad is not None for parameter in everyone)])
        present = [p for p, *here in zip(everyone, *has, strict=True) if any(here)]
        for parameter in present:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([p.grad for p in present if p.grad is not None]):
            _add_up(bucket)

    def check_alike(self, what: str, value: Callable[[], str]) -> None:
        """See `Processes.check_alike`."""
        found = self.gather([value()])
        others = [rank for rank, one in enumerate(found) if one != found[0]]
        if others:
            raise ValueError(
                f"{what} of process {others[0]} is another than that of process 0: all must find "
                "the same files, of the same versions"
            )


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Neighbours of one dtype and device that are sent together."""
    bucket, numbers = list[torch.Tensor](), 0
    for tensor in tensors:
        alike = not bucket or (tensor.dtype, tensor.device) == (bucket[0].dtype, bucket[0].device)
        if bucket and (not alike or numbers + tensor.numel() > _BUCKET):
            yield bucket
            bucket, numbers = [], 0
        bucket.append(tensor)
        numbers += tensor.numel()
    if bucket:
        yield bucket


@torch.no_grad()
def _add_up(bucket: Sequence[torch.Tensor]) -> None:
    """Make each tensor the sum over all processes, in place."""
    flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
    with _together():
        dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in bucket])
    for tensor, part in zip(bucket, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


@contextmanager
def _together() -> Iterator[None]:
    """Names what a broken connection means.

    Raises:
        ProcessLost: another process closed it, or has not come here in half an hour.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0].rpartition("] ")[2]
        raise ProcessLost(
            "another process of this run was ended, or no longer answers, so all of them end; "
            f"what was saved is kept, and agentopd resume goes on from there ({reason})"
        ) from error
