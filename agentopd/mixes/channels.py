"""The two channels of a step, distillation and reinforcement learning, as a mix finds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from agentopd.divergences.estimators import Estimator
from agentopd.mixes.advantages import Advantage
from agentopd.signal.evidence import Measured
from agentopd.signal.surrogate import policy_gradient, reference_kl

# N tokens of a micro-batch


@dataclass(frozen=True)
class Distillation:
    """What the teacher makes of each token.

    Attributes:
        credit_N: what each token carries, after weights and unit: a loss to differentiate, or a
            detached advantage, as `returns` says.
        estimator: whose rule for the importance ratio turns an advantage into a loss; None where
            the credit is no estimator's, and the ratio enters as it is.
        weight_N: the product of the weights alone, averaged over the unit's spans; 1 where no span
            covers the token.
        gates: each weight (N,) by its name, before it is rescaled and averaged, and the estimator
            that is a gate.
        average_N: how much each token counts in the average over the taught tokens.
        scale_N: coefficient, schedule and route.
    """

    credit_N: torch.Tensor
    returns: Literal["loss", "advantage"]
    estimator: Estimator | None
    weight_N: torch.Tensor
    average_N: torch.Tensor
    scale_N: torch.Tensor
    gates: Mapping[str, torch.Tensor] = field(default_factory=dict)
    plus: Distillation | None = None


@dataclass(frozen=True)
class Reinforcement:
    """What the rewards make of each token.

    Attributes:
        average_N: how much each token counts in the average over all of the step's tokens.
        scale_N: schedule and route.
        likelihood_N: schedule and route of tokens that are to be made likelier, whatever their
            advantage.
        told_N: bool, the tokens that were sampled by who was told more than stands in their
            history.
    """

    rule: Advantage
    advantage_N: torch.Tensor
    average_N: torch.Tensor
    scale_N: torch.Tensor
    likelihood_N: torch.Tensor
    told_N: torch.Tensor


@dataclass(frozen=True)
class Channels:
    """Both channels of a micro-batch; None where one has nothing to say of its tokens.

    Attributes:
        strength: what the schedule multiplies a mix's strength by.
    """

    measured: Measured
    behaviour_N: torch.Tensor
    strength: float
    distillation: Distillation | None
    reinforcement: Reinforcement | None

    @property
    def gates(self) -> Mapping[str, torch.Tensor]:
        """See `Distillation.gates`; empty without a teacher."""
        return self.distillation.gates if self.distillation else {}

    def distil(self) -> torch.Tensor:
        """The distillation term."""
        own = self.distillation
        assert own is not None
        return self._taught(own) if own.plus is None else self._taught(own) + self._taught(own.plus)

    def _taught(self, own: Distillation) -> torch.Tensor:
        loss_N = own.credit_N
        if own.returns == "advantage":
            logprob_N, estimator = self.measured.student.logprob_N, own.estimator
            loss_N = (
                estimator.surrogate(logprob_N, self.behaviour_N, own.credit_N)
                if estimator
                else policy_gradient(logprob_N, self.behaviour_N, own.credit_N, clip=None)
            )
        return (own.average_N * own.scale_N * loss_N).sum()

    def reinforce(
        self, advantage_N: torch.Tensor | None = None, anchor_N: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The reinforcement-learning term, with what regularises it.

        Args:
            advantage_N: in place of its own, schedule and route included.
            anchor_N: log-probabilities in place of the behaviour policy's, from which the clipped
                ratio is measured.
        """
        own, student = self.reinforcement, self.measured.student
        assert own is not None
        rule = own.rule
        chosen_N = own.scale_N * own.advantage_N if advantage_N is None else advantage_N
        before_N = self.behaviour_N if anchor_N is None else anchor_N
        loss_N = rule.surrogate(student.logprob_N, before_N, chosen_N)
        if rule.needs_reference:
            assert self.measured.reference is not None
            reference_N = self.measured.reference.logprob_N
            drift_N = reference_kl(
                student.logprob_N, reference_N, self.behaviour_N, rule.kl_estimator
            )
            loss_N = loss_N + rule.kl_coefficient * own.scale_N * drift_N
        if rule.entropy_bonus:
            loss_N = loss_N - rule.entropy_bonus * own.scale_N * student.entropy_N
        return (own.average_N * loss_N).sum()

    def imitate(self, power: float | torch.Tensor = 0.0) -> torch.Tensor:
        """The likelihood term: of the tokens that are to be made likelier, -log p.

        Args:
            power: of the token's own probability, with which it counts; or (N,) one a token.
        """
        own, logprob_N = self.reinforcement, self.measured.student.logprob_N
        assert own is not None
        share_N = own.average_N * own.likelihood_N
        if isinstance(power, torch.Tensor) or power:
            share_N = share_N * (power * logprob_N.detach()).exp()
        return -(share_N * logprob_N).sum()
