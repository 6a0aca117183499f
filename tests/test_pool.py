"""Who waits for whom in a pool: schedules by hand, and that no schedule changes what is played."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from threading import Event
from typing import Any

import numpy as np
import pytest
from scripted import CHATML, ScriptedEnv, ScriptedSampler, ends, ids_of, play, says, toy_tokenizer

from agentopd.base.types import EndReason, Trajectory
from agentopd.models.chat import ChatTemplate
from agentopd.rollout.pool import EpisodePool, Limits, Task
from agentopd.rollout.sampler import Request

TOKENIZER = toy_tokenizer(CHATML)
WORDS = ["up <|im_end|>", "left <|im_end|>", "down ␣ up", "right <|im_end|>"]
PATIENCE = 60.0
"""Seconds that only a failing test takes."""

Pick = Callable[[Sequence[Request]], Sequence[Request]]


def _env(turns: int) -> ScriptedEnv:
    return ScriptedEnv(("B1", {}), [says(f"B{n % 4 + 1}") for n in range(1, turns)] + [ends()])


def _play(turns: Sequence[int], pick: Pick, slots: int = 8) -> tuple[list[Trajectory], list[Any]]:
    """Episodes of so many turns; also the (episode, turn) that were asked, a list a call."""
    envs = [_env(n) for n in turns]
    found, sampler = play(TOKENIZER, envs, [WORDS] * len(envs), slots=slots, pick=pick)
    assert all(env.closed for env in envs)
    return found, [[(r.key, r.seed[-1]) for r in call] for call in sampler.asked]


def _last(key: int) -> Pick:
    """Everyone's answer before that of episode `key`."""
    return lambda under_way: [r for r in under_way if r.key != key] or under_way


def test_nobody_waits_for_a_long_answer() -> None:
    """Episode 0's first answer ends last, its second at once."""
    _, asked = _play([2, 1, 3], _last(0))
    assert asked == [[(0, 0), (1, 0), (2, 0)], [(2, 1)], [(2, 2)], [(0, 1)]]


def test_a_free_slot_is_filled_at_once() -> None:
    _, asked = _play([1, 2, 1, 1], _last(0), slots=2)
    assert asked == [[(0, 0), (1, 0)], [(1, 1)], [(2, 0)], [(3, 0)]]


def test_those_who_can_be_asked_together_are() -> None:
    """Two answers end at once: the next turn of one and a new episode are one call."""
    _, asked = _play([2, 1, 1], list, slots=2)
    assert asked == [[(0, 0), (1, 0)], [(0, 1), (2, 0)]]


