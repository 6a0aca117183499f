"""What the teacher would say of the student's tokens if it were told nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from agentopd.base.types import Briefed, Lesson
from agentopd.divergences.linear import measure
from agentopd.divergences.question import Question
from agentopd.models.chat import ChatTemplate
from agentopd.privilege.view import ViewBuilder
from agentopd.teacher import Teacher

# N trainable tokens of all lessons, H hidden size


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
    asked = [x for x in lessons if x.hidden_NH is not None]
    untold = [Briefed(trajectory=x.trajectory, privileges=()) for x in asked]
    plain = teacher.score(view.build(untold, template))
    if not plain:
        return list(lessons)
    states = [x.hidden_NH for x in plain if x.hidden_NH is not None]
    sizes = [len(hidden_NH) for hidden_NH in states]
    hidden_NH = torch.cat(states)
    ids_N = torch.cat([torch.from_numpy(x.trajectory.ids[x.trajectory.trainable]) for x in plain])
    question = Question(ids_N.to(hidden_NH.device), None, temperature)
    logprob_N = measure(question, teacher.head(hidden_NH)).student.logprob_N
    found = {
        x.trajectory.episode: piece_N
        for x, piece_N in zip(plain, logprob_N.split(sizes), strict=True)
    }
    return [replace(x, untold_N=found.get(x.trajectory.episode)) for x in lessons]
