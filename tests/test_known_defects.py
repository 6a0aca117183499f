"""Defects that were seen in other implementations, one after the other: none is here."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scenes import ENV, Scene, assert_same, run_of, weights
from scripted import (
    CHATML,
    LLAMA,
    ScriptedEnv,
    ends,
    ids_of,
    play,
    play_one,
    random_model,
    says,
    toy_tokenizer,
)

from agentopd.base.types import Briefed, EndReason, Lesson, Privilege, Trajectory, View
from agentopd.divergences.linear import measure
from agentopd.divergences.question import Question
from agentopd.models.chat import ChatTemplate
from agentopd.models.head import Head
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.privilege.base import gather
from agentopd.privilege.environment import GroundTruth
from agentopd.privilege.view import EveryTurnView, SystemView, ViewBuilder
from agentopd.probes.showcase import describe_episode
from agentopd.rollout.pool import Limits
from agentopd.running.reading import parse_config
from agentopd.running.run import Run
from agentopd.signal.evidence import Measured
from agentopd.teachers.copies import FrozenTeacher

# T tokens of a sequence, N trainable tokens, H hidden size, V vocabulary

TOY = toy_tokenizer()
HINT = Privilege(source="hint", text="hint")
ANSWERS = ["up <|im_end|>", "left ␣ left <|im_end|>"]
SHORT_RUN = ("rollout.max_turn_tokens=6", "learner.learning_rate=0.01", "evaluate.episodes=2")

# place         0        1   2  3     4      5      6          7     8
OPENING = "<|im_start|> user ⏎ B1 <|im_end|> ⏎ <|im_start|> assistant ⏎ "
# place 9     10     11      12       13  14 15    16      17      18         19    20
MIDDLE = "up <|im_end|> ⏎ <|im_start|> user ⏎ B2 <|im_end|> ⏎ <|im_start|> assistant ⏎ "
# place  21  22  23      24
CLOSING = "left ␣ left <|im_end|>"
PREDICTING = [8, 9, 20, 21, 22, 23]
SAMPLED = ids_of("up <|im_end|> left ␣ left <|im_end|>", TOY)


Pair = tuple[LanguageModel, LanguageModel]


@pytest.fixture(scope="module")
def pair() -> Pair:
    """A student, and a teacher that disagrees with it."""
    return random_model(TOY, seed=1), random_model(TOY, seed=2)


def _episode(number: int = 0) -> Trajectory:
    return replace(play_one(["B1", "B2"], ANSWERS), episode=number)


def _view(trajectory: Trajectory, *told: Privilege, builder: ViewBuilder | None = None) -> View:
    briefed = Briefed(trajectory=trajectory, privileges=told)
    return (builder or SystemView()).build([briefed], ChatTemplate(TOY))[0]


def _scene(pair: Pair, *views: View) -> Scene:
    """Lessons of these views; few tokens fit into the teacher's batches."""
    teacher = FrozenTeacher(tokens_per_batch=64)
    teacher.prepare(pair[1])
    return Scene(pair[0], teacher, [view.trajectory for view in views], teacher.score(views))


def _measured(scene: Scene) -> list[Measured]:
    """What the learner makes its loss of, by episode."""
    scores = scene.learn("save.scores_top_k=1")[0].scores
    return [x.measured for x in sorted(scores, key=lambda x: x.lesson.trajectory.episode)]


def _teacher_says(scene: Scene) -> list[torch.Tensor]:
    """The teacher's log-probabilities (N,) of the sampled tokens in the learner, by episode."""
    return [one.teacher.logprob_N for one in _measured(scene) if one.teacher is not None]


