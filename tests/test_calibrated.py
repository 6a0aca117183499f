"""CaOPD: last answers that close with the share of their group that was solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import ENV, Scene, run_of, scene_of

from agentopd.base.types import EndReason, Owner, Trajectory, Turn
from agentopd.learning.method import AXES
from agentopd.models.chat import ChatTemplate, Conversation
from agentopd.rollout.acting.confidence import closed, longest_line
from agentopd.rollout.policies.student import StudentRollout
from agentopd.running.reading import parse_config
from agentopd.running.run import Run

SMALL = ("rollout.tasks=1", "rollout.group=8", "rollout.max_turns=2", "evaluate.episodes=1")


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of(tiny_model, tmp_path_factory.mktemp("caopd") / "run", "method=caopd", *SMALL)


def _answered(
    template: ChatTemplate, *answers: str, tail: str = "", cut: bool = False
) -> Trajectory:
    """An episode whose answers are these, of log-probability -1; `tail` is what nobody answers."""
    said = Conversation(template, frozenset({template.closing}))
    turns = []
    for index, answer in enumerate(answers):
        said.begin("rules", "a board", []) if not index else said.observe("another")
        ids = [*template.encode_content(answer), *([] if cut else [template.closing])]
        _, start = said.answer(ids, [-1.0] * len(ids), Owner.STUDENT)
        turns.append(
            Turn(
                index=index, observation="", action=answer, start=start, act=start,
                stop=start + len(ids), cut=cut, reward=0.0, info={},
            )
        )  # fmt: skip
    if tail:
        said.observe(tail)
    return said.trajectory(turns, EndReason.TERMINATED, env="e", episode=0, task=0, seed=0)


def _last(trajectory: Trajectory, template: ChatTemplate) -> str:
    turn = trajectory.turns[-1]
    return template.decode(trajectory.ids[turn.start : turn.stop - 1].tolist())


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("<action>up</action>", "<action>up</action>"),
        ("up.\nConfidence: 0.9", "up."),
        ("up\nconfidence: 90 %\n", "up"),
        ("Confidence: 0.9\nup", "Confidence: 0.9\nup"),  # which closes nothing
        ("overconfidence: 0.9", "overconfidence: 0.9"),
        ("Confidence: 1.0", ""),
        ("up\n", "up"),
    ],
)
def test_the_line_closes_the_last_answer_alone(run: Run, answer: str, kept: str) -> None:
    template = run.template
    before = _answered(template, "down\nConfidence: 0.3", answer)
    after = closed(before, 0.25, template)
    assert _last(after, template) == f"{kept}\nConfidence: 0.25"
    first, own = before.turns[0], after.turns[-1]
    same = own.start + len(template.encode_content(kept))
    np.testing.assert_array_equal(after.ids[: first.stop], before.ids[: first.stop])
    np.testing.assert_array_equal(after.ids[:same], before.ids[:same])
    np.testing.assert_array_equal(after.owner[:same], before.owner[:same])
    assert after.ids[-1] == template.closing and own.stop == len(after.ids)
    assert after.messages[-1].stop == own.stop - 1
    assert after.segments == ((0, len(after.ids)),)


def test_what_was_put_there_was_sampled_by_nobody(run: Run) -> None:
    """The line and the token behind it are learnt, and have no log-probability."""
    after = closed(_answered(run.template, "up\nConfidence: 0.9"), 1.0, run.template)
    added = after.owner == Owner.DEMO
    text = run.template.decode(after.ids[added][:-1].tolist())
    assert text == "Confidence: 1.00"  # the line break was the student's
    assert after.trainable[added].all() and np.isnan(after.logprob[added]).all()
    student = after.owner == Owner.STUDENT
    assert (after.logprob[student] == -1).all() and after.ids[-1] == run.template.closing
    assert added[-1]


def test_what_nobody_answered_to_is_left_out(run: Run) -> None:
    plain = _answered(run.template, "up")
    after = closed(_answered(run.template, "up", tail="a last board"), 0.5, run.template)
    expected = closed(plain, 0.5, run.template)
    np.testing.assert_array_equal(after.ids, expected.ids)
    assert after.messages == expected.messages


def test_an_answer_that_was_cut_stays_as_it_is(run: Run) -> None:
    cut = _answered(run.template, "up", cut=True)
    assert closed(cut, 0.5, run.template) is cut


def _played(run: Run, solved: Sequence[int]) -> list[Trajectory]:
    """What the student plays, of which some is solved."""
    rollout = run.config.rollout
    alone = StudentRollout.model_validate(dict(rollout))
    found = alone.collect(run.config.env, run.student, run.sampler.current(), 0, 0)
    return [
        replace(t, turns=(*t.turns[:-1], _ended(t.turns[-1], n in solved)))
        for n, t in enumerate(found)
    ]


def _ended(turn: Turn, solved: bool) -> Turn:
    return replace(turn, info={**turn.info, "success": solved}, cut=False)


def test_two_of_eight_solved_is_a_confidence_of_a_quarter(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the answers that are learnt, in the demonstration, and in the note beside it; what could
    not be played counts nowhere.
    """
    given = _played(run, (2, 5))
    broken = replace(given[0], episode=99, end=EndReason.ERROR, error="no board")
    monkeypatch.setattr(StudentRollout, "collect", lambda *_: [*given, broken])
    step = run.roll_out(0)
    assert [_last(t, run.template).endswith("\nConfidence: 0.25") for t in step[:8]] == [True] * 8
    assert step[8] is broken
    lessons = run.ask_teacher(step, 0)
    for lesson in lessons:
        assert lesson.view is not None
        example, note = lesson.view.briefed.privileges
        assert "\nConfidence: 0.25\n" in example.text and example.source == "demonstration"
        assert note.text.startswith("2 of 8") and note.text.endswith("\nConfidence: 0.25")
    update = run.learn(step, lessons, 0)
    assert update.loss is not None and update.scalars["gradient_norm"] > 0


