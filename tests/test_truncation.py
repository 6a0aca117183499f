"""top_p and top_k: what is drawn, what is noted of it, and what is learnt from it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from command_line import call
from scenes import run_of

from agentopd.base.written import ConfigError
from agentopd.divergences.estimators import K1, RhoK3
from agentopd.learning.idle.notices import truncation_notice
from agentopd.rollout import drawing
from agentopd.rollout.drawing import draw
from agentopd.rollout.engine import disagreement
from agentopd.rollout.sampler import Request
from agentopd.running.reading import parse_config
from agentopd.signal.tokens import Tokens
from agentopd.signal.truncation import Truncation

Array = npt.NDArray[np.float64]

ENV = {"env": {"id": "agentopd/Sokoban-v0"}}
FOUR = np.array([0.4, 0.1, 0.3, 0.2])


def _by_hand(share: Array, top_p: float, top_k: int) -> Array:
    """One token after the other from the likeliest on: first by number, then by mass."""
    order = sorted(range(len(share)), key=lambda v: -share[v])
    order = order[: top_k or len(order)]
    whole, held, kept = sum(share[v] for v in order), 0.0, list[int]()
    for v in order:
        if held / whole >= top_p:
            break
        kept.append(v)
        held += share[v]
    return np.array([share[v] / held if v in kept else 0.0 for v in range(len(share))])


def _drawn(
    share: Array, truncation: Truncation, draws: int = 400, temperature: float = 1.0
) -> tuple[Array, Array]:
    """How often each token comes at evenly spread numbers, and exp of what is noted of it."""
    logits = torch.tensor(np.log(share), dtype=torch.float32).expand(draws, -1)
    requests = [Request(n, [0], (0,), 1, temperature, truncation) for n in range(draws)]
    uniform = [(n + 0.5) / draws for n in range(draws)]
    ids, logprobs = draw(logits, uniform, requests)
    often = np.bincount(ids.numpy(), minlength=len(share)) / draws
    noted = np.zeros(len(share))
    noted[ids.numpy()] = logprobs.double().exp().numpy()
    return often, noted


@pytest.mark.parametrize(
    ("top_p", "top_k", "expected"),
    [
        (1.0, 0, [0.4, 0.1, 0.3, 0.2]),
        (1.0, 3, [4 / 9, 0, 3 / 9, 2 / 9]),
        (0.65, 0, [4 / 7, 0, 3 / 7, 0]),
        (0.75, 0, [4 / 9, 0, 3 / 9, 2 / 9]),  # 0.7 are not enough
        (0.75, 3, [4 / 7, 0, 3 / 7, 0]),  # of the three, 7/9 are
        (0.01, 0, [1, 0, 0, 0]),
        (1.0, 1, [1, 0, 0, 0]),
        (1.0, 99, [0.4, 0.1, 0.3, 0.2]),
    ],
)
def test_what_is_kept_is_drawn_as_often_as_is_noted(
    top_p: float, top_k: int, expected: list[float]
) -> None:
    """First the likeliest in number, then of these, renormalised, the likeliest by mass."""
    often, noted = _drawn(FOUR, Truncation(top_p, top_k))
    np.testing.assert_allclose(noted, expected, atol=1e-6)
    np.testing.assert_allclose(often, expected, atol=1 / 400)


def test_any_distribution_is_cut_as_it_is_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few are put in order at first."""
    random = np.random.default_rng(3)
    for trial in range(60):
        share = np.asarray(random.dirichlet(np.full(50, random.choice([0.05, 0.5, 5.0]))))
        share = np.maximum(share, 1e-9) / np.maximum(share, 1e-9).sum()
        truncation = Truncation(float(random.uniform(0.05, 1)), int(random.integers(0, 40)))
        monkeypatch.setattr(drawing, "_LIKELIEST", int(random.integers(1, 60)))
        expected = _by_hand(share, truncation.top_p, truncation.top_k)
        often, noted = _drawn(share, truncation, draws=2_000)
        drawn = often > 0
        np.testing.assert_allclose(noted[drawn], expected[drawn], rtol=1e-5, err_msg=str(trial))
        np.testing.assert_allclose(often, expected, atol=1 / 1_000)


