"""Rubric spans: verdicts, the tokens they pay, and the balance of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pytest
import torch
from pydantic import ValidationError
from trajectories import credited, index_of, played

from agentopd.signal.divergences import ForwardKL
from agentopd.signal.rubrics import Criterion, RubricSpanUnit, part_of
from agentopd.types import Trajectory

Use = Literal["weight", "reward"]
TIDY = Criterion(name="tidy", fact="tidy", weight=2.0)


def _episode(*infos: Mapping[str, Any], tokens: int = 4, reasoning: int = 3) -> Trajectory:
    return played(*([7] * tokens for _ in infos), infos=infos, reasoning=reasoning)


def _unit(*criteria: Criterion, use: Use = "reward", floor: float = 0.25) -> RubricSpanUnit:
    return RubricSpanUnit(criteria=criteria, use=use, floor=floor)


def _facts(**facts: Any) -> dict[str, Any]:
    return {"facts": facts}


@pytest.mark.parametrize(
    ("criterion", "info", "expected"),
    [
        (TIDY, _facts(tidy=True), True),
        (TIDY, _facts(tidy=False), False),
        (TIDY, _facts(other=True), None),
        (TIDY, {}, None),
        (Criterion(name="two", fact="boxes", want=2), _facts(boxes=2), True),
        (Criterion(name="two", fact="boxes", want=2), _facts(boxes=3), False),
        (Criterion(name="named", fact="room", want="hall"), _facts(room="hall"), True),
        (Criterion(name="not lost", fact="lost", want=False), _facts(lost=False), True),
        (Criterion(name="solved", fact="success"), {"success": True}, True),
        (Criterion(name="solved", fact="success"), {"success": False}, False),
        (Criterion(name="solved", fact="success"), _facts(success=True), None),
    ],
)
def test_verdicts_read_the_facts(
    criterion: Criterion, info: dict[str, Any], expected: bool | None
) -> None:
    assert criterion.verdict(_episode(info).turns[0]) is expected


def test_a_verdict_is_paid_as_a_reward_to_every_token_of_its_turn() -> None:
    episode = _episode(_facts(tidy=True), _facts(tidy=False), _facts())
    found = credited(_unit(TIDY), [9.0] * 12, episode)
    assert found == [2.0] * 4 + [-2.0] * 4 + [0.0] * 4


def test_the_parts_of_an_answer_are_paid_apart_and_exactly() -> None:
    thought = Criterion(name="thought", fact="thought", part="reasoning")
    formed = Criterion(name="formed", fact="formed", part="action", weight=3.0)
    episode = _episode(_facts(thought=False, formed=True))
    assert credited(_unit(thought, formed), [0.0] * 4, episode) == [-1.0, -1.0, -1.0, 3.0]


def test_the_parts_of_an_answer_are_the_whole_answer() -> None:
    turn = _episode(_facts()).turns[0]
    assert part_of(turn, "turn") == (2, 6)
    assert part_of(turn, "reasoning") == (2, 5)
    assert part_of(turn, "action") == (5, 6)


def test_an_answer_without_reasoning_pays_none() -> None:
    thought = Criterion(name="thought", fact="thought", part="reasoning")
    episode = _episode(_facts(thought=True), reasoning=0)
    assert credited(_unit(thought), [5.0] * 4, episode) == [0.0] * 4


def test_criteria_that_overlap_add_up() -> None:
    formed = Criterion(name="formed", fact="formed", part="action")
    episode = _episode(_facts(tidy=True, formed=True))
    assert credited(_unit(TIDY, formed), [0.0] * 4, episode) == [2.0, 2.0, 2.0, 3.0]


def test_a_criterion_of_the_last_turn_looks_at_no_other() -> None:
    solved = Criterion(name="solved", fact="success", turns="last")
    episode = _episode({"success": False}, {"success": True})
    assert credited(_unit(solved), [0.0] * 8, episode) == [0.0] * 4 + [1.0] * 4


def test_as_weights_violations_count_and_satisfied_criteria_leave_the_floor() -> None:
    unit = _unit(TIDY, use="weight", floor=0.5)
    values = [1.0, -1.0, 2.0, 0.0] * 3
    episode = _episode(_facts(tidy=True), _facts(tidy=False), _facts())
    expected = [v * w for v, w in zip(values, [0.5] * 4 + [2.5] * 4 + [0.5] * 4, strict=True)]
    assert credited(unit, values, episode) == expected


def test_the_balance_makes_a_steps_weights_one_on_average() -> None:
    unit = _unit(TIDY, use="weight")
    episodes = [
        _episode(_facts(tidy=True), _facts(tidy=False)),
        _episode(_facts(tidy=False), tokens=2, reasoning=0),
    ]
    balance = unit.balance([unit.spans(episode) for episode in episodes])
    weights = torch.tensor(credited(unit, [1.0] * 10, *episodes)) * balance
    assert weights.mean().item() == pytest.approx(1.0)
    assert weights[0] < weights[4]


def test_where_nothing_is_violated_all_tokens_count_alike() -> None:
    unit = _unit(TIDY, use="weight")
    episode = _episode(_facts(tidy=True))
    scale = unit.balance([unit.spans(episode)])
    assert [w * scale for w in credited(unit, [1.0] * 4, episode)] == pytest.approx([1.0] * 4)


def test_without_floor_and_violation_there_is_nothing_to_balance() -> None:
    unit = _unit(TIDY, use="weight", floor=0.0)
    episode = _episode(_facts(tidy=True))
    assert unit.balance([unit.spans(episode)]) == 1.0
    assert credited(unit, [1.0] * 4, episode) == [0.0] * 4


def test_rewards_are_not_rescaled() -> None:
    unit = _unit(TIDY)
    assert unit.balance([unit.spans(_episode(_facts(tidy=False)))]) == 1.0


def test_a_reward_is_an_advantage_and_a_weight_is_what_the_divergence_is() -> None:
    assert _unit(TIDY).returns(ForwardKL()) == "advantage"
    assert _unit(TIDY, use="weight").returns(ForwardKL()) == "loss"


def test_a_loss_is_differentiated_through_its_weights() -> None:
    unit = _unit(TIDY, use="weight")
    values = torch.tensor([3.0] * 8, requires_grad=True)
    episode = _episode(_facts(tidy=True), _facts(tidy=False))
    unit.credit(values, index_of(unit, episode)).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.25] * 4 + [2.25] * 4


def test_the_teachers_value_does_not_enter_a_reward() -> None:
    unit, episode = _unit(TIDY), _episode(_facts(tidy=True))
    values = torch.tensor([1.0, -5.0, 0.0, 3.0], requires_grad=True)
    credit = unit.credit(values, index_of(unit, episode))
    assert credit.tolist() == [2.0] * 4
    assert not credit.requires_grad


@pytest.mark.parametrize("names", [("tidy", "tidy"), ("floor",)])
def test_criteria_that_cannot_be_told_apart_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="tell them apart by name"):
        _unit(*(Criterion(name=name, fact="tidy") for name in names))


def test_the_default_criteria_pay_nothing_where_the_environment_states_no_facts() -> None:
    assert credited(RubricSpanUnit(use="reward"), [1.0] * 4, _episode({})) == [0.0] * 4
