"""Answers that no environment may stumble over: half made of its own words, half of anything."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

words = st.sampled_from(
    ["<action>", "</action>", "<think>", "</think>", "up", "L", "1", "34", "AC", "a to b", "undo",
     "+", "-", "*", "/", "=", ">", " ", ",", "\n", "\0", "\u0663", "\u00bd", "[", "]", "0", "999",
     "A1", "hit"]
)  # fmt: skip
answers = (
    st.text(max_size=30)
    | st.text(max_size=12).map("<action>{}</action>".format)
    | st.lists(words, max_size=8).map("".join).map("<action>{}</action>".format)
    | st.lists(words | st.text(max_size=4), max_size=12).map("".join)
)


def many(texts: st.SearchStrategy[str] = answers) -> st.SearchStrategy[list[str]]:
    """Twenty-five of them, all different: fifty such lists hold more than a thousand."""
    return st.lists(texts, min_size=25, max_size=25, unique=True)


def some_answers(count: int) -> list[str]:
    """`count` different ones, the same every time."""
    made: list[str] = []

    @settings(max_examples=count // 10, derandomize=True, database=None, deadline=None)
    @given(many())
    def make(texts: list[str]) -> None:
        made.extend(texts)

    make()
    return list(dict.fromkeys(made))[:count]
