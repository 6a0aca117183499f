"""The objective: what is known before any model is asked, and that it agrees with the terms."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from trajectories import CPU, played

from agentopd.base.types import Lesson
from agentopd.learning.method import Method
from agentopd.learning.objective import Objective
from agentopd.learning.plan import Plan
from agentopd.running.reading import parse_config
from agentopd.signal.evidence import Evidence, Measured, Opinion
from agentopd.signal.tokens import Tokens
from agentopd.weights.base import Weight

ENV: dict[str, Any] = {"env": {"id": "agentopd/Sokoban-v0"}, "rollout": {"group": 2}}
UNITS = (
    "token",
    "{kind: turn, reduce: sum}",
    "{kind: turn, reduce: last}",
    "{kind: trajectory, reduce: mean}",
    "{kind: rubric_span, criteria: [{name: tidy, fact: tidy, part: action}]}",
)
NORMALISES = ("token_mean", "turn_mean", "sequence_mean", "fixed")


def _lessons() -> list[Lesson]:
    """A failure and a success of one task, of two turns and of one."""
    facts = [{"facts": {"tidy": False}}, {"facts": {"tidy": True}, "success": False}]
    failed = played([7, 8], [9], reasoning=1, infos=facts, episode=0)
    solved = played([5, 6, 7], rewards=[1.0], infos=[{"success": True}], episode=1)
    return [Lesson(trajectory=t, hidden_NH=torch.zeros(3, 2)) for t in (failed, solved)]


def _opinion(seed: int) -> Opinion:
    generator = torch.Generator().manual_seed(seed)
    logprob_N = -torch.rand(6, generator=generator) - 0.5
    return Opinion(logprob_N.requires_grad_(), torch.rand(6, generator=generator), torch.zeros(6))


def _measured(teacher: bool = True, divergence: bool = True) -> Measured:
    value_N = torch.rand(6, generator=torch.Generator().manual_seed(3)).requires_grad_()
    return Measured(
        student=_opinion(1),
        teacher=_opinion(2) if teacher else None,
        divergence_N=value_N if teacher and divergence else None,
    )


def _plan(method: Method, lessons: list[Lesson], step: int = 0) -> Plan:
    taught = [x for x in lessons if x.hidden_NH is not None]
    untaught = [x for x in lessons if x.hidden_NH is None]
    return Plan.of(method, taught, untaught, step)


def _assert_known_before(method: Method) -> None:
    """What is known before any model is asked is the divergences' slope in the loss."""
    objective, lessons, measured = Objective(method), _lessons(), _measured()
    tokens, plan = Tokens.of(lessons, CPU), _plan(method, lessons)
    coefficient_N = objective.coefficients(tokens, lessons, plan)
    term = objective.terms(measured, tokens, lessons, plan)["distil"]
    assert measured.divergence_N is not None and coefficient_N is not None
    (slope_N,) = torch.autograd.grad(term, measured.divergence_N)
    torch.testing.assert_close(coefficient_N, slope_N)
    assert (coefficient_N @ measured.divergence_N).item() == pytest.approx(term.item())
    assert not coefficient_N.requires_grad


@pytest.mark.parametrize("normalise", NORMALISES)
@pytest.mark.parametrize("unit", UNITS)
def test_what_a_divergence_counts_is_its_slope_in_the_loss(unit: str, normalise: str) -> None:
    schedule = "schedule.distil={kind: constant, value: 0.5}"
    method = parse_config(ENV, [f"unit={unit}", f"unit.normalise={normalise}", schedule])
    _assert_known_before(method)


@pytest.mark.parametrize("unit", ["token", "{kind: turn, reduce: mean}"])
@pytest.mark.parametrize(
    "weight",
    [
        "depth_decay",
        "depth_curriculum",
        "phrase_mask",
        "[{kind: skip_first, tokens: 1}, {kind: depth_decay, gamma: 0.5, renormalise: off}]",
    ],
)
def test_weights_that_look_at_no_model_are_known_before(weight: str, unit: str) -> None:
    method = parse_config(ENV, [f"weight={weight}", f"unit={unit}"])
    _assert_known_before(method)


@pytest.mark.parametrize("mix", ["{kind: auxiliary, coefficient: 0.3}", "dead_group_fallback"])
def test_rewards_beside_it_leave_the_teachers_term_known_before(mix: str) -> None:
    _assert_known_before(parse_config(ENV, [f"mix={mix}", "unit={kind: turn}"]))


def test_a_weight_of_ones_own_is_known_before_exactly_if_it_looks_at_no_model() -> None:
    """Whatever it makes of what it sees: a comparison would hide a missing number."""

    class Placed(Weight):
        def raw(self, evidence: Evidence) -> torch.Tensor:
            return 1.0 / (1.0 + evidence.tokens.turn_N)

    class Peeking(Weight):
        def raw(self, evidence: Evidence) -> torch.Tensor:
            return (evidence.gap_N > 0).to(evidence.tokens.behaviour_N.dtype)

    base, lessons = parse_config(ENV), _lessons()
    _assert_known_before(base.model_copy(update={"weight": [Placed()]}))
    method = base.model_copy(update={"weight": [Placed(), Peeking()]})
    plan = _plan(method, lessons)
    assert plan.weighed is None
    assert Objective(method).coefficients(Tokens.of(lessons, CPU), lessons, plan) is None


