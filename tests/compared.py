"""One token, compared by the package as the learner compares many; and all there is to compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from agentopd.divergences.base import Divergence, Row
from agentopd.divergences.logprobs import entropy

Config = dict[str, Any]

SUMS: list[Config] = [
    {"kind": "reverse_kl"},
    {"kind": "forward_kl"},
    *({"kind": "jsd", "beta": beta} for beta in (0.1, 0.5, 0.9)),
    *({"kind": "jsd", "beta": beta, "scaled": False} for beta in (0.2, 0.5)),
    *(
        {"kind": "skew", "direction": direction, "alpha": alpha}
        for direction in ("forward", "reverse")
        for alpha in (0.1, 0.7)
    ),
    *(
        {"kind": "entropy_switched", "reading": reading, "threshold": 1.0, "width": 0.3}
        for reading in ("additive", "switch", "blended")
    ),
]
"""Divergences that are sums over tokens."""

KINDS: list[Config] = [
    *SUMS,
    *(
        {"kind": "alpha", "form": form, "alpha": alpha}
        for form in ("renyi", "amari")
        for alpha in (0.2, 0.5, 0.9)
    ),
]

AIMED: list[Config] = [
    {**kind, "target": target}
    for kind in KINDS
    for target in (
        {"kind": "veto", "beta": 0.3, "student": "detached"},
        {"kind": "veto", "beta": 0.8, "student": "live"},
        {"kind": "extrapolate", "scale": 0.5},
        {"kind": "extrapolate", "scale": 1.25},
    )
]
"""The same with each target."""


def named(config: Config) -> str:
    """A short name for a test's parameter."""
    inner = [named(value) if isinstance(value, dict) else str(value) for value in config.values()]
    return "-".join(inner)


class Compared(NamedTuple):
    """A divergence's value, its gradient by the student's logits, and the mass it captures."""

    value: float
    gradient: npt.NDArray[np.float64]
    mass: float


def compared(
    config: Config,
    student: Sequence[float] | npt.NDArray[np.float64],
    teacher: Sequence[float] | npt.NDArray[np.float64],
    reference: Sequence[float] | npt.NDArray[np.float64] | None = None,
    dtype: torch.dtype = torch.float64,
) -> Compared:
    """What a divergence makes of logits; the reference is the teacher if not given."""
    third = teacher if reference is None else reference
    rows = torch.tensor(np.array([student, teacher, third]), dtype=dtype)
    student_NV, teacher_NV, reference_NV = torch.log_softmax(rows, -1).split(1)
    divergence = Divergence.model_validate(config)
    chosen = divergence.support.select(student_NV, teacher_NV, reference_NV)
    row = Row(entropy(teacher_NV), chosen.reference_NK)
    value_N, pull_NK = divergence.compare(chosen.student_NK, chosen.teacher_NK, row)
    gradient_NV = divergence.support.spread(chosen, pull_NK, student_NV)
    return Compared(value_N.item(), gradient_NV[0].double().numpy(), chosen.mass_N.item())
