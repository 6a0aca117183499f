"""What student and teacher think of the student's tokens.

The numbers are those that the loss is made of, so they cost no further pass of a model, but for
what the teacher would have said had it been told nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from agentopd.base.types import Lesson
from agentopd.signal.evidence import Kept, Measured

# N tokens of a micro-batch, K kept tokens: the student's likeliest, then the teacher's


def token_probes(
    measured: Measured, lessons: Sequence[Lesson], top: int = 16
) -> dict[str, torch.Tensor]:
    """Values of each token, (N,), in nats but for the shares; NaN where a token has none.

    divergence: as the method measures it; left out where it looks at the sampled token alone.
    mass: the share of the student's probability that the divergence's support captures.
    log_ratio: |log p(y) - log q(y)|.
    student_entropy, teacher_entropy, entropy_gap: the last is |H(q) - H(p)| (2604.13016).
    overlap: the share of the student's `top` likeliest tokens among the teacher's.
    overlap_advantage: see `overlap_advantage`; NaN where the two share no token.
    teacher_mass: the share of the teacher's probability on the tokens that it lists, where it lists
    some and shows no more.
    pi_effect, pi_effect_size: log q(y) told less log q(y) untold, and its absolute value, where a
    lesson knows what its teacher would say untold.
    """
    student, teacher = measured.student.detached(), measured.teacher
    assert teacher is not None
    found = {
        "log_ratio": (student.logprob_N - teacher.logprob_N).abs(),
        "student_entropy": student.entropy_N,
        "teacher_entropy": teacher.entropy_N,
        "entropy_gap": (teacher.entropy_N - student.entropy_N).abs(),
    }
    if measured.divergence_N is not None:
        found["divergence"] = measured.divergence_N.detach()
    if measured.mass_N is not None:
        found["mass"] = measured.mass_N.detach()
    if measured.kept is not None:
        found["overlap"] = overlap(measured.kept, top)
        found["overlap_advantage"] = overlap_advantage(measured.kept, top)
    if any(lesson.listed is not None for lesson in lessons):
        found["teacher_mass"] = _listed_mass(lessons, teacher.logprob_N)
    untold_N = _untold(lessons, teacher.logprob_N)
    if untold_N is not None:
        found["pi_effect"] = teacher.logprob_N - untold_N
        found["pi_effect_size"] = found["pi_effect"].abs()
    return found


def overlap(kept: Kept, top: int) -> torch.Tensor:
    """(N,) the share of the student's `top` likeliest tokens that are among the teacher's `top`."""
    return _shared(kept, top).double().mean(-1)


def overlap_advantage(kept: Kept, top: int) -> torch.Tensor:
    """(N,) the mean, over the tokens that are among both models' `top` likeliest, of
    p(v) (log q(v) - log p(v)), with both renormalised to these tokens (Rethinking-OPD 2604.13016).

    It is -KL(p|q) on the shared tokens over how many they are: 0 where the models agree on them,
    never above, and NaN where they share none.
    """
    shared_NK = _shared(kept, top)
    size_N, width = shared_NK.sum(-1), shared_NK.shape[1]
    student_NK = kept.student_NK[:, :width].detach().double()
    teacher_NK = kept.teacher_NK[:, :width].detach().double()
    p_NK = torch.log_softmax(student_NK.masked_fill(~shared_NK, -torch.inf), -1)
    q_NK = torch.log_softmax(teacher_NK.masked_fill(~shared_NK, -torch.inf), -1)
    gain_NK = torch.where(shared_NK & (p_NK > -torch.inf), p_NK.exp() * (q_NK - p_NK), 0.0)
    # Where nothing is shared both distributions are of nothing.
    return torch.where(size_N > 0, gain_NK.sum(-1) / size_N, torch.nan)


def channel_ratios(scalars: Mapping[str, float]) -> dict[str, float]:
    """How much the teacher counts beside the rewards: its norm over that of reinforcement learning,
    each over all tokens of the step; nothing where rewards are silent.

    gradient_ratio: of the two terms' gradients by the student's last hidden states, a vector a
    token. What reaches the output layer directly is left out, and what the layers below make of
    the hidden states' gradients too: it is no ratio of the parameters' gradients.
    advantage_ratio: of the two parts of one advantage, where the channels share a term
    (`mix: additive`), a number a token.
    """
    found = {}
    for norm, ratio in (("hidden_gradient", "gradient_ratio"), ("advantage", "advantage_ratio")):
        distil, rl = (scalars.get(f"{norm}_{name}", 0.0) for name in ("distil", "rl"))
        if rl:
            found[ratio] = distil / rl
    return found


def _shared(kept: Kept, top: int) -> torch.Tensor:
    """(N, K) which of the student's `top` likeliest tokens are among the teacher's."""
    each = kept.ids_NK.shape[1] // 2
    width = min(top, each)
    student_NK, teacher_NK = kept.ids_NK[:, :width], kept.ids_NK[:, each : each + width]
    return (student_NK[:, :, None] == teacher_NK[:, None, :]).any(-1)


def _listed_mass(lessons: Sequence[Lesson], like_N: torch.Tensor) -> torch.Tensor:
    """(N,) the teacher's probability of the tokens that it lists; NaN where it shows all."""
    pieces = [
        like_N.new_full((int(x.trajectory.trainable.sum()),), torch.nan)
        if x.listed is None
        else x.listed.logprob_NK.to(like_N).exp().sum(-1)
        for x in lessons
    ]
    return torch.cat(pieces)


def _untold(lessons: Sequence[Lesson], told_N: torch.Tensor) -> torch.Tensor | None:
    """(N,) what the teacher says of each token if it is told nothing; None where nobody asked."""
    if all(lesson.untold_N is None for lesson in lessons):
        return None
    pieces = [
        told_N.new_full((int(x.trajectory.trainable.sum()),), torch.nan)
        if x.untold_N is None
        else x.untold_N.to(told_N)
        for x in lessons
    ]
    return torch.cat(pieces)


def combined(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """A step's numbers from those of its parts, however the step was cut into them."""
    totals = dict[str, float]()
    for part in parts:
        for name, value in part.items():
            totals[name] = _with(name, totals.get(name, 0.0), value)
    return totals


def _with(name: str, total: float, value: float) -> float:
    if name == "sampler_gap":
        return max(total, value)
    norm = name.startswith(("hidden_gradient", "advantage"))
    return math.hypot(total, value) if norm else total + value
