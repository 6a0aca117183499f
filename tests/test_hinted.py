"""The student, told what the teacher would be told: in its own prompt, or only while it acts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes import Scene, assert_same, scene_of
from scripted import random_model, toy_tokenizer
from trajectories import lessons_of, played

import agentopd.rollout.policies.hinted  # noqa: F401  (its kind)
from agentopd.base.types import EndReason, Owner, Trajectory
from agentopd.environment.contract import Info, TextEnv
from agentopd.environment.settings import EnvSettings
from agentopd.mixes.routing import HintedDistilled
from agentopd.privilege.environment import GroundTruth
from agentopd.privilege.view import SystemView
from agentopd.privilege.whispered import Whisper
from agentopd.rollout.policies.base import Cast, Rollout
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.reading import load_config
from agentopd.signal.groups import groups

TOKENIZER = toy_tokenizer()
STUDENT = random_model(TOKENIZER, seed=1)
WAIT = TOKENIZER.convert_tokens_to_ids("wait")
SIZES = {"tasks": 10, "group": 3, "max_turns": 2, "max_turn_tokens": 4, "max_context": 400}


class Picky(TextEnv):
    """Two turns; solved where the last answer's letters sum up to a multiple of five."""

    system_prompt = "rules"
    knows = "wait"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.turn = 0
        said = f"B{1 + (seed or 0) % 4}"
        return said, {"task_id": str(seed), "reference": self.knows, "success": False}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        self.turn += 1
        solved = self.turn == 2 and sum(map(ord, action)) % 5 == 0
        return "B1", float(solved), self.turn == 2, False, {"success": solved}


class Silent(Picky):
    """Has nothing to tell."""

    knows = ""


def _collect(env: str = "Picky", **written: Any) -> list[Trajectory]:
    rollout = Rollout.model_validate({"kind": "hinted", **SIZES, **written})
    rollout.prepare(Cast(STUDENT, None, lambda: Whisper((GroundTruth(),), SystemView())))
    settings = EnvSettings(id=f"test_hinted:{env}")
    return rollout.collect(settings, STUDENT, TransformersSampler(STUDENT), seed=3, step=0)


def _own_logprobs(t: Trajectory) -> np.ndarray:
    """(T,) the student's log-probabilities in the history that is kept, recomputed."""
    with torch.no_grad():
        logits_TV = STUDENT.logits(STUDENT.hidden(torch.from_numpy(t.ids)[None])[0])[:-1]
    own = torch.log_softmax(logits_TV, -1).gather(1, torch.from_numpy(t.ids)[1:, None])
    return np.concatenate([[np.nan], own.squeeze(1).numpy()])


def _told(t: Trajectory) -> bool:
    return WAIT in t.ids[t.owner == Owner.TEMPLATE]


def test_learnt_under_the_hint_it_stands_in_the_history() -> None:
    for t in _collect(learn_under="hint"):
        own = t.trainable
        assert _told(t) and t.told is None and own.any()
        np.testing.assert_allclose(t.logprob[own], _own_logprobs(t)[own], atol=1e-4)


def test_learnt_plain_it_stands_nowhere_and_acted_the_same() -> None:
    """The same tokens with the same log-probabilities, which are not those of the plain history."""
    hinted, plain = _collect(learn_under="hint"), _collect(learn_under="plain")
    apart = []
    for one, other in zip(hinted, plain, strict=True):
        assert not _told(other) and other.told is not None
        np.testing.assert_array_equal(other.told, other.trainable)
        np.testing.assert_array_equal(one.ids[one.trainable], other.ids[other.trainable])
        np.testing.assert_array_equal(one.logprob[one.trainable], other.logprob[other.trainable])
        own = other.trainable
        apart.append(abs(other.logprob[own] - _own_logprobs(other)[own]).max())
    assert max(apart) > 0.1


def _by_group(found: list[Trajectory]) -> list[list[Trajectory]]:
    return [found[n : n + 3] for n in range(0, len(found), 3)]


def test_only_where_a_whole_group_failed_it_is_told() -> None:
    """All but one of its episodes (NuRL); solved groups are untouched, and so are all where none
    fails: GRPO.
    """
    plain = _collect(kind="student")
    found = _collect(when="group_failed", again="all_but_one")
    tried = set()
    for before, after in zip(_by_group(plain), _by_group(found), strict=True):
        failed = not any(t.success for t in before)
        tried.add(failed)
        assert [_told(t) for t in after] == ([False, True, True] if failed else [False] * 3)
        for one, other in zip(before, after, strict=True):
            if not _told(other):
                np.testing.assert_array_equal(one.ids, other.ids)
                np.testing.assert_array_equal(one.logprob, other.logprob)
        assert len({t.task for t in after}) == 1
    assert tried == {True, False}


def test_what_is_played_again_is_drawn_anew() -> None:
    """Other random numbers than the first attempt's, the same every time."""
    settings = {"when": "group_failed", "again": "all", "learn_under": "plain"}
    first, second = _collect(**settings), _collect(**settings)
    assert [t.ids.tolist() for t in first] == [t.ids.tolist() for t in second]


def test_what_succeeds_told_is_kept_as_a_group_of_its_own() -> None:
    """HDPO: the rest of the failed group stays as it was, and is compared with itself alone."""
    settings = {"when": "group_failed", "keep": "solved", "learn_under": "plain"}
    plain, found = _collect(kind="student"), _collect(**settings)
    told = [t for t in found if t.told is not None]
    assert told and all(t.success for t in told)
    assert {t.task for t in told}.isdisjoint(t.task for t in found if t.told is None)
    for one, other in zip(plain, found, strict=True):
        assert other.told is not None or one.ids.tolist() == other.ids.tolist()
    assert all(len({t.told is None for t in group}) == 1 for group in groups(found))


def test_where_there_is_nothing_to_tell_the_untold_episodes_stay() -> None:
    plain = _collect("Silent", kind="student")
    found = _collect("Silent", when="group_failed")
    assert [t.ids.tolist() for t in found] == [t.ids.tolist() for t in plain]
    always = _collect("Silent")
    assert all(t.end is EndReason.ERROR and "anything to say" in t.error for t in always)


def test_hinted_episodes_are_distilled_and_the_others_rewarded() -> None:
    """No group failed: no episode is told, and the row's gradient is GRPO's."""
    one, other = played([7, 8], episode=0), played([5, 6], episode=1)
    routes = HintedDistilled().routes(lessons_of(replace(one, told=one.trainable), other))
    assert (routes[0].distil, routes[0].rl) == (1.0, 0.0)
    assert (routes[1].distil, routes[1].rl) == (0.0, 1.0)


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


def test_without_a_failed_group_hdpo_is_grpo(scene: Scene) -> None:
    """Of episodes that nobody was told anything of."""
    group = ("rollout.group=4",)
    hdpo = scene.gradient("mix={kind: hinted_distilled, rl: grpo}", "divergence=jsd", *group)
    assert_same(hdpo, scene.gradient("mix=rl", *group))


def test_the_rows_say_what_the_papers_do() -> None:
    nurl, hdpo = (load_config("configs/quickstart.yaml", [f"method={m}"]) for m in ("nurl", "hdpo"))
    assert nurl.rollout.kind == hdpo.rollout.kind == "hinted"
    assert hdpo.teacher.is_student and hdpo.rollout.foreign and not nurl.rollout.foreign
