"""Episodes that fail: told, counted, and a reason to stop where it is all of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import call, problem
from trajectories import played

from agentopd.base.types import Trajectory
from agentopd.commands.progress import Status
from agentopd.environment.contract import Info, TextEnv
from agentopd.looking.report.data import read_results
from agentopd.rollout.failures import failures, mixed_groups, most_frequent

REASON = "RuntimeError: no level"


class Moody(TextEnv):
    """Over after one answer; its reset raises for the seeds that `bad` names."""

    bad: Callable[[int], bool] = staticmethod(lambda seed: False)
    count = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        assert seed is not None
        if type(self).bad(seed):
            raise RuntimeError(f"no level\nof seed {seed}")
        return "Go.", {"task_id": str(seed), "success": False, "skill": "go", "guide": "Go on."}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        info = {"task_id": "t", "success": True, "action_valid": True}
        return "", 1.0, True, False, info


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path) -> Path:
    """Three steps of two tasks, with the environment's seeds 0 to 5; evaluated on two others."""
    settings = {
        "steps": 3,
        "threads": 1,
        "student": {"path": str(tiny_model)},
        "env": {"id": f"{__name__}:Moody"},
        "rollout": {"tasks": 2, "max_turn_tokens": 4},
        "evaluate": {"episodes": 2},
    }
    path = tmp_path / "moody.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def bad(monkeypatch: pytest.MonkeyPatch, when: Callable[[int], bool]) -> None:
    monkeypatch.setattr(Moody, "bad", staticmethod(when))


def test_some_failures_are_a_warning_a_step_and_counted(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad(monkeypatch, lambda seed: seed in (1, 2, 10**9))
    out = tmp_path / "run"
    result = call("train", config, "--out", out)
    assert result.exit_code == 0, result.output
    open_at_once = "1 could not be opened: rollout.slots is how many are open at once"
    first = f"1 of 2 episodes of {{}} ended in errors; the first: {REASON}; {open_at_once}"
    told = ["the evaluation", "step 1", "step 2", "the evaluation"]
    errors = [line for line in result.stderr.splitlines() if "ended in errors" in line]
    assert errors == [f"warning: {first.format(what)}" for what in told]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["errors"] == {REASON: 2}
    assert summary["evaluation"]["reasons"] == {REASON: 1}
    assert f"2 × {REASON}" in (out / "report.html").read_text()
    assert read_results(out).summary.arms["run"].errors == {REASON: 2}


def test_a_step_without_an_episode_stops_the_run_which_goes_on_once_it_is_mended(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad(monkeypatch, lambda seed: seed in (1, 2, 3))
    out = tmp_path / "run"
    result = call("train", config, "--out", out)
    assert result.exit_code == 2
    *_, last = result.stderr.splitlines()
    assert last == f"error: all 2 episodes of step 2 ({out}) ended in errors; the first: {REASON}"
    bad(monkeypatch, lambda seed: False)
    again = call("train", config, "--out", out, "--resume")
    assert again.exit_code == 0, again.output
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [-1, 0, 1, 2]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["errors"] == {REASON: 1}, "the first step's, from before the stop"


def test_an_evaluation_without_an_episode_stops_the_run(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad(monkeypatch, lambda seed: seed >= 10**9)
    told = problem(call("train", config, "--out", tmp_path / "run"))
    where = f"of the evaluation after 0 steps ({tmp_path / 'run'})"
    assert told == f"all 2 episodes {where} ended in errors; the first: {REASON}"


def test_a_constructor_that_raises_stops_a_run_before_it_begins(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any) -> None:
        raise KeyError("port")

    monkeypatch.setattr(Moody, "__init__", broken)
    told = problem(call("train", config, "--out", tmp_path / "run"))
    assert told == f"{__name__}:Moody cannot be built: KeyError: 'port'"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), f"all 2 episodes played ended in errors; the first: {REASON}"),
        (("--max-context", "8"), "all 2 episodes played ended in errors; the first: rules and fir"),
    ],
)
def test_eval_of_nothing_but_failures_is_a_mistake(
    words: tuple[str, ...], told: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad(monkeypatch, lambda seed: not words)
    result = call("eval", tiny_model, "--env", f"{__name__}:Moody", "--episodes", "2", *words)
    assert problem(result).startswith(told)


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ({"cut": 1.0}, "all answers of step 3 were cut"),
        ({"invalid": 1.0}, "no answer of step 3 could be read as an action"),
        ({"cut": 0.99, "invalid": 0.99}, None),
    ],
)
def test_answers_that_are_all_cut_or_unreadable_are_told_once(
    shares: dict[str, float], told: str | None
) -> None:
    status, train = Status(4, episodes=2), {"success": 0.0, **shares}
    line = {"step": 2, "episodes": 6, "seconds": 1.0, "loss": 0.0, "train": train}
    found = status.warnings(line)
    assert [warning[: len(told or "")] for warning in found] == ([told] if told else [])
    assert status.warnings(line | {"step": 3}) == []


def test_only_the_most_frequent_reasons_are_kept() -> None:
    many = Counter({f"reason {n}": n for n in range(1, 31)})
    kept = most_frequent(many)
    assert kept == {f"reason {n}": n for n in range(30, 10, -1)} | {"other reasons": 55}
    assert most_frequent(Counter("ab")) == {"a": 1, "b": 1}
    assert failures([]) == {}


def test_groups_of_different_tasks_are_a_warning_at_the_first_step(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reset(self: Moody, *, seed: int | None = None, options: Any = None) -> tuple[str, Info]:
        Moody.count += 1
        return "Go.", {"task_id": f"task {Moody.count}", "success": False}

    monkeypatch.setattr(Moody, "count", 0)
    monkeypatch.setattr(Moody, "reset", reset)
    grouped = ("rollout.group=2", "mix=rl", "evaluate.episodes=1")
    result = call("train", config, *grouped, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    told = [line for line in result.stderr.splitlines() if "groups" in line]
    assert told == [
        "warning: 2 of 2 groups hold episodes of different tasks ('task 2', 'task 3'): the "
        "environment does not choose its task by the seed alone; agentopd check-env says where"
    ]


def test_groups_are_compared_by_what_their_episodes_name() -> None:
    def episode(task: int, name: str | None) -> Trajectory:
        return replace(played(), task=task, prompt={} if name is None else {"task_id": name})

    assert mixed_groups([]) == ""
    assert mixed_groups([episode(0, "a"), episode(0, "a"), episode(1, "b")]) == ""
    assert mixed_groups([episode(0, "a"), episode(0, None)]) == "", "one that failed has no name"
    told = mixed_groups([episode(0, "a"), episode(1, "b"), episode(1, "c")])
    assert told.startswith("1 of 2 groups hold episodes of different tasks ('b', 'c')")


def test_eval_says_what_max_context_ended(tiny_model: Path) -> None:
    words = ("--env", "agentopd/Sokoban-v0", "-o", "prompt=brief", "--episodes", "2")
    result = call("eval", tiny_model, *words, "--max-context", "120", "--slots", "1", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["ends"] == {"context_limit": 2}
    assert "warning: max_context ended 2 of 2 episodes played: raise it" in result.stderr
