"""AdamW whose weights are float32, whatever the passes run in; its moments may be of 8 bits.

A step at a learning rate of 1e-6 is far below what bfloat16 can add to a weight: it rounds to
nothing. So a narrower parameter has a master copy in float32, which gathers its gradient, holds the
moments, is stepped, and is rounded into the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

_FLOAT = 4
_BLOCK = 256
_SLICE = 2**22
"""Numbers that are in float32 at a time; whole blocks."""
_DECADES = 7.0
_SIGNED = {"exp_avg": True, "exp_avg_sq": False}
"""The moments, as torch calls them, and whether they have a sign."""


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

    def moments_bytes(self) -> int:
        """What both moments of all weights take once there was a step."""
        return 8 * sum(held.numel() for held in self.held)

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


class MasterAdamW8bit(MasterAdamW):
    """The same with moments of 8 bits, in blocks with a scale each (2110.02861): 2 bytes a weight
    instead of 8.

    Levels are even in the logarithm, so every weight of a block has its own step to the same
    precision, however small its gradient beside its neighbours'; the second moment is kept as its
    root. Rounding is unbiased: to the nearest level, an average that moves by less than a level a
    step would never move. What it draws follows from step and parameter, so a resumed run draws the
    same. Parameters of fewer than 4,096 numbers have moments in float32.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step, rounded into the model."""
        assert closure is None
        for group in self.param_groups:
            for index, held in enumerate(group["params"]):
                if held.grad is not None:
                    self._step_one(held, group, index)
        for parameter, master in self.masters.items():
            parameter.copy_(master)

    def moments_bytes(self) -> int:
        """See `MasterAdamW.moments_bytes`."""
        return sum(
            2 * (x.numel() + _FLOAT * _blocks(x.numel())) if _in_8_bits(x) else 8 * x.numel()
            for x in self.held
        )

    def _step_one(self, held: torch.nn.Parameter, group: dict[str, Any], index: int) -> None:
        state = self.state[held]
        if not state:
            state |= {"step": torch.tensor(0.0), **_no_moments(held)}
        state["step"] += 1
        assert held.grad is not None
        number = int(state["step"])
        if not _in_8_bits(held):
            moments = (state["exp_avg"], state["exp_avg_sq"])
            _adamw(held, held.grad, *moments, group, number)
            return
        generator = torch.Generator(held.device).manual_seed(number * 1_000_003 + index)
        weights, gradient = held.view(-1), held.grad.reshape(-1)
        for start in range(0, len(weights), _SLICE):
            part = slice(start, min(start + _SLICE, len(weights)))
            blocks = slice(start // _BLOCK, start // _BLOCK + _blocks(part.stop - start))
            mean, root = (
                _decoded(state[name][part], state[f"{name}_scale"][blocks], sign)
                for name, sign in _SIGNED.items()
            )
            square = root.square_()
            _adamw(weights[part], gradient[part], mean, square, group, number)
            for (name, sign), moment in zip(_SIGNED.items(), (mean, square.sqrt_()), strict=True):
                codes, scales = _encoded(moment, sign, generator)
                state[name][part], state[f"{name}_scale"][blocks] = codes, scales


def _in_8_bits(held: torch.Tensor) -> bool:
    return held.numel() >= 4_096 and held.is_contiguous()


def _blocks(numbers: int) -> int:
    return -(-numbers // _BLOCK)


def _no_moments(held: torch.Tensor) -> dict[str, torch.Tensor]:
    if not _in_8_bits(held):
        return {name: torch.zeros_like(held) for name in _SIGNED}
    size = held.numel()
    codes = {name: held.new_zeros(size, dtype=torch.uint8) for name in _SIGNED}
    scales = {f"{name}_scale": held.new_zeros(_blocks(size)) for name in _SIGNED}
    return codes | scales


def _adamw(
    weight: torch.Tensor,
    gradient: torch.Tensor,
    mean: torch.Tensor,
    square: torch.Tensor,
    group: dict[str, Any],
    number: int,
) -> None:
    """Step number `number`, in place: the weight and both moments."""
    rate, (early, late) = group["lr"], group["betas"]
    weight.mul_(1 - rate * group["weight_decay"])
    mean.lerp_(gradient, 1 - early)
    square.mul_(late).addcmul_(gradient, gradient, value=1 - late)
    spread = (square.sqrt() / (1 - late**number) ** 0.5).add_(group["eps"])
    weight.addcdiv_(mean, spread, value=-rate / (1 - early**number))


def _encoded(
    values: torch.Tensor, signed: bool, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of one byte, and each block's largest number.

    Code 0 is nothing; the levels above it are even in the logarithm, `_DECADES` deep, and the
    highest is the block's largest. A sign takes the byte's highest bit. Without a sign, what is not
    nothing never becomes so: it is divided by.
    """
    levels = 127 if signed else 255
    filled = torch.nn.functional.pad(values, (0, -len(values) % _BLOCK)).view(-1, _BLOCK)
    scale = filled.abs().amax(1)
    share = (filled.abs() / scale.clamp(min=torch.finfo(scale.dtype).tiny)[:, None]).view(-1)
    share = share[: len(values)]
    below = ((share.log10() / _DECADES + 1) * (levels - 1)).floor_().clamp_(-1, levels - 1) + 1
    low, high = _level(below, levels), _level((below + 1).clamp(max=levels), levels)
    up = torch.rand(share.shape, generator=generator, device=share.device) * (high - low)
    code = below + (up < share - low)
    if not signed:
        code = code.clamp_(min=1).mul_(share > 0)
        return code.to(torch.uint8), scale
    return code.to(torch.uint8) | ((values < 0).to(torch.uint8) << 7), scale


def _decoded(codes: torch.Tensor, scales: torch.Tensor, signed: bool) -> torch.Tensor:
    """The numbers that codes stand for."""
    levels = 127 if signed else 255
    share = _level((codes & 127 if signed else codes).to(scales.dtype), levels)
    if signed:
        share = torch.where(codes > 127, -share, share)
    return share * scales.repeat_interleave(_BLOCK)[: len(codes)]


def _level(code: torch.Tensor, levels: int) -> torch.Tensor:
    """The share of a block's largest number that a code without sign stands for."""
    share = (_DECADES * ((code - 1) / (levels - 1) - 1)).mul_(2.302585092994046).exp_()
    return share.mul_(code > 0)
