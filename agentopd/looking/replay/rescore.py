"""The models asked again about a step's saved episodes, where other scores are needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from agentopd.base.parts import Settings
from agentopd.base.types import Briefed, Lesson, Trajectory, View
from agentopd.divergences.linear import measure
from agentopd.divergences.question import Question
from agentopd.looking.replay.rows import Compared, Rows, compare_rows
from agentopd.looking.replay.saved import SavedStep
from agentopd.models.head import Speaker
from agentopd.models.model import LanguageModel, load_model
from agentopd.privilege.base import gather
from agentopd.running.checkpoint import check_start, latest, load_progress, restore_weights
from agentopd.running.config import RunConfig
from agentopd.signal.scores import Scored, join_scores, split_scores
from agentopd.signal.tokens import Tokens, acted
from agentopd.stored.trajectories import load_trajectories
from agentopd.teacher import Teacher

# N trainable tokens, H hidden size, R rows of a tile, V vocabulary

_TILE = 2**22


@torch.no_grad()
def rescore(step: SavedStep, parts: RunConfig) -> tuple[list[Scored], Compared | None]:
    """What the models of a method say of the step's episodes, and what its divergence makes of it.

    The student is the method's, as it was at that step. Privileged texts are the saved ones where
    the method has the run's own sources; else its sources have seen the earlier steps that were
    saved.

    Args:
        parts: the method, of parts that have not lived; they come alive.

    Raises:
        ValueError: a model as it was at that step is not kept.
    """
    student = load_model(parts.student)
    asked = bool(parts.mix.distil_coefficient)
    if asked:
        parts.teacher.prepare(student)
    parts.unit.prepare(student, parts.teacher)
    reference = parts.divergence.reference(student) if asked else student.snapshot()
    _bring_to(step, parts, student)
    lessons = parts.teacher.score(_views(step, parts, student)) if asked else []
    lessons = [x for x in lessons if x.taught and x.trajectory.learnable]
    taught = {x.trajectory.episode for x in lessons}
    untaught = [
        Lesson(trajectory=t) for t in step.trajectories if t.learnable and t.episode not in taught
    ]
    scored, compared = [], None
    models = parts, step, student, reference
    if lessons:
        scored, compared = _scored(*models, lessons)
    if untaught:
        scored += _scored(*models, untaught)[0]
    order = {t.episode: place for place, t in enumerate(step.trajectories)}
    # The compared tokens keep their order, since the lessons' is that of the trajectories.
    return sorted(scored, key=lambda one: order[one.lesson.trajectory.episode]), compared


def _bring_to(step: SavedStep, parts: RunConfig, student: LanguageModel) -> None:
    """Give the models the weights they had at the step."""
    if step.number == 0:
        return
    other = not _same(parts.student, step.config.student)
    if _moves(parts.teacher) and (other or not _same(parts.teacher, step.config.teacher)):
        raise ValueError(_not_kept(step, f"a {parts.teacher.kind} teacher", None))
    if other:
        return
    checkpoint = latest(step.run / "checkpoints")
    kept = load_progress(checkpoint).step if checkpoint else None
    if checkpoint is None or kept != step.number:
        raise ValueError(_not_kept(step, "the student", kept))
    check_start(load_progress(checkpoint), student.digest(), parts.student.path)
    optimizer = torch.optim.SGD(student.module.parameters())
    tensors = restore_weights(checkpoint, student, optimizer)
    if _moves(parts.teacher):
        parts.teacher.restore(tensors)


def _same(one: Settings, other: Settings) -> bool:
    """Whether two parts have the same settings, whatever they have lived through."""
    return one.model_dump(mode="json") == other.model_dump(mode="json")


def _moves(teacher: Teacher) -> bool:
    """Whether the teacher has weights of its own that follow the student's."""
    return type(teacher).sync is not Teacher.sync


def _not_kept(step: SavedStep, what: str, kept: int | None) -> str:
    there = "" if kept is None else f" (the checkpoint is of step {kept})"
    return (
        f"{what} of step {step.number} is not kept{there}: replay --step 0, "
        "or give another model with student.path=FOLDER and teacher=frozen"
    )


def _views(step: SavedStep, parts: RunConfig, student: LanguageModel) -> list[View]:
    return parts.view.build(_briefed(step, parts, student), student.template)


