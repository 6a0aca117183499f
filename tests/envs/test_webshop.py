"""The web shop: its pages, its splits, and what a purchase is worth."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stand_ins import token_set_ratio

from agentopd.envs.adapters.webshop import scoring
from agentopd.envs.adapters.webshop.products import Goal, Product, shop
from agentopd.envs.adapters.webshop.scoring import kind_factor, score


def go(env: Any, *commands: str) -> Any:
    return [env.step(f"<action>{command}</action>") for command in commands][-1]


def test_a_product_is_found_chosen_and_bought(build: Any) -> None:
    env = build("webshop:FILES/shop")
    shown, info = env.reset(seed=0)
    assert shown.startswith("Instruction: i want a ") and shown.endswith("\n[Search]")
    assert info["admissible"] == []
    way = info["oracle"].splitlines()
    assert way[0].startswith("search[") and way[-1] == "click[buy now]"
    shown, *_, info = go(env, way[0])
    assert "\nPage 1 (Total results: " in shown and "[Next >]" in shown
    assert way[1] in info["admissible"]
    shown, *_, info = go(env, way[1])
    assert "\ncolor: [red] [navy blue] [white] [black]\nsize: [" in shown and "[Buy Now]" in shown
    assert "gift" not in shown
    shown, *_ = go(env, way[2])
    assert f"[{way[2][6:-1]}] (chosen)" in shown
    for page, text in (("Description", "A "), ("Features", "It is ")):
        shown, *_ = go(env, f"click[{page}]")
        assert text in shown and "[Buy Now]" not in shown
        shown, *_ = go(env, "click[< Prev]")
        assert "(chosen)" in shown, "what was chosen stays"
    _, reward, terminated, _, info = go(env, *info["oracle"].splitlines()[1:])
    assert (reward, terminated, info["success"]) == (pytest.approx(1), True, True)
    assert info["metrics"]["score"] == pytest.approx(100)


def test_from_wherever_it_stands_the_oracle_wins(build: Any) -> None:
    env = build("webshop:FILES/shop", max_turns=30)
    for detour in (
        ["search[lamp]", "click[next >]"],
        ["search[tea]", "click[back to search]"],
        ["search[shirt]", "click[B00000]", "click[red]", "click[features]"],
        ["search[zzz]"],
    ):
        for seed in range(4):
            env.reset(seed=seed)
            info = go(env, *detour)[4]
            assert go(env, *info["oracle"].splitlines())[4]["success"], (detour, seed)


def test_what_is_no_button_costs_a_turn(build: Any) -> None:
    env = build("webshop:FILES/shop")
    first, _ = env.reset(seed=0)
    shown, reward, *_, info = go(env, "click[buy now]")
    assert shown == f"Nothing happens.\n{first}" and reward == 0 and info["action_valid"]
    assert info["mistake"] == "no such button" and info["metrics"]["turns"] == 1
    shown, *_, info = go(env, "look at lamps")
    assert not info["action_valid"] and shown.startswith("Write search[WORDS]")


def test_a_wrong_purchase_is_paid_its_share(build: Any) -> None:
    env = build("webshop:FILES/shop", max_turns=30)
    for seed in range(6):
        _, info = env.reset(seed=seed)
        way = info["oracle"].splitlines()
        _, reward, terminated, _, info = go(env, *way[:2], way[-1])
        met = info["facts"]["attributes_met"] + 1
        assert terminated and not info["success"] and info["facts"]["options_met"] == 0
        assert reward == pytest.approx(met / (met + 2)), "two values of choices are not met"


def test_splits_share_no_goal_and_are_the_published_ones_where_they_can_be(
    files: Path, standing_in: None
) -> None:
    folder = files / "shop"
    small = shop(str(folder), "human", None, None)
    ids = {split: {goal.id for goal in goals} for split, goals in small.goals.items()}
    assert sum(map(len, ids.values())) == len(set.union(*ids.values())) == 36
    assert all(ids.values())
    written = json.loads((folder / "items_human_ins.json").read_text())
    many = {asin: rows[:1] * 50 for asin, rows in written.items()}
    (folder / "items_human_ins.json").write_text(json.dumps(many))
    shop.cache_clear()
    large = shop(str(folder), "human", None, None).goals
    assert {split: len(goals) for split, goals in large.items()} == {
        "test": 500, "validation": 1_000, "train": 300,
    }  # fmt: skip


def test_made_goals_ask_for_a_value_of_every_choice(build: Any) -> None:
    env = build("webshop:FILES/shop", goals="made")
    shown, info = env.reset(seed=0)
    assert " with color: " in shown and ", and size: " in shown
    assert env.reset(seed=0) == (shown, info), "prices and values are drawn the same"
    assert [line[:6] for line in info["oracle"].splitlines()[-3:]] == ["click["] * 3


def product(**changes: Any) -> Product:
    described: dict[str, Any] = {
        "asin": "1", "name": "Alba Cotton Shirt", "query": "shirts",
        "category": "a \u203a b \u203a c",
        "price": 30.0, "price_tag": "$30.00", "description": "", "features": (),
        "attributes": ("tea tree", "essential oil", "natural ingredients"),
        "options": {"color": ("grey",), "size": ("xl",)},
    }  # fmt: skip
    return Product(**described | changes)


def goal(**changes: Any) -> Goal:
    described: dict[str, Any] = {
        "id": "1", "asin": "1", "instruction": "", "highest": 40.0, "options": ("grey", "xl"),
        "attributes": ("tea tree", "essential oils", "natural ingredients"),
    }  # fmt: skip
    return Goal(**described | changes)


CHOSEN = {"color": "grey", "size": "xl"}


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are compared by the stand-in."""
    module = SimpleNamespace(token_set_ratio=token_set_ratio, default_process=str.lower)
    monkeypatch.setattr(scoring, "library", lambda name, extra: module)


