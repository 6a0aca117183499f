"""The student acts told, and learns the same answers told and untold: both selves in one step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field

from agentopd.base.rows.costs import Cost
from agentopd.base.rows.symbols import times
from agentopd.base.types import Lesson
from agentopd.mixes.base import Route
from agentopd.mixes.channels import Channels
from agentopd.mixes.shared import RlOnly
from agentopd.signal.beside import Beside
from agentopd.signal.surrogate import reference_kl, sampled_forward_kl

# N tokens of a micro-batch


class TwoHistories(RlOnly, kind="two_histories"):
    """Rewards of episodes that were played told, learnt as they were read and as if nothing had
    been told, each held to the other by a KL (pi-Distill 2602.04942).

    With q the student told and p the student untold, one model, the loss is minus

        told (E R - kl KL(q || sg p)) + (1 - told) (E (p / q) R - kl KL(sg q || p))

    over episodes of q, sg being a number that is not differentiated. Rewards count by their
    advantage, ratios a token at a time under the clip of `rl`, both KLs on the sampled tokens: the
    first as k3 times the live ratio, the second as k3. `rl.kl_coefficient` is another matter.

    Args:
        told: alpha, the share of what is learnt as it was read; 1 is reinforcement learning under
            the hint, 0 learns the untold history alone.
        kl: beta, by which both KLs count.
    """

    distils = False

    told: float = Field(default=0.5, ge=0, le=1)
    kl: float = Field(default=0.25, ge=0)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        held = {
            "as it was read": (self.told, "KL(p || q)"),
            "as if nothing had been told": (1 - self.told, "KL(mu || p)"),
        }
        terms = []
        for where, (share, divergence) in held.items():
            kl = f" - {times(2 * share * self.kl, f'grad {divergence}')}" if self.kl else ""
            terms += [f"{times(2 * share, 'R')}{kl} {where}"] if share else []
        return ", ".join(terms)

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`: the second record."""
        return (Cost("student", "learns", "L"),) if 0 < self.told < 1 else ()

    @property
    def distil_coefficient(self) -> float:
        """See `Mix.distil_coefficient`: the untold teacher holds the told student."""
        return 1.0 if self.kl and self.told else 0.0

    @property
    def regularised(self) -> bool:
        """See `Mix.regularised`."""
        return self.kl > 0 or super().regularised

    def check(self, beside: Beside) -> None:
        """See `Mix.check`."""
        super().check(beside)
        if not beside.both_histories:
            raise ValueError(
                "mix: two_histories learns every episode twice, as it was read and as if nothing "
                "had been told, and the rollout keeps one record of each: use rollout: {kind: "
                "hinted, learn_under: both, ratio: sampled}, or mix: rl"
            )
        if self.distil_coefficient and beside.teacher_told:
            raise ValueError(
                "mix: two_histories holds the told student to the teacher in the history without "
                "what was told, and the view tells the teacher too: set view.tells: actor, or "
                "mix.kl: 0"
            )

    def routes(self, lessons: Sequence[Lesson]) -> dict[int, Route]:
        """See `Mix.routes`: both records are in one average, so that each share counts twice."""
        return {
            x.trajectory.episode: Route(distil=0.0, rl=2 * self._share(x.trajectory.acts))
            for x in lessons
        }

    def terms(self, channels: Channels) -> dict[str, torch.Tensor]:
        """See `Mix.terms`."""
        own = channels.reinforcement
        assert own is not None
        found = {"rl": channels.reinforce()}
        if self.kl:
            held_N = own.average_N * own.scale_N * self._kl(channels)
            found["kl"] = self.kl * held_N.sum()
        return found

    def _share(self, read: bool) -> float:
        return self.told if read else 1 - self.told

    def _kl(self, channels: Channels) -> torch.Tensor:
        """(N,) the KL of each token's record; 0 where a told record has no lesson."""
        own, student = channels.reinforcement, channels.measured.student
        assert own is not None
        behaviour_N = channels.behaviour_N
        untold_N = sampled_forward_kl(student.logprob_N, behaviour_N)
        read_N = torch.zeros_like(untold_N)
        if (plain := channels.measured.teacher) is not None:
            read_N = reference_kl(student.logprob_N, plain.logprob_N, behaviour_N, "rho_k3")
        return torch.where(own.told_N, untold_N, read_N)
