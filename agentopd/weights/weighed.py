"""All weights of a method together: what they make of each token, and what each of them said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from agentopd.base.types import Lesson
from agentopd.signal.evidence import Evidence, NotYetAsked, UnaskedEvidence
from agentopd.signal.tokens import Tokens
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


def weigh_unasked(
    weights: Sequence[Weight], lessons: Sequence[Lesson], step: int
) -> Weighed | None:
    """The same of all taught lessons of a step, before any model is asked of them; None where a
    weight looks at what they say.
    """
    tokens = Tokens.of(lessons, torch.device("cpu"))
    try:
        return weigh(weights, UnaskedEvidence(tokens, lessons, step))
    except NotYetAsked:
        # That is its answer.
        return None


def need_survey(weights: Sequence[Weight], lessons: Sequence[Lesson], step: int) -> bool:
    """Whether the models must have been asked about the whole step before a token is weighed."""
    step_long = any(weight.needs_step for weight in weights)
    return step_long and weigh_unasked(weights, lessons, step) is None