@pytest.mark.parametrize(
    "overrides",
    [
        ["mix=multiplicative", "weight=depth_decay"],
        ["mix=trust_ratio"],
        ["weight=gap_gate"],
        ["unit={kind: turn, use: weight}"],
        ["divergence.support=sampled"],
        ["divergence={kind: reverse_kl, support: sampled, estimator: rho_k3}"],
        ["unit={kind: rubric_span, use: reward}"],
    ],
)
def test_where_more_than_the_divergence_counts_nothing_is_known_before(
    overrides: list[str],
) -> None:
    method, lessons = parse_config(ENV, overrides), _lessons()
    tokens, plan = Tokens.of(lessons, CPU), _plan(method, lessons)
    assert Objective(method).coefficients(tokens, lessons, plan) is None


def test_the_rewards_term_covers_taught_and_untaught_alike() -> None:
    """GRPO's advantages of rewards 0 and 1 are -1 and 1; six tokens count one sixth each."""
    method, told = parse_config(ENV, ["mix=auxiliary"]), _lessons()
    lessons = [told[0], replace(told[1], hidden_NH=None)]
    plan, objective = _plan(method, lessons), Objective(method)
    tokens = Tokens.of(lessons[1:], CPU)
    behaviour_N = torch.full((3,), -1.0)
    student = Opinion(behaviour_N.clone().requires_grad_(), torch.zeros(3), torch.zeros(3))
    terms = objective.terms(Measured(student=student), tokens, lessons[1:], plan)
    assert set(terms) == {"rl"}
    assert terms["rl"].item() == pytest.approx(-3 / 6, rel=1e-5)
    assert (plan.distil.tokens, plan.rl.tokens) == (3, 6)


def test_routes_and_schedules_multiply_their_channel() -> None:
    """The failure, tokens 0 to 2, goes to the teacher, the success to its advantage of 1."""
    overrides = [
        "mix={kind: routed, coefficient: 4}",
        "schedule={distil: {kind: constant, value: 0.25}, rl: {kind: constant, value: 3}}",
    ]
    method, lessons, measured = parse_config(ENV, overrides), _lessons(), _measured()
    tokens, plan = Tokens.of(lessons, CPU), _plan(method, lessons)
    terms = Objective(method).terms(measured, tokens, lessons, plan)
    assert measured.divergence_N is not None
    assert terms["distil"].item() == pytest.approx(measured.divergence_N[:3].sum().item() / 6)
    ratio_N = (measured.student.logprob_N[3:] + 1.0).exp()
    assert terms["rl"].item() == pytest.approx(
        -3 * torch.minimum(ratio_N, torch.tensor(1.2)).sum().item() / 6, rel=1e-5
    )


def test_a_units_tokens_share_their_mean_weight() -> None:
    """Multiplicative over turns whose span is two tokens, one and three: sums would triple it."""
    overrides = ["mix={kind: multiplicative, strength: 1}", "unit={kind: turn, reduce: sum}"]
    gate = "weight={kind: gap_gate, renormalise: off}"
    method, lessons = parse_config(ENV, [*overrides, gate]), _lessons()
    measured, tokens = _measured(), Tokens.of(lessons, CPU)
    assert measured.teacher is not None
    plan, objective = _plan(method, lessons), Objective(method)
    distillation = objective.channels(measured, tokens, lessons, plan).distillation
    gate_N = torch.sigmoid(5 * (measured.teacher.logprob_N - measured.student.logprob_N)).detach()
    shared = [gate_N[:2].mean()] * 2 + [gate_N[2]] + [gate_N[3:].mean()] * 3
    assert distillation is not None
    torch.testing.assert_close(distillation.weight_N, torch.stack(shared))


def test_an_estimator_that_is_a_gate_is_shown_beside_the_weights() -> None:
    sampled = "divergence={kind: reverse_kl, support: sampled, estimator: {kind: gated, beta: 2}}"
    method, lessons = parse_config(ENV, [sampled, "weight=entropy"]), _lessons()
    measured, tokens = _measured(divergence=False), Tokens.of(lessons, CPU)
    assert measured.teacher is not None
    objective, plan = Objective(method), _plan(method, lessons)
    gap_N = (measured.teacher.logprob_N - measured.student.logprob_N).detach()
    found = objective.channels(measured, tokens, lessons, plan).gates
    assert set(found) == {"entropy", "gated"}
    torch.testing.assert_close(found["gated"], 1 / (1 + (-2 * gap_N).exp()))
    plain = Objective(parse_config(ENV, ["divergence.support=sampled"]))
    plan = _plan(plain.method, lessons)
    assert plain.channels(measured, tokens, lessons, plan).gates == {}


