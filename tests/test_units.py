"""Supervision units: hand-computed credit, spans, and what is differentiated."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from pydantic import ValidationError
from trajectories import (
    CPU,
    credited,
    evidence_of,
    index_of,
    lessons_of,
    opinion_of,
    played,
    tokens_of,
)

from agentopd.base.types import Trajectory
from agentopd.divergences.kl import ForwardKL, ReverseKL
from agentopd.units.base import Unit
from agentopd.units.facts import AnswerPart, named_function, part_of
from agentopd.units.spans import Span, SpanIndex
from agentopd.units.stretches import TokenUnit, TrajectoryUnit, TurnUnit

Reduce = Literal["sum", "mean", "last"]

# Two episodes of five and two tokens: turns of 2, 3 and of 1, 1 tokens.
LONG = played([10, 11], [12, 13, 14], episode=0)
SHORT = played([15], [16], episode=1)
VALUES = [1.0, 3.0, -2.0, 0.0, 5.0, 4.0, 7.0]


class Painted(Unit):
    """Spans given by hand, in places of the trajectory's ids."""

    marks: tuple[tuple[int, int, float], ...]

    def spans(self, trajectory: Trajectory) -> list[Span]:
        return [Span(start, stop, "painted", weight) for start, stop, weight in self.marks]


def test_hand_made_episodes_are_laid_out_as_they_look() -> None:
    assert LONG.ids.tolist() == [1, 1, 10, 11, 1, 1, 12, 13, 14]
    assert LONG.trainable.nonzero()[0].tolist() == [2, 3, 6, 7, 8]
    assert [(t.start, t.stop) for t in LONG.turns] == [(2, 4), (6, 9)]


def test_a_token_carries_its_own_value() -> None:
    assert credited(TokenUnit(), VALUES, LONG, SHORT) == VALUES
    assert [(s.start, s.stop) for s in TokenUnit().spans(SHORT)] == [(2, 3), (5, 6)]


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [
        ("sum", [4.0, 4.0, 3.0, 3.0, 3.0, 4.0, 7.0]),
        ("mean", [2.0, 2.0, 1.0, 1.0, 1.0, 4.0, 7.0]),
        ("last", [3.0, 3.0, 5.0, 5.0, 5.0, 4.0, 7.0]),
    ],
)
def test_every_token_of_a_turn_carries_the_turns_value(
    reduce: Reduce, expected: list[float]
) -> None:
    assert credited(TurnUnit(reduce=reduce), VALUES, LONG, SHORT) == expected


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [
        ("sum", [7.0] * 5 + [11.0] * 2),
        ("mean", [1.4] * 5 + [5.5] * 2),
        ("last", [5.0] * 5 + [7.0] * 2),
    ],
)
def test_every_token_of_a_trajectory_carries_the_trajectorys_value(
    reduce: Reduce, expected: list[float]
) -> None:
    found = credited(TrajectoryUnit(reduce=reduce), VALUES, LONG, SHORT)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reduce", "turns"),
    [
        # |values| by turn: 1 3 | 2 0 5 || 4 | 7, relative to the mean of the episode's turns
        ("sum", [4 / 5.5, 7 / 5.5, 4 / 5.5, 7 / 5.5]),
        ("mean", [2 / (13 / 6), (7 / 3) / (13 / 6), 4 / 5.5, 7 / 5.5]),
        ("last", [3 / 4, 5 / 4, 4 / 5.5, 7 / 5.5]),
    ],
)
def test_a_turns_weight_is_its_magnitude_relative_to_its_episode(
    reduce: Reduce, turns: list[float]
) -> None:
    found = credited(TurnUnit(use="weight", reduce=reduce), VALUES, LONG, SHORT)
    weights = [w for w, size in zip(turns, [2, 3, 1, 1], strict=True) for _ in range(size)]
    assert found == pytest.approx([v * w for v, w in zip(VALUES, weights, strict=True)])


def test_turn_weights_do_not_depend_on_the_other_episodes_of_the_batch() -> None:
    unit = TurnUnit(use="weight")
    together = credited(unit, VALUES, LONG, SHORT)
    assert together[:5] == pytest.approx(credited(unit, VALUES[:5], LONG))
    assert together[5:] == pytest.approx(credited(unit, VALUES[5:], SHORT))


