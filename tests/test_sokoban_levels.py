"""Sokoban levels: the text format, the symmetric key, collections, and the generator."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopd.envs.sokoban.generate import SPLITS, LevelSpec, generate, split_of
from agentopd.envs.sokoban.levels import MOVES, Level, LevelError, parse_level, read_levels
from agentopd.envs.sokoban.search import Plan, Solver, step

BOARD = """\
#######
#_.*+_#
#__$$_#
#_____#
#######"""

SPECS = [
    LevelSpec(),
    LevelSpec(min_moves=8, max_moves=14, inner_walls=3),
    LevelSpec(boxes=2, min_pushes=3, max_pushes=5, min_moves=0, max_moves=99),
    LevelSpec(height=5, width=8, boxes=3, inner_walls=1, min_moves=0, max_moves=99),
]


@st.composite
def boards(draw: st.DrawFn) -> str:
    """A playable board with random contents and, mostly, no closed wall around it."""
    height, width = draw(st.integers(1, 6)), draw(st.integers(3, 6))
    cells = draw(
        st.lists(st.sampled_from("#_.$*"), min_size=height * width, max_size=height * width)
    )
    places = draw(st.permutations(range(height * width)))
    for place, symbol in zip(places, "@$.", strict=False):
        cells[place] = symbol
    missing = cells.count("$") - cells.count(".")
    for place in [p for p, symbol in enumerate(cells) if symbol == "$"][: max(missing, 0)]:
        cells[place] = "*"
    return "\n".join("".join(cells[r * width : (r + 1) * width]) for r in range(height))


def turned(board: str) -> str:
    return "\n".join("".join(column) for column in zip(*board.split("\n")[::-1], strict=True))


def mirrored(board: str) -> str:
    return "\n".join(row[::-1] for row in board.split("\n"))


def test_every_symbol_is_read_as_what_it_stands_for() -> None:
    level = parse_level(BOARD)
    assert (level.height, level.width) == (5, 7)
    assert level.goals == {9, 10, 11}
    assert level.boxes == {10, 17, 18}
    assert level.player == 11
    assert {0, 6, 7, 13, 34} <= level.walls
    assert len(level.walls) == 20


def test_floor_is_a_space_a_hyphen_or_an_underscore_and_short_rows_end_in_floor() -> None:
    assert parse_level("#####\n#@ $-.\n##").render() == "#####_\n#@_$_.\n##____"


def test_blank_lines_around_a_level_do_not_matter() -> None:
    assert parse_level(f"\n\n{BOARD}\n\n") == parse_level(BOARD)


@given(boards())
def test_a_rendered_board_is_read_back_as_it_was(board: str) -> None:
    level = parse_level(board)
    assert level.render() == board
    assert parse_level(level.render()) == level


def test_a_state_is_rendered_with_the_player_and_the_boxes_where_they_are() -> None:
    level = parse_level("######\n#@$_.#\n######")
    assert level.render((9, frozenset({10}))) == "######\n#__@*#\n######"
    assert level.render((10, frozenset({8}))) == "######\n#_$_+#\n######"


@given(boards())
def test_the_eight_images_of_a_board_have_one_key(board: str) -> None:
    key = parse_level(board).key
    image = board
    for _ in range(4):
        image = turned(image)
        assert parse_level(image).key == key
        assert parse_level(mirrored(image)).key == key


def test_different_boards_have_different_keys() -> None:
    keys = {generate(LevelSpec(boxes=2, max_moves=99), seed)[0].key for seed in range(50)}
    assert len(keys) > 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#####\n#@$x#\n#####", r"line 2, column 4 .* 'x'; allowed are"),
        ("#####\n#@\t.#\n#####", r"line 2, column 3 .* '\\t'"),
        ("#####\n#$..#\n#####", r"exactly one player \(@ or \+\); this one has 0: add one"),
        ("#####\n#@$.#\n#+__#\n#####", r"this one has 2: keep the one on line 2"),
        ("#####\n#@..#\n#####", "0 boxes .* 2 goals"),
        ("#####\n#@$$.\n#####", "2 boxes .* 1 goals"),
        ("", "exactly one player"),
    ],
)
def test_a_level_that_cannot_be_played_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(LevelError, match=message):
        parse_level(text)


def test_a_collection_is_read_from_a_file_with_titles_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "two.xsb"
    file.write_text(f"; First\n\n{BOARD}\nTitle: one #1\nAuthor: me\n\n#####\n#@$.#\n#####\n")
    levels = read_levels(file)
    assert [level.render() for level in levels] == [BOARD, "#####\n#@$.#\n#####"]


@pytest.mark.parametrize(
    "text",
    [
        "7#|#-.*+-#|#--2$-#|#5-#|7#",
        "7#\n#_.*+_#\n#2_2$1_#\n#5_#\n7#",
        "7#\n# .*+ #|\n#  2$ #\n#5 #|7#|",
    ],
)
def test_run_length_encoded_levels_are_read(tmp_path: Path, text: str) -> None:
    assert parse_level(text).render() == BOARD
    file = tmp_path / "levels.txt"
    file.write_text(f"; 1\n{text}\n\nTitle: #2\n#3\n2 #\n{text}\n; 4 #\n\n{BOARD}\n5-#")
    assert [level.render() for level in read_levels(file)] == [BOARD] * 3


def test_long_runs_are_read_and_endless_ones_refused() -> None:
    level = parse_level("12#|#@$7-.#|12#")
    assert (level.width, level.height) == (12, 3)
    for text in ("4#|#@$.#|9999#", "4#|#2(-$)@2.#|4#"):
        with pytest.raises(LevelError, match=r"numbers before them .* groups in parentheses"):
            parse_level(text)


