"""Bridges: a turn of the teacher's in the student's place, kept where that leads on better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes import ENV, Scene, assert_same, scene_of
from scripted import random_model, toy_tokenizer

import agentopd.rollout.policies.bridged  # noqa: F401  (its kind)
from agentopd.base.types import EndReason, Owner, Trajectory
from agentopd.environment.contract import Info, TextEnv
from agentopd.environment.settings import EnvSettings
from agentopd.learning.method import AXES
from agentopd.models.model import LanguageModel
from agentopd.rollout.policies.base import Cast, Rollout
from agentopd.rollout.policies.directed import Directed
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.reading import parse_config
from agentopd.teacher import Teacher

TOKENIZER = toy_tokenizer()
STUDENT, TEACHER = (random_model(TOKENIZER, seed=n, initializer_range=0.15) for n in (1, 2))
SIZES = {"tasks": 6, "group": 2, "max_turns": 8, "max_turn_tokens": 3, "max_context": 400}
HORIZON = 2


class Counting(TextEnv):
    """Says what it heard; some answers cannot be read, and some end the episode."""

    drift = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.heard = 0
        return f"B{1 + (seed or 0) % 4}{self.drift}", self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        self.heard += 1
        number = sum(map(ord, action))
        info = self._info() | {"action_valid": number % 9 != 0}
        return f"{action} {self.heard}", 0.0, number % 13 == 0, False, info

    def _info(self) -> Info:
        return {"task_id": "t", "success": False, "reference": "up up up"}

    action_form = "{}"


class Drifting(Counting):
    """Does not repeat itself."""

    episodes = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        Drifting.episodes += 1
        self.drift = " 1" * Drifting.episodes
        return super().reset(seed=seed)


class Standing(Teacher, kind="standing_for_bridges"):
    """A model that never moves."""

    def prepare(self, student: LanguageModel) -> None:
        self._model = student


@dataclass
class Step:
    """What a rollout gave, and what it played: episodes, bridges, the two sorts of branches."""

    given: list[Trajectory]
    played: list[list[Trajectory]]
    spent: tuple[int, int]

    @property
    def bridges(self) -> list[Trajectory]:
        return [t for t in self.given if t.attempt]


def _step(
    monkeypatch: pytest.MonkeyPatch,
    teacher: LanguageModel = TEACHER,
    env: str = "Counting",
    **written: Any,
) -> Step:
    own, heard, play = Standing(), list[list[Trajectory]](), Directed.play
    own.prepare(teacher)

    def listening(self: Directed, *arguments: Any) -> list[Trajectory]:
        heard.append(play(self, *arguments))
        return heard[-1]

    monkeypatch.setattr(Directed, "play", listening)
    written = {"kind": "bridged", "horizon": HORIZON, **SIZES, **written}
    rollout = Rollout.model_validate(written)
    rollout.prepare(Cast(STUDENT, own))
    settings = EnvSettings(id=f"test_bridged:{env}")
    given = rollout.collect(settings, STUDENT, TransformersSampler(STUDENT), seed=3, step=0)
    return Step(given, heard, rollout.spent)


def _gap(trajectory: Trajectory) -> np.ndarray:
    """(T,) log q - log p by plain forward passes."""
    ids_T = torch.from_numpy(trajectory.ids)
    said = []
    for model in (TEACHER, STUDENT):
        with torch.no_grad():
            logprob_TV = model.module(input_ids=ids_T[None]).logits[0, :-1].log_softmax(-1)
        said.append(logprob_TV.gather(1, ids_T[1:, None]).squeeze(1))
    return np.concatenate([[np.nan], (said[0] - said[1]).numpy()])


def _turn_of(trajectory: Trajectory) -> int | None:
    """Where a bridge is to be tried, by the definition."""
    gap_T = _gap(trajectory)
    means = {
        turn.index: -gap_T[turn.start : turn.stop].mean()
        for turn in trajectory.turns[:-1]
        if turn.valid and trajectory.owner[turn.start] == Owner.STUDENT
    }
    return max(means, key=lambda turn: means[turn]) if means else None


def _share(branch: Trajectory) -> float:
    """Of the student's tokens in a branch that the teacher likes better."""
    return float((_gap(branch)[branch.owner == Owner.STUDENT] > 0).mean())


