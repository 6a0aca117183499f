"""Induced rubrics: the facts that tell solved from failed episodes, and when they are written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from trajectories import played

from agentopd.base.types import Trajectory
from agentopd.running.config import RunConfig
from agentopd.running.reading import parse_config
from agentopd.running.train import train
from agentopd.units.rubric.criteria import Criterion
from agentopd.units.rubric.induction import Attempt, FactWriter, RubricWriter
from agentopd.units.rubric.unit import RubricSpanUnit


def _episode(success: bool, *facts: dict[str, Any], episode: int = 0) -> Trajectory:
    infos = [{"facts": f, "success": False} for f in facts]
    infos[-1]["success"] = success
    return played(*([5] for _ in facts), infos=infos, episode=episode)


def _attempt(*facts: dict[str, Any]) -> Attempt:
    return Attempt.of(_episode(False, *facts))


def _summary(criteria: Sequence[Criterion]) -> list[tuple[str, Any, float]]:
    return [(c.fact or "", c.want, round(c.weight, 6)) for c in criteria]


class Narrator(RubricWriter):
    """Counts how often it writes, and names the criterion after what it saw."""

    calls: list[tuple[int, int]] = []  # noqa: RUF012  (a field: each writer has its own)

    def write(self, good: Sequence[Attempt], bad: Sequence[Attempt]) -> list[Criterion]:
        self.calls.append((len(good), len(bad)))
        return [Criterion(name=f"{len(good)} against {len(bad)}", fact="kind")]


def test_a_criterion_is_a_difference_of_mean_rates() -> None:
    good = [
        _attempt({"near": True}, {"near": True}),  # rate 1
        _attempt({"near": True}, {"near": False}),  # rate 1/2
    ]
    bad = [
        _attempt({"near": False}, {"near": False}, {"near": True}, {"near": False}),  # rate 1/4
        _attempt({"near": False}),  # rate 0
        _attempt({}),  # says nothing of it, and is not counted
    ]
    writer = FactWriter(support=1)
    # 3/4 - 1/8 for true; the rate of false is lower among the good, so it makes no criterion.
    assert _summary(writer.write(good, bad)) == [("near", True, 0.625)]
    assert [c.name for c in writer.write(good, bad)] == ["near is true"]
    assert _summary(writer.write(bad, good)) == [("near", False, 0.625)]


def test_the_best_facts_come_first_and_too_small_or_rare_ones_not_at_all() -> None:
    good = [_attempt({"a": True, "b": 2, "c": "x", "d": 1.5}), _attempt({"a": True, "b": 2})]
    bad = [_attempt({"a": False, "b": 1, "c": "y", "d": 1.5}), _attempt({"a": True, "b": 1})]
    assert _summary(FactWriter(support=1).write(good, bad)) == [
        ("b", 2, 1.0),
        ("c", "x", 1.0),
        ("a", True, 0.5),
    ]
    assert _summary(FactWriter(support=2).write(good, bad)) == [("b", 2, 1.0), ("a", True, 0.5)]
    strict = FactWriter(support=1, difference=0.6, ignore=("b",))
    assert _summary(strict.write(good, bad)) == [("c", "x", 1.0)]


def test_true_and_one_are_different_values() -> None:
    good, bad = [_attempt({"a": True})], [_attempt({"a": 1})]
    (found,) = FactWriter(support=1).write(good, bad)
    assert found.want is True


def test_facts_that_are_no_plain_values_or_are_stated_on_one_side_only_are_left_out() -> None:
    good = [_attempt({"list": [1], "none": None, "only": True, "same": 3})]
    bad = [_attempt({"list": [2], "none": 1, "same": 3})]
    assert FactWriter(support=1).write(good, bad) == []


def test_nothing_is_written_before_both_kinds_were_seen() -> None:
    writer = Narrator(every=5)
    good, bad = _episode(True, {"a": 1}), _episode(False, {"a": 2})
    writer.learn([bad])
    writer.learn([bad])
    assert writer.calls == [] and writer.criteria == ()
    writer.learn([good])
    assert writer.calls == [(1, 2)]
    for _ in range(6):
        writer.learn([good, bad])
    # The third step wrote; then every fifth, counted from the first: the sixth.
    assert writer.calls == [(1, 2), (4, 5)]
    assert [c.name for c in writer.criteria] == ["4 against 5"]


def test_only_the_latest_episodes_are_remembered_of_each_kind() -> None:
    writer = Narrator(every=1, memory=2)
    writer.learn([_episode(True, {"a": n}) for n in range(5)])
    writer.learn([_episode(False, {"a": n}) for n in range(3)])
    assert writer.calls == [(2, 2)]
    kept = [attempt["turns"][0]["info"]["facts"]["a"] for attempt in writer.state()["bad"]]
    assert kept == [1, 2]


def test_too_few_criteria_leave_the_former_and_too_many_are_cut() -> None:
    writer = FactWriter(every=1, support=1, memory=1, least=2, most=2)
    good = {"a": True, "b": True, "c": True}
    writer.learn([_episode(True, good), _episode(False, dict.fromkeys(good, False))])
    assert [c.fact for c in writer.criteria] == ["a", "b"]
    writer.learn([_episode(False, good | {"c": False})])
    assert [c.fact for c in writer.criteria] == ["a", "b"], "one fact is not two"
    writer.learn([_episode(False, {"a": True, "b": False, "c": False})])
    assert [c.fact for c in writer.criteria] == ["b", "c"]


def test_a_writer_goes_on_where_it_stopped() -> None:
    rng = np.random.default_rng(1)
    steps = [
        [
            _episode(bool(rng.integers(2)), {"a": int(rng.integers(3)), "b": int(rng.integers(3))})
            for _ in range(3)
        ]
        for _ in range(9)
    ]
    straight = RubricSpanUnit(induce=FactWriter(every=4, support=1), criteria=())
    stopped = straight.model_copy(deep=True)
    for step in steps:
        straight.learn(step)
    for step in steps[:5]:
        stopped.learn(step)
    resumed = RubricSpanUnit(induce=FactWriter(every=4, support=1), criteria=())
    resumed.restore(json.loads(json.dumps(stopped.state())))
    assert resumed.rubric == stopped.rubric
    for step in steps[5:]:
        resumed.learn(step)
    assert resumed.state() == straight.state()
    assert resumed.rubric == straight.rubric
    assert straight.rubric != stopped.rubric, "the eighth step wrote a rubric of its own"


def test_a_rubric_without_a_writer_has_nothing_to_remember() -> None:
    unit = RubricSpanUnit()
    unit.learn([_episode(True, {"a": 1})])
    assert unit.state() == {}
    unit.restore({})
    RubricSpanUnit(induce=FactWriter()).restore({})


def test_induced_criteria_pay_the_turns_they_were_induced_from() -> None:
    unit = RubricSpanUnit.model_validate(
        {"kind": "rubric_span", "use": "reward", "induce": {"kind": "facts", "support": 1}}
    )
    good = _episode(True, {"near": True}, {"near": True}, episode=0)
    bad = _episode(False, {"near": True}, {"near": False}, episode=1)
    assert unit.payments(good) == [], "nothing was induced yet"
    unit.learn([good, bad])
    # Rates 1 and 1/2: the criterion weighs 1/2.
    assert [(p.turn, p.paid) for p in unit.payments(good)] == [(0, 0.5), (1, 0.5)]
    assert [(p.turn, p.paid) for p in unit.payments(bad)] == [(0, 0.5), (1, -0.5)]
    assert (unit.score(good), unit.score(bad)) == (1.0, 0.5)


def test_a_hand_written_criterion_stands_before_an_induced_one_of_its_name() -> None:
    own = Criterion(name="near is true", fact="near", weight=7.0)
    unit = RubricSpanUnit(criteria=(own,), induce=FactWriter(support=1))
    unit.learn([_episode(True, {"near": True, "b": 1}), _episode(False, {"near": False, "b": 2})])
    assert [(c.name, c.weight) for c in unit.rubric] == [("near is true", 7.0), ("b is 1", 1.0)]


def test_a_writers_words_are_put_to_the_rubrics_judge() -> None:
    class Poet(Narrator):
        def write(self, good: Sequence[Attempt], bad: Sequence[Attempt]) -> list[Criterion]:
            return [Criterion(name="kind", text="Be kind.")]

    episodes = [_episode(True, {"a": 1}), _episode(False, {"a": 2})]
    unit = RubricSpanUnit(induce=Poet(), criteria=())
    with pytest.raises(ValueError, match="nobody judges the criterion 'kind'"):
        unit.learn(episodes)


def test_with_a_writer_there_are_no_criteria_but_its_own_unless_they_are_given() -> None:
    env = {"env": {"id": "agentopd/Sokoban-v0"}}
    alone = parse_config(env, ["unit={kind: rubric_span, induce: facts}"])
    given = "unit={kind: rubric_span, induce: facts, criteria: [{name: a, fact: b}]}"
    beside = parse_config(env, [given])
    for config, count in ((alone, 0), (beside, 1)):
        assert isinstance(config.unit, RubricSpanUnit)
        assert len(config.unit.criteria) == count
        assert config.fresh() == config


def test_more_criteria_at_least_than_at_most_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"least \(5\) must not be above most \(4\)"):
        FactWriter(least=5, most=4)


def _run(model: Path, steps: int) -> RunConfig:
    data: dict[str, Any] = {
        "steps": steps,
        "threads": 1,
        "student": {"path": str(model)},
        "env": {"id": "scripted:Letters"},
        "rollout": {"tasks": 4, "max_turn_tokens": 5},
        "unit": {
            "kind": "rubric_span",
            "induce": {"kind": "facts", "every": 2, "support": 1},
            "criteria": [{"name": "kind", "text": "Be kind."}],
            "judge": {"kind": "model", "model": "student"},
        },
        "evaluate": {"episodes": 1},
        "save": {"trajectories_every": 0},
    }
    return parse_config(data)


def test_a_run_with_a_living_rubric_goes_on_as_if_it_had_never_stopped(
    tiny_model: Path, tmp_path: Path
) -> None:
    train(_run(tiny_model, 4), tmp_path / "whole")
    train(_run(tiny_model, 2), tmp_path / "halves")
    halfway = _progress(tmp_path / "halves")
    assert halfway["unit"]["steps"] == 2 and halfway["unit"]["criteria"]
    train(_run(tiny_model, 4), tmp_path / "halves", resume=True)
    assert _progress(tmp_path / "halves")["unit"] == _progress(tmp_path / "whole")["unit"]
    whole, halves = (_losses(tmp_path / name) for name in ("whole", "halves"))
    assert len(whole) == 4 and whole == halves


def _progress(out: Path) -> dict[str, Any]:
    return json.loads((out / "checkpoints" / "latest" / "progress.json").read_text())


def _losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["step"] >= 0]
