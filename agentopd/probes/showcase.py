"""One episode for people to look at: what the agent wrote, and what the teacher would rather have
had.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from agentopd.base.types import Lesson, Trajectory
from agentopd.divergences.kl import ReverseKL
from agentopd.divergences.linear import measure
from agentopd.divergences.question import Question
from agentopd.models.chat import ChatTemplate
from agentopd.models.model import LanguageModel
from agentopd.models.passes import hidden_before
from agentopd.signal.evidence import Measured
from agentopd.teacher import Teacher

# N trainable tokens of the episode, H hidden size


@torch.no_grad()
def describe_episode(
    student: LanguageModel,
    teacher: Teacher,
    lessons: Sequence[Lesson],
    label: str,
    temperature: float = 1.0,
) -> dict[str, Any] | None:
    """A failed episode of middling length, token by token; None without a lesson.

    A token's `signal` is log q(y) - log p(y) in nats: positive where the teacher wants more of it.

    Args:
        temperature: of both models' distributions.
    """
    lesson = _telling(lessons)
    if lesson is None:
        return None
    trajectory, view, said = lesson.trajectory, lesson.view, teacher.speaker([lesson])
    assert view is not None
    ids_N = torch.from_numpy(trajectory.ids[trajectory.trainable]).to(student.device)
    own = student.head(hidden_before(student, [trajectory], teacher.tokens_per_batch))
    # Of a teacher that tells a few tokens alone there is no divergence over all of them.
    divergence = ReverseKL() if said.whole else None
    measured = measure(Question(ids_N, divergence, temperature), own, said)
    return {
        "arm": label,
        "env": trajectory.env,
        "task": str(trajectory.prompt.get("task_id", trajectory.task)),
        "success": trajectory.success,
        "privilege": "\n".join(p.text for p in view.briefed.privileges),
        "turns": _turns(trajectory, measured, student.template),
    }


def _telling(lessons: Sequence[Lesson]) -> Lesson | None:
    """The lesson that shows most: of a failed episode, if there is one, of about six turns."""
    whole = [
        x for x in lessons if len(x.trajectory.segments) == 1 and x.view is not None and x.taught
    ]
    failed = [x for x in whole if not x.trajectory.success] or whole
    return min(
        failed,
        key=lambda x: (abs(len(x.trajectory.turns) - 6), x.trajectory.episode),
        default=None,
    )


def _turns(
    trajectory: Trajectory, measured: Measured, template: ChatTemplate
) -> list[dict[str, Any]]:
    """Each turn's observation, its tokens with what the models say of them, and what came of it.

    What is not learnt from, because somebody else wrote it, has no signal.
    """
    assert measured.teacher is not None
    places = trajectory.trainable.nonzero()[0].tolist()
    signal_N = (measured.teacher.logprob_N - measured.student.logprob_N).tolist()
    whole_N = measured.divergence_N
    divergence_N = [None] * len(signal_N) if whole_N is None else whole_N.tolist()
    signal = dict(zip(places, signal_N, strict=True))
    divergence = dict(zip(places, divergence_N, strict=True))
    return [
        {
            "observation": turn.observation,
            "tokens": [
                {
                    "text": template.decode([int(trajectory.ids[t])]),
                    "signal": signal.get(t),
                    "divergence": divergence.get(t),
                }
                for t in range(turn.start, turn.stop)
            ],
            "feedback": str(turn.info.get("feedback", "")),
            "reward": turn.reward,
        }
        for turn in trajectory.turns
    ]
