"""Which weights a teacher has, after how many steps of the student."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from scripted import play_one, random_model, toy_tokenizer

from agentopd.base.types import Briefed
from agentopd.models.chat import ChatTemplate
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.privilege.view import SystemView
from agentopd.teacher import Teacher, check_same_vocabulary
from agentopd.teachers.copies import EmaTeacher, FrozenTeacher, LaggedTeacher, LiveTeacher
from agentopd.teachers.external import ExternalTeacher


@pytest.fixture
def student(tiny_model: Path) -> LanguageModel:
    return load_model(ModelSettings(path=str(tiny_model)))


def _weights(model: LanguageModel) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.module.parameters()]).clone()


def _learn(student: LanguageModel, step: int) -> torch.Tensor:
    """A step of the student that moves every weight; returns where it is then."""
    with torch.no_grad():
        for weight in student.module.parameters():
            weight.add_(0.1 * (step + 1))
    return _weights(student)


def _follow(teacher: Teacher, student: LanguageModel, steps: int) -> list[torch.Tensor]:
    """The teacher's weights after each step; the student's course is added in front."""
    found = []
    for step in range(steps):
        _learn(student, step)
        teacher.sync(student, step)
        found.append(_weights(teacher.model))
    return found


def test_a_live_teacher_is_the_student(student: LanguageModel) -> None:
    teacher = LiveTeacher()
    teacher.prepare(student)
    assert teacher.model is student
    assert teacher.tensors() == {}


def test_a_frozen_teacher_stays_what_the_student_was(student: LanguageModel) -> None:
    teacher, start = FrozenTeacher(), _weights(student)
    teacher.prepare(student)
    for weights in _follow(teacher, student, 3):
        assert torch.equal(weights, start)
    assert not torch.equal(_weights(student), start)


def test_a_lagged_teacher_follows_at_multiples_of_its_lag(student: LanguageModel) -> None:
    teacher, start = LaggedTeacher(every=2), _weights(student)
    teacher.prepare(student)
    course = []
    for step in range(5):
        at = _learn(student, step)
        teacher.sync(student, step)
        course.append((at, _weights(teacher.model)))
    for step, last in enumerate([None, 1, 1, 3, 3]):
        expected = start if last is None else course[last][0]
        assert torch.equal(course[step][1], expected), f"after step {step}"


def test_a_lag_of_one_follows_every_step(student: LanguageModel) -> None:
    teacher = LaggedTeacher(every=1)
    teacher.prepare(student)
    for step in range(2):
        at = _learn(student, step)
        teacher.sync(student, step)
        assert torch.equal(_weights(teacher.model), at)


def test_an_average_starts_at_the_student_and_moves_by_its_rate(student: LanguageModel) -> None:
    teacher, expected = EmaTeacher(rate=0.25), _weights(student)
    teacher.prepare(student)
    assert torch.equal(_weights(teacher.model), expected)
    for step in range(3):
        at = _learn(student, step)
        teacher.sync(student, step)
        expected = 0.75 * expected + 0.25 * at
        torch.testing.assert_close(_weights(teacher.model), expected)


def test_an_average_of_a_student_that_moved_once_closes_the_gap_geometrically(
    student: LanguageModel,
) -> None:
    """1 - (1 - rate)^n of the way after n steps, not its square."""
    teacher, start = EmaTeacher(rate=0.05), _weights(student)
    teacher.prepare(student)
    moved = _learn(student, 0)
    for step in range(10):
        teacher.sync(student, step)
    share = (_weights(teacher.model) - start) / (moved - start)
    torch.testing.assert_close(share, torch.full_like(share, 1 - 0.95**10), atol=1e-3, rtol=0)


def test_an_average_in_bfloat16_moves_by_less_than_its_weights_can_tell(tiny_model: Path) -> None:
    """A twentieth of a small gap is under half a unit in the last place, and yet adds up."""
    student = load_model(ModelSettings(path=str(tiny_model), dtype="bfloat16"))
    teacher = EmaTeacher(rate=0.05)
    with torch.no_grad():
        for weight in student.module.parameters():
            weight.fill_(1.0)
        teacher.prepare(student)
        for weight in student.module.parameters():
            weight.fill_(1.0 + 2**-5)
    for step in range(100):
        teacher.sync(student, step)
    assert _weights(teacher.model).unique().tolist() == [1.0 + 2**-5]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", [LaggedTeacher, EmaTeacher])
def test_a_copy_survives_a_restart(kind: type[FrozenTeacher], dtype: str, tiny_model: Path) -> None:
    """After a restart it is prepared from the student as that is by then."""
    student = load_model(ModelSettings(path=str(tiny_model), dtype=dtype))
    teacher = kind()
    teacher.prepare(student)
    _follow(teacher, student, 11)
    kept = {name: tensor.clone() for name, tensor in teacher.tensors().items()}
    again = kind()
    again.prepare(student)
    again.restore(kept)
    assert torch.equal(_weights(again.model), _weights(teacher.model))
    _learn(student, 11)
    for one in (teacher, again):
        one.sync(student, 19)
    assert torch.equal(_weights(again.model), _weights(teacher.model))


def test_a_frozen_teacher_is_found_where_the_run_began_and_not_saved(
    student: LanguageModel,
) -> None:
    """Checkpoints of earlier versions hold it; then it must be the one that is found."""
    teacher = FrozenTeacher()
    teacher.prepare(student)
    assert teacher.is_start and teacher.tensors() == {}
    saved = {name: tensor.clone() for name, tensor in student.module.state_dict().items()}
    teacher.restore(saved)
    saved["lm_head.weight"][0, 0] += 1
    with pytest.raises(ValueError, match=r"another model .* folder has changed"):
        teacher.restore(saved)


@pytest.mark.parametrize("kind", [FrozenTeacher, LaggedTeacher, EmaTeacher])
def test_a_copy_has_no_gradients_and_shares_no_memory(
    kind: type[FrozenTeacher], student: LanguageModel
) -> None:
    teacher = kind()
    teacher.prepare(student)
    assert not any(p.requires_grad for p in teacher.model.module.parameters())
    assert all(p.requires_grad for p in student.module.parameters())
    own = {p.data_ptr() for p in teacher.model.module.parameters()}
    assert own.isdisjoint(p.data_ptr() for p in student.module.parameters())


def test_an_external_teacher_has_its_own_weights_and_keeps_them(
    student: LanguageModel, tiny_model: Path
) -> None:
    _learn(student, 0)
    teacher = ExternalTeacher(source=ModelSettings(path=str(tiny_model)))
    teacher.prepare(student)
    own = _weights(load_model(ModelSettings(path=str(tiny_model))))
    for weights in [_weights(teacher.model), *_follow(teacher, student, 2)]:
        assert torch.equal(weights, own)
    assert not any(p.requires_grad for p in teacher.model.module.parameters())


def test_a_teacher_of_another_vocabulary_is_refused(
    student: LanguageModel, tiny_model: Path
) -> None:
    stranger = random_model(toy_tokenizer())
    teacher = ExternalTeacher(source=ModelSettings(path=str(tiny_model)))
    with pytest.raises(ValueError, match=r"different vocabularies .* use a teacher of the student"):
        teacher.prepare(stranger)
    check_same_vocabulary(student, student.frozen_copy())


def test_the_same_tokens_in_another_order_are_another_vocabulary() -> None:
    one, other = random_model(toy_tokenizer()), random_model(toy_tokenizer())
    check_same_vocabulary(one, other)
    other.tokenizer.add_tokens(["new"])
    with pytest.raises(ValueError, match=r"different vocabularies \(of 129 and 128 tokens\)"):
        check_same_vocabulary(one, other)


def test_a_teacher_that_was_told_nothing_yet_knows_what_a_copy_of_it_knows(
    student: LanguageModel,
) -> None:
    """A frozen, a lagged, an averaged and a live teacher score alike before the first step."""
    trajectory = play_one(["B1", "B2"], ["up <|im_end|>"] * 2)
    tokenizer = toy_tokenizer()
    model = random_model(tokenizer)
    views = SystemView().build(
        [Briefed(trajectory=trajectory, privileges=())], ChatTemplate(tokenizer)
    )
    states = []
    for teacher in (LiveTeacher(), FrozenTeacher(), LaggedTeacher(), EmaTeacher()):
        teacher.prepare(model)
        states.append(teacher.score(views)[0].hidden_NH)
    assert states[0] is not None
    assert states[0].shape == (4, 32)
    for other in states[1:]:
        torch.testing.assert_close(other, states[0])


def test_a_view_longer_than_the_teacher_s_contexts_has_no_opinion() -> None:
    tokenizer = toy_tokenizer()
    model, teacher = random_model(tokenizer), FrozenTeacher()
    teacher.prepare(model)
    played = [play_one(["B1"] * turns, ["up <|im_end|>"] * turns) for turns in (1, 9)]
    briefed = [Briefed(trajectory=t, privileges=()) for t in played]
    views = SystemView().build(briefed, ChatTemplate(tokenizer))
    assert [len(v.ids) > 64 for v in views] == [False, True]
    teacher.model.module.config.max_position_embeddings = 64
    short, long = teacher.score(views)
    assert long.hidden_NH is None and long.view is views[1]
    assert short.hidden_NH is not None
    teacher.model.module.config.max_position_embeddings = len(views[1].ids)
    whole = [lesson.hidden_NH for lesson in teacher.score(views)]
    assert whole[1] is not None and whole[0] is not None
    torch.testing.assert_close(whole[0], short.hidden_NH)


def test_a_teacher_that_ends_its_answers_differently_is_refused(student: LanguageModel) -> None:
    other = dataclasses.replace(student.frozen_copy(), stop_ids=frozenset({7}))
    with pytest.raises(ValueError, match=r"ends its answers with .* tuned with the same chat"):
        check_same_vocabulary(student, other)
