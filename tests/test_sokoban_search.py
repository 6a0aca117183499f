"""Sokoban search, against an A* over single moves that shares no code with it."""

from __future__ import annotations

import heapq
import random

import pytest

from agentopd.envs.sokoban.generate import LevelSpec, generate
from agentopd.envs.sokoban.levels import MOVES, parse_level
from agentopd.envs.sokoban.search import Plan, Solver, step

WAYS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
Place = tuple[int, int]
Entry = tuple[int, int, int, Place, tuple[Place, ...]]


def plain_search(board: str) -> tuple[int, int] | None:
    """Fewest pushes, then moves, that solve `board`; None where no moves do.

    A* whose bound on the pushes left ignores walls and other boxes: a push brings one box one cell
    nearer to a goal.
    """
    grid = {(r, c): s for r, row in enumerate(board.split("\n")) for c, s in enumerate(row)}
    goals = {place for place, symbol in grid.items() if symbol in ".*+"}
    boxes = tuple(sorted(place for place, symbol in grid.items() if symbol in "$*"))
    player = next(place for place, symbol in grid.items() if symbol in "@+")

    def entry(pushes: int, moves: int, player: Place, boxes: tuple[Place, ...]) -> Entry:
        left = sum(min(abs(r - y) + abs(c - x) for y, x in goals) for r, c in boxes)
        return pushes + left, moves, pushes, player, boxes

    queue = [entry(0, 0, player, boxes)]
    done: set[tuple[Place, tuple[Place, ...]]] = set()
    while queue:
        _, moves, pushes, player, boxes = heapq.heappop(queue)
        if (player, boxes) in done:
            continue
        done.add((player, boxes))
        if set(boxes) <= goals:
            return pushes, moves
        for down, right in WAYS.values():
            target = (player[0] + down, player[1] + right)
            beyond = (target[0] + down, target[1] + right)
            if grid.get(target, "#") == "#":
                continue
            if target not in boxes:
                heapq.heappush(queue, entry(pushes, moves + 1, target, boxes))
            elif grid.get(beyond, "#") != "#" and beyond not in boxes:
                pushed = tuple(sorted([beyond, *(box for box in boxes if box != target)]))
                heapq.heappush(queue, entry(pushes + 1, moves + 1, target, pushed))
    return None


def random_board(rng: random.Random) -> str:
    """A small board, solvable or not, with a closed wall around it in half the cases."""
    height, width, boxes = rng.randint(3, 4), rng.randint(4, 5), rng.randint(1, 2)
    cells = [rng.choice("#________") for _ in range(height * width)]
    inside = [r * width + c for r in range(1, height - 1) for c in range(1, width - 1)]
    boxed = rng.sample(inside if rng.random() < 0.8 else range(height * width), boxes)
    rest = rng.sample([place for place in range(height * width) if place not in boxed], boxes + 1)
    for place, symbol in zip([*boxed, *rest], "$" * boxes + "." * boxes + "@", strict=True):
        cells[place] = symbol
    if rng.random() < 0.2:
        cells[rest[0]], cells[rest[-1]] = "_", "+"
    if rng.random() < 0.1:
        cells[boxed[0]] = "*"
    rows = ["".join(cells[r * width : (r + 1) * width]) for r in range(height)]
    if rng.random() < 0.5:
        edge = "#" * (width + 2)
        rows = [edge, *(f"#{row}#" for row in rows), edge]
    return "\n".join(rows)


def replay(board: str, plan: Plan) -> tuple[bool, int]:
    """Whether the plan solves the board, and its pushes."""
    level = parse_level(board)
    state, pushes = level.start, 0
    for move in plan.moves:
        after = step(level, state, MOVES.index(move))
        assert after != state, "a plan never walks into a wall"
        pushes += after[1] != state[1]
        state = after
    return state[1] <= level.goals, pushes


@pytest.mark.parametrize("part", range(4))
def test_verdicts_and_costs_are_those_of_a_plain_search(part: int) -> None:
    rng = random.Random(part)
    solvable = 0
    for _ in range(100):
        board = random_board(rng)
        level = parse_level(board)
        plan = Solver(level).plan(level.start)
        expected = plain_search(board)
        if expected is None:
            assert plan == Plan("unsolvable"), board
        else:
            assert (plan.verdict, plan.cost) == ("solvable", expected), board
            assert replay(board, plan) == (True, plan.pushes), board
            solvable += 1
    assert 20 < solvable < 80, "the boards must test both verdicts"


