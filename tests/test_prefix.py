"""Prefixes: turns that nobody samples, played again; the student goes on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted import random_model, toy_tokenizer

import agentopd.rollout.policies.prefix  # noqa: F401  (its kind)
from agentopd.base.types import EndReason, Owner, Trajectory
from agentopd.environment.contract import Info, TextEnv
from agentopd.environment.settings import EnvSettings
from agentopd.rollout.policies.base import Cast, Rollout
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.stored.trajectories import save_trajectories

TOKENIZER = toy_tokenizer()
STUDENT = random_model(TOKENIZER, seed=1)
SIZES = {"tasks": 4, "group": 2, "max_turns": 9, "max_turn_tokens": 4, "max_context": 400}


class Counting(TextEnv):
    """Says which action it heard and how many; solved by three `up` in a row, over after five."""

    drift = ""
    steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.heard: list[str] = []
        self.solution = self._solution(seed or 0)
        return f"B{1 + (seed or 0) % 4}{self.drift}", self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        type(self).steps += 1
        self.heard.append(action.strip())
        solved = self.heard[-3:] == ["up"] * 3
        said = f"{action} {len(self.heard)}{self.drift}"
        return said, float(solved), solved, len(self.heard) == 5 and not solved, self._info(solved)

    def _info(self, success: bool = False) -> Info:
        return {"task_id": "t", "success": success, "reference": self.solution}

    def _solution(self, seed: int) -> str:
        return "up up up"

    action_form = "{}"


class Drifting(Counting):
    """Does not repeat itself: what it says depends on more than seed and actions."""

    episodes = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        Drifting.episodes += 1
        self.drift = " 1" * Drifting.episodes
        return super().reset(seed=seed)


class Unsolved(Counting):
    """Has no solution to tell."""

    def _solution(self, seed: int) -> str:
        return ""


def _collect(env: str = "Counting", step: int = 0, **written: Any) -> list[Trajectory]:
    rollout = Rollout.model_validate({"kind": "prefix", **SIZES, **written})
    rollout.prepare(Cast(STUDENT))
    settings = EnvSettings(id=f"test_prefix:{env}")
    return rollout.collect(settings, STUDENT, TransformersSampler(STUDENT), seed=3, step=step)


def _store(folder: Path, env: str = "Counting", **sizes: Any) -> list[Trajectory]:
    """Episodes of the student, whole, as a run saves them."""
    played = _collect(env, kind="student", **{"tasks": 3, "group": 1, **sizes})
    save_trajectories(played, folder / "step-00000.parquet")
    return played


def _replayed(trajectory: Trajectory) -> int:
    """How many turns were replayed: they come first, and are not learnt from."""
    owners = [trajectory.owner[u.start : u.stop].tolist() for u in trajectory.turns]
    count = sum(set(own) == {Owner.DEMO} for own in owners)
    assert all(set(own) == {Owner.DEMO} for own in owners[:count])
    assert all(set(own) == {Owner.STUDENT} for own in owners[count:])
    demo = trajectory.owner == Owner.DEMO
    assert not trajectory.trainable[demo].any() and np.isnan(trajectory.logprob[demo]).all()
    np.testing.assert_array_equal(trajectory.trainable, trajectory.owner == Owner.STUDENT)
    return count


@pytest.mark.parametrize(("left", "replayed"), [(1, 2), (2, 1), (3, 0), (7, 0)])
def test_the_solutions_first_actions_are_played(left: int, replayed: int) -> None:
    """Of three actions all but the last `left`; the environment hears them as answers."""
    for t in _collect(left=left):
        assert _replayed(t) == replayed
        assert [u.action.strip() for u in t.turns[:replayed]] == ["up"] * replayed
        assert t.turns[replayed].observation == (
            f"up {replayed}" if replayed else t.turns[0].observation
        )


def test_with_nothing_to_replay_it_is_the_students_rollout() -> None:
    """TCOD, back to front, of one-turn demonstrations or after its last stair: `opd`. POPE with no
    guided share to speak of: GRPO.
    """
    plain = _collect(kind="student")
    tried: list[dict[str, Any]] = [{"left": 3}, {"search": 0.3}, {"left": 1, "guided": 1e-9}]
    for settings in tried:
        for one, other in zip(_collect(**settings), plain, strict=True):
            for name in ("ids", "owner", "logprob", "trainable"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_demonstrations_are_replayed_token_for_token(tmp_path: Path) -> None:
    store = {t.seed: t for t in _store(tmp_path)}
    for t in _collect(path=str(tmp_path), left=1):
        told = store[t.seed]
        count = _replayed(t)
        assert count == len(told.turns) - 1
        stop = told.turns[count].start
        np.testing.assert_array_equal(t.ids[:stop], told.ids[:stop])
        assert not t.error


def test_a_group_follows_one_demonstration(tmp_path: Path) -> None:
    _store(tmp_path)
    found = _collect(path=str(tmp_path), decay=0.5, tasks=6)
    for one, other in zip(found[::2], found[1::2], strict=True):
        assert one.seed == other.seed and one.task == other.task


def test_places_follow_their_law(tmp_path: Path) -> None:
    """ReOPD: t turns with a probability in proportion to decay^t; hardly any decays to none."""
    _store(tmp_path)
    count = Counter(
        _replayed(t)
        for t in _collect(path=str(tmp_path), decay=0.5, tasks=150, group=1, max_turn_tokens=1)
        if not t.error
    )
    assert all(_replayed(t) == 0 for t in _collect(path=str(tmp_path), decay=1e-9, single=True))
    lengths = Counter(len(t.turns) for t in _collect(kind="student", tasks=3, group=1))
    (length,) = lengths
    expected = 0.5 ** np.arange(length) / (0.5 ** np.arange(length)).sum()
    often = np.array([count[t] for t in range(length)]) / sum(count.values())
    assert abs(often - expected).max() < 0.1


def test_a_single_turn_is_written_and_no_step_is_made(tmp_path: Path) -> None:
    store = {t.seed: t for t in _store(tmp_path)}
    before = Counting.steps
    found = _collect(path=str(tmp_path), decay=1.0, single=True)
    assert Counting.steps == before
    for t in found:
        count, told = _replayed(t), store[t.seed]
        assert len(t.turns) == count + 1 and t.end is EndReason.TURN_LIMIT
        stop = told.turns[count].start
        np.testing.assert_array_equal(t.ids[:stop], told.ids[:stop])
        assert [u.observation for u in t.turns] == [u.observation for u in told.turns[: count + 1]]


def test_an_environment_that_does_not_repeat_itself_is_named(tmp_path: Path) -> None:
    """By its observation before the first turn that differs; the episode is kept as failed."""
    _store(tmp_path, "Drifting")
    for t in _collect("Drifting", path=str(tmp_path), left=1):
        assert t.end is EndReason.ERROR and not t.turns
        assert "cannot be replayed: before turn 1 the environment said 'B" in t.error
        assert "check-env" in t.error


def test_a_prefix_that_plays_the_episode_to_its_end_is_recorded() -> None:
    for t in _collect(left=1, max_turns=2):
        assert t.end is EndReason.ERROR
        assert "the 2 turns that were replayed played the episode to its end" in t.error


def test_without_a_solution_the_episode_says_so() -> None:
    (one, *_) = _collect("Unsolved", left=1)
    assert one.end is EndReason.ERROR and "no 'reference'" in one.error


def test_a_search_replays_as_few_turns_as_solve_it() -> None:
    """Nobody solves it from nought or one `up`; the limit is two thirds of three turns."""
    found = _collect(search=0.67, max_turn_tokens=3)
    for group in (found[n : n + 2] for n in range(0, len(found), 2)):
        counts = {_replayed(t) for t in group}
        assert len(counts) == 1
        assert counts == {2} or any(t.success for t in group)


def test_the_guided_share_of_tasks_is_guided() -> None:
    guided = [_replayed(t) > 0 for t in _collect(left=1, guided=0.5, tasks=8)]
    assert guided == [False, False, True, True] * 4


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({}, "none of them is given"),
        ({"left": 1, "search": 0.2}, "left and search of them is given"),
        ({"decay": 0.5}, r"name demonstrations with rollout\.path"),
        ({"left": 1, "single": True}, r"name demonstrations with rollout\.path"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_read(written: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Rollout.model_validate({"kind": "prefix", **written})


def test_a_store_that_is_not_there_is_named_before_anything_is_played() -> None:
    rollout = Rollout.model_validate({"kind": "prefix", "left": 1, "path": "nowhere"})
    with pytest.raises(ValueError, match="nowhere holds no demonstrations"):
        rollout.prepare(Cast(STUDENT))


def test_demonstrations_of_another_environment_are_refused(tmp_path: Path) -> None:
    _store(tmp_path)
    with pytest.raises(ValueError, match=r"demonstrations of test_prefix:Counting, and this run"):
        _collect("Unsolved", path=str(tmp_path), left=1)
