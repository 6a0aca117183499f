"""Rubric spans: what a criterion speaks of, the tokens verdicts pay, the balance, the score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest
import torch
from pydantic import ValidationError
from trajectories import credited, evidence_of, index_of, opinion_of, played

from agentopd.base.types import Trajectory
from agentopd.divergences.kl import ForwardKL
from agentopd.running.config import ConfigError
from agentopd.running.reading import parse_config
from agentopd.signal.payments import Payment
from agentopd.units.rubric.criteria import Criterion
from agentopd.units.rubric.judges import Case, Verifier
from agentopd.units.rubric.unit import RubricSpanUnit

ENV = {"env": {"id": "agentopd/Sokoban-v0"}}
Use = Literal["weight", "credit", "reward"]
TIDY = Criterion(name="tidy", fact="tidy", weight=2.0)


def _episode(*infos: Mapping[str, Any], tokens: int = 4, reasoning: int = 3) -> Trajectory:
    return played(*([7] * tokens for _ in infos), infos=infos, reasoning=reasoning)


def _unit(*criteria: Criterion, use: Use = "reward", floor: float = 0.25) -> RubricSpanUnit:
    return RubricSpanUnit(criteria=criteria, use=use, floor=floor)


def _facts(**facts: Any) -> dict[str, Any]:
    return {"facts": facts}


class Doubtful(Verifier):
    """A judge that is sure of what a turn's `odds` say, and counts how often it is asked."""

    calls: list[int] = []  # noqa: RUF012  (a field: each judge has its own)

    def verdicts(self, cases: Sequence[Case]) -> list[float | None]:
        self.calls.append(len(cases))
        return [case.turn.info.get("odds") for case in cases]


def test_a_verdict_is_paid_as_a_reward_to_every_token_of_its_turn() -> None:
    episode = _episode(_facts(tidy=True), _facts(tidy=False), _facts())
    found = credited(_unit(TIDY), [9.0] * 12, episode)
    assert found == [2.0] * 4 + [-2.0] * 4 + [0.0] * 4


def test_the_parts_of_an_answer_are_paid_apart_and_exactly() -> None:
    thought = Criterion(name="thought", fact="thought", part="reasoning")
    formed = Criterion(name="formed", fact="formed", part="action", weight=3.0)
    episode = _episode(_facts(thought=False, formed=True))
    assert credited(_unit(thought, formed), [0.0] * 4, episode) == [-1.0, -1.0, -1.0, 3.0]


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
    said = opinion_of([0.5] * 8)
    evidence = evidence_of(said, said, episode)
    unit.credit(values, index_of(unit, episode), evidence).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.25] * 4 + [2.25] * 4


def test_the_teachers_value_does_not_enter_a_reward() -> None:
    unit, episode = _unit(TIDY), _episode(_facts(tidy=True))
    values = torch.tensor([1.0, -5.0, 0.0, 3.0], requires_grad=True)
    said = opinion_of([0.5] * 4)
    credit = unit.credit(values, index_of(unit, episode), evidence_of(said, said, episode))
    assert credit.tolist() == [2.0] * 4
    assert not credit.requires_grad


@pytest.mark.parametrize("names", [("tidy", "tidy"), ("floor",)])
def test_criteria_that_cannot_be_told_apart_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="tell them apart by name"):
        _unit(*(Criterion(name=name, fact="tidy") for name in names))


def test_the_default_criteria_pay_nothing_where_the_environment_states_no_facts() -> None:
    assert credited(RubricSpanUnit(use="reward"), [1.0] * 4, _episode({})) == [0.0] * 4


@pytest.mark.parametrize(
    ("turns", "when", "expected"),
    [
        ("every", {}, [0, 1, 2, 3]),
        ("first", {}, [0]),
        ("last", {}, [3]),
        ("every", {"near": True}, [1, 2]),
        ("first", {"near": True}, [1]),
        ("last", {"near": True}, [2]),
        ("every", {"near": True, "boxes": 2}, [2]),
        ("every", {"near": "yes"}, []),
        ("last", {"unheard_of": True}, []),
        ("every", {"success": True}, [3]),
    ],
)
def test_a_criterion_speaks_of_chosen_turns(
    turns: Literal["every", "first", "last"], when: dict[str, Any], expected: list[int]
) -> None:
    episode = _episode(
        _facts(near=False, boxes=2),
        _facts(near=True, boxes=1),
        _facts(near=True, boxes=2),
        _facts(boxes=2) | {"success": True},
    )
    criterion = Criterion(name="a", fact="tidy", turns=turns, when=when)
    assert [turn.index for turn in criterion.turns_of(episode)] == expected


def test_doubtful_verdicts_pay_in_part() -> None:
    episode = _episode({"odds": 1.0}, {"odds": 0.75}, {"odds": 0.0}, {}, tokens=1, reasoning=0)
    criterion = Criterion(name="kind", verifier=Doubtful(), weight=2.0)
    assert credited(_unit(criterion), [9.0] * 4, episode) == [2.0, 1.0, -2.0, 0.0]
    weights = credited(_unit(criterion, use="weight", floor=0.5), [1.0] * 4, episode)
    assert weights == [0.5, 1.0, 2.5, 0.5]


def test_as_credit_each_span_carries_its_own_reduced_value() -> None:
    formed = Criterion(name="formed", fact="formed", part="action", weight=3.0)
    episode = _episode(_facts(tidy=False, formed=False), _facts(tidy=True, formed=True))
    unit = _unit(TIDY, formed, use="credit", floor=0.5)
    # Floor and tidy: the mean of 1 2 3 6 is 3, times 2.5. Formed: 6 times 3, on the last token.
    expected = [7.5, 7.5, 7.5, 25.5, 1.0, 1.0, 1.0, 1.0]
    assert credited(unit, [1.0, 2.0, 3.0, 6.0, 2.0, 2.0, 2.0, 2.0], episode) == expected


