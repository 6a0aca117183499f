"""What is learnt from tokens that others drew: expected gradients by enumeration, in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import ENV, Scene, assert_same, run_of, scene_of, taught
from trajectories import lessons_of, played

from agentopd.base.types import Owner, Trajectory
from agentopd.divergences.base import Row
from agentopd.divergences.estimators import K1, K2, Estimator, RhoK3
from agentopd.divergences.kl import ByOwner
from agentopd.learning.method import Method
from agentopd.running.reading import load_config, parse_config
from agentopd.signal.surrogate import policy_gradient
from agentopd.signal.tokens import Tokens, acted, foreign

# Seven tokens: few enough to sum over all of them in place of sampling.
RNG = np.random.default_rng(5)
LOGITS = torch.tensor(RNG.normal(size=7))
P = LOGITS.softmax(-1).numpy()
Q = torch.tensor(RNG.normal(size=7)).softmax(-1).numpy()
SCORE = np.eye(7) - P
"""The gradient by the student's logits of each token's log-probability, a row a token."""
REVERSE = (P * np.log(P / Q)) @ SCORE
FORWARD = -Q @ SCORE
CPU = torch.device("cpu")


def _expected(estimator: Estimator, mu: np.ndarray) -> np.ndarray:
    """The estimator's gradient by the student's logits, summed over all tokens as mu draws them."""
    logits = LOGITS.clone().requires_grad_()
    logprob_V = torch.log_softmax(logits, -1)
    behaviour_V, teacher_V = torch.tensor(mu).log(), torch.tensor(Q).log()
    every = torch.arange(7)
    tokens = Tokens(every, every * 0, every, behaviour_V, every, lessons=7)
    value_V = estimator.per_token(logprob_V, teacher_V, tokens)
    if estimator.returns == "advantage":
        value_V = estimator.surrogate(logprob_V, behaviour_V, value_V)
    (found,) = torch.autograd.grad((torch.tensor(mu) * value_V).sum(), logits)
    return found.numpy()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("estimator", [K1(), K2(), RhoK3()], ids=lambda x: x.kind)
def test_whoever_draws_the_token_the_expected_gradient_is_the_reverse_kls(
    estimator: Estimator, share: float
) -> None:
    """MiniLLM's mixture, the student alone, and the teacher alone."""
    mu = (1 - share) * P + share * Q
    np.testing.assert_allclose(_expected(estimator, mu), REVERSE, atol=1e-12)


@pytest.mark.parametrize("estimator", ["{kind: k1, stale: true}", "{kind: k2, corrected: false}"])
def test_without_a_ratio_it_is_not_and_is_refused(estimator: str) -> None:
    made = Estimator.model_validate(load_yaml(estimator))
    mixed = 0.5 * P + 0.5 * Q
    assert abs(_expected(made, mixed) - REVERSE).max() > 1e-2
    overrides = [f"divergence={{kind: reverse_kl, support: sampled, estimator: {estimator}}}"]
    parse_config(ENV, overrides)
    with pytest.raises(ValueError, match="has others draw some"):
        parse_config(ENV, [*overrides, "rollout={kind: mixed, per: token}"])


def load_yaml(text: str) -> dict[str, object]:
    """A flow mapping of YAML."""
    import yaml

    return yaml.safe_load(text)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_rewards_of_a_mixtures_tokens_count_as_the_students_would(share: float) -> None:
    """E over the mixture of ratio x reward x score is E over the student of reward x score."""
    mu, reward = (1 - share) * P + share * Q, RNG.normal(size=7)
    logits = LOGITS.clone().requires_grad_()
    logprob_V = torch.log_softmax(logits, -1)
    loss_V = policy_gradient(logprob_V, torch.tensor(mu).log(), torch.tensor(reward), clip=None)
    (found,) = torch.autograd.grad((torch.tensor(mu) * loss_V).sum(), logits)
    np.testing.assert_allclose(found, -(P * reward) @ SCORE, atol=1e-12)


