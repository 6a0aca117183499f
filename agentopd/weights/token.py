"""Weights that look at each token by itself."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, field_validator

from agentopd.base.rows.symbols import times
from agentopd.signal.evidence import Evidence
from agentopd.weights.base import Renormalise, Weight, Whose, opinion

# N tokens of a micro-batch; p the student, q the teacher, A the advantage, y the sampled token
# mu what tokens were sampled from


class GapGate(Weight, kind="gap_gate"):
    """sigmoid(beta x): what the teacher likes better (SDAR 2605.15155).

    The paper does not rescale its gate: for its numbers set `renormalise: off`. Its notation
    leaves open whose entropy it gates by; here it is the student's, in nats.

    Args:
        beta: how sharply the gate opens.
        variant: x is the gap d = log q(y) - log p(y); or the entropy h; or 1 - (1 - h)(1 - d),
            which opens for either.

    Raises:
        ValueError: with a beta of 0 the gate is one half everywhere.
    """

    beta: float = Field(default=5.0, ge=0)
    variant: Literal["gap", "entropy", "soft_or"] = "gap"

    @field_validator("beta")
    @classmethod
    def _tells_tokens_apart(cls, value: float) -> float:
        if value == 0:
            raise ValueError(
                "with beta: 0 the gate is one half for every token, whatever the teacher says, and "
                "weighs nothing. Leave the weight out for the method without a gate, or use "
                "control: zero_signal for a run in which the teacher has no say"
            )
        return value

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        opens = {"gap": "d", "entropy": "H(p)", "soft_or": "(1 - (1 - H(p)) (1 - d))"}
        return f"sigmoid({times(self.beta, opens[self.variant])})"

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        gap_N, entropy_N = evidence.gap_N, evidence.student.entropy_N
        if self.variant == "gap":
            return torch.sigmoid(self.beta * gap_N)
        if self.variant == "entropy":
            return torch.sigmoid(self.beta * entropy_N)
        return torch.sigmoid(self.beta * (1 - (1 - entropy_N) * (1 - gap_N)))


class EvidenceRatio(Weight, kind="evidence_ratio"):
    """clip((q(y) / p(y))^sign(A), 1 - clip, 1 + clip) (RLSD 2604.03128).

    The reward gives the direction, the teacher the size: for the multiplicative mixer. Where the
    advantage is zero the weight is 1.

    Args:
        clip: how far a weight may be from 1; the paper's 0.2 is reached at a gap of 0.18 nats.
    """

    renormalise: Renormalise = False
    clip: float = Field(default=0.2, gt=0, le=1)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"clip((q(y) / p(y))^sign(A), {1 - self.clip:g}, {1 + self.clip:g})"

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        ratio_N = (evidence.advantage_N.sign() * evidence.gap_N).exp()
        return ratio_N.clamp(1 - self.clip, 1 + self.clip)


class LikelihoodGate(Weight, kind="likelihood_gate"):
    """sigmoid(sharpness (log p(y) - threshold)) of the student: what it would hardly say counts
    little (the imitation of Pedagogical RL, under `mix: nll`).

    The source divides by the sum of its weights over the step: that is `renormalise: step`.

    Args:
        sharpness: kappa; 0 counts all tokens alike.
        threshold: gamma, in nats, where a token counts half.
    """

    sharpness: float = Field(default=2.0, ge=0)
    threshold: float = Field(default=-3.5, le=0)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"sigmoid({times(self.sharpness, f'(log p(y) + {-self.threshold:g})')})"

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        return torch.sigmoid(self.sharpness * (evidence.student.logprob_N - self.threshold))


class TruncatedRatio(Weight, kind="truncated_ratio"):
    """min(p(y) / mu(y), cap), where mu is what the token was sampled from (IMPALA 1802.01561).

    A divergence over the vocabulary is an average over the contexts that the sampler has led into.
    Where that runs in 16 bits, or elsewhere than the learner, they are not quite the student's own,
    and this weighs each of its tokens as the student would have sampled it. Estimators of the
    sampled token have their ratio in them: this weight is refused beside those.

    Args:
        cap: the largest ratio that counts, which bounds the variance.
    """

    reads_behaviour = True

    renormalise: Renormalise = False
    cap: float = Field(default=2.0, ge=1)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"min(r, {self.cap:g})"

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        gap_N = evidence.student.logprob_N - evidence.tokens.behaviour_N
        return gap_N.exp().clamp(max=self.cap)


class EntropyWeight(Weight, kind="entropy"):
    """How undecided a model was.

    Args:
        whose: the student's entropy, or the teacher's.
        prefer: `high` weighs by the entropy in nats; `low` by exp(-entropy), one over the number of
            tokens a model hesitates between: with `whose: teacher` it trusts a teacher that is
            sure.
    """

    whose: Whose = "student"
    prefer: Literal["high", "low"] = "high"

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        entropy = "H(p)" if self.whose == "student" else "H(q)"
        return entropy if self.prefer == "high" else f"exp(-{entropy})"

    @property
    def looks_further(self) -> bool:
        """See `Weight.looks_further`."""
        return self.whose == "teacher"

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        entropy_N = opinion(evidence, self.whose).entropy_N
        return entropy_N.clamp(min=0) if self.prefer == "high" else (-entropy_N).exp()


class CentredLikelihood(Weight, kind="cll"):
    """Of the centred log-likelihood phi = log p(y) + H[p] (DDT 2602.12222).

    Its mean is zero over the model's own samples: a token far below it comes from another
    distribution. The paper weighs training data by it; how phi becomes a weight is read in three
    ways.

    Args:
        whose: p is the student, or the teacher.
        form: `sigmoid` is sigmoid(beta phi); `exp` is exp(beta phi), how many times likelier the
            token is than a typical one, cut off at `most`; `threshold` is 1 where phi is at least
            `least`, in nats, and 0 elsewhere: only tokens of the distribution teach.
        least: ours; at 0, a typical token's phi, a rounding decides on tokens that are certain.
    """

    whose: Whose = "student"
    form: Literal["sigmoid", "exp", "threshold"] = "sigmoid"
    beta: float = Field(default=1.0, gt=0)
    most: float = Field(default=10.0, gt=1)
    least: float = -1.0

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        one = "p" if self.whose == "student" else "q"
        phi = f"(log {one}(y) + H({one}))"
        if self.form == "threshold":
            return f"1[{phi} >= {self.least:g}]"
        scaled = times(self.beta, phi)
        return (
            f"sigmoid({scaled})" if self.form == "sigmoid" else f"min(exp({scaled}), {self.most:g})"
        )

    @property
    def mask(self) -> bool:
        """See `Weight.mask`."""
        return self.form == "threshold"

    @property
    def looks_further(self) -> bool:
        """See `Weight.looks_further`."""
        return self.whose == "teacher"

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        said = opinion(evidence, self.whose)
        phi_N = said.logprob_N + said.entropy_N
        if self.form == "threshold":
            return (phi_N >= self.least).to(phi_N.dtype)
        scaled_N = self.beta * phi_N
        if self.form == "sigmoid":
            return torch.sigmoid(scaled_N)
        return scaled_N.exp().clamp(max=self.most)


class OverlapOnly(Weight, kind="overlap"):
    """1 where the sampled token is among both models' `k` likeliest, else 0 (Rethinking-OPD).

    Where the models' likeliest tokens differ, the paper finds little to learn. A token is among the
    `k` likeliest if fewer than `k` are strictly likelier.
    """

    k: int = Field(default=16, ge=1)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"1[y among the {self.k} likeliest of p and of q]"

    @property
    def mask(self) -> bool:
        """See `Weight.mask`."""
        return True

    @property
    def needs_ranks(self) -> bool:
        """See `Weight.needs_ranks`."""
        return True

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        student_N, teacher_N = evidence.student.rank_N, evidence.teacher.rank_N
        assert student_N is not None and teacher_N is not None, "nobody asked for ranks"
        shared_N = (student_N < self.k) & (teacher_N < self.k)
        return shared_N.to(evidence.student.logprob_N.dtype)


class PhasedMask(Weight, kind="phased_mask"):
    """At first the tokens that the teacher does not rule out, later those at which the student is
    undecided (REOPOLD 2603.11137).

    Before the step `switch`, 1 where log q(y) - log p(y) is at least `floor`; from it on, 1 where
    the student's entropy is among the largest of the step's tokens. A step without any teaches
    nothing.

    Args:
        floor: in nats; see the estimator `bounded`.
        share: of the step's tokens that are kept from the switch on; ties are kept all.
        switch: a step of the run, counted from 0. The paper does not say it.
    """

    renormalise: Renormalise = "step"
    floor: float = Field(default=-1.386, lt=0)
    share: float = Field(default=0.5, gt=0, le=1)
    switch: int = Field(default=100, ge=0)

    @property
    def mask(self) -> bool:
        """See `Weight.mask`."""
        return True

    @property
    def needs_step(self) -> bool:
        """See `Weight.needs_step`."""
        return True

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        gap_N, entropy_N = evidence.gap_N, evidence.student.entropy_N
        if evidence.step < self.switch:
            return (gap_N >= self.floor).to(gap_N.dtype)
        kept = math.ceil(self.share * len(entropy_N))
        least = entropy_N.topk(kept).values[-1]
        return (entropy_N >= least).to(gap_N.dtype)
