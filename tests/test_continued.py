"""The teacher goes on behind the student's own turns, and stores chosen by what differs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripted import random_model, toy_tokenizer
from trajectories import played

import agentopd.rollout.policies.prefix  # noqa: F401  (its kind)
from agentopd.base.types import Owner, Trajectory
from agentopd.environment.contract import Info, TextEnv
from agentopd.environment.settings import EnvSettings
from agentopd.mixes.likelihood import authored
from agentopd.models.model import LanguageModel
from agentopd.rollout.policies.base import Cast, Rollout
from agentopd.rollout.policies.demonstrations import demonstrations_for
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.stored.demonstrations import Choice, most_divergent
from agentopd.stored.trajectories import save_trajectories
from agentopd.teachers.copies import FrozenTeacher

TOKENIZER = toy_tokenizer()
STUDENT, TEACHER = (random_model(TOKENIZER, seed=seed) for seed in (1, 2))
SIZES = {"tasks": 5, "max_turns": 9, "max_turn_tokens": 4, "max_context": 400}


class Four(TextEnv):
    """Four turns; says how many there were."""

    system_prompt = "rules"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.turn = 0
        return f"B{1 + (seed or 0) % 4}", {"task_id": str(seed), "success": False}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        self.turn += 1
        return f"{self.turn}", 0.0, self.turn == 4, False, {"success": False}


def _collect(written: dict[str, Any], step: int = 0) -> list[Trajectory]:
    rollout = Rollout.model_validate({**SIZES, **written})
    teacher = FrozenTeacher()
    teacher.prepare(TEACHER)
    rollout.prepare(Cast(STUDENT, teacher))
    settings = EnvSettings(id="test_continued:Four")
    return rollout.collect(settings, STUDENT, TransformersSampler(STUDENT), seed=3, step=step)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("played")
    save_trajectories(_collect({"kind": "student"}), folder / "step-00000.parquet")
    return folder


def _logprobs(model: LanguageModel, t: Trajectory) -> np.ndarray:
    """(T,) what a model says of each token, by a plain pass over all of the episode."""
    with torch.no_grad():
        logits_TV = model.logits(model.hidden(torch.from_numpy(t.ids)[None])[0])[:-1]
    own = torch.log_softmax(logits_TV, -1).gather(1, torch.from_numpy(t.ids)[1:, None])
    return np.concatenate([[np.nan], own.squeeze(1).numpy()])


def test_behind_the_students_turns_the_teacher_writes_and_is_learnt_alone(store: Path) -> None:
    continued = {"kind": "prefix", "path": str(store), "decay": 1.0, "by": "teacher"}
    places = set[int]()
    for t in (t for step in range(3) for t in _collect(continued, step)):
        owners = [set(t.owner[u.start : u.stop].tolist()) for u in t.turns]
        count = owners.count({Owner.DEMO})
        places.add(count)
        assert owners == [{Owner.DEMO}] * count + [{Owner.TEACHER}] * (4 - count)
        own = t.owner == Owner.TEACHER
        np.testing.assert_array_equal(t.trainable, own)
        np.testing.assert_array_equal(authored(t, ["teacher"]).trainable, own)
        np.testing.assert_allclose(t.logprob[own], _logprobs(TEACHER, t)[own], atol=1e-4)
        assert t.student_tokens == 0
    assert places == {0, 1, 2, 3}


def test_from_the_first_turn_on_it_is_the_teachers_own_rollout(store: Path) -> None:
    """With nothing replayed, under the seed of the demonstration: `acted`."""
    first = {"kind": "prefix", "path": str(store), "left": 9, "by": "teacher"}
    for one in _collect(first):
        assert set(one.owner[one.trainable].tolist()) == {Owner.TEACHER}
        assert not (one.owner == Owner.DEMO).any()
    unguided = {**first, "guided": 1e-9}
    for one, other in zip(_collect(unguided), _collect({"kind": "acted"}), strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.trainable, other.trainable)


def test_the_half_that_differs_most_is_kept_in_its_order() -> None:
    episodes = [played([5], episode=n) for n in range(5)]
    kept = most_divergent(episodes, [0.3, 0.9, -1.0, 0.9, 0.1], 0.5)
    assert [t.episode for t in kept] == [0, 1, 3]
    assert [t.episode for t in most_divergent(episodes, [0.9] * 5, 0.2)] == [0]


def test_what_differs_is_measured_of_the_tokens_that_are_learnt(tmp_path: Path) -> None:
    """By the teacher's episodes read again, and half of them left."""
    episodes = _collect({"kind": "acted"})
    save_trajectories(episodes, tmp_path / "step-00000.parquet")
    gaps = []
    for t in episodes:
        own = t.trainable
        gaps.append(float((t.logprob[own] - _logprobs(STUDENT, t)[own]).mean()))
    expected = [n for n in range(5) if gaps[n] >= sorted(gaps, reverse=True)[2]]
    kept = demonstrations_for(STUDENT, str(tmp_path), Choice(divergent=0.5))
    assert [t.episode for t in kept] == expected
    assert len(demonstrations_for(STUDENT, str(tmp_path), Choice())) == 5


def test_what_nobody_drew_cannot_be_chosen_by_chances(tmp_path: Path) -> None:
    (episode, *_) = _collect({"kind": "acted"})
    nobodys = replace(episode, logprob=np.full_like(episode.logprob, math.nan))
    save_trajectories([nobodys], tmp_path / "step-00000.parquet")
    with pytest.raises(ValueError, match="holds some that nobody drew"):
        demonstrations_for(STUDENT, str(tmp_path), Choice(divergent=0.5))