@pytest.mark.usefixtures("compared")
@pytest.mark.parametrize(
    ("bought", "asked", "chosen", "reward"),
    [
        ({}, {}, CHOSEN, 1),
        ({"attributes": ()}, {}, CHOSEN, 3 / 6),
        ({"attributes": (), "description": "With essential oils."}, {}, CHOSEN, 4 / 6),
        ({"price": 41.0}, {}, CHOSEN, 5 / 6),
        ({}, {}, {}, 4 / 6),
        ({}, {}, {"color": "dark grey", "size": "xl"}, 1),
        ({}, {}, {"color": "grey", "size": "xxl"}, 5 / 6),
        ({}, {"options": ()}, CHOSEN, 1),
        ({}, {"options": ("grey", "xl", "pack of 12")}, CHOSEN, 6 / 7),
    ],
)
def test_a_purchase_is_worth_the_share_that_is_met(
    bought: dict[str, Any], asked: dict[str, Any], chosen: dict[str, str], reward: float
) -> None:
    assert score(product(**bought), chosen, goal(**asked), product()).reward == pytest.approx(
        reward
    )


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        ({}, 1),
        ({"name": "Alba Wool Coat", "query": "coats", "category": "d \u203a e"}, 1),
        ({"name": "Wool Coat"}, 0),
        ({"name": "One Shirt Or Another", "query": "x", "category": "a \u203a a \u203a d"}, 1),
    ],
)
def test_the_kind_is_by_name_query_and_category(change: dict[str, Any], factor: float) -> None:
    assert kind_factor(product(**change), product()) == factor


def test_a_kind_that_hardly_fits_counts_half_or_a_tenth() -> None:
    other = {"query": "x", "category": "d"}
    six = product(name="one two three four five six")
    assert kind_factor(product(name="six lamps", **other), six) == 0.5
    assert kind_factor(product(name="six lamps", query="x"), six) == 1, "two categories are shared"
    many = product(name=" ".join(f"word{n}" for n in range(11)))
    assert kind_factor(product(name="word3"), many) == 0.1
