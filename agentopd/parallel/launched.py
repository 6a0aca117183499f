"""Started by `accelerate launch` or `torchrun`: what they tell a process through its environment,
and one voice for all.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import Any, NoReturn

import typer

from agentopd.parallel.processes import ALONE, Processes

_PATIENCE = timedelta(minutes=30)
"""How long a process waits for another that gives signs of life; see `heartbeat`."""
_GRACE = 2.0
"""Seconds that the one that speaks has: a launcher ends all others once one is gone."""
_OTHERS = {
    "ACCELERATE_USE_FSDP": "FSDP shards weights, and gathers them in every pass of every process "
    "alike; here each process plays and learns from episodes of its own, of other lengths, and "
    "divergences read the whole output layer",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed brings its own optimizer and backward pass; here the "
    "optimizer keeps float32 weights of its own, and the backward pass is cut at hidden states",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM brings models of its own; here they are those of "
    "transformers",
}
"""What an accelerate configuration may ask for that is not done, and why."""


def processes_here() -> int:
    """How many processes were launched, this one among them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def refuse_several(command: str) -> None:
    """Stop where a command that is one process's affair was launched several times.

    Raises:
        ValueError: in the first process; the others end silently.
    """
    if processes_here() == 1:
        return
    _refuse(
        f"agentopd {command} was launched as {processes_here()} processes, and only agentopd train "
        f"shares one run's work among several. Start it by itself: agentopd {command}"
    )


@contextmanager
def launched() -> Iterator[Processes]:
    """The processes that were launched, connected to the end of the `with` block; one alone where
    nobody launched several.

    Only the first speaks to the terminal. A mistake that all meet is told once, by whoever meets it
    first; the others end silently.

    Raises:
        ValueError: the launcher's configuration asks for what is not done here.
    """
    if processes_here() == 1:
        yield ALONE
        return
    import torch.distributed as dist

    from agentopd.parallel.group import Group
    from agentopd.parallel.heartbeat import watched

    _refuse_others()
    dist.init_process_group(_backend(), timeout=_PATIENCE)
    group = Group(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_WORLD_SIZE"]))
    store: Any = dist.distributed_c10d._get_default_store()
    try:
        with (
            watched(store.clone(), group.rank, group.size),
            _silent() if not group.first else ExitStack(),
        ):
            yield group
    except typer.Exit:  # all have stopped, as was asked, and the first has said so
        group.any(False)
        raise
    except Exception as error:
        if not _speaks():
            time.sleep(_GRACE)
            raise SystemExit(1) from error
        raise
    dist.destroy_process_group()


def _refuse_others() -> None:
    told = [why for name, why in _OTHERS.items() if os.environ.get(name, "").lower() == "true"]
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no":
        told.append("precision is student.dtype's affair: set mixed_precision: 'no'")
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "NO").upper() != "NO":
        told.append("models are not compiled: set dynamo_backend: 'NO'")
    if told:
        _refuse(
            f"the launcher's configuration asks for what is not done here: {'; '.join(told)}. Use "
            "one of configs/scale/, which spread episodes over processes"
        )


def _refuse(why: str) -> NoReturn:
    """Say it in the first process; the others end silently."""
    if os.environ.get("RANK", "0") != "0":
        raise SystemExit(2)
    raise ValueError(why)


def _backend() -> str:
    """Objects always go between CPUs; each process takes the GPU of its number."""
    import torch

    if not torch.cuda.is_available():
        return "gloo"
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return "cpu:gloo,cuda:nccl"


def _speaks() -> bool:
    """Whether this process is the first to have something to say of the run's end."""
    import torch.distributed as dist

    try:
        return dist.distributed_c10d._get_default_store().add("agentopd/told", 1) == 1
    except RuntimeError:  # whoever kept the store is gone
        return True


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing of what is printed reaches the terminal."""
    sys.stdout.flush()
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
