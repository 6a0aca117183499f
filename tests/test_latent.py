"""Episodes of a posterior as the student's latent thoughts: weights by hand, and their ends."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import ENV, Scene, assert_same, scene_of
from trajectories import lessons_of, opinion_of, played, tokens_of

from agentopd.base.types import Owner, Trajectory
from agentopd.base.written import ConfigError
from agentopd.mixes.told.latent import Latent
from agentopd.running.reading import parse_config, stage_configs
from agentopd.running.stages.references import Left, resolved
from agentopd.signal.evidence import Measured

LATENT = "mix=latent"


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


def _solved(t: Trajectory, solved: bool = True) -> Trajectory:
    last = replace(t.turns[-1], info={**t.turns[-1].info, "success": solved})
    return replace(t, turns=(*t.turns[:-1], last))


def _own(scene: Scene, t: Trajectory) -> Trajectory:
    """The episode with the student's own log-probabilities: q is p."""
    ids_1T = torch.from_numpy(t.ids)[None]
    own = torch.from_numpy(t.trainable.nonzero()[0])
    with torch.no_grad():
        logits_NV = scene.student.module(input_ids=ids_1T).logits[0, own - 1].log_softmax(-1)
    logprob = t.logprob.copy()
    logprob[own.numpy()] = logits_NV.gather(1, ids_1T[0, own, None])[:, 0].numpy()
    return replace(t, logprob=logprob)


def test_weights_by_hand() -> None:
    """Of three episodes two are solved; log p - log q is on average ln 3 in one, 0 in the other.

    The weights are 3 x (3/4, 1/4, 0), and lengths do not count: one has two tokens, one has four.
    """
    said = [0.9, 0.1, 0.5, 0.5, 0.5, 0.5, 0.7]
    drawn = [0.1, 0.1, 0.5, 0.5, 0.5, 0.5, 0.1]
    step = [
        _solved(played([5, 6], episode=0)),
        _solved(played([5, 6, 7, 8], episode=1)),
        _solved(played([5], episode=2), solved=False),
    ]
    tokens = tokens_of(*step)
    tokens = replace(tokens, behaviour_N=torch.tensor(drawn, dtype=torch.float64).log())
    mix, measured = Latent(), Measured(student=opinion_of(said))
    score_L = mix.scored(measured, tokens, lessons_of(*step)).tolist()
    assert score_L == pytest.approx([math.log(3), 0.0, math.log(7)])
    weights = mix.rewards(step, dict(enumerate(score_L)))
    assert weights == pytest.approx({0: 9 / 4, 1: 3 / 4, 2: 0.0})


def test_a_task_that_nobody_solved_teaches_nothing_and_takes_from_no_other() -> None:
    step = [_solved(played([5], episode=n, task=n // 2), solved=n == 3) for n in range(4)]
    weights = Latent().rewards(step, dict.fromkeys(range(4), -800.0))
    assert weights == {0: 0.0, 1: 0.0, 2: 0.0, 3: 2.0}


def test_where_the_posterior_is_the_student_it_is_the_likelihood_of_its_own_samples(
    scene: Scene,
) -> None:
    """q = p and all solved: w = 1 of each."""
    step = [_own(scene, _solved(t)) for t in scene.trajectories]
    found = scene.gradient(LATENT, trajectories=step, lessons=[])
    assert_same(found, scene.gradient("mix=nll", trajectories=step, lessons=[]), within=1e-5)


def test_one_sample_a_task_is_rejection_fine_tuning(scene: Scene) -> None:
    """K = 1: w = 1 where it was solved, whatever p and q are; failures stay in the average."""
    step = [replace(t, task=t.episode) for t in scene.trajectories]
    found = scene.gradient(LATENT, trajectories=step, lessons=[])
    kept = [t for t in step if t.success]
    assert 0 < len(kept) < len(step)
    nll = scene.gradient("mix={kind: nll, keep: {success: true}}", trajectories=step, lessons=[])
    tokens = [sum(int(t.trainable.sum()) for t in x) for x in (kept, step)]
    assert_same(found, nll * tokens[0] / tokens[1])


def test_the_teachers_episodes_count_by_what_the_student_says_of_them(scene: Scene) -> None:
    """The gradient is the weighted sum of each episode's own, by weights made of its logits."""
    rng = np.random.default_rng(1)
    step = []
    for t in scene.trajectories[:4]:
        owner = np.where(t.trainable, Owner.TEACHER, Owner.TEMPLATE).astype(np.uint8)
        drawn = np.where(t.trainable, rng.uniform(-7, -4, len(t.ids)), np.nan)
        step.append(_solved(replace(t, owner=owner, logprob=drawn.astype(np.float32))))
    found = scene.gradient(LATENT, trajectories=step, lessons=[])
    means = []
    for t in step:
        gap = _own(scene, t).logprob[t.trainable] - t.logprob[t.trainable]
        means.append(math.exp(gap.mean()))
    sizes = [int(t.trainable.sum()) for t in step]
    expected = sum(
        4 * mean / sum(means) * size / sum(sizes)
        * scene.gradient("mix=nll", trajectories=[t], lessons=[])
        for t, mean, size in zip(step, means, sizes, strict=True)
    )  # fmt: skip
    assert isinstance(expected, torch.Tensor)
    assert_same(found, expected, within=1e-5)


def test_the_row_lets_the_posterior_act_before_the_student_of_the_first_stage() -> None:
    legs = {
        leg.name: (leg, own) for leg, own in stage_configs(parse_config(ENV, ["method=var_reason"]))
    }
    left = Left("first").trained(legs["sft"][0], "the student", "a")
    left = left.trained(legs["posterior"][0], "the posterior", "b")
    leg, own = legs["reason"]
    found = resolved(own, leg, left)
    assert found.student.path == "the student" and found.rollout.group == 8
    assert found.teacher.source.path == "the posterior"  # type: ignore[attr-defined]
    assert not legs["posterior"][1].rollout.foreign
    alone = Left("first")
    with pytest.raises(ConfigError, match="stage:sft refers to nothing: no stage of that name"):
        resolved(own, leg, alone)


def test_weights_that_would_all_be_one_are_refused() -> None:
    hinted = "rollout={kind: hinted, learn_under: plain, group: 8}"
    with pytest.raises(ConfigError, match="ratio: sampled"):
        parse_config(ENV, [LATENT, hinted, "privilege=ground_truth"])
