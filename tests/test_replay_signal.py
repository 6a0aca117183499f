"""What a replay makes of saved numbers: divergences of kept tokens, pushes, arms side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import SOKOBAN
from hypothesis import given, settings
from hypothesis import strategies as st
from trajectories import played

from agentopd.base.types import Lesson, Trajectory
from agentopd.divergences.base import Divergence, Row
from agentopd.learning.objective import Objective
from agentopd.learning.plan import Plan
from agentopd.looking.replay.compare import Replay
from agentopd.looking.replay.rows import compare_kept
from agentopd.looking.replay.signal import Signal, signal_of
from agentopd.running.config import RunConfig
from agentopd.running.reading import parse_config
from agentopd.signal.evidence import Kept, Measured, Opinion
from agentopd.signal.scores import Scored
from agentopd.signal.tokens import Tokens

# N tokens, V vocabulary, K kept tokens

CPU = torch.device("cpu")
VOCABULARY = 12


def opinion(logprob_NV: torch.Tensor, ids_N: torch.Tensor) -> Opinion:
    """What a model with these log-probabilities says."""
    at_N = logprob_NV.gather(1, ids_N[:, None])
    return Opinion(
        logprob_N=at_N.squeeze(1),
        entropy_N=-(logprob_NV.exp() * logprob_NV).sum(-1),
        top_N=logprob_NV.amax(-1),
        rank_N=(logprob_NV > at_N).sum(-1),
    )


def scored_of(
    trajectory: Trajectory, student_NV: torch.Tensor, teacher_NV: torch.Tensor | None, most: int
) -> Scored:
    """One episode as a run would have saved it."""
    ids_N = torch.from_numpy(trajectory.ids[trajectory.trainable])
    measured = Measured(student=opinion(student_NV, ids_N))
    if teacher_NV is not None:
        likeliest = [x_NV.topk(most).indices for x_NV in (student_NV, teacher_NV)]
        ids_NK = torch.cat(likeliest, 1)
        kept = Kept(ids_NK, student_NV.gather(1, ids_NK), teacher_NV.gather(1, ids_NK))
        measured = replace(measured, teacher=opinion(teacher_NV, ids_N), kept=kept)
    return Scored(
        lesson=Lesson(trajectory=trajectory), measured=measured, vocabulary=student_NV.shape[1]
    )


def distributions(tokens: int, seed: int, sharp: float = 2.0) -> torch.Tensor:
    """Log-probabilities (N, V) of a model."""
    generator = torch.Generator().manual_seed(seed)
    logits_NV = sharp * torch.randn(tokens, VOCABULARY, generator=generator)
    return torch.log_softmax(logits_NV, -1)


def directly(
    divergence: Divergence, student_NV: torch.Tensor, teacher_NV: torch.Tensor, ids_N: torch.Tensor
) -> list[torch.Tensor]:
    """Value, gradient by the sampled logit and captured mass, over the whole vocabulary."""
    support = divergence.support
    chosen = support.select(student_NV, teacher_NV)
    entropy_N = -(teacher_NV.exp() * teacher_NV).sum(-1)
    value_N, pull_NK = divergence.compare(chosen.student_NK, chosen.teacher_NK, Row(entropy_N))
    pull_NV = support.spread(chosen, pull_NK, student_NV)
    return [value_N, pull_NV.gather(1, ids_N[:, None]).squeeze(1), chosen.mass_N]


EPISODE = played([0, 3, 7], [11, 5, 5, 2])
IDS = torch.tensor([0, 3, 7, 11, 5, 5, 2])


@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "jsd", "entropy_switched"])
@pytest.mark.parametrize("rest", ["tail", "renormalise", "raw"])
@pytest.mark.parametrize("support", ["student", "teacher", "intersection", "union"])
def test_likeliest_tokens_are_compared_as_if_the_vocabulary_were_there(
    support: str, rest: str, kind: str
) -> None:
    student_NV, teacher_NV = distributions(7, 1), distributions(7, 2)
    chosen = {"kind": f"{support}_top_k", "k": 3, "rest": rest}
    if (kind, rest) == ("jsd", "raw"):
        chosen["k"] = 2
    divergence = Divergence.model_validate({"kind": kind, "support": chosen})
    found = compare_kept(divergence, [scored_of(EPISODE, student_NV, teacher_NV, most=4)])
    expected = directly(divergence, student_NV, teacher_NV, IDS)
    for own_N, other_N in zip((found.value_N, found.pull_N, found.mass_N), expected, strict=True):
        torch.testing.assert_close(own_N, other_N, atol=2e-6, rtol=2e-5)
    assert found.exact


@given(
    seed=st.integers(0, 2**31),
    sharp=st.floats(0.5, 2),
    k=st.integers(1, VOCABULARY),
    more=st.integers(0, VOCABULARY),
    support=st.sampled_from(["student", "teacher", "intersection", "union"]),
)
@settings(max_examples=40)
def test_any_number_of_likeliest_tokens_can_be_compared(
    seed: int, sharp: float, k: int, more: int, support: str
) -> None:
    student_NV, teacher_NV = distributions(7, seed, sharp), distributions(7, seed + 1, sharp)
    chosen = {"kind": f"{support}_top_k", "k": k}
    divergence = Divergence.model_validate({"kind": "reverse_kl", "support": chosen})
    most = min(k + more, VOCABULARY)
    found = compare_kept(divergence, [scored_of(EPISODE, student_NV, teacher_NV, most)])
    expected = directly(divergence, student_NV, teacher_NV, IDS)
    torch.testing.assert_close(found.value_N, expected[0], atol=2e-5, rtol=1e-3)
    torch.testing.assert_close(found.mass_N, expected[2])


@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "jsd"])
def test_a_whole_vocabulary_that_was_kept_is_compared_exactly(kind: str) -> None:
    student_NV, teacher_NV = distributions(7, 1), distributions(7, 2)
    divergence = Divergence.model_validate(kind)
    found = compare_kept(divergence, [scored_of(EPISODE, student_NV, teacher_NV, VOCABULARY)])
    expected = directly(divergence, student_NV, teacher_NV, IDS)
    torch.testing.assert_close(found.value_N, expected[0])
    torch.testing.assert_close(found.pull_N, expected[1])
    assert found.exact


def test_what_was_not_kept_counts_as_one_token() -> None:
    """Kept are the student's likeliest token, 0, and the teacher's, 1; token 2 was sampled; 3 and
    4 together are the rest.
    """
    student_NV = torch.tensor([[0.5, 0.2, 0.1, 0.15, 0.05]]).log()
    teacher_NV = torch.tensor([[0.2, 0.4, 0.1, 0.1, 0.2]]).log()
    scored = [scored_of(played([2]), student_NV, teacher_NV, most=1)]
    found = compare_kept(Divergence.model_validate("reverse_kl"), scored)
    by_hand = 0.5 * math.log(0.5 / 0.2) + 0.2 * math.log(0.2 / 0.4) + 0.2 * math.log(0.2 / 0.3)
    assert found.value_N.tolist() == pytest.approx([by_hand], abs=1e-6)
    # The sampled token's log-ratio is 0, so its logit is pulled by what it takes from the others.
    assert found.pull_N.tolist() == pytest.approx([-0.1 * by_hand], abs=1e-6)
    assert found.mass_N.tolist() == pytest.approx([0.8])
    assert not found.exact


def test_more_likeliest_tokens_than_were_kept_are_refused() -> None:
    scored = [scored_of(EPISODE, distributions(7, 1), distributions(7, 2), most=4)]
    divergence = Divergence.model_validate({"kind": "jsd", "support": "student_top_k"})
    with pytest.raises(ValueError, match="k is 100, and the run kept the 4 likeliest"):
        compare_kept(divergence, scored)


def config(*overrides: str) -> RunConfig:
    return parse_config({"env": {"id": SOKOBAN}}, overrides)


METHODS = {
    "reverse": (),
    "turns": ("unit={kind: turn, use: weight}", "divergence=jsd"),
    "k1": ("divergence.support=sampled", "weight=[{kind: gap_gate}]", "unit=turn"),
    "auxiliary": ("mix={kind: auxiliary, coefficient: 0.5}", "rollout.group=2"),
    "rl": ("mix=rl", "rollout.group=2"),
    "bonus": ("mix={kind: auxiliary, rl: {kind: reinforce, entropy_bonus: 0.1}}",),
    "k2": ("divergence={kind: reverse_kl, support: sampled, estimator: k2}",),
    "likeliest": ("divergence={kind: forward_kl, support: {kind: union_top_k, k: 3}}",),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_push_is_what_descent_does_to_the_sampled_logit(method: Sequence[str]) -> None:
    """Against the gradient of the same loss by logits, through the whole vocabulary."""
    episodes = [
        played([0, 3, 7], [11, 5, 5, 2], rewards=[0.0, 1.0]),
        played([4, 9], [1], episode=1, logprob=-2.0),
    ]
    parsed = config(*method)
    logits_NV = distributions(10, 3).double().requires_grad_()
    student_NV, teacher_NV = logits_NV.log_softmax(-1), distributions(10, 4).double()
    bounds = [slice(0, 7), slice(7, 10)]
    scored = [
        scored_of(e, student_NV[own].detach().float(), teacher_NV[own].float(), VOCABULARY)
        for e, own in zip(episodes, bounds, strict=True)
    ]
    asked = bool(parsed.mix.distil_coefficient)
    compared = None
    if asked and not parsed.divergence.sampled:
        compared = compare_kept(parsed.divergence, scored)
    found = signal_of(parsed, scored, compared, step=0)

    lessons = [one.lesson for one in scored]
    tokens = Tokens.of(lessons, CPU)
    measured = Measured(
        student=opinion(student_NV, tokens.ids_N),
        teacher=opinion(teacher_NV, tokens.ids_N) if asked else None,
    )
    if compared is not None:
        chosen = parsed.divergence.support.select(student_NV, teacher_NV)
        row = Row(torch.zeros(10))
        value_N = parsed.divergence.value(chosen.student_NK, chosen.teacher_NK, row)
        measured = replace(measured, divergence_N=value_N)
    plan = Plan.of(parsed, lessons if asked else [], [] if asked else lessons, 0)
    terms = Objective(parsed).terms(measured, tokens, lessons, plan)
    torch.stack(list(terms.values())).sum().backward()
    assert logits_NV.grad is not None
    expected_N = -logits_NV.grad.gather(1, tokens.ids_N[:, None]).squeeze(1)
    assert expected_N.abs().max() > 1e-3
    torch.testing.assert_close(found.push_N.double(), expected_N, atol=1e-6, rtol=1e-4)


def test_rewards_are_credited_to_episodes_that_were_not_scored_too() -> None:
    """Advantages +-1/2, three tokens, and a ratio of e where the student moved by one nat."""
    solved = played([0, 3], rewards=[1.0])
    failed = played([4], episode=1)
    student_NV = distributions(2, 3)
    student_NV[0, 0] = 0.0  # behaviour: -1
    student_NV[1, 3] = -1.0
    said = Opinion(torch.tensor([-1.0]), torch.zeros(1), torch.zeros(1))
    scored = [
        scored_of(solved, student_NV, distributions(2, 4), most=2),
        Scored(lesson=Lesson(trajectory=failed), measured=Measured(said), vocabulary=VOCABULARY),
    ]
    method = config("mix={kind: rl, rl: {kind: grpo, std: false, clip: 5}}", "rollout.group=2")
    found = signal_of(method, scored, None, step=0)
    assert found.by_logprob_N.tolist() == pytest.approx([-math.e / 6, -1 / 6, 1 / 6])
    assert not found.by_divergence_N.any()
    assert found.mass_N.isnan().all()


def signal(push: Sequence[float], mass: float = math.nan) -> Signal:
    push_N = torch.tensor(push, dtype=torch.float32)
    nothing_N = torch.zeros_like(push_N)
    return Signal(nothing_N, nothing_N, nothing_N, push_N, torch.full_like(push_N, mass))


def test_arms_are_shown_side_by_side() -> None:
    solved, failed = played([0], [3], episode=0), played([4], [5], episode=1)
    tokens = Tokens.of([Lesson(trajectory=t) for t in (solved, failed)], CPU)
    shown = Replay(
        run=Path("run"),
        step=3,
        overrides={"b": ["unit=turn"]},
        tokens=tokens,
        success_N=torch.tensor([True, True, False, False]),
        arms={"run": signal([1, 3, 0, -4], 0.5), "b": signal([-2, 0, 2, 8]), "c": signal([0] * 4)},
    ).summary()
    assert (shown["step"], shown["tokens"], shown["episodes"]) == (3, 4, 2)
    assert shown["tokens_by_turn"] == [2, 2]
    run, b, c = shown["arms"].values()
    assert run["share_by_turn"] == [1 / 8, 7 / 8]
    assert run["mean_by_turn"] == [0.5, -0.5]
    assert run["by_success"]["solved"] == {"share": 0.5, "mean": 2.0}
    assert run["by_success"]["unsolved"] == {"share": 0.5, "mean": -2.0}
    assert (run["correlation"], run["sign_agreement"], run["mass"]) == (pytest.approx(1), 1, 0.5)
    # Around means of 0 and 2: the products are -4, -6, 0 and -24; the squares 26 and 56.
    assert b["correlation"] == pytest.approx(-34 / math.sqrt(26 * 56))
    assert b["sign_agreement"] == 0  # over the first and the last token
    assert b["mass"] is None
    assert b["overrides"] == ["unit=turn"]
    assert c["share_by_turn"] == [0, 0]
    assert c["correlation"] is c["sign_agreement"] is None
    json.dumps(shown, allow_nan=False)
