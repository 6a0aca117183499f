"""The discriminator's network: a copy of the student with a scalar head, and its optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from agentopd.base.types import Trajectory
from agentopd.models.model import LanguageModel
from agentopd.models.passes import Reading, hidden_at

# L episodes, P pairs of them, H hidden size

_HEAD = "head"
_WEIGHT, _OPTIMIZER = "weight/", "optimizer/"


class Discriminator:
    """Scores whole episodes: D(x) = head . h, h the hidden state behind the last token that was
    sampled, in the history that the student reads; where a template rewrites it, in the last one.

    The copy is in float32, whatever the student is in; of a student with adapters it shares the
    base, and its own adapters learn. The head begins with zeros, so that all scores are equal.

    Args:
        student: what is copied.
        trunk: whether the copy learns too, or the head alone.
        learning_rate: of AdamW, which decays no weights.
        clip: the gradient's norm is clipped to this.
        budget: padded tokens in one forward pass.
    """

    def __init__(
        self, student: LanguageModel, trunk: bool, learning_rate: float, clip: float, budget: int
    ) -> None:
        self._model = student.frozen_copy()
        if not student.base:  # adapters are in float32 already, and their base is everybody's
            self._model.module.float()
        self._clip, self._budget = clip, budget
        size = self._model.output.weight.shape[1]
        self._learnt = {_HEAD: torch.nn.Parameter(torch.zeros(size, device=student.device))}
        if trunk:
            self._learnt |= _own(self._model)
        self._trunk = trunk
        for parameter in self._learnt.values():
            parameter.requires_grad_(True)
        self._optimizer = torch.optim.AdamW(
            self._learnt.values(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )

    def scores(self, trajectories: Sequence[Trajectory]) -> torch.Tensor:
        """(L,) the scores, which can be differentiated by what learns."""
        readings = []
        for trajectory in trajectories:
            start, stop = trajectory.segments[-1]
            readings.append(Reading(trajectory.ids[start:stop], np.array([stop - start - 1])))
        with torch.set_grad_enabled(self._trunk):
            hidden_LH = torch.cat(hidden_at(self._model, readings, self._budget))
        return hidden_LH.float() @ self._learnt[_HEAD]

    def step(self, loss: torch.Tensor) -> None:
        """Learn what lowers a loss of scores."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self._learnt.values()), self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that a restart must find again: what learns, and the optimizer's moments."""
        found = {_WEIGHT + name: parameter for name, parameter in self._learnt.items()}
        for name, parameter in self._learnt.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                found[f"{_OPTIMIZER}{name}/{key}"] = value
        return {name: x.detach().clone().contiguous() for name, x in found.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The reverse of `tensors`.

        Raises:
            ValueError: they are not those of this network.
        """
        weights = {n.removeprefix(_WEIGHT): x for n, x in tensors.items() if n.startswith(_WEIGHT)}
        shapes = {name: parameter.shape for name, parameter in self._learnt.items()}
        if {name: x.shape for name, x in weights.items()} != shapes:
            raise ValueError(
                "the checkpoint's discriminator is of another student, or learnt with another "
                "unit.trunk: go on with the run's own settings"
            )
        for name, parameter in self._learnt.items():
            parameter.copy_(weights[name])
            state = dict(_below(f"{_OPTIMIZER}{name}/", tensors))
            if state:
                self._optimizer.state[parameter] = {**state, "step": state["step"].cpu()}


def bradley_terry(better_P: torch.Tensor, worse_P: torch.Tensor) -> torch.Tensor:
    """The mean over pairs of -log sigma(better - worse): ln 2 where scores are equal."""
    return -F.logsigmoid(better_P - worse_P).mean()


def accuracy(better_P: torch.Tensor, worse_P: torch.Tensor) -> float:
    """The share of pairs in the right order; a pair of equal scores counts one half."""
    return float(((better_P > worse_P).float() + 0.5 * (better_P == worse_P).float()).mean())


def _own(model: LanguageModel) -> dict[str, torch.nn.Parameter]:
    """The weights of a model's body that are not shared with another, by their names."""
    own = {id(x) for x in model.weights().values()}
    return {n: p for n, p in model.body.named_parameters() if id(p) in own}


def _below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors whose names begin so, by what follows."""
    for name, tensor in tensors.items():
        if name.startswith(prefix) and "/" not in (rest := name.removeprefix(prefix)):
            yield rest, tensor
