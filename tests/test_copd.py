"""Branches of students: who begins where, what crosses between them, and how they are merged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from scenes import ENV, Scene, assert_same, scene_of, taught
from scripted import toy_tokenizer

from agentopd.base.types import Trajectory
from agentopd.base.written import last_stage
from agentopd.learning.method import AXES
from agentopd.mixes.routing import Crossed
from agentopd.running.config import ConfigError, RunConfig
from agentopd.running.reading import parse_config, stage_configs
from agentopd.running.stages.merging import merge
from agentopd.running.stages.references import Left, resolved
from agentopd.running.train import train
from agentopd.teachers.copies import FrozenTeacher

SAMPLED = "divergence={kind: reverse_kl, support: sampled, estimator: k1}"
RL = "rl: {kind: grpo, clip: 0.2, clip_high: 0.28}"
GROUPED = ("rollout.tasks=2", "rollout.group=4", "privilege=none", SAMPLED)
CROSSED = f"mix={{kind: crossed, %s, {RL}}}"
GRPO = f"mix={{kind: rl, {RL}}}"


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


def _config(model: Path | str, stages: Mapping[str, Any], **own: Any) -> RunConfig:
    return parse_config(
        {
            "steps": 1,
            "threads": 1,
            "student": {"path": str(model)},
            "env": {"id": "agentopd/Sokoban-v0", "options": {"prompt": "brief", "max_turns": 2}},
            "rollout": {"tasks": 2, "max_turns": 2, "max_turn_tokens": 3},
            "privilege": "none",
            "teacher": {"kind": "external", "source": {"path": str(model)}},
            "evaluate": {"episodes": 1},
            "stages": stages,
            **own,
        }
    )


def _walked(config: RunConfig) -> list[tuple[str, str, str]]:
    """Of each stage its folder, the student that it begins with, and its teacher's path."""
    left, found = Left("first"), list[tuple[str, str, str]]()
    for leg, own in stage_configs(config):
        merged = "+".join(left.to_merge(leg))
        ready = resolved(own, leg, left, merged).model_dump(mode="json")
        teacher = ready["teacher"].get("source") or {"path": ""}
        found.append((leg.folder, ready["student"]["path"], teacher["path"]))
        left = left.trained(leg, leg.folder, leg.folder)
    return found


def test_each_branch_of_copd_goes_on_from_itself_and_learns_from_the_other_as_it_was() -> None:
    walked = _walked(parse_config(ENV, ["method=copd", "teacher=frozen"]))
    assert walked == [
        ("1-a", "first", ""),
        ("2-b", "first", ""),
        ("3-a_cross", "1-a", "2-b"),
        ("4-b_cross", "2-b", "1-a"),
        ("5-a", "3-a_cross", ""),
        ("6-b", "4-b_cross", ""),
        ("7-a_cross", "5-a", "6-b"),
        ("8-b_cross", "6-b", "5-a"),
        ("9-merge", "7-a_cross+8-b_cross", ""),
    ]


def test_after_a_merge_branches_begin_anew_from_it() -> None:
    a, b = {"branch": "a"}, {"branch": "b"}
    stages = {"x": {}, "a": a, "b": b, "m": {"merge": ["a", "b"]}, "a2": a, "y": {"steps": 2}}
    begins = [start for _, start, _ in _walked(_config("first", stages))]
    assert begins == ["first", "1-x", "1-x", "2-a+3-b", "4-m", "4-m"]


def test_a_merge_takes_no_step_unless_it_says_so() -> None:
    stages = {"a": {"branch": "a"}, "m": {"merge": ["a"]}, "n": {"branch": "b"}}
    config = _config("first", {**stages, "o": {"merge": ["b"], "steps": 3}})
    assert [own.steps for _, own in stage_configs(config)] == [1, 0, 1, 3]
    assert config.all_steps == 5
    again = parse_config(config.model_dump(mode="json"))
    assert again.model_dump(mode="json") == config.model_dump(mode="json")


def test_one_student_alone_is_grpo() -> None:
    """K = 1: no cross, and the mean of one."""
    (_, first), *_ = stage_configs(parse_config(ENV, ["method=copd"]))
    grpo = parse_config(ENV, ["method=grpo", "mix.rl.clip_high=0.28"])
    one, other = (x.model_dump(mode="json") for x in (first, grpo))
    unread = ("teacher", "divergence")
    assert {x: one[x] for x in AXES if x not in unread} == {
        x: other[x] for x in AXES if x not in unread
    }


def test_without_tasks_of_the_other_a_step_is_grpo(scene: Scene) -> None:
    found = scene.gradient(CROSSED % "tags: [none]", *GROUPED)
    assert torch.equal(found, scene.gradient(GRPO, *GROUPED, lessons=[]))


def _apart(scene: Scene) -> tuple[list[Trajectory], list[Trajectory], tuple[float, float]]:
    """Own tasks, the other's, and their shares of all tokens."""
    other = [t for t in scene.trajectories if t.task % 2]
    own = [t for t in scene.trajectories if not t.task % 2]
    counts = [sum(int(t.trainable.sum()) for t in some) for some in (own, other)]
    return own, other, (counts[0] / sum(counts), counts[1] / sum(counts))


def test_equal_branches_have_nothing_to_tell_one_another(scene: Scene) -> None:
    """log pi_j - log pi_k is 0: what is left is GRPO on the own tasks."""
    same = FrozenTeacher()
    same.prepare(scene.student)
    twins = replace(scene, teacher=same, lessons=taught(same, scene.trajectories))
    own, _, (share, _) = _apart(scene)
    found = twins.gradient(CROSSED % "share: 0.5", *GROUPED)
    grpo = scene.gradient(GRPO, *GROUPED, trajectories=own, lessons=[])
    assert_same(found, share * grpo, within=1e-5)