def test_equal_tokens_stay_or_go_together() -> None:
    often, _ = _drawn(np.array([0.3, 0.2, 0.2, 0.2, 0.1]), Truncation(1.0, 2))
    assert (often[:4] > 0.2).all() and often[4] == 0


def test_the_temperature_comes_first() -> None:
    """At 1/2 the shares are 16, 1, 9 and 4 of 30: two tokens hold 0.8 of them."""
    _, noted = _drawn(FOUR, Truncation(0.8), temperature=0.5)
    np.testing.assert_allclose(noted, [16 / 25, 0, 9 / 25, 0], atol=1e-6)


def test_at_temperature_nought_nothing_is_cut() -> None:
    often, noted = _drawn(FOUR, Truncation(0.3, 1), temperature=0)
    assert often[0] == 1 and noted[0] == pytest.approx(0.4)


def test_rows_of_a_call_are_cut_each_by_its_own_request() -> None:
    logits_3V = torch.tensor(np.log(FOUR)).expand(3, -1).float()
    cuts = Truncation(), Truncation(0.5), Truncation(1.0, 3)
    requests = [Request(n, [0], (0,), 1, 1.0, cut) for n, cut in enumerate(cuts)]
    ids, logprobs = draw(logits_3V, [0.999999] * 3, requests)
    assert ids.tolist() == [3, 2, 3]
    np.testing.assert_allclose(logprobs.exp(), [0.2, 3 / 7, 2 / 9], rtol=1e-5)


def test_the_largest_random_number_draws_what_may_be_drawn() -> None:
    """Above all others there is none; what is cut off at the end has no room there."""
    share = np.array([0.5, 0.4, 0.06, 0.04])
    logits_1V = torch.tensor(np.log(share)).float()[None]
    largest = float(np.nextafter(1.0, 0.0))
    ids, logprobs = draw(logits_1V, [largest], [Request(0, [0], (0,), 1, 1.0, Truncation(0.8))])
    assert ids.tolist() == [1] and math.isfinite(logprobs.item())


# Seven tokens: few enough to sum over all of them in place of sampling.
_RNG = np.random.default_rng(11)
LOGITS = torch.tensor(_RNG.normal(size=7))
TEACHER = torch.log_softmax(torch.tensor(_RNG.normal(size=7)), -1)
TOP_P = 0.8


@pytest.mark.parametrize("estimator", [K1(), RhoK3()], ids=lambda x: x.kind)
def test_ratios_make_of_kept_samples_the_sum_over_what_is_kept(estimator: K1 | RhoK3) -> None:
    """The exact gradient of the reverse KL, less the part of the tokens that are never sampled."""
    logits = LOGITS.clone().requires_grad_(True)
    p_V = torch.log_softmax(logits, -1)
    share = p_V.detach().exp().numpy()
    mu_V = torch.tensor(_by_hand(share, TOP_P, 0)).log()
    kept = torch.nonzero(mu_V.isfinite()).squeeze(1)
    assert 1 < len(kept) < 7
    tokens = Tokens(
        ids_N=kept,
        turn_N=torch.zeros_like(kept),
        lesson_N=torch.arange(len(kept)),
        behaviour_N=mu_V[kept],
        place_N=kept,
        lessons=len(kept),
    )
    value_N = estimator.per_token(p_V[kept], TEACHER[kept], tokens)
    if estimator.returns == "advantage":
        value_N = estimator.surrogate(p_V[kept], mu_V[kept], value_N)
    (found,) = torch.autograd.grad((mu_V[kept].exp() * value_N).sum(), logits)
    score = np.eye(7) - share
    gap = np.log(share) - TEACHER.numpy()
    np.testing.assert_allclose(found, sum(share[v] * gap[v] * score[v] for v in kept), atol=1e-12)


