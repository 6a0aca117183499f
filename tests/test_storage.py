"""Trajectories come back from disk as they were."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scripted import STRIPS_THINKING, ScriptedEnv, ends, play, play_one, says, toy_tokenizer

from agentopd.storage import load_trajectories, save_trajectories
from agentopd.types import EndReason, Trajectory

INFO = {
    "action_valid": True,
    "feedback": 'a "quoted"\nline, ünï ∮ \U0001f600',
    "facts": {"box": [1, 2], "none": None},
    "metrics": {"pushes": 0.1},
}


def _played() -> list[Trajectory]:
    """Every kind of end, an empty record, two segments, a cut answer, each turn with much info."""
    tokenizer = toy_tokenizer()
    first = ("B1", {"task_id": "t", "reference": "up", "skill": "push"})
    envs = [
        ScriptedEnv(RuntimeError("no board"), []),
        ScriptedEnv(first, [says("B2", **INFO), ends(reward=0.1, **INFO)], "rules"),
        ScriptedEnv(first, [ends(terminated=False, truncated=True, reward=-1.5)]),
        ScriptedEnv(first, [KeyError("door")]),
    ]
    answers = [[], ["up up", "<think> so </think> left <|im_end|>"], ["up <|im_end|>"], ["up"]]
    thinking = ["<think> why </think> up <|im_end|>", "left <|im_end|>"]
    rewritten = play_one(["B1", "B2"], thinking, chat_template=STRIPS_THINKING, system="rules")
    return [*play(tokenizer, envs, answers)[0], replace(rewritten, seed=2**62, task=7, episode=9)]


def _assert_equal(found: Trajectory, expected: Trajectory) -> None:
    for field in fields(Trajectory):
        ours, theirs = getattr(expected, field.name), getattr(found, field.name)
        if isinstance(ours, np.ndarray):
            assert theirs.dtype == ours.dtype
            np.testing.assert_array_equal(theirs, ours, err_msg=field.name)
        else:
            assert type(theirs) is type(ours)
            assert theirs == ours, field.name


def test_a_round_trip_is_equal_in_every_field(tmp_path: Path) -> None:
    played = _played()
    assert {t.end for t in played} == {EndReason.ERROR, EndReason.TERMINATED, EndReason.TRUNCATED}
    assert [len(t.segments) for t in played] == [1, 1, 1, 1, 2]
    path = tmp_path / "not" / "yet" / "there.parquet"
    save_trajectories(played, path)
    for found, expected in zip(load_trajectories(path), played, strict=True):
        _assert_equal(found, expected)


def test_a_step_in_which_every_reset_failed_can_be_kept(tmp_path: Path) -> None:
    failed = _played()[:1]
    save_trajectories(failed, tmp_path / "a")
    _assert_equal(load_trajectories(tmp_path / "a")[0], failed[0])


def test_no_trajectories_are_a_file_too(tmp_path: Path) -> None:
    save_trajectories([], tmp_path / "a")
    assert load_trajectories(tmp_path / "a") == []


def test_any_mapping_can_be_kept(tmp_path: Path) -> None:
    played = _played()[1]
    turns = tuple(replace(turn, info=MappingProxyType(dict(turn.info))) for turn in played.turns)
    save_trajectories(
        [replace(played, turns=turns, prompt=MappingProxyType(dict(played.prompt)))], tmp_path / "a"
    )
    _assert_equal(load_trajectories(tmp_path / "a")[0], played)


def test_other_tools_can_read_the_summary_of_an_episode(tmp_path: Path) -> None:
    save_trajectories(_played(), tmp_path / "a")
    rows = pq.read_table(tmp_path / "a").to_pylist()
    assert [row["success"] for row in rows] == [False, True, False, False, True]
    assert [row["reward"] for row in rows] == [0.0, 0.1, -1.5, 0.0, 1.0]
    assert rows[0]["error"] == "RuntimeError: no board"
    assert json.loads(rows[1]["turns"])[0]["info"]["facts"] == INFO["facts"]


def test_what_is_not_there_or_holds_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no trajectory file"):
        load_trajectories(tmp_path / "a")
    missing = (
        "end, env, episode, error, logprob, messages, owner, prompt, seed, segments, task, turns"
    )
    table = pa.table({"ids": [[1]], "turn": [[0]]})
    pq.write_table(table, tmp_path / "a")
    with pytest.raises(ValueError, match=missing):
        load_trajectories(tmp_path / "a")
    (tmp_path / "b").write_text("text")
    with pytest.raises(ValueError, match="Parquet"):
        load_trajectories(tmp_path / "b")
