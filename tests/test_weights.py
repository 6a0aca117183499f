"""What all weights have in common, and how a turn's tokens are found."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from trajectories import evidence_of, opinion_of, played, tokens_of

import agentopd.running.config
from agentopd.signal.evidence import Evidence, Opinion
from agentopd.signal.tokens import mean_by, sum_by
from agentopd.weights.base import Weight, product
from agentopd.weights.episode import (
    EarlyTokens,
    Spike,
    StudentPerplexity,
    SuccessRate,
    TeacherPerplexity,
)
from agentopd.weights.place import DepthCurriculum, DepthDecay, PhraseMask, SkipFirst
from agentopd.weights.token import (
    CentredLikelihood,
    EntropyWeight,
    EvidenceRatio,
    GapGate,
    OverlapOnly,
    PhasedMask,
    TruncatedRatio,
)
from agentopd.weights.turn import (
    BeliefIncrement,
    KLCentroid,
    LabelConfidence,
    LabelRule,
    StepSigmoid,
    TrustDecay,
)

VOCABULARY = 5
OF_THE_STEP: list[type[Weight]] = [SuccessRate, PhasedMask]
"""What compares a step's episodes or tokens by its nature."""
KNOWN = [kind for kind in Weight.members() if kind.__module__.startswith("agentopd.")]
BUILT_IN = [kind for kind in KNOWN if kind not in OF_THE_STEP]
VARIANTS: list[Weight] = [
    *(kind() for kind in BUILT_IN),
    *(kind(renormalise=False) for kind in BUILT_IN if kind().renormalise),
    *(
        kind(renormalise="episode")
        for kind in BUILT_IN
        if not (kind().renormalise or kind is Spike)
    ),
    GapGate(variant="entropy"),
    GapGate(variant="soft_or"),
    EntropyWeight(whose="teacher", prefer="low"),
    CentredLikelihood(whose="teacher", form="exp"),
    CentredLikelihood(form="threshold"),
    StepSigmoid(budget="total"),
    StepSigmoid(budget="none"),
    StepSigmoid(clip=1.0, scale=50.0),
    TrustDecay(cap="every"),
    TeacherPerplexity(per="episode", renormalise=False),
    StudentPerplexity(per="episode", renormalise=False),
    Spike(per="turn", renormalise="episode"),
    EarlyTokens(per="turn"),
    SkipFirst(per="episode", tokens=2),
    OverlapOnly(k=1),
    LabelConfidence(rules=(LabelRule(fact="lost", label="skip"),), otherwise="weak"),
]
IN_ORDER = (EarlyTokens, SkipFirst, PhraseMask)
"""What looks at the order of a turn's tokens, or at the trajectory itself."""


def _said(tokens: int, ids_N: torch.Tensor, generator: torch.Generator) -> Opinion:
    logits_NV = 3 * torch.randn(tokens, VOCABULARY, generator=generator, dtype=torch.float64)
    logprob_NV = torch.log_softmax(logits_NV.requires_grad_(), -1)
    at_N = logprob_NV.gather(1, ids_N[:, None]).squeeze(1)
    return Opinion(
        logprob_N=at_N,
        entropy_N=-(logprob_NV.exp() * logprob_NV).sum(-1),
        top_N=logprob_NV.amax(-1),
        rank_N=(logprob_NV > at_N[:, None]).sum(-1),
    )


def _evidence(episodes: Sequence[Sequence[int]], seed: int) -> Evidence:
    """Random opinions of episodes whose turns have so many tokens."""
    generator = torch.Generator().manual_seed(seed)
    trajectories = [
        played(
            *([(seed + i + k + t) % VOCABULARY for t in range(n)] for k, n in enumerate(turns)),
            infos=[{"facts": {"lost": (k + seed) % 2 == 0}} for k in range(len(turns))],
            episode=i,
        )
        for i, turns in enumerate(episodes)
    ]
    ids_N = tokens_of(*trajectories).ids_N
    return evidence_of(
        _said(len(ids_N), ids_N, generator),
        _said(len(ids_N), ids_N, generator),
        *trajectories,
        values=torch.randn(len(ids_N), generator=generator).tolist(),
        advantages=[float((seed + i) % 3 - 1) for i in range(len(episodes))],
        success=[((seed + i) % 5) / 4 for i in range(len(episodes))],
        step=seed % 7,
    )


def _part(evidence: Evidence, lesson: int) -> Evidence:
    """One lesson of the micro-batch by itself."""
    mine_N = evidence.tokens.lesson_N == lesson
    return evidence_of(
        _chosen(evidence.student, mine_N),
        _chosen(evidence.teacher, mine_N),
        evidence.lessons[lesson],
        values=evidence.value_N[mine_N].tolist(),
        advantages=[float(evidence.advantage_N[mine_N][0])],
        success=[float(evidence.success_L[lesson])],
        step=evidence.step,
    )


