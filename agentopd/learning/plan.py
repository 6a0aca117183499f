"""What of a step must be known before its first micro-batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from agentopd.base.types import EndReason, Lesson, Trajectory
from agentopd.divergences.base import Divergence, from_samples
from agentopd.learning.method import Method
from agentopd.learning.survey import Survey, scores, turn_advantages
from agentopd.mixes.base import Route
from agentopd.mixes.routing import AveragesApart
from agentopd.rollout.policies import Rollout
from agentopd.signal.aggregate import Aggregator
from agentopd.signal.evidence import (
    Evidence,
    Measured,
    UntaughtEvidence,
)
from agentopd.signal.groups import group_success
from agentopd.signal.payments import Payment
from agentopd.signal.schedules import History
from agentopd.signal.tokens import Tokens
from agentopd.units.base import Unit
from agentopd.units.spans import Span
from agentopd.weights.weighed import (
    Weighed,
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
        weighed = everyone if mix.imitation == "all" else taught
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
            return spread([self.advantages.get(e, 0.0) for e in episodes], tokens)
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
        if method.mix.imitation == "all":
            assert survey is not None, "a weight looks at the student, and nobody surveyed it"
            said = UntaughtEvidence(
                survey.measured.student, survey.tokens, survey.lessons, self.step
            )
            return weigh(method.weight, said).by_episode(survey.lessons)
        if not any(weight.needs_step for weight in method.weight):
            return None
        assert survey is not None, "a weight needs the whole step, and nobody surveyed it"
        measured, tokens = survey.measured, survey.tokens
        value_N = values_of(self.divergence, measured, tokens)
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
        value_N = values_of(self.divergence, measured, tokens)
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


def values_of(divergence: Divergence, measured: Measured, tokens: Tokens) -> torch.Tensor:
    """(N,) each token's divergence, or the estimator's loss or advantage."""
    if measured.divergence_N is not None:
        return measured.divergence_N
    return divergence.estimated(measured, tokens)


def spread(values: Sequence[float], tokens: Tokens) -> torch.Tensor:
    """(N,) each episode's value at all its tokens."""
    values_L = torch.tensor(values, dtype=torch.float32, device=tokens.ids_N.device)
    return values_L[tokens.lesson_N]


def _all(lessons: Sequence[Lesson], *_: object) -> Sequence[Lesson]:
    """The lessons that a channel is averaged over, where both are over all."""
    return lessons


def _other_attempts(played: Sequence[Trajectory], learnt: Sequence[Trajectory]) -> list[Trajectory]:
    """The attempts of a step, played to their end, that are not among those learnt from."""
    known = {t.episode for t in learnt}
    tried = [t for t in played if t.attempt and t.acts and t.end is not EndReason.ERROR]
    return [t for t in tried if t.episode not in known]
