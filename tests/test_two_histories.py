"""Episodes played told and kept twice: both records, what the teacher reads of them, what is learnt
(pi-Distill), against GRPO and by enumeration.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes import ENV, Scene, assert_same, run_of, scene_of
from trajectories import lessons_of, played, tokens_of

from agentopd.base.types import Attempt, Trajectory
from agentopd.base.written import ConfigError
from agentopd.mixes.advantages import Grpo
from agentopd.mixes.channels import Channels, Reinforcement
from agentopd.mixes.told.two_histories import TwoHistories
from agentopd.running.reading import parse_config
from agentopd.running.run import Run
from agentopd.signal.evidence import Measured, Opinion

SMALL = ("rollout.tasks=2", "rollout.group=2", "rollout.max_turns=2", "evaluate.episodes=1")


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("pi")
    return run_of(tiny_model, folder / "run", "method=pi_distill", *SMALL)


@pytest.fixture(scope="module")
def step(run: Run) -> list[Trajectory]:
    return run.roll_out(0)


def _twice(trajectories: list[Trajectory]) -> list[Trajectory]:
    """Each episode as it was read, and the same answers untold."""
    found = []
    for t in trajectories:
        mark = Attempt(number=0, first=t.episode)
        plain = replace(mark, kind="untold")
        found.append(replace(t, attempt=mark))
        found.append(replace(t, episode=t.episode + 1_000, attempt=plain, told=t.trainable))
    return found


def _parts(step: list[Trajectory]) -> tuple[list[Trajectory], list[Trajectory]]:
    return [t for t in step if t.acts], [t for t in step if not t.acts]


def test_each_episode_has_two_records_with_the_same_answers(
    step: list[Trajectory], tiny_model: Path, tmp_path: Path
) -> None:
    """They are the records that `learn_under: hint` and `plain` would have kept."""
    read, plain = _parts(step)
    assert len(read) == len(plain) == 4
    for under, own in (("hint", read), ("plain", plain)):
        settings = f"rollout={{kind: hinted, learn_under: {under}}}", "privilege=ground_truth"
        alone = run_of(tiny_model, tmp_path / under, *settings, "mix=rl", *SMALL).roll_out(0)
        for one, other in zip(own, alone, strict=True):
            np.testing.assert_array_equal(one.ids, other.ids)
            np.testing.assert_array_equal(one.logprob, other.logprob)
            assert (one.told is None) == (other.told is None)
    for one, other in zip(read, plain, strict=True):
        assert one.attempt and other.attempt and one.attempt.first == other.attempt.first
        np.testing.assert_array_equal(one.ids[one.trainable], other.ids[other.trainable])
        assert len(one.ids) > len(other.ids) and not other.student_tokens


def test_the_teacher_reads_the_answers_that_were_played_told_untold(
    run: Run, step: list[Trajectory]
) -> None:
    """And nothing else: its log-probabilities are the student's in the plain history."""
    lessons, (read, plain) = run.ask_teacher(step, 0), _parts(step)
    assert [x.trajectory.episode for x in lessons] == [t.episode for t in read]
    for lesson, own in zip(lessons, plain, strict=True):
        view = lesson.view
        assert view is not None
        np.testing.assert_array_equal(view.ids, own.ids)
        places = view.position[lesson.trajectory.trainable]
        np.testing.assert_array_equal(places, own.trainable.nonzero()[0])
        with torch.no_grad():
            hidden_TH = run.student.hidden(torch.from_numpy(own.ids)[None])[0]
        assert lesson.hidden_NH is not None
        torch.testing.assert_close(lesson.hidden_NH, hidden_TH[places - 1])


def test_a_step_learns_both_records(run: Run, step: list[Trajectory]) -> None:
    update = run.learn(step, run.ask_teacher(step, 0), 0)
    assert update.scalars["loss_kl"] > 0 and update.scalars["gradient_norm"] > 0


@pytest.mark.parametrize(("told", "kept"), [(1.0, 0), (0.0, 1)])
def test_one_share_alone_without_kl_is_grpo_on_that_record(
    scene: Scene, told: float, kept: int
) -> None:
    """alpha = 1 is GRPO under the hint, to the last bit."""
    step = _twice(scene.trajectories)
    settings = "method=pi_distill", f"mix.told={told}", "mix.kl=0"
    found = scene.gradient(*settings, trajectories=step, lessons=[])
    grpo = scene.gradient("method=grpo", trajectories=_parts(step)[kept], lessons=[])
    assert torch.equal(found, grpo) and grpo.norm() > 1e-3


