"""What a part may ask of the parts beside it in a method, when the configuration is read.

A record of plain facts below all parts, so that none of them needs to know the configuration that
they are put together in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """The other parts of a method.

    Attributes:
        mix, unit, divergence: their kinds.
        weights: the kinds of all weights, in order.
        asks_teacher: whether a teacher is asked at all.
        told: whether there is a source of privilege, if only the one that tells nothing.
        sampled: whether the divergence looks at the sampled token alone.
        estimator: the kind of the estimator in use; empty where distributions are compared.
        credits: whether what the unit makes of the divergence's values is differentiated, or is an
            advantage of the sampled tokens.
        scores_episodes: whether the unit scores whole episodes.
        temperature: of the rollout's sampling.
        group: episodes of each task.
        teacher_local: whether the teacher's model is here, to be asked for words too.
        teacher_top: how many of the teacher's likeliest tokens the divergence's support looks at,
            none but the sampled token where it is 0; None where it looks at others too.
        looks_further: what else looks at all of the teacher's distribution.
        watched: whether the probes look at what the models say.
        plainly_told: whether episodes are sampled by who is told something, and learnt as if
            nothing had been told.
        both_histories: whether episodes are kept with what an actor was told and without it.
        recomputes: whether tokens that were sampled under another history carry the student's own
            log-probabilities in the one that is learnt under, and not those they were sampled with.
        teacher_told: whether the teacher reads what the sources of privilege say.
    """

    mix: str
    unit: str
    divergence: str
    weights: tuple[str, ...]
    asks_teacher: bool
    told: bool
    sampled: bool
    estimator: str
    credits: Literal["loss", "advantage"]
    scores_episodes: bool
    temperature: float
    group: int
    teacher_local: bool = True
    teacher_top: int | None = None
    looks_further: tuple[str, ...] = ()
    watched: bool = True
    plainly_told: bool = False
    both_histories: bool = False
    recomputes: bool = False
    teacher_told: bool = True
