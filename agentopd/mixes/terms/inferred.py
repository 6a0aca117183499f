"""A reward that explains the student's logits, inferred beside them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field

from agentopd.base.parts import Settings
from agentopd.models.head import Head
from agentopd.models.model import LanguageModel
from agentopd.signal.tokens import Tokens

# N tokens of a micro-batch, M those that another one follows in their episode, H hidden size

_LOG_2PI = math.log(2 * math.pi)


class InferredReward(Settings):
    """A term beside the method's own (X-KD 2602.12674, in the form of AVRIL 2102.06483): logits are
    taken for values Q, and a reward r that would explain them is inferred at the same time.

    Of each token y behind its history h, and the next token y' that is learnt from behind h', it
    adds to the loss `coefficient` times

        KL(f(r | h, y) || N(0, 1)) - log f(Q(h, y) - discount * Q(h', y') | h, y)

    f is a Gaussian whose mean and deviation are linear in the student's last hidden state and in
    the output row of y, both normalised; what they come from is not moved by it. The student is
    moved through Q. An episode's last token has no such term. The mean is over all of the step's
    tokens, as `unit.normalise` has it.

    Args:
        coefficient: lambda; at 0 there is no such term, and nothing is inferred. Raw logits lie ten
            and more apart, so that at 0.1 the term is hundreds of times what a divergence is.
        discount: gamma.
        least_deviation: of f, without which it could explain a value by a point.
        learning_rate: of f, which has an AdamW of its own.
    """

    coefficient: float = Field(default=1e-4, ge=0)
    discount: float = Field(default=1.0, ge=0, le=1)
    least_deviation: float = Field(default=0.1, gt=0, lt=1)
    learning_rate: float = Field(default=1e-3, gt=0)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        later = "z'" if self.discount == 1 else f"{self.discount:g} z'"
        return f"{self.coefficient:g} mean grad (log f(z - {later}) - KL(f || N(0, 1)))"

    @property
    def symbols(self) -> dict[str, str]:
        """What the symbols of the formula mean that no other part explains."""
        return {
            "f": "a Gaussian by the last hidden state and y's output row, which is learnt too",
            "z": "the logit of y, z' that of the next token",
        }

    def posterior(self, student: LanguageModel) -> RewardPosterior | None:
        """What is inferred beside that student, as it is before the first step; None where the term
        counts for nothing.
        """
        if not self.coefficient:
            return None
        return RewardPosterior(self, student.output.weight.shape[1], student.device)


class RewardPosterior:
    """f, and what moves it. It begins as N(0, 1), whatever it is asked.

    Args:
        size: H.
        device: where the student is.
    """

    def __init__(self, settings: InferredReward, size: int, device: torch.device) -> None:
        self.settings = settings
        self._weight = torch.nn.Parameter(torch.zeros(2, 2 * size, device=device))
        self._bias = torch.nn.Parameter(torch.zeros(2, device=device))
        # Whatever the coefficient, it takes the same steps.
        self._optimizer = torch.optim.AdamW(
            self.held,
            lr=settings.learning_rate,
            eps=1e-8 * settings.coefficient,
            weight_decay=0.0,
            foreach=False,
        )
        self._unit = math.log(math.expm1(1 - settings.least_deviation))

    @property
    def held(self) -> list[torch.nn.Parameter]:
        """What is stepped."""
        return [self._weight, self._bias]

    def term(self, head: Head, tokens: Tokens, average_N: torch.Tensor) -> torch.Tensor:
        """The term of a micro-batch.

        Args:
            head: the student's hidden states before each token, live, and its output layer.
            average_N: how much each token counts in the mean.
        """
        row_NH = head.weight_VH[tokens.ids_N].float()
        hidden_NH = head.hidden_NH.float()
        value_N = (hidden_NH * row_NH).sum(-1)
        if head.bias_V is not None:
            value_N = value_N + head.bias_V[tokens.ids_N].float()
        followed = tokens.lesson_N[1:] == tokens.lesson_N[:-1]
        reward_M = (value_N[:-1] - self.settings.discount * value_N[1:])[followed]
        mean_M, deviation_M = (
            x[:-1][followed] for x in self.of(hidden_NH.detach(), row_NH.detach())
        )
        loss_M = surprise(reward_M, mean_M, deviation_M)
        return self.settings.coefficient * (average_N[:-1][followed] * loss_M).sum()

    def of(self, hidden_NH: torch.Tensor, row_NH: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(N,) mean and (N,) deviation of f, by hidden states and output rows."""
        seen = [F.layer_norm(x, x.shape[-1:]) for x in (hidden_NH, row_NH)]
        mean_N, raw_N = F.linear(torch.cat(seen, -1), self._weight, self._bias).unbind(-1)
        return mean_N, self.settings.least_deviation + F.softplus(raw_N + self._unit)

    def step(self, finite: bool) -> None:
        """Follow the gradients of a pass, if they are finite, and let go of them."""
        if finite:
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that must survive a restart."""
        found = dict[str, torch.Tensor]()
        for name, held in zip(("weight", "bias"), self.held, strict=True):
            own = {"value": held, **self._optimizer.state.get(held, {})}
            found |= {f"{name}/{key}": x.detach().clone() for key, x in own.items()}
        return found

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """The reverse of `tensors`."""
        for name, held in zip(("weight", "bias"), self.held, strict=True):
            own = {k.partition("/")[2]: x for k, x in tensors.items() if k.startswith(f"{name}/")}
            held.copy_(own.pop("value"))
            if own:
                self._optimizer.state[held] = {**own, "step": own["step"].cpu()}


def surprise(
    reward_M: torch.Tensor, mean_M: torch.Tensor, deviation_M: torch.Tensor
) -> torch.Tensor:
    """(M,) KL(f || N(0, 1)) - log f(reward) in nats, of Gaussians f."""
    drift_M = (mean_M.square() + deviation_M.square() - 1) / 2 - deviation_M.log()
    away_M = (reward_M - mean_M) / deviation_M
    return drift_M + deviation_M.log() + (away_M.square() + _LOG_2PI) / 2
