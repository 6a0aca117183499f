"""Targets: what the student is pulled to, where that is not the teacher itself.

A target mixes the log-probabilities of teacher, student and reference. Over categories it is
normalised again. Of the sampled token alone it is known up to its normaliser, which depends on the
history alone: an estimator that does not mind a baseline can do without.

With a reduced support the mixture is one of its categories; the tail is a category like any other.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field

from agentopd.base.parts import Part
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.teacher import check_same_vocabulary

# N tokens, K categories; log-probabilities in nats, of the student p, the teacher q, a reference


class Target(Part, family="target"):
    """A distribution made of the teacher's and others'."""

    def reference(self, student: LanguageModel) -> LanguageModel:
        """The reference model, made before the student's first step: the student itself.

        Raises:
            ValueError: it is not over the student's tokens.
        """
        return student.snapshot()

    @property
    def needs_reference(self) -> bool:
        """Whether a reference model must be asked, see `reference`."""
        return False

    @property
    def own_reference(self) -> bool:
        """Whether the reference is another model than the student before its first step."""
        return False

    @property
    def moves(self) -> bool:
        """Whether the student is differentiated inside the target too."""
        return False

    def times(self, factor: float) -> Target | None:
        """The target with its number multiplied, as the schedule `target` does; None where that
        leaves the teacher itself.

        Raises:
            ValueError: it has no such number.
        """
        raise ValueError(
            f"the schedule target multiplies a number, and target: {self.kind} has none that is "
            "meant: let its class define times(factor), or leave the schedule out"
        )

    @abstractmethod
    def mixed(
        self, p_NK: torch.Tensor, q_NK: torch.Tensor, reference_NK: torch.Tensor | None
    ) -> torch.Tensor:
        """Log-probabilities up to a normaliser; of any shape, and elementwise."""

    def of(
        self, p_NK: torch.Tensor, q_NK: torch.Tensor, reference_NK: torch.Tensor | None
    ) -> torch.Tensor:
        """Normalised log-probabilities (N, K).

        They are the teacher's to the last bit where the mixture is. Where there is no mass left to
        normalise, they are NaN.
        """
        mixed_NK = self.mixed(p_NK, q_NK, reference_NK)
        total_N1 = mixed_NK.logsumexp(-1, keepdim=True)
        unmoved_N1 = (mixed_NK == q_NK).all(-1, keepdim=True)
        return mixed_NK - total_N1.masked_fill(unmoved_N1, 0.0)


class Veto(Target, kind="veto"):
    """Q ~ P_T P_S^beta: the student's own probabilities veto what it would never do (2601.07155).

    This changes where learning stops: at the sharpened teacher P_T^(1 / (1 - beta)), and nowhere
    short of certainty with beta = 1. So the paper lowers beta to 0 over the run, which here the
    schedule `target` does: at 0 the target is the teacher. Whether the gradient flows through Q as
    well is open to both readings, which `student` names.

    Args:
        beta: the power of the student's probabilities. A schedule holds it between 0 and 1.
        student: inside Q, a detached number or live.
    """

    beta: float = Field(default=0.8, gt=0, le=1)
    student: Literal["detached", "live"] = "detached"

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        live = ", through which the gradient flows" if self.moves else ""
        return f"q p^{self.beta:g} / Z{live}"

    @property
    def moves(self) -> bool:
        """See `Target.moves`."""
        return self.student == "live"

    def times(self, factor: float) -> Veto | None:
        """See `Target.times`."""
        beta = min(max(self.beta * factor, 0.0), 1.0)
        return self.model_copy(update={"beta": beta}) if beta else None

    def mixed(
        self, p_NK: torch.Tensor, q_NK: torch.Tensor, reference_NK: torch.Tensor | None
    ) -> torch.Tensor:
        """See `Target.mixed`."""
        return q_NK + self.beta * p_NK


class Floored(Target, kind="floored"):
    """max(q, share p), token by token and not normalised again (RESD 2605.12741).

    For the reverse KL, whose log-ratio log p - log q it caps at -log share: what the student says
    and the teacher never would counts no more than that.

    Args:
        share: of the student's own probability, below which the teacher's does not go.
    """

    share: float = Field(default=0.2, gt=0, lt=1)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"max(q, {self.share:g} p)"

    def mixed(
        self, p_NK: torch.Tensor, q_NK: torch.Tensor, reference_NK: torch.Tensor | None
    ) -> torch.Tensor:
        """See `Target.mixed`."""
        return torch.maximum(q_NK, p_NK + math.log(self.share))

    def of(
        self, p_NK: torch.Tensor, q_NK: torch.Tensor, reference_NK: torch.Tensor | None
    ) -> torch.Tensor:
        """See `Target.of`; here as it is."""
        return self.mixed(p_NK, q_NK, reference_NK)


class Extrapolate(Target, kind="extrapolate"):
    """log P* = scale log P_T + (1 - scale) log P_ref, normalised (ExOPD 2602.12125).

    The optimum of KL-regularised reinforcement learning with the reward log(P_T / P_ref), scaled:
    1 is the teacher itself, less interpolates, more goes beyond it. What the teacher deems
    impossible stays so. Beyond 1, what the reference alone deems impossible has infinite weight.

    Args:
        scale: lambda; the paper finds 1.25 best and a cliff near 1.5. A schedule holds it at 0 or
            more; at 0 the target is the reference.
        base: the reference, such as the model that the teacher was made from, which the paper calls
            reward correction; the student before its first step if not given. It reads what the
            student reads.
    """

    scale: float = Field(default=1.25, gt=0)
    base: ModelSettings | None = None

    def reference(self, student: LanguageModel) -> LanguageModel:
        """See `Target.reference`."""
        if self.base is None:
            return super().reference(student)
        loaded = load_model(self.base)
        check_same_vocabulary(student, loaded)
        loaded.module.requires_grad_(False)
        return loaded

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        base, named = "p_0", ""
        if self.base is not None:
            base, named = "b", f" with b = the model {self.base.path}"
        return f"q^{self.scale:g} {base}^{1 - self.scale:g} / Z{named}"

    @property
    def needs_reference(self) -> bool:
        """See `Target.needs_reference`."""
        return True

    def times(self, factor: float) -> Extrapolate:
        """See `Target.times`."""
        return self.model_copy(update={"scale": max(self.scale * factor, 0.0)})

    @property
    def own_reference(self) -> bool:
        """See `Target.own_reference`."""
        return self.base is not None

    def mixed(
        self, p_NK: torch.Tensor, q_NK: torch.Tensor, reference_NK: torch.Tensor | None
    ) -> torch.Tensor:
        """See `Target.mixed`."""
        assert reference_NK is not None, "a reference is asked for by needs_reference"
        if self.scale == 1:
            return q_NK
        moved_NK = q_NK + (self.scale - 1) * (q_NK - reference_NK)
        return torch.where(q_NK == -torch.inf, q_NK, moved_NK)
