"""Weights that compare the turns of an episode."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field

from agentopd.base.parts import Settings
from agentopd.base.rows.symbols import times
from agentopd.base.types import Turn
from agentopd.signal.evidence import Evidence
from agentopd.signal.tokens import Turns, mean_by, sum_by
from agentopd.units.facts import fact_of
from agentopd.weights.base import Renormalise, Weight, relative

# N tokens of a micro-batch, K their turns, L their lessons;
# p the student, q the teacher, A the advantage, y the sampled token, d = log q(y) - log p(y)

_FLAT = 1e-8


class StepSigmoid(Weight, kind="step_sigmoid"):
    """clip(2 sigmoid(scale sign(A) d), 1 - clip, 1 + clip), then a budget a step (StepOPSD
    2605.27140).

    For the multiplicative mixer: where the advantage is zero the weight is 1. The constant in the
    sigmoid and the budget's form are not certain; both are settings.

    Args:
        clip: how far a weight may be from 1, before the budget.
        budget: `mean` brings the mean weight of every turn to 1, so that its tokens are told apart
            and turns are not. `total` gives every turn of an episode the same sum, whatever its
            length. `none` leaves the weights alone.
    """

    renormalise: Renormalise = False
    clip: float = Field(default=0.2, gt=0, le=1)
    scale: float = Field(default=1.0, gt=0)
    budget: Literal["mean", "total", "none"] = "mean"

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        gate = f"2 sigmoid({times(self.scale, 'sign(A) d')})"
        budget = {
            "mean": ", of mean 1 over each turn",
            "total": ", of one sum for every turn",
            "none": "",
        }
        return f"clip({gate}, {1 - self.clip:g}, {1 + self.clip:g}){budget[self.budget]}"

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        signed_N = evidence.advantage_N.sign() * evidence.gap_N
        weight_N = 2 * torch.sigmoid(self.scale * signed_N)
        weight_N = weight_N.clamp(1 - self.clip, 1 + self.clip)
        if self.budget == "none":
            return weight_N
        tokens, turns = evidence.tokens, evidence.tokens.turns
        weight_N = relative(weight_N, turns.at_N, len(turns), torch.ones_like(weight_N))
        if self.budget == "mean":
            return weight_N
        ones_N = torch.ones_like(weight_N)
        length_K = turns.sum(ones_N)
        played_L = sum_by(torch.ones_like(length_K), turns.lesson_K, tokens.lessons)
        length_L = sum_by(ones_N, tokens.lesson_N, tokens.lessons)
        share_K = (length_L / played_L.clamp(min=1))[turns.lesson_K] / length_K
        return weight_N * share_K[turns.at_N]


class BeliefIncrement(Weight, kind="belief_increment"):
    """How much each turn moved the belief in success (AgentOPSD 2608.05987).

    A turn's evidence is e_k = sum of its d. With c_k = gamma c_(k-1) + e_k and the group's share of
    solved episodes B_0, held off 0 and 1 by `floor`, the belief is B_k = sigmoid(logit B_0 + c_k).
    sign(A) (B_k - B_(k-1)) is standardised over the episode's turns to z, and the weight is
    clip(1 + clip z, 1 - clip, 1 + clip). One turn, equal turns and a zero advantage give 1.

    For the multiplicative mixer. Over what z is standardised the paper's notes do not say; the
    episode is what makes a weight independent of how a step is cut into micro-batches.
    """

    renormalise: Renormalise = False
    gamma: float = Field(default=0.95, ge=0, le=1)
    clip: float = Field(default=0.2, gt=0, le=1)
    floor: float = Field(default=1e-3, gt=0, lt=0.5)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        increment = "sign(A) (B_k - B_(k-1)), standardised over the episode's turns"
        decay = "" if self.gamma == 1 else f"{self.gamma:g}^(k - j) "
        belief = f"logit B_k = logit B_0 + sum over turns j <= k of {decay}d_j"
        return f"1 + {self.clip:g} clip(z, -1, 1) with z = {increment}; {belief}"

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        tokens, turns = evidence.tokens, evidence.tokens.turns
        gathered_K = turns.fold(
            turns.sum(evidence.gap_N.double()), 0.0, lambda before, e: self.gamma * before + e
        )
        prior_L = evidence.success_L.double().clamp(self.floor, 1 - self.floor)
        prior_K = prior_L.logit()[turns.lesson_K]
        belief_K = torch.sigmoid(prior_K + gathered_K)
        first_K = torch.arange(len(turns), device=belief_K.device) == turns.first_K
        before_K = torch.where(first_K, torch.sigmoid(prior_K), belief_K.roll(1))
        sign_K = turns.mean(evidence.advantage_N.double()).sign()
        z_K = _standardised(sign_K * (belief_K - before_K), turns, tokens.lessons)
        weight_K = (1 + self.clip * z_K).clamp(1 - self.clip, 1 + self.clip)
        return weight_K[turns.at_N].to(evidence.gap_N.dtype)


class DisagreementUncertainty(Weight, kind="disagreement_uncertainty"):
    """1 - (1 - D)(1 - U): turns of disagreement or of uncertainty (T-DUR of ATOD, 2606.27814).

    D is the turn's mean |d| and U its mean -log p(y), each brought to 0..1 by the least and the
    greatest of the episode's turns; 0.5 where those are equal. The paper does not rescale: for its
    numbers set `renormalise: off`.
    """

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return "1 - (1 - |d|_k) (1 - |log p|_k), means of turn k, from 0 to 1 over the episode"

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        turns, lessons = evidence.tokens.turns, evidence.tokens.lessons
        disagreement_K = _min_max(turns.mean(evidence.gap_N.abs()), turns, lessons)
        uncertainty_K = _min_max(turns.mean(-evidence.student.logprob_N), turns, lessons)
        return (1 - (1 - disagreement_K) * (1 - uncertainty_K))[turns.at_N]


Label = Literal["skip", "weak", "strong"]


class LabelRule(Settings):
    """Turns of which the environment says so get a label.

    Args:
        fact: the key of the turn's `facts`; `success` reads the outcome.
        want: the value that the rule speaks of. A missing fact is no value.
    """

    fact: str
    label: Label
    want: bool | int | float | str = True

    def fits(self, turn: Turn) -> bool:
        """Whether the rule speaks of the turn."""
        return fact_of(turn, self.fact) == self.want


_RULES = (
    LabelRule(fact="well_formed", want=False, label="strong"),
    LabelRule(fact="keeps_solvable", want=False, label="strong"),
    LabelRule(fact="moves_closer", want=True, label="skip"),
    LabelRule(fact="moves_closer", want=False, label="weak"),
)


class LabelConfidence(Weight, kind="label_confidence"):
    """A label a turn times the teacher's mean probability of its likeliest token (SAGE-OPD
    2606.19659).

    The paper divides by the mean over the batch (Eq. 12): for its numbers set `renormalise: step`.

    Args:
        rules: the first that fits a turn gives its label.
        otherwise: the label of a turn that no rule fits.
        weak: what that label counts; `skip` counts 0 and `strong` 1.
    """

    rules: tuple[LabelRule, ...] = _RULES
    otherwise: Label = "strong"
    weak: float = Field(default=0.5, ge=0, le=1)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"(0, {self.weak:g} or 1, by the turn's label) x the turn's mean of max q"

    @property
    def mask(self) -> bool:
        """See `Weight.mask`."""
        return True

    @property
    def looks_further(self) -> bool:
        """See `Weight.looks_further`."""
        return True

    def label(self, turn: Turn) -> Label:
        """The turn's label."""
        for rule in self.rules:
            if rule.fits(turn):
                return rule.label
        return self.otherwise

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        turns = evidence.tokens.turns
        counts = {"skip": 0.0, "weak": self.weak, "strong": 1.0}
        confidence_K = turns.mean(evidence.teacher.top_N.exp())
        places = zip(turns.lesson_K.tolist(), turns.depth_K.tolist(), strict=True)
        labels = [self.label(evidence.lessons[i].trajectory.turns[k]) for i, k in places]
        label_K = confidence_K.new_tensor([counts[label] for label in labels])
        return (label_K * confidence_K)[turns.at_N]