def _briefed(step: SavedStep, parts: RunConfig, student: LanguageModel) -> list[Briefed]:
    path = step.run / "scores" / f"step-{step.number:05d}.parquet"
    known = [source.model_dump(mode="json") for source in step.config.privilege]
    if path.is_file() and known == [s.model_dump(mode="json") for s in parts.privilege]:
        views = {one.lesson.trajectory.episode: one.lesson.view for one in step.scores()}
        if any(view is not None for view in views.values()):
            return [
                Briefed(trajectory=t, privileges=(), available=False)
                if (view := views.get(t.episode)) is None
                else view.briefed
                for t in step.trajectories
            ]
    env = parts.env.build()
    for source in parts.privilege:
        source.prepare(student.template)
        source.enter(env)
        source.meet(student, parts.teacher)
    env.close()
    for earlier in step.earlier:
        gather(parts.privilege, load_trajectories(earlier))
    return gather(parts.privilege, step.trajectories)


def _scored(
    parts: RunConfig,
    step: SavedStep,
    student: LanguageModel,
    reference: LanguageModel,
    lessons: list[Lesson],
) -> tuple[list[Scored], Compared | None]:
    time = step.number, step.history()
    divergence = parts.divergence_at(*time)
    tokens = Tokens.of(lessons, student.device)
    trajectories = [x.trajectory for x in lessons]
    own, before = (model.head(_alone(model, trajectories)) for model in (student, reference))
    teacher = parts.teacher.speaker(lessons) if lessons[0].taught else None
    question = Question(
        ids_N=tokens.ids_N,
        divergence=None if teacher is None or divergence.sampled else divergence,
        temperature=parts.rollout_at(*time).temperature or 1.0,
        ranks=True,
        acted_N=acted(lessons, student.device),
    )
    measured = measure(question, own, teacher, before)
    scored = split_scores(measured, tokens, lessons, student.vocabulary)
    if teacher is None or question.divergence is None:
        return scored, None
    return scored, _compared(question, own, teacher, before, scored)


def _alone(model: LanguageModel, trajectories: Sequence[Trajectory]) -> torch.Tensor:
    """The hidden states (N, H) of a model that knows what the student knew: a teacher untold."""
    untold = Teacher.of_kind("live")()
    untold.prepare(model)
    views = [
        View(
            briefed=Briefed(trajectory=t, privileges=()),
            ids=t.ids,
            position=np.arange(len(t.ids)),
            segments=t.segments,
        )
        for t in trajectories
    ]
    states = [lesson.hidden_NH for lesson in untold.score(views)]
    return torch.cat([hidden_NH for hidden_NH in states if hidden_NH is not None])


def _compared(
    question: Question,
    student: Speaker,
    teacher: Speaker,
    reference: Speaker,
    scored: Sequence[Scored],
) -> Compared:
    """The divergence over the whole vocabulary, some tokens at a time."""
    divergence, temperature = question.divergence, question.temperature
    assert divergence is not None
    measured = join_scores(scored)
    assert measured.teacher is not None
    size = max(_TILE // student.vocabulary, 1)
    pieces = []
    for start in range(0, len(question.ids_N), size):
        tile = slice(start, start + size)
        speakers = (student, teacher, reference)
        own_RV, teacher_RV, before_RV = (_logprobs(x, tile, temperature) for x in speakers)
        at_R = question.ids_N[tile].cpu()
        acted_R = None if question.acted_N is None else question.acted_N[tile].cpu()
        rows = Rows(own_RV, teacher_RV, at_R, True, before_RV, acted_R)
        pieces.append(compare_rows(divergence, rows, measured.teacher.entropy_N[tile]))
    return Compared(
        value_N=torch.cat([piece.value_N for piece in pieces]),
        pull_N=torch.cat([piece.pull_N for piece in pieces]),
        mass_N=torch.cat([piece.mass_N for piece in pieces]),
        exact=True,
    )


def _logprobs(speaker: Speaker, tile: slice, temperature: float) -> torch.Tensor:
    """Log-probabilities (R, V) of some rows, in main memory."""
    logits_RV = speaker.logits(tile.stop - tile.start)(tile)
    return torch.log_softmax(logits_RV / temperature, -1).cpu()
