"""The aggregator: five normalisations by hand, and what a factor may not depend on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from trajectories import credited, lessons_of, played, tokens_of

from agentopd.base.types import Trajectory
from agentopd.running.reading import parse_config
from agentopd.signal.aggregate import Aggregator, Normalise

# Turns of 2 and 3 tokens, and of 1 and 1: seven tokens, four turns, two episodes.
LONG = played([10, 11], [12, 13, 14], episode=0)
SHORT = played([15], [16], episode=1)
MEANS: tuple[Normalise, ...] = ("token_mean", "turn_mean", "sequence_mean")

# What the seven tokens are worth, and what is said of the four turns: 1 3 | -2 0 5 and 4 | 7.
VALUES = [1.0, 3.0, -2.0, 0.0, 5.0, 4.0, 7.0]
FACTS: list[Mapping[str, Any]] = [
    {"facts": {"tidy": True}},
    {"facts": {"tidy": False, "turning": True}},
    {"facts": {"tidy": True, "turning": True}},
    {"facts": {"tidy": True}},
]
UNITS = {
    "token": "{kind: token}",
    "turn": "{kind: turn}",
    "trajectory": "{kind: trajectory}",
    # the middle two turns, each token with its turn's value
    "decision": "{kind: decision_point, by: fact, fact: turning, use: credit, renormalise: false}",
    # turns count 0.5, the second 2.5, before the step's balance
    "rubric": "{kind: rubric_span, use: credit, floor: 0.5, "
    "criteria: [{name: tidy, fact: tidy, weight: 2}]}",
}
LOSSES: dict[tuple[str, str], tuple[float, float, float, float]] = {
    # token_mean, turn_mean, sequence_mean, fixed (by 50)
    # 1 3 -2 0 5 | 4 7: turns of mean 2 1 4 7, episodes of mean 7/5 11/2
    ("token", "sum"): (18 / 7, 14 / 4, (7 / 5 + 11 / 2) / 2, 18 / 50),
    ("token", "mean"): (18 / 7, 14 / 4, (7 / 5 + 11 / 2) / 2, 18 / 50),
    ("token", "last"): (18 / 7, 14 / 4, (7 / 5 + 11 / 2) / 2, 18 / 50),
    # 4 4 3 3 3 | 4 7
    ("turn", "sum"): (28 / 7, 18 / 4, (17 / 5 + 11 / 2) / 2, 28 / 50),
    # 2 2 1 1 1 | 4 7
    ("turn", "mean"): (18 / 7, 14 / 4, (7 / 5 + 11 / 2) / 2, 18 / 50),
    # 3 3 5 5 5 | 4 7
    ("turn", "last"): (32 / 7, 19 / 4, (21 / 5 + 11 / 2) / 2, 32 / 50),
    # 7 7 7 7 7 | 11 11
    ("trajectory", "sum"): (57 / 7, 36 / 4, 18 / 2, 57 / 50),
    # 1.4 five times | 5.5 5.5
    ("trajectory", "mean"): (18 / 7, 13.8 / 4, 6.9 / 2, 18 / 50),
    # 5 5 5 5 5 | 7 7
    ("trajectory", "last"): (39 / 7, 24 / 4, 12 / 2, 39 / 50),
    # 0 0 3 3 3 | 4 0
    ("decision", "sum"): (13 / 7, 7 / 4, (9 / 5 + 4 / 2) / 2, 13 / 50),
    # 0 0 1 1 1 | 4 0
    ("decision", "mean"): (7 / 7, 5 / 4, (3 / 5 + 4 / 2) / 2, 7 / 50),
    # 0 0 5 5 5 | 4 0
    ("decision", "last"): (19 / 7, 9 / 4, (15 / 5 + 4 / 2) / 2, 19 / 50),
    # 2 2 7.5 7.5 7.5 | 2 3.5
    ("rubric", "sum"): (32 / 7, 15 / 4, (26.5 / 5 + 5.5 / 2) / 2, 32 / 50),
    # 1 1 2.5 2.5 2.5 | 2 3.5
    ("rubric", "mean"): (15 / 7, 9 / 4, (9.5 / 5 + 5.5 / 2) / 2, 15 / 50),
    # 1.5 1.5 12.5 12.5 12.5 | 2 3.5
    ("rubric", "last"): (46 / 7, 19.5 / 4, (40.5 / 5 + 5.5 / 2) / 2, 46 / 50),
}


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
        ("sequence_sum", [1 / 2] * 7),
        ("fixed", [1 / 50] * 7),
    ],
)
def test_the_five_normalisations(normalise: Normalise, expected: list[float]) -> None:
    assert _factors(normalise, (LONG, SHORT), budget=50.0) == pytest.approx(expected)


@pytest.mark.parametrize("normalise", MEANS)
def test_the_factors_of_a_step_sum_to_one(normalise: Normalise) -> None:
    episodes = [played([5] * (n + 1), [6] * 2, [7] * (3 * n + 1), episode=n) for n in range(5)]
    assert sum(_factors(normalise, tuple(episodes))) == pytest.approx(1.0)


@pytest.mark.parametrize("normalise", [*MEANS, "sequence_sum", "fixed"])
def test_how_a_step_is_cut_into_micro_batches_changes_no_factor(normalise: Normalise) -> None:
    episodes = [played([5] * (n + 1), [6] * 2, episode=n) for n in range(8)]
    at_once = _factors(normalise, tuple(episodes))
    one_by_one = _factors(normalise, *((episode,) for episode in episodes))
    assert one_by_one == pytest.approx(at_once, rel=1e-6)


@pytest.mark.parametrize("normalise", [*MEANS, "sequence_sum", "fixed"])
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


@pytest.mark.parametrize(("unit", "reduce"), LOSSES)
def test_every_unit_and_reduction_under_every_normalisation(unit: str, reduce: str) -> None:
    """A unit says what tokens carry, the aggregator what they count: neither looks at the other."""
    data = {"env": {"id": "agentopd/Sokoban-v0"}}
    method = parse_config(data, [f"unit={UNITS[unit]}", f"unit.reduce={reduce}"])
    long = played([10, 11], [12, 13, 14], episode=0, infos=FACTS[:2])
    short = played([15], [16], episode=1, infos=FACTS[2:])
    credit_N = torch.tensor(credited(method.unit, VALUES, long, short))
    found = [
        (torch.tensor(_factors(normalise, (long, short), budget=50.0)) * credit_N).sum().item()
        for normalise in (*MEANS, "fixed")
    ]
    assert found == pytest.approx(LOSSES[unit, reduce])
