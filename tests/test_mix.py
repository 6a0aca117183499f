"""Mixes by hand: what the teacher and the rewards make of two tokens, and which episode goes where.

Unless a test says otherwise: two tokens, sampled with the probabilities that the student still
gives them, which count one half each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from trajectories import lessons_of, played, tokens_of

from agentopd.base.types import Lesson, Trajectory
from agentopd.mixes.advantages import Grpo
from agentopd.mixes.base import Mix, Route
from agentopd.mixes.channels import Channels, Distillation, Reinforcement
from agentopd.mixes.modulating import Multiplicative, TrustRatio
from agentopd.mixes.routing import DeadGroupFallback, Routed
from agentopd.mixes.scored import RewardReplacement
from agentopd.mixes.shared import Additive, Auxiliary, DistilOnly, RlOnly
from agentopd.running.config import ConfigError
from agentopd.running.reading import parse_config
from agentopd.signal.evidence import Measured, Opinion

ENV: dict[str, Any] = {"env": {"id": "agentopd/Sokoban-v0"}, "rollout": {"group": 4}}
HALF_2 = torch.tensor([0.5, 0.5])
STUDENT = (-1.0, -2.0)


def _opinion(*logprobs: float) -> Opinion:
    """Of the two sampled tokens; of an entropy that a loss may be differentiated by."""
    leaf_2 = torch.tensor(logprobs, requires_grad=True)
    return Opinion(leaf_2, torch.tensor([0.5, 1.5], requires_grad=True), torch.zeros(2))


def _channels(
    advantages: Sequence[float] = (),
    credits: Sequence[float] = (),
    weights: Sequence[float] = (1.0, 1.0),
    teacher: Sequence[float] = STUDENT,
    distil_scale: float = 1.0,
    rl_scale: float = 1.0,
    likelihood: Sequence[float] = (0.0, 0.0),
    strength: float = 1.0,
    behaviour: Sequence[float] = STUDENT,
    reference: Sequence[float] = (),
    rule: Grpo | None = None,
) -> Channels:
    distillation = Distillation(
        credit_N=torch.tensor(credits),
        returns="advantage",
        estimator=None,
        weight_N=torch.tensor(weights),
        average_N=HALF_2,
        scale_N=torch.full((2,), distil_scale),
        gates={},
    )
    reinforcement = Reinforcement(
        rule=rule or Grpo(),
        advantage_N=torch.tensor(advantages),
        average_N=HALF_2,
        scale_N=torch.full((2,), rl_scale),
        likelihood_N=torch.tensor(likelihood),
        told_N=torch.zeros(2, dtype=torch.bool),
    )
    return Channels(
        measured=Measured(
            _opinion(*STUDENT),
            teacher=_opinion(*teacher) if credits else None,
            reference=_opinion(*reference) if reference else None,
        ),
        behaviour_N=torch.tensor(behaviour),
        strength=strength,
        distillation=distillation if credits else None,
        reinforcement=reinforcement if advantages else None,
    )


def _pull(mix: Mix, channels: Channels) -> list[float]:
    """How much the loss asks for more of each token: minus its slope by the log-probability."""
    loss = sum(mix.terms(channels).values(), torch.zeros(()))
    leaf_2 = channels.measured.student.logprob_N
    (slope_2,) = torch.autograd.grad(loss, leaf_2, materialize_grads=True)
    return (-slope_2).tolist()


def test_distillation_alone_and_rewards_alone() -> None:
    assert _pull(DistilOnly(), _channels(credits=(2.0, -1.0))) == [1.0, -0.5]
    assert _pull(RlOnly(), _channels(advantages=(3.0, 1.0))) == [1.5, 0.5]


def test_auxiliary_sums_two_terms_of_their_own() -> None:
    channels = _channels(advantages=(3.0, 1.0), credits=(2.0, -1.0), distil_scale=0.1)
    assert set(Auxiliary().terms(channels)) == {"distil", "rl"}
    assert _pull(Auxiliary(), channels) == pytest.approx([1.6, 0.45])
    assert _pull(Auxiliary(), _channels(advantages=(3.0, 1.0))) == [1.5, 0.5]


def test_additive_adds_to_the_advantage() -> None:
    """(2 x 3 + 0.1 x 2) / 2 and (2 x 1 - 0.1) / 2."""
    channels = _channels((3.0, 1.0), (2.0, -1.0), distil_scale=0.1, rl_scale=2.0)
    assert set(Additive().terms(channels)) == {"rl"}
    assert _pull(Additive(), channels) == pytest.approx([3.1, 0.95])


def test_additive_tells_the_two_parts_of_its_advantage() -> None:
    found = Additive().summands(_channels((3.0, 1.0), (2.0, -1.0), distil_scale=0.1, rl_scale=2.0))
    assert found["rl"].tolist() == [6.0, 2.0]
    assert found["distil"].tolist() == pytest.approx([0.2, -0.1])
    assert set(Additive().summands(_channels((3.0, 1.0)))) == {"rl"}
    assert Auxiliary().summands(_channels((3.0, 1.0), (2.0, -1.0))) == {}


def test_additive_clips_the_sum() -> None:
    """The ratio is e / 1 for both. Up is far enough; the second token's sum is negative, though its
    own advantage is positive, so it is pulled back in full.
    """
    moved = tuple(x - 1.0 for x in STUDENT)
    channels = _channels((3.0, 1.0), (2.0, -4.0), behaviour=moved)
    assert _pull(Additive(), channels) == pytest.approx([0.0, -1.5 * math.e])
    both_apart = _pull(Auxiliary(), channels)
    assert both_apart == pytest.approx([math.e, -2.0 * math.e])


def test_additive_in_a_dead_group_is_the_teacher_alone() -> None:
    assert _pull(Additive(), _channels((0.0, 0.0), (2.0, -1.0))) == [1.0, -0.5]


def test_multiplicative_resizes_the_advantage_and_never_turns_it() -> None:
    """A (0.5 + 0.5 w): 4 (0.5 + 0.5 x 3) / 2 and -2 (0.5 + 0.5 x 0) / 2."""
    channels = _channels((4.0, -2.0), (9.0, 9.0), weights=(3.0, 0.0))
    assert set(Multiplicative().terms(channels)) == {"rl"}
    assert _pull(Multiplicative(strength=0.5), channels) == [4.0, -0.5]
    assert _pull(Multiplicative(strength=0.0), channels) == [2.0, -1.0]
    assert _pull(Multiplicative(strength=1.0), channels) == [6.0, 0.0]


@pytest.mark.parametrize(("factor", "expected"), [(0.5, [3.0, -0.75]), (0.0, [2.0, -1.0])])
def test_a_schedule_fades_the_modulation_out(factor: float, expected: list[float]) -> None:
    """Strength 0.25: 4 (0.75 + 0.25 x 3) / 2 and -2 x 0.75 / 2."""
    channels = _channels((4.0, -2.0), (9.0, 9.0), weights=(3.0, 0.0), strength=factor)
    assert _pull(Multiplicative(strength=0.5), channels) == expected


def test_a_schedule_cannot_make_more_than_full_strength() -> None:
    channels = _channels((4.0, -2.0), (9.0, 9.0), weights=(3.0, 0.0), strength=9.0)
    assert _pull(Multiplicative(strength=0.5), channels) == [6.0, 0.0]


def test_multiplicative_is_silent_in_a_dead_group() -> None:
    channels = _channels((0.0, 0.0), (9.0, 9.0), weights=(3.0, 0.0))
    assert _pull(Multiplicative(), channels) == [0.0, 0.0]


TEACHERLESS = [Auxiliary(), Additive(), Multiplicative(), TrustRatio(), Routed(), RlOnly()]


@pytest.mark.parametrize("mix", TEACHERLESS, ids=[mix.kind for mix in TEACHERLESS])
def test_without_a_lesson_tokens_keep_their_advantage(mix: Mix) -> None:
    assert _pull(mix, _channels(advantages=(3.0, -1.0))) == [1.5, -0.5]


@pytest.mark.parametrize(
    ("mixture", "anchors"),
    [("geometric", (0.4, 0.2)), ("arithmetic", (0.5, 0.25))],
)
def test_the_trust_ratio_is_measured_from_the_mixture(
    mixture: str, anchors: tuple[float, float]
) -> None:
    """Rollout 0.2 and 0.1, teacher 0.8 and 0.4, half of each; the clip is wide open."""
    mix = TrustRatio.model_validate({"mixture": mixture})
    behaviour, teacher = (math.log(0.2), math.log(0.1)), (math.log(0.8), math.log(0.4))
    channels = _channels(
        (2.0, -2.0), (0.0, 0.0), teacher=teacher, behaviour=behaviour, rule=Grpo(clip=50.0)
    )
    ratios = [math.exp(s) / a for s, a in zip(STUDENT, anchors, strict=True)]
    assert _pull(mix, channels) == pytest.approx([ratios[0], -ratios[1]])


def test_the_trust_ratio_is_clipped_where_the_student_has_passed_the_mixture() -> None:
    """The teacher is 2 nats above the first token and 2 below the second: half of that is a ratio
    of 1/e, from which the student may rise, and of e, from which it may not.
    """
    channels = _channels((2.0, 2.0), (0.0, 0.0), teacher=(1.0, -4.0))
    assert _pull(TrustRatio(), channels) == pytest.approx([1 / math.e, 0.0])
    assert _pull(TrustRatio(share=0.0), channels) == [1.0, 1.0]


def test_the_penalty_and_the_bonus_are_part_of_the_reward_term() -> None:
    """k3 of gaps log 2 and 0: 1 - log 2 and 0; its slope by log p is 1 - e^gap = -1 and 0."""
    rule = Grpo(kl_coefficient=0.5, entropy_bonus=0.1)
    reference = (STUDENT[0] + math.log(2), STUDENT[1])
    channels = _channels((2.0, 0.0), reference=reference, rule=rule, rl_scale=3.0)
    terms = RlOnly(rl=rule).terms(channels)
    penalty, bonus = 0.5 * (1 - math.log(2)) / 2, 0.1 * (0.5 + 1.5) / 2
    assert terms["rl"].item() == pytest.approx(3.0 * (-1.0 + penalty - bonus))
    assert _pull(RlOnly(), channels) == pytest.approx([3.0 * (1.0 + 0.25), 0.0])
    (slope_2,) = torch.autograd.grad(
        RlOnly(rl=rule).terms(channels)["rl"], channels.measured.student.entropy_N
    )
    assert slope_2.tolist() == pytest.approx([-0.15, -0.15])


def _lessons(*solved: bool, taught: Sequence[bool] = (), task: int = 0) -> list[Lesson]:
    """Episodes of one task, numbered in order; a reward of 1 for those that are solved."""
    told = taught or [True] * len(solved)
    return [
        Lesson(
            trajectory=played(
                [7], rewards=[float(s)], infos=[{"success": s}], episode=n, task=task
            ),
            hidden_NH=torch.zeros(1, 2) if t else None,
        )
        for n, (s, t) in enumerate(zip(solved, told, strict=True))
    ]


def test_failures_go_to_the_teacher_and_successes_to_their_reward() -> None:
    lessons = _lessons(True, False, True, False, taught=(True, True, False, False))
    rl, distil = Route(distil=0.0, rl=1.0), Route(distil=1.0, rl=0.0)
    assert Routed().routes(lessons) == {0: rl, 1: distil, 2: rl, 3: rl}


def test_successes_can_be_made_likelier() -> None:
    lessons = _lessons(True, False)
    found = Routed(success="likelihood", failure="nothing").routes(lessons)
    assert found == {0: Route(0.0, 0.0, 1.0), 1: Route(0.0, 0.0, 0.0)}
    channels = _channels((9.0, 9.0), (0.0, 0.0), rl_scale=0.0, likelihood=(1.0, 0.5))
    mix = Routed(success="likelihood")
    assert set(mix.terms(channels)) == {"distil", "rl", "likelihood"}
    assert mix.terms(channels)["likelihood"].item() == pytest.approx((1.0 + 0.5 * 2.0) / 2)
    assert _pull(mix, channels) == [0.5, 0.25]


def test_those_that_the_student_was_least_sure_of_count_most() -> None:
    """Mean surprises of 1 and 1 + 2 log 3 nats at temperature 2: perplexities in a ratio of 9, and
    their roots in one of 3. A success of another group is alone, and counts 1.
    """
    sure, unsure, failed = _lessons(True, True, False)
    trajectory = replace(unsure.trajectory, logprob=unsure.trajectory.logprob - 2 * math.log(3))
    other = played([7], rewards=[1.0], infos=[{"success": True}], episode=3, task=1, logprob=-9.0)
    lessons = [sure, replace(unsure, trajectory=trajectory), failed, Lesson(trajectory=other)]
    found = Routed(success="likelihood", perplexity_temperature=2.0).routes(lessons)
    assert [found[n].likelihood for n in range(4)] == pytest.approx([0.5, 1.5, 0.0, 1.0])
    assert found[2] == Route(distil=1.0, rl=0.0)


def test_only_dead_groups_fall_back_on_the_teacher() -> None:
    dead = [
        replace(x, trajectory=replace(x.trajectory, task=1, episode=4 + n))
        for n, x in enumerate(_lessons(False, False, False, taught=(True, True, False)))
    ]
    found = DeadGroupFallback().routes([*_lessons(True, False, False, False), *dead])
    rl, distil = Route(distil=0.0, rl=1.0), Route(distil=1.0, rl=0.0)
    assert found == dict.fromkeys(range(4), rl) | {4: distil, 5: distil, 6: rl}


def test_one_episode_is_a_dead_group() -> None:
    assert DeadGroupFallback().routes(_lessons(True)) == {0: Route(distil=1.0, rl=0.0)}


def _two() -> list[Trajectory]:
    return [played([7, 8], [9], rewards=[0.0, 1.0]), played([7], rewards=[0.5], episode=1)]


def test_a_score_is_the_mean_or_the_sum_of_the_episodes_tokens() -> None:
    tokens, lessons = tokens_of(*_two()), lessons_of(*_two())
    nothing_4 = torch.zeros(4)
    said = Opinion(tokens.behaviour_N + torch.tensor([1.0, 2.0, 6.0, -0.5]), nothing_4, nothing_4)
    measured = Measured(said, said)
    assert RewardReplacement().scored(measured, tokens, lessons).tolist() == [3.0, -0.5]
    summed = RewardReplacement(reduce="sum").scored(measured, tokens, lessons)
    assert summed.tolist() == [9.0, -0.5]


def test_a_score_takes_the_rewards_place_or_stands_beside_it() -> None:
    scores = {0: 3.0, 1: -0.5}
    assert RewardReplacement().rewards(_two(), scores) == scores
    beside = RewardReplacement(environment=2.0).rewards(_two(), scores)
    assert beside == {0: 5.0, 1: 0.5}


def test_without_a_score_an_episode_takes_no_part() -> None:
    assert RewardReplacement(environment=2.0).rewards(_two(), {1: -0.5}) == {1: 0.5}


SAMPLED = "divergence={kind: reverse_kl, support: sampled}"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["mix=additive"],
            "mix: additive adds the teacher's term to the sampled token's advantage",
        ),
        (["mix=additive", "divergence.support=sampled", "divergence.estimator=k2"], "Use diverg"),
        (["mix=multiplicative"], "by the method's weights, and there are none"),
        (["mix=multiplicative", "weight={kind: skip_first, tokens: 0}"], "all of which are 1"),
        (
            ["mix=multiplicative", "weight=gap_gate", "unit=trajectory"],
            "averages to 1 over each episode, and unit: trajectory takes the mean over each",
        ),
        (
            [
                "mix=multiplicative",
                "weight=[entropy, {kind: skip_first, tokens: 0}]",
                "unit=trajectory",
            ],
            "weight: entropy, skip_first as set averages to 1 over each episode",
        ),
        (["mix=multiplicative", "weight=step_sigmoid", "unit=turn"], "to 1 over each turn, and"),
        (
            ["mix=multiplicative", "weight=step_sigmoid", "unit=trajectory"],
            "unit: trajectory takes the mean over each of its spans",
        ),
        (
            ["mix=multiplicative", "weight={kind: step_sigmoid, budget: total}", "unit=trajectory"],
            "averages to 1 over each episode",
        ),
        (
            [
                "mix=multiplicative",
                "weight=step_sigmoid",
                "unit={kind: decision_point, use: credit}",
            ],
            "unit: decision_point takes the mean over each of its spans",
        ),
        (
            ["weight=evidence_ratio"],
            "under mix: distil no token that the teacher teaches has an adv",
        ),
        (["weight=[entropy, belief_increment]"], "weight: belief_increment asks whether"),
        (["weight=step_sigmoid"], "whatever the teacher says. Use mix: multiplicative"),
        (["mix=dead_group_fallback", "weight=step_sigmoid"], "under mix: dead_group_fallback no"),
        (["mix={kind: rl, rl: reinforce}", "rollout.temperature=0"], "mix: rl learns from tokens"),
        (["mix=trust_ratio", "rollout.temperature=0"], "(evaluate.temperature may be 0)"),
        (
            ["rollout.temperature=0", "divergence.support=sampled"],
            "divergence.support: sampled learns from tokens as samples of the student, and rollout",
        ),
        (["mix=rl", "rollout.group=1"], "every group would be dead"),
        (["mix={kind: rl, rl: rloo}", "rollout.group=1"], "every group would be dead"),
        (["mix={kind: reward, score: unit}"], "unit: token scores no episodes"),
        (
            ["mix={kind: reward, rl: {kind: reinforce, baseline: running}}"],
            "the past of the environment's rewards",
        ),
        (["mix={kind: routed, failure: rl}"], "so none learns from the teacher it asks"),
        (["mix={kind: routed, perplexity_temperature: 1}"], "sends none there"),
        (["mix=dead_group_fallback", "privilege=[]"], "needs a privilege"),
        (["mix={kind: multiplicative, strength: 1.5}", "weight=gap_gate"], "less than or equal"),
    ],
)
def test_what_makes_no_sense_is_refused_when_the_config_is_read(
    overrides: list[str], says: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config(ENV, overrides)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["mix=additive", SAMPLED],
        ["mix=additive", "unit={kind: rubric_span, use: reward}"],
        ["mix=multiplicative", "weight=gap_gate"],
        ["mix=multiplicative", "weight=gap_gate", "unit=turn"],
        ["mix=multiplicative", "weight=[gap_gate, evidence_ratio]", "unit=trajectory"],
        ["mix=multiplicative", "weight={kind: gap_gate, renormalise: off}", "unit=trajectory"],
        ["mix=multiplicative", "weight=evidence_ratio", "unit=trajectory"],
        ["mix=multiplicative", "weight={kind: step_sigmoid, budget: total}", "unit=turn"],
        ["mix=multiplicative", "weight=step_sigmoid", "unit={kind: turn, use: weight}"],
        ["mix=multiplicative", "weight=step_sigmoid", "unit={kind: turn, part: reasoning}"],
        ["mix=multiplicative", "weight={kind: depth_decay, gamma: 1}", "unit=decision_point"],
        ["mix=auxiliary", "weight=evidence_ratio"],
        ["mix={kind: dead_group_fallback, rl: reinforce}", "weight=evidence_ratio"],
        ["rollout.temperature=0", "evaluate.temperature=0"],
        ["rollout.temperature=0.1", "divergence.support=sampled"],
        ["mix={kind: rl, rl: reinforce}", "rollout.group=1"],
        ["mix={kind: reward, score: unit}", "unit=rubric_span", "privilege=[]"],
        ["mix={kind: routed, success: likelihood, perplexity_temperature: 1}"],
    ],
)
def test_what_makes_sense_is_read_and_written_alike(overrides: list[str]) -> None:
    config = parse_config(ENV, overrides)
    assert config.fresh().mix == config.mix
