"""Returns over attempts: by hand, and their expected gradients by enumeration, in float64."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from trajectories import lessons_of, played

from agentopd.base.types import Attempt, Trajectory
from agentopd.mixes.advantages import Grpo
from agentopd.mixes.attempts import AttemptReturns, Retried
from agentopd.signal.evidence import SignalError

# Two attempts with three actions each: few enough to sum over all of them.
RNG = np.random.default_rng(11)
FIRST = torch.tensor(RNG.normal(size=3))
SECOND = torch.tensor(RNG.normal(size=(3, 3)))
"""Logits of the first attempt's action, and of the second's, a row for each first one."""
REWARD = np.array([0.0, 0.3, 1.0])
"""Of an action; the last solves the task, and nothing follows it."""
DISCOUNT = 0.4


def _attempt(
    first: int,
    number: int,
    reward: float,
    kind: Literal["played", "written", "untold"] = "played",
    task: int = 0,
) -> Trajectory:
    place = ("played", "written", "untold").index(kind)
    t = played([5], rewards=[reward], episode=first + 100 * number + 1_000 * place, task=task)
    return replace(t, attempt=Attempt(number=number, first=first, kind=kind))


def _chain(first: int, rewards: Sequence[float], task: int = 0) -> list[Trajectory]:
    return [_attempt(first, number, r, task=task) for number, r in enumerate(rewards)]


def test_returns_by_hand() -> None:
    """Three attempts, two, and one: 0.25 + 0.5 + 0.25, 0 + 0.5, 1; then 0.5 + 0.5, 1; then 1."""
    step = [*_chain(0, [0.25, 0.5, 1.0]), *_chain(1, [0.0, 1.0]), *_chain(2, [1.0])]
    returns = AttemptReturns(discount=0.5, baseline="none").of(step)
    by_hand = {0: 0.75, 100: 1.0, 200: 1.0, 1: 0.5, 101: 1.0, 2: 1.0}
    assert returns == pytest.approx(by_hand)
    centred = AttemptReturns(discount=0.5).of(step)
    assert centred == pytest.approx({0: 0.0, 100: 0.0, 200: 0.0, 1: -0.25, 101: 0.0, 2: 0.25})


def test_the_advantage_of_what_is_learnt_untold() -> None:
    """RLTF-SD's own example: first attempts (1, 0, 0, 0), the second of episode 2 gets 1."""
    step = [_attempt(n, 0, r) for n, r in enumerate((1.0, 0.0, 0.0, 0.0))]
    step += [_attempt(n, 1, float(n == 2), k) for n in (1, 2, 3) for k in ("played", "untold")]
    rule = AttemptReturns(discount=0.1)
    mix = Retried(untold="advantage", coefficient=0.1, rl=rule)
    advantage, routes = rule.of(step), mix.routes(lessons_of(*step))
    assert routes[2_102].rl * advantage[2_102] == pytest.approx(0.1 * (1 - 0.25))
    assert routes[2_101].rl * advantage[2_101] == pytest.approx(0.1 * (0 - 0.25))
    assert routes[102].rl * advantage[102] == pytest.approx(1 - 1 / 3)