def test_two_turns_of_which_a_coin_gives_one_to_the_teacher() -> None:
    """Guided-OPD by enumeration of coins: the student's turn by its reverse, the teacher's by the
    forward KL; over many coins each counts as often as it comes.
    """
    beta, share = 0.4, 0.25
    divergence = ByOwner(share=share)
    p_NV, q_NV = torch.tensor(np.stack([P, P])).log(), torch.tensor(np.stack([Q, Q])).log()
    expected = np.zeros(7)
    for coins in ((0, 0), (0, 1), (1, 0), (1, 1)):
        acted_N = torch.tensor(coins, dtype=torch.bool)
        row = Row(teacher_entropy_N=torch.zeros(2, dtype=torch.float64), acted_N=acted_N)
        value_N, pull_NV = divergence.closed_form(p_NV, q_NV, row)
        pull = pull_NV.numpy()
        pull = pull - P * pull.sum(-1, keepdims=True)  # by logits: what normalisation ignores
        chance = np.prod([beta if coin else 1 - beta for coin in coins])
        expected += chance * pull.sum(0)
        torch.testing.assert_close(value_N, divergence.value(p_NV, q_NV, row))
    by_hand = 2 * ((1 - beta) * (1 - share) * REVERSE + beta * share * FORWARD)
    np.testing.assert_allclose(expected, by_hand, atol=1e-12)


def test_the_forward_kls_gradient_is_that_of_the_teachers_tokens_likelihood() -> None:
    """Guided-OPD with beta 1 is the teacher's episodes imitated, in expectation."""
    np.testing.assert_allclose(sum(-Q[v] * SCORE[v] for v in range(7)), FORWARD, atol=1e-12)


def test_who_wrote_a_token_is_known_of_a_batch_as_of_an_episode() -> None:
    """Observed, observed, then two tokens of a turn; the second episode's teacher was told."""
    one, other = played([7, 8], [9], episode=0), played([5, 6], episode=1)
    owner = one.owner.copy()
    owner[-1] = Owner.TEACHER
    lessons = lessons_of(replace(one, owner=owner), replace(other, told=other.trainable))
    assert acted(lessons, CPU).tolist() == [False, False, True, False, False]
    assert foreign(lessons, CPU).tolist() == [False, False, True, True, True]


RUNS = {
    "truncated": ("rollout={kind: truncated, turns: 1}", "schedule.turns={kind: staircase}"),
    "mixed-turn": ("rollout={kind: mixed, told: true}", "teacher=ema"),
    "mixed-token": (
        "rollout={kind: mixed, per: token}",
        "teacher=live",
        "divergence.support=sampled",
        "schedule.temperature={kind: linear, start: 1.5, stop: 0.7, steps: 3}",
    ),
    "acted": ("rollout={kind: acted, told: true}",),
    "prefix": ("rollout={kind: prefix, left: 1}", "schedule.left={kind: staircase}"),
    "hinted": (
        "rollout={kind: hinted, when: group_failed, learn_under: plain}",
        "rollout.group=2",
        "mix={kind: auxiliary, rl: grpo}",
    ),
    "hinted-always": ("rollout={kind: hinted, learn_under: hint}",),
}


