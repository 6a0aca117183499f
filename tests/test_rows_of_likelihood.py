"""Rows made of demonstrations and stages: each in the words of a row it must equal, or by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import Scene, axes_of, row_of, scene_of, stages_of
from trajectories import played

from agentopd.base.types import Owner
from agentopd.divergences.linear import measure
from agentopd.divergences.question import Question
from agentopd.mixes.advantages import Grpo, Rloo
from agentopd.models.head import Head


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


def test_the_second_half_of_qwen3_is_opd() -> None:
    assert axes_of(stages_of("qwen3_opd")["3-opd"]) == axes_of(row_of("opd"))


def test_stable_opd_without_its_terms_is_opd() -> None:
    bare = stages_of("stable_opd", "mix.kl_coefficient=0", "stages.opd.gold=null")["2-opd"]
    assert axes_of(bare) == axes_of(row_of("opd"))


def test_tinker_is_opd_by_the_sampled_log_ratio(scene: Scene) -> None:
    """By one rule and by another: the same gradient, which is not that of all categories."""
    small = ("teacher=frozen", "rollout.tasks=2")
    tinker = scene.gradient("method=tinker_opd", *small)
    sampled = scene.gradient("method=opd", *small, "divergence.support=sampled")
    assert torch.equal(tinker, sampled)
    assert not torch.equal(tinker, scene.gradient("method=opd", *small))


def test_seq_kd_is_sft_on_the_teachers_episodes(scene: Scene) -> None:
    theirs = [
        replace(t, owner=np.where(t.trainable, Owner.TEACHER, Owner.TEMPLATE))
        for t in scene.trajectories
    ]
    mixes = (stages_of("seq_kd")["2-sft"].mix, stages_of("sft")["2-sft"].mix)
    one, other = (
        scene.gradient(f"mix={mix.model_dump_json()}", lessons=[], trajectories=theirs)
        for mix in mixes
    )
    assert torch.equal(one, other)


def test_the_rounds_of_iterative_sft_each_learn_what_the_last_student_solved() -> None:
    config = row_of("iterative_sft")
    assert [leg.folder for leg in config.legs] == [
        "1-collect", "2-sft", "3-collect", "4-sft", "5-collect", "6-sft",
    ]  # fmt: skip
    for leg in config.legs:
        assert leg.stage.start == "previous"
        if leg.stage.collect is not None:
            assert (leg.stage.collect.by, leg.stage.collect.keep.success) == ("student", True)


def test_essd_learns_nothing_on_average_from_what_it_samples_as_it_is() -> None:
    """Over all tokens, each as often as it is sampled: at its own temperature the gradients cancel,
    at 1.5 and among the 3 likeliest they do not.
    """
    generator = torch.Generator().manual_seed(0)
    logits_V = torch.randn(7, generator=generator, dtype=torch.float64)
    one_VV, ids_N = torch.eye(7, dtype=torch.float64), torch.arange(7)

    def expected(chances_V: torch.Tensor) -> torch.Tensor:
        live_NV = logits_V.expand(7, 7).clone().requires_grad_()
        said = measure(Question(ids_N, None), Head(live_NV, one_VV))
        (-(chances_V * said.student.logprob_N)).sum().backward()
        assert live_NV.grad is not None
        return live_NV.grad.sum(0)

    assert expected(logits_V.softmax(0)).abs().max() < 1e-12
    hot_V = (logits_V / 1.5).where(logits_V >= logits_V.topk(3).values[-1], -torch.inf)
    assert expected(hot_V.softmax(0)).abs().max() > 1e-2
    rollout = stages_of("essd")["1-collect"].rollout
    assert (rollout.temperature, rollout.top_p, rollout.top_k) == (1.5, 0.8, 20)


def test_rloo_is_centred_grpo_but_for_the_size_of_the_group() -> None:
    pair = [played([1], rewards=[r], episode=n) for n, r in enumerate((1.0, 0.0))]
    assert Rloo().of(pair) == {0: 1.0, 1: -1.0}
    assert Grpo(std=False).of(pair) == {0: 0.5, 1: -0.5}
    rl = row_of("rloo").mix.rl_channel
    assert isinstance(rl, Rloo)


def test_each_round_of_star_teaches_the_first_student_what_the_last_one_collected() -> None:
    """With no hint and the last student in its place it is iterative SFT."""
    rounds = [leg.stage for leg in row_of("star").legs]
    collecting, teaching = rounds[0::2], rounds[1::2]
    assert [stage.start for stage in teaching] == ["initial"] * 3
    assert [stage.start for stage in collecting] == ["previous"] * 3
    star, iterative = (stages_of(name)["2-sft"] for name in ("star", "iterative_sft"))
    assert axes_of(star) == axes_of(iterative)
    collected = stages_of("star")["1-collect"]
    hinted = collected.rollout
    assert (hinted.group, hinted.recomputes, hinted.tells) == (1, True, True)
    assert [source.kind for source in collected.privilege] == ["ground_truth"]
