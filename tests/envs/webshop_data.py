"""A small shop in the format of WebShop's data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KINDS = {
    "shirt": ("cotton shirt", ("machine wash", "long sleeve"), ("small", "large")),
    "lamp": ("desk lamp", ("easy install", "led light"), ("one bulb", "two bulbs")),
    "tea": ("green tea", ("caffeine free", "gluten free"), ("pack of 6", "pack of 12")),
}
COLOURS = ("red", "navy blue", "white", "black")
MAKERS = ("Alba", "Borea", "Corvus")


def write_shop(folder: Path) -> None:
    """The three files; each product is asked for once by people and once by a template."""
    products: list[dict[str, Any]] = []
    attributes: dict[str, Any] = {}
    human: dict[str, Any] = {}
    for kind, (name, features, sizes) in KINDS.items():
        for maker in MAKERS:
            for number, colour in enumerate(COLOURS):
                asin = f"B{len(products):05}"
                has = list(features[: 1 + number % 2])
                products.append(
                    {
                        "asin": asin,
                        "name": f"{maker} {name.title()} Series {number}",
                        "query": f"{kind}s ",
                        "category": "home",
                        "product_category": f"Home \u203a Things \u203a {kind.title()}",
                        "pricing": ("$12.50", "$8.00$19.00", "")[number % 3],
                        "full_description": f"A {name} by {maker}.",
                        "small_description": [f"It is {has[0]}.", "It lasts."],
                        "customization_options": {
                            "Color": [{"value": c.title(), "image": None} for c in COLOURS],
                            "Size": [{"value": size} for size in sizes],
                            "Gift": None,
                        },
                        "images": ["none"],
                    }
                )
                attributes[asin] = {
                    "attributes": has,
                    "instruction": f"Find me {' '.join(has)} {kind}s",
                    "instruction_attributes": has[:1],
                }
                human[asin] = [
                    {
                        "instruction": f"i want a {colour} {name} by {maker.lower()}, {has[0]}.",
                        "instruction_attributes": has,
                        "instruction_options": [colour, sizes[number % 2]],
                    },
                    {"instruction": "x", "instruction_attributes": [], "instruction_options": []},
                ]
    products += [products[0], products[1] | {"asin": "a number that is too long"}]
    for stem, content in (
        ("items_shuffle_1000", products),
        ("items_ins_v2_1000", attributes),
        ("items_human_ins", human),
    ):
        (folder / f"{stem}.json").write_text(json.dumps(content), encoding="utf-8")
