"""Habits: what is scored without reading, on environments where that is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from command_line import call
from scripted import random_model, toy_tokenizer

from agentopd.environment.check import check_env
from agentopd.environment.contract import (
    HELD_OUT_SEED,
    TextEnv,
    actions,
    legal_actions,
    parse_action,
)
from agentopd.environment.registry import make
from agentopd.environment.settings import EnvSettings
from agentopd.rollout.policies import StudentRollout
from agentopd.running.preparation.habits import Baseline, Baselines


class Door(TextEnv):
    """A door of every fourth seed opens to one word, `up` in training and `left` in tests.

    With `opens="both"` every door opens once both left and right were said, in sixteen turns.
    """

    max_turns: int | None = 16

    def __init__(self, split: str = "train", lists: bool = True, opens: str = "") -> None:
        self.lists, self.opens = lists, opens or {"train": "up", "test": "left"}[split]

    def legal_actions(self) -> list[str] | None:
        return ["left", "right", "up"] if self.lists else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.seed, self.turns, self.said = seed or 0, 0, set[str]()
        return "Word.", {"task_id": str(seed), "success": False}

    def step(self, action: str) -> Any:
        self.turns += 1
        said = parse_action(action) or ""
        self.said.add(said)
        solved = self._opened(said)
        info = {"task_id": str(self.seed), "success": solved, "action_valid": bool(said)}
        late = self.turns >= 16
        over = solved or (self.opens != "both" and self.turns == 1)
        return "Word.", float(solved), over, late and not over, info

    def _opened(self, said: str) -> bool:
        if self.opens == "both":
            return {"left", "right"} <= self.said
        return said == self.opens and (self.seed % 4 == 0)


def _measured(options: dict[str, Any], test: dict[str, Any], **limits: Any) -> list[Baseline]:
    env = EnvSettings(id="test_habits:Door", options=options)
    rollout = StudentRollout(**{"max_turns": 50, **limits})
    return Baselines(env, env, random_model(toy_tokenizer()), rollout, test).measure(32)


def test_the_best_are_chosen_on_other_tasks_than_they_are_measured_on() -> None:
    # In training `up` opens every fourth door and `left` none; held out it is the other way round.
    random, constant, mixture = _measured({}, {"split": "test"})
    assert (constant.actions, constant.success) == (("up",), 0.0)
    assert "up" in mixture.actions
    assert 0 < random.success < 0.25
    # Measured where they are chosen: the seeds from HELD_OUT_SEED on, every fourth of which opens.
    assert HELD_OUT_SEED % 4 == 0
    _, constant, mixture = _measured({"opens": "up"}, {})
    assert (constant.actions, constant.success) == (("up",), 0.25)
    assert constant.name == "always up"
    assert 0 < mixture.success <= 0.25


def test_two_actions_may_do_what_none_does_alone() -> None:
    random, constant, mixture = _measured({"opens": "both"}, {})
    assert constant.success == 0
    assert constant.interval[0] == 0 < constant.interval[1]
    # In 16 turns a mixture misses one of the two with a chance of 2 ** -15.
    assert (set(mixture.actions), mixture.success) == ({"left", "right"}, 1.0)
    assert random.success == 1.0
    assert {b.episodes for b in (random, constant, mixture)} == {32}


def test_the_limits_are_the_rollouts() -> None:
    assert [b.success for b in _measured({"opens": "both"}, {}, max_turns=1)] == [0, 0, 0]


def test_without_a_list_there_are_no_habits() -> None:
    assert _measured({"lists": False}, {}) == []


def test_a_habit_repeats_itself() -> None:
    assert _measured({"opens": "both"}, {}) == _measured({"opens": "both"}, {})


LISTED = [
    ("agentopd/Sokoban-v0", {}),
    ("agentopd/FrozenLake-v0", {}),
    ("agentopd/Hanoi-v0", {}),
    ("agentopd/Countdown-v0", {}),
    ("agentopd/Mastermind-v0", {"length": 2}),
    ("toy:CliffWalking-v1", {}),
    ("grid:BabyAI-GoToRedBallNoDists-v0", {}),
    ("textarena:GuessTheNumber-v0", {}),
    ("textarena:TowerOfHanoi-v0", {}),
]


@pytest.mark.parametrize(("spec", "options"), LISTED)
def test_what_is_listed_may_be_played_and_holds_the_best(
    spec: str, options: dict[str, Any]
) -> None:
    for seed in range(3):
        env = make(spec, options)
        _, info = env.reset(seed=seed)
        listed = legal_actions(env)
        assert listed
        for action in listed:
            env.reset(seed=seed)
            *_, after = env.step(_written(env, action))
            assert after["action_valid"], action
            assert after.get("mistake") not in ("illegal", "unreadable action", "refused action")
        if best := actions(env, info.get("oracle", "")):
            assert best[0] in listed
        env.close()


def _written(env: gymnasium.Env[str, str], action: str) -> str:
    return str(env.get_wrapper_attr("action_form")).replace("{}", action)


def test_a_calls_list_is_one_of_calls() -> None:
    tools = [{"kind": "tools", "functions": ["test_wrappers:push"], "syntax": "call"}]
    env = EnvSettings.model_validate({"id": "agentopd/FrozenLake-v0", "wrappers": tools}).build()
    _, info = env.reset(seed=0)
    listed = legal_actions(env)
    assert len(listed) == 4
    assert info["oracle"].split("\n")[0] in listed
    assert env.step(_written(env, listed[0]))[4]["action_valid"]


def test_eval_prints_habits_beside_the_model(tiny_model: Path) -> None:
    words = ("eval", tiny_model, "--env", "test_habits:Door", "-o", "opens=both")
    words = (*words, "--episodes", "16", "--max-turn-tokens", "2", "--max-turns", "16")
    told = " ".join(call(*words).stdout.split())
    assert "random legal action 100 %" in told
    assert "left or right at random 100 %" in told
    assert "below a habit" in told
    habits = json.loads(call(*words, "--json").stdout)["habits"]
    assert [habit["kind"] for habit in habits] == ["random", "constant", "mixture"]
    assert habits[0]["success"] == 1.0
    assert json.loads(call(*words, "--json", "--no-habits").stdout)["habits"] == []


class ListsNumbers(Door):
    """Lists what is no text."""

    def legal_actions(self) -> Any:
        return [1, 2]


class ListsNoOracle(Door):
    """Leaves out what its oracle plays."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, info = super().reset(seed=seed)
        return observation, info | {"oracle": "down"}


@pytest.mark.parametrize(
    ("name", "said"), [("ListsNumbers", "gives [1, 2]"), ("ListsNoOracle", "leaves out 'down'")]
)
def test_the_checker_says_what_is_wrong_with_a_list(name: str, said: str) -> None:
    found = [f for f in check_env(f"test_habits:{name}") if f.name == "legal-actions"]
    assert [f.level for f in found] == ["error"]
    assert said in found[0].message


def test_the_checker_finds_nothing_wrong_with_a_good_list() -> None:
    assert "legal-actions" not in {f.name for f in check_env("test_habits:Door")}
