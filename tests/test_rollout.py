"""Trajectories against traces that were written by hand."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from scripted import (
    CHATML,
    ScriptedEnv,
    ScriptedSampler,
    Step,
    ends,
    ids_of,
    play,
    random_model,
    says,
    toy_tokenizer,
)

from agentopd.base.types import EndReason, Message, Owner, Trajectory, Turn
from agentopd.environment.settings import EnvSettings
from agentopd.models.chat import ChatTemplate
from agentopd.rollout.policies import StudentRollout
from agentopd.rollout.pool import EpisodePool, Limits, Task

TOKENIZER = toy_tokenizer(CHATML)
ASK = "<|im_start|> assistant ⏎"
FIRST = f"<|im_start|> user ⏎ B1 <|im_end|> ⏎ {ASK}"  # 9 tokens, the observation is number 3
NEXT = "⏎ <|im_start|> user ⏎ {} <|im_end|> ⏎ " + ASK  # 10 tokens, the observation is number 4


def _one(
    steps: list[Step], answers: list[str], system: str = "", limits: Limits | None = None
) -> Trajectory:
    env = ScriptedEnv(("B1", {"task_id": "t"}), steps, system)
    return play(TOKENIZER, [env], [answers], limits)[0][0]


def _same_logprobs(trajectory: Trajectory, expected: list[float]) -> None:
    np.testing.assert_array_equal(trajectory.logprob, np.array(expected, dtype=np.float32))


def test_one_turn_with_a_system_message() -> None:
    found = _one([ends(reward=2.0, feedback="well")], ["up <|im_end|>"], system="rules")
    assert found.ids.tolist() == ids_of(
        f"<|im_start|> system ⏎ rules <|im_end|> ⏎ {FIRST} up <|im_end|>", TOKENIZER
    )
    assert found.turn.tolist() == [-1] * 9 + [0] * 8
    assert found.owner.tolist() == [Owner.TEMPLATE] * 15 + [Owner.STUDENT] * 2
    assert found.trainable.tolist() == [False] * 15 + [True] * 2
    _same_logprobs(found, [math.nan] * 15 + [-1, -2])
    assert found.messages == (
        Message(role="system", start=3, stop=4),
        Message(role="user", start=9, stop=10),
        Message(role="assistant", start=15, stop=16),
    )
    assert found.segments == ((0, 17),)
    assert found.turns == (
        Turn(
            index=0,
            observation="B1",
            action="up",
            start=15,
            act=15,
            stop=17,
            cut=False,
            reward=2.0,
            info={"success": True, "feedback": "well"},
        ),
    )
    assert (found.end, found.error, found.prompt) == (EndReason.TERMINATED, "", {"task_id": "t"})
    assert (found.env, found.episode, found.task, found.seed) == ("scripted", 0, 0, 100)
    assert found.success


def test_two_turns_the_first_answer_cut_by_the_limit() -> None:
    """The template closes the answer; what it writes is not the student's."""
    found = _one([says("B2"), ends()], ["up ␣ up", "left <|im_end|>"])
    closed = "<|im_end|> " + NEXT.format("B2")
    assert found.ids.tolist() == ids_of(f"{FIRST} up ␣ up {closed} left <|im_end|>", TOKENIZER)
    assert found.turn.tolist() == [-1] * 3 + [0] * 14 + [1] * 8
    assert found.trainable.tolist() == [False] * 9 + [True] * 3 + [False] * 11 + [True] * 2
    _same_logprobs(found, [math.nan] * 9 + [-1, -2, -3] + [math.nan] * 11 + [-1, -2])
    assert found.messages == (
        Message(role="user", start=3, stop=4),
        Message(role="assistant", start=9, stop=12),
        Message(role="user", start=17, stop=18),
        Message(role="assistant", start=23, stop=24),
    )
    assert [(t.start, t.act, t.stop, t.cut) for t in found.turns] == [
        (9, 9, 12, True),
        (23, 23, 25, False),
    ]
    assert [(t.observation, t.action) for t in found.turns] == [("B1", "up up"), ("B2", "left")]
    assert found.segments == ((0, 25),)


def test_three_turns_with_reasoning_and_an_empty_answer() -> None:
    answers = ["<think> why </think> up <|im_end|>", "<|im_end|>", "left <|im_end|>"]
    found = _one([says("B2"), says("B3"), ends(terminated=False, truncated=True)], answers)
    assert found.ids.tolist() == ids_of(
        f"{FIRST} {answers[0]} {NEXT.format('B2')} {answers[1]} {NEXT.format('B3')} {answers[2]}",
        TOKENIZER,
    )
    assert found.turn.tolist() == [-1] * 3 + [0] * 15 + [1] * 11 + [2] * 8
    trainable = np.flatnonzero(found.trainable).tolist()
    assert trainable == [9, 10, 11, 12, 13, 24, 35, 36]
    assert [(t.start, t.act, t.stop) for t in found.turns] == [
        (9, 12, 14),
        (24, 24, 25),
        (35, 35, 37),
    ]
    assert [(m.role, m.start, m.stop) for m in found.messages] == [
        ("user", 3, 4),
        ("assistant", 9, 13),
        ("user", 18, 19),
        ("assistant", 24, 24),
        ("user", 29, 30),
        ("assistant", 35, 36),
    ]
    assert found.turns[0].action == "<think>why</think>up"
    assert (found.end, found.success) == (EndReason.TRUNCATED, False)


