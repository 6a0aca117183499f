"""Baselines by hand, dead groups, the clipped policy gradient case by case, the penalties."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trajectories import played

from agentopd.base.types import EndReason, Trajectory
from agentopd.mixes.advantages import Advantage, Grpo, Reinforce, Rloo
from agentopd.signal.evidence import SignalError
from agentopd.signal.groups import dead_groups, groups
from agentopd.signal.surrogate import policy_gradient, reference_kl


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


def _surrogate(
    ratio: float, advantage: float, clip: float | None, clip_high: float | None = None
) -> tuple[float, float]:
    """The loss, and its derivative by the token's log-probability."""
    behaviour = torch.tensor([-1.5], dtype=torch.float64)
    logprob = (behaviour + math.log(ratio)).requires_grad_()
    advantage_1 = torch.tensor([advantage]).double()
    loss = policy_gradient(logprob, behaviour, advantage_1, clip, clip_high)
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


def test_rloo_compares_with_the_others() -> None:
    found = Rloo().of(_step([1.0, 0.0, 0.0, 0.0], [2.0, 4.0], [3.0]))
    third = 1 / 3
    assert [found[e] for e in range(7)] == pytest.approx([1, -third, -third, -third, -2, 2, 0])


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6))
def test_rloo_is_the_centred_reward_scaled_up(rewards: list[float]) -> None:
    """By its definition, episode by episode."""
    found = Rloo().of(_step(rewards))
    for episode, reward in enumerate(rewards):
        others = rewards[:episode] + rewards[episode + 1 :]
        assert found[episode] == pytest.approx(reward - sum(others) / len(others), abs=1e-9)


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [("none", [1.0, 0.0, 2.0]), ("batch", [0.0, -1.0, 1.0]), ("running", [0.0, -1.0, 1.0])],
)
def test_reinforce_shares_its_baseline_among_tasks(baseline: str, expected: list[float]) -> None:
    rule = Reinforce.model_validate({"baseline": baseline})
    found = rule.of(_step([1.0], [0.0, 2.0]))
    assert [found[e] for e in range(3)] == pytest.approx(expected)


def test_a_running_baseline_remembers_the_steps_before() -> None:
    """0.5 at first; then 0.75 x 0.5 + 0.25 x 1.5 = 0.75."""
    rule = Reinforce(baseline="running", decay=0.75)
    past = [{"reward": 0.5}, {"reward": None}, {"reward": 1.5}]
    assert rule.of(_step([1.0, 0.0]), history=past[:1]) == pytest.approx({0: 0.5, 1: -0.5})
    assert rule.of(_step([1.0, 0.0]), history=past) == pytest.approx({0: 0.25, 1: -0.75})


@pytest.mark.parametrize("rule", [Grpo(), Rloo(), Reinforce()], ids=["grpo", "rloo", "reinforce"])
@pytest.mark.parametrize("reward", [0.1, -0.3])
def test_equal_rewards_give_exactly_zero(rule: Advantage, reward: float) -> None:
    assert set(rule.of(_step([reward] * 3)).values()) == {0.0}
    assert rule.of([]) == {}


def test_a_reward_can_be_replaced_and_an_episode_left_out() -> None:
    """Of the second group one episode is left: it has nothing to be compared with."""
    episodes = _step([1.0, 0.0, 0.0], [1.0, 0.0])
    found = Grpo(std=False).of(episodes, rewards={0: 3.0, 2: 5.0, 3: 7.0})
    assert found == {0: -1.0, 1: 0.0, 2: 1.0, 3: 0.0, 4: 0.0}


@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_refused(reward: float) -> None:
    with pytest.raises(SignalError, match=f"episode 1: its reward is {reward}"):
        Grpo().of(_step([1.0, reward]))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.25, 2.0, -2.5, -2.5),  # within the wide side
        (1.5, 2.0, -2.6, 0.0),
        (0.7, -2.0, 1.6, 0.0),  # the narrow side is the clip's own
    ],
)
def test_the_clip_may_be_wider_above(
    ratio: float, advantage: float, loss: float, slope: float
) -> None:
    found = _surrogate(ratio, advantage, clip=0.2, clip_high=0.3)
    assert found == pytest.approx((loss, slope))


P, REFERENCE, MU = ([0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], [0.25, 0.35, 0.15, 0.25])


@pytest.mark.parametrize(
    ("estimator", "behaviour", "direction"),
    [("k3", P, "forward"), ("rho_k3", P, "reverse"), ("rho_k3", MU, "reverse")],
    ids=["k3", "rho_k3", "rho_k3_off_policy"],
)
def test_the_penaltys_expected_gradient_over_every_token(
    estimator: Literal["k3", "rho_k3"], behaviour: list[float], direction: str
) -> None:
    logits_V = torch.tensor(P, dtype=torch.float64).log().requires_grad_()
    reference_V = torch.tensor(REFERENCE, dtype=torch.float64).log()
    behaviour_V = torch.tensor(behaviour, dtype=torch.float64)
    p_V = logits_V.log_softmax(-1)
    found_V = reference_kl(p_V, reference_V, behaviour_V.log(), estimator)
    assert (found_V >= 0).all()
    (found,) = torch.autograd.grad((behaviour_V * found_V).sum(), logits_V)
    p_V = logits_V.log_softmax(-1)
    if direction == "forward":
        exact = (reference_V.exp() * (reference_V - p_V)).sum()
    else:
        exact = (p_V.exp() * (p_V - reference_V)).sum()
    (expected,) = torch.autograd.grad(exact, logits_V)
    torch.testing.assert_close(found, expected)


def test_a_penalty_by_hand() -> None:
    """log ref - log p = log 2: k3 = 2 - log 2 - 1; times the ratio, 1/2."""
    logprob_1, reference_1 = torch.tensor([-2.0]), torch.tensor([-2.0 + math.log(2)])
    behaviour_1 = torch.tensor([-2.0 + math.log(2)])
    k3 = reference_kl(logprob_1, reference_1, behaviour_1, "k3").item()
    rho_k3 = reference_kl(logprob_1, reference_1, behaviour_1, "rho_k3").item()
    assert (k3, rho_k3) == pytest.approx((1 - math.log(2), 0.5 * (1 - math.log(2))))
