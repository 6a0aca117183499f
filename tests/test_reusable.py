"""Environments that are dear to start: started once a run, and played as fresh ones would be.

Nothing is timed: a stand-in counts its starts, and says which of its instances played what.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import get_ident
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from command_line import call

from agentopd.base.types import Trajectory
from agentopd.environment.check import check_env
from agentopd.environment.contract import Info, TextEnv, parse_action
from agentopd.environment.settings import EnvSettings
from agentopd.environment.wrappers import Env, Wrapper
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.rollout.kept import Shelf
from agentopd.rollout.policies import StudentRollout
from agentopd.rollout.policies.base import Rollout
from agentopd.rollout.sampler import SamplerFailed
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.preparation.habits import Silent
from agentopd.running.reading import load_config
from agentopd.running.run import Run
from agentopd.running.train import train
from agentopd.zoo.build import blank_model
from agentopd.zoo.tokenizer import train_tokenizer


class Dear(TextEnv):
    """Goes up or down to a goal; each instance knows what was played in it."""

    reusable: ClassVar[bool] = True
    instances: ClassVar[list[Dear]] = []
    most: ClassVar[int] = 0
    """How many were open at once."""
    action_form = "<action>{}</action>"
    max_turns = 4

    def __init__(self, place: str = "here", **metadata: Any) -> None:
        self.metadata = {**TextEnv.metadata, "reusable": self.reusable, **metadata}
        self.place, self.seeds, self.closed, self.dead = place, list[int](), False, False
        self.threads = set[int]()
        Dear.instances.append(self)
        Dear.most = max(Dear.most, sum(not env.closed for env in Dear.instances))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        assert not self.closed
        super().reset(seed=seed)
        if self.dead:
            raise ConnectionError("it has died")
        self.seeds.append(-1 if seed is None else seed)
        self.threads.add(get_ident())
        self.goal, self.turns = int(self.np_random.integers(1, 4)), 0
        return f"{self.place}: {self.goal} to go", self._info(True, False)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        self.threads.add(get_ident())
        self.turns += 1
        said = parse_action(action)
        self.goal -= said == "up"
        luck = int(self.np_random.integers(1000))
        over = not self.goal
        info = self._info(said in ("up", "down"), over)
        return f"{self.goal} to go, {luck}", float(over), over, not over and self.turns == 4, info

    def close(self) -> None:
        assert not self.closed
        self.closed = True

    def _info(self, valid: bool, success: bool) -> Info:
        plan = " ".join(["up"] * self.goal)
        told = {"task_id": f"{self.goal}", "success": success, "action_valid": valid}
        return {**told, "oracle": plan, "reference": plan}


class Failing(Dear):
    """Fails in its first step of every third seed."""

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        if self.seeds[-1] % 3 == 0:
            raise ConnectionError("it is gone")
        return super().step(action)


class Interrupted(Dear):
    """Ctrl-C comes in the step of seed 5."""

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        if self.seeds[-1] == 5:
            raise KeyboardInterrupt
        return super().step(action)


class Liar(Dear):
    """Says that a reset makes it new, and remembers the third episode that is won."""

    wins = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        self.straight = True
        return super().reset(seed=seed, options=options)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        observation, reward, over, late, info = super().step(action)
        self.straight &= info["action_valid"]
        self.wins += over and self.straight and self.turns > 1
        return f"{observation}{'!' * (self.wins > 2)}", reward, over, late, info


class Counting(Wrapper, kind="counting_for_tests"):
    """Does not start anew with an episode, which no fresh one needs to."""

    def wrap(self, env: Env) -> Env:
        """See `Wrapper.wrap`."""

        return Counted(env)


class Counted(gymnasium.Wrapper[str, str, str, str]):
    """See `Counting`."""

    count = 0

    def step(self, action: str) -> Any:
        """See `gymnasium.Env.step`."""
        self.count += 1
        observation, *rest = self.env.step(action)
        return f"{observation} ({self.count})", *rest


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dear, "instances", [])
    monkeypatch.setattr(Dear, "most", 0)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageModel]:
    folder = tmp_path_factory.mktemp("dear") / "model"
    corpus = ["here: there: to go <action>up</action> down"] * 9
    tokenizer = train_tokenizer(corpus, 300)
    torch.manual_seed(0)
    blank_model(tokenizer, hidden=16, intermediate=32, layers=1, heads=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    yield load_model(ModelSettings(path=str(folder)))


def _env(name: str = "Dear", *wrappers: str, **options: Any) -> EnvSettings:
    kinds = [{"kind": kind} for kind in wrappers]
    described = {"id": f"{__name__}:{name}", "options": options, "wrappers": kinds}
    return EnvSettings.model_validate(described)


def _rollout(tasks: int, slots: int) -> Rollout:
    return StudentRollout(tasks=tasks, slots=slots, max_turn_tokens=4)


def _same(ours: list[Trajectory], theirs: list[Trajectory]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        np.testing.assert_array_equal(one.logprob, other.logprob)
        parts = (one.turns, one.end, one.seed, one.prompt, one.error)
        assert parts == (other.turns, other.end, other.seed, other.prompt, other.error)


def _collected(
    env: EnvSettings, student: LanguageModel, steps: int, *, tasks: int = 10, slots: int = 4
) -> list[Trajectory]:
    """The episodes of several steps of a run, in environments that are kept from step to step."""
    with closing(Shelf()) as shelf:
        rollout, sampler = _rollout(tasks, slots).reuse(shelf), TransformersSampler(student)
        played = [rollout.collect(env, student, sampler, 0, step) for step in range(steps)]
    return [t for step in played for t in step]


def test_a_thousand_episodes_start_it_as_often_as_there_are_slots(student: LanguageModel) -> None:
    with closing(Shelf()) as shelf:
        rollout, silent = _rollout(50, 8).reuse(shelf), Silent(min(student.stop_ids))
        played = [rollout.collect(_env(), student, silent, 0, step) for step in range(20)]
        assert shelf.starts == len(Dear.instances) == 8
        assert not any(env.closed for env in Dear.instances)
    episodes = sum(len(step) for step in played)
    assert episodes == 1000
    assert episodes / len(Dear.instances) >= 50
    assert sorted(s for env in Dear.instances for s in env.seeds) == list(range(1000))
    assert all(env.closed for env in Dear.instances)


@pytest.mark.parametrize("metadata", [{}, {"blocking": True}])
def test_episodes_are_those_of_fresh_ones_to_the_bit(
    student: LanguageModel, monkeypatch: pytest.MonkeyPatch, metadata: dict[str, Any]
) -> None:
    env = _env("Dear", "counting_for_tests", **metadata)
    slots = 1 if metadata else 4  # who is overtaken joins another batch, where rounding differs
    kept = _collected(env, student, 3, slots=slots)
    assert len(Dear.instances) == slots
    monkeypatch.setattr(Dear, "reusable", False)
    fresh = _collected(env, student, 3, slots=slots)
    assert len(Dear.instances) == slots + 30
    _same(kept, fresh)
    assert len({t.turns[-1].action for t in kept}) > 3, "or nothing was compared"


def test_what_blocks_stays_on_its_thread(student: LanguageModel) -> None:
    _collected(_env(blocking=True), student, 2)
    assert [len(env.threads) for env in Dear.instances] == [1] * 4
    assert get_ident() not in {thread for env in Dear.instances for thread in env.threads}
    assert all(env.closed for env in Dear.instances)


def test_of_several_kinds_no_more_are_there_than_slots(student: LanguageModel) -> None:
    with closing(Shelf()) as shelf:
        rollout, silent = _rollout(10, 4).reuse(shelf), Silent(min(student.stop_ids))
        for step, place in enumerate(("here", "there", "here")):
            rollout.collect(_env(place=place), student, silent, 0, step)
        assert Dear.most == 4
        assert [env.place for env in Dear.instances] == ["here"] * 4 + ["there"] * 4 + ["here"] * 4
    assert all(env.closed for env in Dear.instances)


def test_no_more_are_there_than_it_has_places(student: LanguageModel) -> None:
    played = _collected(_env(places=2), student, 2)
    assert (len(Dear.instances), Dear.most) == (2, 2)
    _same(played, _collected(_env(), student, 2, slots=2))


@pytest.mark.parametrize("blocking", [False, True])
def test_what_an_episode_failed_in_is_never_played_again(
    student: LanguageModel, blocking: bool
) -> None:
    played = _collected(_env("Failing", blocking=blocking), student, 3)
    failed = [t.seed for t in played if t.error]
    assert failed == [seed for seed in range(30) if seed % 3 == 0]
    assert not any(seed % 3 == 0 for env in Dear.instances for seed in env.seeds[:-1])
    assert all(env.closed for env in Dear.instances)
    assert Dear.most <= 4


def test_what_died_on_the_shelf_costs_no_episode(student: LanguageModel) -> None:
    with closing(Shelf()) as shelf:
        rollout, sampler = _rollout(10, 4).reuse(shelf), TransformersSampler(student)
        first = rollout.collect(_env(), student, sampler, 0, 0)
        for env in Dear.instances:
            env.dead = True
        second = rollout.collect(_env(), student, sampler, 0, 1)
        assert shelf.starts == 8
    assert not any(t.error for t in (*first, *second))
    assert [t.episode for t in second] == list(range(10, 20))


def test_what_never_begins_is_data(student: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dear, "__init__", lambda self, **options: setattr(self, "dead", True))
    played = _collected(_env(), student, 1, tasks=3)
    assert len([t for t in played if t.error]) == 3


def test_ctrl_c_closes_all(student: LanguageModel) -> None:
    silent = Silent(min(student.stop_ids))
    with pytest.raises(KeyboardInterrupt):
        _rollout(10, 4).collect(_env("Interrupted"), student, silent, 0, 0)
    assert len(Dear.instances) == 4
    assert all(env.closed for env in Dear.instances)


def test_one_that_cannot_be_closed_leaves_the_others_to_be(
    student: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Dear] = []

    def close(self: Dear) -> None:
        closed.append(self)
        raise OSError("no")

    monkeypatch.setattr(Dear, "close", close)
    played = _collected(_env(), student, 2)
    assert len(closed) == 4
    assert not any(t.error for t in played)


@pytest.fixture
def config(tmp_path: Path, student: LanguageModel) -> Path:
    """Four steps of 4 tasks, evaluated on two others; two may be there at once."""
    settings = {
        "steps": 4,
        "threads": 1,
        "student": {"path": student.name},
        "env": {"id": f"{__name__}:Dear"},
        "rollout": {"tasks": 4, "max_turn_tokens": 4, "slots": 2},
        "evaluate": {"episodes": 2, "options": {"place": "there"}},
    }
    path = tmp_path / "dear.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def _lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_tells_its_starts_and_learns_the_same(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(load_config(config), tmp_path / "kept")
    kept = _lines(tmp_path / "kept")
    # Two for the evaluation before, two for the steps, two for the evaluation after.
    assert [line["train"]["env/starts"] for line in kept[1:]] == [4.0, 0.0, 0.0, 2.0]
    assert len(Dear.instances) == 2 + 6, "two were built to try the options"
    assert all(env.closed for env in Dear.instances)
    monkeypatch.setattr(Dear, "reusable", False)
    train(load_config(config), tmp_path / "fresh")
    fresh = _lines(tmp_path / "fresh")
    for ours, theirs in zip(kept, fresh, strict=True):
        assert ours.get("loss") == theirs.get("loss")
        assert ours.get("evaluation") == theirs.get("evaluation")
        assert "env/starts" not in theirs.get("train", {})
    assert len(Dear.instances) == 8 + 2 + 16 + 4


def test_a_step_that_fails_closes_all(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Run.learn

    def gone(self: Run, trajectories: Any, lessons: Any, step: int) -> Any:
        if step == 1:
            raise SamplerFailed("gone")
        return plain(self, trajectories, lessons, step)

    monkeypatch.setattr(Run, "learn", gone)
    assert call("train", config, "--out", tmp_path / "run").exit_code
    assert all(env.closed for env in Dear.instances)


def test_eval_and_collect_start_it_once_a_slot(
    config: Path, tmp_path: Path, student: LanguageModel
) -> None:
    words = ("--env", f"{__name__}:Dear", "--episodes", "20", "--slots", "3", "--json")
    result = call("eval", student.name, *words, "--max-turn-tokens", "4")
    assert json.loads(result.stdout)["env/starts"] == 3.0
    assert len(Dear.instances) == 1 + 3
    Dear.instances.clear()
    store = tmp_path / "store"
    assert call("collect", config, "--by", "oracle", "--episodes", "12", "--out", store)
    assert len(Dear.instances) == 3 + 2, "two to try the options, one for the oracle"
    assert all(env.closed for env in Dear.instances)


def test_playing_oneself_starts_it_once() -> None:
    words = ("--env", f"{__name__}:Dear", "--episodes", "3")
    result = call("play", "human", *words, typed="up\n" * 12)
    assert result.exit_code == 0, result.output
    assert [env.seeds for env in Dear.instances] == [[0, 1, 2]]
    assert all(env.closed for env in Dear.instances)


def test_the_checker_starts_it_until_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_env(f"{__name__}:Dear", seeds=20) == []
    kept = len(Dear.instances)
    assert all(env.closed for env in Dear.instances)
    monkeypatch.setattr(Dear, "instances", [])
    monkeypatch.setattr(Dear, "reusable", False)
    assert check_env(f"{__name__}:Dear", seeds=20) == []
    assert kept <= 57
    assert kept + 40 < len(Dear.instances)


def test_the_checker_finds_out_who_is_not_new_after_a_reset() -> None:
    errors = [f for f in check_env(f"{__name__}:Liar") if f.level == "error"]
    assert [f.name for f in errors] == ["reusable"]
    assert "plays seed" in errors[0].message
    assert all(env.closed for env in Dear.instances)


def test_metadata_of_another_type_is_named() -> None:
    found = check_env(f"{__name__}:Dear", {"places": 0})
    assert [(f.name, f.level) for f in found] == [("declarations", "error")]
    assert "metadata['places'] is 0" in found[0].message
