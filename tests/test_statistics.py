"""Statistics against their definitions, written out: all draws of tiny cases, pairs in loops."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from agentopd.base.statistics import (
    Array,
    Estimate,
    Stratum,
    bootstrapped,
    correlated,
    difference,
    improvement,
    interquartile_mean,
    iqm_of_one,
    rank_correlation,
    ranks,
    wilson,
    wilson_difference,
)

ONE = np.array([[1.0, 0], [1, 1]])
OTHER = np.array([[0.0, 0], [1, 0]])


def redrawn(one: Array, other: Array, tasks: bool, seeds: bool) -> list[tuple[Array, Array]]:
    """The scores of every draw of runs and tasks, all of them equally likely."""

    def draws(count: int) -> list[list[int]]:
        return [list(drawn) for drawn in product(range(count), repeat=count)]

    def pairs(first: int, second: int, same: bool) -> list[tuple[list[int], list[int]]]:
        if same:
            return [(drawn, drawn) for drawn in draws(first)]
        return [*product(draws(first), draws(second))]

    return [
        (one[rows][:, columns].mean(1), other[others][:, elsewhere].mean(1))
        for rows, others in pairs(len(one), len(other), seeds)
        for columns, elsewhere in pairs(one.shape[1], other.shape[1], tasks)
    ]


@pytest.mark.parametrize("tasks", [True, False])
@pytest.mark.parametrize("seeds", [True, False])
def test_the_bootstrap_has_the_distribution_of_all_draws(tasks: bool, seeds: bool) -> None:
    stratum = Stratum(ONE, OTHER, same_tasks=tasks, same_seeds=seeds)
    exact = np.array([float(one.mean() - other.mean()) for one, other in redrawn(
        ONE, OTHER, tasks, seeds)])  # fmt: skip
    seen: list[Array] = []

    def watched(strata: Sequence[tuple[Array, Array]]) -> Array:
        seen.append(difference(strata))
        return seen[-1]

    (found,) = bootstrapped([watched], [stratum], draws=8_000)
    drawn = max(seen, key=np.size)
    values, counts = np.unique(drawn.round(9), return_counts=True)
    known, expected = np.unique(exact.round(9), return_counts=True)
    assert set(values) <= set(known)
    shares = dict(zip(values, counts / counts.sum(), strict=True))
    for value, count in zip(known, expected / expected.sum(), strict=True):
        assert shares.get(value, 0.0) == pytest.approx(count, abs=0.02)
    assert found.value == pytest.approx(ONE.mean() - OTHER.mean())
    assert found.interval == tuple(np.percentile(drawn, (2.5, 97.5)))


def test_two_arms_that_solve_the_same_tasks_do_not_differ_and_unpaired_they_may() -> None:
    outcomes = np.random.default_rng(1).integers(0, 2, (2, 20)).astype(float)
    (paired,) = bootstrapped([difference], [Stratum(outcomes, outcomes)])
    (apart,) = bootstrapped([difference], [Stratum(outcomes, outcomes, same_tasks=False)])
    assert paired == Estimate(0.0, (0.0, 0.0))
    assert apart.value == 0.0 and apart.interval[1] - apart.interval[0] > 0.2


def test_strata_are_redrawn_by_themselves() -> None:
    """The mean of n equal strata varies with a variance of one n-th of one's."""
    outcomes = np.random.default_rng(2).integers(0, 2, (3, 30)).astype(float)
    stratum = Stratum(outcomes, np.zeros((3, 30)))
    (one,), (four,) = (bootstrapped([difference], [stratum] * n) for n in (1, 4))
    assert one.value == pytest.approx(four.value)
    width, narrow = (e.interval[1] - e.interval[0] for e in (one, four))
    assert narrow / width == pytest.approx(0.5, abs=0.07)


def test_the_same_seed_gives_the_same_interval() -> None:
    outcomes = np.random.default_rng(6).integers(0, 2, (3, 2, 40)).astype(float)
    stratum = Stratum(outcomes[0], outcomes[1])
    first, again = (bootstrapped([difference], [stratum], draws=50) for _ in range(2))
    assert first == again != bootstrapped([difference], [stratum], draws=50, seed=1)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9])
