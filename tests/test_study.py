"""Studies: every arm under the same conditions, a folder that can be resumed, sums that add up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agentopd.looking.report import write_report
from agentopd.running.config import ConfigError, RunConfig
from agentopd.running.reading import arm_config, load_config
from agentopd.running.studies.study import _arm, _untrained_of, compare, run_folder
from agentopd.running.train import train
from agentopd.stored.trajectories import load_trajectories

SMALL = [
    "steps=1",
    "rollout.tasks=4",
    "evaluate.episodes=4",
    "evaluate.every=0",
    "study.seeds=[3]",
    "study.arms={token: {}, grpo: {mix: rl, rollout: {tasks: 2, group: 2}, weight: gap_gate}}",
]


pytestmark = pytest.mark.usefixtures("warm_workers")


@pytest.fixture(scope="module")
def study(
    warm_workers: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunConfig, Path, dict[str, Any]]:
    config = load_config("configs/quickstart.yaml", SMALL)
    out = tmp_path_factory.mktemp("study") / "out"
    seen: list[tuple[str, int, int]] = []
    summary = compare(
        config, out, watch=lambda arm, seed, line: seen.append((arm, seed, line["step"]))
    )
    write_report(out)
    assert sorted(seen) == [("grpo", 3, -1), ("grpo", 3, 0), ("token", 3, -1), ("token", 3, 0)]
    return config, out, summary


def test_the_summary_is_what_lies_in_the_folder(
    study: tuple[RunConfig, Path, dict[str, Any]],
) -> None:
    _, out, summary = study
    assert json.loads((out / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert list(summary["arms"]) == ["token", "grpo"]
    assert (out / "report.html").stat().st_size > 10_000


def test_every_run_keeps_the_outcome_of_each_test_task(
    study: tuple[RunConfig, Path, dict[str, Any]],
) -> None:
    config, out, summary = study
    for arm in summary["arms"].values():
        for run in arm["runs"]:
            lines = (out / run["folder"] / "metrics.jsonl").read_text().splitlines()
            assert json.loads(lines[-1])["evaluation"]["outcomes"] == run["outcomes"]
            assert len(run["outcomes"]) == config.evaluate.episodes
            assert run["outcomes"].count("1") / 4 == run["success_after"]


def test_habits_are_measured_once_on_the_test_tasks(
    study: tuple[RunConfig, Path, dict[str, Any]],
) -> None:
    config, out, summary = study
    assert [habit["kind"] for habit in summary["habits"]] == ["random", "constant", "mixture"]
    assert {habit["episodes"] for habit in summary["habits"]} == {config.evaluate.episodes}
    assert "random legal action" in (out / "report.html").read_text()


def test_what_changes_nothing_in_an_arm_is_part_of_the_study(
    study: tuple[RunConfig, Path, dict[str, Any]],
) -> None:
    _, out, summary = study
    told = {name: arm["notices"] for name, arm in summary["arms"].items()}
    assert told["token"] == []
    assert [notice.partition(",")[0] for notice in told["grpo"]] == [
        "weight: gap_gate changes nothing under mix: rl"
    ]
    assert "grpo: weight: gap_gate changes nothing" in (out / "report.html").read_text()


def test_every_arm_spends_the_same_episodes_from_the_same_start(
    study: tuple[RunConfig, Path, dict[str, Any]],
) -> None:
    arms = study[2]["arms"].values()
    assert {arm["episodes"] for arm in arms} == {4}
    assert len({arm["success_before"] for arm in arms}) == 1
    assert arms and all(
        arm["interval"][0] <= arm["success_after"] <= arm["interval"][1] for arm in arms
    )


def test_only_the_arm_with_a_teacher_spends_teacher_tokens(
    study: tuple[RunConfig, Path, dict[str, Any]],
) -> None:
    arms = study[2]["arms"]
    assert arms["token"]["teacher_tokens"] > arms["token"]["student_tokens"] > 0
    assert arms["grpo"]["teacher_tokens"] == 0
    assert arms["grpo"]["dead_groups"] is not None and arms["token"]["dead_groups"] is None


def test_the_seeds_skipped_steps_are_summed_by_their_reason(
    study: tuple[RunConfig, Path, dict[str, Any]], tmp_path: Path
) -> None:
    config, out, summary = study
    assert summary["arms"]["token"]["skipped"] == {}
    assert config.study is not None
    for seed, skipped in {3: {"dead": 1, "broken": 2}, 4: {"dead": 5}}.items():
        folder = run_folder(tmp_path, "token", seed)
        shutil.copytree(run_folder(out, "token", 3), folder)
        own = json.loads((folder / "summary.json").read_text()) | {"skipped": skipped}
        (folder / "summary.json").write_text(json.dumps(own))
    both = config.model_copy(update={"study": config.study.model_copy(update={"seeds": (3, 4)})})
    assert _arm(both, tmp_path, "token")["skipped"] == {"dead": 6, "broken": 2}


def test_a_group_plays_one_level(study: tuple[RunConfig, Path, dict[str, Any]]) -> None:
    played = load_trajectories(
        run_folder(study[1], "grpo", 3) / "trajectories" / "step-00000.parquet"
    )
    levels = [t.prompt["task_id"] for t in played]
    assert levels[0] == levels[1] != levels[2] == levels[3]


def test_resuming_a_finished_study_changes_nothing(
    study: tuple[RunConfig, Path, dict[str, Any]],
) -> None:
    config, out, summary = study
    again = compare(config, out, resume=True)
    assert again["arms"] == json.loads(json.dumps(summary["arms"]))


def test_what_a_kill_took_from_the_ends_of_runs_is_measured_again(
    study: tuple[RunConfig, Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Killed before its summary, a run has none; resumed by earlier versions, an empty one."""
    config, out, summary = study
    shutil.copytree(out, tmp_path / "out")
    (run_folder(tmp_path / "out", "grpo", 3) / "summary.json").unlink()
    empty = run_folder(tmp_path / "out", "token", 3) / "summary.json"
    told = json.loads(empty.read_text()) | {"success_after": None, "evaluation": {}}
    empty.write_text(json.dumps(told))
    again = compare(config, tmp_path / "out", resume=True)

    def without_clock(arms: dict[str, Any]) -> dict[str, Any]:
        arms = json.loads(json.dumps(arms))
        for arm in arms.values():
            del arm["seconds"]
            for run in arm["runs"]:
                for point in run["curve"]:
                    del point["seconds"]
        return arms

    assert without_clock(again["arms"]) == without_clock(summary["arms"])


