"""What a part makes models read and write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Who = Literal["student", "teacher", "reference", "writer", "discriminator"]
Does = Literal["samples", "reads", "learns"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens an episode.

    Attributes:
        who: which model. The reference is the student as it was before its first step, or
            the model that the divergence's target names.
        does: `samples` tokens one after another; `reads` a sequence in one pass; `learns`, a pass
            forward and one back.
        of: how many, as a product of symbols: S, what the student says in an episode; L, the whole
            episode as a model reads it; others that `where` explains.
        times: a number before it.
        where: what its other symbols mean, as `f: the share of episodes that are played again`;
            of several, with `; ` between them.
    """

    who: Who
    does: Does
    of: str
    times: float = 1.0
    where: str = ""
