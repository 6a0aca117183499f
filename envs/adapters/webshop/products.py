"""WebShop's products and what is asked for, from the three files of its data.

`items_shuffle.json` holds the products, `items_ins_v2.json` their attributes and made instructions,
`items_human_ins.json` the instructions that people wrote; the first two also under the names of the
small version (`_1000`). WebShop draws prices of a range and the highest price that is asked for
anew in every process; here both are draws by the product's number, the same everywhere.

Source: arXiv 2207.01206, and the fields that github.com/princeton-nlp/WebShop reads.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from agentopd.environment.splits import split_of
from agentopd.envs.adapters.search.index import Index, Passage
from agentopd.envs.puzzle import Split

Asked = Literal["human", "made"]

_FILES = {
    "products": ("items_shuffle.json", "items_shuffle_1000.json"),
    "attributes": ("items_ins_v2.json", "items_ins_v2_1000.json"),
    "human": ("items_human_ins.json",),
}
_PRICE = 100.0
"""Dollars, of a product that names no price."""
_LIMITS = tuple(10.0 * n for n in range(1, 100))
"""Highest prices that may be asked for, in dollars."""
_NO_LIMIT = 1_000_000.0
_ORDER = 233
"""The seed by which WebShop shuffles what is asked for, on which its splits depend."""
_TEST, _VALIDATION = 500, 1_500
"""Where the published test and validation splits end in the shuffled list."""


@dataclass(frozen=True)
class Product:
    """What is sold.

    `price` is in dollars; `options` are the values of each choice, in small letters.
    """

    asin: str
    name: str
    query: str
    category: str
    price: float
    price_tag: str
    description: str
    features: tuple[str, ...]
    attributes: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]

    @property
    def texts(self) -> str:
        """All that is written of it, in small letters."""
        return "\n".join((self.name, " ".join(self.features), self.description)).lower()


@dataclass(frozen=True)
class Goal:
    """What is asked for: the product it was written for, attributes, options, the highest price."""

    id: str
    asin: str
    instruction: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]
    highest: float


@dataclass(frozen=True)
class Shop:
    """The products by their numbers, the search over them, and the goals of each split."""

    products: Mapping[str, Product]
    index: Index
    goals: Mapping[str, Sequence[Goal]]


@lru_cache(maxsize=2)
def shop(folder: str, asked: Asked, most: int | None, cache: str | None) -> Shop:
    """The shop of a folder.

    Args:
        folder: with WebShop's files.
        asked: whether the goals are those that people wrote or made ones.
        most: products that are sold, the first of the file; all if not given.
        cache: a folder where the search's index is kept.

    Raises:
        ValueError: a file is missing or is none of WebShop's, or nothing is asked for.
    """
    attributes = _read(folder, "attributes")
    rows = _read(folder, "products")
    try:
        products = {p.asin: p for p in _products(rows[:most], attributes)}
        written = _human(_read(folder, "human")) if asked == "human" else _made(attributes)
        goals = [_goal(row, products[row["asin"]]) for row in written if row["asin"] in products]
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(
            f"the files in {folder} are not WebShop's data: {type(error).__name__}: {error}"
        ) from error
    if not goals:
        raise ValueError(f"nothing is asked for of the products in {folder}: take more of them")
    passages = [Passage(p.asin, p.name, _searched(p)) for p in products.values()]
    return Shop(products, Index(passages, Path(cache) if cache else None), _splits(goals))


def _read(folder: str, kind: str) -> Any:
    names = _FILES[kind]
    for name in names:
        if (path := Path(folder) / name).exists():
            try:
                return json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{path} is no JSON: {error}") from error
    raise ValueError(
        f"there is no {' or '.join(names)} in {folder}: webshop:DATA names the folder of WebShop's "
        "data, which its setup.sh downloads"
    )


def _products(rows: Sequence[Any], attributes: Mapping[str, Any]) -> Iterator[Product]:
    seen = set()
    for row in rows:
        asin = str(row["asin"])
        if asin == "nan" or len(asin) > 10 or asin in seen:
            continue
        seen.add(asin)
        features = row.get("small_description") or []
        prices = [
            float(n)
            for n in re.findall(r"\d[\d.]*", str(row.get("pricing") or "").replace(",", ""))
        ]
        choices = row.get("customization_options") or {}
        yield Product(
            asin=asin,
            name=str(row["name"]),
            query=str(row["query"]).lower().strip(),
            category=str(row["product_category"]),
            price=_price(asin, prices[:2]),
            price_tag=" to ".join(f"${price:.2f}" for price in prices[:2]) or f"${_PRICE:.2f}",
            description=str(row.get("full_description") or ""),
            features=tuple(map(str, features if isinstance(features, list) else [features])),
            attributes=tuple(attributes.get(asin, {}).get("attributes") or ()),
            options={
                name.lower(): tuple(_value(choice) for choice in listed)
                for name, listed in choices.items()
                if listed
            },
        )


def _price(asin: str, prices: Sequence[float]) -> float:
    """What a product costs, in dollars: one of a range is drawn."""
    if len(prices) < 2:
        return prices[0] if prices else _PRICE
    return random.Random(f"price/{asin}").uniform(*prices)


def _value(choice: Mapping[str, Any]) -> str:
    return str(choice["value"]).strip().replace("/", " | ").lower()


def _human(rows: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for asin, written in rows.items():
        for number, row in enumerate(written):
            if row["instruction_attributes"]:
                options = row["instruction_options"]
                yield {
                    "asin": asin,
                    "number": number,
                    "text": str(row["instruction"]).strip("."),
                    "attributes": row["instruction_attributes"],
                    "options": list(options.values()) if isinstance(options, dict) else options,
                }


def _made(attributes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for asin, row in attributes.items():
        if row.get("instruction") and row.get("instruction_attributes"):
            yield {
                "asin": asin,
                "number": 0,
                "text": str(row["instruction"]).strip("."),
                "attributes": row["instruction_attributes"],
                "options": None,
            }


def _goal(row: Mapping[str, Any], product: Product) -> Goal:
    """A goal; a made one asks for a value of each choice."""
    draws = random.Random(f"goal/{product.asin}/{row['number']}")
    options, text = row["options"], row["text"]
    if options is None:
        chosen = {name: draws.choice(values) for name, values in sorted(product.options.items())}
        options = list(chosen.values())
        named = ", and ".join(f"{name}: {value}" for name, value in chosen.items())
        text += f" with {named}" if named else ""
    above = list(itertools.islice((p for p in _LIMITS if p > product.price), 4))
    highest = max(draws.sample(above, 2)) if len(above) >= 2 else _NO_LIMIT
    if highest < _NO_LIMIT:
        text += f", and price lower than {highest:.2f} dollars"
    return Goal(
        id=f"{product.asin}/{row['number']}",
        asin=product.asin,
        instruction=text,
        attributes=tuple(map(str, row["attributes"])),
        options=tuple(map(str, options)),
        highest=highest,
    )


def _splits(goals: Sequence[Goal]) -> Mapping[str, Sequence[Goal]]:
    """The published splits, where there is enough for them; elsewhere by the goal's name."""
    names: tuple[Split, ...] = ("train", "validation", "test")
    if len(goals) <= _VALIDATION:
        return {name: [g for g in goals if split_of("webshop", g.id) == name] for name in names}
    shuffled = list(goals)
    random.Random(_ORDER).shuffle(shuffled)
    test, validation, train = (
        shuffled[:_TEST],
        shuffled[_TEST:_VALIDATION],
        shuffled[_VALIDATION:],
    )
    return {"train": train, "validation": validation, "test": test}


def _searched(product: Product) -> str:
    """What a search looks into beside the name."""
    options = [f"{name}: {', '.join(values)}" for name, values in product.options.items()]
    return "\n".join((product.description, *product.features[:1], *options))
