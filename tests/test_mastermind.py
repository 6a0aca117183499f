"""Mastermind: answers from their definition, guesses against Knuth's published figures."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopd.envs.mastermind import Codebook, Mastermind, codebook


def play(task: str, *guesses: str, **options: Any) -> list[tuple[str, float, bool, bool, dict]]:
    env = Mastermind(hints=0, **options)
    env.reset(options={"task": task})
    return [env.step(f"<action>{guess}</action>") for guess in guesses]


def answer(guess: str, secret: str) -> tuple[int, int]:
    """Exact and misplaced digits, by crossing them out one by one."""
    open_guess, open_secret, exact = [], [], 0
    for mine, theirs in zip(guess, secret, strict=True):
        if mine == theirs:
            exact += 1
        else:
            open_guess.append(mine)
            open_secret.append(theirs)
    misplaced = 0
    for digit in open_guess:
        if digit in open_secret:
            open_secret.remove(digit)
            misplaced += 1
    return exact, misplaced


def test_a_game_guess_by_guess() -> None:
    env = Mastermind(hints=0)
    shown, info = env.reset(options={"task": "3416"})
    assert shown == "Make a guess."
    assert (info["oracle"], info["reference"]) == ("1122", "3416")
    assert info["facts"] == {"codes_left": 1296, "exact": 0, "misplaced": 0}
    shown, reward, terminated, truncated, info = env.step("<action>1122</action>")
    assert shown == "1122: 0 exact, 1 misplaced."
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, False, False)
    # by hand: a single 1 in the last two places and no 2 (2 x 4^3), or a single 2 in the first
    # two and no 1 (the same): 128 + 128
    assert info["feedback"] == "1122 leaves 256 of 1296 codes."
    assert info["facts"] == {
        "codes_left": 256,
        "exact": 0,
        "misplaced": 1,
        "well_formed": True,
        "moves_closer": True,
        "consistent": True,
        "repeated": False,
        "best": True,
    }
    shown, reward, terminated, truncated, info = env.step("<action>3 4 1 6</action>")
    assert shown == "3416: 4 exact, 0 misplaced."
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    assert info["feedback"] == "3416 is the code."


@pytest.mark.parametrize(
    ("guesses", "mistake", "feedback"),
    [
        ("1122 1122", "repeated guess", "1122 repeated guess, leaves 256 of 256 codes."),
        ("1122 2211", "contradicts an answer", None),
        ("1122 3314", "", None),
    ],
)
def test_mistakes(guesses: str, mistake: str, feedback: str | None) -> None:
    *_, info = play("3416", *guesses.split())[-1]
    assert info["mistake"] == mistake
    assert feedback in (None, info["feedback"])
    assert info["facts"]["repeated"] is (mistake == "repeated guess")
    assert info["facts"]["consistent"] is (not mistake)


def test_a_guess_that_cannot_be_the_code_but_tells_the_most_is_no_mistake() -> None:
    """Where 111x remains with x of 2 to 6, a guess among them may leave the four others.

    One that ends in a third of the digits and has two elsewhere leaves two at most.
    """
    book = codebook(4, 6, True)
    last = np.array([book.number[f"111{x}"] for x in "23456"])
    guess, worst = book.best(last, known_only=False)
    assert worst == 2
    assert not guess.startswith("111")
    guess, worst = book.best(last, known_only=True)
    assert (guess, worst) == ("1112", 4), "the last turn must be one that can win"


def test_the_oracle_makes_no_mistake_though_it_contradicts_answers() -> None:
    env = Mastermind(hints=0)
    contradicted = 0
    for secret in env.book.codes[::37]:
        _, info = env.reset(options={"task": secret})
        while not info["success"]:
            *_, info = env.step(f"<action>{info['oracle']}</action>")
            assert info["mistake"] == ""
            assert info["facts"]["best"]
            contradicted += not info["facts"]["consistent"]
    assert contradicted > 5


def test_with_one_turn_left_the_oracle_guesses_what_may_be_the_code() -> None:
    found = 0
    for secret in ("1113", "2645", "6656", "4234", "1456"):
        env = Mastermind(hints=0, max_turns=3)
        _, info = env.reset(options={"task": secret})
        for _ in range(2):
            *_, info = env.step(f"<action>{info['oracle']}</action>")
        book = env.book
        told = [(g, book.answer(g, secret)) for g in env.guesses]
        assert all(answer(g, info["oracle"]) == kind for g, kind in told)
        found += 1
    assert found == 5


@given(st.lists(st.sampled_from("12345"), min_size=4, max_size=4), st.permutations("12345"))
def test_answers_are_those_of_the_definition(guess: list[str], secret: list[str]) -> None:
    book = codebook(4, 5, True)
    mine, theirs = "".join(guess), "".join(secret[:4])
    assert book.answer(mine, theirs) == answer(mine, theirs)
    assert book.answer(theirs, mine) == answer(mine, theirs)


@pytest.mark.parametrize(("length", "digits", "repeats"), [(2, 4, True), (3, 4, False)])
def test_the_best_guess_is_the_one_that_trying_all_finds(
    length: int, digits: int, repeats: bool
) -> None:
    book = Codebook(length, digits, repeats)
    symbols = "123456789"[:digits]
    codes = ["".join(c) for c in itertools.product(symbols, repeat=length)]
    codes = [c for c in codes if repeats or len(set(c)) == length]
    assert list(book.codes) == codes
    for guess, secret in itertools.product(codes, repeat=2):
        agreeing = [c for c in codes if answer(guess, c) == answer(guess, secret)]
        left_C = book.agreeing(book.everything, guess, secret)
        assert [book.codes[number] for number in left_C] == agreeing
        worst = {g: max(Counter(answer(g, c) for c in agreeing).values()) for g in codes}
        best = min(codes, key=lambda g: (worst[g], g not in agreeing, g))
        assert book.best(left_C, known_only=False) == (best, worst[best])


def test_it_plays_as_knuth_did() -> None:
    """Never more than five guesses, 5801 over all 1296 codes (Knuth 1977)."""
    book = codebook(4, 6, True)
    spent: Counter[int] = Counter()

    def search(left_C: Any, depth: int) -> None:
        guess, _ = book.best(left_C, known_only=False)
        kinds: dict[tuple[int, int], list[int]] = {}
        for number in left_C:
            kinds.setdefault(book.answer(guess, book.codes[number]), []).append(number)
        for kind, numbers in kinds.items():
            if kind == (4, 0):
                spent[depth] += 1
            else:
                search(np.array(numbers), depth + 1)

    search(book.everything, 1)
    assert max(spent) == 5
    assert sum(depth * count for depth, count in spent.items()) == 5801
    assert sum(spent.values()) == 1296


def test_hints_are_answered_at_the_start_and_are_never_the_code() -> None:
    for seed in range(40):
        env = Mastermind(hints=3)
        shown, info = env.reset(seed=seed)
        hints = shown.split("\n")
        assert len({hint[:4] for hint in hints}) == 3
        for hint in hints:
            exact, misplaced = answer(hint[:4], env.secret)
            assert hint == f"{hint[:4]}: {exact} exact, {misplaced} misplaced."
            assert exact < 4
        assert info["facts"]["codes_left"] < 1296
        assert not info["success"]


def test_of_few_codes_the_secret_is_never_hinted() -> None:
    env = Mastermind(length=2, digits=4, hints=10)
    for seed in range(20):
        shown, _ = env.reset(seed=seed)
        assert "2 exact" not in shown


def test_task_ids_differ_by_the_code_and_do_not_tell_it() -> None:
    ids = set()
    for secret in ("3416", "1111", "6543"):
        env = Mastermind(hints=0)
        ids.add(env.reset(options={"task": secret})[1]["task_id"])
        assert secret not in env.task_id
    assert len(ids) == 3


@pytest.mark.parametrize("guess", ["123", "12345", "1237", "0123", "", "red", "12 3", "\u0661234"])
def test_what_is_no_code_is_explained(guess: str) -> None:
    shown, *_, info = play("3416", guess)[-1]
    assert shown == f"{guess!r} is not a code: give 4 digits from 1 to 6.\nMake a guess." or (
        guess == "12 3" and shown.startswith("'123' is not a code")
    )
    assert not info["action_valid"]


def test_without_repeats_a_repeated_digit_is_no_code() -> None:
    shown, *_ = play("341", "112", repeats=False, length=3)[-1]
    assert "give 3 digits from 1 to 6, all different." in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 2, "digits": 3}, "2 digits from 1 to 3 make 9 codes"),
        ({"length": 5, "digits": 9}, "make 59049 codes; the game takes 11 to 4096"),
        ({"length": 4, "digits": 3, "repeats": False}, "make 0 codes"),
        ({"hints": -1}, "hints is a whole number from 0 to 10"),
        ({"repeats": "no"}, "repeats is one of True, False"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mastermind(**options)


def test_a_code_that_cannot_be_the_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="'777' is not a code"):
        Mastermind().reset(options={"task": "777"})
