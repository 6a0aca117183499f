"""Weights that compare turns, against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from trajectories import evidence_of, opinion_of, played

from agentopd.signal.evidence import Evidence
from agentopd.weights.turn import (
    BeliefIncrement,
    DisagreementUncertainty,
    KLCentroid,
    LabelConfidence,
    LabelRule,
    StepSigmoid,
    TrustDecay,
)

LOG_3 = math.log(3)


def _turns(
    gaps: Sequence[Sequence[float]],
    advantage: float = 1.0,
    success: float = 0.5,
    student: Sequence[float] = (),
    values: Sequence[float] = (),
) -> Evidence:
    """One episode in which log q(y) - log p(y) is as given, by turn."""
    flat = [gap for turn in gaps for gap in turn]
    own = list(student) or [0.1] * len(flat)
    return evidence_of(
        opinion_of(own),
        opinion_of([p * math.exp(gap) for p, gap in zip(own, flat, strict=True)]),
        played(*([0] * len(turn) for turn in gaps)),
        advantages=[advantage],
        success=[success],
        values=values,
    )


# 2 sigmoid(log 3) = 1.5 and 2 sigmoid(-log 3) = 0.5: clipped to 1.2 and 0.8
STEPS = [[LOG_3, -LOG_3], [LOG_3]]


@pytest.mark.parametrize(
    ("weight", "advantage", "wanted"),
    [
        (StepSigmoid(budget="none"), 1.0, [1.2, 0.8, 1.2]),
        (StepSigmoid(budget="none"), -1.0, [0.8, 1.2, 0.8]),
        (StepSigmoid(budget="none", clip=1.0), 1.0, [1.5, 0.5, 1.5]),
        # 2 sigmoid(2 log 3) = 2 * 9 / 10
        (StepSigmoid(budget="none", clip=1.0, scale=2.0), 1.0, [1.8, 0.2, 1.8]),
        (StepSigmoid(budget="mean"), 1.0, [1.2, 0.8, 1.0]),
        # Three tokens in two turns: each turn has a sum of 1.5.
        (StepSigmoid(budget="total"), 1.0, [0.9, 0.6, 1.5]),
        (StepSigmoid(budget="none"), 0.0, [1.0, 1.0, 1.0]),
        (StepSigmoid(budget="mean"), 0.0, [1.0, 1.0, 1.0]),
    ],
)
def test_step_sigmoid(weight: StepSigmoid, advantage: float, wanted: list[float]) -> None:
    assert weight.of(_turns(STEPS, advantage)).tolist() == pytest.approx(wanted)


def test_one_token_has_its_steps_whole_budget() -> None:
    assert StepSigmoid().of(_turns([[LOG_3]])).tolist() == pytest.approx([1.0])


# From even odds the odds go to 3, to 9 and back to 1: beliefs 3/4, 9/10, 1/2. The increments 0.25,
# 0.15, -0.4 have mean 0 and a mean square of 0.245 / 3.
BELIEFS = [[LOG_3 / 2, LOG_3 / 2], [LOG_3], [-2 * LOG_3]]
SPREAD = math.sqrt(0.245 / 3)
UP, LESS = 0.2 * 0.25 / SPREAD, 0.2 * 0.15 / SPREAD


@pytest.mark.parametrize(
    ("advantage", "wanted"),
    [
        # 0.2 * 0.4 / SPREAD is 0.28: clipped
        (1.5, [1 + UP, 1 + UP, 1 + LESS, 0.8]),
        (-0.1, [1 - UP, 1 - UP, 1 - LESS, 1.2]),
        (0.0, [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_belief_increments_are_standardised_over_the_episode(
    advantage: float, wanted: list[float]
) -> None:
    found = BeliefIncrement(gamma=1.0).of(_turns(BELIEFS, advantage))
    assert found.tolist() == pytest.approx(wanted)


def test_old_evidence_fades() -> None:
    # c = log 3, log 3 / 2 + log 3 / 2 and log 3 / 2 - log 3 / 2: up by 1/4, nothing, down by 1/4.
    gaps = [[LOG_3], [LOG_3 / 2], [-LOG_3 / 2]]
    found = BeliefIncrement(gamma=0.5, clip=0.1).of(_turns(gaps))
    assert found.tolist() == pytest.approx([1.1, 1.0, 0.9])


@pytest.mark.parametrize(("success", "sign"), [(0.0, 1), (1.0, -1)])
def test_a_group_that_always_fails_or_wins_leaves_room_for_doubt(success: float, sign: int) -> None:
    # From odds of 1 to 999 to even odds, and then nothing.
    found = BeliefIncrement(gamma=1.0).of(_turns([[sign * math.log(999)], [0.0]], success=success))
    assert found.tolist() == pytest.approx([1 + 0.2 * sign, 1 - 0.2 * sign])


@pytest.mark.parametrize("gaps", [[[LOG_3, 1.0]], [[0.0], [0.0, 0.0]]])
def test_one_turn_or_turns_without_evidence_have_a_belief_weight_of_one(
    gaps: list[list[float]],
) -> None:
    assert BeliefIncrement().of(_turns(gaps)).tolist() == [1.0] * sum(map(len, gaps))


def test_disagreement_or_uncertainty() -> None:
    # Mean |d| of 0, 1, 2 is 0, 1/2, 1 of the range; -log p of 3, 1, 2 is 1, 0, 1/2.
    said = [math.exp(-u) for u in (3, 1, 1, 2)]
    evidence = _turns([[0.0], [1.0, -1.0], [2.0]], student=said)
    found = DisagreementUncertainty(renormalise=False).of(evidence)
    assert found.tolist() == pytest.approx([1.0, 0.5, 0.5, 1.0])
    # The mean over tokens is 3/4.
    found = DisagreementUncertainty().of(evidence)
    assert found.tolist() == pytest.approx([4 / 3, 2 / 3, 2 / 3, 4 / 3])


@pytest.mark.parametrize("gaps", [[[1.0, 3.0]], [[2.0], [-2.0, 2.0]]])
def test_turns_that_are_alike_are_in_the_middle(gaps: list[list[float]]) -> None:
    found = DisagreementUncertainty(renormalise=False).of(_turns(gaps))
    assert found.tolist() == [0.75] * sum(map(len, gaps))


RULES = (
    LabelRule(fact="broken", label="strong"),
    LabelRule(fact="moved", want=3, label="weak"),
    LabelRule(fact="success", label="skip"),
)


def _labelled(*infos: dict[str, object], tops: Sequence[float]) -> Evidence:
    trajectory = played(*([0, 0] for _ in infos), infos=infos)
    teacher = opinion_of([0.1] * len(tops), tops=tops)
    return evidence_of(opinion_of([0.1] * len(tops)), teacher, trajectory)


def test_the_first_rule_that_fits_labels_the_turn() -> None:
    weight = LabelConfidence(rules=RULES, renormalise=False)
    evidence = _labelled(
        {"facts": {"broken": True, "moved": 3}},
        {"facts": {"broken": False, "moved": 3}, "success": True},
        {"success": True, "facts": {"moved": 2}},
        {},
        tops=[0.5, 0.7, 0.2, 0.4, 0.9, 0.9, 1.0, 0.8],
    )
    # The teacher is sure to 0.6, 0.3, 0.9 and 0.9; labels strong, weak, skip and, for want of a
    # rule, strong.
    wanted = [0.6, 0.6, 0.15, 0.15, 0.0, 0.0, 0.9, 0.9]
    assert weight.of(evidence).tolist() == pytest.approx(wanted)
    # Over their mean of 0.4125.
    found = LabelConfidence(rules=RULES).of(evidence)
    assert found.tolist() == pytest.approx([w / 0.4125 for w in wanted])


def test_an_episode_of_skipped_turns_teaches_nothing() -> None:
    evidence = _labelled({"success": True}, tops=[0.5, 0.7])
    assert LabelConfidence(rules=RULES).of(evidence).tolist() == [0.0, 0.0]


def test_without_a_rule_that_fits_the_teachers_confidence_is_left() -> None:
    evidence = _labelled({}, {}, tops=[0.5, 0.5, 0.2, 0.2])
    strong = LabelConfidence(rules=(), renormalise=False).of(evidence)
    assert strong.tolist() == pytest.approx([0.5, 0.5, 0.2, 0.2])
    weak = LabelConfidence(rules=(), otherwise="weak", weak=0.1, renormalise=False).of(evidence)
    assert weak.tolist() == pytest.approx([0.05, 0.05, 0.02, 0.02])


@pytest.mark.parametrize(
    ("weight", "gaps", "wanted"),
    [
        (TrustDecay(), [[1.0], [2.0, -2.0], [4.0]], [1.0, 0.5, 0.5, 0.25]),
        # A turn that agrees more than the first one is trusted no more than 1.2.
        (TrustDecay(), [[2.0], [1.0], [2.0]], [1.0, 1.2, 1.0]),
        # 2 is cut to 1.2, and the half of that is left.
        (TrustDecay(cap="every"), [[2.0], [1.0], [2.0]], [1.0, 1.2, 0.6]),
        (TrustDecay(cap="every"), [[1.0], [2.0], [4.0]], [1.0, 0.5, 0.25]),
        (TrustDecay(slack=9.0), [[2.0], [-0.5]], [1.0, 4.0]),
        (TrustDecay(epsilon=1.0), [[0.0], [1.0]], [1.0, 0.5]),
        (TrustDecay(), [[0.0], [0.0]], [1.0, 1.0]),
        (TrustDecay(cap="every"), [[0.0], [0.0]], [1.0, 1.0]),
        (TrustDecay(), [[3.0, 1.0]], [1.0, 1.0]),
    ],
)
def test_trust_decay(weight: TrustDecay, gaps: list[list[float]], wanted: list[float]) -> None:
    found = weight.model_copy(update={"renormalise": False}).of(_turns(gaps))
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("values", "reach", "wanted"),
    [
        # All in the first turn: a centroid of 1.
        ([2.0, 0.0, 0.0], 1.0, [1, 0, 0]),
        # Alike: a centroid of 2.
        ([0.3, -0.3, 0.3], 1.0, [1, 1, 0]),
        ([0.3, 0.3, 0.3], 2.0, [1, 1, 1]),
        ([0.0, 0.0, 5.0], 1.0, [1, 1, 1]),
        # (1 * 2 + 2 * 1 + 3 * 1) / 4 = 1.75
        ([2.0, 1.0, -1.0], 1.0, [1, 1, 0]),
        ([2.0, 1.0, 1.0], 0.5, [1, 0, 0]),
        ([0.0, 0.0, 0.0], 1.0, [1, 1, 1]),
    ],
)
def test_the_centroid_limits_the_depth(
    values: list[float], reach: float, wanted: list[float]
) -> None:
    evidence = _turns([[0.0], [0.0], [0.0]], values=values)
    assert KLCentroid(reach=reach, renormalise=False).of(evidence).tolist() == wanted


def test_one_centroid_of_the_step_counts_a_depth_as_often_as_it_is_reached() -> None:
    """Values of 1, 1, 4 | 2 by turn: (1 + 2 + 12 + 2) / 8 = 2.125, where the first episode's own
    would be 15 / 6 and the other's 1; were depths averaged first, 1.5, 1, 4 would give 15.5 / 6.5.
    """
    said = opinion_of([0.1] * 5)
    lessons = [played([0], [0, 0], [0]), played([0], episode=1)]
    evidence = evidence_of(said, said, *lessons, values=[1.0, -2.0, 0.0, 4.0, -2.0])
    step = KLCentroid(centroid="step", reach=0.9, renormalise=False)
    # 1.9125 turns are two; 2.25 are three.
    assert step.of(evidence).tolist() == [1, 1, 1, 0, 1]
    own = step.model_copy(update={"centroid": "episode"})
    assert own.of(evidence).tolist() == [1, 1, 1, 1, 1]


def test_where_nothing_in_the_step_diverges_there_is_no_limit() -> None:
    evidence = _turns([[0.0], [0.0]], values=[0.0, 0.0])
    assert KLCentroid(centroid="step", renormalise=False).of(evidence).tolist() == [1, 1]


def test_a_long_turn_weighs_no_more_in_the_centroid_than_a_short_one() -> None:
    # Means of 1, 1 and 1: with sums, the centroid of 1, 1, 4 would be 2.5.
    evidence = _turns([[0.0], [0.0], [0.0] * 4], values=[1.0] * 6)
    assert KLCentroid(renormalise=False).of(evidence).tolist() == [1, 1, 0, 0, 0, 0]


def test_a_rounding_is_not_another_turn() -> None:
    # Seven times 0.1: a centroid of 4, and of 4.000000000000001 in float64.
    evidence = _turns([[0.0]] * 7, values=[0.1] * 7)
    assert KLCentroid(renormalise=False).of(evidence).tolist() == [1, 1, 1, 1, 0, 0, 0]