def test_contexts_leave_room_for_the_line(run: Run) -> None:
    rollout = run.config.rollout.model_copy(update={"max_context": 200})
    played = rollout.collect(run.config.env, run.student, run.sampler.current(), 0, 0)
    assert max(len(t.ids) for t in played) <= 200
    lengths = [len(run.template.encode_content(f"\nConfidence: {n / 8:.2f}")) for n in range(9)]
    assert longest_line(8, run.template) == max(lengths)


def test_no_ratio_enters(scene: Scene) -> None:
    """With tokens that nobody sampled the gradient is sdft's on the same ids."""
    edited = []
    for lesson in scene.lessons:
        own = lesson.trajectory
        added = np.arange(len(own.ids)) >= len(own.ids) - 2
        owner = np.where(added, Owner.DEMO, own.owner).astype(np.uint8)
        logprob = np.where(added, np.nan, own.logprob).astype(np.float32)
        edited.append(replace(lesson, trajectory=replace(own, owner=owner, logprob=logprob)))
    same = ("rollout.tasks=2", "rollout.group=4")
    found = scene.gradient(
        "method=caopd", *same, lessons=edited, trajectories=[x.trajectory for x in edited]
    )
    assert torch.equal(found, scene.gradient("method=sdft", *same))


def test_without_the_line_it_is_sdft() -> None:
    plain = ("rollout={kind: student}", "privilege=[{kind: demonstration}]")
    rows = [parse_config(ENV, [f"method={name}", *plain]) for name in ("caopd", "sdft")]
    found, expected = ({axis: x.model_dump(mode="json")[axis] for axis in AXES} for x in rows)
    assert found == expected


@pytest.mark.parametrize(
    "overrides",
    [
        "divergence={kind: reverse_kl, support: sampled}",
        "weight=[truncated_ratio]",
        "weight=[early_tokens]",
        "mix=rl",
    ],
)
def test_what_learns_from_samples_is_refused(overrides: str) -> None:
    with pytest.raises(ValueError, match="calibrated gives"):
        parse_config(ENV, ["method=caopd", overrides])
