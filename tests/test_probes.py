"""Probes: values of tokens by hand, and means by turn and by success."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from trajectories import lessons_of, played, tokens_of

from agentopd.probes import Collector, rollout_probes, token_probes
from agentopd.types import EndReason, Trajectory

SOLVED = played([10, 11], [12], infos=[{}, {"success": True}], episode=0)
LOST = played([13], [14, 15], [16], infos=[{}, {}, {"success": False}], episode=1)


def test_token_probes_by_hand() -> None:
    student = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25]])
    teacher = torch.tensor([[0.25, 0.5, 0.25], [0.25, 0.5, 0.25]])
    found = token_probes(student.log(), teacher.log(), tokens_of(played([0, 1])))
    half = math.log(2)
    assert found["divergence"].tolist() == pytest.approx([0.5 * half, 0.0])
    assert found["log_ratio"].tolist() == pytest.approx([half, 0.0])
    assert found["student_entropy"].tolist() == pytest.approx([half, 1.5 * half])
    assert found["teacher_entropy"].tolist() == pytest.approx([1.5 * half, 1.5 * half])
    assert found["overlap"].tolist() == [1.0, 1.0]


def test_overlap_is_the_share_of_the_likeliest_eight_that_both_name() -> None:
    student = torch.arange(16.0)[None]
    there = tokens_of(played([0]))
    for shift, share in ((0, 1.0), (2, 0.75), (8, 0.0)):
        teacher = torch.log_softmax(student.roll(shift, dims=1), -1)
        assert token_probes(torch.log_softmax(student, -1), teacher, there)["overlap"] == share


def test_probes_carry_no_gradient() -> None:
    student = torch.log_softmax(torch.randn(1, 4, requires_grad=True), -1)
    found = token_probes(student, student.detach(), tokens_of(played([0])))
    assert not any(value.requires_grad for value in found.values())


def _collected(*batches: tuple[Trajectory, ...]) -> dict[str, Any]:
    """Means of a probe that is 1, 2, 3, ... over the tokens of all batches."""
    collector, seen = Collector(), 0.0
    for batch in batches:
        tokens = tokens_of(*batch)
        values = torch.arange(1.0, len(tokens) + 1) + seen
        collector.add({"number": values}, tokens, lessons_of(*batch))
        seen += len(tokens)
    return collector.result()


def test_means_by_turn_and_by_success() -> None:
    # SOLVED holds 1 2 | 3, LOST 4 | 5 6 | 7
    found = _collected((SOLVED, LOST))
    assert found["by_turn"] == {
        "count": [3, 3, 1],
        "number": pytest.approx([7 / 3, 14 / 3, 7.0]),
    }
    assert found["by_success"] == {"solved": {"number": 2.0}, "unsolved": {"number": 5.5}}


def test_means_do_not_depend_on_the_micro_batches() -> None:
    assert _collected((SOLVED,), (LOST,)) == _collected((SOLVED, LOST))


def test_a_group_without_a_token_has_no_mean() -> None:
    assert _collected((LOST,))["by_success"]["solved"] == {"number": None}


def test_without_a_teacher_there_are_no_probes() -> None:
    assert Collector().result() == {"by_turn": {}, "by_success": {}}


def test_rollout_probes_are_shares_of_episodes_and_of_turns() -> None:
    clumsy = played(
        [10],
        [11],
        infos=[{"action_valid": False}, {}],
        rewards=[0.0, 0.5],
        end=EndReason.TURN_LIMIT,
    )
    clumsy = dataclasses.replace(
        clumsy, turns=(clumsy.turns[0], dataclasses.replace(clumsy.turns[1], cut=True))
    )
    failed = played([12], end=EndReason.ERROR)
    found = rollout_probes([SOLVED, LOST, clumsy, failed])
    assert found == {
        "success": 0.25,
        "reward": 0.125,
        "turns": 2.0,
        "invalid": 1 / 8,
        "cut": 1 / 8,
        "truncated": 0.25,
        "errors": 0.25,
        "new_segments": 0.0,
    }


def test_rollout_probes_of_no_episodes_are_zero() -> None:
    assert set(rollout_probes([]).values()) == {0.0}
