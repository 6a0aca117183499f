"""What can be read off the student's answers: form, repetition, and whether a secret got out."""

from __future__ import annotations

import math
import zlib

from agentopd.base.types import EndReason, Trajectory, View
from agentopd.models.phrases import inserted_phrases, phrases


def answer_probes(trajectory: Trajectory, view: View | None, size: int) -> dict[str, list[float]]:
    """Values of each answer, in order; NaN where an answer has none.

    invalid: the environment could not read it. cut: it hit the limit of tokens.
    repetition: the share of its phrases that stood in it before; an answer too short to have a
    phrase has none. leak: it holds a phrase of the text that only the teacher was shown, and
    nothing the student had read or written by then holds that phrase; where the teacher was shown
    no phrase there is nothing to leak, and where a text was written by one who had read the answers
    (`Privilege.quotes`) there is no telling a secret from a quote.

    Args:
        view: the teacher's context; None where there is no teacher.
        size: tokens of a phrase.
    """
    quoted = view is not None and any(p.quotes for p in view.briefed.privileges)
    secret = inserted_phrases(view, size) if view is not None and not quoted else set()
    values: dict[str, list[float]] = {"invalid": [], "cut": [], "repetition": [], "leak": []}
    for turn in trajectory.turns:
        said = phrases(trajectory.ids[turn.start : turn.stop].tolist(), size)
        told = secret.intersection(said)
        if told:
            told -= set(phrases(trajectory.ids[: turn.start].tolist(), size))
        values["invalid"].append(not turn.valid)
        values["cut"].append(turn.cut)
        values["repetition"].append(1 - len(set(said)) / len(said) if said else math.nan)
        values["leak"].append(bool(told) if secret else math.nan)
    return values


def episode_probes(trajectory: Trajectory) -> dict[str, list[float]]:
    """The one value of an episode; NaN where it has none.

    turns: how many there were. truncated: 1 where a limit ended it. compression: how many times
    smaller zlib makes all its answers together, the more the oftener they repeat themselves (beyond
    10 on long texts an answer runs in circles, 2604.08527; below 1 it is merely short).
    """
    text = "\n".join(turn.action for turn in trajectory.turns).encode("utf-8", "replace")
    return {
        "turns": [len(trajectory.turns)],
        "truncated": [truncated(trajectory)],
        "compression": [len(text) / len(zlib.compress(text)) if text else math.nan],
    }


def truncated(trajectory: Trajectory) -> bool:
    """Whether a limit ended the episode, the environment's or the rollout's."""
    return trajectory.end not in (EndReason.TERMINATED, EndReason.ERROR)