def test_a_folder_is_read_in_the_order_of_its_file_names(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_text("######\n#@$_.#\n######\n")
    (tmp_path / "a.sok").write_text("#####\n#@$.#\n#####\n\n#####\n#.$@#\n#####\n")
    (tmp_path / "deep" / "c.xsb").write_text(BOARD)
    (tmp_path / "notes.md").write_text("### not a level ###")
    assert [level.width for level in read_levels(tmp_path)] == [5, 5, 6, 7]


def test_titles_in_any_encoding_do_not_hinder_reading(tmp_path: Path) -> None:
    file = tmp_path / "OLD.TXT"
    file.write_bytes(b"\xef\xbb\xbf#####\r\n#@$.#\r\n#####\r\nAuthor: Fran\xe7ois \xa9\r\n")
    assert [level.render() for level in read_levels(tmp_path)] == ["#####\n#@$.#\n#####"]


def test_a_level_with_another_start_keeps_what_is_known_of_its_cells() -> None:
    level = parse_level(BOARD)
    other = level.started_from(17, frozenset({16, 18, 24}))
    assert other.render() == "#######\n#_..._#\n#_$@$_#\n#__$__#\n#######"
    assert other == parse_level(other.render())
    assert other.key == parse_level(other.render()).key != level.key
    assert other.geometry is level.geometry


def test_a_bad_level_in_a_file_is_named_by_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "levels.txt"
    file.write_text("#####\n#@$.#\n#####\n\n; second\n#####\n#@$o#\n#####\n")
    with pytest.raises(LevelError, match=r"levels\.txt, level at line 6: line 2, column 4 .* 'o'"):
        read_levels(file)


@pytest.mark.parametrize(("name", "message"), [("none.txt", "no level file at"), ("", "no level;")])
def test_a_path_without_levels_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "readme.txt").write_text("Nothing here.")
    with pytest.raises(LevelError, match=message):
        read_levels(tmp_path / name)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_generated_levels_are_solvable_and_in_their_band(spec: LevelSpec) -> None:
    for seed in range(40):
        level, plan = generate(spec, seed)
        assert (level.height, level.width, len(level.boxes)) == (
            spec.height,
            spec.width,
            spec.boxes,
        )
        assert not level.boxes & level.goals
        state = level.start
        for move in plan.moves:
            state = step(level, state, MOVES.index(move))
        assert state[1] <= level.goals
        assert plan == Solver(level).plan(level.start)
        assert spec.min_pushes <= plan.pushes <= spec.max_pushes
        assert spec.min_moves <= len(plan.moves) <= spec.max_moves


def test_the_inner_walls_are_as_many_as_asked_for() -> None:
    for walls in (0, 1, 4):
        level, _ = generate(LevelSpec(inner_walls=walls), seed=3)
        assert len(level.walls) == 20 + walls


@pytest.mark.parametrize("boxes", [1, 2])
def test_no_board_nor_its_mirror_image_is_in_two_splits(boxes: int) -> None:
    spec = LevelSpec(boxes=boxes, max_moves=40)
    keys = {split: {generate(spec, seed, split)[0].key for seed in range(60)} for split in SPLITS}
    assert keys["train"].isdisjoint(keys["validation"] | keys["test"])
    assert keys["validation"].isdisjoint(keys["test"])


def test_the_splits_have_the_shares_they_promise() -> None:
    rng = random.Random(0)
    splits = [
        split_of(
            Level(6, 6, frozenset(rng.sample(range(36), 9)), frozenset({1}), frozenset({2}), 3)
        )
        for _ in range(2_000)
    ]
    assert 0.77 < splits.count("train") / 2_000 < 0.83
    assert 0.08 < splits.count("validation") / 2_000 < 0.12
    assert 0.08 < splits.count("test") / 2_000 < 0.12


def test_a_level_depends_on_neither_the_global_random_state_nor_what_came_before() -> None:
    spec = LevelSpec(boxes=2, max_moves=40)
    first = [generate(spec, seed)[0] for seed in range(5)]
    random.seed(1)
    np.random.seed(1)
    before = random.getstate()
    assert [generate(spec, seed)[0] for seed in reversed(range(5))] == first[::-1]
    assert random.getstate() == before


def test_a_level_is_the_same_in_every_process() -> None:
    script = (
        "from agentopd.envs.sokoban.generate import *\n"
        "for s in range(20): print(generate(LevelSpec(boxes=2, max_moves=40), s)[0].render())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    here = [generate(LevelSpec(boxes=2, max_moves=40), s)[0].render() for s in range(20)]
    assert said == {"\n".join(here) + "\n"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 3}, "at least 4, at least one box"),
        ({"boxes": 0}, "got 6x6, 0 boxes"),
        ({"inner_walls": -1}, "no negative inner_walls"),
        ({"boxes": 7}, "do not fit on 14 floor cells"),
        ({"min_moves": 11}, "moves 11-10"),
        ({"min_pushes": 5, "max_pushes": 4}, "pushes 5-4"),
    ],
)
def test_a_specification_that_nothing_can_meet_is_refused(
    fields: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LevelSpec(**fields)


def test_a_band_that_is_never_met_is_an_error_that_names_it() -> None:
    spec = LevelSpec(height=4, width=4, inner_walls=0, min_moves=50, max_moves=60)
    with pytest.raises(ValueError, match="widen min/max pushes or moves"):
        generate(spec, 0)


def test_a_band_admits_no_plan_that_is_not_known() -> None:
    spec = LevelSpec(min_pushes=0, min_moves=0)
    assert spec.admits(Plan("solvable"))
    assert not spec.admits(Plan("unknown"))
    assert not spec.admits(Plan("unsolvable"))
