"""Answers that no environment may stumble over: half made of its own words, half of anything."""

from __future__ import annotations

from hypothesis import strategies as st

words = st.sampled_from(
    ["<action>", "</action>", "<think>", "</think>", "up", "L", "1", "34", "AC", "a to b", "undo",
     "+", "-", "*", "/", "=", ">", " ", ",", "\n", "\0", "\u0663"]
)  # fmt: skip
answers = (
    st.text(max_size=30)
    | st.text(max_size=12).map("<action>{}</action>".format)
    | st.lists(words, max_size=8).map("".join).map("<action>{}</action>".format)
    | st.lists(words | st.text(max_size=4), max_size=12).map("".join)
)