@pytest.mark.parametrize("seed", range(12))
def test_no_order_of_finishing_changes_a_trajectory(seed: int) -> None:
    luck = random.Random(seed)
    turns = [3, 1, 4, 2, 2, 1]

    def some(under_way: Sequence[Request]) -> Sequence[Request]:
        return luck.sample(list(under_way), luck.randint(1, len(under_way)))

    found, _ = _play(turns, some, slots=luck.randint(1, 6))
    plain, _ = _play(turns, list)
    assert [t.episode for t in found] == list(range(6))
    for one, other in zip(found, plain, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        np.testing.assert_array_equal(one.logprob, other.logprob)
        assert (one.turns, one.end, one.seed) == (other.turns, other.end, other.seed)


def test_each_episode_is_forgotten_when_it_ends() -> None:
    _, sampler = play(TOKENIZER, [_env(2), _env(1)], [WORDS] * 2, pick=_last(0))
    assert sampler.forgotten == [1, 0]
    assert not sampler.under_way


def test_when_a_rollout_is_broken_off_its_answers_are_too() -> None:
    """Episode 1's environment is interrupted while 0 is still being answered."""
    envs = [_env(2), ScriptedEnv(("B1", {}), [KeyboardInterrupt()])]
    script = {e: [ids_of(a, TOKENIZER) for a in WORDS] for e in range(2)}
    sampler = ScriptedSampler(script, frozenset(ids_of("<|im_end|>", TOKENIZER)), pick=_last(0))
    waiting = iter(envs)
    pool = EpisodePool(
        env_id="scripted",
        make_env=lambda: next(waiting),
        template=ChatTemplate(TOKENIZER),
        stop_ids=sampler.stop_ids,
        limits=Limits(turns=9, turn_tokens=40, context=999),
        slots=2,
        temperature=1.0,
        seed=5,
    )
    with pytest.raises(KeyboardInterrupt):
        pool.play([Task(e, e, e) for e in range(2)], sampler)
    assert sampler.forgotten == [0, 1]
    assert not sampler.under_way


class _Waiting(ScriptedEnv):
    """Its first step comes back when `until` is set."""

    metadata = {**ScriptedEnv.metadata, "blocking": True}  # noqa: RUF012  (as in gymnasium)

    def __init__(self, until: Event) -> None:
        super().__init__(("B1", {}), [says("B2"), ends()])
        self.until = until

    def step(self, action: str) -> Any:
        if not self.actions:
            assert self.until.wait(PATIENCE)
        return super().step(action)


def test_others_are_answered_while_an_environment_works() -> None:
    """It works until a later task in the next slot has been played to its end."""
    over = Event()

    class Last(ScriptedEnv):
        def close(self) -> None:
            over.set()
            super().close()

    envs = [_Waiting(over), _env(3), Last(("B1", {}), [ends()])]
    limits = Limits(turns=9, turn_tokens=40, context=999, env_seconds=PATIENCE)
    found, sampler = play(TOKENIZER, envs, [WORDS] * 3, limits, slots=2)
    assert [(t.end, t.error, len(t.turns)) for t in found] == [
        (EndReason.TERMINATED, "", n) for n in (2, 3, 1)
    ]
    asked = [(r.key, r.seed[-1]) for call in sampler.asked for r in call]
    assert sorted(asked[:-1]) == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert asked[-1] == (0, 1)


def test_one_that_exceeds_its_time_does_not_wait_for_an_answer() -> None:
    """The neighbour's answer ends only after the stuck episode was given up."""
    stuck, given_up = Event(), Event()

    class Noting(ScriptedEnv):
        metadata = _Waiting.metadata

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            assert stuck.wait(PATIENCE)
            return super().reset(seed=seed)

    def after(under_way: Sequence[Request]) -> Sequence[Request]:
        return under_way if given_up.is_set() else []

    class Next(ScriptedEnv):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            given_up.set()
            return super().reset(seed=seed)

    envs = [Noting(("B1", {}), []), _env(1), Next(("B1", {}), [ends()])]
    limits = Limits(turns=9, turn_tokens=40, context=999, env_seconds=0.05)
    found, _ = play(TOKENIZER, envs, [WORDS] * 3, limits, slots=2, pick=after)
    stuck.set()
    assert found[0].error.startswith("TimeoutError: the environment did not answer within 0.05")
    assert [t.end for t in found[1:]] == [EndReason.TERMINATED] * 2


@pytest.mark.parametrize(
    ("reward", "error"),
    [
        (float("nan"), "ValueError: the reward is nan: it must be finite"),
        (float("-inf"), "ValueError: the reward is -inf: it must be finite"),
        (np.float32("inf"), "ValueError: the reward is inf"),
        (1e39, r"ValueError: the reward is 1e\+39: it must be finite in 32 bits"),
        (None, "TypeError: the reward is of type NoneType, not a number"),
        ("1.0", "TypeError: the reward is of type str, not a number"),
        ([1.0], "TypeError: the reward is of type list, not a number"),
        (np.ones(1), "TypeError: the reward is of type ndarray, not a number"),
        (1 + 0j, "TypeError: the reward is of type complex, not a number"),
    ],
    ids=str,
)
def test_a_reward_that_is_no_finite_number_costs_its_episode(reward: Any, error: str) -> None:
    envs = [ScriptedEnv(("B1", {}), [ends(reward=reward)]), _env(1)]
    failed, good = play(TOKENIZER, envs, [WORDS] * 2)[0]
    assert failed.end is EndReason.ERROR
    assert re.match(error, failed.error), failed.error
    assert (failed.reward, failed.turns[0].action, failed.success) == (0.0, "up", False)
    assert good.end is EndReason.TERMINATED


@pytest.mark.parametrize(
    ("reward", "value"),
    [
        (True, 1.0),
        (np.bool_(True), 1.0),
        (np.float32(0.5), 0.5),
        (np.int64(-3), -3.0),
        (np.array(1.5), 1.5),
        (Fraction(1, 4), 0.25),
    ],
    ids=str,
)
def test_every_kind_of_number_is_a_reward(reward: Any, value: float) -> None:
    (found,) = play(TOKENIZER, [ScriptedEnv(("B1", {}), [ends(reward=reward)])], [WORDS])[0]
    assert (type(found.turns[0].reward), found.turns[0].reward) == (float, value)