@pytest.mark.parametrize(
    ("spec", "levels"),
    [
        (LevelSpec(inner_walls=3, max_moves=99), 100),
        (LevelSpec(boxes=2, inner_walls=3, max_moves=99), 60),
        (LevelSpec(boxes=3, inner_walls=3, min_pushes=4, max_moves=99), 25),
        (LevelSpec(height=7, width=8, inner_walls=8, min_pushes=4, max_moves=99), 40),
        (LevelSpec(height=7, width=7, boxes=2, inner_walls=6, min_pushes=5, max_moves=99), 20),
    ],
    ids=["one box", "two boxes", "three boxes", "one far box", "two far boxes"],
)
def test_generated_levels_have_the_cost_of_a_plain_search(spec: LevelSpec, levels: int) -> None:
    for seed in range(levels):
        level, plan = generate(spec, seed)
        assert plan.cost == plain_search(level.render())


def test_every_state_along_random_play_gets_the_answer_of_a_fresh_search() -> None:
    rng = random.Random(7)
    for seed in range(15):
        level, _ = generate(LevelSpec(boxes=2, min_moves=1, max_moves=99), seed)
        solver, state = Solver(level), level.start
        for _ in range(12):
            state = step(level, state, rng.randrange(4))
            fresh = Solver(level).plan(state)
            known = solver.plan(state)
            assert (known.verdict, known.cost) == (fresh.verdict, fresh.cost)


def test_the_rest_of_a_plan_is_the_plan_of_where_it_leads() -> None:
    level, plan = generate(LevelSpec(boxes=2, min_moves=8, max_moves=99), 1)
    solver, state, pushes = Solver(level), level.start, plan.pushes
    for index, move in enumerate(plan.moves):
        assert solver.plan(state).moves == plan.moves[index:]
        assert solver.plan(state).pushes == pushes
        after = step(level, state, MOVES.index(move))
        pushes -= after[1] != state[1]
        state = after
    assert solver.plan(state) == Plan("solvable")


def test_a_search_that_gives_up_says_unknown_and_never_a_guess() -> None:
    level, plan = generate(LevelSpec(boxes=3, inner_walls=0, min_pushes=5, max_moves=99), 0)
    hasty = Solver(level, limit=1)
    assert hasty.plan(level.start) == Plan("unknown")
    hasty.remember(level.start, plan)
    assert hasty.plan(level.start) == plan


def test_a_plan_found_later_replaces_what_a_search_gave_up_on() -> None:
    level, plan = generate(LevelSpec(boxes=3, inner_walls=0, min_pushes=5, max_moves=99), 0)
    second = step(level, level.start, MOVES.index(plan.moves[0]))
    hasty = Solver(level, limit=1)
    assert hasty.plan(second).verdict == "unknown"
    hasty.remember(level.start, plan)
    assert hasty.plan(second).moves == plan.moves[1:]
    assert hasty.plan(second).solvable


def test_a_box_in_a_corner_is_cornered_and_one_on_a_goal_there_is_not() -> None:
    level = parse_level("#####\n#.__#\n#_$_#\n#@__#\n#####")
    solver = Solver(level)
    assert not solver.cornered(frozenset({6}))
    assert solver.cornered(frozenset({8}))
    assert solver.cornered(frozenset({13})), "no push leaves the right edge for the left"
    assert not solver.cornered(frozenset({12}))


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        ("up", "#####\n#@_.#\n#_$_#\n#####"),
        ("left", "#####\n#__.#\n#@$_#\n#####"),
        ("down", "#####\n#__.#\n#@$_#\n#####"),
        ("right", "#####\n#__.#\n#_@$#\n#####"),
    ],
)
def test_a_move_walks_pushes_or_changes_nothing(move: str, expected: str) -> None:
    level = parse_level("#####\n#__.#\n#@$_#\n#####")
    assert level.render(step(level, level.start, MOVES.index(move))) == expected


@pytest.mark.parametrize(
    ("board", "move"),
    [
        ("#@$$..#", "right"),
        ("#@$#.#", "right"),
        ("_.@$", "right"),
        ("$@.", "left"),
        ("#@_$.", "left"),
        ("@$.", "up"),
        ("@$.", "down"),
        ("_.\n@$\n__", "right"),
    ],
)
def test_a_wall_the_edge_and_a_second_box_stop_a_move(board: str, move: str) -> None:
    level = parse_level(board)
    assert step(level, level.start, MOVES.index(move)) == level.start
