"""Words for Gymnasium's environments: the toys, one of our own, and the exact oracle."""

from __future__ import annotations

import json
from typing import Any

import gymnasium
import numpy as np
import pytest
from garbage import many
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd import make
from agentopd.environment.check import check_env
from agentopd.envs.adapters.ansi import marked
from agentopd.envs.adapters.planning import Planner, Table
from agentopd.envs.adapters.textualize import Textualize
from agentopd.envs.adapters.toys import TOYS
from agentopd.envs.frozen_lake import best_play

NAMES = tuple(TOYS)
TABULAR = ("Taxi-v4", "CliffWalking-v1", "FrozenLake-v1")


def build(name: str, **options: Any) -> Textualize:
    env = make(f"toy:{name}", options)
    assert isinstance(env, Textualize)
    return env


def act(env: Any, *words: str) -> list[tuple[str, float, bool, bool, dict[str, Any]]]:
    return [env.step(f"<action>{word}</action>") for word in words]


class Bell(gymnasium.Env[Any, Any]):
    """Ring as often as observed: action 1 rings, 0 stops; a reward of 1 for the right number."""

    observation_space: Any = gymnasium.spaces.Discrete(4)
    action_space: Any = gymnasium.spaces.Discrete(2)
    render_mode = "ansi"

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 4))
        return self.left, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        self.left -= action
        done = action == 0
        return self.left, float(done and self.left == 0), done, self.left < -1, {}

    def render(self) -> Any:
        return f"\x1b[41m{self.left}\x1b[0m\n"


@pytest.mark.parametrize("name", NAMES)
def test_the_checker_finds_no_error(name: str) -> None:
    found = {finding.name for finding in check_env(f"toy:{name}", {"max_turns": 60})}
    expected = {
        "Taxi-v4": set(),
        "Blackjack-v1": {"no-oracle"},  # chance decides
        "CliffWalking-v1": {"one-task"},
        "FrozenLake-v1": {"one-task"},
    }
    assert found == expected[name]


@pytest.mark.parametrize("name", TABULAR)
def test_following_the_oracle_succeeds_without_a_mistake(name: str) -> None:
    env = build(name, max_turns=60)
    for seed in range(200 if name == "Taxi-v4" else 3):
        _, info = env.reset(seed=seed)
        plan = info["oracle"].split()
        assert info["reference"] == info["oracle"]
        results = act(env, *plan)
        for done, (_, _, terminated, truncated, info) in enumerate(results, 1):
            assert info["facts"]["best"] and info["mistake"] == "" and not truncated
            assert terminated is info["success"] is (done == len(plan))
            assert info.get("oracle", "").split() == plan[done:]
            assert terminated or info["facts"]["moves_left"] == len(plan) - done


def shortest(table: Table, start: int, goal: float) -> int:
    """The fewest steps from `start` to an end with the reward `goal`, breadth first."""
    seen, rim, steps = {start}, [start], 0
    while rim:
        steps += 1
        after: list[int] = []
        for state in rim:
            for ((_, target, reward, ends),) in table[state].values():
                if ends and reward == goal:
                    return steps
                if not ends and target not in seen:
                    seen.add(int(target))
                    after.append(int(target))
        rim = after
    raise AssertionError(start)


def test_the_plans_of_a_taxi_are_as_short_as_breadth_first_search_finds_them() -> None:
    taxi: Any = gymnasium.make("Taxi-v4").unwrapped
    planner = Planner(taxi.P, 40)
    for state in np.flatnonzero(taxi.initial_state_distrib):
        plan = planner.plan(int(state), 40)
        assert len(plan) == shortest(taxi.P, int(state), 20)
        assert planner.value(int(state), 40) == pytest.approx(21 - len(plan), abs=1e-4)


def test_on_slippery_ice_the_value_is_the_chance_of_success() -> None:
    lake: Any = gymnasium.make("FrozenLake-v1", is_slippery=True).unwrapped
    planner = Planner(lake.P, 30)
    assert not planner.deterministic
    chance_KS, best_KSA = best_play(lake.P, 15, 30)
    for state in (0, 4, 6, 8, 13, 14):
        for left in (1, 2, 10, 30):
            assert planner.value(state, left) == pytest.approx(chance_KS[left, state], abs=1e-4)
            assert best_KSA[left, state, planner.best(state, left)].all()
            assert len(planner.plan(state, left)) == 1


def test_a_cliff_is_not_worth_a_short_cut_and_few_turns_are_used_safely() -> None:
    cliff: Any = gymnasium.make("CliffWalking-v1").unwrapped
    planner = Planner(cliff.P, 20)
    assert planner.plan(36, 20) == [0, *[1] * 11, 2]
    assert 1 not in planner.best(36, 5), "to the right of the start is the cliff"
    assert planner.plan(36, 0) == []


def test_a_slippery_lake_has_a_single_best_action_and_no_reference() -> None:
    env = build("FrozenLake-v1", is_slippery=True, max_turns=30)
    _, info = env.reset(seed=1)
    assert info["oracle"] in env.actions
    assert "reference" not in info and "moves_left" not in info["facts"]
    assert 0 < info["facts"]["value"] < 1
    assert info["task_id"] == "FrozenLake-v1/seed 1"


