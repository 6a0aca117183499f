"""The decision-point unit: which turns are chosen, and what their tokens carry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from trajectories import (
    credited,
    evidence_of,
    index_of,
    lessons_of,
    opinion_of,
    played,
    tokens_of,
)

from agentopd.base.types import Trajectory
from agentopd.signal.evidence import Evidence, NotYetAsked, UnaskedEvidence
from agentopd.units.decisions import DecisionPointUnit

# Four turns of 1, 2, 1 and 2 tokens; then an episode of two turns of one token.
LONG = played([10], [11, 12], [13], [14, 15], episode=0)
SHORT = played([16], [17], episode=1)
VALUES = [1.0, 2.0, 4.0, 3.0, 5.0, 7.0, 6.0, 9.0]


def _evidence(
    *trajectories: Trajectory,
    gaps: Sequence[float] = (),
    entropies: Sequence[float] = (),
    values: Sequence[float] = (),
) -> Evidence:
    count = sum(int(t.trainable.sum()) for t in trajectories)
    student = opinion_of([0.5] * count, entropies)
    teacher = opinion_of([0.5 * math.exp(gap) for gap in gaps or [0.0] * count])
    return evidence_of(student, teacher, *trajectories, values=values)


def _chosen(unit: DecisionPointUnit, evidence: Evidence, *trajectories: Trajectory) -> list[bool]:
    return unit.chosen(index_of(unit, *trajectories), evidence).tolist()


def _credit(
    unit: DecisionPointUnit,
    evidence: Evidence,
    *trajectories: Trajectory,
    values: Sequence[float] = VALUES,
) -> list[float]:
    index = index_of(unit, *trajectories)
    return unit.credit(torch.tensor(values, dtype=torch.float64), index, evidence).tolist()


def turning(trajectory: Trajectory) -> list[int]:
    """The last turn; what a user's function looks like."""
    return [len(trajectory.turns) - 1]


def astray(trajectory: Trajectory) -> list[int]:
    """A turn that is not there."""
    return [len(trajectory.turns)]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        # mean |gap| by turn: 0.1 | 0.6 | 0.5 | 0.05, and 0.3 | 0.4
        ("disagreement", [False, True, False, False, False, True]),
        # mean entropy: 1.0 | 0.9 | 1.2 | 0.3, and 0.2 | 0.1
        ("entropy", [False, False, True, False, True, False]),
        # drops: 0 | 0.1 | -0.3 | 0.9, and 0 | 0.1
        ("entropy_drop", [False, False, False, True, False, True]),
        # mean |value|: 2 | 1.5 | 1 | 0, and 3 | 3: of equal turns the earlier
        ("divergence", [True, False, False, False, True, False]),
    ],
)
def test_the_turn_of_the_highest_score_is_chosen(by: Any, expected: list[bool]) -> None:
    evidence = _evidence(
        LONG,
        SHORT,
        gaps=[0.1, -0.8, 0.4, -0.5, 0.05, 0.05, 0.3, -0.4],
        entropies=[1.0, 0.6, 1.2, 1.2, 0.2, 0.4, 0.2, 0.1],
        values=[-2.0, 1.0, -2.0, 1.0, 0.0, 0.0, 3.0, -3.0],
    )
    # A quarter of four turns is one, and of two turns, rounded up, one too.
    assert _chosen(DecisionPointUnit(by=by), evidence, LONG, SHORT) == expected


def test_the_first_turn_of_an_episode_has_no_drop_behind_it() -> None:
    # 0.1 | 0.5 | 0.3 | 2.0: the drops are 0, -0.4, 0.2 and -1.7.
    evidence = _evidence(LONG, entropies=[0.1, 0.5, 0.5, 0.3, 2.0, 2.0])
    found = _chosen(DecisionPointUnit(by="entropy_drop"), evidence, LONG)
    assert found == [False, False, True, False]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"share": 0.5}, [False, True, True, False]),
        ({"share": 0.51}, [True, True, True, False]),
        ({"share": 1.0}, [True] * 4),
        ({"most": 3}, [True, True, True, False]),
        ({"most": 9}, [True] * 4),
        ({"share": 0.75, "most": 1}, [False, True, False, False]),
        ({"threshold": 0.5}, [False, True, True, False]),
        ({"threshold": 0.2, "most": 1}, [False, True, False, False]),
        ({"threshold": 5.0}, [False] * 4),
    ],
)
def test_shares_counts_and_thresholds_limit_the_choice(
    limits: dict[str, Any], expected: list[bool]
) -> None:
    # disagreement: 0.2 | 0.6 | 0.5 | 0.1
    evidence = _evidence(LONG, gaps=[0.2, 0.6, 0.6, 0.5001, 0.1, 0.1])
    assert _chosen(DecisionPointUnit(**limits), evidence, LONG) == expected