def _step(run: object, step: int) -> float | None:
    trajectories = run.roll_out(step)  # type: ignore[attr-defined]
    update = run.learn(trajectories, run.ask_teacher(trajectories, step), step)  # type: ignore[attr-defined]
    run.record(step, trajectories, update)  # type: ignore[attr-defined]
    assert update.scalars.get("sampler_gap", 0.0) < 1e-4
    return update.loss


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_goes_on_in_the_same_bits(
    tiny_model: Path, tmp_path: Path, name: str
) -> None:
    """And raises no alarm that sampler and learner are two models."""
    settings = (*RUNS[name], "steps=3", "evaluate.episodes=2", "learner.learning_rate=0.01")
    whole = run_of(tiny_model, tmp_path / "whole", *settings)
    whole.begin()
    losses = [_step(whole, step) for step in range(3)]
    assert all(loss is None or np.isfinite(loss) for loss in losses)
    parts = run_of(tiny_model, tmp_path / "parts", *settings)
    parts.begin()
    _step(parts, 0)
    parts.save()
    again = run_of(tiny_model, tmp_path / "parts", *settings, resume=True)
    assert [_step(again, step) for step in (1, 2)] == losses[1:]
    mine, theirs = whole.student.weights(), again.student.weights()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["rollout={kind: truncated, turns: 1}", "schedule.turns={kind: linear, steps: 9}"],
         r"takes rollout\.turns from 1 to 0"),
        (["schedule.turns=constant"], "rollout: student has no number of that name"),
        (["rollout={kind: truncated, turns: 2}", "schedule.tokens=constant"],
         "it has temperature, top_p, top_k, turns"),
        (["schedule.temperature={kind: linear, steps: 3}"], "to 0, at which tokens are no samples"),
        (["schedule.top_p={kind: constant, value: 2}"], r"takes rollout\.top_p from 1\.0 to 2"),
        (["rollout={kind: mixed}", "schedule.share={kind: constant, value: 3}"],
         r"takes rollout\.share from 0\.5 to 1\.5"),
        (["rollout=hinted", "privilege=[]", "mix=rl", "rollout.group=2"],
         "no source of privilege tells anything"),
    ],
)  # fmt: skip
def test_what_a_run_could_not_play_is_refused_when_it_is_read(
    overrides: list[str], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        parse_config(ENV, overrides)


def test_numbers_of_a_rollout_follow_their_schedules() -> None:
    """TCOD: min(1 + step // c, most) turns; whatever else is as it was written."""
    overrides = ["schedule.temperature={kind: linear, start: 1.0, stop: 0.5, steps: 2}"]
    config = load_config("configs/quickstart.yaml", ["method=tcod_f2b", *overrides])
    played_at = [config.rollout_at(step) for step in (0, 5, 6, 13)]
    assert [r.turns for r in played_at] == [1, 1, 2, 3]  # type: ignore[attr-defined]
    assert [r.temperature for r in played_at] == [1.0, 0.5, 0.5, 0.5]
    assert isinstance(config, Method) and config.rollout.temperature == 1.0


def test_behind_a_replayed_turn_the_expected_gradient_is_that_of_the_students_next_token(
    tiny_model: Path,
) -> None:
    """All answers of one token behind the same replayed turn, each as often as any other and
    weighed by its ratio: together the reverse KL's gradient there, and nothing of the turn's own.
    """
    scene = scene_of(tiny_model)
    size = scene.student.vocabulary
    behind = [_replayed([9, 10, 11], [v], episode=v, logprob=-np.log(size)) for v in range(size)]
    sampled = "divergence={kind: reverse_kl, support: sampled, estimator: k1}"
    found = _taught_gradient(scene, behind, sampled)
    exact = _taught_gradient(scene, behind[:1], "divergence={kind: reverse_kl, support: full}")
    assert_same(found, exact, within=1e-4)


def _replayed(*answers: list[int], episode: int, logprob: float) -> Trajectory:
    """An episode whose first turn is a demonstration's."""
    trajectory = played(*answers, episode=episode, logprob=logprob)
    owner, first = trajectory.owner.copy(), trajectory.turns[0]
    owner[first.start : first.stop] = Owner.DEMO
    logprob_T = np.where(owner == Owner.STUDENT, trajectory.logprob, np.nan).astype(np.float32)
    return replace(trajectory, owner=owner, logprob=logprob_T, trainable=owner == Owner.STUDENT)


def _taught_gradient(scene: Scene, trajectories: list[Trajectory], *overrides: str) -> torch.Tensor:
    lessons = taught(scene.teacher, trajectories)
    return scene.gradient(*overrides, trajectories=trajectories, lessons=lessons)


@pytest.mark.parametrize(("owner", "share"), [(Owner.STUDENT, 0.25), (Owner.TEACHER, 0.25)])
def test_guided_by_nobody_or_throughout_it_is_one_of_its_two_parts(
    tiny_model: Path, owner: Owner, share: float
) -> None:
    """Guided-OPD with beta 0 is opd, with beta 1 the forward KL in the teacher's episodes."""
    scene = scene_of(tiny_model)
    mine = [replace(t, owner=np.where(t.owner, owner, t.owner)) for t in scene.trajectories]
    found = _taught_gradient(scene, mine, f"divergence={{kind: by_owner, share: {share}}}")
    kind, part = ("reverse_kl", 1 - share) if owner is Owner.STUDENT else ("forward_kl", share)
    alone = _taught_gradient(scene, mine, f"divergence={{kind: {kind}, support: full}}")
    assert_same(found, part * alone)