def _modulation(unit: str) -> list[float]:
    """What advantages are multiplied by at full strength: two turns of two tokens and of one, gates
    of 3/4 1/4 | 3/4 and divergences of 1 3 | 4; then an episode of one turn, gates of 1/4 3/4 3/4.
    """
    gate = "weight={kind: gap_gate, beta: 1, renormalise: off}"
    method = parse_config(ENV, ["mix={kind: multiplicative, strength: 1}", f"unit={unit}", gate])
    gap_6 = math.log(3) * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, 1.0])
    student, teacher = (
        Opinion(said_6, torch.zeros(6), torch.zeros(6))
        for said_6 in (torch.full((6,), -2.0), gap_6 - 2.0)
    )
    value_6 = torch.tensor([1.0, 3.0, 4.0, 1.0, 1.0, 1.0])
    lessons = _lessons()
    tokens, plan = Tokens.of(lessons, CPU), _plan(method, lessons)
    measured = Measured(student, teacher, divergence_N=value_6)
    own = Objective(method).channels(measured, tokens, lessons, plan).distillation
    assert own is not None
    return own.weight_N.tolist()


@pytest.mark.parametrize(
    ("reduce", "first", "second"),
    [("mean", 2 / 3, 4 / 3), ("sum", 1.0, 1.0), ("last", 6 / 7, 8 / 7)],
)
def test_turns_are_weighed_by_the_divergence_where_weights_multiply(
    reduce: str, first: float, second: float
) -> None:
    """Means of 2 and 4, sums of 4 and 4, last values of 3 and 4, over their mean."""
    found = _modulation(f"{{kind: turn, use: weight, reduce: {reduce}}}")
    gates = [0.75 * first, 0.25 * first, 0.75 * second, 0.25, 0.75, 0.75]
    assert found == pytest.approx(gates)


def test_what_no_span_covers_keeps_its_advantage() -> None:
    """One token of reasoning in each of the first episode's turns, and none in the second's."""
    assert _modulation("{kind: turn, part: reasoning}") == pytest.approx([0.75, 1, 0.75, 1, 1, 1])
    found = _modulation("{kind: turn, part: action, reduce: sum}")
    assert found == pytest.approx([1, 0.25, 1, *[1.75 / 3] * 3])


def test_a_span_that_counts_nothing_covers_its_tokens() -> None:
    """Of the episode's turns the second is chosen, so that two of three tokens count for nothing
    and the third for three.
    """
    unit = "{kind: decision_point, by: divergence, most: 1}"
    assert _modulation(unit)[:3] == pytest.approx([0.0, 0.0, 2.25])


RUBRIC = (
    "unit={kind: rubric_span, criteria: "
    "[{name: tidy, fact: tidy}, {name: solved, fact: success, turns: last, weight: 3}]}"
)


def test_a_rubrics_score_can_be_the_reward() -> None:
    """The failure is tidy in half of its turns and not solved, (1/2 + 0) / (1 + 3); the success is
    solved, and whether it was tidy nobody knows: 3 / 3.
    """
    mix = "mix={kind: reward, score: unit, rl: {kind: grpo, std: false}}"
    method = parse_config(ENV, [mix, RUBRIC])
    untold = [replace(x, hidden_NH=None) for x in _lessons()]
    plan = _plan(method, untold)
    assert plan.advantages == pytest.approx({0: -0.4375, 1: 0.4375})


@pytest.mark.parametrize(
    ("overrides", "learnt"),
    [
        ([], {0, 1}),
        (["schedule.distil={kind: step, boundaries: [9], values: [0, 1]}"], set()),
        (["mix=rl"], {0, 1, 2}),
        (["mix=rl", "schedule.rl={kind: constant, value: 0}"], set()),
        (["mix={kind: multiplicative}", "weight=gap_gate"], {0, 1, 2}),
        (["mix=routed"], {0, 1, 2}),
        (["mix=dead_group_fallback"], {0, 1, 2}),
        (["mix={kind: routed, success: nothing}"], {0, 2}),
        (["mix={kind: rl, rl: {kind: grpo, entropy_bonus: 0.1}}"], {0, 1, 2, 3}),
    ],
)
def test_which_episodes_have_a_gradient(overrides: list[str], learnt: set[int]) -> None:
    """Two taught episodes of a live group, and two untaught: one in that group, one alone."""
    method = parse_config(ENV, overrides)
    third, alone = (
        Lesson(trajectory=replace(_lessons()[0].trajectory, episode=n, task=task))
        for n, task in ((2, 0), (3, 1))
    )
    plan = _plan(method, [*_lessons(), third, alone])
    assert Objective(method).learnt(plan) == learnt


def test_a_dead_group_teaches_the_multiplicative_mix_nothing() -> None:
    method = parse_config(ENV, ["mix=multiplicative", "weight=gap_gate"])
    failed = _lessons()[0]
    again = replace(failed, trajectory=replace(failed.trajectory, episode=5))
    assert Objective(method).learnt(_plan(method, [failed, again])) == set()
