"""Weights of where tokens stand, and of whole turns and episodes, against numbers worked out by
hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from trajectories import evidence_of, opinion_of, played

from agentopd.base.types import Briefed, Lesson, Message, Privilege, Trajectory, View
from agentopd.signal.evidence import Evidence
from agentopd.weights.base import Weight
from agentopd.weights.episode import EarlyTokens, Spike, StudentPerplexity, TeacherPerplexity
from agentopd.weights.place import DepthCurriculum, DepthDecay, PhraseMask, SkipFirst, Told

THREE_TURNS = played([0, 0], [0], [0, 0, 0])


def _unasked(step: int = 0) -> Evidence:
    said = opinion_of([0.5] * 6)
    return evidence_of(said, said, THREE_TURNS, step=step)


def test_depth_decays_by_turn() -> None:
    found = DepthDecay(gamma=0.5, renormalise=False).of(_unasked())
    assert found.tolist() == [1, 1, 0.5, 0.25, 0.25, 0.25]


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        (0, [1, 1, 0, 0, 0, 0]),
        (1, [1, 1, 0, 0, 0, 0]),
        (2, [1, 1, 1, 0, 0, 0]),
        (4, [1, 1, 1, 1, 1, 1]),
        (99, [1, 1, 1, 1, 1, 1]),
    ],
)
def test_the_curriculum_goes_a_turn_deeper_every_two_steps(step: int, wanted: list[float]) -> None:
    assert DepthCurriculum().of(_unasked(step)).tolist() == wanted


def test_the_curriculum_starts_and_stops_where_it_is_told() -> None:
    weight = DepthCurriculum(start=2, every=1, most=2)
    assert [weight.of(_unasked(step)).sum().item() for step in (0, 9)] == [3, 3]
    assert DepthCurriculum(start=3, most=1).of(_unasked()).sum().item() == 2


@pytest.mark.parametrize(
    ("weight", "wanted"),
    [
        (SkipFirst(tokens=1), [0, 1, 0, 0, 1, 1]),
        (SkipFirst(tokens=2), [0, 0, 0, 0, 0, 1]),
        (SkipFirst(tokens=4, per="episode"), [0, 0, 0, 0, 1, 1]),
        (SkipFirst(tokens=0), [1, 1, 1, 1, 1, 1]),
        (SkipFirst(tokens=9), [0, 0, 0, 0, 0, 0]),
    ],
)
def test_the_first_tokens_are_skipped(weight: SkipFirst, wanted: list[float]) -> None:
    found = weight.model_copy(update={"renormalise": False}).of(_unasked())
    assert found.tolist() == wanted


def _shown(trajectory: Trajectory, inserted: Sequence[int], before: int) -> Lesson:
    """A lesson whose teacher saw `inserted` before a position of the student's ids."""
    position = np.arange(len(trajectory.ids))
    position[before:] += len(inserted)
    view = View(
        briefed=Briefed(trajectory=trajectory, privileges=()),
        ids=np.insert(trajectory.ids, before, inserted),
        position=position,
        segments=((0, len(trajectory.ids) + len(inserted)),),
    )
    return Lesson(trajectory=trajectory, view=view)


def _masked(length: int, *lessons: Lesson) -> list[float]:
    said = opinion_of([0.5] * sum(int(x.trajectory.trainable.sum()) for x in lessons))
    evidence = evidence_of(said, said, *lessons)
    return PhraseMask(length=length, renormalise=False).of(evidence).tolist()


# "7 8 9" is what the teacher was told.
TALK = played([5, 7, 8, 9, 6], [8, 9], [7, 8])


def _told(lesson: Lesson, *told: tuple[str, int | None]) -> Lesson:
    """A lesson in which each of these sources spoke of that turn."""
    assert lesson.view is not None
    said = tuple(Privilege(source=source, text="so", turn=turn) for source, turn in told)
    briefed = replace(lesson.view.briefed, privileges=said)
    return replace(lesson, view=replace(lesson.view, briefed=briefed))


@pytest.mark.parametrize(
    ("told", "sources", "wanted"),
    [
        ([("a", 1)], (), [0, 0, 0, 0, 0, 1, 1, 0, 0]),
        ([("a", 1), ("b", 2)], ("b",), [0, 0, 0, 0, 0, 0, 0, 1, 1]),
        ([("a", 1), ("b", None)], (), [1] * 9),
        ([("a", 1), ("b", None)], ("a",), [0, 0, 0, 0, 0, 1, 1, 0, 0]),
        ([], (), [0] * 9),
    ],
)
def test_turns_of_which_nothing_was_told_do_not_teach(
    told: list[tuple[str, int | None]], sources: tuple[str, ...], wanted: list[int]
) -> None:
    lesson = _told(_shown(TALK, [7], before=1), *told)
    said = opinion_of([0.5] * 9)
    weight = Told(sources=sources, renormalise=False)
    assert weight.of(evidence_of(said, said, lesson)).tolist() == wanted