def _chosen(said: Opinion, which_N: torch.Tensor) -> Opinion:
    assert said.rank_N is not None
    return Opinion(
        said.logprob_N[which_N],
        said.entropy_N[which_N],
        said.top_N[which_N],
        rank_N=said.rank_N[which_N],
    )


EPISODES = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=3)
over_all = given(episodes=EPISODES, seed=st.integers(0, 10_000))
quickly = settings(max_examples=10, deadline=None)


def test_every_weight_is_known_once_a_configuration_can_be_read() -> None:
    assert agentopd.running.config.RunConfig
    assert {kind.kind for kind in KNOWN} == {
        *("gap_gate", "evidence_ratio", "entropy", "cll", "overlap", "truncated_ratio"),
        *("step_sigmoid", "belief_increment", "disagreement_uncertainty"),
        *("label_confidence", "trust_decay", "kl_centroid"),
        *("depth_decay", "depth_curriculum", "skip_first", "phrase_mask"),
        *("teacher_perplexity", "student_perplexity", "spike", "early_tokens"),
        *("told", "success_rate", "phased_mask", "likelihood_gate"),
    }


@quickly
@over_all
def test_weights_are_finite_non_negative_and_nothing_is_differentiated(
    episodes: list[list[int]], seed: int
) -> None:
    evidence = _evidence(episodes, seed)
    for weight in VARIANTS:
        found = weight.of(evidence)
        assert found.shape == (len(evidence.tokens),), weight
        assert found.isfinite().all() and (found >= 0).all(), weight
        assert not found.requires_grad, weight


@quickly
@over_all
def test_weights_are_one_on_average_over_each_episode(episodes: list[list[int]], seed: int) -> None:
    evidence = _evidence(episodes, seed)
    tokens = evidence.tokens
    for weight in VARIANTS:
        if weight.renormalise == "episode":
            means = mean_by(weight.of(evidence), tokens.lesson_N, tokens.lessons).tolist()
            left = sum_by(weight.raw(evidence).detach(), tokens.lesson_N, tokens.lessons) > 0
            wanted = [1.0 if some or not weight.mask else 0.0 for some in left.tolist()]
            assert means == pytest.approx(wanted), weight


@quickly
@over_all
def test_an_episodes_weights_do_not_depend_on_its_neighbours(
    episodes: list[list[int]], seed: int
) -> None:
    together = _evidence(episodes, seed)
    alone = [_part(together, lesson) for lesson in range(len(episodes))]
    for weight in VARIANTS:
        found = torch.cat([weight.of(evidence) for evidence in alone])
        torch.testing.assert_close(found, weight.of(together), msg=repr(weight))


@quickly
@over_all
def test_the_order_of_a_turns_tokens_does_not_matter(episodes: list[list[int]], seed: int) -> None:
    evidence = _evidence(episodes, seed)
    tokens = evidence.tokens
    shuffled = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
    order = shuffled[tokens.turns.at_N[shuffled].argsort(stable=True)]
    moved = replace(
        evidence,
        student=_chosen(evidence.student, order),
        teacher=_chosen(evidence.teacher, order),
        tokens=replace(
            tokens,
            ids_N=tokens.ids_N[order],
            behaviour_N=tokens.behaviour_N[order],
            place_N=tokens.place_N[order],
        ),
        value_N=evidence.value_N[order],
    )
    for weight in VARIANTS:
        if not isinstance(weight, IN_ORDER):
            torch.testing.assert_close(
                weight.of(moved), weight.of(evidence)[order], msg=repr(weight)
            )


@pytest.mark.parametrize("kind", BUILT_IN)
def test_a_weight_reads_back_what_it_wrote(kind: type[Weight]) -> None:
    assert Weight.model_validate(kind().model_dump(mode="json")) == kind()
    assert Weight.model_validate(kind.kind) == kind()


def test_those_a_multiplicative_mixer_reads_are_left_as_they_are() -> None:
    """And an importance ratio, whose expectation is 1 as it is."""
    unscaled = {kind for kind in BUILT_IN if not kind().renormalise}
    read = {EvidenceRatio, StepSigmoid, BeliefIncrement, DepthCurriculum, Spike}
    assert unscaled == read | {TruncatedRatio}


def test_only_the_overlap_asks_for_ranks() -> None:
    assert [kind for kind in BUILT_IN if kind().needs_ranks] == [OverlapOnly]


