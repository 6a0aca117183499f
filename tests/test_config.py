"""The configuration: precedence, messages, round trips, arms, schedules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from agentopd.divergences.kl import JensenShannon, ReverseKL
from agentopd.mixes.shared import Auxiliary, RlOnly
from agentopd.privilege.base import NoPrivilege
from agentopd.privilege.writing.skills import SkillSummary
from agentopd.rollout.policies import Rollout
from agentopd.running.config import ConfigError, RunConfig
from agentopd.running.reading import (
    ROW,
    arm_config,
    load_config,
    load_method,
    method_names,
    parse_config,
)
from agentopd.signal.schedules import Schedule
from agentopd.units.rubric.unit import RubricSpanUnit
from agentopd.units.stretches import TokenUnit, TrajectoryUnit, TurnUnit
from agentopd.weights.token import EntropyWeight, GapGate

ENV: dict[str, Any] = {"env": {"id": "agentopd/Sokoban-v0"}}
STUDY = {
    "arms": {
        "plain": {},
        "turn": {"unit": "turn"},
        "summed": {"unit.reduce": "sum"},
        "grpo": {"mix": "rl", "rollout.group": 4},
        "published": {"method": "skill_sd", "mix.coefficient": 0.5},
        "broken": {"unit": "trun"},
    }
}


def _problem(*overrides: str, **data: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(ENV | data, overrides)
    return str(caught.value)


def test_an_override_goes_over_the_method_and_the_method_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        yaml.safe_dump(ENV | {"steps": 7, "mix": "distil", "unit": "turn", "seed": 3}),
        encoding="utf-8",
    )
    row = load_method("skill_sd")
    assert row["unit"]["kind"] == "token"

    alone = load_config(path)
    assert (alone.steps, alone.unit.kind, alone.mix.kind) == (7, "turn", "distil")

    method = load_config(path, ["method=skill_sd"])
    assert (method.method, method.steps, method.seed) == ("skill_sd", 7, 3)
    assert (method.unit.kind, method.mix.kind) == ("token", row["mix"]["kind"])

    # wherever the override stands beside the method
    for overrides in (
        ["method=skill_sd", "unit=trajectory"],
        ["unit=trajectory", "method=skill_sd"],
    ):
        over = load_config(path, overrides)
        assert (over.unit.kind, over.mix.kind) == ("trajectory", row["mix"]["kind"])


def test_the_methods_name_may_stand_in_the_file_and_be_overridden() -> None:
    named = ENV | {"method": "skill_sd"}
    assert parse_config(named).teacher.kind == load_method("skill_sd")["teacher"]["kind"]
    other = parse_config(named, ["method=opsd"])
    assert (other.method, other.teacher.kind) == ("opsd", load_method("opsd")["teacher"]["kind"])


@pytest.mark.parametrize("name", method_names())
def test_a_methods_row_sets_axes_alone(name: str) -> None:
    assert set(load_method(name)) <= set(ROW)


def test_overrides_refine_a_part_or_replace_it() -> None:
    turn = ENV | {"unit": {"kind": "turn", "use": "weight", "reduce": "sum"}}
    assert parse_config(turn, ["unit.reduce=last"]).unit == TurnUnit(use="weight", reduce="last")
    assert parse_config(turn, ["unit=turn"]).unit == TurnUnit()
    assert parse_config(turn, ["unit={kind: token, budget: 5}"]).unit == TokenUnit(budget=5)


def test_overrides_refine_parts_that_the_file_leaves_out_or_names_only() -> None:
    assert parse_config(ENV, ["unit.reduce=sum"]).unit == TokenUnit(reduce="sum")
    assert parse_config(ENV, ["divergence.support=sampled"]).divergence.returns == "advantage"
    short = parse_config(ENV | {"divergence": "jsd"}, ["divergence.beta=0.25"])
    assert short.divergence == JensenShannon(beta=0.25)
    nested = parse_config(ENV, ["mix=auxiliary", "mix.rl.clip=0.5", "rollout.group=2"])
    assert nested.mix.rl_channel is not None
    assert nested.mix.rl_channel.clip == 0.5


def test_settings_of_an_axis_that_name_no_kind_are_those_of_the_default() -> None:
    assert parse_config(ENV | {"unit": {"reduce": "sum"}}).unit == TokenUnit(reduce="sum")
    assert parse_config(ENV, ["unit={reduce: sum}"]).unit == TokenUnit(reduce="sum")
    study = {"arms": {"summed": {"unit": {"reduce": "sum"}}}}
    run = parse_config(ENV | {"unit": "turn", "study": study})
    assert arm_config(run, "summed", seed=0).unit == TokenUnit(reduce="sum")


def test_values_of_overrides_are_yaml() -> None:
    found = parse_config(
        ENV,
        ["learner.learning_rate=1e-4", "steps=3", "evaluate.temperature=null", "weight=[gap_gate]"],
    )
    assert (found.learner.learning_rate, found.steps) == (1e-4, 3)
    assert found.evaluate.temperature is None
    assert found.weight == [GapGate()]


def test_one_source_or_weight_needs_no_list() -> None:
    found = parse_config(ENV | {"privilege": "none", "weight": {"kind": "entropy"}})
    assert found.privilege == [NoPrivilege()]
    assert found.weight == [EntropyWeight()]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("unti=turn", "unknown key 'unti'; did you mean 'unit'?"),
        ("unit=trun", "unit: no unit is called 'trun'; did you mean 'turn'?"),
        ("unit.reduec=sum", "unit: unknown key 'reduec'; did you mean 'reduce'?"),
        ("unit.reduce=sam", "unit.reduce: Input should be 'sum', 'mean' or 'last', not 'sam'"),
        ("weight=[{beta: 2}]", "weight.0: the weight needs a kind; there are: belief_increment"),
        ("learner.learning_rat=1", "learner: unknown key 'learning_rat'; did you mean"),
        ("learner.clip=-1", "learner.clip: Input should be greater than 0, not -1"),
        ("rollout.tasks=x", "rollout.tasks: Input should be a valid integer"),
        ("mix={kind: rl, rl: gpro}", "mix.rl: no rl is called 'gpro'; did you mean 'grpo'?"),
        ("schedule.distill={kind: constant}", "schedule.distill: Input should be 'distil', 'rl'"),
        ("schedule.distil=linear", "schedule.distil.steps: Field required"),
        ("privilege=skil_summary", "privilege.0: no privilege source is called 'skil_summary'"),
        ("privilege=[none, {kind: shuffled, of: nune}]", "privilege.1.of: no privilege source"),
        ("weight=[gap_gat]", "weight.0: no weight is called 'gap_gat'; did you mean 'gap_gate'?"),
        ("method=skil_sd", "method: no method is called 'skil_sd'; did you mean 'skill_sd'?"),
        ("divergence={kind: jsd, support: sampled}", "divergence: jsd cannot be estimated from"),
        ("env={}", "env.id: Field required"),
        ("env=Sokoban", "env: Input should be a valid dictionary"),
        ("steps", "'steps' is not an override; write key=value"),
        ("=3", "'=3' is not an override"),
        ("steps=[1", "the value of steps is not YAML: '[1'"),
        ("privilege.kind.x=1", "privilege"),
        ("student.dtype=fp8", "student.dtype: String should match pattern"),
    ],
)
def test_messages_name_the_place_and_the_closest_key(override: str, says: str) -> None:
    assert _problem(override).startswith(says)


def test_every_problem_has_its_line() -> None:
    lines = _problem("unit=trun", "learner.clip=-1", "seed=-1").splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == ["learner.clip", "seed", "unit"]


def test_a_list_has_no_keys_to_override() -> None:
    said = _problem("privilege.memory=3", privilege=[{"kind": "skill_summary"}])
    assert "privilege is [{'kind': 'skill_summary'}] and has no keys of its own" in said


def test_reinforcement_learning_without_groups_is_refused() -> None:
    assert "rollout.group is 1: every group would be dead" in _problem("mix=rl")
    assert isinstance(parse_config(ENV, ["mix=rl", "rollout.group=2"]).mix, RlOnly)


def test_a_distilling_method_that_says_nothing_of_its_teacher_is_refused() -> None:
    assert "privilege: none is the control" in _problem("privilege=[]")
    parse_config(ENV, ["mix=rl", "rollout.group=2", "privilege=[]"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- 1\n- 2\n", "holds list, not a mapping"),
        ("", "holds NoneType, not a mapping"),
        ("a: [1", "is not YAML"),
    ],
)
def test_files_that_are_no_configuration_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        load_config(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml cannot be read: No such file"):
        load_config(tmp_path / "gone.yaml")


def _rich() -> RunConfig:
    return parse_config(
        ENV | {"study": STUDY},
        [
            "privilege=[{kind: skill_summary, memory: 5}, {kind: shuffled, of: ground_truth}]",
            "unit={kind: rubric_span, criteria: [{name: a, fact: b, want: 2, part: action}]}",
            "divergence={kind: jsd, beta: 0.3}",
            "weight=[gap_gate, {kind: entropy, renormalise: off}]",
            "mix={kind: auxiliary, coefficient: 0.2, rl: {kind: grpo, std: false}}",
            "rollout.group=4",
            "teacher={kind: ema, rate: 0.5}",
            "schedule={distil: {kind: cosine, steps: 5}, learning_rate: constant}",
        ],
    )


def test_what_is_written_can_be_read_and_is_the_same() -> None:
    config = _rich()
    written = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    found = parse_config(yaml.safe_load(written))
    assert found.model_dump(mode="json") == config.model_dump(mode="json")
    assert isinstance(found.unit, RubricSpanUnit)
    assert found.unit.criteria[0].want == 2
    assert isinstance(found.mix, Auxiliary)
    assert [type(part) for part in found.privilege] == [type(part) for part in config.privilege]


def test_a_written_configuration_is_complete() -> None:
    written = parse_config(ENV).model_dump(mode="json")
    assert set(written) == set(RunConfig.model_fields)
    assert written["unit"] == {
        "kind": "token", "reduce": "mean", "normalise": "token_mean", "budget": 1000.0,
    }  # fmt: skip


def test_fresh_settings_share_nothing_that_lives() -> None:
    config = parse_config(ENV)
    memory = config.privilege[0]
    assert isinstance(memory, SkillSummary)
    memory.restore({"sokoban": [[True, ["stuck"]]]})
    fresh = config.fresh()
    assert fresh.model_dump() == config.model_dump()
    assert memory.state() != {}
    assert fresh.privilege[0].state() == {}
    assert fresh.teacher is not config.teacher
    assert fresh.schedule is not config.schedule


def test_two_configurations_share_no_defaults() -> None:
    one, other = parse_config(ENV), parse_config(ENV)
    one.evaluate.options["split"] = "test"
    one.schedule["rl"] = Schedule.model_validate("constant")
    assert (other.evaluate.options, other.schedule) == ({}, {})
    assert one.teacher is not other.teacher
    assert one.privilege[0] is not other.privilege[0]


def _arms() -> RunConfig:
    return parse_config(ENV | {"study": STUDY, "unit": "trajectory", "seed": 9, "steps": 4})


@pytest.mark.parametrize(
    ("arm", "unit"),
    [("plain", TrajectoryUnit()), ("turn", TurnUnit()), ("summed", TrajectoryUnit(reduce="sum"))],
)
def test_an_arm_is_the_run_with_its_changes(arm: str, unit: TokenUnit) -> None:
    found = arm_config(_arms(), arm, seed=2)
    assert found.unit == unit
    assert (found.seed, found.steps, found.study) == (2, 4, None)


def test_an_arms_changes_go_over_its_method() -> None:
    found = arm_config(_arms(), "published", seed=0)
    assert (found.method, found.mix.distil_coefficient) == ("skill_sd", 0.5)
    assert found.unit == TokenUnit.model_validate(load_method("skill_sd")["unit"])


def test_arms_leave_each_other_and_the_run_alone() -> None:
    run = _arms()
    before = run.model_dump()
    assert isinstance(arm_config(run, "grpo", seed=0).mix, RlOnly)
    assert arm_config(run, "plain", seed=0).mix.kind == "distil"
    assert run.model_dump() == before


def test_a_broken_or_missing_arm_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^arm broken: unit: no unit is called 'trun'"):
        arm_config(_arms(), "broken", seed=0)
    with pytest.raises(ConfigError, match=r"no arm is called 'trun'; did you mean 'turn'\?"):
        arm_config(_arms(), "trun", seed=0)


def test_defaults_are_the_plainest_method() -> None:
    found = parse_config(ENV)
    assert isinstance(found.rollout, Rollout)
    assert (found.unit, found.divergence) == (TokenUnit(), ReverseKL())
    assert (found.mix.distil_coefficient, found.mix.rl_channel) == (1.0, None)
    assert found.factor("distil", 12) == 1.0


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"kind": "constant", "value": 0.5}, [0.5, 0.5, 0.5, 0.5]),
        ({"kind": "linear", "steps": 4}, [1.0, 0.5, 0.0, 0.0]),
        ({"kind": "linear", "start": 0.0, "stop": 2.0, "steps": 4}, [0.0, 1.0, 2.0, 2.0]),
        ({"kind": "cosine", "steps": 4}, [1.0, 0.5, 0.0, 0.0]),
    ],
)
def test_schedules_by_hand(schedule: dict[str, Any], expected: list[float]) -> None:
    found = parse_config(ENV | {"schedule": {"distil": schedule}})
    assert [found.factor("distil", step) for step in (0, 2, 4, 40)] == pytest.approx(expected)
    assert found.factor("rl", 2) == 1.0


def test_a_cosine_starts_and_ends_slowly() -> None:
    cosine = Schedule.model_validate({"kind": "cosine", "steps": 100})
    steps = [cosine.factor(s) - cosine.factor(s + 1) for s in (0, 49, 99)]
    assert steps[1] > 10 * steps[0] > 0
    assert steps[1] > 10 * steps[2] > 0
