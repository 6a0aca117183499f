"""Masked tokens change nothing: whatever the teacher thinks of one, no other token moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from trajectories import CPU, played

from agentopd.base.types import Briefed, Lesson, View
from agentopd.learning.objective import Objective
from agentopd.learning.plan import Plan
from agentopd.learning.survey import Survey
from agentopd.running.config import RunConfig
from agentopd.running.reading import parse_config
from agentopd.signal.evidence import Measured, Opinion
from agentopd.signal.tokens import Tokens

# N tokens: three turns of two

ENV: dict[str, Any] = {"env": {"id": "agentopd/Sokoban-v0"}}
STUDENT = torch.tensor([-1.0, -2.0, -0.5, -1.5, -1.0, -0.7])
TEACHER = torch.tensor([-3.0, -0.2, -0.7, -1.0, -1.1, -0.6])
MASKS = {
    "depth_curriculum": ("{kind: depth_curriculum, start: 2}", [4, 5]),
    "skip_first": ("{kind: skip_first, tokens: 1}", [0, 2, 4]),
    "phrase_mask": ("{kind: phrase_mask, length: 2}", [2, 3]),
    "label_confidence": (
        "{kind: label_confidence, rules: [{fact: done, label: skip}]}",
        [4, 5],
    ),
    "overlap": ("{kind: overlap, k: 2}", [1, 3]),
    "kl_centroid": ("{kind: kl_centroid}", [4, 5]),
    "kl_centroid of the step": ("{kind: kl_centroid, centroid: step}", [4, 5]),
    "cll": ("{kind: cll, form: threshold, least: -0.65}", [1, 5]),
    "a weight of zero": ("entropy", [5]),
}


def _lesson() -> Lesson:
    """The teacher was told 5 6, which the second turn says; the third turn is done."""
    facts = [{"facts": {"done": done}} for done in (False, False, True)]
    trajectory = played([7, 8], [5, 6], [9, 4], infos=facts)
    view = View(
        briefed=Briefed(trajectory=trajectory, privileges=()),
        ids=np.insert(trajectory.ids, 1, [5, 6]),
        position=np.arange(len(trajectory.ids)) + 2 * (np.arange(len(trajectory.ids)) > 0),
        segments=((0, len(trajectory.ids) + 2),),
    )
    return Lesson(trajectory=trajectory, view=view, hidden_NH=torch.zeros(6, 2))


def _method(weight: str, estimator: str) -> RunConfig:
    divergence = f"divergence={{kind: reverse_kl, support: sampled, estimator: {estimator}}}"
    return parse_config(ENV, [f"weight=[{weight}]", divergence])


def _pulls(method: RunConfig, teacher_N: torch.Tensor) -> torch.Tensor:
    """Minus the slope of the loss by each token's log-probability."""
    lessons, student_N = [_lesson()], STUDENT.clone().requires_grad_()
    entropy_N = torch.tensor([0.5, 1.0, 0.3, 0.9, 0.4, 0.0])
    student = Opinion(student_N, entropy_N, STUDENT, torch.tensor([0, 2, 1, 0, 1, 0]))
    teacher = Opinion(teacher_N, entropy_N, TEACHER, torch.tensor([1, 0, 1, 5, 0, 1]))
    measured, tokens = Measured(student, teacher), Tokens.of(lessons, CPU)
    plan = Plan.of(method, lessons, [], 0, (), Survey.of(lessons, measured))
    loss = Objective(method).terms(measured, tokens, lessons, plan)["distil"]
    return -torch.autograd.grad(loss, student_N)[0]


def _changed(places: Sequence[int]) -> torch.Tensor:
    """The teacher's log-probabilities, others at these tokens."""
    teacher_N = TEACHER.clone()
    teacher_N[list(places)] -= 0.1
    return teacher_N


@pytest.mark.parametrize("estimator", ["reward_to_go", "k1"])
@pytest.mark.parametrize(("weight", "masked"), MASKS.values(), ids=MASKS)
def test_what_the_teacher_thinks_of_a_masked_token_moves_no_other(
    weight: str, masked: list[int], estimator: str
) -> None:
    method = _method(weight, estimator)
    before_N = _pulls(method, TEACHER)
    others = [n for n in range(6) if n not in masked]
    assert not before_N[masked].any() and before_N[others].all()
    assert torch.equal(_pulls(method, _changed(masked)), before_N)
    # A token that is not masked does move those before it, where an estimator looks ahead.
    last = others[-1]
    moved = (_pulls(method, _changed([last])) != before_N).tolist()
    assert moved[last]
    assert any(moved[: others[-2] + 1]) == (estimator == "reward_to_go")


def test_a_masked_tokens_gap_is_missing_from_the_sums_before_it() -> None:
    """Gaps of -2, 1.8, -0.2, 0.5, -0.1, 0.1; the first of each turn is masked, the others count 2.
    On a ratio of exp(log p + 1), one sixth each.
    """
    pulls_N = _pulls(_method("{kind: skip_first, tokens: 1}", "reward_to_go"), TEACHER)
    sums_N = torch.tensor([0.0, 1.8 + 0.5 + 0.1, 0.0, 0.5 + 0.1, 0.0, 0.1])
    torch.testing.assert_close(pulls_N, 2 * sums_N * (STUDENT + 1).exp() / 6)
