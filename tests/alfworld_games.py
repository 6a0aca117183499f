"""Small games in ALFWorld's format: a thing to move in a room, with its domain and grammar."""

from __future__ import annotations

import json
from pathlib import Path

_PLACES = ("Desk", "Shelf", "Drawer", "Bed")
_THINGS = ("Mug", "Book", "Pen")
_OPENABLE = ("Drawer",)


def write_game(folder: Path, package: Path, thing: int, target: int, solvable: bool = True) -> Path:
    """Write the game in which a thing is moved from a place to another.

    Args:
        folder: of the game.
        package: the folder of the package alfworld, which has the domain and the grammar.
        thing: which one.
        target: the place where it is to be.
        solvable: what the game says of itself.
    """
    what, where = _THINGS[thing], _PLACES[target]
    grammar = (package / "data" / "alfred.twl2").read_text(encoding="utf-8")
    game = {
        "pddl_domain": (package / "data" / "alfred.pddl").read_text(encoding="utf-8"),
        "grammar": grammar.replace("UNKNOWN GOAL", f"put a {what.lower()} in {where.lower()}"),
        "pddl_problem": _problem(what, where, (target + 1 + thing) % len(_PLACES)),
        "solvable": solvable,
        "walkthrough": None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "game.tw-pddl"
    path.write_text(json.dumps(game), encoding="utf-8")
    return path


def write_games(folder: Path, package: Path, numbers: range) -> None:
    """Write the games of those numbers, twelve of which differ, in folders named as ALFWorld's."""
    for number in numbers:
        thing, target = number % len(_THINGS), number // len(_THINGS) % len(_PLACES)
        kind = f"pick_and_place_simple-{_THINGS[thing]}-None-{_PLACES[target]}-{number}"
        write_game(folder / kind / "trial_0", package, thing, target)


def _problem(what: str, where: str, start: int) -> str:
    """The initial state and the goal, in PDDL."""
    places = [f"{name}_bar_{n}" for n, name in enumerate(_PLACES)]
    things = [f"{name}_bar_{n}" for n, name in enumerate(_THINGS)]
    facts = ["(atLocation agent1 loc_start)", "(= (total-cost) 0)"]
    for n, place in enumerate(places):
        facts += [f"(receptacleAtLocation {place} loc_{n})"]
        facts += [f"(receptacleType {place} {_PLACES[n]}Type)"]
        facts += [f"(openable {place})"] if _PLACES[n] in _OPENABLE else []
        facts += [f"(canContain {_PLACES[n]}Type {name}Type)" for name in _THINGS]
    for n, thing in enumerate(things):
        at = start if _THINGS[n] == what else (start + n) % len(places)
        facts += [f"(objectType {thing} {_THINGS[n]}Type)", f"(pickupable {thing})"]
        facts += [f"(inReceptacle {thing} {places[at]})", f"(objectAtLocation {thing} loc_{at})"]
    locations = " ".join(["loc_start", *(f"loc_{n}" for n in range(len(places)))])
    return f"""(define (problem made)
(:domain alfred)
(:objects
agent1 - agent
{locations} - location
{" ".join(places)} - receptacle
{" ".join(things)} - object
{" ".join(f"{name}Type" for name in _PLACES)} - rtype
{" ".join(f"{name}Type" for name in _THINGS)} - otype
)
(:init
{chr(10).join(facts)}
)
(:goal (exists (?r - receptacle) (exists (?o - object) (and
(inReceptacle ?o ?r) (objectType ?o {what}Type) (receptacleType ?r {where}Type)))))
(:metric minimize (total-cost))
)"""
