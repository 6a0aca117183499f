"""All weights of a method together: what they make of each token, and what each of them said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from agentopd.base.types import Lesson
from agentopd.signal.evidence import Evidence
from agentopd.signal.tokens import Extent
from agentopd.weights.base import Weight, product

# N tokens of some lessons


@dataclass(frozen=True)
class Weighed:
    """What a method's weights make of some tokens.

    Attributes:
        weight_N: of all weights together, rescaled.
        gates: what each weight says by itself, (N,), by its kind; of two of a kind, the second has
            a number.
    """

    weight_N: torch.Tensor
    gates: Mapping[str, torch.Tensor]

    def by_episode(self, lessons: Sequence[Lesson]) -> dict[int, Weighed]:
        """Each lesson's part, by its episode's number."""
        sizes = [int(x.trajectory.trainable.sum()) for x in lessons]
        weights = self.weight_N.split(sizes)
        gates = {name: gate_N.split(sizes) for name, gate_N in self.gates.items()}
        return {
            x.trajectory.episode: Weighed(weights[i], {k: v[i] for k, v in gates.items()})
            for i, x in enumerate(lessons)
        }

    @classmethod
    def joined(cls, parts: Sequence[Weighed], device: torch.device) -> Weighed:
        """The parts of a micro-batch, end to end."""

        def whole(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
            return torch.cat(list(pieces)).to(device)

        names = parts[0].gates
        return cls(
            weight_N=whole([part.weight_N for part in parts]),
            gates={name: whole([part.gates[name] for part in parts]) for name in names},
        )


@torch.no_grad()
def weigh(weights: Sequence[Weight], evidence: Evidence) -> Weighed:
    """What the weights make of the tokens of the evidence."""
    gates: dict[str, torch.Tensor] = {}
    factors: list[tuple[Weight, torch.Tensor]] = []
    for number, weight in enumerate(weights, 1):
        kind, raw_N = weight.kind or type(weight).__name__, weight.raw(evidence)
        gates[f"{kind}_{number}" if kind in gates else kind] = raw_N
        factors.append((weight, raw_N))
    return Weighed(product(factors, evidence.tokens), gates)


def weigh_unasked(weights: Sequence[Weight], evidence: Evidence) -> Weighed:
    """The same of weights that look at no model, where none was asked.

    Raises:
        ValueError: one of them does look at a model.
    """
    found = weigh(weights, evidence)
    for name, gate_N in found.gates.items():
        if not gate_N.isfinite().all():
            raise ValueError(
                f"the weight {name} declares by_place = True, that it looks at no model, and yet "
                "its weights depend on what the models say: leave by_place out"
            )
    return found


def known_by_place(weights: Sequence[Weight]) -> bool:
    """Whether all weights are known before any model is asked."""
    return all(weight.by_place for weight in weights)


def need_survey(weights: Sequence[Weight]) -> bool:
    """Whether the models must have been asked about the whole step before a token is weighed."""
    return not known_by_place(weights) and any(weight.needs_step for weight in weights)


def balanced_over(weights: Sequence[Weight]) -> Extent | None:
    """The narrowest stretch over which the weights together average to 1, whatever is said of the
    tokens; None where they need not.
    """
    telling = [weight for weight in weights if not weight.says_nothing]
    if len(telling) == 1:
        return telling[0].balanced_over
    rescaled = [weight.renormalise == "episode" and not weight.mask for weight in telling]
    return "episode" if telling and all(rescaled) else None
