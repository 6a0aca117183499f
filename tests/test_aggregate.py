"""The aggregator: four normalisations by hand, and what a factor may not depend on."""

from __future__ import annotations

import pytest
import torch
from trajectories import lessons_of, played, tokens_of

from agentopd.signal.aggregate import Aggregator, Normalise
from agentopd.types import Trajectory

# Turns of 2 and 3 tokens, and of 1 and 1: seven tokens, four turns, two episodes.
LONG = played([10, 11], [12, 13, 14], episode=0)
SHORT = played([15], [16], episode=1)
MEANS: tuple[Normalise, ...] = ("token_mean", "turn_mean", "sequence_mean")


def _factors(
    normalise: Normalise, *batches: tuple[Trajectory, ...], budget: float = 1.0
) -> list[float]:
    """The factors of a step's tokens, in the order of its micro-batches."""
    everyone = [trajectory for batch in batches for trajectory in batch]
    aggregator = Aggregator.of(lessons_of(*everyone), normalise, budget)
    return torch.cat([aggregator.factor(tokens_of(*batch)) for batch in batches]).tolist()


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [
        ("token_mean", [1 / 7] * 7),
        ("turn_mean", [1 / 8, 1 / 8, 1 / 12, 1 / 12, 1 / 12, 1 / 4, 1 / 4]),
        ("sequence_mean", [1 / 10] * 5 + [1 / 4] * 2),
        ("fixed", [1 / 50] * 7),
    ],
)
def test_the_four_normalisations(normalise: Normalise, expected: list[float]) -> None:
    assert _factors(normalise, (LONG, SHORT), budget=50.0) == pytest.approx(expected)


@pytest.mark.parametrize("normalise", MEANS)
def test_the_factors_of_a_step_sum_to_one(normalise: Normalise) -> None:
    episodes = [played([5] * (n + 1), [6] * 2, [7] * (3 * n + 1), episode=n) for n in range(5)]
    assert sum(_factors(normalise, tuple(episodes))) == pytest.approx(1.0)


@pytest.mark.parametrize("normalise", [*MEANS, "fixed"])
def test_how_a_step_is_cut_into_micro_batches_changes_no_factor(normalise: Normalise) -> None:
    episodes = [played([5] * (n + 1), [6] * 2, episode=n) for n in range(8)]
    at_once = _factors(normalise, tuple(episodes))
    one_by_one = _factors(normalise, *((episode,) for episode in episodes))
    assert one_by_one == pytest.approx(at_once, rel=1e-6)


@pytest.mark.parametrize("normalise", [*MEANS, "fixed"])
def test_a_tokens_factor_does_not_depend_on_the_order_of_episodes(normalise: Normalise) -> None:
    there = _factors(normalise, (LONG, SHORT))
    back = _factors(normalise, (SHORT, LONG))
    assert back == pytest.approx(there[5:] + there[:5])


def test_observations_do_not_count() -> None:
    quiet = [played([5, 6], [7], observed=1), played([8], observed=1)]
    chatty = [played([5, 6], [7], observed=40), played([8], observed=40)]
    for normalise in MEANS:
        assert _factors(normalise, tuple(chatty)) == _factors(normalise, tuple(quiet))


def test_an_episode_without_an_answer_is_no_episode() -> None:
    silent = played([], episode=2)
    found = Aggregator.of(lessons_of(LONG, silent, SHORT), "sequence_mean", 1.0)
    assert (found.tokens, found.turns, found.sequences) == (7, 4, 2)


def test_a_turn_without_a_token_is_no_turn() -> None:
    assert _factors("turn_mean", (played([5, 6], [], [7]),)) == pytest.approx([0.25, 0.25, 0.5])
