"""What a purchase is worth, from 0 to 1, as WebShop counts it (arXiv 2207.01206, section 3).

The share of what is asked for that is met (attributes, options, the price), times a factor for the
kind of product. Texts are compared by the package rapidfuzz, as WebShop's `thefuzz` does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentopd.envs.adapters import library
from agentopd.envs.adapters.webshop.products import Goal, Product

_ALIKE = 85
"""Points of 100 from which two texts are alike."""
_EXACT = ("size",)
"""Choices whose value must be the one that is asked for."""
_COLOURS = (
    "beige", "black", "blue", "bronze", "brown", "burgundy", "charcoal", "chrome", "copper",
    "coral", "cream", "gold", "gray", "green", "grey", "indigo", "ivory", "khaki", "lavender",
    "lilac", "lime", "magenta", "maroon", "mauve", "mint", "mustard", "navy", "nickel", "olive",
    "orange", "peach", "pearl", "pink", "plum", "purple", "red", "rose", "rust", "salmon", "silver",
    "tan", "taupe", "teal", "turquoise", "violet", "walnut", "white", "wine", "yellow",
)  # fmt: skip
_BETWEEN = "\u203a"
"""What stands between a category and the wider one before it."""
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_SMALL = frozenset(
    ("a", "an", "and", "as", "at", "by", "for", "from", "in", "is", "it", "its", "of", "on", "or",
     "the", "to", "up", "with", "your")
)  # fmt: skip
"""Words of a name that name nothing."""


@dataclass(frozen=True)
class Score:
    """A purchase's worth and its parts: how many attributes and options are met, the price."""

    kind: float
    attributes: int
    options: int
    in_price: bool
    asked: int

    @property
    def reward(self) -> float:
        """From 0 to 1; an option that is met beside those that are asked for counts no more."""
        met = self.attributes + self.options + self.in_price
        return self.kind * min(met / self.asked, 1.0)


def score(product: Product, chosen: Mapping[str, str], goal: Goal, wanted: Product) -> Score:
    """What it is worth to buy `product` with the options `chosen`.

    Args:
        product: what is bought.
        chosen: its options by the names of the choices.
        goal: what is asked for.
        wanted: the product for which the goal was written.
    """
    return Score(
        kind=kind_factor(product, wanted),
        attributes=sum(_has(product, attribute) for attribute in goal.attributes),
        options=sum(_meets(product, *choice, goal) for choice in chosen.items()),
        in_price=product.price <= goal.highest,
        asked=len(goal.attributes) + len(goal.options) + 1,
    )


def kind_factor(product: Product, wanted: Product) -> float:
    """How much the kind of `product` is that of `wanted`: 0, 0.1, 0.5 or 1.

    WebShop compares the nouns of the names, as a model of spaCy's tags them; here it is their words
    without the smallest, which differs for names that hardly share any.
    """
    named, shared = _names(wanted.name), _names(product.name) & _names(wanted.name)
    likeness = len(shared) / len(named) if named else 0.2
    categories = [{part.strip() for part in p.category.split(_BETWEEN)} for p in (product, wanted)]
    same = product.query == wanted.query or len(categories[0] & categories[1]) >= 2
    if likeness == 0:
        return 0.0
    if likeness < 0.1:
        return 0.1
    return 1.0 if same or likeness > 0.2 else 0.5


def alike(one: str, other: str) -> bool:
    """Whether the words of two texts are nearly the same, or one's are among the other's."""
    fuzz: Any = library("rapidfuzz.fuzz", "webshop")
    utils: Any = library("rapidfuzz.utils", "webshop")
    return round(fuzz.token_set_ratio(one, other, processor=utils.default_process)) > _ALIKE


def colour(text: str) -> str:
    """The colour that a text names, or the text."""
    return next((name for name in _COLOURS if name in text), text)


def matches(name: str, value: str, asked: str) -> bool:
    """Whether the value of a choice is what is asked for."""
    value, asked = colour(value), colour(asked)
    return value == asked if name in _EXACT else alike(asked, value)


def _names(text: str) -> set[str]:
    return {word for word in _WORD.findall(text.lower()) if word not in _SMALL}


def _has(product: Product, attribute: str) -> bool:
    return any(alike(own, attribute) for own in product.attributes) or attribute in product.texts


def _meets(product: Product, name: str, value: str, goal: Goal) -> bool:
    met = any(matches(name, value, asked) for asked in goal.options)
    return met or colour(value) in product.texts
