"""AdamW whose weights are float32, whatever the model's passes run in.

A step at a learning rate of 1e-6 is far below what bfloat16 can add to a weight: it rounds to
nothing. So a narrower parameter has a master copy in float32, which gathers its gradient, holds the
moments, is stepped, and is rounded into the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class MasterAdamW(torch.optim.AdamW):
    """AdamW (1711.05101) over float32 weights.

    float32 parameters are stepped themselves. For a bfloat16 parameter this takes 16 bytes a weight
    beside the model's two: the master, two moments, and the gradient, which is summed over
    micro-batches in float32; the model's own gradient is freed at once.

    Args:
        parameters: the model's, which are to learn.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], **settings: Any) -> None:
        self.masters: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
        """The float32 copy of each narrower parameter."""
        held = list[torch.nn.Parameter]()
        for parameter in parameters:
            master = parameter
            if parameter.dtype != torch.float32:
                master = torch.nn.Parameter(parameter.detach().float())
                self.masters[parameter] = master
                parameter.register_post_accumulate_grad_hook(_handing_to(master))
            held.append(master)
        # A tensor at a time, as torch does on a CPU anyway: all at once, which is its way on a GPU,
        # takes as much memory again as all weights do.
        super().__init__(held, foreach=False, **settings)

    @property
    def held(self) -> list[torch.nn.Parameter]:
        """What is stepped: where gradients are found and clipped."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step, rounded into the model."""
        super().step(closure)
        for parameter, master in self.masters.items():
            parameter.copy_(master)


def held_for(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    """What `optimizer` steps for a model's parameter: its master, or the parameter itself."""
    masters = optimizer.masters if isinstance(optimizer, MasterAdamW) else {}
    return masters.get(parameter, parameter)


def _handing_to(master: torch.nn.Parameter) -> Callable[[torch.Tensor], None]:
    """Moves what a backward pass leaves at a parameter to its master."""

    def hand(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        if master.grad is None:
            master.grad = parameter.grad.float()
        else:
            master.grad += parameter.grad
        parameter.grad = None

    return hand
