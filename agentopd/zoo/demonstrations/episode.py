"""What a demonstration is: an episode's transcript in pieces, told something or nothing."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, Protocol

from agentopd.privilege import writer

Form = Literal[
    "none",
    "skill",
    "solution",
    "feedback",
    "reflection",
    "next",
    "copy",
    "filler",
    "other_skill",
    "other_solution",
]
"""The kind of privileged text that an episode is played with; `next` is the best next action, told
before each answer; `copy` is no episode but some text,
and the same text as the answer, from which reading to the letter is learnt. The last three are
negative forms: words that say nothing, the skill of another environment, the solution of another
task. A student that copies moves follows the last to the letter, and fails."""
UNHEEDED: frozenset[Form] = frozenset({"none", "filler", "other_skill", "other_solution"})
"""Forms in which one acts as if nothing were told, so that it is what a text says that counts."""
NOISE = (0.0, 0.15, 0.5)
"""Shares of moves at random, shown and never learnt, of which an episode with a text has one."""

ADVICE = (
    "Place the largest misplaced disk first: clear it and its peg of smaller disks.",
    "Look for two numbers whose result leaves an easy last step, and undo a dead end.",
    "Guess only codes that agree with every answer so far, and never the same one twice.",
)
"""What is advised in Hanoi, Countdown and Mastermind, and elsewhere is not to be heeded."""
NOWHERE = (
    "Guess the middle of what is left.",
    "Read the card before you pay, and say which of them you took.",
    "Take the longest word that fits, and keep the vowels for the end.",
    "Ask for the name first, then look it up in the list.",
    "Hold the corners of the table, and give up the middle early.",
    "Keep one move in hand, and let the other side run out of them.",
    "Sort what you were given, then cross off what is twice there.",
    "Go north until the river, and follow it to the old mill.",
    "Put the heavy things at the bottom and close the lid.",
    "Play the low cards first, and never the last of a suit.",
    "Write down each price, and buy when it falls.",
)
"""What is advised in the number game and in games that are not here: of many, none is learnt by
heart, and advice that was never seen is not heeded either."""
UNSEEN = "Skill: Go towards the goal, around the holes, and not back."
"""Advice for a game that no embedded student was made with, to measure them by."""
_MOST_IDLE = 24
"""The most words of a text that says nothing."""


@dataclass(frozen=True)
class Piece:
    """Some text of an episode's transcript, and whether its tokens are training targets."""

    text: str
    learnt: bool


class Demonstrator(Protocol):
    """An endless source of episodes."""

    def episode(self) -> list[Piece]:
        """The transcript of one fresh episode."""
        ...


def idle_words(rng: random.Random, fewest: int = 6) -> str:
    """A text that says nothing."""
    said = " ".join(rng.choices(writer.WORDS, k=rng.randint(fewest, _MOST_IDLE)))
    return said + rng.choice(("", ".", " ."))
