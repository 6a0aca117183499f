"""The inferred reward: its term written out, what it comes to, and that it is saved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scenes import ENV, Scene, assert_same, scene_of, thawed
from torch.distributions import Normal, kl_divergence
from torch.nn import LayerNorm
from torch.nn.functional import softplus
from trajectories import played, tokens_of

from agentopd.learning.learner import Learner
from agentopd.learning.method import AXES
from agentopd.mixes.terms.inferred import InferredReward, RewardPosterior, surprise
from agentopd.models.head import Head
from agentopd.models.model import LanguageModel
from agentopd.running.reading import parse_config

HIDDEN, VOCABULARY = 6, 9


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


def _posterior(student: LanguageModel, **written: Any) -> RewardPosterior:
    """Far from where it begins."""
    posterior = InferredReward(**written).posterior(student)
    assert posterior is not None
    with torch.no_grad():
        for n, held in enumerate(posterior.held):
            held += 0.3 * torch.randn(held.shape, generator=torch.Generator().manual_seed(n))
    return posterior


def _gradients(
    scene: Scene, posterior: RewardPosterior | None, *row: str
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """By the student's weights, and by those of the posterior, of one step."""
    config = parse_config(ENV, ["learner.clip=1e9", "method=opd", *row])
    twin, seen = thawed(scene.student), list[list[torch.Tensor]]()
    learner = Learner(twin, scene.teacher, config, posterior=posterior)

    def look(*_: Any) -> None:
        others = posterior.held if posterior else []
        for some in (twin.module.parameters(), others):
            seen.append([p.grad.flatten().clone() for p in some if p.grad is not None])

    learner.optimizer.register_step_pre_hook(look)
    learner.update(scene.trajectories, scene.lessons, step=0)
    return torch.cat(seen[0]), seen[1]


def _written_out(
    scene: Scene, student: LanguageModel, posterior: RewardPosterior, discount: float
) -> torch.Tensor:
    """The mean of the term over all tokens, by the model's own logits and torch's Gaussians."""
    found, count = [], 0
    weight, bias = posterior.held
    for t in scene.trajectories:
        ids_T, place_N = torch.from_numpy(t.ids), torch.from_numpy(t.trainable.nonzero()[0])
        hidden_TH = student.body(input_ids=ids_T[None]).last_hidden_state[0]
        logits_TV = student.module(input_ids=ids_T[None]).logits[0]
        q_N = logits_TV[place_N - 1, ids_T[place_N]]
        row_NH = student.output.weight[ids_T[place_N]].detach()
        norm = LayerNorm(row_NH.shape[1], elementwise_affine=False)
        seen_NF = torch.cat([norm(hidden_TH[place_N - 1].detach()), norm(row_NH)], -1)
        mean_N, raw_N = (seen_NF @ weight.T + bias).unbind(-1)
        deviation_N = 0.1 + softplus(raw_N + math.log(math.expm1(0.9)))
        f = Normal(mean_N[:-1], deviation_N[:-1])
        drift_M = kl_divergence(f, Normal(torch.zeros(()), torch.ones(())))
        found.append((drift_M - f.log_prob(q_N[:-1] - discount * q_N[1:])).sum())
        count += len(place_N)
    return torch.stack(found).sum() / count


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_its_gradient_is_that_of_the_term_written_out(scene: Scene, discount: float) -> None:
    """On top of the base's, for the student and for what is inferred; in several micro-batches."""
    cut = "learner.tokens_per_batch=64"
    posterior = _posterior(scene.student, coefficient=0.5, discount=discount)
    both, inferred = _gradients(scene, posterior, cut)
    base, _ = _gradients(scene, None, cut)
    again, twin = _posterior(scene.student, coefficient=0.5), thawed(scene.student)
    (0.5 * _written_out(scene, twin, again, discount)).backward()
    own = [p.grad for p in twin.module.parameters() if p.grad is not None]
    assert_same(both - base, torch.cat([x.flatten() for x in own]), within=1e-4)
    for found, held in zip(inferred, again.held, strict=True):
        assert held.grad is not None
        torch.testing.assert_close(found, held.grad.flatten(), rtol=1e-3, atol=1e-6)


def test_without_a_coefficient_it_is_the_base_bit_for_bit(scene: Scene) -> None:
    assert InferredReward(coefficient=0).posterior(scene.student) is None
    rows = [parse_config(ENV, [f"method={x}"]).model_dump(mode="json") for x in ("x_kd", "gkd")]
    x_kd, gkd = ({axis: row[axis] for axis in AXES} for row in rows)
    assert x_kd == gkd
    none, base = (_gradients(scene, None, f"method={x}")[0] for x in ("x_kd", "gkd"))
    assert torch.equal(none, base)


