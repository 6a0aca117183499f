"""Texts of privileged information, written from templates.

One place for the wording, because a model is elicited by it: the embedded models were taught these
sentences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def skill(guide: str, solved: int, episodes: int, mistakes: Counter[str], most: int = 3) -> str:
    """Advice, how often the task was solved, and the most frequent mistakes with their counts."""
    parts = ["Skill:", guide]
    if episodes:
        parts.append(f"Solved {solved} of {episodes}.")
    if mistakes and most:
        parts.append(
            "Mistakes: " + ", ".join(f"{name} {n}" for name, n in mistakes.most_common(most)) + "."
        )
    return " ".join(filter(None, parts))


def solution(plan: str) -> str:
    """The whole solution of the episode's task."""
    return f"Solution: {plan}"


def next_actions(actions: str) -> str:
    """The best next actions from here."""
    return f"Best next: {actions}"


def feedback(said: str) -> str:
    """What the environment says of one step."""
    return f"Feedback: {said}"


def reflection(
    success: bool, turns: int, mistakes: Sequence[tuple[int, str]], most: int = 3
) -> str:
    """A look back on one attempt: how it ended, and its last `most` mistakes.

    A mistake is `(turn, feedback)`, turns counted from 1.
    """
    outcome = f"solved in {turns} turns." if success else f"not solved in {turns} turns."
    told = [f"Turn {turn}: {said}" for turn, said in mistakes[max(len(mistakes) - most, 0) :]]
    return " ".join(["Reflection:", outcome, *told])
