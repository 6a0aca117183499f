"""Exact play in games for two, against definitions that share no code with it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cache, reduce
from operator import xor

from hypothesis import given
from hypothesis import strategies as st

from agentopd.envs.adapters.duels.cards import _POLICY
from agentopd.envs.adapters.duels.positions import Discs, Noughts, Piles, WildNoughts
from agentopd.envs.adapters.duels.search import HOPE, WON, Position, best, scores


def side(position: Position, depth: int | None = None) -> int:
    """1 where who is to move wins, -1 where it loses, else 0."""
    most = max(scores(position, depth).values())
    return (most > HOPE) - (most < -HOPE)


def test_nim_is_lost_where_its_sum_without_carry_is_nothing() -> None:
    """Bouton's theorem."""
    for piles in [*itertools.product(range(5), repeat=3)][1:]:
        assert side(Piles(piles)) == (1 if reduce(xor, piles) else -1)


def test_piles_too_large_to_search_are_known_by_their_theory() -> None:
    found = scores(Piles((100, 90, 80)), None)
    right = [move for move, score in found.items() if score > HOPE]
    assert right
    for move in found:
        left = reduce(xor, Piles((100, 90, 80)).after(move).piles)
        assert (move in right) == (left == 0)


def test_a_win_in_fewer_moves_scores_more_and_a_loss_in_more() -> None:
    assert scores(Piles((2,)), None) == {"0 1": -(WON - 2), "0 2": WON - 1}
    assert scores(Piles((1, 1)), None) == {"0 1": -(WON - 2), "1 1": -(WON - 2)}


LINES = ["012", "345", "678", "036", "147", "258", "048", "246"]


@cache
def naive(cells: str, mark: str, wild: bool) -> int:
    """Of who is to move, by trying all games."""
    if any(len({cells[int(c)] for c in line} - {"."}) == 1 and "." not in
           {cells[int(c)] for c in line} for line in LINES):  # fmt: skip
        return -1
    if "." not in cells:
        return 0
    other = {"X": "O", "O": "X"}[mark]
    return max(
        -naive(cells[:n] + set_ + cells[n + 1 :], other, wild)
        for n, cell in enumerate(cells)
        if cell == "."
        for set_ in ("XO" if wild else mark)
    )


def some_boards(count: int) -> Iterator[tuple[str, str]]:
    """Boards after some moves of chance, and whose turn it is."""
    rng = random.Random(0)
    for _ in range(count):
        cells, mark = ["."] * 9, "O"
        for cell in rng.sample(range(9), rng.randrange(9)):
            cells[cell], mark = mark, {"X": "O", "O": "X"}[mark]
        yield "".join(cells), mark


def test_tic_tac_toe_is_worth_what_all_games_say() -> None:
    assert side(Noughts("." * 9, "O")) == 0
    tried = 0
    for cells, mark in some_boards(150):
        position = Noughts(cells, mark)
        if position.result() is None:
            assert side(position) == naive(cells, mark, False)
            tried += 1
    assert tried > 50


def test_wild_tic_tac_toe_is_won_by_who_begins_in_the_middle() -> None:
    assert best(WildNoughts("." * 9), scores(WildNoughts("." * 9), None), True)[0][-1] == "4"
    for cells, _ in some_boards(60):
        position = WildNoughts(cells)
        if position.result() is None and cells.count(".") < 7:
            assert side(position) == naive(cells, "X", True)


def test_of_equal_moves_that_one_comes_first_after_which_most_replies_are_wrong() -> None:
    position = Noughts("." * 9, "O")
    found = scores(position, None)
    assert set(found.values()) == {0}
    wrong = {}
    for move in position.moves():
        after = position.after(move)
        replies = [naive(after.after(r).cells, "O", False) for r in after.moves()]
        wrong[move] = sum(-r < max(-x for x in replies) for r in replies) / len(replies)
    assert wrong[best(position, found, True)[0]] == max(wrong.values())


def dropped(moves: list[int], rows: int, columns: int) -> list[list[str]] | None:
    """A board after discs dropped in turn, the first X; None once a line of four is there."""
    board = [["."] * columns for _ in range(rows)]
    for number, column in enumerate(moves):
        free = [row for row in range(rows) if board[row][column] == "."]
        if not free:
            continue
        board[free[-1]][column] = "XO"[number % 2]
        if lined(board):
            return None
    return board


