"""What wins where several say something of one setting: defaults, rows, files, arms, commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from agentopd.base.layers import beyond, changes, over
from agentopd.learning.method import AXES
from agentopd.running.config import ConfigError, RunConfig
from agentopd.running.reading import arm_config, load_config, load_method, parse_config

ENV: dict[str, Any] = {"env": {"id": "agentopd/Sokoban-v0"}}


def told(config: RunConfig, about: str) -> list[str]:
    return [notice for notice in config.notices() if notice.startswith(about)]


@pytest.mark.parametrize(
    ("below", "above", "expected"),
    [
        ({"kind": "a", "x": 1}, {"kind": "a", "y": 2}, {"kind": "a", "x": 1, "y": 2}),
        ({"kind": "a", "x": 1}, {"kind": "a", "x": 2}, {"kind": "a", "x": 2}),
        ({"kind": "a", "x": 1}, {"kind": "b", "y": 2}, {"kind": "b", "y": 2}),
        ({"kind": "a", "x": 1}, {"y": 2}, {"kind": "a", "x": 1, "y": 2}),
        ({"kind": "a", "x": 1}, "a", {"kind": "a", "x": 1}),
        ({"kind": "a", "x": 1}, "b", "b"),
        ("a", {"x": 1}, {"kind": "a", "x": 1}),
        ({"o": {"p": 1}}, {"o": {"q": 2}}, {"o": {"p": 1, "q": 2}}),
        ([1, 2], [3], [3]),
        (None, {"x": 1}, {"x": 1}),
    ],
)
def test_one_layer_over_another(below: Any, above: Any, expected: Any) -> None:
    assert over(below, above) == expected


def test_what_is_beyond_a_base_gives_the_value_again() -> None:
    base = {"kind": "a", "x": 1, "rl": {"kind": "g", "clip": 0.2, "std": True}}
    for value in (base, {**base, "x": 2}, {**base, "rl": {**base["rl"], "std": False}}):
        own = beyond(value, base)
        assert over(base, own or {}) == value
        assert own is None or [str(c) for c in changes(base, value)]


def test_in_one_file_the_keys_beside_a_method_win() -> None:
    own = {"teacher": "ema", "divergence": "forward_kl", "unit": "turn", "rollout": {"tasks": 2}}
    found = parse_config(ENV | {"method": "opsd"} | own)
    assert (found.teacher.kind, found.divergence.kind, found.unit.kind) == (
        *("ema", "forward_kl", "turn"),
    )
    assert found.rollout.tasks == 2
    assert found.privilege[0].kind == "ground_truth"  # of which the file says nothing
    assert told(found, "method:") == []


def test_a_file_refines_its_methods_parts() -> None:
    row = load_method("skill_sd")
    found = parse_config(ENV | {"method": "skill_sd", "mix": {"coefficient": 0.5}})
    assert found.mix.model_dump(mode="json")["kind"] == row["mix"]["kind"]
    assert found.mix.distil_coefficient == 0.5


def test_a_row_named_later_keeps_what_it_says_nothing_of() -> None:
    own = {"rollout": {"kind": "student", "max_turn_tokens": 8, "tasks": 2}, "unit": "turn"}
    found = parse_config(ENV | own, ["method=opsd"])
    assert (found.rollout.max_turn_tokens, found.rollout.tasks) == (8, 2)
    assert told(found, "method:") == [
        "method: opsd changes what was set before it: unit: turn -> token"
    ]


def test_a_command_says_more_than_the_row_it_names() -> None:
    found = parse_config(ENV | {"unit": "turn"}, ["unit=trajectory", "method=opsd"])
    assert found.unit.kind == "trajectory"
    assert told(found, "method:") == []


def test_the_old_row_goes_when_another_is_named() -> None:
    named = ENV | {"method": "skill_sd", "rollout": {"tasks": 2}}
    plain = parse_config(ENV | {"rollout": {"tasks": 2}}, ["method=opd"])
    for found in (
        parse_config(named, ["method=opd"]),
        parse_config(parse_config(named).model_dump(mode="json"), ["method=opd"]),
        arm_config(parse_config(named | {"study": {"arms": {"a": {"method": "opd"}}}}), "a", 0),
    ):
        for axis in AXES:
            assert getattr(found, axis) == getattr(plain, axis), axis


def test_an_arms_row_goes_over_the_run_and_its_keys_over_the_row() -> None:
    arms = {"a": {"method": "skill_sd", "unit": "turn"}, "b": {"unit": "turn"}}
    run = parse_config(ENV | {"teacher": "ema", "steps": 3, "study": {"arms": arms}})
    found = arm_config(run, "a", 0)
    assert (found.unit.kind, found.teacher.kind, found.steps) == ("turn", "lagged", 3)
    (notice,) = told(found, "method:")
    assert "teacher: ema -> lagged" in notice and "unit" not in notice
    assert arm_config(run, "b", 0).teacher.kind == "ema"


@pytest.mark.parametrize("method", ["opsd", "skill_sd", "veto"])
def test_what_a_run_has_written_is_read_as_it_was(method: str) -> None:
    changed = ["unit=trajectory", "schedule={}", "teacher=ema", "rollout.group=1", "mix=distil"]
    changed.append("weight=[gap_gate]")
    config = parse_config(ENV, [f"method={method}", *changed])
    written = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))
    assert parse_config(written).model_dump(mode="json") == written


def test_a_row_of_ones_own_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("unit: turn\nteacher: {kind: ema, rate: 0.5}\n")
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(ENV | {"method": "mine.yaml", "steps": 1}))
    beside = load_config(path)
    assert (beside.unit.kind, beside.teacher.kind) == ("turn", "ema")
    monkeypatch.chdir(tmp_path)
    assert load_config("quickstart", ["method=mine.yaml"]).unit.kind == "turn"
    written = beside.model_dump(mode="json")
    (tmp_path / "mine.yaml").unlink()
    assert parse_config(written).model_dump(mode="json") == written  # needs no row any more
    with pytest.raises(ConfigError, match=r"mine\.yaml cannot be read"):
        parse_config(ENV, ["method=mine.yaml"])


def test_a_configuration_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("steps: 3\nunit: turn\n")
    with pytest.raises(ConfigError, match="sets steps, and a row sets axes alone"):
        parse_config(ENV, [f"method={path}"])


QUICKSTART = {"prompt", "stop_when_stuck", "min_moves", "max_moves", "max_turns"}


@pytest.mark.parametrize("override", ["env.id=mine:Maze", "env={id: mine:Maze}"])
def test_options_of_another_environment_are_left_out(override: str) -> None:
    found = load_config("quickstart", [override, "env.options.size=3"])
    assert found.env.options == {"size": 3}
    assert found.evaluate.options == {}
    assert found.evaluate.every == 2
    (notice,) = told(found, "env.id: mine:Maze is another environment than agentopd/Sokoban-v0")
    assert "evaluate.options (split)" in notice
    assert all(option in notice for option in QUICKSTART)


def test_options_stay_with_their_environment() -> None:
    found = load_config("quickstart", ["env.id=agentopd/Sokoban-v0", "env.options.size=3"])
    assert set(found.env.options) == QUICKSTART | {"size"}
    assert told(found, "env.id") == []


def test_a_large_student_has_defaults_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(65 * 2**20)
    data = ENV | {"student": {"path": str(tmp_path)}}
    found = parse_config(data)
    assert (found.learner.learning_rate, found.learner.warmup) == (1e-5, 5)
    assert found.learner.tokens_per_batch == 2_048
    assert found.rollout.max_turn_tokens == 256
    (notice,) = told(found, "student:")
    assert "learner.learning_rate=1e-05" in notice and "rollout.max_turn_tokens=256" in notice
    learner = "learner={learning_rate: 1, warmup: 0, tokens_per_batch: 99}"
    own = [learner, "rollout.max_turn_tokens=9"]
    said = parse_config(data, own)
    assert (said.learner.learning_rate, said.learner.warmup) == (1.0, 0)
    assert (said.rollout.max_turn_tokens, told(said, "student:")) == (9, [])
    embedded = parse_config(ENV)
    assert (embedded.learner.learning_rate, embedded.rollout.max_turn_tokens) == (3e-4, 16)
