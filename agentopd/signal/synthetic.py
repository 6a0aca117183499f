"""A synthetic step: episodes that nobody played, and what models might have said of them.

Parts are tried on it, to see what they do. So it holds, on a small scale, what makes a difference
to one part or another: turns of one token and of many, episodes of one turn and of many, groups
whose rewards differ and groups whose rewards do not, solved and failed ones of both, episodes
without a lesson, tokens that the rollout's policy made likelier or less likely than the student
does, teachers that agree and that do not, entropies from nothing to all there is, and an
environment that states something about everything it is asked for.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from agentopd.base.parts import Settings
from agentopd.base.types import (
    Briefed,
    EndReason,
    Lesson,
    Owner,
    Privilege,
    Trajectory,
    Turn,
    View,
)
from agentopd.base.variations import settings_in, written
from agentopd.signal.evidence import Evidence, Opinion
from agentopd.signal.groups import group_success
from agentopd.signal.tokens import Tokens

# N tokens of some lessons, T tokens of a trajectory, V vocabulary

_OBSERVED = 2
"""Tokens of the template before each answer."""


_MOST_WORDS, _MOST_TURNS = 2_048, 80
"""What is larger takes longer than it tells."""
_ASKED = ("verifier", "rubric writer")
"""Families whose members count what is put to a model, and nothing of a step."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a synthetic step is.

    Args:
        vocabulary: tokens that the models know.
        longest: of turns in an episode, and of tokens in a turn.
        stated: values that the environment states now and then, beside true, false and nothing.
        enough: whether it is as large as it should be.
    """

    vocabulary: int = 32
    longest: int = 6
    stated: tuple[Any, ...] = ()
    enough: bool = True

    @classmethod
    def to_show(cls, *parts: Any) -> Shape:
        """Large enough for what these parts count, which their settings say: turns, tokens, or the
        likeliest of the vocabulary. What they ask the environment for is stated.
        """
        told = [x for _, x in settings_in(parts) if getattr(x, "family", "") not in _ASKED]
        values = [x for part in told for _, field in part for x in _flat(field)]
        counts = [x for x in values if isinstance(x, int) and not isinstance(x, bool)]
        most = max([4, *counts])
        said = [x for part in told for x in _said(part)]
        return cls(
            vocabulary=min(max(most + 8, 32), _MOST_WORDS),
            longest=min(most + 2, _MOST_TURNS),
            stated=tuple(dict.fromkeys(said)),
            enough=most + 2 <= _MOST_TURNS,
        )


@dataclass(frozen=True)
class SyntheticStep:
    """Episodes and the models' opinions of them, all in float64.

    Attributes:
        lessons: of all episodes; a lesson's hidden states are the teacher's logits (N, V).
        student_NV, reference_NV: logits of each episode's tokens, by its number.
    """

    lessons: Sequence[Lesson]
    student_NV: dict[int, torch.Tensor]
    reference_NV: dict[int, torch.Tensor]

    @classmethod
    def of(cls, shape: Shape, teacher: int = 0) -> SyntheticStep:
        """The step of that size; always the same, and shared: nobody may change its arrays.

        Args:
            teacher: which of many teachers teaches.
        """
        return _step(shape, teacher)

    @property
    def taught(self) -> list[Lesson]:
        """The episodes of which a teacher was asked."""
        return [x for x in self.lessons if x.hidden_NH is not None]

    def evidence(self) -> Evidence:
        """What parts see of the taught episodes, as one micro-batch, at the first step."""
        lessons = self.taught
        tokens = Tokens.of(lessons, torch.device("cpu"))
        own_NV = torch.cat([self.student_NV[x.trajectory.episode] for x in lessons])
        told_NV = torch.cat([x.hidden_NH for x in lessons if x.hidden_NH is not None])
        p_NV, q_NV = own_NV.log_softmax(-1), told_NV.log_softmax(-1)
        reward_L = own_NV.new_tensor([x.trajectory.reward for x in lessons])
        success = group_success([x.trajectory for x in self.lessons])
        return Evidence(
            student=_opinion(p_NV, tokens),
            teacher=_opinion(q_NV, tokens),
            tokens=tokens,
            lessons=lessons,
            value_N=(p_NV.exp() * (p_NV - q_NV)).sum(-1),
            advantage_N=(reward_L - 0.3)[tokens.lesson_N],
            success_L=own_NV.new_tensor([success[x.trajectory.episode] for x in lessons]),
            route_L=torch.ones_like(reward_L),
        )

    def without(self, *episodes: int) -> SyntheticStep:
        """The same, where the teacher was not asked of some episodes."""
        lessons = [
            replace(x, view=None, hidden_NH=None) if x.trajectory.episode in episodes else x
            for x in self.lessons
        ]
        return replace(self, lessons=lessons)


@lru_cache(maxsize=8)  # every configuration with weights is tried on one, most on the same
def _step(shape: Shape, teacher: int) -> SyntheticStep:
    generator = torch.Generator().manual_seed(0)
    lessons: list[Lesson] = []
    student_NV: dict[int, torch.Tensor] = {}
    reference_NV: dict[int, torch.Tensor] = {}
    for episode, plan in enumerate(_plans(shape.longest)):
        own_NV = _logits(sum(plan.turns), shape.vocabulary, generator, plan.alike)
        gap_NV = _gaps(own_NV, generator, teacher, plan.alike)
        reference_NV[episode] = own_NV + 0.3 * _noise(own_NV, generator)
        trajectory = _trajectory(episode, plan, own_NV, shape, generator)
        view = _view(trajectory, teacher, shape.stated) if plan.taught else None
        student_NV[episode] = own_NV
        lessons.append(
            Lesson(
                trajectory=trajectory,
                view=view,
                hidden_NH=own_NV + gap_NV if plan.taught else None,
            )
        )
    return SyntheticStep(lessons, student_NV, reference_NV)


@dataclass(frozen=True, slots=True)
class _Plan:
    """An episode: its task, the tokens of each turn, the reward at its end, how it went, and
    whether its turns are so alike that another measure ranks them in another order.
    """

    task: int
    turns: tuple[int, ...]
    reward: float
    solved: bool
    taught: bool = True
    alike: bool = False


def _plans(longest: int) -> list[_Plan]:
    return [
        # A group whose rewards tell its episodes apart.
        _Plan(0, (3, 1, 2), 1.0, True),
        _Plan(0, (2, 4), 0.0, False),
        _Plan(0, (1,) * longest, 0.4, False),
        _Plan(0, (1, longest), 1.0, True),
        _Plan(0, (1, 2, 1, 2, 1), 0.9, True, alike=True),
        _Plan(0, (1, 1, 2, 1, 1, 2), 0.1, False, alike=True),
        _Plan(0, (2, 1, 1, 1, 2, 1), 0.6, False, alike=True),
        # Groups that are dead: of failures, and of one solved and one failed.
        _Plan(1, (2, 2), 0.0, False),
        _Plan(1, (4,), 0.0, False),
        _Plan(2, (1, 3), 0.2, True),
        _Plan(2, (2, 1, 2, 3), 0.2, False),
        # Groups in which not all have a lesson; the last one is dead.
        _Plan(3, (3, 2), 0.7, True),
        _Plan(3, (1, 2, 2), 0.1, False),
        _Plan(3, (2, 3), 0.5, True, taught=False),
        _Plan(3, (2, 1), 0.0, False, taught=False),
        _Plan(4, (2,), 0.3, False, taught=False),
        _Plan(4, (2, 2), 0.3, False),
    ]


def _said(settings: Settings) -> Iterator[Any]:
    """The texts and numbers that somebody has written there."""
    for name in written(settings):
        for value in _flat(getattr(settings, name)):
            if isinstance(value, int | float | str) and not isinstance(value, bool):
                yield value


def _flat(value: Any) -> Iterator[Any]:
    """The values in collections; of other settings, none."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        yield from (x for inner in value for x in _flat(inner))
    elif not isinstance(value, Settings):
        yield value


