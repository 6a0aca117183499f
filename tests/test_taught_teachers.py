"""Teachers that learn, paid by what a student that reads them says: by hand, and alive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scenes import ENV, Scene, run_of, scene_of
from trajectories import lessons_of, opinion_of, played, tokens_of

from agentopd.base.types import Attempt, Trajectory
from agentopd.base.written import ConfigError
from agentopd.mixes.scored import RewardReplacement
from agentopd.mixes.told.readers import StudentLikelihood, StudentSurprise
from agentopd.running.config import RunConfig
from agentopd.running.reading import parse_config, stage_configs
from agentopd.signal.evidence import Measured, Opinion
from agentopd.weights.token import LikelihoodGate

SMALL = ("rollout.tasks=1", "rollout.group=4", "rollout.max_turns=2", "evaluate.episodes=1")


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


def _said(
    *trajectories: Trajectory, probabilities: Sequence[float], tops: Sequence[float] = ()
) -> tuple[Measured, Sequence[Trajectory]]:
    """What a student says of the tokens that it reads."""
    reader = opinion_of(probabilities, tops=tops)
    return Measured(student=reader, teacher=reader), trajectories


def _scores(mix: StudentLikelihood | StudentSurprise, said: tuple[Measured, Sequence[Trajectory]]):
    measured, trajectories = said
    tokens = tokens_of(*trajectories)
    tokens = replace(tokens, behaviour_N=tokens.behaviour_N.double())
    return mix.scored(measured, tokens, lessons_of(*trajectories)).tolist()


def test_the_likelihood_of_actions_by_hand() -> None:
    """log p of -1 and -3: the mean is -2, the least -3, so that 0.01 of it makes -2.03."""
    said = _said(played([5, 6]), probabilities=[math.exp(-1), math.exp(-3)])
    assert _scores(StudentLikelihood(), said) == pytest.approx([-2.03])


def test_thoughts_that_the_student_would_not_have_count_against_the_teacher() -> None:
    """Two turns of two thoughts and an action, log q = -1: in thoughts log q - log p is 0, 1, 1, 2.

    Their mean is 1 and the greatest 2: 3 (1 + 0.01 x 2) = 3.06. The actions' log p are -1 and -1.
    """
    logs = [-1.0, -2.0, -1.0, -2.0, -3.0, -1.0]
    episode = played([5, 6, 7], [5, 6, 7], reasoning=2, logprob=-1.0)
    said = _said(episode, probabilities=[math.exp(x) for x in logs])
    assert _scores(StudentLikelihood(), said) == pytest.approx([-1.01 - 3.06])
    assert _scores(StudentLikelihood(kl=0), said) == pytest.approx([-1.01])


def test_read_by_itself_a_teacher_pays_for_no_thought() -> None:
    """The student is the teacher: the second part is zero, and the rest a pure likelihood."""
    episode = played([5, 6, 7], [8, 9], reasoning=1, logprob=-1.5)
    said = _said(episode, probabilities=[math.exp(-1.5)] * 5)
    assert _scores(StudentLikelihood(least=0), said) == pytest.approx([-1.5])


def test_an_episode_without_thoughts_does_not_borrow_those_of_another() -> None:
    thinks = played([5, 6], reasoning=1, logprob=-1.0)
    alone = played([5, 6], logprob=-1.0, episode=1)
    said = _said(thinks, alone, probabilities=[math.exp(x) for x in (-3.0, -1.0, -1.0, -2.0)])
    assert _scores(StudentLikelihood(least=0, most=0), said) == pytest.approx([-7.0, -1.5])


def test_what_explains_no_solution_is_paid_less() -> None:
    solved = played([5], [6], infos=[{}, {"success": True}], episode=0)
    failed = played([5], [6], infos=[{}, {"success": False}], episode=1)
    odd = played([5], [6], infos=[{"action_valid": False}, {"success": True}], episode=2)
    found = StudentLikelihood().rewards([solved, failed, odd], {0: -2.0, 1: -2.0, 2: -2.0})
    assert found == {0: -2.0, 1: -3.0, 2: -3.0}


def test_steps_that_do_not_surprise_keep_the_reward() -> None:
    """s = 0 leaves G = 1; s = (0, ln 3) with beta = 1 and lambda = 1 makes 1 / mean(1, 3) = 1/2."""
    greedy, bold = played([5, 6], rewards=[1.0]), played([5, 6], rewards=[1.0], episode=1)
    said = _said(greedy, bold, probabilities=[0.6, 0.3, 0.6, 0.3], tops=[0.6, 0.3, 0.6, 0.9])
    mix = StudentSurprise(strength=1.0, beta=1.0)
    scores = _scores(mix, said)
    assert scores == pytest.approx([1.0, 0.5])
    assert mix.rewards([greedy, bold], {0: 1.0, 1: 0.5}) == {0: 1.0, 1: 0.5}
    assert _scores(StudentSurprise(strength=0), said) == [1.0, 1.0]


@pytest.mark.parametrize("kind", ["student_likelihood", "student_surprise"])
def test_a_teacher_is_paid_by_the_untold_student_and_learns_told(
    kind: str, tiny_model: Path, tmp_path: Path
) -> None:
    """Alive: its reward is made of the reader's own numbers in the plain history, and nothing is
    learnt of that record.
    """
    run = run_of(
        tiny_model, tmp_path / "run", f"mix={{kind: {kind}}}", "privilege=ground_truth",
        "rollout={kind: hinted, learn_under: both, ratio: sampled}",
        "view.tells=actor", "teacher=frozen", *SMALL,
    )  # fmt: skip
    step = [_paid(t) for t in run.roll_out(0)]
    plain = [t for t in step if not t.acts]
    lessons = run.ask_teacher(step, 0)
    seen: dict[int, float] = {}
    mix = run.learner.method.mix
    scored = type(mix).scored

    def watched(self, said, tokens, found):
        score_L = scored(self, said, tokens, found)
        for place, lesson in enumerate(found):
            own_N = said.teacher.logprob_N[tokens.lesson_N == place]
            seen[lesson.trajectory.episode] = own_N.sum().item()
        return score_L

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(mix), "scored", watched)
        update = run.learn(step, lessons, 0)
    assert update.scalars["gradient_norm"] > 0
    model = run.config.teacher.model
    for t in plain:
        assert t.attempt
        logits_TV = model.logits(model.hidden(torch.from_numpy(t.ids)[None])[0]).log_softmax(-1)
        own = t.trainable.nonzero()[0]
        expected = sum(float(logits_TV[place - 1, t.ids[place]]) for place in own)
        assert seen[t.attempt.first] == pytest.approx(expected, abs=1e-4)
    assert seen.keys() == {t.episode for t in step if t.acts}


def _paid(t: Trajectory) -> Trajectory:
    last = replace(t.turns[-1], reward=1.0 + float(t.ids[t.trainable].sum() % 5))
    return replace(t, turns=(*t.turns[:-1], last))


def test_without_strength_pedagogical_rl_is_grpo(scene: Scene) -> None:
    """lambda = 0: the reward alone, whatever the student says."""
    lessons = [
        replace(x, trajectory=replace(x.trajectory, attempt=Attempt(number=0, first=n)))
        for n, x in enumerate(scene.lessons)
    ]
    step = [x.trajectory for x in lessons]
    both = "rollout={kind: hinted, learn_under: both, ratio: sampled, group: 4}"
    settings = both, "privilege=ground_truth", "view.tells=actor"
    found = scene.gradient(
        *settings, "mix={kind: student_surprise, strength: 0}", trajectories=step, lessons=lessons
    )
    grpo = scene.gradient("method=grpo", trajectories=step, lessons=[])
    torch.testing.assert_close(found, grpo)


def test_a_gate_by_the_students_own_likelihood_by_hand() -> None:
    """sigmoid(2 (log p + 3.5)): one half at the threshold; over a mean of 1."""
    gate = LikelihoodGate(renormalise=False)
    student = opinion_of([math.exp(-3.5), math.exp(-1.5), math.exp(-5.5)])
    evidence = _Only(student)
    found = gate.raw(evidence).tolist()  # type: ignore[arg-type]
    assert found == pytest.approx([0.5, 1 / (1 + math.exp(-4)), 1 / (1 + math.exp(4))])


class _Only:
    """Evidence of which the student's opinion alone is known."""

    def __init__(self, student: Opinion) -> None:
        self.student = student