def test_a_taxi_word_for_word() -> None:
    env = build("Taxi-v4", prompt="brief")
    assert env.max_turns == 200
    assert env.system_prompt == TOYS["Taxi-v4"].brief
    full = build("Taxi-v4").system_prompt
    assert full.startswith(env.system_prompt) and "|Y| : |B: |" in full
    assert full.endswith("one of: south, north, east, west, pickup, dropoff.")
    shown, info = env.reset(seed=4)
    assert shown == (
        "Taxi: row 5, column 4. Passenger: at yellow (row 5, column 1). "
        "Destination: at red (row 1, column 1)."
    )
    assert info["task_id"] == "Taxi-v4/from 468"
    told = [
        ("North", -1.0, "", "north was the best action; 12 to go."),
        ("dropoff", -10.0, "not the best", "dropoff was not the best action; 12 to go."),
        ("south", -1.0, "not the best", "south was not the best action; 13 to go."),
    ]
    for word, reward, mistake, feedback in told:
        _, got, terminated, truncated, info = act(env, word)[0]
        assert (got, terminated, truncated) == (reward, False, False)
        assert (info["mistake"], info["feedback"]) == (mistake, feedback)
    shown, *_, info = env.step("north")
    assert shown.startswith("No <action></action> in the answer.\nTaxi: row 5")
    assert not info["action_valid"] and not info["facts"]["well_formed"]
    shown, *_, info = act(env, "fly")[0]
    assert info["feedback"].startswith("'fly' is not one of: south, north")
    plan = info["oracle"].split()
    shown, reward, *_, info = act(env, *plan)[-1]
    assert (reward, info["success"]) == (20.0, True)
    assert info["feedback"] == "dropoff was the best action; it ends well."


def test_a_hole_ends_badly() -> None:
    env = build("FrozenLake-v1")
    shown, _ = env.reset(seed=0)
    assert shown == "You: row 1, column 1.\nSFFF\nFHFH\nFFFH\nHFFG"
    _, reward, terminated, truncated, info = act(env, "down", "right")[-1]
    assert (reward, terminated, truncated, info["success"]) == (0.0, True, False, False)
    assert info["feedback"] == "right was not the best action; it ends badly."
    with pytest.raises(ValueError, match="call reset"):
        env.step("")


def test_the_map_drawn_in_the_rules_is_the_taxis() -> None:
    taxi: Any = gymnasium.make("Taxi-v4").unwrapped
    drawn = "\n".join(b"".join(row).decode() for row in taxi.desc)
    assert drawn in build("Taxi-v4").system_prompt


def test_your_own_environment_in_a_few_lines() -> None:
    env = Textualize(Bell(), actions={"stop": 0, "Ring": 1}, max_turns=5)
    assert env.system_prompt == "Choose one of: stop, ring. Write it inside <action></action>."
    shown, info = env.reset(seed=3)
    assert shown in ("[1 on red]", "[2 on red]", "[3 on red]")
    assert "oracle" not in info and "guide" not in info
    assert env.reset(seed=3)[0] == shown
    shown = shown[1]
    results = act(env, *["ring"] * int(shown), "STOP")
    assert [result[2] for result in results] == [False] * int(shown) + [True]
    assert results[-1][1] == 1.0 and results[-1][4]["success"]
    env.reset(seed=3)
    *_, info = act(env, "stop")[0]
    assert not info["success"]
    env.reset(seed=3)
    assert act(env, *["ring"] * (int(shown) + 2))[-1][2:4] == (False, True), "its own truncation"


def test_the_time_limit_counts_answers_that_cannot_be_read() -> None:
    env = Textualize(gymnasium.wrappers.TimeLimit(Bell(), 3), actions={"stop": 0, "ring": 1})
    assert env.max_turns == 100, "no specification names the limit"
    env = build("CliffWalking-v1", max_turns=3)
    env.reset(seed=0)
    assert [env.step("")[3], act(env, "up")[0][3], env.step("up")[3]] == [False, False, True]


