"""Others' episodes in a group's places: stored ones where it failed (NPO), the teacher's where a
judge rejects the student's (OVD).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes import Scene, assert_same, scene_of
from scripted import random_model, toy_tokenizer

from agentopd.base.types import Owner, Trajectory
from agentopd.environment.contract import Info, TextEnv
from agentopd.environment.settings import EnvSettings
from agentopd.mixes.advantages import Grpo
from agentopd.models.model import LanguageModel
from agentopd.rollout.acting.judging import Judge
from agentopd.rollout.policies.base import Cast, Rollout
from agentopd.rollout.policies.places import JudgedRollout, StoredRollout, standing_in
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.reading import parse_config, stage_configs
from agentopd.signal.groups import groups
from agentopd.stored.trajectories import save_trajectories
from agentopd.teachers.copies import FrozenTeacher

TOKENIZER = toy_tokenizer()
STUDENT, OTHER = (random_model(TOKENIZER, seed=seed) for seed in (1, 2))
SIZES = {"tasks": 6, "group": 3, "max_turns": 2, "max_turn_tokens": 4, "max_context": 400}
ROW = {"env": {"id": "agentopd/Sokoban-v0"}}


class Picky(TextEnv):
    """Two turns; solved where the last answer's letters sum up to a multiple of four."""

    system_prompt = "rules"
    first = "B"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.turn = 0
        return f"{self.first}{1 + (seed or 0) % 4}", {"task_id": str(seed), "success": False}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        self.turn += 1
        solved = self.turn == 2 and sum(map(ord, action)) % 4 == 0
        return "B1", float(solved), self.turn == 2, False, {"success": solved}


class Otherwise(Picky):
    """Begins otherwise under the same seed."""

    first = "A"


class BySuccess(Judge):
    """Solved episodes are excellent, others poor, and of one in three nothing can be said."""

    silent: bool = False

    def grades(self, trajectories: Sequence[Trajectory]) -> list[int | None]:
        found = [8 if t.success else 3 for t in trajectories]
        return [
            None if self.silent and t.episode % 3 == 0 else g
            for t, g in zip(trajectories, found, strict=True)
        ]


def _collect(
    rollout: Rollout, env: str = "Picky", student: LanguageModel = STUDENT
) -> list[Trajectory]:
    teacher = FrozenTeacher()
    teacher.prepare(OTHER)
    rollout.prepare(Cast(student, teacher))
    settings = EnvSettings(id=f"test_places:{env}")
    return rollout.collect(settings, student, TransformersSampler(student), seed=3, step=0)


def _played(student: LanguageModel = STUDENT, **sizes: Any) -> list[Trajectory]:
    rollout = Rollout.model_validate({"kind": "student", **SIZES, **sizes})
    return _collect(rollout, student=student)


