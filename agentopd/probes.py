"""Probes: what the teacher thinks of the student, by turn and by success.

They read the log-probabilities that the loss is made of, so they cost no extra forward pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from agentopd.signal.divergences import entropy, kl
from agentopd.signal.tokens import Tokens
from agentopd.types import EndReason, Lesson, Trajectory

# N tokens, V vocabulary

_TOP = 8


@torch.no_grad()
def token_probes(
    student_NV: torch.Tensor, teacher_NV: torch.Tensor, tokens: Tokens
) -> dict[str, torch.Tensor]:
    """Values of each token, (N,).

    divergence: KL(student || teacher) in nats. log_ratio: |log p(y) - log q(y)|.
    student_entropy, teacher_entropy: in nats. overlap: share of the student's eight likeliest
    tokens among the teacher's.
    """
    at_N1 = tokens.ids_N[:, None]
    k = min(_TOP, student_NV.shape[1])
    top_s, top_t = student_NV.topk(k).indices, teacher_NV.topk(k).indices
    shared_N = (top_s[:, :, None] == top_t[:, None, :]).any(-1).float().mean(-1)
    return {
        "divergence": kl(student_NV, teacher_NV),
        "log_ratio": (student_NV.gather(1, at_N1) - teacher_NV.gather(1, at_N1)).squeeze(1).abs(),
        "student_entropy": entropy(student_NV),
        "teacher_entropy": entropy(teacher_NV),
        "overlap": shared_N,
    }


class Collector:
    """Sums probes over a step's micro-batches."""

    def __init__(self) -> None:
        self._by_turn: dict[str, dict[int, list[float]]] = defaultdict(
            lambda: defaultdict(lambda: [0.0, 0.0])
        )
        self._by_success: dict[str, dict[bool, list[float]]] = defaultdict(
            lambda: defaultdict(lambda: [0.0, 0.0])
        )

    def add(
        self, probes: dict[str, torch.Tensor], tokens: Tokens, lessons: Sequence[Lesson]
    ) -> None:
        """Take in a micro-batch."""
        solved = torch.tensor(
            [lesson.trajectory.success for lesson in lessons], device=tokens.ids_N.device
        )
        turns = int(tokens.turn_N.max()) + 1
        for name, value_N in probes.items():
            for turn, (total, count) in enumerate(_sums(value_N, tokens.turn_N, turns)):
                _add(self._by_turn[name][turn], total, count)
            for success, (total, count) in enumerate(
                _sums(value_N, solved[tokens.lesson_N].long(), 2)
            ):
                _add(self._by_success[name][bool(success)], total, count)

    def result(self) -> dict[str, Any]:
        """Means by turn (lists) and by success; empty where no teacher was asked."""
        if not self._by_turn:
            return {"by_turn": {}, "by_success": {}}
        some = next(iter(self._by_turn.values()))
        turns = range(max(some) + 1)
        by_turn: dict[str, list[Any]] = {"count": [int(some[t][1]) for t in turns]}
        for name, sums in self._by_turn.items():
            by_turn[name] = [_mean(sums[t]) for t in turns]
        return {
            "by_turn": by_turn,
            "by_success": {
                label: {name: _mean(sums[flag]) for name, sums in self._by_success.items()}
                for label, flag in (("solved", True), ("unsolved", False))
            },
        }


def rollout_probes(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Means over a step's episodes, and the shares of answers and ends of each sort."""
    turns = [turn for t in trajectories for turn in t.turns]
    return {
        "success": _share(t.success for t in trajectories),
        "reward": sum(t.reward for t in trajectories) / max(len(trajectories), 1),
        "turns": len(turns) / max(len(trajectories), 1),
        "invalid": _share(not turn.valid for turn in turns),
        "cut": _share(turn.cut for turn in turns),
        "truncated": _share(
            t.end not in (EndReason.TERMINATED, EndReason.ERROR) for t in trajectories
        ),
        "errors": _share(t.end is EndReason.ERROR for t in trajectories),
        "new_segments": sum(len(t.segments) - 1 for t in trajectories) / max(len(trajectories), 1),
    }


def _sums(value_N: torch.Tensor, group_N: torch.Tensor, groups: int) -> list[tuple[float, float]]:
    total = value_N.new_zeros(groups).index_add(0, group_N, value_N)
    return list(
        zip(total.tolist(), torch.bincount(group_N, minlength=groups).tolist(), strict=True)
    )


def _add(pair: list[float], total: float, count: float) -> None:
    pair[0] += total
    pair[1] += count


def _mean(pair: list[float]) -> float | None:
    return pair[0] / pair[1] if pair[1] else None


def _share(flags: Any) -> float:
    values = list(flags)
    return sum(values) / len(values) if values else 0.0