def test_an_open_gate_is_plain_likelihood_and_another_is_not(scene: Scene) -> None:
    """kappa = 0 counts every token one half, over their mean: SFT, to the last bit."""
    plain = scene.gradient("mix=nll", lessons=[])
    gated = "mix=nll", "weight=[{kind: likelihood_gate, renormalise: step, sharpness: 0}]"
    assert torch.equal(scene.gradient(*gated, lessons=[]), plain)
    far = ("mix=nll", "weight=[{kind: likelihood_gate, renormalise: step, threshold: -6}]")
    assert (scene.gradient(*far, lessons=[]) - plain).norm() > 1e-2 * plain.norm()


def test_the_gates_average_is_over_the_whole_step(scene: Scene) -> None:
    """sum w CE / sum w, however the step is cut into micro-batches; by the models' own logits."""
    gated = (
        "mix=nll",
        "weight=[{kind: likelihood_gate, renormalise: step, sharpness: 1.5, threshold: -6}]",
    )
    updates = [
        scene.learn(*gated, f"learner.tokens_per_batch={size}", lessons=[])[0]
        for size in (64, 4096)
    ]
    losses = []
    for t in scene.trajectories:
        ids_1T = torch.from_numpy(t.ids)[None]
        own = torch.from_numpy(t.trainable.nonzero()[0])
        logits_NV = scene.student.module(input_ids=ids_1T).logits[0, own - 1].log_softmax(-1)
        losses.append(logits_NV.gather(1, ids_1T[0, own, None])[:, 0].detach())
    logprob_N = torch.cat(losses)
    weight_N = torch.sigmoid(1.5 * (logprob_N + 6))
    expected = -float((weight_N * logprob_N).sum() / weight_N.sum())
    assert [x.loss for x in updates] == pytest.approx([expected] * 2, rel=1e-5)


