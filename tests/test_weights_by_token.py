"""Weights that look at each token by itself, against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from pydantic import ValidationError
from trajectories import evidence_of, opinion_of, played

from agentopd.signal.evidence import Evidence
from agentopd.weights.base import Weight
from agentopd.weights.token import (
    CentredLikelihood,
    EntropyWeight,
    EvidenceRatio,
    GapGate,
    OverlapOnly,
    TruncatedRatio,
)


def _one_by_one(ratios: list[float], advantage: float = 0.0) -> Evidence:
    """One episode in which q(y) / p(y) is as given."""
    student = opinion_of([0.1] * len(ratios))
    teacher = opinion_of([0.1 * r for r in ratios])
    return evidence_of(student, teacher, played([0] * len(ratios)), advantages=[advantage])


def test_the_gap_gate_is_a_sigmoid_of_the_sampled_log_ratio() -> None:
    # sigmoid(2 log r) = r^2 / (1 + r^2)
    found = GapGate(beta=2.0, renormalise=False).of(_one_by_one([1.6, 0.5, 1.0]))
    assert found.tolist() == pytest.approx([2.56 / 3.56, 0.2, 0.5])


@pytest.mark.parametrize("variant", ["gap", "entropy", "soft_or"])
def test_a_gate_that_is_one_half_everywhere_is_refused(variant: str) -> None:
    with pytest.raises(ValidationError, match=r"one half for every token.* control: zero_signal"):
        Weight.model_validate({"kind": "gap_gate", "beta": 0, "variant": variant})


def test_the_other_gates_open_for_entropy() -> None:
    # Gaps of log 2 and 0, entropies of log 3 and 0.
    student = opinion_of([0.25, 0.25], entropies=[math.log(3), 0.0])
    evidence = evidence_of(student, opinion_of([0.5, 0.25]), played([0, 0]))
    entropy = GapGate(variant="entropy", beta=1.0, renormalise=False).of(evidence)
    assert entropy.tolist() == pytest.approx([3 / 4, 1 / 2])
    either = GapGate(variant="soft_or", beta=1.0, renormalise=False).of(evidence)
    # 1 - (1 - 1.0986)(1 - 0.6931) = 1.03026, and 1 - 1 * 1 = 0
    assert either.tolist() == pytest.approx([1 / (1 + math.exp(-1.030262)), 0.5], abs=1e-6)


@pytest.mark.parametrize(
    ("advantage", "wanted"),
    [
        (2.0, [1.1, 1.2, 0.8, 1.0]),
        (-0.5, [1 / 1.1, 0.8, 1.2, 1.0]),
        (0.0, [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_the_evidence_ratio_is_turned_by_the_advantage_and_clipped(
    advantage: float, wanted: list[float]
) -> None:
    found = EvidenceRatio().of(_one_by_one([1.1, 3.0, 0.25, 1.0], advantage))
    assert found.tolist() == pytest.approx(wanted)


def test_the_evidence_ratio_survives_a_gap_beyond_any_number() -> None:
    evidence = _one_by_one([1.0, 1.0], advantage=1.0)
    far = replace(evidence.teacher, logprob_N=evidence.teacher.logprob_N.new_tensor([900.0, -900]))
    assert EvidenceRatio().of(replace(evidence, teacher=far)).tolist() == pytest.approx([1.2, 0.8])


def test_the_entropy_weight_is_either_models_entropy_or_what_it_leaves() -> None:
    student = opinion_of([0.5, 1.0], entropies=[math.log(2), 0.0])
    teacher = opinion_of([0.25, 1.0], entropies=[math.log(4), 0.0])
    evidence = evidence_of(student, teacher, played([0, 0]))
    weights = (
        EntropyWeight(renormalise=False),
        EntropyWeight(renormalise=False, whose="teacher"),
        EntropyWeight(renormalise=False, whose="teacher", prefer="low"),
    )
    found = [weight.of(evidence).tolist() for weight in weights]
    wanted = [[math.log(2), 0.0], [math.log(4), 0.0], [0.25, 1.0]]
    assert found == [pytest.approx(row) for row in wanted]


def test_centred_likelihood_compares_a_token_with_a_typical_one() -> None:
    # Of entropy log 4, a token of probability 1/4 is typical; one of 1/2 twice as likely; of 1/16,
    # four times less.
    student = opinion_of([1 / 4, 1 / 2, 1 / 16], entropies=[math.log(4)] * 3)
    evidence = evidence_of(student, opinion_of([1.0] * 3), played([0] * 3))
    found = CentredLikelihood(renormalise=False).of(evidence)
    assert found.tolist() == pytest.approx([1 / 2, 2 / 3, 1 / 5])
    found = CentredLikelihood(renormalise=False, form="exp").of(evidence)
    assert found.tolist() == pytest.approx([1, 2, 1 / 4])
    found = CentredLikelihood(renormalise=False, form="exp", beta=2.0, most=3.0).of(evidence)
    assert found.tolist() == pytest.approx([1, 3, 1 / 16])
    # phi is 0, log 2 and -log 4
    found = CentredLikelihood(renormalise=False, form="threshold", least=-1.3).of(evidence)
    assert found.tolist() == [1.0, 1.0, 0.0]
    found = CentredLikelihood(renormalise=False, form="threshold", least=0.5).of(evidence)
    assert found.tolist() == [0.0, 1.0, 0.0]
    # The teacher is sure of what it says and says it: log 1 + 0.
    found = CentredLikelihood(renormalise=False, form="exp", whose="teacher").of(evidence)
    assert found.tolist() == [1.0, 1.0, 1.0]


def test_an_episode_without_a_token_of_the_distribution_teaches_nothing() -> None:
    far = opinion_of([1 / 16, 1 / 16], entropies=[math.log(4)] * 2)
    evidence = evidence_of(far, far, played([0, 0]))
    assert CentredLikelihood(form="threshold").of(evidence).tolist() == [0.0, 0.0]
    assert CentredLikelihood(form="exp").of(evidence).tolist() == [1.0, 1.0]


def test_overlap_wants_the_token_among_both_models_likeliest() -> None:
    student = opinion_of([0.1] * 4, ranks=[0, 1, 2, 1])
    teacher = opinion_of([0.1] * 4, ranks=[1, 2, 0, 0])
    evidence = evidence_of(student, teacher, played([0] * 4))
    found = OverlapOnly(k=2, renormalise=False).of(evidence)
    assert found.tolist() == [1.0, 0.0, 0.0, 1.0]
    assert OverlapOnly(k=3, renormalise=False).of(evidence).tolist() == [1.0] * 4
    assert OverlapOnly(k=1).of(evidence).tolist() == [0.0] * 4


def test_the_truncated_ratio_makes_up_for_another_sampler() -> None:
    """Tokens were sampled with a probability of 0.2; their mean ratio is left as it is."""
    student = opinion_of([0.2, 0.1, 0.3, 0.9])
    trajectory = played([0] * 4, logprob=math.log(0.2))
    evidence = evidence_of(student, opinion_of([0.5] * 4), trajectory)
    assert TruncatedRatio().of(evidence).tolist() == pytest.approx([1.0, 0.5, 1.5, 2.0])
    assert TruncatedRatio(cap=1.2).of(evidence).tolist() == pytest.approx([1.0, 0.5, 1.2, 1.2])


def test_an_average_over_samples_is_then_the_students_own() -> None:
    """Exactly, in expectation: p = (0.5, 0.3, 0.2), sampled from mu = (0.4, 0.4, 0.2)."""
    p, mu, value = [0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [3.0, -1.0, 7.0]
    found = 0.0
    for own, sampled, x in zip(p, mu, value, strict=True):
        trajectory = played([0], logprob=math.log(sampled))
        evidence = evidence_of(opinion_of([own]), opinion_of([0.5]), trajectory)
        found += sampled * x * TruncatedRatio().of(evidence).item()
    assert found == pytest.approx(sum(own * x for own, x in zip(p, value, strict=True)))
