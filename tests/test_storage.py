"""Trajectories, and what the models said of them, come back from disk as they were."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scripted import STRIPS_THINKING, ScriptedEnv, ends, play, play_one, says, toy_tokenizer
from trajectories import played

from agentopd.base.types import Briefed, EndReason, Lesson, Privilege, Trajectory, View
from agentopd.signal.evidence import Kept, Measured, Opinion
from agentopd.signal.scores import Scored, join_scores, split_scores
from agentopd.signal.tokens import Tokens
from agentopd.stored.scores import load_scores, save_scores
from agentopd.stored.trajectories import load_trajectories, save_trajectories

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
    assert [len(t.segments) for t in played] == [0, 1, 1, 1, 2]
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


def _opinion(tokens: int, seed: int, ranked: bool) -> Opinion:
    generator = torch.Generator().manual_seed(seed)
    logprob_N, entropy_N, top_N = torch.randn(3, tokens, generator=generator)
    rank_N = torch.randint(9, (tokens,), generator=generator) if ranked else None
    return Opinion(logprob_N=logprob_N, entropy_N=entropy_N, top_N=top_N, rank_N=rank_N)


def _told(trajectory: Trajectory) -> Lesson:
    """A lesson in whose view five privileged ids stand in front."""
    size = len(trajectory.ids)
    privileges = (
        Privilege(source="a", text='a "quoted"\nline, ünï'),
        Privilege(source="b", text="of the turn", turn=1),
    )
    view = View(
        briefed=Briefed(trajectory=trajectory, privileges=privileges),
        ids=np.concatenate([np.arange(5), trajectory.ids]),
        position=np.arange(size) + 5,
        segments=((0, size + 5),),
    )
    return Lesson(trajectory=trajectory, view=view, hidden_NH=torch.zeros(3, 2))


def _taught() -> tuple[list[Lesson], Measured]:
    """A micro-batch of five tokens of two episodes, of which everything is known."""
    lessons = [_told(played([3, 4], [5], episode=7)), _told(played([6, 8], episode=2))]
    kept = Kept(
        ids_NK=torch.arange(30).reshape(5, 6),
        student_NK=torch.randn(5, 6),
        teacher_NK=torch.full((5, 6), -torch.inf),
    )
    measured = Measured(
        student=_opinion(5, 1, ranked=True),
        teacher=_opinion(5, 2, ranked=True),
        reference=_opinion(5, 3, ranked=True),
        divergence_N=torch.tensor([0.1, 1e-30, 3.0, 0.0, 7.5], requires_grad=True),
        mass_N=torch.linspace(0, 1, 5),
        kept=kept,
    )
    return lessons, measured


def _numbers(record: object) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for field in fields(record):  # pyright: ignore[reportArgumentType]
        value = getattr(record, field.name)
        if isinstance(value, torch.Tensor):
            found[field.name] = value
        elif value is not None:
            found |= {f"{field.name}.{name}": x for name, x in _numbers(value).items()}
    return found


def _assert_same_numbers(found: Measured, expected: Measured) -> None:
    ours, theirs = _numbers(expected), _numbers(found)
    assert theirs.keys() == ours.keys()
    for name, tensor in ours.items():
        assert theirs[name].dtype == tensor.dtype, name
        assert torch.equal(theirs[name], tensor), name


def test_scores_of_a_micro_batch_come_apart_and_together() -> None:
    lessons, measured = _taught()
    tokens = Tokens.of(lessons, torch.device("cpu"))
    first, second = split_scores(measured, tokens, lessons, 50)
    assert first.measured.mass_N is not None and second.measured.mass_N is not None
    assert first.measured.mass_N.tolist() == [0, 0.25, 0.5]
    assert second.measured.mass_N.tolist() == [0.75, 1]
    assert first.lesson.hidden_NH is None
    assert not any(x.requires_grad for x in _numbers(first.measured).values())
    _assert_same_numbers(join_scores([first, second]), measured)


def test_fewer_of_the_likeliest_tokens_can_stay() -> None:
    """Three of the student's and three of the teacher's were kept: 0 1 2 and 3 4 5."""
    lessons, measured = _taught()
    tokens = Tokens.of(lessons, torch.device("cpu"))
    first, _ = split_scores(measured, tokens, lessons, 50, most=2)
    assert first.measured.kept is not None and measured.kept is not None
    assert first.measured.kept.ids_NK[0].tolist() == [0, 1, 3, 4]
    expected_NK = measured.kept.student_NK[:3, [0, 1, 3, 4]]
    assert torch.equal(first.measured.kept.student_NK, expected_NK)
    same, _ = split_scores(measured, tokens, lessons, 50, most=4)
    assert same.measured.kept is not None
    assert same.measured.kept.ids_NK.shape == (3, 6)


def _scored() -> list[Scored]:
    """Two taught episodes, and one that was learnt from its reward alone."""
    lessons, measured = _taught()
    scored = split_scores(measured, Tokens.of(lessons, torch.device("cpu")), lessons, 50)
    untold = Lesson(trajectory=played([1], episode=4))
    alone = Measured(student=_opinion(1, 4, ranked=False))
    return [*scored, Scored(lesson=untold, measured=alone, vocabulary=50)]


def test_scores_come_back_equal_in_every_number(tmp_path: Path) -> None:
    scored = _scored()
    trajectories = [one.lesson.trajectory for one in scored]
    path = tmp_path / "not" / "yet" / "there.parquet"
    save_scores(scored, path)
    loaded = load_scores(path, [*reversed(trajectories), played([9], episode=9)])
    for found, expected in zip(loaded, scored, strict=True):
        _assert_same_numbers(found.measured, expected.measured)
        assert found.vocabulary == 50
        assert found.taught == expected.taught
        assert found.lesson.trajectory is expected.lesson.trajectory
        view, own = found.lesson.view, expected.lesson.view
        assert (view is None) == (own is None)
        if view is not None and own is not None:
            assert view.briefed.privileges == own.briefed.privileges
            assert view.segments == own.segments
            np.testing.assert_array_equal(view.ids, own.ids)
            np.testing.assert_array_equal(view.position, own.position)


@pytest.mark.parametrize("chosen", [slice(0), slice(2, 3)])
def test_scores_of_nobody_and_without_a_teacher_are_files_too(
    tmp_path: Path, chosen: slice
) -> None:
    scored = _scored()[chosen]
    save_scores(scored, tmp_path / "a")
    found = load_scores(tmp_path / "a", [one.lesson.trajectory for one in scored])
    assert [one.taught for one in found] == [False] * len(scored)


def test_scores_that_are_not_there_or_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file of scores"):
        load_scores(tmp_path / "a", [])
    save_trajectories([], tmp_path / "a")
    with pytest.raises(ValueError, match="no column privileges, view_ids"):
        load_scores(tmp_path / "a", [])
    save_scores(_scored(), tmp_path / "b")
    with pytest.raises(ValueError, match="scores episode 7, which is not among"):
        load_scores(tmp_path / "b", [played([1], episode=4)])
