"""From what the models say of a micro-batch's tokens to the terms of its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from agentopd.signal.advantages import group_success
from agentopd.signal.aggregate import Aggregator
from agentopd.signal.channels import Channels, Distillation, Reinforcement
from agentopd.signal.evidence import Evidence, Measured
from agentopd.signal.mix import Route, Scoring
from agentopd.signal.schedules import History
from agentopd.signal.tokens import Tokens
from agentopd.signal.units import Span, SpanIndex
from agentopd.signal.weights.base import product
from agentopd.types import Lesson

if TYPE_CHECKING:
    from agentopd.config import RunConfig

# N tokens of a micro-batch, L its lessons


@dataclass(frozen=True)
class Plan:
    """What of a step must be known before its first micro-batch.

    Attributes:
        factors: of the schedules, by what they are attached to.
        advantages: of each episode, by its number; empty without a reinforcement-learning channel.
        success: the share of solved episodes in each episode's group.
        routes: how much each episode counts in each channel.
        spans: of each taught episode.
        balance: a factor on the credits of the whole step.
    """

    step: int
    factors: dict[str, float]
    advantages: dict[int, float]
    success: dict[int, float]
    routes: dict[int, Route]
    distil: Aggregator
    rl: Aggregator
    spans: dict[int, list[Span]]
    balance: float

    @classmethod
    def of(
        cls,
        method: RunConfig,
        taught: Sequence[Lesson],
        untaught: Sequence[Lesson],
        step: int,
        history: History = (),
        scores: Mapping[int, float] | None = None,
    ) -> Plan:
        """The plan of a step with these lessons.

        Args:
            history: what the steps before were like.
            scores: the teacher's, by episode number, where the mix asks for them.
        """
        unit, mix, everyone = method.unit, method.mix, [*taught, *untaught]
        trajectories = [x.trajectory for x in everyone]
        spans = {x.trajectory.episode: unit.spans(x.trajectory) for x in taught}
        if mix.scored_by == "unit":
            assert isinstance(unit, Scoring)
            given = {t.episode: unit.score(t) for t in trajectories}
            scores = {episode: score for episode, score in given.items() if score is not None}
        if method.control == "zero_signal":
            scores = dict.fromkeys(scores or (), 0.0)
        rewards = mix.rewards(trajectories, scores or {})
        return cls(
            step=step,
            factors={x: method.factor(x, step, history) for x in ("distil", "rl", "strength")},
            advantages=mix.rl_channel.of(trajectories, rewards, history) if mix.rl_channel else {},
            success=group_success(trajectories),
            routes=mix.routes(everyone),
            distil=Aggregator.of(taught, unit.normalise, unit.budget),
            rl=Aggregator.of(everyone, unit.normalise, unit.budget),
            spans=spans,
            balance=unit.balance(list(spans.values())),
        )


@dataclass(frozen=True)
class Objective:
    """A method's loss, given what the models say."""

    method: RunConfig

    def learnt(self, plan: Plan) -> set[int]:
        """The episodes, by number, that have a gradient in some channel."""
        mix, rl = self.method.mix, self.method.mix.rl_channel
        found = set()
        for episode, route in plan.routes.items():
            advised = mix.distils and mix.distil_coefficient and episode in plan.spans
            rewarded = rl and route.rl and (plan.advantages[episode] or rl.regularised)
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
        reinforcement = self._reinforcement(tokens, batch, plan)
        return Channels(
            measured=measured,
            behaviour_N=tokens.behaviour_N,
            strength=plan.factors["strength"],
            distillation=self._distillation(measured, tokens, batch, plan, reinforcement),
            reinforcement=reinforcement,
        )

    def coefficients(
        self, tokens: Tokens, batch: Sequence[Lesson], plan: Plan
    ) -> torch.Tensor | None:
        """(N,) by how much each token's divergence counts in the loss, where that is known before
        any model is asked: then gradients take one pass over the vocabulary instead of two.
        """
        method = self.method
        if not method.mix.linear or not method.unit.linear:
            return None
        if method.divergence.sampled or method.unit.returns(method.divergence) == "advantage":
            return None
        if not all(weight.by_place for weight in method.weight):
            return None
        gates = self._gates(Evidence.unasked(tokens, batch, plan.step))
        _check_unasked(gates)
        value_N = torch.zeros(len(tokens), device=tokens.ids_N.device, requires_grad=True)
        index = self._index(tokens, batch, plan)
        credit_N = method.unit.credit(value_N * self._weight(gates, tokens), index) * plan.balance
        factor_N = plan.distil.factor(tokens) * self._distil_scale(tokens, batch, plan)
        (coefficient_N,) = torch.autograd.grad((factor_N * credit_N).sum(), value_N)
        return coefficient_N

    def _distillation(
        self,
        measured: Measured,
        tokens: Tokens,
        batch: Sequence[Lesson],
        plan: Plan,
        reinforcement: Reinforcement | None,
    ) -> Distillation | None:
        if measured.teacher is None:
            return None
        unit, divergence = self.method.unit, self.method.divergence
        value_N = measured.divergence_N
        if value_N is None:
            value_N = divergence.estimated(measured, tokens)
        evidence = self._evidence(measured, tokens, batch, plan, value_N, reinforcement)
        gates = self._gates(evidence)
        weight_N = self._weight(gates, tokens)
        index = self._index(tokens, batch, plan)
        averaging = unit.model_copy(update={"reduce": "mean"})
        return Distillation(
            credit_N=unit.credit(value_N * weight_N, index, evidence) * plan.balance,
            returns=unit.returns(divergence),
            estimator=divergence.estimated_by,
            weight_N=averaging.credit(weight_N, index, evidence).detach() * plan.balance,
            average_N=plan.distil.factor(tokens),
            scale_N=self._distil_scale(tokens, batch, plan),
            gates=gates,
        )

    @torch.no_grad()
    def _gates(self, evidence: Evidence) -> dict[str, torch.Tensor]:
        """What each weight says, (N,), by its kind; of two of a kind, the second has a number."""
        found: dict[str, torch.Tensor] = {}
        for number, weight in enumerate(self.method.weight, 1):
            name = weight.kind or type(weight).__name__
            found[f"{name}_{number}" if name in found else name] = weight.raw(evidence)
        return found

    def _weight(self, gates: Mapping[str, torch.Tensor], tokens: Tokens) -> torch.Tensor:
        """(N,) what all weights together make of each token."""
        return product(list(zip(self.method.weight, gates.values(), strict=True)), tokens)

    def _evidence(
        self,
        measured: Measured,
        tokens: Tokens,
        batch: Sequence[Lesson],
        plan: Plan,
        value_N: torch.Tensor,
        reinforcement: Reinforcement | None,
    ) -> Evidence:
        assert measured.teacher is not None
        success_L = [plan.success[x.trajectory.episode] for x in batch]
        return Evidence(
            student=measured.student.detached(),
            teacher=measured.teacher,
            tokens=tokens,
            lessons=batch,
            value_N=value_N.detach(),
            advantage_N=reinforcement.advantage_N
            if reinforcement
            else torch.zeros_like(tokens.behaviour_N),
            success_L=torch.tensor(success_L, device=tokens.ids_N.device),
            step=plan.step,
        )

    def _reinforcement(
        self, tokens: Tokens, batch: Sequence[Lesson], plan: Plan
    ) -> Reinforcement | None:
        """Every token of an episode carries the episode's advantage."""
        rule, scheduled = self.method.mix.rl_channel, plan.factors["rl"]
        if rule is None:
            return None
        routes = [plan.routes[x.trajectory.episode] for x in batch]
        advantages = [plan.advantages[x.trajectory.episode] for x in batch]
        return Reinforcement(
            rule=rule,
            advantage_N=_spread(advantages, tokens),
            average_N=plan.rl.factor(tokens),
            scale_N=_spread([scheduled * route.rl for route in routes], tokens),
            likelihood_N=_spread([scheduled * route.likelihood for route in routes], tokens),
        )

    def _distil_scale(self, tokens: Tokens, batch: Sequence[Lesson], plan: Plan) -> torch.Tensor:
        scale = self.method.mix.distil_coefficient * plan.factors["distil"]
        return _spread([scale * plan.routes[x.trajectory.episode].distil for x in batch], tokens)

    def _index(self, tokens: Tokens, batch: Sequence[Lesson], plan: Plan) -> SpanIndex:
        return SpanIndex.of(batch, [plan.spans[x.trajectory.episode] for x in batch], tokens)


def _check_unasked(gates: Mapping[str, torch.Tensor]) -> None:
    """Weights that look at no model are numbers where no model was asked.

    Raises:
        ValueError: one is not.
    """
    for name, gate_N in gates.items():
        if not gate_N.isfinite().all():
            raise ValueError(
                f"the weight {name} declares by_place = True, that it looks at no model, and yet "
                "its weights depend on what the models say: leave by_place out"
            )


def _spread(values: Sequence[float], tokens: Tokens) -> torch.Tensor:
    """(N,) each episode's value at all its tokens."""
    values_L = torch.tensor(values, dtype=torch.float32, device=tokens.ids_N.device)
    return values_L[tokens.lesson_N]
