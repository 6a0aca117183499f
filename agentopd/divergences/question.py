"""What is to be measured of two models."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from agentopd.divergences.base import Divergence

# N tokens


@dataclass(frozen=True)
class Question:
    """What is to be measured. Whatever compares two models is left out where there is no teacher.

    Args:
        ids_N: the sampled tokens.
        divergence: of the student from the teacher; None for none.
        temperature: of all models' distributions.
        ranks: whether to count the tokens that are likelier than the sampled one.
        keep: how many likeliest tokens of each model to keep with both models' log-probabilities.
        acted_N: bool, which of the tokens the teacher wrote; None for none.
        tile: how many numbers one tensor of logits may hold.

    Raises:
        ValueError: something is out of its bounds.
    """

    ids_N: torch.Tensor
    divergence: Divergence | None
    temperature: float = 1.0
    ranks: bool = False
    keep: int = 0
    acted_N: torch.Tensor | None = None
    tile: int = 13 * 2**22

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(
                f"a temperature of {self.temperature} makes no distribution: give a positive number"
            )
        for name, least in (("tile", 1), ("keep", 0)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but counts: give {least} or more"
                )
        if self.divergence is not None and self.divergence.sampled:
            raise ValueError(
                "a divergence of the sampled token alone is its estimator's, which is given the "
                "tokens' log-probabilities: ask for divergence=None"
            )