def test_a_share_is_rounded_up_but_not_beyond_what_it_means() -> None:
    hundred = played(*([5] for _ in range(100)))
    evidence = _evidence(hundred)
    # All turns are equal, so the first are chosen.
    seven = _chosen(DecisionPointUnit(share=0.07), evidence, hundred)
    assert seven == [True] * 7 + [False] * 93
    assert sum(_chosen(DecisionPointUnit(share=0.071), evidence, hundred)) == 8


def test_chosen_tokens_carry_their_values_at_the_scale_of_the_episode() -> None:
    # Turns 1 (two of six tokens) and 0 of SHORT (one of two): weights 6/2 and 2/1.
    gaps = [0.1, 0.6, 0.6, 0.5, 0.1, 0.1, 0.4, 0.3]
    evidence = _evidence(LONG, SHORT, gaps=gaps)
    found = _credit(DecisionPointUnit(), evidence, LONG, SHORT)
    assert found == pytest.approx([0.0, 6.0, 12.0, 0.0, 0.0, 0.0, 12.0, 0.0])
    plain = _credit(DecisionPointUnit(renormalise=False), evidence, LONG, SHORT)
    assert plain == pytest.approx([0.0, 2.0, 4.0, 0.0, 0.0, 0.0, 6.0, 0.0])


@pytest.mark.parametrize(("reduce", "value"), [("sum", 6.0), ("mean", 3.0), ("last", 4.0)])
def test_chosen_tokens_can_carry_their_turns_value(reduce: Any, value: float) -> None:
    evidence = _evidence(LONG, gaps=[0.1, 0.6, 0.6, 0.5, 0.1, 0.1])
    unit = DecisionPointUnit(use="credit", reduce=reduce)
    found = _credit(unit, evidence, LONG, values=VALUES[:6])
    assert found == pytest.approx([0.0, 3 * value, 3 * value, 0.0, 0.0, 0.0])


def test_the_others_count_the_floor() -> None:
    evidence = _evidence(LONG, gaps=[0.1, 0.6, 0.6, 0.5, 0.1, 0.1])
    # Weights 1 1 on the chosen, 0.25 on four others: 3 over six tokens, so all are doubled.
    found = _credit(DecisionPointUnit(floor=0.25), evidence, LONG, values=[1.0] * 6)
    assert found == pytest.approx([0.5, 2.0, 2.0, 0.5, 0.5, 0.5])
    plain = DecisionPointUnit(floor=0.25, renormalise=False)
    assert _credit(plain, evidence, LONG, values=[1.0] * 6) == [0.25, 1, 1, 0.25, 0.25, 0.25]


def test_an_episode_without_a_decision_is_not_made_one() -> None:
    evidence = _evidence(LONG, SHORT, gaps=[0.9] * 6 + [0.1] * 2)
    found = _credit(DecisionPointUnit(threshold=0.5), evidence, LONG, SHORT, values=[1.0] * 8)
    assert found == pytest.approx([1.0] * 6 + [0.0] * 2)
    low = DecisionPointUnit(threshold=0.5, floor=0.25)
    found = _credit(low, evidence, LONG, SHORT, values=[1.0] * 8)
    assert found == pytest.approx([1.0] * 6 + [0.25] * 2)


def test_a_single_turn_is_chosen_and_keeps_its_values() -> None:
    single = played([5, 6])
    evidence = _evidence(single, gaps=[0.0, 0.0])
    for by in ("disagreement", "entropy", "entropy_drop", "divergence"):
        found = _credit(DecisionPointUnit(by=by), evidence, single, values=[2.0, -3.0])
        assert found == pytest.approx([2.0, -3.0])


@given(
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=6).filter(any),
    seed=st.integers(0, 2**16),
    share=st.floats(0.01, 1.0),
    floor=st.floats(0.0, 1.0),
)
def test_the_scale_is_kept_whatever_is_chosen(
    sizes: list[int], seed: int, share: float, floor: float
) -> None:
    episode = played(*([7] * size for size in sizes))
    count = sum(sizes)
    generator = torch.Generator().manual_seed(seed)
    gaps = torch.randn(count, generator=generator).clamp(-0.6, 0.6).tolist()
    unit = DecisionPointUnit(share=share, floor=floor)
    found = _credit(unit, _evidence(episode, gaps=gaps), episode, values=[1.0] * count)
    assert sum(found) == pytest.approx(count, rel=1e-5)


