"""Texts of privileged information, written from templates.

One place for the wording, because a model is elicited by it: the embedded models were taught these
sentences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from agentopd.base.types import Turn
from agentopd.environment.contract import without_reasoning

WORDS = tuple(
    """amber basil cedar denim ember fable grain hazel ivory jewel kelp lemon maple nickel olive
    pearl quartz raven saffron tulip umber velvet walnut yarrow zinc almond birch coral daisy
    fern""".split()  # noqa: SIM905  (a list of this length is easier to read as text)
)
"""Words that say nothing: none of them is about acting, and no two are about one thing."""
NOTES = WORDS[:24]
"""Those that notes are made of."""


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


def noted(text: str, words: Sequence[str]) -> str:
    """A text that ends in a note, which says nothing and can only be known by being told."""
    return f"{text}\nNote: {' '.join(words)}."


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


def attempt(episode: str) -> str:
    """All of an episode that solved the task."""
    return f"An attempt that solved the task:\n{episode}"


def peer_turn(number: int, action: str) -> str:
    """What a solved attempt did in one turn, counted from 1."""
    return f"A solved attempt's turn {number}: {action}"


def own_attempt(body: str, success: bool) -> str:
    """This attempt, and how it ended."""
    return f"Attempt, {'solved' if success else 'not solved'}: {body}"


def example(plan: str) -> str:
    """A solution as an example of an answer that is to be given in words of one's own."""
    return f"{solution(plan)}\nThis is one example of an answer. Give one of your own."


def confidence(solved: int, episodes: int, line: str) -> str:
    """How sure one may be of an answer, and the line that it closes with."""
    return f"{solved} of {episodes} attempts solved this task: an answer closes with\n{line}"


def beginning(plan: str) -> str:
    """How a solution begins."""
    return f"Solution begins: {plan}"


def without_thoughts(turn: Turn) -> Turn:
    """A turn whose answer says nothing of what was thought."""
    return replace(turn, action=without_reasoning(turn.action).strip())


def reflected(text: str) -> str:
    """What a model wrote in looking back."""
    return f"Reflection: {text}"


def phrase(success: bool) -> str:
    """The words that stand between an attempt and the next, as it was solved or not."""
    if success:
        return "This solves it. Once more, in other words."
    return "Wait, this does not solve it. Once more, from the start."


def message(text: str) -> str:
    """What a teacher says of an attempt to whoever made it."""
    return f"Your teacher says: {text}"


def diagnosis(text: str) -> str:
    """What a model says of one turn."""
    return f"Diagnosis: {text}"


def written_skill(text: str) -> str:
    """A skill that a model has put in words."""
    return f"Skill: {text}"


def hint(text: str) -> str:
    """A hint that a model has written."""
    return f"Hint: {text}"


def experience(lessons: Sequence[str]) -> str:
    """What was learnt before, a lesson a line."""
    return "\n".join(["Experience:", *(f"- {lesson}" for lesson in lessons)])


def earlier(episode: str) -> str:
    """All of the attempt before this one."""
    return f"Your earlier attempt:\n{episode}"


def earlier_feedback(said: str) -> str:
    """What the environment said of the attempt before this one, by turn."""
    return f"What was said of it:\n{said}"