def test_where_every_weight_is_zero_all_tokens_count_alike_unless_they_are_masked() -> None:
    certain = opinion_of([1.0, 1.0])
    evidence = evidence_of(certain, certain, played([0, 0]))
    assert EntropyWeight().of(evidence).tolist() == [1.0, 1.0]
    assert SkipFirst(tokens=5).of(evidence).tolist() == [0.0, 0.0]


def test_a_mask_hands_what_it_takes_to_the_episodes_other_tokens() -> None:
    said = opinion_of([0.5] * 4)
    evidence = evidence_of(said, said, played([0, 0, 0, 0]))
    assert SkipFirst(tokens=2).of(evidence).tolist() == [0.0, 0.0, 2.0, 2.0]


def _together(evidence: Evidence, *weights: Weight) -> list[float]:
    """What several weights make of each token."""
    return product([(weight, weight.raw(evidence)) for weight in weights], evidence.tokens).tolist()


def test_two_weights_are_multiplied_and_their_product_is_rescaled_once() -> None:
    """Rescaled one by one, the masks would make 0 0 0 8: a mean of 2."""
    said = opinion_of([0.5] * 4)
    evidence = evidence_of(said, said, played([0] * 4))
    assert _together(evidence, SkipFirst(tokens=3), SkipFirst(tokens=2)) == [0.0, 0.0, 0.0, 4.0]
    evidence = evidence_of(said, said, played([0, 0]), played([0, 0], episode=1))
    # Entropies 1, 3 and probabilities 3/4, 1/4 of the one; the other's cancel out.
    said = opinion_of([0.75, 0.25, 0.2, 0.1], entropies=[1.0, 3.0, 2.0, 4.0])
    evidence = replace(evidence, student=said)
    likely = CentredLikelihood(form="exp", most=100.0)
    raw = [e * p * math.exp(e) for e, p in ((1.0, 0.75), (3.0, 0.25), (2.0, 0.2), (4.0, 0.1))]
    means = [sum(raw[:2]) / 2] * 2 + [sum(raw[2:]) / 2] * 2
    wanted = [w / mean for w, mean in zip(raw, means, strict=True)]
    assert _together(evidence, EntropyWeight(), likely) == pytest.approx(wanted)


def test_a_weight_that_is_not_rescaled_multiplies_what_the_others_make() -> None:
    said = opinion_of([0.5] * 4)
    evidence = evidence_of(said, said, played([0, 0], [0, 0]))
    half = DepthDecay(gamma=0.5, renormalise=False)
    assert _together(evidence, half, SkipFirst(tokens=1)) == [0.0, 2.0, 0.0, 1.0]
    assert _together(evidence, half) == [1.0, 1.0, 0.5, 0.5]
    assert _together(evidence) == [1.0] * 4


def test_over_the_step_episodes_are_told_apart() -> None:
    """Raw values of 1, 3 | 4, 0 | 0 have a mean of 8 / 5; an episode of zeros stays one."""
    said = opinion_of([0.5] * 5, entropies=[1.0, 3.0, 4.0, 0.0, 0.0])
    turns = [played([0] * n, episode=i) for i, n in enumerate((2, 2, 1))]
    evidence = evidence_of(said, said, *turns)
    wanted = [raw / 1.6 for raw in (1.0, 3.0, 4.0, 0.0, 0.0)]
    assert EntropyWeight(renormalise="step").of(evidence).tolist() == pytest.approx(wanted)
    certain = opinion_of([1.0] * 5)
    nowhere = evidence_of(certain, certain, *turns)
    assert EntropyWeight(renormalise="step").of(nowhere).tolist() == [1.0] * 5
    assert SkipFirst(tokens=9, renormalise="step").of(nowhere).tolist() == [0.0] * 5


def test_what_is_rescaled_over_episodes_comes_before_what_is_over_the_step() -> None:
    """Skipping makes 0 2 | 0 2 of each episode, entropies then 0 6 | 0 2, whose mean is 2."""
    said = opinion_of([0.5] * 4, entropies=[9.0, 3.0, 7.0, 1.0])
    evidence = evidence_of(said, said, played([0, 0]), played([0, 0], episode=1))
    step, half = EntropyWeight(renormalise="step"), DepthDecay(gamma=0.5, renormalise=False)
    for weights in ((SkipFirst(tokens=1), step, half), (half, step, SkipFirst(tokens=1))):
        assert _together(evidence, *weights) == [0.0, 3.0, 0.0, 1.0]


def test_only_what_looks_beyond_its_episode_needs_the_step() -> None:
    assert not any(weight.needs_step for weight in VARIANTS)
    assert all(kind(renormalise="step").needs_step for kind in BUILT_IN)
    assert all(kind().needs_step and kind(renormalise=False).needs_step for kind in OF_THE_STEP)
    assert KLCentroid(centroid="step").needs_step
    assert TeacherPerplexity(relative_to="group", renormalise=False).needs_step


