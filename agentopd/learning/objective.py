"""From what the models say of a micro-batch's tokens to the terms of its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from agentopd.base.types import Lesson
from agentopd.divergences.base import from_samples
from agentopd.learning.method import Method
from agentopd.learning.plan import Plan, spread, values_of
from agentopd.mixes.channels import Channels, Distillation, Reinforcement
from agentopd.signal.evidence import (
    Measured,
    NotYetAsked,
    UnaskedEvidence,
)
from agentopd.signal.tokens import Tokens, told
from agentopd.units.spans import SpanIndex
from agentopd.weights.weighed import (
    Weighed,
    need_survey,
    weigh,
    weigh_unasked,
)

# N tokens of a micro-batch, L its lessons


@dataclass(frozen=True)
class Objective:
    """A method's loss, given what the models say."""

    method: Method

    def surveyed(
        self, taught: Sequence[Lesson], untaught: Sequence[Lesson], step: int
    ) -> Sequence[Lesson]:
        """The lessons of which the plan asks before the step what the models say."""
        mix, weights = self.method.mix, self.method.weight
        if mix.scored_by == "student":
            return untaught
        if mix.imitation == "all":
            known = not untaught or weigh_unasked(weights, untaught, step) is not None
            return () if known else untaught
        if not taught:
            return ()
        estimator = from_samples(self.method.divergence)
        settled = estimator is not None and estimator.needs_step
        asked = settled or mix.scored_by == "teacher" or need_survey(weights, taught, step)
        return taught if asked else ()

    def learnt(self, plan: Plan) -> set[int]:
        """The episodes, by number, that have a gradient in some channel."""
        mix, rl = self.method.mix, self.method.mix.rl_channel
        found = set()
        for episode, route in plan.routes.items():
            advised = mix.distils and mix.distil_coefficient and episode in plan.spans
            rewarded = rl and route.rl and (plan.rewarded(episode) or mix.regularised)
            moved = rewarded or (rl and route.likelihood)
            heard = plan.factors["distil"] or self.method.control == "zero_signal"
            if (advised and route.distil and heard) or (moved and plan.factors["rl"]):
                found.add(episode)
        return found

    def terms(
        self, measured: Measured, tokens: Tokens, batch: Sequence[Lesson], plan: Plan
    ) -> dict[str, torch.Tensor]:
        """The loss's terms by name."""
        return self.method.mix.terms(self.channels(measured, tokens, batch, plan))

    def channels(
        self, measured: Measured, tokens: Tokens, batch: Sequence[Lesson], plan: Plan
    ) -> Channels:
        """What the mix makes the loss's terms of."""
        return Channels(
            measured=measured,
            behaviour_N=tokens.behaviour_N,
            strength=plan.factors["strength"],
            distillation=self._distillation(measured, tokens, batch, plan),
            reinforcement=self._reinforcement(tokens, batch, plan),
        )

    def coefficients(
        self, tokens: Tokens, batch: Sequence[Lesson], plan: Plan
    ) -> torch.Tensor | None:
        """(N,) by how much each token's divergence counts in the loss, where that is known before
        the models are asked about the micro-batch: then gradients take one pass over the vocabulary
        instead of two. None where it is not, and for episodes without a lesson.
        """
        method = self.method
        if not method.mix.distils:
            return None
        if from_samples(method.divergence) or method.unit.returns(method.divergence) == "advantage":
            return None
        if plan.weighed is None or batch[0].trajectory.episode not in plan.spans:
            return None
        weight_N = self._planned(tokens, batch, plan.weighed).weight_N
        value_N = torch.zeros(len(tokens), device=tokens.ids_N.device, requires_grad=True)
        index, unasked = self._index(tokens, batch, plan), UnaskedEvidence(tokens, batch, plan.step)
        try:
            credit_N = method.unit.credit(value_N * weight_N, index, unasked) * plan.balance
        except NotYetAsked:
            # The unit weighs by what the models say.
            return None
        factor_N = plan.distil.factor(tokens) * self._distil_scale(tokens, batch, plan)
        # Right where credits are linear in the values. Elsewhere it is a promise that is not kept,
        # which `measure` sees, and which costs time alone.
        (coefficient_N,) = torch.autograd.grad((factor_N * credit_N).sum(), value_N)
        return coefficient_N

    def _distillation(
        self, measured: Measured, tokens: Tokens, batch: Sequence[Lesson], plan: Plan
    ) -> Distillation | None:
        if measured.teacher is None:
            return None
        unit, divergence = self.method.unit, plan.divergence
        value_N = values_of(divergence, measured, tokens)
        evidence = plan.evidence(measured, tokens, batch, value_N)
        if plan.weighed is None:
            weighed = weigh(self.method.weight, evidence)
        else:
            weighed = self._planned(tokens, batch, plan.weighed)
        weight_N, gates = weighed.weight_N, dict(weighed.gates)
        estimator = divergence.estimated_by
        if estimator is not None:
            if estimator.gate:
                gates[estimator.kind] = value_N.detach()
            value_N = _credited(value_N, weight_N != 0, tokens, batch, plan)
        index = self._index(tokens, batch, plan)
        shared_N = unit.modulation(weight_N, index, evidence).detach() * plan.balance
        # What no span covers has no lesson, and keeps its advantage as it is.
        covered_N = index.covered(len(tokens))
        own = Distillation(
            credit_N=unit.credit(value_N * weight_N, index, evidence) * plan.balance,
            returns=unit.returns(divergence),
            estimator=estimator,
            weight_N=torch.where(covered_N, shared_N, torch.ones_like(shared_N)),
            average_N=plan.distil.factor(tokens),
            scale_N=self._distil_scale(tokens, batch, plan),
            gates=gates,
        )
        plus = divergence.plus
        if plus is None:
            return own
        further_N = divergence.estimated(measured, tokens)
        further_N = _credited(further_N, weight_N != 0, tokens, batch, plan) * weight_N
        credit_N = unit.credit(further_N, index, evidence) * plan.balance
        further = replace(own, credit_N=credit_N, returns=plus.returns, estimator=plus)
        return replace(own, plus=further)

    def _planned(
        self, tokens: Tokens, batch: Sequence[Lesson], known: Mapping[int, Weighed]
    ) -> Weighed:
        """The plan's weights of a micro-batch."""
        return Weighed.joined([known[x.trajectory.episode] for x in batch], tokens.ids_N.device)

    def _reinforcement(
        self, tokens: Tokens, batch: Sequence[Lesson], plan: Plan
    ) -> Reinforcement | None:
        """Every token of an episode, or of a turn, carries its advantage."""
        rule, scheduled = self.method.mix.rl_channel, plan.factors["rl"]
        if rule is None:
            return None
        routes = [plan.routes[x.trajectory.episode] for x in batch]
        likelihood_N = spread([scheduled * route.likelihood for route in routes], tokens)
        if self.method.mix.imitation == "all":
            assert plan.weighed is not None, "weights under a likelihood are known before the step"
            likelihood_N = likelihood_N * self._planned(tokens, batch, plan.weighed).weight_N
        return Reinforcement(
            rule=rule,
            advantage_N=plan.advantage(tokens, batch),
            average_N=plan.rl.factor(tokens),
            scale_N=spread([scheduled * route.rl for route in routes], tokens),
            likelihood_N=likelihood_N,
            told_N=told(batch, tokens.ids_N.device),
        )

    def _distil_scale(self, tokens: Tokens, batch: Sequence[Lesson], plan: Plan) -> torch.Tensor:
        scale = self.method.mix.distil_coefficient * plan.factors["distil"]
        return spread([scale * plan.routes[x.trajectory.episode].distil for x in batch], tokens)

    def _index(self, tokens: Tokens, batch: Sequence[Lesson], plan: Plan) -> SpanIndex:
        return SpanIndex.of(batch, [plan.spans[x.trajectory.episode] for x in batch], tokens)


def _credited(
    value_N: torch.Tensor,
    kept_N: torch.Tensor,
    tokens: Tokens,
    batch: Sequence[Lesson],
    plan: Plan,
) -> torch.Tensor:
    """(N,) what the estimator credits each token with, of its own value."""
    if plan.settled is None:
        estimator = from_samples(plan.divergence)
        assert estimator is not None
        return estimator.credited(value_N, kept_N, tokens)
    return torch.cat([plan.settled[x.trajectory.episode] for x in batch]).to(value_N)
