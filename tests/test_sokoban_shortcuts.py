"""Sokoban's table of near states and its frozen boxes: they save work and change no answer."""

from __future__ import annotations

import random

import pytest

from agentopd.envs.sokoban.deadlock import deadlocked
from agentopd.envs.sokoban.generate import LevelSpec, generate
from agentopd.envs.sokoban.geometry import bits
from agentopd.envs.sokoban.levels import DIRECTIONS, Level, State, parse_level
from agentopd.envs.sokoban.search import Plan, Solver, step
from agentopd.envs.sokoban.table import Table, tabulate

SPECS = (
    LevelSpec(boxes=2, inner_walls=2, min_moves=1, max_moves=99),
    LevelSpec(boxes=3, inner_walls=1, min_pushes=4, max_moves=99),
    LevelSpec(height=7, width=6, boxes=4, inner_walls=2, min_pushes=5, max_moves=99),
)


def plain(level: Level) -> Level:
    """The same level, of which no table was made."""
    return parse_level(level.render())


def random_play(level: Level, rng: random.Random, moves: int) -> list[State]:
    """The states of a random walk."""
    states = [level.start]
    for _ in range(moves):
        states.append(step(level, states[-1], rng.randrange(4)))
    return states


@pytest.mark.parametrize("spec", SPECS, ids=["two boxes", "three boxes", "four boxes"])
def test_a_table_changes_no_plan(spec: LevelSpec) -> None:
    rng = random.Random(1)
    verdicts = set()
    for seed in range(8):
        level, plan = generate(spec, seed)
        assert plan == Solver(plain(level)).search(level.start)
        for state in random_play(level, rng, 25):
            found = Solver(level).search(state)
            assert found == Solver(plain(level)).search(state)
            verdicts.add(found.verdict)
    assert verdicts == {"solvable", "unsolvable"}


@pytest.mark.parametrize("most", [0, 2, 1_000])
def test_a_table_holds_the_pushes_of_the_best_plans(most: int) -> None:
    level, best = generate(SPECS[0], 3)
    table = tabulate(level.geometry, 0, most)
    assert table.complete == (most == 1_000)
    rng, known = random.Random(2), 0
    way = [level.start]
    for move in best.moves:
        way.append(step(level, way[-1], DIRECTIONS[move]))
    for state in (*way, *random_play(level, rng, 200)):
        plan = Solver(plain(level)).search(state)
        pushes = table.pushes(state[0], bits(state[1]))
        within = plan.solvable and plan.pushes < len(table.layers)
        assert pushes == (plan.pushes if within else None)
        known += within
    assert known == 1 if most == 0 else known > 1


def test_layers_are_disjoint_and_regions_are_whole() -> None:
    level, _ = generate(SPECS[1], 0)
    geometry = level.geometry
    table = tabulate(geometry, 0, 1_000)
    states = [state for layer in table.layers for state in layer]
    assert len(states) == len(set(states)) == sum(map(len, table.regions.values()))
    for region, boxes in states:
        assert geometry.reach(region & -region, boxes) == region


def test_a_table_that_ends_early_still_holds_whole_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    level, _ = generate(SPECS[1], 0)
    whole = tabulate(level.geometry, 0, 1_000)
    monkeypatch.setattr("agentopd.envs.sokoban.table._AMPLE", 20)
    short = tabulate(level.geometry, 2, 1_000)
    assert 2 < len(short.layers) < len(whole.layers)
    assert short.layers == whole.layers[: len(short.layers)]
    assert whole.complete and not short.complete


def test_without_a_table_of_the_state_the_search_goes_on_alone() -> None:
    level, plan = generate(SPECS[1], 0)
    assert plan.pushes > 1
    for table in (tabulate(level.geometry, 0, 1), None):
        level.geometry.table = table
        assert Solver(level).search(level.start) == plan


def test_an_empty_complete_table_proves_that_nothing_can_be_solved() -> None:
    level, _ = generate(SPECS[0], 0)
    level.geometry.table = table = Table()
    table.layers.append([])
    assert Solver(level).search(level.start) == Plan("unsolvable")


BOARDS = {
    "a square of boxes": ("#######\n#_$$__#\n#_$$_.#\n#.@.._#\n#_____#\n#######", True),
    "two side by side along a wall": ("######\n#_$$_#\n#____#\n#.@._#\n######", True),
    "two side by side on goals along a wall": ("######\n#_**_#\n#____#\n#$@._#\n######", False),
    "beside one that is caught on its goal": ("######\n#*$__#\n#____#\n#_@._#\n######", True),
    "beside one that can still go": ("######\n#____#\n#_$$_#\n#.@._#\n######", False),
    "a stair that the walls hold": ("######\n#__$##\n#_#$_#\n#_@__#\n#..__#\n######", True),
    "one above the other in the open": ("######\n#____#\n#_.$_#\n#@_$_#\n#__._#\n######", False),
}


@pytest.mark.parametrize(("board", "dead"), BOARDS.values(), ids=BOARDS)
def test_frozen_boxes_off_their_goals_are_a_deadlock(board: str, dead: bool) -> None:
    level = parse_level(board)
    boxes = bits(level.boxes)
    found = any(deadlocked(level.geometry, boxes, box) for box in level.boxes)
    assert found == dead
    if dead:
        assert Solver(level).search(level.start) == Plan("unsolvable")


def test_a_box_that_comes_to_its_goal_may_freeze_another() -> None:
    level = parse_level("######\n#.$__#\n#$___#\n#@_._#\n######")
    geometry, goal = level.geometry, min(level.goals)
    upper, lower = sorted(level.boxes)
    boxes = bits((goal, upper))
    assert deadlocked(geometry, boxes, goal), "the upper box now leans on the one in the corner"
    assert not deadlocked(geometry, bits((goal, lower + 2)), goal)


def test_what_is_called_a_deadlock_has_no_solution() -> None:
    """Against the search through every push, which knows nothing of frozen boxes."""
    rng, dead = random.Random(5), 0
    for _ in range(400):
        level = scattered(rng)
        boxes = bits(level.boxes)
        if any(deadlocked(level.geometry, boxes, box) for box in level.boxes):
            dead += 1
            assert not reachable_solution(level)
    assert dead > 60, "the boards must test something"


def scattered(rng: random.Random) -> Level:
    """A small walled board with two to four boxes anywhere."""
    cells = [r * 6 + c for r in range(1, 4) for c in range(1, 5)]
    rng.shuffle(cells)
    count, walls = rng.randint(2, 4), rng.randint(0, 2)
    symbols = "$" * count + "." * count + "@" + "#" * walls
    board = list("######\n#____#\n#____#\n#____#\n######")
    for cell, symbol in zip(cells, symbols, strict=False):
        board[cell + cell // 6] = symbol
    if rng.random() < 0.5:
        board[cells[0] + cells[0] // 6] = "*"
        board[cells[count] + cells[count] // 6] = "_"
    return parse_level("".join(board))


def reachable_solution(level: Level) -> bool:
    """Whether any moves at all solve the level."""
    seen, frontier = {level.start}, [level.start]
    while frontier:
        state = frontier.pop()
        if state[1] <= level.goals:
            return True
        for direction in range(4):
            after = step(level, state, direction)
            if after not in seen:
                seen.add(after)
                frontier.append(after)
    return False