def test_off_is_what_yaml_makes_of_it() -> None:
    for spelt in ("off", "false"):
        assert (
            Weight.model_validate(yaml.safe_load(f"{{kind: spike, renormalise: {spelt}}}"))
            == Spike()
        )
    with pytest.raises(ValidationError, match="'episode', 'step' or False"):
        Weight.model_validate({"kind": "gap_gate", "renormalise": True})


def test_where_a_product_is_zero_tokens_count_alike_but_for_those_a_mask_removes() -> None:
    certain = opinion_of([1.0] * 3)
    evidence = evidence_of(certain, certain, played([0] * 3))
    assert _together(evidence, EntropyWeight(), SkipFirst(tokens=1)) == [0.0, 1.5, 1.5]
    assert _together(evidence, EntropyWeight(), SkipFirst(tokens=3)) == [0.0] * 3


@quickly
@over_all
def test_any_two_weights_are_one_on_average_together(episodes: list[list[int]], seed: int) -> None:
    evidence = _evidence(episodes, seed)
    tokens = evidence.tokens
    masks = [SkipFirst(tokens=1), OverlapOnly(k=3), LabelConfidence(), DepthDecay(), GapGate()]
    for one, other in itertools.combinations(masks, 2):
        found_N = torch.tensor(_together(evidence, one, other), dtype=torch.float64)
        for mean in mean_by(found_N, tokens.lesson_N, tokens.lessons).tolist():
            assert mean == pytest.approx(1.0) or (mean == 0.0 and (one.mask or other.mask))


def test_one_weight_an_episode_cannot_be_rescaled_over_it() -> None:
    with pytest.raises(ValidationError, match="every weight would be 1"):
        TeacherPerplexity(per="episode")
    with pytest.raises(ValidationError, match="renormalise: off or step, or per: turn"):
        Weight.model_validate({"kind": "spike", "renormalise": "episode"})
    assert Spike(renormalise="step").per == "episode"


def test_a_weight_of_a_users_own_is_detached_too() -> None:
    class Likely(Weight):
        """The student's probability of the sampled token."""

        def raw(self, evidence: Evidence) -> torch.Tensor:
            return evidence.student.logprob_N.exp()

    evidence = _evidence([[2, 1], [3]], seed=0)
    assert evidence.student.logprob_N.requires_grad
    assert not Likely().of(evidence).requires_grad


def test_turns_are_those_with_tokens_by_episode_and_depth() -> None:
    turns = tokens_of(played([0, 1], [], [2], episode=0), played([3], episode=1)).turns
    assert turns.at_N.tolist() == [0, 0, 1, 2]
    assert turns.lesson_K.tolist() == [0, 0, 1]
    assert turns.depth_K.tolist() == [0, 2, 0]
    assert turns.first_K.tolist() == [0, 0, 2]
    values = torch.tensor([1.0, 2.0, 5.0, 7.0])
    assert turns.sum(values).tolist() == [3.0, 5.0, 7.0]
    assert turns.mean(values).tolist() == [1.5, 5.0, 7.0]


def test_a_fold_starts_anew_with_every_episode() -> None:
    turns = tokens_of(played([0], [0], [0], episode=0), played([0], [0], episode=1)).turns
    found = turns.fold(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), 10.0, lambda a, b: 2 * a + b)
    assert found.tolist() == [21.0, 44.0, 91.0, 24.0, 53.0]


def test_the_mean_of_an_empty_group_is_zero() -> None:
    values, group = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 2, 2])
    assert mean_by(values, group, 3).tolist() == [1.0, 0.0, 4.0]
    assert sum_by(values, group, 3).tolist() == [1.0, 0.0, 8.0]


def test_weights_keep_the_precision_of_what_they_are_made_of() -> None:
    evidence = _evidence([[2, 1], [3]], seed=0)
    single = replace(
        evidence,
        student=_single(evidence.student),
        teacher=_single(evidence.teacher),
        value_N=evidence.value_N.float(),
        advantage_N=evidence.advantage_N.float(),
        success_L=evidence.success_L.float(),
    )
    for weight in VARIANTS:
        assert weight.of(single).dtype == torch.float32, weight
        torch.testing.assert_close(weight.of(single), weight.of(evidence).float())


def _single(said: Opinion) -> Opinion:
    return replace(
        said,
        logprob_N=said.logprob_N.float(),
        entropy_N=said.entropy_N.float(),
        top_N=said.top_N.float(),
    )


SOME = [_evidence([[2, 1, 3], [3], [1, 4]], seed) for seed in range(6)]
"""Enough that what does not always hold fails somewhere; an advantage of each sign, and of none."""
