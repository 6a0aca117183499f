"""What the teacher would say of the student's tokens if it were told nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from agentopd.base.types import Briefed, Lesson
from agentopd.divergences.linear import opinion_of
from agentopd.models.chat import ChatTemplate
from agentopd.privilege.view import ViewBuilder
from agentopd.teacher import Teacher

# N trainable tokens of all lessons


@torch.no_grad()
def with_untold(
    lessons: Sequence[Lesson],
    teacher: Teacher,
    view: ViewBuilder,
    template: ChatTemplate,
    temperature: float,
) -> list[Lesson]:
    """The lessons, in order, with `untold_N`; it takes another pass of the teacher.

    The teacher's context is then the student's own, so that what differs from its lesson is the
    effect of the privileged text alone.

    Args:
        temperature: of the teacher's distribution.
    """
    asked = [x for x in lessons if x.taught]
    untold = [Briefed(trajectory=x.trajectory, privileges=()) for x in asked]
    plain = [x for x in teacher.score(view.build(untold, template)) if x.taught]
    if not plain:
        return list(lessons)
    sampled = [torch.from_numpy(x.trajectory.ids[x.trajectory.trainable]) for x in plain]
    sizes = [len(ids_N) for ids_N in sampled]
    logprob_N = opinion_of(teacher.speaker(plain), torch.cat(sampled), temperature).logprob_N
    found = {
        x.trajectory.episode: piece_N
        for x, piece_N in zip(plain, logprob_N.split(sizes), strict=True)
    }
    return [replace(x, untold_N=found.get(x.trajectory.episode)) for x in lessons]
