"""TurnOPD: how deep episodes are played, by hand; and tokens that give way to turns."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from killed import assert_same_runs, lines_of
from scenes import ENV, Scene, assert_same, scene_of
from trajectories import played

from agentopd.base.stopping import Interrupted
from agentopd.base.types import EndReason
from agentopd.looking.report.data import read_steps
from agentopd.probes.rollout import depths
from agentopd.running.reading import parse_config
from agentopd.running.train import train
from agentopd.signal.schedules import DepthController

WHOLE: dict[str, Any] = {"every": 1, "warmup": 1, "solved": 1}
PLAIN = DepthController(every=4, warmup=1, solved=1, smoothing=1)


def _seen(
    divergence: Sequence[float | None], episodes: list[int], solved: list[int]
) -> dict[str, Any]:
    return {"depth": {"divergence": divergence, "episodes": episodes, "solved": solved}}


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


@pytest.mark.parametrize(
    ("divergence", "episodes", "solved", "turns"),
    [
        ([1.0, 3.0], [4, 2], [1, 0], 2),  # masses 1 and 1.5: 0.6 rounds to turn 1
        ([1.0, 1.0], [4, 1], [1, 0], 2),  # 0.2 rounds to turn 0, and two turns are the least
        ([0.0, 0.0, 1.0], [4, 4, 4], [1, 0, 0], 3),
        ([-9.0, None, 1.0], [4, 4, 1], [1], 3),  # none and less than none counts nothing
        ([0.0, 0.0], [4, 4], [1, 0], 2),
        ([1.0, 0.0, 0.0, 0.0], [9] * 4, [0, 7, 1, 2], 3),  # 8 of 10 were over by turn 2
        ([1.0, 0.0, 0.0, 0.0], [9] * 4, [0, 7, 0, 3], 4),
    ],
)
def test_depths_by_hand(
    divergence: list[float | None], episodes: list[int], solved: list[int], turns: int
) -> None:
    assert PLAIN.factor(1, [_seen(divergence, episodes, solved)]) == turns


def test_whole_episodes_come_first_and_every_eighth_step() -> None:
    """Between them two turns, once a step has shown that more is not needed."""
    row = DepthController()
    past = [_seen([1.0, 0.0], [9, 9], [9, 0])] * 20
    found = [row.factor(step, past[:step]) for step in range(18)]
    assert [step for step, turns in enumerate(found) if turns == 50] == [0, 1, 2, 8, 16]
    assert set(found) == {50, 2}


def test_steps_that_were_stopped_early_move_nothing() -> None:
    deep, shallow = _seen([0, 0, 0, 1.0], [4] * 4, [0, 0, 0, 4]), _seen([1.0], [4], [4])
    past = [deep, shallow, shallow, shallow]
    assert [PLAIN.factor(step, past[:step]) for step in range(4)] == [50, 4, 4, 4]
    assert PLAIN.factor(5, [*past, shallow]) == 2  # the fifth step was whole


def test_few_solved_episodes_leave_the_depth_as_it_was() -> None:
    row = DepthController(every=2, warmup=1, solved=8, smoothing=1)
    few, enough = _seen([1.0], [9], [7]), _seen([1.0, 1.0, 1.0], [9] * 3, [0, 0, 8])
    assert row.factor(1, [few]) == 50
    assert row.factor(3, [enough, few, few]) == 3
    assert row.factor(3, [enough, few, {"success": 1.0}]) == 3  # nothing is known of that step


def test_depths_are_averaged_over_the_past() -> None:
    """Depths 10, 0 and 0 at 0.3: 10, 7, 4.9, which is five, and one turn further."""
    row = DepthController(every=1, warmup=1, solved=1)
    far, near = _seen([0.0] * 10 + [1.0], [4] * 11, [4]), _seen([1.0], [4], [4])
    between = row.model_copy(update={"every": 2})
    assert between.factor(5, [far, near, near, near, near, near]) == 6
    assert between.factor(1, [far]) == 11


def test_depths_are_counted_from_what_was_played() -> None:
    solved = [{}, {"success": True}]
    step = [
        played([5], [6], infos=solved, episode=0),
        played([5], episode=1),
        played([5], [6], [7], episode=2),
        played([5], [6], [7], episode=3, end=EndReason.ERROR),
    ]
    found = depths(step, {"divergence": [0.5, 0.25, None]})
    assert found == {"divergence": [0.5, 0.25, None], "episodes": [3, 2, 1], "solved": [0, 1, 0]}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("method=opd", "schedule.distil=depth_controller"), "counts turns"),
        (("method=turn_opd", "divergence.support=sampled"), "support other than sampled"),
        (("method=turn_opd", "probe.enabled=false"), "probe.enabled"),
        (("method=turn_opd", "schedule.turns.least=60"), "more than most"),
        (("method=turn_opd", "unit.normalise=token_mean"), "set both"),
        (("method=opd", "unit.normalise=blend"), "set both"),
        (("method=turn_opd", "schedule.blend.stop=2"), "it is a share"),
    ],
)
def test_what_cannot_be_followed_is_refused(overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_config(ENV, [*overrides])


@pytest.mark.parametrize(("share", "mean"), [(0, "token_mean"), (1, "turn_mean")])
def test_blend_ends_in_the_two_means(scene: Scene, share: float, mean: str) -> None:
    """With episodes as long as can be, turn_opd is opd by either."""
    found = scene.gradient("method=turn_opd", f"schedule.blend={{kind: constant, value: {share}}}")
    assert_same(found, scene.gradient("method=opd", f"unit.normalise={mean}"))


def test_blend_goes_from_one_mean_to_the_other(scene: Scene) -> None:
    row = ("method=turn_opd", "schedule.blend={kind: constant, value: 0.25}")
    by_token, by_turn = (
        scene.gradient("method=opd", f"unit.normalise={mean}")
        for mean in ("token_mean", "turn_mean")
    )
    assert (by_turn - by_token).norm() > 1e-2 * by_token.norm()
    assert_same(scene.gradient(*row), 0.75 * by_token + 0.25 * by_turn)


def test_a_run_that_goes_on_is_as_deep_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    """Stopped before the depth that its first step has shown was used."""
    turns = "{kind: depth_controller, warmup: 1, every: 3, solved: 1, least: 1}"
    env = {
        "id": "agentopd/Sokoban-v0",
        "options": {"prompt": "brief", "min_moves": 1, "max_moves": 1},
    }
    data = {"student": {"path": "zoo:sokoban-easy"}, "env": env, "steps": 3, "threads": 1}
    small = [
        "rollout.tasks=6",
        "rollout.max_turns=6",
        "evaluate.episodes=1",
        f"schedule.turns={turns}",
    ]
    config, stop = parse_config(data, ["method=turn_opd", *small]), threading.Event()
    train(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(
            config,
            tmp_path / "stopped",
            watch=lambda x: stop.set() if x["step"] == 0 else None,
            stop=stop,
        )
    train(config, tmp_path / "stopped", resume=True)
    assert_same_runs(tmp_path / "stopped", tmp_path / "whole")
    lines = lines_of(tmp_path / "whole")
    reached = [len(line["depth"]["episodes"]) for line in lines[1:]]
    assert reached[1] == reached[2] < reached[0] == 6
    shown = read_steps(tmp_path / "whole" / "metrics.jsonl")
    assert [step.train["turns"] for step in shown[1:]] == [x["train"]["turns"] for x in lines[1:]]