@torch.no_grad()
def _says(model: LanguageModel, ids: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
    """Log-probabilities (T, V) of the next token, by the model's own logits and float64."""
    position_ids = torch.tensor([list(positions)])
    logits = model.module(input_ids=torch.tensor([list(ids)]), position_ids=position_ids).logits
    return logits[0].double().log_softmax(-1)


def _reverse_kl(pair: Pair, view: View, own: float = 1.0, its: float = 1.0) -> torch.Tensor:
    """KL(student || teacher) at each token of `SAMPLED`, (N,), each at its temperature."""
    trajectory, probabilities = view.trajectory, []
    for model, ids, temperature in zip(pair, (trajectory.ids, view.ids), (own, its), strict=True):
        places = [place + len(ids) - len(trajectory.ids) for place in PREDICTING]
        logits = model.module(input_ids=torch.from_numpy(ids)[None]).logits[0, places]
        probabilities.append((logits.double() / temperature).softmax(-1))
    p_NV, q_NV = probabilities
    return (p_NV * (p_NV / q_NV).log()).sum(-1)


def test_the_teacher_attends_to_every_token_between_two_answers(pair: Pair) -> None:
    views = [_view(_episode(), HINT)]
    for number, place in enumerate(range(11, 21), 1):
        ids = views[0].trajectory.ids.copy()
        ids[place] = ids_of("wait", TOY)[0]
        views.append(_view(replace(_episode(number), ids=ids), HINT))
    plain_N, *changed = _teacher_says(_scene(pair, *views))
    for logprob_N in changed:
        difference_N = (logprob_N - plain_N).abs()
        assert difference_N[:2].max() < 1e-5
        assert difference_N[2:].min() > 1e-4


def test_every_token_of_every_turn_is_judged_where_the_teacher_predicts_it(pair: Pair) -> None:
    """With positions that count every token: a cumulated loss mask stands still between turns."""
    own = ids_of(OPENING + MIDDLE + CLOSING, TOY)
    told = ids_of(OPENING.replace("B1", "B1 ⏎ ⏎ hint") + MIDDLE + CLOSING, TOY)
    assert _episode().ids.tolist() == own
    assert [own[place + 1] for place in PREDICTING] == SAMPLED
    (measured,) = _measured(_scene(pair, _view(_episode(), HINT)))
    assert measured.teacher is not None
    rows = torch.tensor(PREDICTING)
    own_N = _says(pair[0], own, range(25))[rows, SAMPLED]
    told_N = _says(pair[1], told, range(28))[rows + 3, SAMPLED]
    torch.testing.assert_close(measured.student.logprob_N.double(), own_N, atol=1e-4, rtol=0)
    torch.testing.assert_close(measured.teacher.logprob_N.double(), told_N, atol=1e-4, rtol=0)
    standing = [*range(14), *[13] * 10, *range(14, 18)]
    wrong_N = _says(pair[1], told, standing)[rows + 3, SAMPLED]
    assert (wrong_N - told_N)[2:].abs().max() > 1e-2


def test_a_teacher_that_is_the_student_agrees_at_every_token_of_every_turn(pair: Pair) -> None:
    scene = _scene((pair[0], pair[0]), _view(_episode()))
    divergence_N = _measured(scene)[0].divergence_N
    assert divergence_N is not None
    assert divergence_N.tolist() == [0.0] * len(PREDICTING)
    # Were the places behind the first answer taken to be neighbours, it would not.
    neighbours = scene.student.hidden(torch.from_numpy(_episode().ids)[None])[0, 8:14].detach()
    shifted = replace(scene, lessons=[replace(scene.lessons[0], hidden_NH=neighbours)])
    shifted_N = _measured(shifted)[0].divergence_N
    assert shifted_N is not None
    assert shifted_N[:2].max() < 1e-5
    assert shifted_N[2:].min() > 0.1


@pytest.mark.parametrize("blank", [True, False], ids=["empty_lesson", "no_lesson"])
@pytest.mark.parametrize("support", ["full", "sampled"])
def test_where_the_teacher_has_nothing_to_say_nothing_is_learnt_or_counted(
    pair: Pair, support: str, blank: bool
) -> None:
    """Filled with zeros, a log-probability would be praise of 100 %."""
    prompts = [{"reference": "up"}, {}, {"reference": "down"}]
    envs = [ScriptedEnv(("B1", prompt), [says("B2"), ends()]) for prompt in prompts]
    trajectories, _ = play(TOY, envs, [ANSWERS] * 3)
    views = SystemView().build(gather([GroundTruth()], trajectories), ChatTemplate(TOY))
    assert [view.trajectory.episode for view in views] == [0, 2]
    alone = _scene(pair, *views)
    lessons = [*([Lesson(trajectory=trajectories[1])] if blank else []), *alone.lessons]
    scene = replace(alone, trajectories=trajectories, lessons=lessons)
    method = f"divergence.support={support}"
    assert_same(scene.gradient(method), alone.gradient(method))
    if support == "full":
        with torch.no_grad():
            mean = torch.cat([_reverse_kl(pair, view) for view in views]).mean()
        assert scene.learn(method)[0].loss == pytest.approx(mean.item(), rel=1e-4)


def test_teacher_data_that_is_too_short_is_refused(pair: Pair) -> None:
    scene = _scene(pair, _view(_episode()))
    hidden_NH = scene.lessons[0].hidden_NH
    assert hidden_NH is not None
    short = replace(scene.lessons[0], hidden_NH=hidden_NH[:-1])
    with pytest.raises(ValueError, match="hidden states of 5 tokens of the teacher and of 6"):
        scene.learn(lessons=[short])


@pytest.mark.parametrize(
    "divergence", ["reverse_kl", "jsd", "{kind: reverse_kl, support: sampled}"]
)
def test_at_any_temperature_a_teacher_that_is_the_student_teaches_nothing(
    pair: Pair, divergence: str
) -> None:
    scene = _scene((pair[0], pair[0]), _view(_episode()))
    gradient = scene.gradient("rollout.temperature=0.7", f"divergence={divergence}")
    assert gradient.abs().max() == 0.0


def test_both_models_are_measured_at_the_temperature_of_the_rollout(pair: Pair) -> None:
    view = _view(_episode(), HINT)
    scene = _scene(pair, view)
    student, teacher = (replace(m, module=copy.deepcopy(m.module).double()) for m in pair)
    divergence_N = _reverse_kl((student, teacher), view, 0.7, 0.7)
    divergence_N.mean().backward()
    expected = [p.grad.flatten() for p in student.module.parameters() if p.grad is not None]
    update, gradient, _ = scene.learn("rollout.temperature=0.7")
    loss = divergence_N.mean().item()
    assert update.loss == pytest.approx(loss, rel=1e-5)
    assert gradient is not None
    assert_same(gradient.double(), torch.cat(expected), within=1e-5)
    for own, its in ((0.7, 1.0), (1.0, 0.7), (1.0, 1.0)):
        assert abs(_reverse_kl((student, teacher), view, own, its).mean().item() / loss - 1) > 0.01
    described = describe_episode(scene.student, scene.teacher, scene.lessons, "any", 0.7)
    assert described is not None
    shown = [token["divergence"] for turn in described["turns"] for token in turn["tokens"]]
    assert shown == pytest.approx(divergence_N.tolist(), rel=1e-4)


def _step(run: Run, step: int) -> None:
    trajectories = run.roll_out(step)
    update = run.learn(trajectories, run.ask_teacher(trajectories, step), step)
    assert not update.skipped


def test_an_averaged_teacher_starts_at_the_student_and_moves_by_its_rate(
    tiny_model: Path, tmp_path: Path
) -> None:
    """A product of two averages that start at nothing would have moved by the rate's square."""
    run = run_of(tiny_model, tmp_path / "run", "teacher={kind: ema, rate: 0.25}", *SHORT_RUN)
    start, teacher = weights(run.student), run.config.teacher
    assert torch.equal(weights(teacher.model), start)
    _step(run, 0)
    moved = weights(run.student) - start
    assert moved.abs().max() > 5e-3
    torch.testing.assert_close(weights(teacher.model) - start, 0.25 * moved, atol=1e-6, rtol=0)
    assert not any(p.requires_grad for p in teacher.model.module.parameters())


@pytest.mark.parametrize(
    ("chat_template", "end", "asked"),
    [
        (CHATML, "<|im_end|>", "<|im_end|> ⏎ <|im_start|> assistant ⏎"),
        (LLAMA, "<|eot_id|>", "<|eot_id|> <|start_header_id|> assistant <|end_header_id|> ⏎ ⏎"),
    ],
    ids=["chatml", "llama"],
)
def test_both_contexts_are_what_the_chat_template_writes(
    chat_template: str, end: str, asked: str
) -> None:
    tokenizer = toy_tokenizer(chat_template)
    answers = [f"up {end}", f"left ␣ left {end}"]
    trajectory = play_one(["B1", "B2"], answers, tokenizer=tokenizer, system="rules", stop=end)
    briefed = Briefed(trajectory=trajectory, privileges=(HINT,))
    view = SystemView().build([briefed], ChatTemplate(tokenizer))[0]
    for system, ids in (("rules", trajectory.ids), ("rules\n\nhint", view.ids)):
        said = [("system", system), ("user", "B1"), ("assistant", "up"), ("user", "B2")]
        messages = [{"role": r, "content": c} for r, c in [*said, ("assistant", "left left")]]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        assert isinstance(text, str)
        written = tokenizer.encode(text, add_special_tokens=False)
        assert ids.tolist() == written[: len(ids)]
    for turn, seen, answer in zip(trajectory.turns, ("B1", "B2"), answers, strict=True):
        expected = ids_of(f"{seen} {asked} {answer}", tokenizer)
        last = int(view.position[turn.stop - 1]) + 1
        assert trajectory.ids[turn.stop - len(expected) : turn.stop].tolist() == expected
        assert view.ids[last - len(expected) : last].tolist() == expected


def _row(
    divergence: str, student: Sequence[float], teacher: Sequence[float]
) -> tuple[float, list[float]]:
    """One token's divergence of these probabilities, and its gradient by the student's logits."""
    logits_V1 = torch.tensor(student, dtype=torch.float64).log()[:, None].requires_grad_()
    one_11 = torch.ones(1, 1, dtype=torch.float64)
    method = parse_config(ENV, [f"divergence={divergence}"])
    measured = measure(
        Question(torch.tensor([0]), method.divergence),
        Head(one_11, logits_V1),
        Head(one_11, torch.tensor(teacher, dtype=torch.float64).log()[:, None]),
    )
    assert measured.divergence_N is not None
    measured.divergence_N.sum().backward()
    assert logits_V1.grad is not None
    return measured.divergence_N.item(), logits_V1.grad[:, 0].tolist()


@pytest.mark.parametrize("surplus", [0.2, 0.01, 1e-4])
def test_too_much_mass_on_the_likeliest_tokens_is_drawn_away(surplus: float) -> None:
    """Two tokens of P and Q together, at 2 to 1 in both models: nothing else to be learnt.

    Their logits' gradients add up to P (1-P) [log P/Q - log (1-P)/(1-Q)], at 2 to 1.
    """
    q, p = 0.7, 0.7 + surplus
    student, teacher = ([2 * m / 3, m / 3, 0.6 * (1 - m), 0.4 * (1 - m)] for m in (p, q))
    divergence = "{{kind: reverse_kl, support: {{kind: student_top_k, k: 2, rest: {}}}}}"
    pull = p * (1 - p) * (math.log(p / q) - math.log((1 - p) / (1 - q)))
    _, gradient = _row(divergence.format("tail"), student, teacher)
    assert pull > 0.5 * surplus
    assert gradient == pytest.approx([2 * pull / 3, pull / 3, -0.6 * pull, -0.4 * pull], rel=1e-6)
    _, silent = _row(divergence.format("renormalise"), student, teacher)
    assert silent == pytest.approx([0.0] * 4, abs=1e-12)


def test_a_negative_contribution_of_a_token_is_kept(pair: Pair) -> None:
    """0.6 log(2/3), of tokens of which the student has more than the teacher; clamped at zero,
    the gradient p_v 0.6 - q_v would be lost with it.
    """
    raw = "{kind: forward_kl, support: {kind: student_top_k, k: 2, rest: raw}}"
    value, gradient = _row(raw, [0.6, 0.3, 0.05, 0.03, 0.02], [0.4, 0.2, 0.15, 0.15, 0.1])
    assert value == pytest.approx(0.6 * math.log(2 / 3))
    assert gradient == pytest.approx([-0.04, -0.02, 0.03, 0.018, 0.012])
    update, *_ = _scene(pair, _view(_episode())).learn(f"divergence={raw}", "save.scores_top_k=1")
    divergence_N = update.scores[0].measured.divergence_N
    assert divergence_N is not None and divergence_N.min() < 0
    assert update.loss == pytest.approx(divergence_N.mean().item(), rel=1e-5)


@pytest.mark.parametrize("every", [False, True], ids=["system", "every_turn"])
@pytest.mark.parametrize("answer", ["left ␣ left <|im_end|>", "left ␣ left", ""])
@pytest.mark.parametrize("system", ["", "rules", "hint", "up B1", " \n\nB1\n", "<|im_end|>\nB1"])
def test_privileged_text_finds_its_place_whatever_the_prompt_says_or_ends_with(
    system: str, answer: str, every: bool
) -> None:
    """The conversation ends with an answer, with one that was cut, or with an observation."""
    env = ScriptedEnv(("B1", {}), [says("B1 " * 30), ends()], system)
    limits = Limits(turns=9, turn_tokens=20, context=999 if answer else 70)
    trajectory = play(TOY, [env], [[ANSWERS[0], answer]], limits)[0][0]
    assert (trajectory.end is EndReason.CONTEXT_LIMIT) is not bool(answer)
    view = _view(trajectory, HINT, builder=EveryTurnView() if every else SystemView())
    asked = "<|im_end|>\n<|im_start|>assistant\n"
    last = answer.replace(" ", "").replace("␣", " ")
    for ids, told in ((trajectory.ids, ""), (view.ids, "\n\nhint")):
        marks = [told if x else "" for x in (not every, every or not system, every and answer)]
        rules = f"<|im_start|>system\n{system}{marks[0]}<|im_end|>\n" if system else ""
        first = f"<|im_start|>user\nB1{marks[1]}{asked}up<|im_end|>\n"
        second = f"<|im_start|>user\n{'B1 ' * 30}{marks[2]}{asked}{last}"
        assert TOY.decode(ids.tolist()) == rules + first + second


def test_a_view_longer_than_a_batch_is_kept_whole(pair: Pair) -> None:
    """Cut from the left, it would lose the system message first."""
    long = Privilege(source="hint", text=" ".join(["hint"] * 150))
    trajectory = play_one(["B1", "B2"], ANSWERS, system="rules")
    view = _view(trajectory, long, builder=EveryTurnView())
    (found_N,) = _teacher_says(_scene(pair, view))
    ids, places = view.ids.tolist(), torch.from_numpy(view.position[trajectory.trainable] - 1)
    assert len(ids) > 600
    expected_N = _says(pair[1], ids, range(len(ids)))[places, SAMPLED]
    torch.testing.assert_close(found_N.double(), expected_N, atol=1e-4, rtol=0)
    cut_N = _says(pair[1], ids[6:], range(len(ids) - 6))[places - 6, SAMPLED]
    assert (cut_N - expected_N).abs().min() > 1e-4


TEACHERS = {
    "{kind: frozen}": (1.0, 0.0, 0.0, 0.0),
    "{kind: lagged, every: 2}": (0.0, 0.0, 1.0, 0.0),
    "{kind: ema, rate: 0.5}": (1 / 8, 1 / 8, 1 / 4, 1 / 2),
}
"""Shares, in the teacher after three steps, of the student before the first and after each."""


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_resumed_run_has_the_teacher_it_had(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    method = (f"teacher={kind}", *SHORT_RUN)
    run = run_of(tiny_model, tmp_path / "run", *method)
    run.begin()
    course = [weights(run.student)]
    for step in range(3):
        _step(run, step)
        course.append(weights(run.student))
    before = weights(run.config.teacher.model)
    expected = torch.tensor(TEACHERS[kind]) @ torch.stack(course)
    torch.testing.assert_close(before, expected, atol=1e-6, rtol=0)
    assert (before - course[3]).abs().max() > 1e-3
    with (tmp_path / "run" / "metrics.jsonl").open("a") as metrics:  # as `record` would have
        keys: dict[str, object] = {key: {} for key in ("train", "probes", "stages", "tokens")}
        keys |= dict.fromkeys(("episodes", "seconds", "loss"), 0)
        metrics.writelines(json.dumps({"step": step, **keys}) + "\n" for step in range(3))
    run.save()
    again = run_of(tiny_model, tmp_path / "run", *method, resume=True)
    assert torch.equal(weights(again.config.teacher.model), before)
    trajectories = run.roll_out(3)
    lessons = zip(*(r.ask_teacher(trajectories, 3) for r in (run, again)), strict=True)
    for one, other in lessons:
        assert one.hidden_NH is not None and other.hidden_NH is not None
        assert torch.equal(one.hidden_NH, other.hidden_NH)


def test_a_teacher_that_ends_its_answers_with_other_tokens_is_refused_at_start(
    tiny_model: Path, tmp_path: Path
) -> None:
    model = load_model(ModelSettings(path=str(tiny_model)))
    assert model.module.generation_config is not None
    for folder, too in (("same", set()), ("other", {7})):
        model.module.generation_config.eos_token_id = sorted(model.stop_ids | too)
        model.module.save_pretrained(tmp_path / folder)
        model.tokenizer.save_pretrained(tmp_path / folder)
    external = "teacher={{kind: external, source: {{path: {}}}}}"
    run_of(tiny_model, tmp_path / "run", external.format(tmp_path / "same"), *SHORT_RUN)
    with pytest.raises(ValueError, match=r"other ends its answers with .* same chat template"):
        run_of(tiny_model, tmp_path / "refused", external.format(tmp_path / "other"), *SHORT_RUN)
    assert not (tmp_path / "refused").exists()
