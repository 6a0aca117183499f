"""Rows of several attempts at a task: each in the words of a row it must equal, or by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from retries import foreseen, marked, untold
from scenes import Scene, assert_same, row_of, run_of, scene_of

from agentopd.base.types import EndReason
from agentopd.learning.method import AXES
from agentopd.rollout.policies.retry import RetryRollout
from agentopd.running.run import Run


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Each row alive; the model solves nothing, so that every first attempt is followed by more."""
    small = "rollout.tasks=2", "rollout.group=2", "rollout.max_turns=2", "evaluate.episodes=1"
    folder = tmp_path_factory.mktemp("rows")
    rows = ("erl", "rltf_sd", "ra_opd_a")
    return {name: run_of(tiny_model, folder / name, f"method={name}", *small) for name in rows}


@pytest.mark.parametrize("name", ["erl", "rltf_sd"])
def test_all_solved_at_once_it_is_grpo(scene: Scene, name: str) -> None:
    """No attempt follows: the gradient is that of `grpo`, with the deviation or without."""
    firsts = marked(scene.trajectories)
    rl = "mix.rl.std=false" if name == "rltf_sd" else "mix.rl.std=true"
    clip = ("mix.rl.clip=1", "mix.rl.clip_high=1000") if name == "rltf_sd" else ()
    found = scene.gradient(f"method={name}", trajectories=firsts, lessons=[])
    grpo = scene.gradient("method=grpo", rl, *clip, lessons=[])
    assert_same(found, grpo)


def test_without_the_second_record_rltf_is_two_attempts_by_their_returns(scene: Scene) -> None:
    """And with it something else: the likelihood of erl, the advantage of rltf_sd."""
    step = [*marked(scene.trajectories), *marked(scene.trajectories[1:3], 1)]
    whole = [*step, *untold(step[-2:])]
    for name in ("erl", "rltf_sd"):
        rl = (
            "{kind: grpo, std: true}"
            if name == "erl"
            else "{kind: attempts, clip: 1.0, clip_high: 1000.0}"
        )
        alone = scene.gradient(f"method={name}", trajectories=step, lessons=[])
        plain = scene.gradient(
            "method=grpo", f"mix={{kind: rl, rl: {rl}}}", trajectories=step, lessons=[]
        )
        assert torch.equal(alone, plain)
        both = scene.gradient(f"method={name}", trajectories=whole, lessons=[])
        assert (both - alone).norm() > 1e-3 * alone.norm()


def test_what_is_made_likelier_was_solved(scene: Scene) -> None:
    """Failed answers are as if they had no second record; solved ones add -log p's gradient."""
    step = [*marked(scene.trajectories), *marked(scene.trajectories, 1)]
    twice = untold(step[8:])
    solved, failed = [t for t in twice if t.success], [t for t in twice if not t.success]
    assert solved and failed
    settings = {"lessons": []}
    found = scene.gradient("method=erl", trajectories=[*step, *twice], **settings)
    assert_same(found, scene.gradient("method=erl", trajectories=[*step, *solved], **settings))
    zero = [replace(t, turns=tuple(replace(u, reward=0.0) for u in t.turns)) for t in step]
    likely = scene.gradient("method=erl", trajectories=[*zero, *solved], **settings)
    nll = scene.gradient("mix={kind: nll, keep: {success: true}}", trajectories=solved, lessons=[])
    counted = [sum(int(t.trainable.sum()) for t in x) for x in (solved, [*zero, *solved])]
    assert_same(likely, nll * counted[0] / counted[1])


def test_foresight_adds_its_own_likelihood_and_nothing_else(scene: Scene) -> None:
    """RLTF-FM without it is two attempts by their returns; its coefficient counts it."""
    step = [*marked(scene.trajectories), *marked(scene.trajectories[1:3], 1)]
    said = [foreseen(t) for t in step[4:6]]
    fm = ("method=rltf_fm", "mix.coefficient=0.5")
    alone = scene.gradient(*fm, trajectories=step, lessons=[])
    rl = "mix={kind: rl, rl: {kind: attempts, clip: 1.0, clip_high: 1000.0}}"
    plain = scene.gradient("method=grpo", rl, trajectories=step, lessons=[])
    assert torch.equal(alone, plain)
    both = scene.gradient(*fm, trajectories=[*step, *said], lessons=[])
    nll = scene.gradient("mix=nll", trajectories=said, lessons=[])
    most, few = (sum(int(t.trainable.sum()) for t in x) for x in ([*step, *said], said))
    assert_same(both, alone * (most - few) / most + 0.5 * nll * few / most)