def test_an_episodes_score_is_the_weighted_share_of_met_criteria() -> None:
    """sum(w v) / sum(w), as in ROPD; a criterion's v is its mean over the turns it speaks of."""
    solved = Criterion(name="solved", fact="success", turns="last", weight=1.0)
    missing = Criterion(name="missing", fact="unheard_of", weight=9.0)
    unit = _unit(TIDY, solved, missing, use="weight")
    episode = _episode(_facts(tidy=True), _facts(tidy=False), _facts(tidy=True) | {"success": True})
    # Tidy, of weight 2, in two turns of three; solved, of weight 1, in the one it speaks of.
    assert unit.score(episode) == pytest.approx((2 * 2 / 3 + 1 * 1) / 3)
    assert unit.score(_episode(_facts(tidy=True) | {"success": True})) == 1.0
    assert unit.score(_episode(_facts(tidy=False) | {"success": False})) == 0.0


def test_where_nothing_is_judged_there_is_no_score() -> None:
    assert _unit(TIDY).score(_episode({})) is None
    weightless = Criterion(name="tidy", fact="tidy", weight=0.0)
    assert _unit(weightless).score(_episode(_facts(tidy=True))) is None


@pytest.mark.parametrize(("use", "paid"), [("reward", (2.0, -3.0)), ("weight", (0.0, 3.0))])
def test_verdicts_are_traced_to_the_tokens_they_paid(use: Use, paid: tuple[float, float]) -> None:
    asked = "Is it well formed?"
    formed = Criterion(name="formed", text=asked, fact="formed", part="action", weight=3.0)
    episode = _episode(_facts(tidy=True), _facts(formed=False))
    unit = _unit(TIDY, formed, use=use)
    assert unit.payments(episode) == [
        Payment(
            criterion="tidy",
            text="tidy",
            weight=2.0,
            turn=0,
            verdict=1.0,
            start=2,
            stop=6,
            paid=paid[0],
        ),
        Payment(
            criterion="formed",
            text=asked,
            weight=3.0,
            turn=1,
            verdict=0.0,
            start=11,
            stop=12,
            paid=paid[1],
        ),
    ]
    named = [s for s in unit.spans(episode) if s.name != "floor"]
    assert [(s.name, s.start, s.stop, s.weight) for s in named] == [
        ("tidy", 2, 6, paid[0]),
        ("formed", 11, 12, paid[1]),
    ]


def test_a_steps_episodes_are_judged_at_once_and_once() -> None:
    judge = Doubtful()
    unit = RubricSpanUnit(
        criteria=(Criterion(name="kind"), Criterion(name="brief", turns="last")), judge=judge
    )
    episodes = [_episode({"odds": 0.5}, {"odds": 1.0}), _episode({"odds": 0.0})]
    unit.learn(episodes)
    assert judge.calls == [5]
    for episode in episodes:
        assert unit.spans(episode) and unit.payments(episode)
        assert unit.score(episode) is not None
    assert judge.calls == [5]
    assert unit.score(episodes[0]) == pytest.approx((0.75 + 1.0) / 2)
    assert unit.score(_episode({"odds": 0.25})) == 0.25, "an episode of another step"
    unit.learn([_episode({"odds": 0.0})])
    assert unit.score(episodes[0]) == pytest.approx((0.75 + 1.0) / 2), "asked again"


def test_a_judge_of_many_criteria_is_made_ready_once() -> None:
    made = []

    class Ready(Doubtful):
        def prepare(self, student: Any, teacher: Any) -> None:
            made.append((student, teacher))

    names = ("kind", "brief")
    unit = RubricSpanUnit(criteria=tuple(Criterion(name=n) for n in names), judge=Ready())
    unit.prepare("student", "teacher")  # type: ignore[arg-type]
    assert made == [("student", "teacher")]


def test_a_criterion_that_nobody_judges_is_refused() -> None:
    with pytest.raises(ValidationError, match="nobody judges the criterion 'kind'"):
        RubricSpanUnit(criteria=(Criterion(name="kind"),))


def test_a_criterion_with_two_judges_is_refused() -> None:
    with pytest.raises(ValidationError, match="names both a fact and a verifier"):
        Criterion(name="kind", fact="kind", verifier=Doubtful())


def test_weights_of_a_teacher_that_is_not_listened_to_are_refused() -> None:
    changes = ["unit={kind: rubric_span, use: reward}", "weight=[entropy, gap_gate]"]
    with pytest.raises(ConfigError, match="weight: entropy, gap_gate would have nothing to weigh"):
        parse_config(ENV, changes)
    assert parse_config(ENV, [changes[1], "unit=rubric_span"]).weight


def test_a_teacher_that_is_not_there_cannot_judge() -> None:
    judged = "unit={kind: rubric_span, criteria: [{name: a}], judge: {kind: model%s}}"
    rewards = ["mix=rl", "rollout.group=4"]
    with pytest.raises(ConfigError, match="mix: rl asks no teacher"):
        parse_config(ENV, [judged % "", *rewards])
    parse_config(ENV, [judged % ", model: student", *rewards])
    parse_config(ENV, [judged % ""])


def test_a_rubric_reads_back_as_it_was_written() -> None:
    change = (
        "unit={kind: rubric_span, use: reward, judge: {kind: model, model: student}, criteria: ["
        "{name: a, fact: tidy, want: 2, when: {near: true}}, {name: b, text: Be kind},"
        "{name: c, verifier: {kind: function, function: 'operator:eq'}}]}"
    )
    config = parse_config(ENV, [change])
    assert config.fresh() == config