def test_phrases_of_what_the_teacher_was_told_are_masked() -> None:
    lesson = _shown(TALK, [7, 8, 9], before=1)
    assert _masked(3, lesson) == [1, 0, 0, 0, 1, 1, 1, 1, 1]
    assert _masked(2, lesson) == [1, 0, 0, 0, 1, 0, 0, 0, 0]
    assert _masked(4, lesson) == [1] * 9
    # At one token, every mention.
    assert _masked(1, _shown(TALK, [8], before=1)) == [1, 1, 0, 1, 1, 0, 1, 1, 0]


def test_what_stands_around_the_insertion_is_no_part_of_a_phrase() -> None:
    # The teacher reads 3 3 7 8 9 2 6 7: neither 3 7 nor 9 2 is something that it alone was told.
    # Nor does the student say 7 8: the 8 is the next observation's.
    trajectory = played([2, 6, 7], [3, 7, 9, 2])
    trajectory.ids[:2], trajectory.ids[5:7] = 3, 8
    assert _masked(2, _shown(trajectory, [7, 8, 9], before=2)) == [1] * 7


def test_two_insertions_are_not_read_as_one() -> None:
    lesson = _shown(TALK, [7], before=1)
    assert lesson.view is not None
    ids, position = np.insert(lesson.view.ids, 3, [8]), lesson.view.position
    twice = replace(lesson.view, ids=ids, position=position + (position >= 3))
    assert np.array_equal(twice.ids[twice.position], TALK.ids)
    assert _masked(2, replace(lesson, view=twice)) == [1] * 9


def test_what_the_student_was_told_itself_is_not_masked() -> None:
    # The student's own first message holds "7 8"; the assistant's own words hide nothing.
    known = replace(
        TALK,
        ids=np.concatenate([[7, 8], TALK.ids[2:]]),
        messages=(
            Message(role="user", start=0, stop=2),
            Message(role="assistant", start=2, stop=7),
        ),
    )
    assert _masked(2, _shown(known, [7, 8, 9], before=2)) == [1, 1, 0, 0, 1, 0, 0, 1, 1]


def test_without_a_view_nothing_is_masked() -> None:
    both = (Lesson(trajectory=TALK), _shown(TALK, [7, 8, 9], before=1))
    assert _masked(3, *both) == [1] * 9 + [1, 0, 0, 0, 1, 1, 1, 1, 1]


# Geometric means of the probabilities: 1/4 in the first turn, 1/16 in the second.
PROBABILITIES = [1 / 2, 1 / 8, 1 / 16]


@pytest.mark.parametrize(
    ("weight", "wanted"),
    [
        (TeacherPerplexity(), [1 / 4, 1 / 4, 1 / 16]),
        (TeacherPerplexity(temperature=2.0), [1 / 2, 1 / 2, 1 / 4]),
        (TeacherPerplexity(most=8.0), [1 / 4, 1 / 4, 1 / 8]),
        (StudentPerplexity(), [4, 4, 16]),
        (StudentPerplexity(temperature=2.0), [2, 2, 4]),
        (StudentPerplexity(most=8.0), [4, 4, 8]),
        # 2 * 8 * 16 = 256, and its third root
        (StudentPerplexity(per="episode", renormalise=False), [256 ** (1 / 3)] * 3),
        (TeacherPerplexity(per="episode", renormalise=False), [256 ** (-1 / 3)] * 3),
    ],
)
def test_perplexities(weight: Weight, wanted: list[float]) -> None:
    sure, said = opinion_of([1.0] * 3), opinion_of(PROBABILITIES)
    pair = (said, sure) if isinstance(weight, StudentPerplexity) else (sure, said)
    evidence = evidence_of(*pair, played([0, 0], [0]))
    found = weight.model_copy(update={"renormalise": False}).of(evidence)
    assert found.tolist() == pytest.approx(wanted)


def _groups(per: str, routes: Sequence[float] = ()) -> list[float]:
    """Two episodes of one task, of perplexities 4 | 16, 2, and one of another task, of 8."""
    said = opinion_of([1 / 4, 1 / 16, 1 / 2, 1 / 8])
    lessons = [played([0]), played([0], [0], episode=1), played([0], task=1, episode=2)]
    evidence = evidence_of(opinion_of([1.0] * 4), said, *lessons, routes=routes)
    config = {"kind": "teacher_perplexity", "relative_to": "group", "renormalise": False}
    return Weight.model_validate({**config, "per": per}).of(evidence).tolist()


