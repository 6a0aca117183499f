"""No run trains on an evaluation's tasks, whatever its seed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentopd.environment.contract import HELD_OUT_SEED, training_seed
from agentopd.rollout.policies import StudentRollout


@given(st.integers(), st.integers(0, 10**7))
def test_the_seeds_of_training_and_evaluation_never_meet(seed: int, number: int) -> None:
    assert 0 <= training_seed(seed, number) < HELD_OUT_SEED


@given(st.integers(0, 999), st.integers(0, 999_999))
def test_a_small_seed_begins_at_a_million_times_itself(seed: int, number: int) -> None:
    assert training_seed(seed, number) == seed * 1_000_000 + number


def test_the_tasks_of_a_run_follow_one_another_and_runs_differ() -> None:
    last = HELD_OUT_SEED - 1
    assert [training_seed(999, 999_999 + n) for n in range(2)] == [last, 0]
    firsts = {training_seed(seed, 0) // 10_000 for seed in range(2_000)}
    assert len(firsts) > 1_950, "other seeds are scattered"
    assert training_seed(1_000, 1) == (training_seed(1_000, 0) + 1) % HELD_OUT_SEED


def test_a_step_is_scheduled_by_it() -> None:
    rollout = StudentRollout(tasks=2, group=2)
    for seed in (0, 7, 1_000, 2**40):
        found = [task.seed for task in rollout.schedule(seed, 3)]
        first, second = training_seed(seed, 6), training_seed(seed, 7)
        assert found == [first, first, second, second]