class TrustDecay(Weight, kind="trust_decay"):
    """Less weight where the student has drifted from its teacher (SOD 2605.07725).

    With D_k the mean |d| of turn k, the weight is the product over u < k of
    (D_u + epsilon) / (D_(u+1) + epsilon), at most 1 + slack. The first turn has 1. The paper does
    not rescale: for its numbers set `renormalise: off`.

    Args:
        cap: `last` caps the whole product, which is (D_1 + epsilon) / (D_k + epsilon); `every` caps
            it after each factor, so that what was cut off is not spent later.
    """

    slack: float = Field(default=0.2, ge=0)
    epsilon: float = Field(default=1e-6, gt=0)
    cap: Literal["last", "every"] = "last"

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        each = "" if self.cap == "last" else ", capped turn by turn"
        return f"min(|d|_1 / |d|_k, {1 + self.slack:g}) of the mean |d| of turns 1 and k{each}"

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        turns, most = evidence.tokens.turns, 1 + self.slack
        drift_K = turns.mean(evidence.gap_N.abs()) + self.epsilon
        if self.cap == "last":
            return (drift_K[turns.first_K] / drift_K).clamp(max=most)[turns.at_N]
        first_K = torch.arange(len(turns), device=drift_K.device) == turns.first_K
        factor_K = torch.where(first_K, torch.ones_like(drift_K), drift_K.roll(1) / drift_K)
        trust_K = turns.fold(factor_K, 1.0, lambda before, factor: min(before * factor, most))
        return trust_K[turns.at_N].to(drift_K.dtype)


