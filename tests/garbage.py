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
_AT_ONCE = 25


def some_answers(count: int) -> list[str]:
    """`count` of them that hypothesis makes, the same ones every time."""
    made: list[str] = []

    @settings(max_examples=-(-count // _AT_ONCE), derandomize=True, database=None, deadline=None)
    @given(st.lists(answers, min_size=_AT_ONCE, max_size=_AT_ONCE))
    def make(texts: list[str]) -> None:
        made.extend(texts)

    make()
    return made[:count]
