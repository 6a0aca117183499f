"""Weights that need the whole step before its first micro-batch, and the survey of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scenes import AUXILIARY, ENV, Scene, assert_same, scene_of

from agentopd.learning.learner import Learner
from agentopd.learning.objective import Objective
from agentopd.learning.plan import Plan
from agentopd.learning.survey import Survey
from agentopd.running.reading import parse_config

SAMPLED = "divergence.support=sampled"
STEP = "weight=[{kind: gap_gate, renormalise: step}]"
METHODS = {
    "exact": (STEP, *AUXILIARY),
    "sampled": (STEP, SAMPLED, "unit=turn"),
    "weighted turns": (STEP, "unit={kind: turn, use: weight}"),
    "several": ("weight=[{kind: entropy, renormalise: step}, skip_first, depth_decay]",),
    "centroid": ("weight=[{kind: kl_centroid, centroid: step, reach: 0.6}]",),
    "perplexity": (
        "weight=[{kind: teacher_perplexity, per: turn, relative_to: group, renormalise: off, "
        "most: 1000}]",
        "mix={kind: routed, success: likelihood}",
        "rollout.group=4",
    ),
    "by place": ("weight=[{kind: depth_decay, gamma: 0.5, renormalise: step}]",),
    "labels": (
        "weight=[{kind: label_confidence, renormalise: step, "
        "rules: [{fact: tidy, label: weak}, {fact: success, label: skip}]}]",
    ),
}


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_weights_of_a_step_depend_on_no_micro_batch_and_no_order(
    scene: Scene, method: tuple[str, ...]
) -> None:
    found = scene.gradient(*method, "learner.tokens_per_batch=8192")
    assert_same(scene.gradient(*method, "learner.tokens_per_batch=64"), found)
    turned = {"lessons": scene.lessons[::-1], "trajectories": scene.trajectories[::-1]}
    assert_same(scene.gradient(*method, "learner.tokens_per_batch=128", **turned), found)


@pytest.mark.parametrize("support", ["full", "sampled"])
def test_over_the_step_the_loss_is_divided_by_the_mean_weight(scene: Scene, support: str) -> None:
    """N / sum w, by the log-probabilities of all of the step's tokens (SAGE-OPD's Eq. 12)."""
    method = (f"divergence.support={support}", "learner.tokens_per_batch=64")
    plain, gradient, _ = scene.learn(
        *method, "weight=[{kind: gap_gate, renormalise: off}]", "save.scores_top_k=1"
    )
    gates = []
    for one in plain.scores:
        assert one.measured.teacher is not None
        gap_N = one.measured.teacher.logprob_N.double() - one.measured.student.logprob_N.double()
        gates.append(1 / (1 + (-5 * gap_N).exp()))
    mean = torch.cat(gates).mean().item()
    assert 0.01 < mean < 0.99 and gradient is not None
    assert_same(scene.gradient(*method, STEP), gradient / mean, within=1e-5)
    by_episode = scene.gradient(*method, "weight=gap_gate")
    assert (by_episode - gradient / mean).norm() > 1e-2 * by_episode.norm()


def test_failures_are_weighed_against_those_of_their_task(scene: Scene) -> None:
    """SCOPE's failures, by the teacher's log-probabilities: one over its perplexity of each, over
    the mean of the task's; episodes 1, 2 and 6 are solved and teach nothing here.
    """
    fixed = "unit={kind: token, normalise: fixed, budget: 100}"
    scores = scene.learn(fixed, "save.scores_top_k=1")[0].scores
    said = {x.lesson.trajectory.episode: x.measured.teacher for x in scores}
    expected = torch.zeros(())
    for failures in ((0, 3), (4, 5, 7)):
        found = [said[episode] for episode in failures]
        powers = [x.logprob_N.double().mean().exp().item() for x in found if x is not None]
        for episode, power in zip(failures, powers, strict=True):
            weight = power / (sum(powers) / len(failures))
            alone = {"lessons": [scene.lessons[episode]]}
            alone |= {"trajectories": [scene.trajectories[episode]]}
            expected = expected + weight * scene.gradient(fixed, **alone)
    scope = (
        "{kind: teacher_perplexity, per: episode, relative_to: group, renormalise: off, most: 1000}"
    )
    found = scene.gradient(
        fixed, f"weight=[{scope}]", "mix={kind: routed, success: nothing}", "rollout.group=4"
    )
    assert_same(found, expected, within=1e-5)
    flat = scene.gradient(fixed, "mix={kind: routed, success: nothing}", "rollout.group=4")
    assert (found - flat).norm() > 1e-2 * found.norm()


@pytest.mark.parametrize(
    ("method", "scopes"),
    [
        ("sage_opd", ["step"]),
        ("sod", [False]),
        ("atod", [False]),
        ("tcod", [False]),
        ("rlsd", [False]),
        ("step_opsd", [False]),
        ("agent_opsd", [False]),
    ],
)
def test_rows_rescale_their_weights_as_the_papers_do(method: str, scopes: list[object]) -> None:
    assert [
        weight.renormalise for weight in parse_config(ENV, [f"method={method}"]).weight
    ] == scopes


def _spied(patch: pytest.MonkeyPatch) -> list[Survey | None]:
    """The surveys that plans are made of."""
    seen: list[Survey | None] = []
    plain = Plan.of

    def of(*args: Any) -> Plan:
        seen.append(args[5])
        return plain(*args)

    patch.setattr(Plan, "of", of)
    return seen


@pytest.mark.parametrize(
    ("overrides", "surveyed"),
    [
        ((), False),
        (("weight=[gap_gate, skip_first]",), False),
        (METHODS["by place"], False),
        (("weight=[gap_gate, {kind: depth_decay, renormalise: step}]",), True),
        (METHODS["exact"], True),
        (("mix=reward", "rollout.group=4"), True),
        (("mix=rl", "rollout.group=4", STEP), False),
    ],
)
def test_the_models_are_asked_twice_only_where_something_needs_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], surveyed: bool
) -> None:
    asked = _counted(monkeypatch)
    seen = _spied(monkeypatch)
    scene.learn(*overrides, "learner.tokens_per_batch=64")
    assert [survey is not None for survey in seen] == [surveyed]
    assert len(asked) == len(scene.lessons) * (1 + surveyed)


def _counted(patch: pytest.MonkeyPatch) -> list[None]:
    """An entry for each micro-batch that the models are asked about."""
    asked: list[None] = []
    plain = Learner._measure

    def measure(*args: Any, **more: Any) -> Any:
        asked.append(None)
        return plain(*args, **more)

    patch.setattr(Learner, "_measure", measure)
    return asked


def test_a_survey_holds_numbers_a_token(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _spied(monkeypatch)
    scene.learn(STEP, "learner.tokens_per_batch=64", "save.scores_top_k=4")
    survey = seen[0]
    assert survey is not None
    tokens = sum(int(t.trainable.sum()) for t in scene.trajectories)
    assert len(survey.tokens) == tokens
    assert [x.trajectory.episode for x in survey.lessons] == list(range(8))
    assert all(lesson.hidden_NH is None for lesson in survey.lessons)
    measured = survey.measured
    assert measured.kept is None and measured.teacher is not None
    numbers = (measured.student.logprob_N, measured.teacher.logprob_N, measured.divergence_N)
    assert all(x is not None and x.shape == (tokens,) and not x.requires_grad for x in numbers)


def test_weights_known_before_give_the_gradient_in_one_pass(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[torch.Tensor | None] = []
    plain = Objective.coefficients

    def coefficients(*args: Any) -> torch.Tensor | None:
        known.append(plain(*args))
        return known[-1]

    monkeypatch.setattr(Objective, "coefficients", coefficients)
    found = scene.gradient(STEP, "learner.tokens_per_batch=64")
    assert len(known) == 8 and all(coefficient_N is not None for coefficient_N in known)
    monkeypatch.setattr(Objective, "coefficients", lambda *_: None)
    assert_same(scene.gradient(STEP, "learner.tokens_per_batch=64"), found)