class KLCentroid(Weight, kind="kl_centroid"):
    """1 up to the depth at which the divergence lies on average, 0 beyond it (TurnOPD 2607.05804).

    With V_k the mean absolute value of turn k = 1, 2, ..., the centroid is sum k V_k / sum V_k, and
    turns up to `reach` times the centroid, rounded up, count. The paper limits how deep episodes
    are played by it; this limits how deep they teach.

    Args:
        reach: with 2, an episode whose turns are all alike counts whole.
        centroid: of each `episode` by itself; or one of all turns of the step's, in which a depth
            counts as often as episodes reach it (`step`, the paper's).
    """

    reach: float = Field(default=1.0, gt=0)
    centroid: Literal["episode", "step"] = "episode"

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        reach = times(self.reach, "sum k V_k / sum V_k")
        return f"1[k <= {reach}] over each {self.centroid}, V_k the turn's mean"

    @property
    def needs_step(self) -> bool:
        """See `Weight.needs_step`."""
        return super().needs_step or self.centroid == "step"

    @property
    def mask(self) -> bool:
        """See `Weight.mask`."""
        return True

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        turns, lessons = evidence.tokens.turns, evidence.tokens.lessons
        value_K = turns.mean(evidence.value_N.abs().double())
        depth_K = turns.depth_K + 1
        pool_K = turns.lesson_K
        if self.centroid == "step":
            pool_K, lessons = torch.zeros_like(pool_K), 1
        total_L = sum_by(value_K, pool_K, lessons)
        moment_L = sum_by(value_K * depth_K, pool_K, lessons)
        # Half a millionth of a turn is a rounding; where nothing diverges there is no limit.
        limit_L = (self.reach * moment_L / total_L.clamp(min=_FLAT) - 5e-7).ceil()
        limit_L = torch.where(total_L > _FLAT, limit_L, torch.full_like(limit_L, math.inf))
        return (depth_K <= limit_L[pool_K])[turns.at_N].to(evidence.value_N.dtype)


def _standardised(values_K: torch.Tensor, turns: Turns, lessons: int) -> torch.Tensor:
    """Over each episode's turns: less the mean, over the standard deviation; 0 where that is 0."""
    centred_K = values_K - mean_by(values_K, turns.lesson_K, lessons)[turns.lesson_K]
    spread_K = mean_by(centred_K**2, turns.lesson_K, lessons).sqrt()[turns.lesson_K]
    return torch.where(
        spread_K > _FLAT, centred_K / spread_K.clamp(min=_FLAT), torch.zeros_like(values_K)
    )


def _min_max(values_K: torch.Tensor, turns: Turns, lessons: int) -> torch.Tensor:
    """Over each episode's turns: from 0 for the least to 1 for the greatest; 0.5 where all are
    equal.
    """
    empty_L = values_K.new_zeros(lessons)
    low_L = empty_L.scatter_reduce(0, turns.lesson_K, values_K, "amin", include_self=False)
    high_L = empty_L.scatter_reduce(0, turns.lesson_K, values_K, "amax", include_self=False)
    low_K, range_K = low_L[turns.lesson_K], (high_L - low_L)[turns.lesson_K]
    return torch.where(
        range_K < _FLAT, torch.full_like(values_K, 0.5), (values_K - low_K) / range_K
    )
