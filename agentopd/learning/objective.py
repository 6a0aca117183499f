"""From what the models say of a micro-batch's tokens to the terms of its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from agentopd.base.types import EndReason, Lesson, Trajectory
from agentopd.divergences.base import Divergence, from_samples
from agentopd.learning.method import Method
from agentopd.learning.survey import Survey, scores, turn_advantages
from agentopd.mixes.base import Route
from agentopd.mixes.channels import Channels, Distillation, Reinforcement
from agentopd.mixes.routing import AveragesApart
from agentopd.rollout.policies import Rollout
from agentopd.signal.aggregate import Aggregator
from agentopd.signal.evidence import (
    Evidence,
    Measured,
    NotYetAsked,
    UnaskedEvidence,
    UntaughtEvidence,
)
from agentopd.signal.groups import group_success
from agentopd.signal.payments import Payment
from agentopd.signal.schedules import History
from agentopd.signal.tokens import Tokens, told
from agentopd.units.base import Unit
from agentopd.units.spans import Span, SpanIndex
from agentopd.weights.weighed import (
    Weighed,
    need_survey,
    weigh,
    weigh_unasked,
)

# N tokens of a micro-batch, L its lessons


@dataclass(frozen=True)
class Plan:
    """What of a step must be known before its first micro-batch.

    Attributes:
        factors: of the schedules, by what they are attached to.
        rollout: with its numbers as their schedules have them, as it has played.
        divergence: as its schedule has it.
        advantages: of each episode, by its number; empty without a reinforcement-learning channel.
        turn_advantages: of single turns, by episode number and turn, where those of an episode
            differ; then an episode without any has none. Empty where they do not.
        success: the share of solved episodes in each episode's group.
        routes: how much each episode counts in each channel.
        spans: of each taught episode.
        balance: a factor on the credits of the whole step.
        weighed: the weights of each taught episode; None where they are made a micro-batch at a
            time, of what the models say.
        settled: what the estimator credits each taught episode's tokens with, where that hangs on
            the whole step; None where it is made a micro-batch at a time.
    """

    step: int
    factors: dict[str, float]
    rollout: Rollout
    divergence: Divergence
    advantages: dict[int, float]
    turn_advantages: Mapping[int, Mapping[int, float]]
    success: dict[int, float]
    routes: dict[int, Route]
    distil: Aggregator
    rl: Aggregator
    spans: dict[int, list[Span]]
    balance: float
    weighed: Mapping[int, Weighed] | None = None
    settled: Mapping[int, torch.Tensor] | None = None

    @classmethod
    def of(
        cls,
        method: Method,
        taught: Sequence[Lesson],
        untaught: Sequence[Lesson],
        step: int,
        history: History = (),
        survey: Survey | None = None,
        played: Sequence[Trajectory] = (),
    ) -> Plan:
        """The plan of a step with these lessons.

        Args:
            history: what the steps before were like.
            survey: of the lessons that `Objective.surveyed` names, where it names some.
            played: the whole step: where tasks are attempted again, advantages are measured also
                against attempts that nothing is learnt from.
        """
        unit, mix, everyone = method.unit, method.mix, [*taught, *untaught]
        trajectories = [x.trajectory for x in everyone]
        spans = {x.trajectory.episode: unit.spans(x.trajectory) for x in taught}
        rewards = mix.rewards(trajectories, scores(method, trajectories, survey))
        others = [] if mix.scored_by else _other_attempts(played, trajectories)
        rewards |= {t.episode: t.reward for t in others}
        routes = mix.routes(everyone)
        apart = mix.counted if isinstance(mix, AveragesApart) else _all
        plan = cls(
            step=step,
            factors={x: method.factor(x, step, history) for x in ("distil", "rl", "strength")},
            rollout=method.rollout_at(step, history),
            divergence=method.divergence_at(step, history),
            advantages=(
                mix.rl_channel.of([*trajectories, *others], rewards, history)
                if mix.rl_channel
                else {}
            ),
            turn_advantages=turn_advantages(method, trajectories, rewards, survey, history),
            success=group_success(trajectories),
            routes=routes,
            distil=method.average(apart(taught, routes, "distil"), step, history),
            rl=method.average(apart(everyone, routes, "rl"), step, history),
            spans=spans,
            balance=unit.balance(list(spans.values())),
        )
        weighed = everyone if mix.imitates else taught
        plan = replace(plan, weighed=plan._known_weights(method, weighed, survey))
        return replace(plan, settled=plan._known_credits(method, survey))

    def evidence(
        self,
        measured: Measured,
        tokens: Tokens,
        lessons: Sequence[Lesson],
        value_N: torch.Tensor,
    ) -> Evidence:
        """What weights and units may look at of some taught lessons."""
        assert measured.teacher is not None
        episodes = [x.trajectory.episode for x in lessons]
        success_L = [self.success[episode] for episode in episodes]
        route_L = [self.routes[episode].distil for episode in episodes]
        device = tokens.ids_N.device
        return Evidence(
            student=measured.student.detached(),
            teacher=measured.teacher,
            tokens=tokens,
            lessons=lessons,
            value_N=value_N.detach(),
            advantage_N=self.advantage(tokens, lessons),
            success_L=torch.tensor(success_L, device=device),
            route_L=torch.tensor(route_L, device=device),
            step=self.step,
        )

    def advantage(self, tokens: Tokens, lessons: Sequence[Lesson]) -> torch.Tensor:
        """(N,) each token's reinforcement-learning advantage: its turn's, or its episode's."""
        episodes = [x.trajectory.episode for x in lessons]
        if not self.turn_advantages:
            return _spread([self.advantages.get(e, 0.0) for e in episodes], tokens)
        turns, own = tokens.turns, [self.turn_advantages.get(e, {}) for e in episodes]
        places = zip(turns.lesson_K.tolist(), turns.depth_K.tolist(), strict=True)
        own_K = [own[lesson].get(depth, 0.0) for lesson, depth in places]
        return torch.tensor(own_K, dtype=torch.float32, device=turns.at_N.device)[turns.at_N]

    def rewarded(self, episode: int) -> bool:
        """Whether an episode has an advantage that is not zero."""
        if not self.turn_advantages:
            return bool(self.advantages[episode])
        return any(self.turn_advantages.get(episode, {}).values())

    def _known_weights(
        self, method: Method, taught: Sequence[Lesson], survey: Survey | None
    ) -> dict[int, Weighed] | None:
        """See `weighed`."""
        if not taught:
            return {}
        known = weigh_unasked(method.weight, taught, self.step)
        if known is not None:
            return known.by_episode(taught)
        if method.mix.imitates:
            assert survey is not None, "a weight looks at the student, and nobody surveyed it"
            said = UntaughtEvidence(
                survey.measured.student, survey.tokens, survey.lessons, self.step
            )
            return weigh(method.weight, said).by_episode(survey.lessons)
        if not any(weight.needs_step for weight in method.weight):
            return None
        assert survey is not None, "a weight needs the whole step, and nobody surveyed it"
        measured, tokens = survey.measured, survey.tokens
        value_N = _values(self.divergence, measured, tokens)
        evidence = self.evidence(measured, tokens, survey.lessons, value_N)
        return weigh(method.weight, evidence).by_episode(survey.lessons)

    def _known_credits(
        self, method: Method, survey: Survey | None
    ) -> dict[int, torch.Tensor] | None:
        """See `settled`."""
        estimator = from_samples(self.divergence)
        if estimator is None or not estimator.needs_step or survey is None:
            return None
        measured, tokens = survey.measured, survey.tokens
        value_N = _values(self.divergence, measured, tokens)
        evidence = self.evidence(measured, tokens, survey.lessons, value_N)
        kept_N = weigh(method.weight, evidence).weight_N != 0
        own_N = self.divergence.estimated(measured, tokens)
        credit_N = estimator.settled(estimator.credited(own_N, kept_N, tokens), kept_N)
        trajectories = [x.trajectory for x in survey.lessons]
        parts = credit_N.split([int(t.trainable.sum()) for t in trajectories])
        return {t.episode: part for t, part in zip(trajectories, parts, strict=True)}

    def payments(self, unit: Unit, lessons: Sequence[Lesson]) -> dict[int, list[Payment]]:
        """The unit's verdicts by episode; where the teacher does not count, they paid nothing."""
        found: dict[int, list[Payment]] = {}
        for trajectory in (lesson.trajectory for lesson in lessons):
            episode, own = trajectory.episode, unit.payments(trajectory)
            heard = episode in self.spans and self.factors["distil"]
            if own and heard and self.routes[episode].distil:
                found[episode] = own
            elif own:
                found[episode] = [replace(payment, paid=0.0) for payment in own]
        return found


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
        if mix.imitates:
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
        value_N = _values(divergence, measured, tokens)
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
        likelihood_N = _spread([scheduled * route.likelihood for route in routes], tokens)
        if self.method.mix.imitates:
            assert plan.weighed is not None, "weights under a likelihood are known before the step"
            likelihood_N = likelihood_N * self._planned(tokens, batch, plan.weighed).weight_N
        return Reinforcement(
            rule=rule,
            advantage_N=plan.advantage(tokens, batch),
            average_N=plan.rl.factor(tokens),
            scale_N=_spread([scheduled * route.rl for route in routes], tokens),
            likelihood_N=likelihood_N,
            told_N=told(batch, tokens.ids_N.device),
        )

    def _distil_scale(self, tokens: Tokens, batch: Sequence[Lesson], plan: Plan) -> torch.Tensor:
        scale = self.method.mix.distil_coefficient * plan.factors["distil"]
        return _spread([scale * plan.routes[x.trajectory.episode].distil for x in batch], tokens)

    def _index(self, tokens: Tokens, batch: Sequence[Lesson], plan: Plan) -> SpanIndex:
        return SpanIndex.of(batch, [plan.spans[x.trajectory.episode] for x in batch], tokens)


def _values(divergence: Divergence, measured: Measured, tokens: Tokens) -> torch.Tensor:
    """(N,) each token's divergence, or the estimator's loss or advantage."""
    if measured.divergence_N is not None:
        return measured.divergence_N
    return divergence.estimated(measured, tokens)


def _all(lessons: Sequence[Lesson], *_: object) -> Sequence[Lesson]:
    """The lessons that a channel is averaged over, where both are over all."""
    return lessons


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


def _other_attempts(played: Sequence[Trajectory], learnt: Sequence[Trajectory]) -> list[Trajectory]:
    """The attempts of a step, played to their end, that are not among those learnt from."""
    known = {t.episode for t in learnt}
    tried = [t for t in played if t.attempt and t.acts and t.end is not EndReason.ERROR]
    return [t for t in tried if t.episode not in known]


def _spread(values: Sequence[float], tokens: Tokens) -> torch.Tensor:
    """(N,) each episode's value at all its tokens."""
    values_L = torch.tensor(values, dtype=torch.float32, device=tokens.ids_N.device)
    return values_L[tokens.lesson_N]