def test_an_environment_with_nameless_actions_has_no_oracle() -> None:
    cliff = gymnasium.make("CliffWalking-v1", render_mode="ansi")
    env = Textualize(cliff, actions={"up": 0, "right": 1})
    assert env.planner is None
    shown, info = env.reset(seed=0)
    assert "oracle" not in info and "\x1b" not in shown and "C" in shown


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Pong-v0", {}, "no words for 'Pong-v0', only for Taxi-v4"),
        ("Taxi-v4", {"prompt": "long"}, "prompt is one of full, brief"),
        ("Taxi-v4", {"max_turns": 0}, "max_turns is a whole number at least 1, not 0"),
        ("Taxi-v4", {"depth": 0}, "depth"),
    ],
)
def test_what_cannot_be_built(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, **options)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ({"go up": 0}, "'go up' is no single word"),
        ({"ring": 1, "RING": 0}, "two actions are called 'ring'"),
        ({"stop": 0, "ring": 7}, r"'ring' stands for 7, which is none of Bell's: .*Discrete\(2\)"),
        ({"stop": "0"}, "'stop' stands for '0'"),
        ({}, "no actions to play Bell with"),
    ],
)
def test_actions_that_cannot_be_named(actions: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Textualize(Bell(), actions=actions)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("FrozenLake-v1", {}, "made with render_mode=None: make it with render_mode='ansi', or"),
        ("Blackjack-v1", {}, "Blackjack-v1 is not drawn as text, or put .* describe="),
    ],
)
def test_what_draws_no_text_needs_words(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Textualize(gymnasium.make(name, **options), actions={"stay": 0})


def test_actions_may_be_arrays() -> None:
    push = np.array([1.0], dtype=np.float32)
    env = Textualize(
        gymnasium.make("Pendulum-v1"), actions={"push": push}, describe=lambda env, seen: "it hangs"
    )
    env.reset(seed=0)
    _, reward, *_, info = act(env, "push")[0]
    assert reward < 0 and info["action_valid"] and "oracle" not in info


DRAWN = (
    ("FrozenLake-v1", 16, "[S on red]FFF\nFHFH\nFFFH\nHFFG"),
    ("FrozenLake8x8-v1", 64, "[S on red]FFFFFFF\nFFFFFFFF\n"),
    ("CliffWalking-v1", 48, "x  o  o"),
    ("Taxi-v4", 500, "|[R blue bold on yellow]: | : :G|\n"),
)


@pytest.mark.parametrize(("name", "states", "first"), DRAWN)
def test_no_two_states_that_a_toy_draws_read_alike(name: str, states: int, first: str) -> None:
    env = Textualize(gymnasium.make(name, render_mode="ansi"), actions={"a": 0})
    env.reset(seed=0)
    inner: Any = env.env.unwrapped
    seen = set()
    for state in range(states):
        inner.s = state
        seen.add(env.render())
        assert "\x1b" not in env.render()
        assert state or env.render().startswith(first) or "\n" + first in env.render()
    assert len(seen) == states


def test_a_hand_and_a_taxi_read_differently_in_words() -> None:
    for name in ("Blackjack-v1", "Taxi-v4"):
        env = build(name)
        told: dict[str, Any] = {}
        for seed in range(200):
            shown, _ = env.reset(seed=seed)
            assert told.setdefault(shown, env._seen) == env._seen
        assert len(told) == len(set(told.values())) > 50


@pytest.mark.parametrize(
    ("drawing", "text"),
    [
        ("no\ncolours [here]", "no\ncolours [here]"),
        ("F\x1b[41mF\x1b[0mH", "F[F on red]H"),
        ("\x1b[32ma\x1b[mb\x1b[1;34mc\x1b[22md\x1b[39me", "[a green]b[c bold blue][d blue]e"),
        ("\x1b[35m\x1b[43mR\x1b[0m\x1b[0m", "[R magenta on yellow]"),
        ("\x1b[42m \x1b[0m|", "[on green]|"),
        ("\x1b[7mab\n\ncd\x1b[27me", "[ab inverted]\n\n[cd inverted]e"),
        ("\x1b[91;104mx\x1b[49my\x1b[0m", "[x bright red on bright blue][y bright red]"),
        ("\x1b[38;5;196mx\x1b[48;2;1;2;3;4my\x1b[0m",
         "[x colour 196][y colour 196 on colour 1 2 3 underlined]"),
        ("\x1b[2J\x1b[Ha\x1b[?25l", "a"),
    ],
)  # fmt: skip
def test_colours_in_words(drawing: str, text: str) -> None:
    assert marked(drawing) == text


@pytest.fixture(scope="module", params=NAMES)
def toy(request: pytest.FixtureRequest) -> Textualize:
    return build(request.param, max_turns=30)


@settings(deadline=None, max_examples=50)
@given(texts=many(), seed=st.integers(0, 5))
def test_no_text_raises_and_every_answer_keeps_the_contract(
    toy: Textualize, texts: list[str], seed: int
) -> None:
    """A thousand answers."""
    env = toy
    env.reset(seed=seed)
    for text in texts:
        shown, _, terminated, truncated, info = env.step(text)
        assert shown.endswith(env.render())
        assert not truncated
        assert json.loads(json.dumps(info)) == info
        assert info["action_valid"] or not terminated
        assert info["action_valid"] is (info["mistake"] != "unreadable action")
        if terminated:
            env.reset(seed=seed + 1)


def test_no_options_are_handed_on_as_none() -> None:
    given: list[Any] = []

    class Picky(Bell):
        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict]:
            given.append(options)
            return super().reset(seed=seed)

    env = Textualize(Picky(), actions={"ring": 1}, describe=lambda _, left: str(left))
    for options in (None, {}, {"level": 2}):
        env.reset(seed=0, options=options)
    assert given == [None, None, {"level": 2}]