def test_every_request_is_for_the_whole_context_and_has_its_own_seed() -> None:
    env = ScriptedEnv(("B1", {}), [says("B2"), ends()])
    (found,), sampler = play(TOKENIZER, [env], [["up <|im_end|>", "left <|im_end|>"]])
    asked = [request for (request,) in sampler.asked]
    assert [request.ids for request in asked] == [found.ids[:9].tolist(), found.ids[:21].tolist()]
    assert [request.seed for request in asked] == [(5, 0, 0), (5, 0, 1)]


def test_an_environment_hears_the_answer_without_control_tokens() -> None:
    env = ScriptedEnv(("B1", {}), [ends()])
    play(TOKENIZER, [env], [["up <|im_start|> ␣ left <|im_end|>"]])
    assert env.actions == ["up left"]


def test_a_task_that_ends_at_the_limit_has_ended() -> None:
    found = _one([ends(terminated=True, truncated=True)], ["up <|im_end|>"])
    assert found.end is EndReason.TERMINATED
    limited = Limits(turns=1, turn_tokens=9, context=999)
    assert _one([ends()], ["up <|im_end|>"], limits=limited).end is EndReason.TERMINATED


def test_the_limit_of_turns_ends_an_episode_before_another_observation() -> None:
    found = _one([says("B2")], ["up <|im_end|>"], limits=Limits(1, 9, 999))
    assert (found.end, len(found.ids)) == (EndReason.TURN_LIMIT, 11)


@pytest.mark.parametrize(
    ("turn_tokens", "context", "turns"), [(14, 22, 0), (14, 23, 1), (13, 33, 1), (13, 34, 2)]
)
def test_an_answer_is_asked_for_only_if_it_fits(turn_tokens: int, context: int, turns: int) -> None:
    """The first comes after 9 tokens, the second after 9 + 2 + 10."""
    answers = ["up <|im_end|>", "left <|im_end|>"]
    found = _one([says("B2"), ends()], answers, limits=Limits(9, turn_tokens, context))
    assert len(found.turns) == turns
    assert found.end is (EndReason.TERMINATED if turns == 2 else EndReason.CONTEXT_LIMIT)
    told = "rules and first observation are 9 tokens: with 14 for an answer that is more than"
    assert found.error.startswith(told) if turns == 0 else found.error == ""
    assert len(found.ids) <= context


class _Nasty(ScriptedEnv):
    def close(self) -> None:
        raise OSError("stuck")


BROKEN: list[tuple[ScriptedEnv, str, int]] = [
    (ScriptedEnv(RuntimeError("no board"), []), "RuntimeError: no board", 0),
    (ScriptedEnv(("B1", {}), [KeyError("door")]), "KeyError: 'door'", 1),
    (ScriptedEnv(("B1", {}), [says("B2"), RuntimeError("fire")]), "RuntimeError: fire", 2),
    (ScriptedEnv((None, {}), []), "TypeError: the observation is of type NoneType", 0),  # type: ignore[arg-type]
    (ScriptedEnv(("B1\ud800", {}), []), "UnicodeEncodeError: ", 0),
    (ScriptedEnv(("B1", {}), [says(b"B2")]), "TypeError: the observation is of type bytes", 1),  # type: ignore[arg-type]
    (ScriptedEnv(("B1", {}), [says("B2", facts=object())]), "TypeError: info holds a object", 1),
    (ScriptedEnv(("B1", {}), [("B2", 0.0, False, {})]), "ValueError: not enough values", 1),  # type: ignore[list-item]
    (ScriptedEnv(("B1", {}), [SystemExit(3)]), "SystemExit: 3", 1),
    (ScriptedEnv(("B1", {}), [], system=["a"]), "TypeError: the system prompt is of type list", 0),  # type: ignore[arg-type]
    (ScriptedEnv(("B1", {}), [], system="\ud800"), "UnicodeEncodeError: ", 0),
    (_Nasty(("B1", {}), [ends()]), "OSError: stuck", 1),
]


@pytest.mark.parametrize(("broken", "error", "turns"), BROKEN, ids=[b[1] for b in BROKEN])
def test_what_the_environment_raises_ends_its_episode_alone(
    broken: ScriptedEnv, error: str, turns: int
) -> None:
    def good() -> ScriptedEnv:
        return ScriptedEnv(("B1", {}), [says("B2"), ends()])

    broken.actions.clear()
    answers = [["up <|im_end|>", "left <|im_end|>"]] * 3
    first, failed, last = play(TOKENIZER, [good(), broken, good()], answers)[0]
    assert failed.end is EndReason.ERROR
    assert failed.error.startswith(error)
    assert len(failed.turns) == turns
    assert not failed.success or isinstance(broken, _Nasty)
    assert first.end is last.end is EndReason.TERMINATED
    assert first.ids.tolist() == last.ids.tolist()
    assert first.error == ""


