"""The registry: ids, schemes, plugins, the closest name; splits of tasks."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import broken_envs
import gymnasium
import pytest

from agentopd.environment import registry
from agentopd.environment.contract import declared, parse_action
from agentopd.environment.registry import env_ids, make, register, register_scheme, schemes
from agentopd.environment.splits import split_of


def build(name: str, **options: Any) -> Any:
    """What the scheme of these tests calls."""
    made = getattr(broken_envs, name)()
    made.given = options
    return made


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(gymnasium.registry)
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def test_a_scheme_hands_over_name_and_options() -> None:
    register_scheme("lines", f"{__name__}:build")
    made = make("lines:NoLimit", {"size": 3})
    assert type(made.unwrapped) is broken_envs.NoLimit
    assert declared(made, "given", None) == {"size": 3}
    assert "lines" in schemes()
    assert "lines:" not in env_ids()


def test_a_scheme_is_imported_when_it_is_used() -> None:
    register_scheme("later", "no_such_package.games:build")
    with pytest.raises(ValueError, match=r"'no_such_package\.games', which cannot be imported"):
        make("later:Game")


def test_a_scheme_may_replace_gymnasiums() -> None:
    assert "FrozenLake" in str(make("gym:FrozenLake-v1"))
    register_scheme("gym", f"{__name__}:build")
    assert type(make("gym:Line")) is broken_envs.Line


@pytest.mark.parametrize(
    ("scheme", "path"), [("a", "m:f"), ("a b", "m:f"), ("ab", "m"), ("ab", "m:")]
)
def test_what_is_no_scheme_is_refused(scheme: str, path: str) -> None:
    with pytest.raises(ValueError, match=r"letters, digits|module:function"):
        register_scheme(scheme, path)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("agentopd/Sokban-v0", "did you mean agentopd/Sokoban-v0"),
        ("gym:FrozenLak-v1", "did you mean gym:FrozenLake-v1"),
        ("linnes:Line", "did you mean lines:"),
        ("no.such.package:Line", "cannot be imported"),
        ("zzz", "registered are: agentopd/"),
        ("zzz", "module:ID where the module registers it"),
        ("broken_envs:me/Line-v0", "'broken_envs' registers no 'me/Line-v0'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_closest(spec: str, says: str) -> None:
    register_scheme("lines", f"{__name__}:build")
    with pytest.raises(ValueError, match=says):
        make(spec)


def test_plugins_are_found_and_take_no_name_away(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        metadata.EntryPoint("plugged/Line-v0", f"{broken_envs.__name__}:Line", registry.PLUGINS),
        metadata.EntryPoint("plugged", f"{__name__}:build", registry.PLUGINS),
        metadata.EntryPoint("agentopd/Sokoban-v0", "no_such:Thing", registry.PLUGINS),
    ]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points)
    assert type(make("plugged:NoOracle")) is broken_envs.NoOracle
    assert type(make("plugged/Line-v0").unwrapped) is broken_envs.Line
    assert "plugged/Line-v0" in env_ids()
    make("agentopd/Sokoban-v0").close()


def test_a_scheme_may_have_the_name_of_its_own_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mazes.py").write_text(
        "from broken_envs import Line\ndef build(name): return Line()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    point = metadata.EntryPoint("mazes", "mazes:build", registry.PLUGINS)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point])
    assert type(make("mazes:small")) is broken_envs.Line
    del gymnasium.registry["mazes:"]  # the module is imported now, and still has no such name
    assert type(make("mazes:small")) is broken_envs.Line
    monkeypatch.delitem(sys.modules, "mazes")


def test_a_broken_plugin_is_told_by_its_package_and_breaks_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "worse-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: worse\nVersion: 1.0\n")
    points = [
        "[agentopd.envs]",
        "a/b/c = m:C",
        "no-scheme = m:f",
        "plugged/Line-v0 = broken_envs:Line",
    ]
    (folder / "entry_points.txt").write_text("\n".join(points))
    found = metadata.Distribution.at(folder).entry_points
    monkeypatch.setattr(metadata, "entry_points", lambda group: found)
    told = registry.register_plugins()
    assert len(told) == 2
    for name, line in zip(("a/b/c", "no-scheme"), told, strict=True):
        assert line.startswith(f"the package worse has a broken entry point {name!r}: ")
    assert type(make("plugged/Line-v0").unwrapped) is broken_envs.Line
    with pytest.raises(ValueError, match="registered are: agentopd/"):
        make("zzz")


def test_an_id_is_found_in_the_module_that_registers_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = "import agentopd\nagentopd.register('own/Line-v0', 'broken_envs:Optional', what=3)\n"
    (tmp_path / "own_mazes.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        made = make("own_mazes:own/Line-v0")
        assert type(made.unwrapped) is broken_envs.Optional
        assert declared(made, "what", None) == 3
    monkeypatch.delitem(sys.modules, "own_mazes")


def test_gymnasiums_own_keywords_are_not_the_constructors() -> None:
    register("own/Optional-v0", broken_envs.Optional, max_episode_steps=2, what=5)
    made = make("own/Optional-v0")
    assert declared(made, "what", None) == 5
    made.reset(seed=0)
    assert [made.step("")[3] for _ in range(2)] == [False, True]


def test_register_decorates_a_class() -> None:
    @register("own/Decorated-v0", what=7)
    class Decorated(broken_envs.Optional):
        pass

    assert Decorated.__name__ == "Decorated"
    assert declared(make("own/Decorated-v0"), "what", None) == 7
    assert declared(make("own/Decorated-v0", {"what": 8}), "what", None) == 8
    with pytest.raises(ValueError, match="write it like me/Maze-v0"):
        register("a/b/c", Decorated)


def test_a_class_or_a_function_is_made_as_it_stands() -> None:
    made = make(broken_envs.Optional, {"what": 2})
    assert declared(made, "what", None) == 2
    assert type(make(lambda: broken_envs.Line())) is broken_envs.Line
    for wrong in (made, 3, None):
        with pytest.raises(ValueError, match="a class or a function that builds one, not from a"):
            make(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="makes a list, which is no gymnasium"):
        make(lambda: [1])  # type: ignore[arg-type, return-value]


class Picky(broken_envs.Line):
    """Needs a size, and it must be a number."""

    def __init__(self, size: int, colour: str = "red") -> None:
        self.area = size * size


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size": 2, "color": 1}, "has no option 'color'; did you mean 'colour'?"),
        ({"size": 2, "zzz": 1}, "has no option 'zzz'; there are: size, colour"),
        ({}, "needs the option 'size': give it, as in -o size=VALUE"),
        ({"size": "x"}, r"cannot be built with the options {'size': 'x'}: TypeError: can't mult"),
    ],
)
@pytest.mark.parametrize("spec", [f"{__name__}:Picky", "own/Picky-v0", Picky])
def test_each_mistake_in_the_options_is_told_apart(
    spec: Any, options: dict[str, Any], told: str
) -> None:
    register("own/Picky-v0", Picky)
    with pytest.raises(ValueError, match=told):
        make(spec, options)


@pytest.mark.parametrize(
    ("spec", "options", "told"),
    [
        ("toy:FrozenLake-v1", {"map_name": "9x9"}, "{'map_name': '9x9'}: KeyError: '9x9'"),
        (f"{__name__}:Picky.area", {}, "has no 'Picky.area'"),
        (f"{broken_envs.__name__}:Line", {"size": 1}, "has no option 'size'; it takes none"),
    ],
)
def test_what_cannot_be_built_is_told_in_a_line(
    spec: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        make(spec, options)
    assert "\n" not in str(caught.value)


def test_a_module_that_cannot_be_run_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cracked_maze.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="'cracked_maze' raises ZeroDivisionError when it is"):
        make("cracked_maze:Maze")


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("<action> up </action>", "up"),
        ("<action>a</action><action>b</action>", "b"),
        ("<think><action>a</action></think>", None),
        ("<action>a", None),
    ],
)
def test_an_action_is_the_last_closed_tag(text: str, action: str | None) -> None:
    assert parse_action(text) == action


def test_a_key_lies_in_one_split_in_every_process() -> None:
    # sha256("maze/1") begins with 2c71ff75, which leaves 9 in tenths and 1 in halves
    assert split_of("maze", "1") == "test"
    assert split_of("maze", "1", {"a": 1, "b": 1}) == "b"
    keys = [str(n) for n in range(2_000)]
    drawn = [split_of("maze", key) for key in keys]
    assert drawn == [split_of("maze", key) for key in keys]
    assert drawn != [split_of("other", key) for key in keys]
    share = {name: drawn.count(name) / len(drawn) for name in ("train", "validation", "test")}
    assert share == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.03)
    assert {split_of("maze", key, {"all": 2}) for key in keys} == {"all"}


@pytest.mark.parametrize("shares", [{}, {"train": 0}, {"train": 3, "test": -1}])
def test_an_empty_split_is_refused(shares: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        split_of("maze", "1", shares)
