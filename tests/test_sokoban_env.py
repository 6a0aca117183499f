"""The Sokoban environment: what it shows, what it says, when it ends."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from garbage import many
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.environment.contract import parse_action
from agentopd.envs.sokoban.env import Sokoban
from agentopd.envs.sokoban.generate import LevelSpec, generate
from agentopd.envs.sokoban.search import Solver

CORRIDOR = "######\n#@_$.#\n######"
ROOM = "######\n#____#\n#@$__#\n#___.#\n######"
PAIR = "#######\n#.___.#\n#_$$__#\n#_@___#\n#######"
ASIDE = "#####\n#___#\n#_$@#\n#_._#\n#####"


def play(level: str, *moves: str, **options: Any) -> list[tuple[str, float, bool, bool, dict]]:
    env = Sokoban(**options)
    env.reset(options={"level": level})
    return [env.step(f"<action>{move}</action>") for move in moves]


def test_a_solved_corridor_move_by_move() -> None:
    env = Sokoban()
    observation, info = env.reset(options={"level": CORRIDOR})
    assert observation == CORRIDOR
    assert info["oracle"] == info["reference"] == "right right"
    assert info["facts"] == {
        "boxes": 1,
        "boxes_on_goal": 0,
        "solvable": True,
        "pushes_left": 1,
        "moves_left": 2,
    }
    observation, reward, terminated, truncated, info = env.step("<action>right</action>")
    assert (observation, reward, terminated, truncated) == (
        "######\n#_@$.#\n######",
        0.0,
        False,
        False,
    )
    assert (info["oracle"], info["feedback"]) == ("right", "right moves closer, 1 to go.")
    observation, reward, terminated, truncated, info = env.step("<action>right</action>")
    assert (observation, reward, terminated, truncated) == (
        "######\n#__@*#\n######",
        1.0,
        True,
        False,
    )
    assert (info["success"], info["mistake"]) == (True, "")
    assert info["feedback"] == "right solves it."
    assert info["facts"]["boxes_on_goal"] == 1


@pytest.mark.parametrize(
    ("level", "moves", "mistake", "feedback"),
    [
        (CORRIDOR, "up", "wall", "up hits a wall, 2 to go."),
        (ROOM, "up", "away", "up moves away, 6 to go."),
        (ROOM, "right", "", "right moves closer, 4 to go."),
        (ROOM, "up right down", "", "down moves closer, 4 to go."),
        (
            ROOM,
            "down right up",
            "corner",
            "up pushes the box where it is stuck, it can no longer be solved.",
        ),
        (
            PAIR,
            "up down right up",
            "stuck",
            "up makes it impossible, it can no longer be solved.",
        ),
        (
            PAIR,
            "up down right up down",
            "",
            "down changes nothing, it can no longer be solved.",
        ),
    ],
)
def test_the_comment_on_the_last_of_some_moves(
    level: str, moves: str, mistake: str, feedback: str
) -> None:
    *_, info = play(level, *moves.split())[-1]
    assert (info["mistake"], info["feedback"]) == (mistake, feedback)


def test_the_oracle_is_the_best_plan_from_where_the_player_went() -> None:
    *_, info = play(ROOM, "up")[-1]
    assert info["oracle"] == "down right right up right down"
    assert info["facts"]["moves_left"] == 6
    assert info["facts"]["pushes_left"] == 3


def test_a_lost_level_has_no_oracle_and_its_facts_say_so() -> None:
    first, second = play(PAIR, "up", "down", "right", "up", "down")[-2:]
    for *_, info in (first, second):
        assert "oracle" not in info
        assert info["facts"]["solvable"] is False
    assert first[4]["facts"]["keeps_solvable"] is False
    assert second[4]["facts"]["keeps_solvable"] is True, "it was lost before"


@pytest.mark.parametrize("stop", [True, False])
def test_a_lost_level_ends_the_episode_only_where_that_is_asked_for(stop: bool) -> None:
    *_, (_, reward, terminated, truncated, info) = play(
        PAIR, "up", "down", "right", "up", stop_when_stuck=stop
    )
    assert (reward, terminated, truncated, info["success"]) == (0.0, stop, False, False)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("right", "No <action></action> in the answer."),
        ("", "No <action></action> in the answer."),
        ("<action>right", "No <action></action> in the answer."),
        ("<think><action>right</action></think>", "No <action></action> in the answer."),
        ("<think><action>right</action>", "No <action></action> in the answer."),
        ("<action></action>", "'' is not a move: use up, down, left or right."),
        ("<action>jump</action>", "'jump' is not a move: use up, down, left or right."),
        ("<action>right right</action>", "2 moves in one answer; at most 1 are allowed."),
    ],
)
def test_an_answer_that_cannot_be_read_costs_the_turn_and_is_explained(
    answer: str, problem: str
) -> None:
    env = Sokoban()
    env.reset(options={"level": CORRIDOR})
    observation, reward, terminated, truncated, info = env.step(answer)
    assert observation == f"{problem}\n{CORRIDOR}"
    assert (reward, terminated, truncated, env.turns) == (0.0, False, False, 1)
    assert (info["action_valid"], info["mistake"]) == (False, "unreadable action")
    assert info["feedback"] == problem
    assert info["facts"]["well_formed"] is info["facts"]["moved"] is False


@pytest.mark.parametrize(
    "answer",
    [
        "<action>right</action>",
        "<action> RIGHT </action>",
        "<action>r</action>",
        "I go.\n<action>\nright\n</action> There.",
        "<action>up</action> no: <action>right</action>",
        "<action>right</action> and <action>never closed",
        "<action>never closed <action>right</action>",
        "<think>up? <action>up</action></think><action>right</action>",
        "<action>right</action><think><action>up</action></think>",
        "<think>a</think><think>b</think><action>right</action>",
    ],
)
def test_the_last_action_outside_the_thoughts_is_played(answer: str) -> None:
    env = Sokoban()
    env.reset(options={"level": CORRIDOR})
    observation, _, _, _, info = env.step(answer)
    assert info["action_valid"]
    assert observation == "######\n#_@$.#\n######"


def test_hundreds_of_unclosed_tags_are_read_in_no_time() -> None:
    assert parse_action("<action>" * 200_000) is None
    assert parse_action("<action>" * 200_000 + "up</action>" * 200_000) == "up"


@pytest.mark.parametrize(
    "answer", ["right right", "right, right", "r;r", "Right|RIGHT", "right\nr"]
)
def test_several_moves_are_played_in_one_turn(answer: str) -> None:
    *_, (board, reward, terminated, _, info) = play(CORRIDOR, answer, moves_per_turn=3)
    assert board == "######\n#__@*#\n######"
    assert (reward, terminated, info["feedback"]) == (1.0, True, "right right solves it.")


def test_moves_after_the_solving_one_are_left() -> None:
    level = "######\n#@$._#\n######"
    *_, (board, reward, terminated, _, info) = play(level, "right right left", moves_per_turn=3)
    assert board == "######\n#_@*_#\n######"
    assert (reward, terminated, info["feedback"]) == (1.0, True, "right solves it.")


def test_one_blocked_move_among_several_is_reported() -> None:
    *_, info = play(CORRIDOR, "up right", moves_per_turn=2)[-1]
    assert info["facts"]["hit_wall"]
    assert info["facts"]["moved"]
    assert (info["mistake"], info["feedback"]) == ("wall", "up right hits a wall, 1 to go.")


def test_the_last_turn_truncates_and_no_turn_before_it() -> None:
    ends = [
        (terminated, truncated)
        for _, _, terminated, truncated, _ in play(CORRIDOR, "up", "up", "", max_turns=3)
    ]
    assert ends == [(False, False), (False, False), (False, True)]


def test_solving_in_the_last_turn_terminates_and_does_not_truncate() -> None:
    *_, (_, reward, terminated, truncated, _) = play(CORRIDOR, "right", "right", max_turns=2)
    assert (reward, terminated, truncated) == (1.0, True, False)


def test_losing_in_the_last_turn_terminates_and_does_not_truncate() -> None:
    *_, (_, _, terminated, truncated, _) = play(
        PAIR, "up", "down", "right", "up", max_turns=4, stop_when_stuck=True
    )
    assert (terminated, truncated) == (True, False)


def test_a_seed_plays_the_level_the_generator_gives_for_it() -> None:
    env = Sokoban(split="test", min_moves=4)
    level, plan = generate(LevelSpec(min_moves=4), 7, "test")
    observation, info = env.reset(seed=7)
    assert observation == level.render()
    assert info["reference"] == " ".join(plan.moves)
    assert info["task_id"] == f"sokoban/test/{level.key}/7"


def test_without_a_seed_the_next_level_follows_from_the_last_seed() -> None:
    first, second = Sokoban(), Sokoban()
    first.reset(seed=3)
    second.reset(seed=3)
    boards = [first.reset()[0] for _ in range(3)]
    assert boards == [second.reset()[0] for _ in range(3)]
    assert len(set(boards)) == 3


def test_restart_plays_the_same_level_from_its_start() -> None:
    env = Sokoban()
    begun = env.reset(seed=1)
    env.step(f"<action>{begun[1]['oracle'].split()[0]}</action>")
    assert env.restart() == begun
    assert env.turns == 0


def test_without_a_search_the_level_is_played_and_judged_but_nothing_is_foretold() -> None:
    env = Sokoban(search_limit=0)
    _, info = env.reset(seed=3)
    assert {"oracle", "reference"}.isdisjoint(info)
    assert info["facts"] == {"boxes": 1, "boxes_on_goal": 0}
    *moves, last = Sokoban().reset(seed=3)[1]["oracle"].split()
    for move in moves:
        *_, info = env.step(f"<action>{move}</action>")
        assert "oracle" not in info
    _, reward, terminated, _, info = env.step(f"<action>{last}</action>")
    assert (reward, terminated, info["feedback"]) == (1.0, True, f"{last} solves it.")


def test_a_level_that_is_solved_at_the_start_is_refused() -> None:
    with pytest.raises(ValueError, match="every box is on a goal at the start"):
        Sokoban().reset(options={"level": "####\n#@*#\n####"})


def test_a_level_too_large_to_search_has_no_oracle_and_is_never_called_lost() -> None:
    env = Sokoban(stop_when_stuck=True)
    env.reset(options={"level": PAIR})
    env.solver = Solver(env.level, limit=0)
    _, info = env.restart()
    assert "oracle" not in info
    assert "reference" not in info
    _, _, terminated, _, info = env.step("<action>down</action>")
    assert (info["mistake"], info["feedback"], terminated) == ("wall", "down hits a wall.", False)
    _, _, terminated, _, info = env.step("<action>up</action>")
    assert (info["mistake"], info["feedback"], terminated) == ("", "up is done.", False)
    assert "solvable" not in info["facts"]


def test_a_copy_plays_on_by_itself_on_the_same_level() -> None:
    env = Sokoban()
    env.reset(seed=3)
    twin = copy.deepcopy(env)
    assert twin.level is env.level
    board = env.render()
    for move in env.plan.moves:
        twin.step(f"<action>{move}</action>")
    assert twin.solved
    assert env.render() == board and env.turns == 0 and not env.solved


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "split is one of train, validation, test, not 'dev'"),
        ({"prompt": "long"}, "prompt is one of full, brief, fewshot, not 'long'"),
        ({"max_turns": 0}, "max_turns is a whole number at least 1, not 0"),
        ({"max_turns": True}, "max_turns is a whole number at least 1, not True"),
        ({"max_turns": 2.5}, r"max_turns is a whole number at least 1, not 2\.5"),
        ({"moves_per_turn": True}, "moves_per_turn is a whole number at least 1, not True"),
        ({"moves_per_turn": 2.5}, r"moves_per_turn is a whole number at least 1, not 2\.5"),
        ({"search_limit": -1}, "search_limit is a whole number at least 0, not -1"),
        ({"search_limit": True}, "search_limit is a whole number at least 0, not True"),
        ({"search_limit": 2.5}, r"search_limit is a whole number at least 0, not 2\.5"),
        ({"inner_wall": 3}, "no option 'inner_wall'; did you mean 'inner_walls'"),
        ({"zzz": 3}, "there are: height, width"),
        ({"boxes": "two"}, "'boxes' is a whole number, not 'two'"),
        ({"levels": "/no/such/place"}, "no level file at"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sokoban(**options)


def test_nobody_plays_before_the_start_or_after_the_end() -> None:
    refused = pytest.raises(ValueError, match=r"no episode of Sokoban is being played: call reset")
    env = Sokoban(max_turns=2, stop_when_stuck=True)
    with refused:
        env.step("<action>up</action>")
    endings = ((CORRIDOR, ["right", "right"]), (CORRIDOR, ["up", ""]), (ASIDE, ["left"]))
    for level, moves in endings:
        env.reset(options={"level": level})
        ends = [any(env.step(f"<action>{move}</action>")[2:4]) for move in moves]
        assert ends == [False] * (len(moves) - 1) + [True], (level, moves)
        state, turns = env.state, env.turns
        with refused:
            env.step("<action>up</action>")
        assert (env.state, env.turns) == (state, turns)
    env.restart()
    env.step("<action>up</action>")


def test_an_unknown_reset_option_is_refused() -> None:
    with pytest.raises(ValueError, match=r"option 'level' only, not \['board'\]"):
        Sokoban().reset(options={"board": CORRIDOR})


def test_the_full_rules_name_every_symbol_and_the_action_format() -> None:
    rules = Sokoban(moves_per_turn=3).system_prompt
    assert all(f"{symbol} " in rules for symbol in "#_.$*@+")
    assert "up to 3 moves inside <action></action>" in rules
    assert "<action>up</action>" in Sokoban().system_prompt
    assert Sokoban(prompt="brief").system_prompt == (
        "Sokoban: push $ onto . with up, down, left, right."
    )


@settings(deadline=None, max_examples=50)
@given(many(), st.integers(0, 5), st.booleans())
def test_no_text_raises_and_every_answer_keeps_the_contract(
    texts: list[str], seed: int, stop: bool
) -> None:
    """A thousand answers."""
    env = Sokoban(moves_per_turn=3, stop_when_stuck=stop, max_turns=6)
    env.reset(seed=seed)
    for text in texts:
        before = env.render()
        observation, reward, terminated, truncated, info = env.step(text)
        assert observation.endswith(env.render())
        assert not (terminated and truncated)
        assert reward == float(info["success"])
        assert json.loads(json.dumps(info)) == info
        if not info["action_valid"]:
            assert env.render() == before
            assert not terminated or info["facts"]["solvable"] is False
        if terminated or truncated:
            env.reset(seed=seed)