def test_told_nothing_both_terms_are_grpo(tiny_model: Path, tmp_path: Path) -> None:
    """The records are one history, the KL and its gradient are zero."""
    same = ("privilege=none", "method=grpo", *SMALL)
    pi = run_of(tiny_model, tmp_path / "pi", "method=pi_distill", "privilege=none", *SMALL)
    grpo = run_of(tiny_model, tmp_path / "grpo", *same)
    step, theirs = ([_rewarded(t) for t in x.roll_out(0)] for x in (pi, grpo))
    read, plain = _parts(step)
    for one, other, own in zip(read, plain, theirs, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.ids, own.ids)
    gradients: dict[str, list[torch.Tensor]] = {"pi": [], "grpo": []}
    for name, run in {"pi": pi, "grpo": grpo}.items():
        run.learner.optimizer.register_step_pre_hook(
            lambda *_, name=name, run=run: gradients[name].append(_gradient(run))
        )
    update = pi.learn(step, pi.ask_teacher(step, 0), 0)
    grpo.learn(theirs, [], 0)
    assert abs(update.scalars["loss_kl"]) < 1e-6
    # A hook may be called twice, by a class and by its base.
    assert_same(gradients["pi"][0], gradients["grpo"][0], within=1e-5)


def _gradient(run: Run) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in run.learner.parameters if p.grad is not None])


def _rewarded(t: Trajectory) -> Trajectory:
    """With a reward that hangs on what was said, so that no group is dead."""
    last = replace(t.turns[-1], reward=float(t.ids[t.trainable].sum() % 7))
    return replace(t, turns=(*t.turns[:-1], last))


# Seven tokens in one place: few enough to sum over all of them.
RNG = np.random.default_rng(5)
LOGITS_7, OTHER_7 = (torch.tensor(RNG.normal(size=7)) for _ in range(2))


def _kl_gradient(read: bool) -> torch.Tensor:
    """(7,) by the learner's logits, averaged over the tokens that the told student q draws."""
    logits_7 = LOGITS_7.clone().requires_grad_()
    own_7, other_7 = logits_7.log_softmax(-1), OTHER_7.log_softmax(-1)
    q_7 = (own_7 if read else other_7).detach()
    zeros_7 = torch.zeros(7, dtype=torch.float64)
    nothing = Opinion(other_7, zeros_7, zeros_7)
    channels = Channels(
        measured=Measured(Opinion(own_7, zeros_7, zeros_7), teacher=nothing if read else None),
        behaviour_N=q_7,
        strength=1.0,
        distillation=None,
        reinforcement=Reinforcement(
            rule=Grpo(),
            advantage_N=zeros_7,
            average_N=q_7.exp(),
            scale_N=torch.ones(7, dtype=torch.float64),
            likelihood_N=zeros_7,
            told_N=torch.full((7,), not read),
        ),
    )
    TwoHistories(kl=0.5).terms(channels)["kl"].backward()
    assert logits_7.grad is not None
    return logits_7.grad


def test_the_told_student_is_held_by_the_reverse_kl() -> None:
    """d KL(q || p) / d logits of q = q (log q/p - KL)."""
    q, p = LOGITS_7.softmax(-1), OTHER_7.softmax(-1)
    gap = (q / p).log()
    torch.testing.assert_close(_kl_gradient(read=True), 0.5 * q * (gap - (q * gap).sum()))


def test_the_untold_student_is_held_by_the_forward_kl() -> None:
    """d KL(q || p) / d logits of p = p - q."""
    p, q = LOGITS_7.softmax(-1), OTHER_7.softmax(-1)
    torch.testing.assert_close(_kl_gradient(read=False), 0.5 * (p - q))


def test_shares_count_twice_in_the_average_of_both_records() -> None:
    step = _twice([played([5, 6], episode=3)])
    routes = TwoHistories(told=0.75).routes(lessons_of(*step))
    assert (routes[3].rl, routes[1_003].rl) == (1.5, 0.5)
    assert len(tokens_of(*step)) == 4


def test_dead_groups_are_held_to_one_another_too(scene: Scene) -> None:
    dead = [
        replace(t, turns=tuple(replace(u, reward=0.0) for u in t.turns)) for t in scene.trajectories
    ]
    assert scene.gradient("method=pi_distill", trajectories=_twice(dead), lessons=[]).norm() > 1e-3
    update, _, _ = scene.learn(
        "method=pi_distill", "mix.kl=0", trajectories=_twice(dead), lessons=[]
    )
    assert update.skipped


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("rollout.learn_under=hint",), "keeps none"),
        (("rollout.learn_under=hint", "mix.kl=0"), "keeps one record of each"),
        (("view.tells=teacher",), "set view.tells: actor"),
        (("rollout.when=group_failed",), "have no second record"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(overrides: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as refusal:
        parse_config(ENV, ["method=pi_distill", *overrides])
    assert "\n" not in str(refusal.value)