def test_where_each_task_is_attempted_once_it_is_grpo_without_the_deviation() -> None:
    rewards = (0.0, 1.0, 0.25, 0.7)
    plain = [played([5], rewards=[r], episode=n, task=n // 2) for n, r in enumerate(rewards)]
    marked = [replace(t, attempt=Attempt(number=0, first=t.episode)) for t in plain]
    for step in (plain, marked):
        assert AttemptReturns().of(step) == Grpo(std=False).of(plain)


def test_divided_by_the_deviation_of_the_same_attempts_by_hand() -> None:
    """First ones 0.5, 0.5, 1.25 about 0.75; second ones alike; once each, it is `grpo`."""
    step = [*_chain(0, [0.0, 1.0]), *_chain(1, [0.0, 1.0]), *_chain(2, [1.25])]
    found = AttemptReturns(discount=0.5, std=True).of(step)
    deviation = (0.375 / 3) ** 0.5
    by_hand = {0: -0.25 / deviation, 1: -0.25 / deviation, 2: 0.5 / deviation, 100: 0.0, 101: 0.0}
    assert found == pytest.approx(by_hand, rel=1e-5)
    once = [t for n, r in enumerate((0.0, 1.0, 0.25)) for t in _chain(n, [r])]
    assert AttemptReturns(std=True).of(once) == Grpo().of(once)
    with pytest.raises(ValueError, match="the deviation from the group's mean"):
        AttemptReturns(std=True, baseline="first")


def test_attempts_of_other_tasks_and_equal_ones_change_nothing() -> None:
    alone = AttemptReturns().of([*_chain(0, [0.0, 1.0]), *_chain(1, [0.5])])
    beside = AttemptReturns().of([*_chain(0, [0.0, 1.0]), *_chain(1, [0.5]), *_chain(7, [9.0], 1)])
    assert alone.items() <= beside.items() and beside[7] == 0.0
    dead = AttemptReturns().of([t for n in range(7) for t in _chain(n, [0.1, 0.1])])
    assert set(dead.values()) == {0.0}


def test_a_reflection_is_measured_against_the_reflections_of_its_group() -> None:
    """By the reward that it is paid; whatever the baseline of attempts."""
    step = [_attempt(n, 0, 0.0) for n in range(2)]
    step += [_attempt(n, 0, float(n), "written") for n in range(2)]
    for baseline in ("group", "first"):
        found = AttemptReturns(baseline=baseline).of(step)
        assert (found[1_000], found[1_001]) == (-0.5, 0.5)


def test_a_reward_that_is_no_number_is_refused() -> None:
    with pytest.raises(SignalError, match="its reward is nan"):
        AttemptReturns().of([_attempt(0, 0, float("nan"))])


def _advantages(rule: AttemptReturns, chains: Sequence[Sequence[int]]) -> dict[int, float]:
    return rule.of(
        [t for n, own in enumerate(chains) for t in _chain(n, [float(REWARD[x]) for x in own])]
    )


def _expected(rule: AttemptReturns, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean over all groups of chains of the advantages times the scores, by both logits."""
    first, second = FIRST.clone().requires_grad_(), SECOND.clone().requires_grad_()
    p_A, q_AA = torch.log_softmax(first, -1), torch.log_softmax(second, -1)
    chains = [(a,) if a == 2 else (a, b) for a in range(3) for b in range(3) if a != 2 or b == 0]
    total = torch.zeros((), dtype=torch.float64)
    for drawn in itertools.product(chains, repeat=group):
        advantage, chance, loss = _advantages(rule, drawn), 1.0, torch.zeros_like(total)
        for n, chain in enumerate(drawn):
            logprobs = [p_A[chain[0]], *(q_AA[chain[0], b] for b in chain[1:])]
            chance *= float(torch.stack(logprobs).detach().sum().exp())
            loss = loss + sum(advantage[n + 100 * k] * x for k, x in enumerate(logprobs))
        total = total + chance * loss / group
    found = torch.autograd.grad(total, (first, second))
    return found[0], found[1]


def _objectives() -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the mean discounted return by the first attempt's logits, and of the mean reward
    of second attempts by theirs, of closed forms.
    """
    first, second = FIRST.clone().requires_grad_(), SECOND.clone().requires_grad_()
    reward_A = torch.tensor(REWARD)
    p_A, q_AA = first.softmax(-1), second.softmax(-1)
    later_A = (q_AA * reward_A).sum(-1) * torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    (one,) = torch.autograd.grad((p_A * (reward_A + DISCOUNT * later_A.detach())).sum(), first)
    (other,) = torch.autograd.grad((p_A.detach() * later_A).sum(), second)
    return one, other


@pytest.mark.parametrize("baseline", ["none", "first"])
def test_expected_gradients_are_those_of_the_returns(baseline: Literal["none", "first"]) -> None:
    """Second attempts exactly: the first ones' mean has no part of theirs. First attempts exactly
    without a baseline, and as (G - 1) / G of it with their own mean.
    """
    one, other = _expected(AttemptReturns(discount=DISCOUNT, baseline=baseline), group=2)
    expected_one, expected_other = _objectives()
    torch.testing.assert_close(other, expected_other, rtol=1e-12, atol=1e-14)
    share = 1.0 if baseline == "none" else 0.5
    torch.testing.assert_close(one, share * expected_one, rtol=1e-12, atol=1e-14)


def test_a_groups_own_mean_shortens_the_gradient_of_first_attempts_and_no_more() -> None:
    one, _ = _expected(AttemptReturns(discount=DISCOUNT), group=3)
    torch.testing.assert_close(one, 2 / 3 * _objectives()[0], rtol=1e-12, atol=1e-14)