def _stages(name: str) -> dict[str, RunConfig]:
    found = stage_configs(parse_config(ENV, [f"method={name}"]))
    return {leg.folder: config for leg, config in found}


def test_the_rows_say_what_the_sources_do() -> None:
    rlt, pedagogical = _stages("rlt"), _stages("pedagogical_rl")
    assert [*rlt] == ["1-format", "2-teacher", "3-collect", "4-student"]
    taught = rlt["2-teacher"]
    assert isinstance(taught.mix, StudentLikelihood) and taught.rollout.temperature == 0.7
    assert taught.mix.rl.kl_coefficient == 0.04 and not taught.teacher.is_student
    assert [*pedagogical][3:] == ["4-teacher", "5-collect", "6-student"]
    assert pedagogical["1-teacher"].teacher.is_start  # of its own stage: renewed in each round
    assert [x.kind for x in pedagogical["3-student"].weight] == ["likelihood_gate"]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("mix=student_surprise",), "acts told"),
        (("mix=student_likelihood", "privilege=ground_truth", "rollout.kind=hinted"), "acts told"),
        (("mix=nll", "weight=gap_gate"), "looks at what the teacher says"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(overrides: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as refusal:
        parse_config(ENV, ["rollout.group=4", *overrides])
    assert "\n" not in str(refusal.value)


def test_a_mix_that_scores_as_before_is_asked_as_before() -> None:
    """`reward` by its own reduction of log q - log p."""
    episode = played([5, 6], logprob=-1.0)
    measured, trajectories = _said(episode, probabilities=[math.exp(-2), math.exp(-4)])
    tokens = tokens_of(*trajectories)
    score = RewardReplacement(reduce="sum").scored(measured, tokens, lessons_of(*trajectories))
    assert score.tolist() == pytest.approx([-4.0])
