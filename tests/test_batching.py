"""Batches hold every sequence once, stay within their bound, and hardly anything is padding."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentopd.models.batching import by_length, padded, padded_tokens, together

LENGTHS = st.lists(st.integers(1, 400), max_size=24)
CALL = 64


def _width(length: int) -> int:
    """What a sequence of this length is padded to, by the padding itself."""
    return padded([np.zeros(length, dtype=np.int64)], torch.device("cpu")).shape[1]


@given(LENGTHS, st.integers(64, 2_000))
def test_every_sequence_is_in_one_batch_within_the_bound(lengths: list[int], budget: int) -> None:
    batches = by_length(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        size = _width(max(lengths[i] for i in batch)) * len(batch)
        assert size <= budget or len(batch) == 1


def _cheapest(lengths: list[int], budget: int) -> int:
    """The least cost of all ways to cut the ordered sequences, one by one."""
    ordered, costs = sorted(lengths), []
    for count in range(len(ordered)):
        for cuts in combinations(range(1, len(ordered)), count):
            ends = [0, *cuts, len(ordered)]
            parts = [ordered[a:b] for a, b in pairwise(ends)]
            sizes = [_width(part[-1]) * len(part) for part in parts]
            if all(s <= budget or len(p) == 1 for s, p in zip(sizes, parts, strict=True)):
                costs.append(sum(sizes) + CALL * len(parts))
    return min(costs)


@pytest.mark.parametrize("seed", range(12))
def test_no_way_to_cut_them_is_cheaper(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths, budget = rng.integers(1, 300, 7).tolist(), int(rng.integers(64, 900))
    cost = padded_tokens(lengths, budget) + CALL * len(by_length(lengths, budget))
    assert cost == _cheapest(lengths, budget)


def test_of_lengths_far_apart_little_is_padding() -> None:
    lengths = np.random.default_rng(0).integers(150, 900, 32).tolist()
    assert padded_tokens(lengths, 4_096) < 1.05 * sum(lengths)
    alike = [200] * 32
    assert len(by_length(alike, 208 * 32)) == 1


@given(st.lists(st.lists(st.integers(1, 200), min_size=1, max_size=4), max_size=12))
def test_groups_stay_together_within_the_bound(groups: list[list[int]]) -> None:
    batches = together(groups, 512)
    assert sorted(i for batch in batches for i in batch) == list(range(len(groups)))
    for batch in batches:
        lengths = [length for i in batch for length in groups[i]]
        assert padded_tokens(lengths, 512) <= 512 or len(batch) == 1
