"""The student written by itself twice: told and untold, each heard by how sure the told one is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scripted import random_model, toy_tokenizer

import agentopd.rollout.policies.hinted  # noqa: F401  (its kind)
from agentopd.base.types import Briefed, Owner, Trajectory
from agentopd.environment.contract import Info, TextEnv
from agentopd.environment.settings import EnvSettings
from agentopd.learning.method import Method
from agentopd.mixes.likelihood import Discriminant, Likelihood
from agentopd.models.chat import ChatTemplate
from agentopd.privilege.environment import GroundTruth
from agentopd.privilege.view import SystemView
from agentopd.privilege.whispered import Whisper
from agentopd.rollout.acting.mixture import _blended
from agentopd.rollout.policies.base import Cast, Rollout
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.signal.evidence import Opinion

TOKENIZER = toy_tokenizer()
STUDENT = random_model(TOKENIZER, seed=1)
SIZES = {"tasks": 4, "group": 1, "max_turns": 2, "max_turn_tokens": 4, "max_context": 400}


class Two(TextEnv):
    """Two turns, never solved; its solution is one word."""

    system_prompt = "rules"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.turn = 0
        said = f"B{1 + (seed or 0) % 4}"
        return said, {"task_id": str(seed), "reference": "wait", "success": False}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        self.turn += 1
        return "B1", 0.0, self.turn == 2, False, {"success": False}


def _collect(kind: str = "hinted", **written: Any) -> list[Trajectory]:
    rollout = Rollout.model_validate({"kind": kind, **SIZES, **written})
    rollout.prepare(Cast(STUDENT, None, lambda: Whisper((GroundTruth(),), SystemView())))
    settings = EnvSettings(id="test_blended:Two")
    return rollout.collect(settings, STUDENT, TransformersSampler(STUDENT), seed=3, step=0)


def _said(ids: np.ndarray, temperature: float) -> np.ndarray:
    """(T, V) the student's probabilities after each token of a context."""
    with torch.no_grad():
        logits_TV = STUDENT.logits(STUDENT.hidden(torch.from_numpy(ids)[None])[0])
    return torch.softmax(logits_TV.double() / temperature, -1).numpy()


@pytest.mark.parametrize(("blend", "temperature"), [(0.7, 1.0), (2.0, 0.5)])
def test_a_token_has_the_probability_of_the_blend(blend: float, temperature: float) -> None:
    """Read again in both histories, and multiplied in probability space."""
    shares = []
    for t in _collect(learn_under="plain", blend=blend, temperature=temperature):
        source = GroundTruth()
        briefed = Briefed(trajectory=t, privileges=source.whisper(t, [t]) or ())
        (view,) = SystemView().build([briefed], ChatTemplate(TOKENIZER))
        assert len(view.ids) > len(t.ids)
        plain_TV, told_TV = (_said(ids, temperature) for ids in (t.ids, view.ids))
        for place in t.trainable.nonzero()[0]:
            own_V, other_V = plain_TV[place - 1], told_TV[view.position[place] - 1]
            share = min(blend * -(other_V * np.log(other_V)).sum() / math.log(len(other_V)), 1.0)
            shares.append(share)
            both_V = other_V ** (1 - share) * own_V**share
            expected = math.log(both_V[t.ids[place]] / both_V.sum())
            assert t.logprob[place] == pytest.approx(expected, abs=2e-4)
        assert set(t.owner[t.trainable].tolist()) == {Owner.STUDENT}
        assert t.told is not None and np.array_equal(t.told, t.trainable)
    assert min(shares) < 0.95


def test_heard_alone_the_told_one_says_what_it_says_when_hinted() -> None:
    for one, other in zip(
        _collect(learn_under="plain", blend=0.0), _collect(learn_under="plain"), strict=True
    ):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_allclose(one.logprob, other.logprob, atol=1e-5)


def test_never_heard_it_is_an_ordinary_sample() -> None:
    for one, other in zip(
        _collect(learn_under="plain", blend=1e9), _collect("student"), strict=True
    ):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_allclose(one.logprob, other.logprob, atol=1e-5)


def test_what_the_one_rules_out_the_other_may_say_where_it_is_alone() -> None:
    sure_3 = torch.tensor([0.0, -math.inf, -math.inf])
    other_3 = torch.tensor([-math.inf, 0.5, 0.5]).log()
    assert torch.equal(_blended(other_3, sure_3, 0.7), sure_3)
    even_3 = torch.full((3,), 1 / 3).log()
    assert torch.equal(_blended(sure_3, even_3, 1.0), sure_3)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"learn_under": "hint"}, "set learn_under: plain"),
        ({"learn_under": "plain", "top_k": 3}, "leave them out"),
    ],
)
def test_a_blend_that_has_no_meaning_is_refused(other: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Rollout.model_validate({"kind": "hinted", "blend": 0.7, **other})


def test_a_tokens_power_is_large_where_others_would_have_said_it() -> None:
    """By hand: phi is 0, -1 and -5 nats, and 1."""
    said = Opinion(
        logprob_N=torch.tensor([-0.5, -2.0, -6.0, -0.2]),
        entropy_N=torch.tensor([0.5, 1.0, 1.0, 1.2]),
        top_N=torch.zeros(4),
    )
    found = Discriminant().powers(said)
    torch.testing.assert_close(found, torch.tensor([1.0, 2.0, 2.0, math.exp(-1)]))
    found = Discriminant(beta=2.0, most=9.0).powers(said)
    torch.testing.assert_close(found, torch.tensor([1.0, math.exp(0.5), 9.0, math.exp(-0.5)]))


def test_a_power_is_written_as_a_number_or_as_a_law() -> None:
    for written, power in ((1, 1.0), ({"beta": 2.0}, Discriminant(beta=2.0))):
        mix = Method.model_validate({"mix": {"kind": "nll", "power": written}}).mix
        assert isinstance(mix, Likelihood)
        assert mix.power == power
        again = Method.model_validate({"mix": mix.model_dump(mode="json")}).mix
        assert again == mix
