"""SD-Zero: an attempt, a phrase by how it ended, a revision; who learnt both teaches itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from retries import STUDENT, bits, collect, marked, of, text
from scenes import ENV, Scene, assert_same, run_of, scene_of
from scribes import attempts, told
from trajectories import lessons_of

from agentopd.base.types import Attempt, Owner, Trajectory
from agentopd.learning.method import AXES
from agentopd.mixes.attempts import Retried
from agentopd.privilege.base import Source
from agentopd.privilege.writing.earlier import Recalled, Recollection
from agentopd.rollout.policies.base import Rollout
from agentopd.running.config import RunConfig
from agentopd.running.reading import parse_config, stage_configs

TWICE: dict[str, Any] = {"stop": "never", "recalls": ["episode", "phrase"], "learn": ["later"]}
REVISED: dict[str, Any] = {**TWICE, "learn": ["later", "joined"]}


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


def _stages(*overrides: str) -> list[RunConfig]:
    config = parse_config(ENV, ["method=sd_zero", *overrides])
    return [stage for _, stage in stage_configs(config)]


def _answers(trajectory: Trajectory) -> list[int]:
    return [i for t in trajectory.turns for i in trajectory.ids[t.start : t.stop].tolist()]


def _joined(trajectory: Trajectory) -> Trajectory:
    """The same as another record, of which nobody sampled anything."""
    assert trajectory.attempt
    mark = replace(trajectory.attempt, kind="joined")
    episode, owner = trajectory.episode + 3_000, trajectory.trainable * int(Owner.DEMO)
    return replace(trajectory, episode=episode, attempt=mark, owner=owner.astype(np.uint8))


def test_both_attempts_are_one_answer_with_the_phrase_between() -> None:
    """In the plain history; nobody sampled it, and it is solved where the second attempt is."""
    found = collect(**REVISED)
    first, second, joined = of(found, 0), of(found, 1), of(found, 1, "joined")
    assert first.keys() == second.keys() == joined.keys()
    for attempts_ in (first, second):
        assert {t.success for t in attempts_.values()} == {True, False}
    for n, t in joined.items():
        phrase = STUDENT.template.encode_content("well\n" if first[n].success else "why\n")
        said = [*_answers(first[n]), *phrase, *_answers(second[n])]
        assert t.ids[t.trainable].tolist() == said
        assert text(t, "system") == "rules" != text(second[n], "system")
        shown = [turn.observation for one in (first[n], second[n]) for turn in one.turns]
        assert [turn.observation for turn in t.turns] == shown
        assert (t.success, t.reward) == (second[n].success, second[n].reward)
        assert set(t.owner[t.trainable]) == {Owner.DEMO} and np.isnan(t.logprob).all()
        assert not t.acts and not t.error and t.student_tokens == 0
    assert bits([t for t in found if t.acts]) == bits(collect(**TWICE))


def test_three_attempts_are_joined_two_by_two() -> None:
    found = collect(**REVISED, attempts=3)
    numbers = [t.episode for t in found]
    assert len(set(numbers)) == len(numbers)
    for n, t in of(found, 2, "joined").items():
        phrase = _answers(of(found, 1)[n])
        assert t.ids[t.trainable].tolist()[: len(phrase)] == phrase


def test_what_does_not_fit_into_a_context_is_not_joined() -> None:
    whole = collect(**REVISED)
    longest = max(len(t.ids) for t in whole if t.acts)
    assert longest + 8 < min(len(t.ids) for t in of(whole, 1, "joined").values())
    short = collect(**REVISED, max_context=longest + 8)
    assert bits(short) == bits([t for t in whole if t.acts])


def test_a_join_needs_a_second_attempt_and_who_imitates() -> None:
    with pytest.raises(ValueError, match="makes no next one"):
        Rollout.model_validate({"kind": "retry", "attempts": 1, "learn": ["first", "joined"]})
    with pytest.raises(ValueError, match="gives what others wrote"):
        parse_config(ENV, ["rollout={kind: retry, learn: [later, joined], group: 2}", "mix=rl"])


def test_the_first_stage_is_the_likelihood_of_what_became_right_both_ways(scene: Scene) -> None:
    """First attempts and what stays wrong are as if they had not been played."""
    firsts = [replace(t, trainable=np.zeros_like(t.trainable)) for t in marked(scene.trajectories)]
    second = marked(scene.trajectories, 1)
    joined = [_joined(t) for t in second]
    rollout = "rollout={kind: retry, learn: [later, joined]}"
    settings = (rollout, "mix={kind: nll, keep: {success: true}}")
    assert _stages()[0].mix == parse_config(ENV, list(settings)).mix
    found = scene.gradient(*settings, trajectories=[*firsts, *second, *joined], lessons=[])
    right = [t for t in (*second, *joined) if t.success]
    assert len(right) == 6
    plain = [replace(t, attempt=None) for t in right]
    assert_same(found, scene.gradient("mix=nll", trajectories=plain, lessons=[]))


def test_beside_rewards_what_became_right_is_made_likelier() -> None:
    mix, second = Retried(coefficient=0.3), marked(attempts(["up"], ["left"], solved=[1, 0]), 1)
    right, wrong = (_joined(t) for t in second)
    assert mix.chosen([right, wrong]) == [right]
    (route,) = mix.routes(lessons_of(right)).values()
    assert (route.rl, route.likelihood) == (0.0, 0.3)


@pytest.mark.parametrize("solved", [True, False])
def test_the_phrase_says_whether_it_was_solved(solved: bool) -> None:
    """And the teacher is told the very words that the next attempt would be."""
    (attempt,) = attempts(["up", "left"], solved=[solved])
    source, recall = Recalled(), Recollection(STUDENT.template)
    source.prepare(STUDENT.template)
    said = recall.told(attempt, {}, ("episode", "phrase"), 512)
    assert told(source, [attempt]) == [[(said, None)]]
    assert said.endswith(recall.phrase(attempt)) and "> up" in said
    assert ("Wait" in recall.phrase(attempt)) == (not solved)


def test_its_own_words_are_no_leak_and_are_counted() -> None:
    (attempt,) = attempts(["up ␣ left ␣ right ␣ wait ␣ up", "left"])
    source = Recalled()
    source.prepare(STUDENT.template)
    source.begin()
    source.write([attempt], [attempt])
    heard = source.whisper(attempt, [attempt])
    assert heard and heard[0].quotes and 0 < source.scalars()["copied"] < 1
    source.begin()
    assert source.scalars() == {}


def test_told_the_phrase_alone_the_second_stage_is_opsd_told_that() -> None:
    def axes(config: RunConfig) -> dict[str, Any]:
        return config.model_dump(mode="json", include={*AXES})

    for name in ("{kind: recalled, recalls: [phrase]}", "reflection"):
        ours = _stages(f"privilege=[{name}]")[1]
        divergence = "divergence={kind: reverse_kl, support: {kind: student_top_k, k: 64}}"
        opsd = parse_config(ENV, ["method=opsd", f"privilege=[{name}]", divergence])
        assert axes(ours) == axes(opsd)


def test_the_stages_follow_one_another() -> None:
    """Each begins with the student of the one before, frozen in it as its teacher."""
    legs = [leg for leg, _ in stage_configs(parse_config(ENV, ["method=sd_zero"]))]
    assert [leg.name for leg in legs] == ["srt", "distil", "distil"]
    assert {leg.stage.start for leg in legs} == {"previous"}
    first, second, _ = _stages()
    assert first.rollout.records == {"played", "joined"} and second.teacher.kind == "frozen"
    source: Source = second.privilege[0]
    assert isinstance(source, Recalled) and source.recalls == first.rollout.recalls  # type: ignore[attr-defined]


def test_in_its_second_stage_the_teacher_reads_the_attempt_it_judges(
    tiny_model: Path, tmp_path: Path
) -> None:
    row = "privilege=[recalled]", "divergence={kind: reverse_kl, support: student_top_k}"
    run = run_of(tiny_model, tmp_path / "run", *row, "rollout.tasks=2", "evaluate.episodes=1")
    step = run.roll_out(0)
    lessons = run.ask_teacher(step, 0)
    for lesson in lessons:
        assert lesson.view is not None
        (heard,) = lesson.view.briefed.privileges
        action = lesson.trajectory.turns[0].action.splitlines()[0]
        assert f"> {action}" in heard.text and isinstance(lesson.trajectory.attempt, Attempt | None)
    update = run.learn(step, lessons, 0)
    assert update.scalars["gradient_norm"] > 0 and torch.isfinite(torch.tensor(update.loss))
    run.close()
