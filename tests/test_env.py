"""The registry: ids, schemes, plugins, the closest name; splits of tasks."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from typing import Any

import broken_envs
import gymnasium
import pytest

from agentopd import env as registry
from agentopd.env import declared, env_ids, make, parse_action, register_scheme, schemes
from agentopd.splits import split_of


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


@pytest.mark.parametrize(
    ("text", "action"),
    [("<action> up </action>", "up"), ("<action>a</action><action>b</action>", "b"),
     ("<think><action>a</action></think>", None), ("<action>a", None)],
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