@pytest.mark.parametrize("raised", [RuntimeError("no port"), SystemExit("no port")])
def test_an_environment_that_cannot_be_built_costs_its_episode_alone(
    raised: BaseException,
) -> None:
    built = iter(range(3))

    def build() -> ScriptedEnv:
        if next(built) == 1:
            raise raised
        return ScriptedEnv(("B1", {}), [ends()])

    pool = EpisodePool(
        env_id="scripted",
        make_env=build,
        template=ChatTemplate(TOKENIZER),
        stop_ids=frozenset(ids_of("<|im_end|>", TOKENIZER)),
        limits=Limits(turns=9, turn_tokens=40, context=999),
        slots=8,
        temperature=1.0,
        seed=5,
    )
    script = {e: [ids_of("up <|im_end|>", TOKENIZER)] for e in range(3)}
    played = pool.play([Task(e, e, e) for e in range(3)], ScriptedSampler(script, pool.stop_ids))
    ends_of = [t.end for t in played]
    assert ends_of == [EndReason.TERMINATED, EndReason.ERROR, EndReason.TERMINATED]
    assert played[1].error == f"{type(raised).__name__}: no port"


def test_ctrl_c_is_no_failure_of_the_environment() -> None:
    with pytest.raises(KeyboardInterrupt):
        _one([KeyboardInterrupt()], ["up <|im_end|>"])


def test_a_failed_step_keeps_the_answer_it_failed_on() -> None:
    failed = _one([RuntimeError("fire")], ["up <|im_end|>"])
    assert failed.ids.tolist() == ids_of(f"{FIRST} up <|im_end|>", TOKENIZER)
    assert failed.turns[0].action == "up"
    assert failed.turns[0].info == {"success": False}


def test_a_failed_reset_leaves_an_empty_record() -> None:
    failed = play(TOKENIZER, [ScriptedEnv(ValueError("no"), [])], [[]])[0][0]
    assert (len(failed.ids), failed.messages, failed.turns) == (0, (), ())


def test_every_environment_is_closed() -> None:
    envs = [ScriptedEnv(("B1", {}), [end]) for end in (ends(), RuntimeError("fire"))]
    play(TOKENIZER, envs, [["up <|im_end|>"]] * 2)
    assert all(env.closed for env in envs)


def test_results_are_in_order_and_do_not_depend_on_the_slots() -> None:
    def run(slots: int) -> tuple[list[Trajectory], list[int]]:
        lengths = [3, 1, 2, 1, 3]
        envs = [ScriptedEnv(("B1", {}), [says("B2")] * (n - 1) + [ends()]) for n in lengths]
        answers = [["up <|im_end|>", "left <|im_end|>", "down <|im_end|>"]] * 5
        found, sampler = play(TOKENIZER, envs, answers, slots=slots)
        return found, [len(call) for call in sampler.asked]

    one, two, many = (run(slots) for slots in (1, 2, 8))
    assert [t.episode for t in two[0]] == [0, 1, 2, 3, 4]
    for a, b, c in zip(one[0], two[0], many[0], strict=True):
        assert a.ids.tolist() == b.ids.tolist() == c.ids.tolist()
    assert one[1] == [1] * 10
    assert two[1] == [2, 2, 2, 2, 1, 1]
    assert many[1] == [5, 3, 2]


def test_what_the_environment_writes_into_its_info_later_does_not_change_the_record() -> None:
    shared: dict[str, Any] = {"success": False, "facts": {"n": 1}, "seen": np.int64(1)}

    class Sharing(ScriptedEnv):
        def step(self, action: str) -> Any:
            shared["facts"]["n"] += 1
            return super().step(action)

    steps: list[Step] = [
        ("B2", 0.0, False, False, shared),
        ("B3", np.float32(1), True, False, shared),
    ]
    env = Sharing(("B1", shared), steps)
    found = play(TOKENIZER, [env], [["up <|im_end|>"] * 2])[0][0]
    assert [t.info["facts"]["n"] for t in found.turns] == [2, 3]
    assert found.prompt == {"success": False, "facts": {"n": 1}, "seen": 1}
    assert type(found.prompt["seen"]) is int
    assert type(found.turns[1].reward) is float


def test_a_trajectory_has_arrays_of_one_length() -> None:
    found = _one([says("B2"), ends()], ["up <|im_end|>", "left <|im_end|>"])
    arrays = [f.name for f in fields(found) if isinstance(getattr(found, f.name), np.ndarray)]
    assert sorted(arrays) == ["ids", "logprob", "owner", "trainable", "turn"]
    assert {len(getattr(found, name)) for name in arrays} == {25 - 2}
    assert found.student_tokens == 4


@pytest.mark.parametrize(("asked", "positions", "context"), [(99, 40, 40), (30, 40, 30)])
def test_no_context_outgrows_the_student_s_positions(
    asked: int, positions: int, context: int
) -> None:
    student = random_model(TOKENIZER)
    student.module.config.max_position_embeddings = positions
    pool = StudentRollout(max_context=asked).pool(EnvSettings(id="unused"), student, seed=0)
    assert pool.limits.context == context