def test_it_begins_as_the_plain_gaussian(scene: Scene) -> None:
    posterior = InferredReward().posterior(scene.student)
    assert posterior is not None
    size = scene.student.output.weight.shape[1]
    mean_N, deviation_N = posterior.of(torch.randn(3, size), torch.randn(3, size))
    assert mean_N.tolist() == [0, 0, 0]
    assert deviation_N.tolist() == pytest.approx([1, 1, 1])


def test_the_term_by_hand() -> None:
    """KL(N(1, 2) || N(0, 1)) = 2 - log 2; -log f(3) = log 2 + 1/2 + log sqrt(2 pi)."""
    said = surprise(torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([2.0]))
    assert said.item() == pytest.approx(2.5 + 0.5 * math.log(2 * math.pi))


def _small(**written: Any) -> RewardPosterior:
    posterior = RewardPosterior(InferredReward(**written), HIDDEN, torch.device("cpu"))
    with torch.no_grad():
        seed = torch.Generator().manual_seed(3)
        posterior.held[0].copy_(torch.randn(2, 2 * HIDDEN, generator=seed))
    return posterior


def _head(tokens: int, constant: bool = False) -> Head:
    """If constant, every token has the same logit behind whatever history."""
    seed = torch.Generator().manual_seed(5)
    hidden_NH = torch.randn(tokens, HIDDEN, generator=seed)
    weight_VH = torch.randn(VOCABULARY, HIDDEN, generator=seed)
    if constant:
        hidden_NH[:, 0], weight_VH[:, 0], weight_VH[:, 1:] = 1.0, 2.5, 0.0
    return Head(hidden_NH, weight_VH, None)


def test_values_that_never_change_are_explained_by_no_reward() -> None:
    """Q constant along the path, gamma 1: all differences are 0, and so is the mean at last."""
    tokens = tokens_of(played([1, 2, 3], [4, 5]), played([6, 7]))
    posterior, head = _small(learning_rate=0.05, coefficient=1.0), _head(7, constant=True)
    furthest = list[float]()
    for _ in range(400):
        mean_N, _ = posterior.of(head.hidden_NH, head.weight_VH[tokens.ids_N])
        furthest.append(mean_N[[0, 1, 2, 3, 5]].detach().abs().max().item())
        posterior.term(head, tokens, torch.full((7,), 1 / 7)).backward()
        posterior.step(finite=True)
    assert furthest[0] > 0.5 and furthest[-1] < 0.02


def test_an_episodes_last_token_has_no_term_and_leads_to_no_other_episode() -> None:
    """Of episodes of 1, 2 and 3 tokens there are three pairs, as if each were alone."""
    episodes = [played([1]), played([2], [3]), played([4, 5], [6])]
    posterior, head = _small(), _head(6)
    whole = posterior.term(head, tokens_of(*episodes), torch.ones(6))
    alone, start = list[torch.Tensor](), 0
    for one in episodes:
        tokens = tokens_of(one)
        part = Head(head.hidden_NH[start : start + len(tokens)], head.weight_VH, None)
        alone.append(posterior.term(part, tokens, torch.ones(len(tokens))))
        start += len(tokens)
    assert alone[0] == 0 and alone[1] != 0
    torch.testing.assert_close(whole, torch.stack(alone).sum())


def test_what_is_saved_goes_on_in_the_same_bits() -> None:
    tokens, head = tokens_of(played([1, 2, 3, 4, 5, 6])), _head(6)

    def learn(posterior: RewardPosterior) -> None:
        posterior.term(head, tokens, torch.ones(6)).backward()
        posterior.step(finite=True)

    one = _small()
    learn(one)
    other = RewardPosterior(InferredReward(), HIDDEN, torch.device("cpu"))
    other.restore(one.tensors())
    for posterior in (one, other):
        learn(posterior)
    for mine, theirs in zip(one.held, other.held, strict=True):
        assert torch.equal(mine, theirs)


def test_a_pass_that_is_not_finite_moves_nothing() -> None:
    posterior, before = _small(), _small().held[0]
    posterior.term(_head(3), tokens_of(played([1, 2, 3])), torch.ones(3)).backward()
    posterior.step(finite=False)
    assert torch.equal(posterior.held[0], before) and posterior.held[0].grad is None


@pytest.mark.parametrize(("name", "value"), [("discount", 1.1), ("least_deviation", 0.0)])
def test_numbers_out_of_bounds_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        InferredReward.model_validate({name: value})


def test_the_posterior_takes_the_same_steps_whatever_the_coefficient() -> None:
    tokens, head = tokens_of(played([1, 2, 3, 4, 5, 6])), _head(6)
    found = list[torch.Tensor]()
    for coefficient in (1e-4, 1.0):
        posterior = _small(coefficient=coefficient)
        for _ in range(3):
            posterior.term(head, tokens, torch.ones(6)).backward()
            posterior.step(finite=True)
        found.append(posterior.held[0].detach())
    assert not torch.equal(found[0], _small().held[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
