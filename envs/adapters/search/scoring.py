"""Whether an answer is right, as question answering counts it (SQuAD: arXiv 1606.05250)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DROPPED = str.maketrans("", "", string.punctuation)


def normal(text: str) -> str:
    """Small letters, without punctuation, articles and runs of spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_DROPPED)).split())


def exact(answer: str, right: Sequence[str]) -> bool:
    """Whether it is one of the right answers, in their normal form."""
    return normal(answer) in map(normal, right)


def contains(answer: str, right: Sequence[str]) -> bool:
    """Whether it holds one of the right answers as whole words, in their normal form."""
    said = f" {normal(answer)} "
    return any(f" {normal(one)} " in said for one in right)


def overlap(answer: str, right: Sequence[str]) -> float:
    """F1 of the words with those of the right answer that comes nearest, from 0 to 1."""
    return max((_overlap(normal(answer).split(), normal(one).split()) for one in right), default=0)


def _overlap(said: list[str], right: list[str]) -> float:
    shared = (Counter(said) & Counter(right)).total()
    return 2 * shared / (len(said) + len(right)) if shared else float(said == right)