def test_the_choice_does_not_depend_on_the_other_episodes_of_the_batch() -> None:
    gaps = [0.1, 0.6, 0.6, 0.5, 0.1, 0.1, 0.4, 0.3]
    together = _credit(DecisionPointUnit(), _evidence(LONG, SHORT, gaps=gaps), LONG, SHORT)
    alone = _credit(DecisionPointUnit(), _evidence(SHORT, gaps=gaps[6:]), SHORT, values=VALUES[6:])
    assert together[6:] == pytest.approx(alone)


@pytest.mark.parametrize(
    ("want", "expected"),
    [
        (None, [1.0, 2.0, 4.0, 0.0, 5.0, 7.0]),
        (True, [0.0, 2.0, 4.0, 0.0, 0.0, 0.0]),
        (False, [1.0, 0.0, 0.0, 0.0, 5.0, 7.0]),
        ("door", [0.0] * 6),
    ],
)
def test_facts_choose_turns(want: Any, expected: list[float]) -> None:
    stated: list[dict[str, Any]] = [{"key": False}, {"key": True}, {}, {"key": False}]
    episode = played([10], [11, 12], [13], [14, 15], infos=[{"facts": f} for f in stated])
    unit = DecisionPointUnit(by="fact", fact="key", want=want, renormalise=False)
    assert credited(unit, VALUES[:6], episode) == expected
    assert [s.name for s in unit.spans(episode)].count("decision") == sum(
        "key" in f and want in (None, f["key"]) for f in stated
    )


def test_a_function_chooses_turns() -> None:
    unit = DecisionPointUnit(by="function", function=f"{__name__}:turning", floor=0.5)
    # Weights 0.5 0.5 0.5 0.5 1 1 over six tokens, of mean 4/6, and 0.5 1 over two.
    found = credited(unit, [1.0] * 8, LONG, SHORT)
    assert found == pytest.approx([0.75] * 4 + [1.5] * 2 + [0.5 / 0.75, 1 / 0.75])


def test_a_function_cannot_choose_what_is_not_there() -> None:
    unit = DecisionPointUnit(by="function", function=f"{__name__}:astray")
    with pytest.raises(ValueError, match="chose turn 4 of episode 0, which has 4 turns"):
        unit.spans(LONG)


def test_turns_that_the_models_do_not_choose_are_known_before_these_are_asked() -> None:
    values = torch.tensor(VALUES[:6], dtype=torch.float64)
    unasked = UnaskedEvidence(tokens_of(LONG), lessons_of(LONG), step=0)
    by_fact = DecisionPointUnit(by="fact", fact="key")
    assert by_fact.credit(values, index_of(by_fact, LONG), unasked).shape == values.shape
    for unit in (DecisionPointUnit(), DecisionPointUnit(by="entropy")):
        with pytest.raises(NotYetAsked):
            unit.credit(values, index_of(unit, LONG), unasked)


def test_a_loss_is_differentiated_through_the_chosen_turns() -> None:
    evidence = _evidence(LONG, gaps=[0.1, 0.6, 0.6, 0.5, 0.1, 0.1])
    values = torch.tensor(VALUES[:6], dtype=torch.float64, requires_grad=True)
    unit = DecisionPointUnit()
    unit.credit(values, index_of(unit, LONG), evidence).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([0.0, 3.0, 3.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"by": "fact"}, "by: fact and the key fact need each other"),
        ({"fact": "key"}, "by: fact and the key fact need each other"),
        ({"by": "function"}, "by: function and the key function need each other"),
        ({"want": 3}, "want is the value of a fact"),
        ({"by": "fact", "fact": "key", "most": 2}, "gives turns no score that most could rank"),
        ({"by": "function", "function": "math:no_such"}, "has no 'no_such'"),
        ({"by": "function", "function": "math:pi"}, "names no function"),
        ({"share": 0.0}, "greater than 0"),
        ({"most": 0}, "greater than or equal to 1"),
        ({"by": "mood"}, "'disagreement', 'divergence'"),
    ],
)
def test_what_cannot_choose_is_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        DecisionPointUnit.model_validate({"kind": "decision_point", **settings})