def _complete(branch: Trajectory, turns: int) -> bool:
    fresh = [turn.valid for turn in branch.turns if branch.owner[turn.start] == Owner.STUDENT]
    return len(branch.turns) == turns and len(fresh) == HORIZON and all(fresh)


def _same(some: Sequence[Trajectory], others: Sequence[Trajectory]) -> None:
    for one, other in zip(some, others, strict=True):
        for name in ("ids", "owner", "logprob", "trainable"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (one.turns, one.end, one.episode) == (other.turns, other.end, other.episode)


def test_a_teacher_that_is_the_student_keeps_nothing_and_it_is_the_prefix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither prefers any token more: scores are equal, and equal scores are dropped."""
    step = _step(monkeypatch, teacher=STUDENT, left=2)
    assert [len(some) > 0 for some in step.played] == [True] * 4
    prefix = Rollout.model_validate({"kind": "prefix", "left": 2, **SIZES})
    prefix.prepare(Cast(STUDENT))
    settings = EnvSettings(id="test_bridged:Counting")
    plain = prefix.collect(settings, STUDENT, TransformersSampler(STUDENT), seed=3, step=0)
    _same(step.given, plain)


def test_without_a_law_nothing_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    step = _step(monkeypatch, teacher=STUDENT)
    plain = Rollout.model_validate({"kind": "student", **SIZES})
    settings = EnvSettings(id="test_bridged:Counting")
    _same(
        step.given,
        plain.collect(settings, STUDENT, TransformersSampler(STUDENT), seed=3, step=0),
    )


def test_the_places_and_the_verdicts_are_those_of_the_definition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of every episode the turn of the largest mean; of the two branches behind it the shares."""
    step = _step(monkeypatch, left=2, tasks=12)
    episodes, bridges, base, onward = step.played
    places = {t.episode: turn for t in episodes if (turn := _turn_of(t)) is not None}
    assert {t.episode - 10**9: len(t.turns) - 1 for t in bridges} == places
    kept = set[int]()
    for one, other in zip(base, onward, strict=True):
        number = one.episode - 2 * 10**9
        turns = places[number] + 1 + HORIZON
        if _complete(one, turns) and _complete(other, turns) and _share(other) > _share(one):
            kept.add(number)
    assert {t.attempt.first for t in step.bridges if t.attempt} == kept
    assert 0 < len(kept) < len(base) < len(episodes)


def test_branches_begin_where_the_episode_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """One behind the student's own turn, one behind the bridge, both token for token."""
    episodes, bridges, base, onward = _step(monkeypatch, left=2).played
    own, bridge = ({t.episode % 10**9: t for t in some} for some in (episodes, bridges))
    for branches, whose in ((base, own), (onward, bridge)):
        for branch in branches:
            number = branch.episode % 10**9
            stop = whose[number].turns[len(bridge[number].turns) - 1].stop
            np.testing.assert_array_equal(branch.ids[:stop], whose[number].ids[:stop])
            assert not (branch.owner[:stop] == Owner.STUDENT).any()
            assert len(branch.turns) <= len(bridge[number].turns) + HORIZON


def test_without_validation_every_bridge_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    step = _step(monkeypatch, left=2, validated=False)
    episodes, bridges = step.played
    assert [t.episode for t in step.given] == [t.episode for t in (*episodes, *bridges)]
    assert step.spent == (0, 0)
    own = {t.episode: t for t in episodes}
    for t in step.bridges:
        assert t.attempt and t.attempt.kind == "bridge" and not t.acts
        turn = t.turns[-1]
        place = np.zeros(len(t.ids), bool)
        place[turn.start : turn.stop] = True
        np.testing.assert_array_equal(t.trainable, place)
        np.testing.assert_array_equal(t.owner == Owner.TEACHER, place)
        np.testing.assert_array_equal(t.told, place)
        before = own[t.attempt.first]
        np.testing.assert_array_equal(t.ids[: turn.start], before.ids[: turn.start])
        said = [[(u.observation, u.action) for u in x.turns[: turn.index]] for x in (t, before)]
        assert said[0] == said[1] and before.turns[turn.index].valid


def test_random_places_are_any_of_the_open_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    step = _step(monkeypatch, left=2, trigger="random", validated=False, tasks=12)
    own = {t.episode: t for t in step.played[0]}
    chosen = [(own[t.episode - 10**9], t.turns[-1].index) for t in step.played[1]]
    assert all(t.turns[turn].valid and turn < len(t.turns) - 1 for t, turn in chosen)
    assert any(turn != _turn_of(t) for t, turn in chosen)


def test_all_that_was_sampled_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    step = _step(monkeypatch, left=2)
    every = [t for some in step.played for t in some]
    student, teacher = (
        sum(getattr(t, name) for t in step.given) + spent
        for name, spent in zip(("student_tokens", "acted_tokens"), step.spent, strict=True)
    )
    assert student == sum(t.student_tokens for t in every) > 0
    assert teacher == sum(t.acted_tokens for t in every) > 0


def test_an_environment_that_does_not_repeat_itself_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The episodes themselves are whole: nothing is lost."""
    step = _step(monkeypatch, env="Drifting")
    assert step.bridges and not any(t.error for t in step.given if not t.attempt)
    for t in step.bridges:
        assert t.end is EndReason.ERROR and not t.learnable
        assert "cannot be replayed: before turn 1 the environment said 'B" in t.error


def test_a_bridge_that_no_step_leads_on_from_is_refused() -> None:
    with pytest.raises(ValueError, match="bridged plays on from the turn"):
        Rollout.model_validate({"kind": "bridged", "decay": 0.5, "path": "x", "single": True})


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


def test_ftb_is_tcod_b2f_but_for_its_rollout() -> None:
    rows = [parse_config(ENV, [f"method={x}"]).model_dump(mode="json") for x in ("ftb", "tcod_b2f")]
    ftb, tcod = ({axis: row[axis] for axis in AXES} for row in rows)
    prefix = {key: ftb["rollout"][key] for key in tcod["rollout"]}
    assert prefix == tcod["rollout"] | {"kind": "bridged"}
    assert ftb | {"rollout": None} == tcod | {"rollout": None}


def test_without_bridges_ftb_learns_what_tcod_b2f_does(scene: Scene) -> None:
    found, plain = (scene.gradient(f"method={x}") for x in ("ftb", "tcod_b2f"))
    assert torch.equal(found, plain)


def test_a_bridge_counts_log_q_less_log_p_once(scene: Scene) -> None:
    """From the student's log-probability on, whoever wrote it: the gradient, written out."""
    (one, *_), (lesson, *_) = scene.trajectories, scene.lessons
    owner = np.where(one.trainable, Owner.TEACHER, one.owner)
    bridge = replace(one, owner=owner, told=one.trainable)
    taught = replace(lesson, trajectory=bridge)
    _, found, twin = scene.learn("method=ftb", trajectories=[bridge], lessons=[taught])
    twin = scene.student.frozen_copy()
    twin.module.requires_grad_(True)
    ids_T = torch.from_numpy(one.ids)
    place_N = torch.from_numpy(one.trainable.nonzero()[0])
    p_N, q_N = (
        m.module(input_ids=ids_T[None])
        .logits[0, place_N - 1]
        .log_softmax(-1)
        .gather(1, ids_T[place_N, None])
        for m in (twin, scene.teacher.model)
    )
    (-(q_N - p_N).detach() * p_N).mean().backward()
    parts = [p.grad for p in twin.module.parameters() if p.grad is not None]
    assert found is not None
    assert_same(found, torch.cat([part.flatten() for part in parts]), within=1e-5)