def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end(count: int) -> None:
    scores = np.random.default_rng(count).random(count)
    kept = sorted(scores)[count // 4 : count - count // 4]
    assert interquartile_mean(scores) == pytest.approx(sum(kept) / len(kept), abs=1e-12)
    assert interquartile_mean(np.stack([scores, scores + 1]))[1] == pytest.approx(
        interquartile_mean(scores) + 1
    )


def test_the_interquartile_mean_is_over_the_runs_of_all_strata_together() -> None:
    strata = [(np.array([0.0, 0.1]), np.array([9.0])), (np.array([0.4, 1.0]), np.array([9.0]))]
    assert iqm_of_one(strata) == pytest.approx(0.25)


def test_the_probability_of_improvement_counts_pairs_and_half_the_ties() -> None:
    noise = np.random.default_rng(3)
    strata = [(noise.integers(0, 4, 5) / 4, noise.integers(0, 4, 3) / 4) for _ in range(4)]
    strata = [(one.astype(float), other.astype(float)) for one, other in strata]
    by_hand = []
    for one, other in strata:
        won = [1.0 if x > y else 0.5 if x == y else 0.0 for x in one for y in other]
        by_hand.append(sum(won) / len(won))
    assert improvement(strata) == pytest.approx(sum(by_hand) / 4, abs=1e-12)


def test_a_difference_of_proportions_has_newcombe_s_interval() -> None:
    """His example: 56 of 70 against 48 of 80."""
    one, other = (Estimate(k / n, wilson(k, n)) for k, n in ((56, 70), (48, 80)))
    found = wilson_difference(one, other)
    assert found.value == pytest.approx(0.2)
    assert found.interval == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_ranks_count_what_is_less_and_share_ties() -> None:
    values = np.random.default_rng(4).integers(0, 6, 25)
    by_hand = [1 + sum(values < v) + (sum(values == v) - 1) / 2 for v in values]
    assert ranks(values).tolist() == by_hand


def test_the_rank_correlation_is_spearman_s() -> None:
    noise = np.random.default_rng(5)
    one, other = noise.permutation(9), noise.permutation(9)
    squares = sum(float(a - b) ** 2 for a, b in zip(one, other, strict=True))
    assert rank_correlation(one, other) == pytest.approx(1 - 6 * squares / (9 * 80))
    assert rank_correlation(one, np.exp(one)) == pytest.approx(1)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None


def test_what_shares_a_cause_is_redrawn_together() -> None:
    one, other = [1.0, 2, 3, 4, 5, 6], [2.0, 1, 4, 3, 6, 5]
    together = correlated(one, other, ["a"] * 6, draws=100)
    apart = correlated(one, other, range(6), draws=100)
    assert together and apart and together.value == apart.value
    assert together.interval == pytest.approx((together.value, together.value))
    assert apart.interval[0] < apart.value <= apart.interval[1] <= 1
    assert correlated([1.0, 1.0], [1.0, 2.0], "ab", draws=100) is None


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), "same_tasks=False"),
        (np.zeros((2, 3)), np.zeros((3, 3)), "same_seeds=False"),
        (np.zeros((2, 0)), np.zeros((2, 0)), "at least one"),
        (np.zeros(3), np.zeros(3), "a row a seed"),
    ],
)
def test_outcomes_that_cannot_be_compared_are_refused(one: Array, other: Array, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Stratum(one, other)


def test_nothing_is_estimated_from_nothing() -> None:
    with pytest.raises(ValueError, match="no stratum"):
        bootstrapped([difference], [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spread", "seeds", "held"),
    [(0.0, 2, 0.99), (0.0, 5, 0.99), (0.2, 2, 0.95), (0.2, 5, 0.98), (0.5, 2, 0.82), (0.5, 5, 0.9)],
)
def test_intervals_hold_the_truth_as_often_as_the_docs_say(
    spread: float, seeds: int, held: float
) -> None:
    """Tasks and seeds shift the log-odds of success by normal numbers; two arms differ by 0.8.

    `spread` is the standard deviation of the seeds' shifts: 0.2 are some 4 points, 0.5 some 10.
    """
    noise = np.random.default_rng(1)

    def chance(middle: float, task: Array, seed: Array) -> Array:
        return 1 / (1 + np.exp(-(middle + task + spread * seed)))

    task, seed = noise.normal(size=(2, 1_000_000))
    truth = np.mean(chance(0.4, task, seed)) - np.mean(chance(-0.4, task, seed))

    def holds() -> bool:
        task = noise.normal(size=128)
        one, other = (
            noise.random((seeds, 128)) < chance(middle, task, noise.normal(size=(seeds, 1)))
            for middle in (0.4, -0.4)
        )
        stratum = Stratum(one.astype(float), other.astype(float))
        (found,) = bootstrapped([difference], [stratum], draws=500)
        return bool(found.interval[0] <= truth <= found.interval[1])

    assert np.mean([holds() for _ in range(300)]) == pytest.approx(held, abs=0.04)
