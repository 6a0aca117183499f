"""GRPO by hand, dead groups, and the clipped policy gradient case by case."""

from __future__ import annotations

import math

import pytest
import torch
from trajectories import played

from agentopd.signal.advantages import Grpo, dead_groups, groups, policy_gradient
from agentopd.types import EndReason, Trajectory


def _step(*rewards_by_task: list[float]) -> list[Trajectory]:
    """Episodes of one turn, numbered in order."""
    flat = [(task, reward) for task, rewards in enumerate(rewards_by_task) for reward in rewards]
    return [
        played([7], rewards=[reward], episode=episode, task=task)
        for episode, (task, reward) in enumerate(flat)
    ]


def test_grpo_centres_and_scales_within_the_group() -> None:
    found = Grpo().of(_step([1.0, 0.0, 0.0, 0.0], [2.0, 4.0]))
    spread = math.sqrt(3) / 4
    expected = [0.75 / spread, *[-0.25 / spread] * 3, -1.0, 1.0]
    assert [found[episode] for episode in range(6)] == pytest.approx(expected, rel=1e-5)


def test_grpo_without_std_only_centres() -> None:
    found = Grpo(std=False).of(_step([1.0, 0.0, 0.0, 0.0], [2.0, 4.0]))
    assert [found[e] for e in range(6)] == pytest.approx([0.75, -0.25, -0.25, -0.25, -1.0, 1.0])


def test_groups_are_tasks_wherever_their_episodes_stand() -> None:
    first, second = _step([1.0, 0.0]), _step([3.0, 5.0])
    for episode, trajectory in enumerate(second):
        object.__setattr__(trajectory, "task", 1)
        object.__setattr__(trajectory, "episode", 2 + episode)
    mixed = [first[0], second[0], first[1], second[1]]
    assert groups(mixed) == [first, second]
    assert Grpo(std=False).of(mixed) == pytest.approx({0: 0.5, 1: -0.5, 2: -1.0, 3: 1.0})


@pytest.mark.parametrize("std", [True, False])
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -0.3])
def test_a_dead_group_gets_exactly_zero(std: bool, reward: float) -> None:
    """Exactly: the mean of three times 0.1 is not 0.1, and the division would magnify that."""
    found = Grpo(std=std, epsilon=1e-30).of(_step([reward] * 3))
    assert list(found.values()) == [0.0, 0.0, 0.0]


def test_a_lone_episode_has_nothing_to_be_compared_with() -> None:
    assert Grpo().of(_step([1.0])) == {0: 0.0}


@pytest.mark.parametrize(
    ("rewards", "share"),
    [
        (([1.0, 1.0], [0.0, 0.0]), 1.0),
        (([1.0, 0.0], [0.0, 0.0]), 0.5),
        (([1.0, 0.0], [0.0, 1.0]), 0.0),
        (([1.0, 0.0], [0.0]), 0.0),
        (([1.0], [0.0]), None),
        ((), None),
    ],
)
def test_the_share_of_dead_groups(rewards: tuple[list[float], ...], share: float | None) -> None:
    assert dead_groups(_step(*rewards)) == share


def test_an_episode_that_failed_does_not_revive_its_group() -> None:
    failed = played([7], rewards=[0.0], episode=9, task=0, end=EndReason.ERROR)
    assert dead_groups([*_step([1.0, 1.0]), failed]) == 1.0


def _surrogate(ratio: float, advantage: float, clip: float | None) -> tuple[float, float]:
    """The loss, and its derivative by the token's log-probability."""
    behaviour = torch.tensor([-1.5], dtype=torch.float64)
    logprob = (behaviour + math.log(ratio)).requires_grad_()
    loss = policy_gradient(logprob, behaviour, torch.tensor([advantage]).double(), clip)
    (slope,) = torch.autograd.grad(loss.sum(), logprob)
    return loss.item(), slope.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.4, 0.0),  # gone far enough in the good direction
        (0.5, 2.0, -1.0, -1.0),  # gone the wrong way: pulled back
        (1.0, -2.0, 2.0, 2.0),
        (0.9, -2.0, 1.8, 1.8),
        (0.5, -2.0, 1.6, 0.0),  # gone far enough away from the bad
        (1.5, -2.0, 3.0, 3.0),  # gone towards the bad: pulled back
    ],
)
def test_the_clip_by_cases(ratio: float, advantage: float, loss: float, slope: float) -> None:
    assert _surrogate(ratio, advantage, clip=0.2) == pytest.approx((loss, slope))


@pytest.mark.parametrize("ratio", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 2.0])
def test_without_clip_the_gradient_is_the_ratio_times_the_advantage(
    ratio: float, advantage: float
) -> None:
    found = _surrogate(ratio, advantage, clip=None)
    assert found == pytest.approx((-ratio * advantage, -ratio * advantage))