def _noise(like_NV: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(like_NV.shape, generator=generator, dtype=torch.float64)


def _scales(scales: Sequence[float], tokens: int, generator: torch.Generator) -> torch.Tensor:
    """(N, 1) one of the scales for each token."""
    chosen_N = torch.randint(len(scales), (tokens,), generator=generator)
    return torch.tensor(scales, dtype=torch.float64)[chosen_N, None]


def _logits(tokens: int, vocabulary: int, generator: torch.Generator, alike: bool) -> torch.Tensor:
    """(N, V) of a model that is sure of some tokens and of others not."""
    scales = (1.5,) if alike else (0.05, 1.0, 2.0, 4.0, 12.0, 60.0)
    scale_N1 = _scales(scales, tokens, generator)
    blank_NV = torch.empty(tokens, vocabulary)
    return scale_N1 * _noise(blank_NV, generator)


def _gaps(
    own_NV: torch.Tensor, generator: torch.Generator, teacher: int, alike: bool
) -> torch.Tensor:
    """(N, V) what a teacher's logits differ by; the first teacher's number does not disturb what
    the generator draws next.
    """
    scales = (1.0,) if alike else (0.001, 0.05, 0.5, 2.0, 6.0)
    scale_N1 = _scales(scales, len(own_NV), generator)
    noise_NV = _noise(own_NV, generator)
    if teacher:
        another = torch.Generator().manual_seed(1_000 * teacher + len(own_NV))
        noise_NV = _noise(own_NV, another)
    return scale_N1 * noise_NV


def _trajectory(
    episode: int, plan: _Plan, own_NV: torch.Tensor, shape: Shape, generator: torch.Generator
) -> Trajectory:
    """An episode whose tokens are drawn evenly, so that likely and unlikely ones are among them;
    the rollout's policy was not quite the student.
    """
    tokens = len(own_NV)
    sampled_N = torch.randint(shape.vocabulary, (tokens,), generator=generator)
    likeliest_N = torch.rand(tokens, generator=generator) < 0.5
    sampled_N = torch.where(likeliest_N, own_NV.argmax(-1), sampled_N)
    logprob_N = own_NV.log_softmax(-1).gather(1, sampled_N[:, None]).squeeze(1)
    drift_N = torch.randn(tokens, generator=generator, dtype=torch.float64)
    drift_N = drift_N * _scales((0.1, 0.6, 4.0), tokens, generator).squeeze(1)
    behaviour_N = (logprob_N - drift_N).clamp(max=-1e-4)
    return _played(episode, plan, sampled_N.numpy(), behaviour_N.numpy(), shape)


def _played(
    episode: int,
    plan: _Plan,
    sampled_N: npt.NDArray[np.int64],
    logprob_N: npt.NDArray[np.float64],
    shape: Shape,
) -> Trajectory:
    sizes = [(_OBSERVED, own) for own in plan.turns]
    trainable = np.concatenate([np.arange(a + b) >= a for a, b in sizes])
    turn = np.repeat(np.arange(len(sizes)), [a + b for a, b in sizes])
    ids, logprob = np.zeros(len(turn), dtype=np.int64), np.full(len(turn), np.nan)
    ids[trainable], logprob[trainable] = sampled_N, logprob_N
    stops = np.cumsum([a + b for a, b in sizes])
    return Trajectory(
        ids=ids,
        turn=turn.astype(np.int32),
        trainable=trainable,
        owner=np.where(trainable, _owners(turn, episode), Owner.TEMPLATE).astype(np.uint8),
        told=trainable if episode % 3 == 1 else None,
        # Wider than a rollout's, so that what is computed from it can be told apart sharply.
        logprob=logprob,  # pyright: ignore[reportArgumentType]
        messages=(),
        turns=tuple(
            _turn(episode, plan, k, int(stop), shape.stated) for k, stop in enumerate(stops)
        ),
        segments=((0, len(ids)),),
        env="synthetic",
        episode=episode,
        task=plan.task,
        seed=plan.task,
        end=EndReason.TERMINATED,
        prompt={"guide": "look ahead", "reference": ["up", "left"], "skill": "synthetic"},
    )


def _owners(turn: npt.NDArray[np.int64], episode: int) -> npt.NDArray[np.int64]:
    """The teacher wrote some turns of every second episode."""
    return np.where((turn % 2 == 1) & (episode % 2 == 1), Owner.TEACHER, Owner.STUDENT)


def _turn(episode: int, plan: _Plan, index: int, stop: int, stated: Sequence[Any]) -> Turn:
    own, last = plan.turns[index], index == len(plan.turns) - 1
    words = [x for x in stated if isinstance(x, str)]
    said = words[(episode + index) % len(words)] if words else "up"
    facts = Stated({"moves_closer": index % 2 == 0, "well_formed": own > 1}, stated, episode, index)
    known = {
        "task_id": str(plan.task),
        "success": plan.solved and last,
        "action_valid": (episode + index) % 3 > 0,
        "feedback": f"turn {index}",
        "oracle": ["up"],
        "metrics": {},
        "facts": facts,
    }
    return Turn(
        index=index,
        observation=f"state {index} {said}",
        action=f"<think>{said}</think> {said}" if own > 1 else said,
        start=stop - own,
        act=stop - own + own // 2,
        stop=stop,
        cut=own > 3,
        reward=plan.reward if last else 0.0,
        info=Stated(known, stated, episode, index),
    )


def _view(trajectory: Trajectory, teacher: int, stated: Sequence[Any]) -> View:
    """The teacher's context, into which some of what the student said was inserted in front: told
    of one turn, by whichever source a part may name.
    """
    told = trajectory.turns[0 if teacher else -1]
    inserted = trajectory.ids[told.start : max(told.stop - 1, told.start + 1)]
    length, shift = len(trajectory.ids), len(inserted)
    return View(
        briefed=Briefed(
            trajectory=trajectory,
            privileges=tuple(
                Privilege(source=name, text=told.action, turn=told.index)
                for name in ("", *(x for x in stated if isinstance(x, str)))
            ),
        ),
        ids=np.concatenate([inserted, trajectory.ids]),
        position=np.arange(length) + shift,
        segments=((0, length + shift),),
    )


def _opinion(logprob_NV: torch.Tensor, tokens: Tokens) -> Opinion:
    at_N1 = logprob_NV.gather(1, tokens.ids_N[:, None])
    return Opinion(
        logprob_N=at_N1.squeeze(1),
        entropy_N=-(logprob_NV.exp() * logprob_NV).sum(-1),
        top_N=logprob_NV.amax(-1),
        rank_N=(logprob_NV > at_N1).sum(-1),
    )


class Stated(dict[str, Any]):
    """What an environment states of a turn. Of a name that it does not know it states true, false,
    nothing, or a value that somebody has thought of, as the name and the turn decide.
    """

    def __init__(
        self, known: dict[str, Any], stated: Sequence[Any], episode: int, turn: int
    ) -> None:
        super().__init__(known)
        self._values = (True, False, None, *stated)
        self._turn = (episode, turn)

    def __missing__(self, name: str) -> Any:
        drawn = zlib.crc32(f"{name} {self._turn}".encode())
        return self._values[drawn % len(self._values)]

    def get(self, key: str, default: Any = None) -> Any:
        """See `dict.get`."""
        value = self[key]
        return default if value is None else value

    def __contains__(self, key: object) -> bool:
        return self[str(key)] is not None