def test_students_that_play_other_tasks_are_measured_apart() -> None:
    config = load_config("configs/quickstart.yaml")

    def asked(**changes: Any) -> str:
        return _untrained_of(arm_config(config, "skill", 0).model_copy(update=changes))

    more = config.rollout.model_copy(update={"tasks": 1, "group": 9})
    assert asked() == asked(seed=7, steps=1, rollout=more)
    for other in (
        {"rollout": config.rollout.model_copy(update={"max_turn_tokens": 3})},
        {"rollout": config.rollout.model_copy(update={"temperature": 0.5})},
        {"evaluate": config.evaluate.model_copy(update={"episodes": 3})},
        {"student": config.student.model_copy(update={"path": "zoo:sokoban-cliff"})},
        {"env": config.env.model_copy(update={"options": {}})},
        {"threads": 7},
    ):
        assert asked(**other) != asked(), other


def test_another_study_is_not_overwritten(study: tuple[RunConfig, Path, dict[str, Any]]) -> None:
    config, out, _ = study
    with pytest.raises(ConfigError, match="holds something already"):
        compare(config, out)
    other = load_config("configs/quickstart.yaml", [*SMALL, "steps=2"])
    with pytest.raises(ConfigError, match="other settings"):
        compare(other, out, resume=True)


def test_a_mistake_in_an_arm_is_found_before_anything_runs(tmp_path: Path) -> None:
    config = load_config("configs/quickstart.yaml", ["study.arms={wrong: {unit: trun}}"])
    with pytest.raises(ConfigError, match=r"arm wrong: unit: .*'turn'"):
        compare(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_configuration_without_a_study_is_told_so(tmp_path: Path) -> None:
    config = load_config("configs/quickstart.yaml", ["study=null"])
    with pytest.raises(ConfigError, match="no study"):
        compare(config, tmp_path / "out")


@pytest.mark.parametrize("name", ["quickstart", "studies/cliff", "studies/live_teacher"])
def test_the_arms_of_a_shipped_study_play_equal_episodes(name: str) -> None:
    config = load_config(f"configs/{name}.yaml")
    assert config.study is not None
    episodes = {arm_config(config, arm, 0).rollout.episodes for arm in config.study.arms}
    assert len(episodes) == 1


def test_a_run_is_not_resumed_in_the_folder_of_a_study_nor_the_other_way_round(
    study: tuple[RunConfig, Path, dict[str, Any]],
) -> None:
    config, out, _ = study
    with pytest.raises(ConfigError, match="no run to resume"):
        train(config, out, resume=True)
    with pytest.raises(ConfigError, match="no study to resume"):
        compare(config, run_folder(out, "token", 3), resume=True)