def test_perplexities_are_compared_within_the_task() -> None:
    """Episodes of 1/4 and 32^(-1/2); turns of 1/4, 1/16 and 1/2. A task's only one counts 1."""
    mean = (1 / 4 + 32**-0.5) / 2
    expected = [0.25 / mean, 32**-0.5 / mean, 32**-0.5 / mean, 1.0]
    assert _groups("episode") == pytest.approx(expected)
    mean = (1 / 4 + 1 / 16 + 1 / 2) / 3
    assert _groups("turn") == pytest.approx([0.25 / mean, 1 / 16 / mean, 0.5 / mean, 1.0])


def test_those_that_do_not_learn_from_the_teacher_are_not_compared_with() -> None:
    found = _groups("episode", routes=[1.0, 0.0, 0.0])
    assert found[0] == pytest.approx(1.0)
    assert found[3] == pytest.approx(1 / 8)


def test_what_is_compared_within_the_task_is_not_rescaled_within_the_episode() -> None:
    with pytest.raises(ValidationError, match="nothing would be left of the comparison"):
        StudentPerplexity(relative_to="group")


def test_perplexities_of_one_turn_are_rescaled_to_one() -> None:
    said = opinion_of(PROBABILITIES)
    assert StudentPerplexity().of(evidence_of(said, said, played([0] * 3))).tolist() == [1.0] * 3


# Surprises of log 2 and 0 in the first turn, of log 4 in the second.
SURPRISED = opinion_of([0.4, 0.8, 0.2], tops=[0.8] * 3)


@pytest.mark.parametrize(
    ("weight", "wanted"),
    [
        # mean exp(s) is 3/2, and 4; over the episode 7/3
        (Spike(per="turn"), [2 / 3, 2 / 3, 1 / 4]),
        (Spike(), [3 / 7] * 3),
        (Spike(strength=2.0), [9 / 49] * 3),
        # mean exp(2 s) is (4 + 1 + 16) / 3 = 7
        (Spike(beta=2.0), [7**-0.5] * 3),
        # The mean of s is log 2, its greatest log 4.
        (Spike(beta=1e-6), [1 / 2] * 3),
        (Spike(beta=1e6), [1 / 4] * 3),
    ],
)
def test_a_spike(weight: Spike, wanted: list[float]) -> None:
    evidence = evidence_of(SURPRISED, SURPRISED, played([0, 0], [0]))
    assert weight.of(evidence).tolist() == pytest.approx(wanted, rel=1e-4)


def test_no_surprise_has_no_spike_and_one_beyond_all_numbers_is_still_a_number() -> None:
    calm = opinion_of([0.6, 0.6], tops=[0.6, 0.6])
    far = replace(calm, logprob_N=calm.logprob_N.new_tensor([-900.0, -1.0]))
    trajectories = played([0, 0])
    assert Spike().of(evidence_of(calm, calm, trajectories)).tolist() == pytest.approx([1.0, 1.0])
    found = Spike(beta=5.0).of(evidence_of(far, calm, trajectories))
    assert found.isfinite().all() and found.max() < 1e-300


def _drifting(gaps: Sequence[float], *answers: Sequence[int]) -> Evidence:
    """Where the teacher's log-probability is off the behaviour's -1 by so much; the student's own
    is another by now.
    """
    teacher = opinion_of([math.exp(gap - 1) for gap in gaps])
    trajectories = [played(*answers, logprob=-1.0)]
    return evidence_of(opinion_of([0.9] * len(gaps)), teacher, *trajectories)


@pytest.mark.parametrize(
    ("weight", "gaps", "wanted"),
    [
        # Of a sum of 4, nothing, 1 and 3 have gone before.
        (EarlyTokens(), [1.0, -2.0, 1.0], [1.5, 1.375, 1.125]),
        (EarlyTokens(gamma=1.0), [0.0, 1.0, 0.0], [2.0, 2.0, 1.0]),
        # The second turn's sum starts anew.
        (EarlyTokens(per="turn"), [1.0, -2.0, 1.0], [1.5, 1 + 0.5 * 2 / 3, 1.5]),
        (EarlyTokens(), [0.0, 0.0, 0.0], [1.5, 1.5, 1.5]),
    ],
)
def test_early_tokens_count_more(
    weight: EarlyTokens, gaps: list[float], wanted: list[float]
) -> None:
    found = weight.model_copy(update={"renormalise": False}).of(_drifting(gaps, [0, 0], [0]))
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_one_token_is_as_early_as_can_be() -> None:
    assert EarlyTokens(renormalise=False).of(_drifting([0.5], [0])).tolist() == [1.5]
    assert EarlyTokens().of(_drifting([0.5], [0])).tolist() == [1.0]
