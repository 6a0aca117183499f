"""What is told of other episodes: solved peers, demonstrations, a later self, one's own attempt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scribes import attempts, told
from scripted import ScriptedEnv

from agentopd.base.types import Trajectory
from agentopd.privilege.demonstrations import Demonstration, NearFuture, OraclePrefix
from agentopd.privilege.peers import OwnAttempt, PeerSuccess
from agentopd.running.config import ConfigError
from agentopd.running.reading import parse_config
from agentopd.stored.trajectories import save_trajectories

ENV: dict[str, Any] = {"env": {"id": "agentopd/Sokoban-v0"}}


def _texts(source: PeerSuccess | Demonstration | OwnAttempt, *batch: Trajectory) -> list[Any]:
    return [None if x is None else [text for text, _ in x] for x in told(source, batch)]


def test_a_peer_that_solved_the_task_is_told_without_its_thoughts() -> None:
    batch = attempts(
        ["<think> why </think> up", "left"], ["down"], ["right"], ["up"], solved=[1, 0, 0, 0]
    )
    assert _texts(PeerSuccess(), *batch) == [None, ["Solution: up left"], None, None]


def test_a_tagged_action_alone_is_told() -> None:
    batch = attempts(["up"], ["down"], solved=[1, 0])
    turn = replace(batch[0].turns[0], action="hint <action> up </action> wait")
    batch[0] = replace(batch[0], turns=(turn,))
    assert _texts(PeerSuccess(), *batch)[1] == ["Solution: up"]


def test_the_whole_of_a_peer_is_told_turn_by_turn() -> None:
    batch = attempts(["<think> why </think> up", "left"], ["down"], solved=[1, 0])
    (text,) = _texts(PeerSuccess(form="episode"), *batch)[1]
    assert text.splitlines() == [
        "An attempt that solved the task:",
        "Turn 1, observation:", "> B1", "Turn 1, answer:", "> up",
        "Turn 2, observation:", "> B2", "Turn 2, answer:", "> left",
    ]  # fmt: skip


def test_actions_stand_apart_as_the_environment_writes_them() -> None:
    env = ScriptedEnv(("B1", {}), [])
    env.action_between = "; "
    source = PeerSuccess()
    source.enter(env)
    batch = attempts(["up", "left"], ["down"], solved=[1, 0])
    assert _texts(source, *batch)[1] == ["Solution: up; left"]


@given(st.lists(st.booleans(), min_size=2, max_size=8), st.booleans(), st.integers(0, 4))
def test_no_episode_is_told_its_own_success(solved: list[bool], causal: bool, kept: int) -> None:
    """Each episode's answer is its own number of words: what is told is another's."""
    episodes = attempts(*([f"up {'␣ left ' * n}"] for n in range(len(solved))), solved=solved)
    source = PeerSuccess(causal=causal, remember=kept)
    for _ in range(2):
        for trajectory, heard in zip(episodes, told(source, episodes), strict=True):
            own = trajectory.turns[0].action
            peers = [
                e.turns[0].action for e in episodes
                if e.task == trajectory.task and e.success and e.episode != trajectory.episode
            ]  # fmt: skip
            assert (heard is not None) == bool(peers)
            for text, _ in heard or ():
                said = text.partition(": ")[2]
                assert said in peers and said != own


def test_a_causal_peer_tells_nothing_of_what_it_did_later() -> None:
    batch = attempts(["up", "left", "down"], ["right", "right"], solved=[1, 0])
    assert told(PeerSuccess(causal=True), batch)[1] == [
        ("A solved attempt's turn 1: up", 0),
        ("A solved attempt's turn 2: left", 1),
    ]


def test_peers_are_told_of_the_chosen_episodes_alone() -> None:
    batch = attempts(["up"], ["left"], ["down"], ["right"], solved=[1, 1, 1, 0])
    assert _texts(PeerSuccess(when="failed"), *batch) == [None, None, None, ["Solution: down"]]


def test_a_solution_is_kept_until_its_task_comes_again() -> None:
    first = attempts(["up"], ["left"], solved=[1, 0])
    again = replace(attempts(["down"])[0], episode=9, task=5)
    source, other = PeerSuccess(remember=2), PeerSuccess(remember=2)
    assert _texts(source, first[0]) == [None], "its own is not told"
    other.restore(json.loads(json.dumps(source.state())))
    for restored in (source, other):
        assert _texts(restored, again) == [["Solution: up"]]
    assert _texts(PeerSuccess(remember=2), again) == [None]


def test_only_so_many_tasks_are_kept() -> None:
    batch = attempts(["up"], ["up"], ["left"], ["left"], solved=[1, 0, 1, 0])
    source = PeerSuccess(remember=1)
    source.learn(batch)
    assert list(source.state()["kept"]) == ["task 1"]


def test_a_peer_needs_groups() -> None:
    with pytest.raises(ConfigError, match=r"set rollout\.group to 2 or more"):
        parse_config(ENV, ["privilege=peer_success"])
    for changes in (["rollout.group=2"], ["privilege={kind: peer_success, remember: 5}"]):
        parse_config(ENV, ["privilege=peer_success", *changes])


def test_an_attempt_is_told_with_its_end_and_known_to_quote() -> None:
    batch = attempts(["<think> why </think> up", "left"], ["down"], solved=[1, 0])
    assert _texts(OwnAttempt(), *batch) == [
        ["Attempt, solved: up left"],
        ["Attempt, not solved: down"],
    ]
    heard = OwnAttempt().whisper(batch[0], batch)
    assert heard is not None and heard[0].quotes


def test_the_environments_solution_is_an_example() -> None:
    (known,) = attempts(["up"], reference="up left up")
    assert _texts(Demonstration(), known) == [
        ["Solution: up left up\nThis is one example of an answer. Give one of your own."]
    ]
    assert _texts(Demonstration(), *attempts(["up"])) == [None]
    assert Demonstration().reads == "reference"


@pytest.mark.parametrize(("share", "plan"), [(0.25, "a"), (0.5, "a b"), (0.51, "a b c")])
def test_an_oracle_prefix_is_how_a_solution_begins(share: float, plan: str) -> None:
    (known,) = attempts(["up"], reference="a b c d")
    assert _texts(OraclePrefix(share=share), known) == [[f"Solution begins: {plan}"]]
    assert OraclePrefix().share == 0.25, "the paper's most"


def test_a_plan_that_is_one_action_is_told_whole() -> None:
    env = ScriptedEnv(("B1", {}), [])
    env.action_between = None
    source = OraclePrefix()
    source.enter(env)
    (known,) = attempts(["up"], reference="first open the door")
    assert _texts(source, known) == [["Solution begins: first open the door"]]


def test_demonstrations_come_from_a_folder_of_episodes(tmp_path: Path) -> None:
    saved = attempts(["up", "left"], ["down"], ["right"], ["right"], solved=[0, 1, 0, 0])
    (tmp_path / "run" / "trajectories").mkdir(parents=True)
    save_trajectories(saved, tmp_path / "run" / "trajectories" / "step-00000.parquet")
    same, other = replace(saved[0], episode=7), replace(saved[2], episode=8)
    path = str(tmp_path / "run")
    assert _texts(Demonstration(path=path), same, other)[1] is None, "nobody solved it"
    assert _texts(NearFuture(path=path), same) == [["Solution: down"]]
    (text,) = _texts(Demonstration(path=path, form="episode"), same)[0]
    assert text.endswith("Turn 1, observation:\n> B1\nTurn 1, answer:\n> down")


def test_of_a_whole_episode_no_more_than_the_share_is_told(tmp_path: Path) -> None:
    saved = attempts(["up", "left", "down", "right"], solved=[1])
    save_trajectories(saved, tmp_path / "step-00000.parquet")
    source = OraclePrefix(path=str(tmp_path), form="episode", share=0.26)
    (text,) = _texts(source, replace(saved[0], episode=7))[0]
    assert text.endswith("Turn 2, observation:\n> B2\nTurn 2, answer:\n> left")


def test_a_folder_without_episodes_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no episodes"):
        _texts(Demonstration(path=str(tmp_path)), *attempts(["up"]))


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: Demonstration(form="episode"), "holds actions alone"),
        (NearFuture, "name the folder of its episodes"),
        (lambda: OraclePrefix(share=0), "greater than 0"),
    ],
)
def test_what_nothing_could_be_told_of_is_refused(made: Any, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        made()
