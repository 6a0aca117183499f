"""A saved step under several arms, and the arms beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from agentopd.looking.replay.arms import arm_configs
from agentopd.looking.replay.rescore import rescore
from agentopd.looking.replay.rows import Compared, compare_kept
from agentopd.looking.replay.saved import SavedStep, read_step
from agentopd.looking.replay.signal import Signal, signal_of
from agentopd.running.config import RunConfig
from agentopd.signal.scores import Scored, join_scores
from agentopd.signal.tokens import Tokens, mean_by
from agentopd.stored.trajectories import load_trajectories
from agentopd.units.base import Unit

# N tokens of the step, T turns


@dataclass(frozen=True)
class Replay:
    """A step under several arms.

    Attributes:
        arms: by name, the run's own first; all give a number to the same tokens.
        success_N: whether the token's episode was solved.
        notices: of each arm, which of its settings change nothing.
    """

    run: Path
    step: int
    overrides: Mapping[str, Sequence[str]]
    tokens: Tokens
    success_N: torch.Tensor
    arms: dict[str, Signal]
    notices: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """The arms beside each other, as JSON.

        Of each arm: `share_by_turn`, each turn's share of the sum of all tokens' |push|;
        `mean_by_turn`, the mean push; both also `by_success`; `correlation` (Pearson's) and
        `sign_agreement` of its tokens' pushes with the first arm's, the latter over the tokens that
        both push; `mass`, the mean share of the student's probability that its divergence looked
        at; None where there is nothing to say. `exact` tells whether the kept tokens were enough,
        `notices` which settings change nothing.
        """
        turns = int(self.tokens.turn_N.max()) + 1
        first = next(iter(self.arms.values()))
        count_T = torch.bincount(self.tokens.turn_N, minlength=turns)
        return {
            "run": str(self.run),
            "step": self.step,
            "episodes": self.tokens.lessons,
            "tokens": len(self.tokens),
            "tokens_by_turn": count_T.tolist(),
            "arms": {
                name: {
                    "overrides": list(self.overrides.get(name, ())),
                    **self._by_turn(signal.push_N, turns),
                    "by_success": self._by_success(signal.push_N),
                    "correlation": _correlation(first.push_N, signal.push_N),
                    "sign_agreement": _sign_agreement(first.push_N, signal.push_N),
                    "mass": _mean(signal.mass_N[~signal.mass_N.isnan()]),
                    "exact": signal.exact,
                    "notices": list(self.notices.get(name, ())),
                }
                for name, signal in self.arms.items()
            },
        }

    def _by_turn(self, push_N: torch.Tensor, turns: int) -> dict[str, Any]:
        size_N, turn_N = push_N.abs(), self.tokens.turn_N
        total_T = size_N.new_zeros(turns).index_add(0, turn_N, size_N)
        share_T = total_T / total_T.sum() if total_T.sum() else total_T
        return {
            "share_by_turn": share_T.tolist(),
            "mean_by_turn": mean_by(push_N, turn_N, turns).tolist(),
        }

    def _by_success(self, push_N: torch.Tensor) -> dict[str, Any]:
        total = float(push_N.abs().sum())
        own = {"solved": push_N[self.success_N], "unsolved": push_N[~self.success_N]}
        return {
            label: {"share": float(x.abs().sum()) / total if total else 0.0, "mean": _mean(x)}
            for label, x in own.items()
        }


def replay(
    run: Path,
    arms: Mapping[str, Sequence[str]],
    step: int | None = None,
    rescored: bool = False,
) -> Replay:
    """A saved step of a run under other settings, without playing any episode again.

    Args:
        run: the run's folder.
        arms: `KEY=VALUE` overrides of the run's own settings, by the arm's name; the run's own
            settings are an arm of their own.
        step: counted from 0; the last one with saved scores if not given, or with `rescored` the
            first.
        rescored: ask the models again, in place of the saved scores: for other teachers, views and
            privileges.

    Raises:
        ValueError: the folder does not hold what this takes, or an arm cannot be replayed.
    """
    saved = read_step(run, step, scored=not rescored)
    configs = arm_configs(saved.config, arms, rescored)
    scores = None if rescored else saved.scores()
    signals: dict[str, Signal] = {}
    everything: list[Scored] = []
    for name, method in configs.items():
        try:
            signals[name], everything = _replayed(saved, method, scores)
        except ValueError as error:
            raise ValueError(f"arm {name}: {error}") from error
    tokens = Tokens.of([one.lesson for one in everything], torch.device("cpu"))
    success_L = torch.tensor([one.lesson.trajectory.success for one in everything])
    return Replay(
        run=run,
        step=saved.number,
        overrides=arms,
        tokens=tokens,
        success_N=success_L[tokens.lesson_N],
        arms=signals,
        notices={name: method.notices() for name, method in configs.items()},
    )


class _Absent:
    """Stands for a model where none is loaded."""

    def __getattr__(self, name: str) -> Any:
        raise ValueError("its unit asks a model; let it with --rescore")


def _replayed(
    saved: SavedStep, method: RunConfig, scores: list[Scored] | None
) -> tuple[Signal, list[Scored]]:
    """One arm's signal, and the episodes that it is of."""
    parts = method.fresh()
    if scores is None:
        scores, compared = rescore(saved, parts)
    else:
        absent: Any = _Absent()
        parts.unit.prepare(absent, absent)
        compared = _compared(saved, method, scores)
    _teach_unit(parts.unit, saved)
    return signal_of(parts, scores, compared, saved.number, saved.history()), scores


def _compared(saved: SavedStep, method: RunConfig, scored: Sequence[Scored]) -> Compared | None:
    """What an arm's divergence makes of the taught episodes' saved numbers.

    Raises:
        ValueError: not enough was saved.
    """
    if not method.mix.distil_coefficient:
        return None
    taught = [one for one in scored if one.taught]
    if not taught:
        raise ValueError("the run asked no teacher; ask one with --rescore")
    own, its = (x.divergence_at(saved.number, saved.history()) for x in (method, saved.config))
    if own.sampled:
        return None
    found = compare_kept(own, taught)
    measured = join_scores(taught)
    same = own.model_dump() == its.model_dump()
    if not same or measured.divergence_N is None:
        return found
    return replace(found, value_N=measured.divergence_N)


def _teach_unit(unit: Unit, saved: SavedStep) -> None:
    """Let a unit that learns from trajectories see those it had seen by the step."""
    if type(unit).learn is Unit.learn:
        return
    for path in saved.earlier:
        unit.learn([t for t in load_trajectories(path) if t.learnable])
    unit.learn([t for t in saved.trajectories if t.learnable])


def _mean(value_N: torch.Tensor) -> float | None:
    return float(value_N.mean()) if len(value_N) else None


def _correlation(one_N: torch.Tensor, other_N: torch.Tensor) -> float | None:
    """Pearson's, in double precision; None where either does not vary."""
    a_N, b_N = (x.double() - x.double().mean() for x in (one_N, other_N))
    scale = float(a_N.norm() * b_N.norm())
    return float(a_N @ b_N) / scale if scale else None


def _sign_agreement(one_N: torch.Tensor, other_N: torch.Tensor) -> float | None:
    both_N = (one_N != 0) & (other_N != 0)
    if not both_N.any():
        return None
    return float((one_N.sign() == other_N.sign())[both_N].float().mean())