@pytest.mark.parametrize("reduce", ["sum", "mean", "last"])
@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0, 0.0], [-2.0, -2.0, -2.0, -2.0]])
def test_turns_alike_are_weighed_alike(reduce: Reduce, values: list[float]) -> None:
    """With nothing to tell the turns apart, or no signal at all, the values stay as they are."""
    found = credited(TurnUnit(use="weight", reduce=reduce), values, played([10, 11], [12, 13]))
    assert found == pytest.approx(values)


def test_a_turns_weight_is_of_the_disagreement_before_any_weight() -> None:
    """|values| of 4, 2 and 6 by turn, whatever the values that are credited were weighed with."""
    unit, said, episode = TurnUnit(use="weight"), opinion_of([0.5] * 4), played([5, 6], [7], [8])
    evidence = evidence_of(said, said, episode, values=[5.0, -3.0, 2.0, 6.0])
    weighed_4 = torch.tensor([0.0, -6.0, 1.0, 6.0])
    found = unit.credit(weighed_4, index_of(unit, episode), evidence)
    assert found.tolist() == pytest.approx([0.0, -6.0, 0.5, 9.0])


def test_a_single_turn_has_nothing_to_be_weighed_against() -> None:
    values = [0.5, -3.0]
    assert credited(TurnUnit(use="weight"), values, played([10, 11])) == pytest.approx(values)


def test_in_an_episode_of_one_turn_turn_and_trajectory_are_one() -> None:
    values, single = [1.0, 2.0, 6.0], played([10, 11, 12])
    turn, trajectory = TurnUnit(), TrajectoryUnit()
    assert credited(turn, values, single) == credited(trajectory, values, single) == [3.0] * 3


@pytest.mark.parametrize(
    ("part", "reduce", "expected"),
    [
        # one token of reasoning in each answer: 1 | 3, then 2 | 0 5
        ("reasoning", "sum", [1.0, 0.0, 2.0, 0.0, 0.0]),
        ("action", "sum", [0.0, 3.0, 0.0, 5.0, 5.0]),
        ("action", "mean", [0.0, 3.0, 0.0, 2.5, 2.5]),
        ("action", "last", [0.0, 3.0, 0.0, 5.0, 5.0]),
        ("turn", "sum", [4.0, 4.0, 7.0, 7.0, 7.0]),
    ],
)
def test_a_part_of_the_turn_is_credited_alone(
    part: AnswerPart, reduce: Reduce, expected: list[float]
) -> None:
    episode = played([10, 11], [12, 13, 14], reasoning=1)
    found = credited(TurnUnit(part=part, reduce=reduce), [1.0, 3.0, 2.0, 0.0, 5.0], episode)
    assert found == expected


def test_parts_of_turns_are_weighed_against_each_other() -> None:
    episode = played([10, 11], [12, 13, 14], reasoning=1)
    unit = TurnUnit(part="action", use="weight", reduce="sum")
    # actions of size 3 and 5, their mean is 4
    found = credited(unit, [1.0, 3.0, 2.0, 0.0, 5.0], episode)
    assert found == pytest.approx([0.0, 3.0 * 3 / 4, 0.0, 0.0, 5.0 * 5 / 4])


def test_without_reasoning_the_part_is_empty_and_the_rest_is_the_turn() -> None:
    assert credited(TurnUnit(part="reasoning"), VALUES[:5], LONG) == [0.0] * 5
    whole = credited(TurnUnit(), VALUES[:5], LONG)
    assert credited(TurnUnit(part="action"), VALUES[:5], LONG) == whole


def test_the_parts_of_an_answer_are_the_whole_answer() -> None:
    turn = played([7] * 4, reasoning=3).turns[0]
    assert part_of(turn, "turn") == (2, 6)
    assert part_of(turn, "reasoning") == (2, 5)
    assert part_of(turn, "action") == (5, 6)


def test_a_part_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="'turn', 'reasoning' or 'action'"):
        TurnUnit.model_validate({"kind": "turn", "part": "answer"})


@pytest.mark.parametrize("path", ["test_units", "test_units:VALUES"])
def test_what_is_no_function_cannot_be_named_as_one(path: str) -> None:
    with pytest.raises(ValueError, match=r"names no function; write package\.module:function"):
        named_function(path)
    assert named_function("operator:add")(1, 2) == 3


@pytest.mark.parametrize("unit", [TokenUnit(), TurnUnit(), TrajectoryUnit()])
def test_a_unit_without_a_life_judges_and_remembers_nothing(unit: Unit) -> None:
    unit.learn([LONG, SHORT])
    unit.restore({})
    assert unit.state() == {}
    assert unit.payments(LONG) == []