def _same(one: Trajectory, other: Trajectory) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=name == "logprob")
        for name in ("ids", "owner", "trainable", "logprob")
    ) and (one.episode, one.task, one.seed) == (other.episode, other.task, other.seed)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What another model has played of the same tasks, and of others, thirty-two times each."""
    folder = tmp_path_factory.mktemp("later")
    save_trajectories(_played(OTHER, tasks=8, group=32), folder / "episodes-00000.parquet")
    return folder


def _stored(path: Path, **settings: Any) -> StoredRollout:
    return StoredRollout.model_validate({"path": str(path), **SIZES, **settings})


def test_a_failed_group_ends_with_a_stored_episode_of_its_task_and_no_other_does(
    store: Path,
) -> None:
    plain, rollout = _played(), _stored(store)
    found, tried = _collect(rollout), set()
    for before, after in zip(groups(plain), groups(found), strict=True):
        failed = not any(t.success for t in before)
        tried.add(failed)
        assert all(map(_same, before[:-1], after[:-1]))
        last = after[-1]
        assert (last.episode, last.task, last.seed) == (
            before[-1].episode, before[-1].task, before[-1].seed
        )  # fmt: skip
        assert last.success if failed else _same(before[-1], last)
        assert (Owner.TEACHER in last.owner) == failed
    assert tried == {True, False}
    filled = sum(Owner.TEACHER in t.owner for t in found) / SIZES["tasks"]
    assert rollout.scalars() == {"places_stored": filled}


def test_a_stored_episode_keeps_the_log_probabilities_of_who_sampled_it(store: Path) -> None:
    stored = {t.logprob.tobytes() for t in _played(OTHER, tasks=8, group=32)}
    for t in _collect(_stored(store)):
        if Owner.TEACHER in t.owner:
            assert t.logprob.tobytes() in stored
            np.testing.assert_array_equal(t.trainable, t.owner == Owner.TEACHER)
            assert np.isfinite(t.logprob[t.trainable]).all()


def test_where_nothing_is_stored_of_a_task_it_is_grpo(tmp_path: Path) -> None:
    """Of no task of the step; the row differs from `grpo` in its rollout alone."""
    strangers = [replace(t, seed=t.seed + 1_000) for t in _played(OTHER, group=32)]
    save_trajectories(strangers, tmp_path / "episodes-00000.parquet")
    assert all(map(_same, _played(), _collect(_stored(tmp_path))))
    *_, (_, npo) = stage_configs(parse_config(ROW, ["method=npo"]))
    grpo = parse_config(ROW, ["method=grpo"])
    differ = {
        key
        for key, value in grpo.model_dump(mode="json").items()
        if value != npo.model_dump(mode="json")[key]
    }
    assert differ <= {"rollout", "method", "seed"}
    assert npo.rollout.kind == "stored"


def test_below_the_rate_a_group_counts_as_failed(store: Path) -> None:
    found = _collect(_stored(store, rate=0.99))
    for before, after in zip(groups(_played()), groups(found), strict=True):
        assert (Owner.TEACHER in after[-1].owner) == (not all(t.success for t in before))


def test_a_stored_success_in_a_dead_group_makes_advantages() -> None:
    """By hand: rewards (0, 0, 0, 1) have mean 1/4 and deviation sqrt(3)/4."""
    plain = [t for t in _played(tasks=40, group=4) if not t.success][:4]
    group = [replace(t, task=0, episode=n) for n, t in enumerate(plain)]
    assert list(Grpo().of(group).values()) == [0.0] * 4
    solved = next(t for t in _played(tasks=40, group=4) if t.success)
    found = Grpo().of([*group[:3], standing_in(solved, group[3])])
    assert list(found.values()) == pytest.approx([-0.57735, -0.57735, -0.57735, 1.73205], abs=1e-4)


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


@pytest.mark.parametrize("logprob", [-4.0, -5.5, -8.0])
def test_its_tokens_count_with_the_true_ratio_within_the_clip(scene: Scene, logprob: float) -> None:
    """Written out: the student's probability over that of who sampled, PPO's minimum."""
    own = [t for t in scene.trajectories if t.task == 0]
    other = replace(own[3], logprob=np.where(own[3].trainable, logprob, np.nan).astype(np.float32))
    solved = tuple(replace(turn, reward=3.0) for turn in other.turns[:1]) + other.turns[1:]
    group = [*own[:3], standing_in(replace(other, turns=solved), own[3])]
    rollout = "rollout={kind: stored, path: nowhere, group: 4}"
    update, found, _ = scene.learn("method=grpo", rollout, trajectories=group, lessons=[])
    advantages, losses, gaps = Grpo().of(group), list[torch.Tensor](), list[float]()
    twin = scene.student.frozen_copy()
    twin.module.requires_grad_(True)
    for t in group:
        chosen = torch.from_numpy(t.trainable.nonzero()[0])
        ids_1T = torch.from_numpy(t.ids)[None]
        p_NV = twin.module(input_ids=ids_1T).logits[0, chosen - 1].log_softmax(-1)
        p_N = p_NV.gather(1, ids_1T[0, chosen, None]).squeeze(1)
        ratio_N = (p_N - torch.from_numpy(t.logprob[t.trainable])).exp()
        if t.episode != own[3].episode:
            gaps.append(ratio_N.log().abs().max().item())
        advantage = advantages[t.episode]
        losses.append(-torch.minimum(ratio_N * advantage, ratio_N.clamp(0.8, 1.2) * advantage))
    torch.cat(losses).mean().backward()
    parts = [p.grad for p in twin.module.parameters() if p.grad is not None]
    assert found is not None
    assert_same(found, torch.cat([part.flatten() for part in parts]), within=1e-5)
    # The alarm hears the student's own tokens alone, whoever sampled the others.
    assert update.scalars["sampler_gap"] == pytest.approx(max(gaps), rel=1e-5)


def test_demonstrations_that_nobody_sampled_are_refused(tmp_path: Path) -> None:
    blank = [replace(t, logprob=np.full_like(t.logprob, np.nan)) for t in _played(group=8)]
    save_trajectories(blank, tmp_path / "episodes-00000.parquet")
    with pytest.raises(ValueError, match=r"nobody sampled.*collect by student, teacher or rollout"):
        _collect(_stored(tmp_path))


def test_a_store_of_another_environment_is_refused(store: Path) -> None:
    with pytest.raises(ValueError, match=r"begin otherwise than test_places:Otherwise does"):
        _collect(_stored(store, rate=0.99), env="Otherwise")


def _judged(accept: int, **judge: Any) -> JudgedRollout:
    return JudgedRollout(judge=BySuccess(**judge), accept=accept, **SIZES)


def test_a_judge_that_accepts_all_leaves_grpo() -> None:
    assert all(map(_same, _played(), _collect(_judged(accept=0))))
    ovd, grpo = (parse_config(ROW, [f"method={x}"]) for x in ("ovd", "grpo"))
    assert ovd.mix == grpo.mix and ovd.rollout.group == grpo.rollout.group


def test_a_teacher_that_acts_is_not_said_to_change_nothing() -> None:
    assert not [x for x in parse_config(ROW, ["method=ovd"]).notices() if "teacher:" in x]


def test_a_judge_that_accepts_none_leaves_the_teacher_alone() -> None:
    for t in _collect(_judged(accept=10)):
        assert {*t.owner[t.trainable].tolist()} == {Owner.TEACHER}


def test_the_teacher_plays_in_the_place_of_what_is_rejected() -> None:
    """The same task, with the teacher's own log-probabilities; the others are untouched."""
    plain, rollout = _played(), _judged(accept=5)
    found, kinds = _collect(rollout), set()
    for before, after in zip(plain, found, strict=True):
        kinds.add(before.success)
        assert (after.episode, after.task, after.seed) == (before.episode, before.task, before.seed)
        if before.success:
            assert _same(before, after)
            continue
        with torch.no_grad():
            logits_TV = OTHER.logits(OTHER.hidden(torch.from_numpy(after.ids)[None])[0])[:-1]
        said = logits_TV.log_softmax(-1).gather(1, torch.from_numpy(after.ids)[1:, None]).squeeze(1)
        own = after.trainable.nonzero()[0]
        np.testing.assert_allclose(after.logprob[own], said[own - 1].numpy(), atol=1e-4)
    assert kinds == {True, False}
    failed = np.mean([not t.success for t in plain])
    graded = {"ungraded": 0.0, "grade": pytest.approx(3 * failed + 8 * (1 - failed))}
    assert rollout.scalars() == {**graded, "rejected": pytest.approx(failed)}


def test_what_cannot_be_graded_stays() -> None:
    rollout = _judged(accept=10, silent=True)
    for before, after in zip(_played(), _collect(rollout), strict=True):
        assert _same(before, after) == (before.episode % 3 == 0)
    assert rollout.scalars()["ungraded"] == SIZES["tasks"]