def lined(board: list[list[str]]) -> str:
    """Whose disc stands four times in a line, looked for cell by cell."""
    for row, column in itertools.product(range(len(board)), range(len(board[0]))):
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            cells = [(row + n * down, column + n * right) for n in range(4)]
            if all(0 <= r < len(board) and 0 <= c < len(board[0]) for r, c in cells):
                discs = {board[r][c] for r, c in cells}
                if len(discs) == 1 and discs != {"."}:
                    return discs.pop()
    return ""


def plain(board: list[list[str]], disc: str, depth: int) -> int:
    """1, 0 or -1 of who is to move, looking `depth` moves ahead at every move there is."""
    if lined(board):
        return -1
    free = [column for column in range(len(board[0])) if board[0][column] == "."]
    if not free or not depth:
        return 0
    found = []
    for column in free:
        row = max(row for row in range(len(board)) if board[row][column] == ".")
        board[row][column] = disc
        found.append(-plain(board, {"X": "O", "O": "X"}[disc], depth - 1))
        board[row][column] = "."
    return max(found)


@given(moves=st.lists(st.integers(0, 4), max_size=14), depth=st.integers(1, 3))
def test_four_in_a_line_is_found_as_by_looking_at_every_move(moves: list[int], depth: int) -> None:
    board = dropped(moves, rows=4, columns=5)
    if board is None:
        return
    discs = sum(cell != "." for row in board for cell in row)
    disc = "XO"[discs % 2]
    position = Discs.of(board, disc)
    free = [column for column in range(5) if board[0][column] == "."]
    assert sorted(position.moves()) == [str(column) for column in free]
    for move, score in scores(position, depth).items():
        after = [[*row] for row in board]
        row = max(row for row in range(4) if board[row][int(move)] == ".")
        after[row][int(move)] = disc
        assert position.after(move) == Discs.of(after, "XO"[disc == "X"])
        found = -plain(after, {"X": "O", "O": "X"}[disc], depth - 1)
        assert (score > HOPE) - (score < -HOPE) == found


Policy = Mapping[str, Mapping[str, Mapping[str, float]]]
PAY = {"J": 0, "Q": 1, "K": 2}


def chips(cards: tuple[str, str], first: Policy, second: Policy) -> Fraction:
    """What the first player wins on average of one deal, by the tree of the game."""

    def shares(policy: Mapping[str, float]) -> dict[str, Fraction]:
        return {a: Fraction(p).limit_denominator(9) for a, p in policy.items()}

    a, b = cards
    shown = 1 if PAY[a] > PAY[b] else -1
    won = Fraction(0)
    for opening, p in shares(first["first"][a]).items():
        if opening == "bet":
            for answer, q in shares(second["after bet"][b]).items():
                won += p * q * (2 * shown if answer == "call" else 1)
            continue
        for reply, q in shares(second["after check"][b]).items():
            if reply == "check":
                won += p * q * shown
                continue
            for last, r in shares(first["after check and bet"][a]).items():
                won += p * q * r * (2 * shown if last == "call" else -1)
    return won


def pure(choices: Mapping[str, tuple[str, str]]) -> Iterator[Policy]:
    """Every way to play without chance."""
    places = [(place, card) for place in choices for card in "JQK"]
    for picked in itertools.product((0, 1), repeat=len(places)):
        policy: dict[str, dict[str, dict[str, float]]] = {place: {} for place in choices}
        for (place, card), n in zip(places, picked, strict=True):
            policy[place][card] = {choices[place][n]: 1.0}
        yield policy


def test_nobody_wins_more_against_the_equilibrium_of_kuhn_s_poker_than_its_value() -> None:
    """-1/18 a deal for the first player, whatever it does, and so for the second."""
    deals = list(itertools.permutations("JQK", 2))

    def mean(first: Policy, second: Policy) -> Fraction:
        return sum((chips(d, first, second) for d in deals), Fraction(0)) / len(deals)

    value = Fraction(-1, 18)
    assert mean(_POLICY, _POLICY) == value
    opening = {"first": ("check", "bet"), "after check and bet": ("fold", "call")}
    reply = {"after check": ("check", "bet"), "after bet": ("fold", "call")}
    assert max(mean(own, _POLICY) for own in pure(opening)) == value
    assert min(mean(_POLICY, own) for own in pure(reply)) == value