def test_overlapping_spans_add_up_times_their_weights() -> None:
    # places 2 3 6 7 8 are trainable; the spans hold values 1 3 | 3 -2 | 5
    unit = Painted(marks=((0, 4, 1.0), (3, 7, 0.5), (8, 9, -2.0)), reduce="sum")
    assert credited(unit, VALUES[:5], LONG) == [4.0, 4.5, 0.5, 0.0, -10.0]


@pytest.mark.parametrize("reduce", ["sum", "mean", "last"])
def test_spans_without_a_trainable_token_are_left_out(reduce: Reduce) -> None:
    empty = ((0, 2, 9.0), (4, 6, 9.0), (7, 7, 9.0))
    alone = credited(Painted(marks=((6, 8, 1.0),), reduce=reduce), VALUES[:5], LONG)
    unit = Painted(marks=(empty[0], (6, 8, 1.0), *empty[1:]), reduce=reduce)
    assert credited(unit, VALUES[:5], LONG) == alone
    assert credited(Painted(marks=empty, reduce=reduce), VALUES[:5], LONG) == [0.0] * 5
    assert credited(Painted(marks=(), reduce=reduce), VALUES[:5], LONG) == [0.0] * 5


def test_observations_inside_a_span_are_not_counted() -> None:
    """The mean is over five sampled tokens, not over the nine of the episode."""
    found = credited(Painted(marks=((0, 9, 1.0),)), [1.0] * 5, LONG)
    assert found == pytest.approx([1.0] * 5)


def test_spans_of_a_second_episode_point_at_its_own_tokens() -> None:
    index = index_of(TurnUnit(), LONG, SHORT)
    assert index.token_P.tolist() == list(range(7))
    assert index.span_P.tolist() == [0, 0, 1, 1, 1, 2, 3]
    assert index.lesson_S.tolist() == [0, 0, 1, 1]


def test_the_index_of_no_spans_is_empty() -> None:
    index = SpanIndex.of(lessons_of(LONG), [[]], tokens_of(LONG))
    assert index.token_P.numel() == index.weight_S.numel() == 0


@pytest.mark.parametrize("unit", [TokenUnit(), TurnUnit(), TrajectoryUnit(reduce="sum")])
def test_a_loss_is_differentiated_through_its_unit(unit: Unit) -> None:
    values = torch.tensor(VALUES, requires_grad=True)
    said = opinion_of([0.5] * 7)
    evidence = evidence_of(said, said, LONG, SHORT)
    unit.credit(values, index_of(unit, LONG, SHORT), evidence).sum().backward()
    expected = {"token": [1.0] * 7, "turn": [1.0] * 7, "trajectory": [5.0] * 5 + [2.0] * 2}
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx(expected[unit.kind])


def test_turn_weights_are_detached() -> None:
    unit, said = TurnUnit(use="weight"), opinion_of([0.5] * 7)
    values = torch.tensor(VALUES, requires_grad=True)
    evidence = evidence_of(said, said, LONG, SHORT, values=VALUES)
    credit = unit.credit(values, index_of(unit, LONG, SHORT), evidence)
    weights = credit.detach() / torch.tensor([v or 1.0 for v in VALUES])
    credit.sum().backward()
    assert values.grad is not None
    kept = torch.tensor([v != 0 for v in VALUES])
    torch.testing.assert_close(values.grad[kept].double(), weights[kept])


def test_a_unit_gives_what_the_divergence_gives() -> None:
    assert TurnUnit().returns(ForwardKL()) == "loss"
    assert TurnUnit().returns(ReverseKL.model_validate({"support": "sampled"})) == "advantage"
    assert TurnUnit().balance([TurnUnit().spans(LONG)]) == 1.0


def test_tokens_of_a_batch_know_their_episode_turn_and_place() -> None:
    tokens = tokens_of(LONG, SHORT)
    assert tokens.ids_N.tolist() == [10, 11, 12, 13, 14, 15, 16]
    assert tokens.lesson_N.tolist() == [0] * 5 + [1] * 2
    assert tokens.turn_N.tolist() == [0, 0, 1, 1, 1, 0, 1]
    assert tokens.place_N.tolist() == [2, 3, 6, 7, 8, 2, 5]
    assert tokens.behaviour_N.tolist() == [-1.0] * 7
    assert tokens.ids_N.device == CPU