def test_a_gap_that_truncation_makes_is_none_and_any_other_is() -> None:
    truncation, own_N = Truncation(0.8), torch.tensor([-1.0, -1.0, -1.0, -1.0])
    behaviour_N = own_N - torch.tensor([0.0, math.log(0.8), 0.01, math.log(0.8) - 0.02])
    found = truncation.unexplained(own_N, behaviour_N)
    np.testing.assert_allclose(found, [0, 0, 0.01, 0.02], atol=1e-6)
    by_number = Truncation(1.0, 5).unexplained(own_N, behaviour_N)
    np.testing.assert_allclose(by_number, [0, 0, 0.01, 0], atol=1e-6)
    assert torch.equal(Truncation().unexplained(own_N, behaviour_N), (own_N - behaviour_N).abs())


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["mix=rl", "rollout.group=4", "rollout.top_p=0.7"], "Without top_k, set top_p to 0.8"),
        (["mix=rl", "rollout.group=4", "rollout.top_k=50"], "mix.rl.clip: 0.2: importance ratios"),
        (
            ["divergence={support: sampled, estimator: clipped}", "rollout.top_k=9"],
            "divergence.estimator.clip: 0.2",
        ),
        (
            [
                "divergence={support: sampled, estimator: {kind: k1, stale: true}}",
                "rollout.top_p=0.9",
            ],
            "leave stale out",
        ),
        (["divergence.support=sampled", "weight=truncated_ratio"], "estimator=truncated"),
        (["rollout.top_p=0"], "top_p"),
    ],
)
def test_what_would_be_learnt_wrongly_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config(ENV, overrides)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["mix=rl", "rollout.group=4", "rollout.top_p=0.9"], True),
        (["mix={kind: rl, rl: {kind: grpo, clip: 1}}", "rollout.group=4", "rollout.top_k=9"], True),
        (["divergence.support=sampled", "rollout.top_k=9"], True),
        (["rollout.top_k=9"], False),
        (["divergence.support=sampled"], False),
        (["divergence.support=sampled", "rollout.top_k=0"], False),
    ],
)
def test_who_learns_from_samples_is_told_that_some_never_come(
    overrides: list[str], told: bool
) -> None:
    found = truncation_notice(parse_config(ENV, overrides))
    assert bool(found) == told


def test_a_run_is_sampled_so_and_raises_no_alarm(tiny_model: Path, tmp_path: Path) -> None:
    """Nor does it without rewards; its evaluation is drawn as it says."""
    run = run_of(tiny_model, tmp_path / "run", "rollout.top_k=3", "rollout.top_p=0.9")
    trajectories = run.roll_out(0)
    update = run.learn(trajectories, run.ask_teacher(trajectories, 0), 0)
    assert 0 <= update.scalars["sampler_gap"] < 1e-5
    assert not disagreement(update.scalars["sampler_gap"], run.config.student.dtype)
    behaviour = np.concatenate([t.logprob[t.trainable] for t in trajectories])
    # Of three tokens that hold everything, the likeliest has a third at least.
    assert (behaviour <= 0).all() and np.exp(behaviour).max() >= 1 / 3


def test_evaluations_and_commands_take_them(tiny_model: Path, tmp_path: Path) -> None:
    run = run_of(tiny_model, tmp_path / "run", "evaluate.top_k=1", "rollout.top_p=0.9")
    run.finish()
    words = ("--episodes", "1", "--json")
    as_run = json.loads(call("eval", tmp_path / "run", *words).stdout)
    assert (as_run["top_p"], as_run["top_k"]) == (0.9, 1)
    said = json.loads(call("eval", tmp_path / "run", *words, "--top-p", "0.5").stdout)
    assert (said["top_p"], said["top_k"]) == (0.5, 1)