def test_far_tokens_of_untold_answers_count_nothing(scene: Scene) -> None:
    """Below the floor under the plain history; the floor is about no other token."""
    step = [*marked(scene.trajectories), *marked(scene.trajectories[1:3], 1)]
    near = untold(step[-2:])
    rng = np.random.default_rng(3)
    some = [rng.random(len(t.ids)) < 0.5 for t in near]
    far = [replace(t, logprob=np.where(x, -6.0, -4.0)) for t, x in zip(near, some, strict=True)]
    step = [replace(t, logprob=t.logprob - 3) for t in step]
    ratio = "rollout.ratio=sampled"
    found = scene.gradient("method=rltf_sd", ratio, trajectories=[*step, *far], lessons=[])
    kept = scene.gradient(
        "method=rltf_sd", ratio, "mix.floor=null", trajectories=[*step, *far], lessons=[]
    )
    assert (found - kept).norm() > 1e-3 * kept.norm()
    lower = scene.gradient(
        "method=rltf_sd", ratio, "mix.floor=-7", trajectories=[*step, *far], lessons=[]
    )
    assert torch.equal(lower, kept)


def test_attempts_that_nothing_is_learnt_from_are_measured_against(scene: Scene) -> None:
    """Second attempts against the first ones' mean, whether those learn or not."""
    firsts = marked(scene.trajectories[:4])
    silent = [replace(t, trainable=np.zeros_like(t.trainable)) for t in firsts]
    broken = replace(silent[0], episode=77, end=EndReason.ERROR, error="no board")
    second = marked(scene.trajectories[:1], 1)
    assert not second[0].success and any(t.success for t in firsts)
    rule = "mix={kind: rl, rl: {kind: attempts, baseline: first}}", "rollout.group=4"
    seen = scene.gradient(*rule, trajectories=[*silent, broken, *second], lessons=[])
    # Against nobody its advantage is zero: then nothing would be learnt at all.
    assert seen.norm() > 1e-3


def test_reflections_stand_in_no_likelihood(runs: dict[str, Run]) -> None:
    """ERL: what is learnt untold holds no token of what was told, nor of how it was asked."""
    run = runs["erl"]
    step = run.roll_out(0)
    kinds = {(t.attempt.number, t.attempt.kind) for t in step if t.attempt}
    assert kinds >= {(0, "played"), (0, "written"), (1, "played")}
    firsts = {t.episode: t for t in step if t.attempt and not t.attempt.number and t.acts}
    twice = [t for t in step if t.attempt and t.attempt.kind == "untold"]
    for t in twice:
        assert t.attempt
        first = firsts[t.attempt.first]
        shown = t.turns[0].start
        np.testing.assert_array_equal(t.ids[:shown], first.ids[: first.turns[0].start])
    update = run.learn(step, run.ask_teacher(step, 0), 0)
    assert update.skipped or update.loss is not None


def test_the_teacher_judges_attempt_and_reflection_and_is_told_the_solution(
    runs: dict[str, Run],
) -> None:
    """RA-OPD A: in the reflection's own conversation too; no teacher is told the reflection."""
    run = runs["ra_opd_a"]
    step = run.roll_out(0)
    lessons = run.ask_teacher(step, 0)
    written = [x for x in lessons if not x.trajectory.acts]
    assert len(written) == len(step) / 2 and all(x.taught for x in lessons)
    for lesson in lessons:
        assert lesson.view is not None
        (told,) = lesson.view.briefed.privileges
        assert told.source == "ground_truth" and len(lesson.view.ids) > len(lesson.trajectory.ids)
    assert run.learn(step, lessons, 0).scalars["gradient_norm"] > 0


def test_ra_opd_a_without_a_reflection_is_opsd_by_its_own_divergence() -> None:
    """Nothing but the rollout differs, whose first attempts are `student`'s own episodes."""
    opsd = row_of(
        "opsd", "teacher={kind: ema, rate: 0.05}", "divergence={kind: jsd, scaled: false}"
    )
    ours, theirs = (
        x.model_dump(mode="json", include={*AXES} - {"rollout"}) for x in (row_of("ra_opd_a"), opsd)
    )
    assert ours == theirs


def test_the_rows_say_what_the_papers_do() -> None:
    erl, rltf, ra = (row_of(name).rollout for name in ("erl", "rltf_sd", "ra_opd_a"))
    for rollout in (erl, rltf, ra):
        assert isinstance(rollout, RetryRollout) and rollout.stop == "solved"
    assert erl.reflects and ra.reflects and not rltf.reflects  # type: ignore[attr-defined]
    assert erl.recomputes and rltf.recomputes and not ra.foreign


@pytest.mark.parametrize("name", ["erl", "rltf_sd", "rltf_fm"])
def test_what_a_row_sets_is_read_where_tasks_are_attempted_again(name: str) -> None:
    """And told to change nothing where they are not."""
    told = [x for x in row_of(name).notices() if "nothing as the rest" in x]
    once = row_of(name, "rollout={kind: student, group: 8}", "mix.coefficient=0.5").notices()
    assert not told and any(x.startswith("mix.coefficient changes nothing") for x in once)
