"""Front desk: the manual, what counts, what a ticket tells whom, splits."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from agentopd import make
from agentopd.environment.check import check_env
from agentopd.environment.contract import actions
from agentopd.envs.front_desk import FIELDS, FrontDesk
from agentopd.envs.puzzle import SPLITS


def filled(env: FrontDesk, *answers: str) -> list[Any]:
    """The results of these answers to a ticket about a laptop, from a guest, by letter."""
    env.reset(options={"task": "482 laptop guest letter"})
    return [env.step(answer) for answer in answers]


@pytest.mark.parametrize("options", [{}, {"fields": 1, "cases": 8, "shown": 0}, {"manual": 7}])
def test_the_checker_finds_nothing(options: dict[str, Any]) -> None:
    assert check_env("agentopd/FrontDesk-v0", options, strict=True) == []


@pytest.mark.parametrize("split", SPLITS)
def test_following_the_oracle_fills_in_every_ticket(split: str) -> None:
    env = make("agentopd/FrontDesk-v0", {"split": split}).unwrapped
    for seed in range(100):
        _, info = env.reset(seed=seed)
        plan = actions(env, info["oracle"])
        assert len(plan) == 3
        last: Any = None
        for done, command in enumerate(plan):
            assert command in info["document"]
            assert actions(env, info["oracle"]) == plan[done:]
            last = env.step(command)
            info = last[4]
        assert (*last[1:4], info["success"]) == (1.0, True, False, True)


def test_the_manual_is_one_for_all_tickets_and_its_codes_differ() -> None:
    one, again, other = FrontDesk(), FrontDesk(split="test"), FrontDesk(manual=1)
    assert one.manual == again.manual != other.manual
    for field in FIELDS:
        codes = {said for said in one.manual.values() if said.startswith(field.command)}
        assert len(codes) == one.cases


def test_whatever_is_answered_stands_and_the_next_field_is_asked_for() -> None:
    env = FrontDesk()
    right = [env.manual[case] for case in ("laptop", "guest", "letter")]
    wrong = env.manual["printer"]
    shown = [r[0] for r in filled(env, wrong, "I do not know", right[2])]
    assert shown == [
        "Ticket 482. From: guest. Command?",
        "Ticket 482. Answer by: letter. Command?",
        "Ticket 482 is put down.",
    ]
    results = filled(env, wrong, "I do not know", right[2])
    assert [r[4]["action_valid"] for r in results] == [True, False, True]
    assert [r[4]["mistake"] for r in results] == ["wrong code", "unreadable action", ""]
    assert [r[4]["facts"]["moves_closer"] for r in results] == [False, False, True]
    assert [r[1] for r in results] == [0.0] * 3
    assert (results[-1][2], results[-1][3]) == (False, True)


@pytest.mark.parametrize(
    "form", ["{}", " {}\n", "{}.", "<think>let me see: send amber</think>{}", "\t{} "]
)
def test_an_answer_is_the_command_and_nothing_else(form: str) -> None:
    env = FrontDesk()
    right = [env.manual[case] for case in ("laptop", "guest", "letter")]
    assert filled(env, *(form.format(command) for command in right))[-1][4]["success"]
    assert filled(env, *(form.format(command.upper()) for command in right))[-1][4]["success"]
    assert not filled(env, *(f"The command is {command}" for command in right))[-1][4]["success"]


def test_no_habit_solves_a_ticket() -> None:
    """Of all ways to say one or two commands in turn, none is right for every field of a ticket."""
    env = FrontDesk()
    for a, b in itertools.product(env.manual.values(), repeat=2):
        for answers in itertools.product((a, b), repeat=3):
            assert not filled(env, *answers)[-1][4]["success"]


def test_the_student_reads_no_code_of_the_manual() -> None:
    env = FrontDesk()
    shown, info = env.reset(seed=3)
    texts = [env.system_prompt, shown, *(text for pair in env.examples for text in pair)]
    texts += [env.step("x")[0] for _ in range(3)]
    codes = {command.split()[1] for command in env.manual.values()}
    assert not any(code in text for code in codes for text in texts)
    assert all(f'for {case}, answer "{said}"' in info["guide"] for case, said in env.manual.items())


def test_no_two_splits_share_a_ticket() -> None:
    drawn = []
    for split in SPLITS:
        env = FrontDesk(split=split)
        drawn.append({str(env.ticket) for seed in range(300) if env.reset(seed=seed)})
    assert not set.intersection(*map(set, drawn[:2]))
    assert not drawn[2] & (drawn[0] | drawn[1])


@pytest.mark.parametrize(
    "options", [{"fields": 4}, {"cases": 1}, {"cases": 9}, {"manual": -1}, {"shown": 4}]
)
def test_options_that_have_no_such_value_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        FrontDesk(**options)


@pytest.mark.parametrize("task", ["", "482", "99 laptop guest letter", "482 laptop guest pony"])
def test_a_ticket_of_ones_own_is_of_the_manuals_words(task: str) -> None:
    with pytest.raises(ValueError, match="is no ticket"):
        FrontDesk().reset(options={"task": task})