def test_rewards_count_in_own_tasks_and_the_others_log_ratio_in_its_own(scene: Scene) -> None:
    """As GRPO on the ones, and an advantage of the log-ratio alone on the others, pooled."""
    own, other, (share, rest) = _apart(scene)
    paid = [replace(t, turns=tuple(replace(u, reward=0.0) for u in t.turns)) for t in other]
    lessons = taught(scene.teacher, paid)
    additive = f"mix={{kind: additive, coefficient: 0.7, {RL}}}"
    crossing = scene.gradient(additive, *GROUPED, trajectories=paid, lessons=lessons)
    grpo = scene.gradient(GRPO, *GROUPED, trajectories=own, lessons=[])
    found = scene.gradient(CROSSED % "share: 0.5, coefficient: 0.7", *GROUPED)
    assert_same(found, share * grpo + rest * crossing, within=1e-5)
    assert crossing.norm() > 1e-2 * grpo.norm()


def test_tasks_are_told_apart_by_their_tag(scene: Scene) -> None:
    mix = Crossed(tags=("b",), by="domain")
    tagged = [replace(x, trajectory=_tagged(x.trajectory, n)) for n, x in enumerate(scene.lessons)]
    routes = mix.routes(tagged)
    assert [routes[n].distil for n in range(4)] == [0, 1, 0, 1]
    assert all(route.rl == 1 - route.distil for route in routes.values())


def _tagged(trajectory: Trajectory, number: int) -> Trajectory:
    return replace(trajectory, prompt={"domain": "ab"[number % 2]})


def _saved(folder: Path, **tensors: Any) -> Path:
    """A folder of a model's files, whose weights are these."""
    toy_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    found = {name: torch.as_tensor(value) for name, value in tensors.items()}
    save_file(found, folder / "model.safetensors")
    return folder


def test_the_mean_of_weights_by_hand(tmp_path: Path) -> None:
    values = ([1.0, 2.0], [2.0, 2.0], [6.0, 5.0])
    folders = [_saved(tmp_path / str(n), w=value) for n, value in enumerate(values)]
    merge(folders, tmp_path / "mean")
    assert load_file(tmp_path / "mean" / "model.safetensors")["w"].tolist() == [3.0, 3.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_the_mean_of_equal_weights_is_those_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    weight = (torch.randn(999, generator=torch.Generator().manual_seed(0)) * 100).to(dtype)
    folder = _saved(tmp_path / "one", w=weight)
    merge([folder] * 3, tmp_path / "mean")
    found = load_file(tmp_path / "mean" / "model.safetensors")["w"]
    assert found.dtype == dtype and torch.equal(found, weight)


def test_models_that_have_no_mean_are_refused_in_one_line(tmp_path: Path) -> None:
    one = _saved(tmp_path / "one", w=[1.0, 2.0])
    wide = _saved(tmp_path / "wide", w=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"w is \(3,\) in the one and \(2,\) in the other"):
        merge([one, wide], tmp_path / "mean")
    foreign = _saved(tmp_path / "foreign", w=[1.0, 2.0])
    tokenizer = toy_tokenizer()
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(foreign)
    with pytest.raises(ValueError, match="another tokenizer than"):
        merge([one, foreign], tmp_path / "mean")
    (foreign / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds adapters alone"):
        merge([foreign, one], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_a_run_ends_with_the_mean_of_its_branches(tiny_model: Path, tmp_path: Path) -> None:
    """The last stage is that mean, measured anew; its folder is the run's student."""
    stages = {
        "a": {"branch": "a", "learner.learning_rate": 1e-2},
        "b": {"branch": "b", "learner.learning_rate": 1e-3},
        "merge": {"merge": ["a", "b"]},
    }
    out, config = tmp_path / "run", _config(tiny_model, stages, mix="nll")
    summary = train(config, out)
    assert last_stage(out) == out / "stages" / "3-merge"
    (one, other, mean), start = (
        [_weights(out / "stages" / x) for x in ("1-a", "2-b", "3-merge")],
        load_file(tiny_model / "model.safetensors"),
    )
    assert one.keys() == mean.keys()
    for name, weight in mean.items():
        expected = (one[name].double() + other[name].double()) / 2
        torch.testing.assert_close(weight, expected.float(), rtol=0, atol=0)
    assert any(not torch.equal(one[name], start[name]) for name in start)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    merged = json.loads((out / "stages" / "3-merge" / "summary.json").read_text())
    assert summary["evaluation"] == merged["evaluation"]
    assert (summary["steps"], merged["steps"]) == (2, 0)
    assert train(config, out, resume=True) == summary


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / "latest" / "student" / "model.safetensors")


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ({"a": {"branch": "a"}, "m": {"merge": ["b"]}}, "stage 2-m: merge names 'b'"),
        ({"a": {"branch": "a", "merge": ["a"]}}, "outside of all branches"),
        ({"a": {"merge": ["a"], "start": "initial"}}, "outside of all branches"),
        ({"a": {"branch": "a", "stages": {"b": {}}}}, "has no settings of its own"),
    ],
)
def test_a_branch_that_cannot_be_is_told_in_one_line(
    tmp_path: Path, stages: Any, told: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        train(_config("zoo:sokoban-easy", stages), tmp_path / "run")
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_adapters_are_not_merged(tmp_path: Path) -> None:
    stages = {"a": {"branch": "a"}, "m": {"merge": ["a"]}}
    config = _config("zoo:sokoban-easy", stages, student={"path": "zoo:sokoban-easy", "lora": {}})
    with pytest.raises(ConfigError, match="stage 2-m merges branches"):
        train(config, tmp_path / "run")
