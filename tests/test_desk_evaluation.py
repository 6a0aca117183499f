"""What counts as the same in Desk, which change meets which goal, scenario goal completion."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentopd.envs.desk.api import call
from agentopd.envs.desk.env import Desk
from agentopd.envs.desk.state import Completion, Given, State
from agentopd.envs.desk.tasks.library import scenario_goal_completion
from agentopd.envs.desk.tasks.task import Expected, Goal, Task, evaluate, progress, same
from agentopd.envs.desk.world import Change, Todo, World


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ("Yes, gladly", " yes,  GLADLY. "),
        (47.0, 47),
        (47.0, "$47.00"),
        (7, "7"),
        ("555-0123", "555-0123"),
        (["a", "b"], "B, a"),
        (["a", "b"], ["b", "a"]),
        ("a", ["A"]),
        (None, None),
        (None, ""),
        (0.30000000000000004, 0.3),
        (True, True),
    ],
)
def test_values_that_say_the_same(expected: object, got: object) -> None:
    assert same(expected, got)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ("Yes", "No"),
        (47.0, 47.5),
        (7, "7 mails"),
        (7, None),
        (None, "nothing"),
        (None, 0),
        (["a", "b"], "a"),
        (["a", "b"], 3),
        ("a", ["a", "a"]),
        ("08:00", "8:00"),
        (True, 1),
        (1, True),
    ],
)
def test_values_that_do_not(expected: object, got: object) -> None:
    assert not same(expected, got)


ASKED = Task("?", ((call("x.y"),),), answer="")


def answered(expected: Given, got: Given) -> bool:
    """Whether `got` passes as the answer to a task that wants `expected`."""
    world = World("A B", "a@b.org", "", "2026-05-18", 0.0, ())
    state = State(world, {}, completion=Completion(got))
    checks = evaluate(replace(ASKED, answer=expected), world, state)
    return next(check.passed for check in checks if check.kind == "answer")


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ("09:00", "9:00"),
        ("09:00", "9:00 am"),
        ("09:00", "9:00 A.M."),
        ("21:30", "9:30pm"),
        ("12:15", "12:15 pm"),
        ("00:15", "12:15 am"),
        ("Night Train", '"Night Train"'),
        ("Night Train", "'night train'."),
        (1234.5, "$1,234.50"),
        (1234.5, "1,234.5 dollars"),
        (47.0, "47 USD."),
        (7, "7.0"),
        ("2027-01", "2027-01"),
        (["09:00", "b"], "B, 9:00"),
    ],
)
def test_answers_that_say_the_same(expected: Given, got: Given) -> None:
    assert answered(expected, got)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ("09:00", "9:00 pm"),
        ("09:00", "9:01"),
        ("09:00", "09:00:00"),
        ("09:00", "9"),
        ("09:00", ["09:00", "10:00"]),
        ("Night Train", "Night Train or Day Train"),
        (1234.5, "1,23.45"),
        (1234.5, "12,345"),
        (47.0, "47 euros"),
        (7, "7 mails"),
        (None, "done"),
        ("09:00", None),
    ],
)
def test_answers_that_do_not(expected: Given, got: Given) -> None:
    assert not answered(expected, got)


def test_what_a_change_is_expected_to_be_by_hand() -> None:
    milk = Todo(id=3, title="Milk", due="2026-05-18")
    ticked = Todo(id=3, title="Milk", due="2026-05-18", done=True)
    renamed = Todo(id=3, title="Cream", due="2026-05-18", done=True)
    tick = Expected("todos", "altered", {"done": True}, 3)
    assert tick.met_by(Change("todos", milk, ticked))
    assert not tick.met_by(Change("todos", milk, renamed)), "another field has changed too"
    assert not tick.met_by(Change("todos", None, ticked)), "it is new"
    assert not tick.met_by(Change("todos", milk, None)), "it is gone"
    assert not tick.met_by(Change("events", milk, ticked)), "it is in another table"
    made = Expected("todos", "made", {"title": "milk", "due": "2026-05-18"})
    assert made.met_by(Change("todos", None, milk))
    assert not made.met_by(Change("todos", milk, ticked))
    assert not made.met_by(Change("todos", None, ticked)), "nobody said that it is done"
    undated = Expected("todos", "made", {"title": "milk"})
    assert not undated.met_by(Change("todos", None, milk)), "nobody said when"
    assert undated.met_by(Change("todos", None, Todo(id=3, title="Milk")))
    whenever = Expected("todos", "made", {"title": "milk"}, free=("due",))
    assert whenever.met_by(Change("todos", None, milk))
    assert not whenever.met_by(Change("todos", None, ticked))
    gone = Expected("todos", "gone", {}, 3)
    assert gone.met_by(Change("todos", milk, None))
    assert not gone.met_by(Change("todos", Todo(id=4, title="Milk"), None))


def test_one_change_meets_one_goal() -> None:
    """Two goals for the same to-do want two to-dos."""
    start = World("A B", "a@b.org", "", "2026-05-18", 0.0, ())
    note = Goal(
        "milk", call("todo.add", title="milk"), (Expected("todos", "made", {"title": "milk"}),)
    )
    task = Task("Twice milk", (), (note, note))
    world = start.copy()
    assert len(progress(task, start, world).unmet) == 2
    world.todos.insert(Todo(title="Milk"))
    assert len(progress(task, start, world).unmet) == 1
    world.todos.insert(Todo(title="milk"))
    assert progress(task, start, world).unmet == ()
    world.todos.insert(Todo(title="milk"))
    assert len(progress(task, start, world).stray) == 1


def test_one_change_meets_one_of_the_changes_of_a_goal() -> None:
    start = World("A B", "a@b.org", "", "2026-05-18", 0.0, ())
    milk = Expected("todos", "made", {"title": "milk"})
    task = Task("Twice milk", (), (Goal("milk", call("todo.add", title="milk"), (milk, milk)),))
    world = start.copy()
    world.todos.insert(Todo(title="milk"))
    assert len(progress(task, start, world).unmet) == 1
    world.todos.insert(Todo(title="milk"))
    assert progress(task, start, world).unmet == ()


def test_an_evaluations_scenarios_are_read_from_its_task_ids() -> None:
    solved = {
        "desk/test/a/1/0": [True], "desk/test/a/1/1": [True, True], "desk/test/a/1/2": [True],
        "desk/test/a/2/0": [True], "desk/test/a/2/1": [False],
    }  # fmt: skip
    assert Desk.summarise(solved) == {"sgc": 0.5}
    env = Desk(split="test")
    of_seeds = [env.reset(seed=seed)[1] for seed in (6, 7, 8)]
    assert len({info["task_id"] for info in of_seeds}) == 3
    assert {info["task_id"].rpartition("/")[0] for info in of_seeds} == {of_seeds[0]["scenario"]}


def test_scenario_goal_completion_by_hand() -> None:
    solved = {"a": [True, True, True], "b": [True, False, True], "c": [False], "d": [True]}
    assert scenario_goal_completion(solved) == 0.5
    with pytest.raises(ValueError, match="at least one scenario"):
        scenario_goal_completion({})
    with pytest.raises(ValueError, match="an episode of each"):
        scenario_goal_completion({"a": []})
