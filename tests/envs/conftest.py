"""The packages that adapters play: stand-ins in `make test`, themselves in `make test-envs`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import stand_ins
from stand_ins import Broken
from webshop_data import write_shop

from agentopd import make
from agentopd.envs.adapters.played import alfworld
from agentopd.envs.adapters.search import index
from agentopd.envs.adapters.webshop import products

Build = Callable[..., Any]

ON_STAND_INS = ("verified_sums", "verified_guess", "agentopd_student")
"""Modules that are built on a package's classes, and so are others on its stand-in."""


@pytest.fixture(autouse=True)
def mended() -> Iterator[None]:
    """Each test begins with games that work."""
    Broken.mend()
    yield
    Broken.mend()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the user's own files: households, rows, stories."""
    for split, count in (("train", 4), ("valid_seen", 2), ("valid_unseen", 2)):
        for number in range(count):
            kind = ("pick_and_place_simple", "look_at_obj_in_light")[number % 2]
            folder = tmp_path / "json_2.1.1" / split / f"{kind}-Mug-{'x' * len(split)}-{number}"
            (folder / "trial").mkdir(parents=True)
            (folder / "trial" / "game.tw-pddl").write_text('{"solvable": true}')
    for split, first in (("train", 0), ("test", 50)):
        rows = [_row(number) for number in range(first, first + 6)]
        text = "\n".join(map(json.dumps, rows))
        (tmp_path / f"{split}.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "shop").mkdir()
    write_shop(tmp_path / "shop")
    for story in ("known.z5", "unknown.z8"):
        (tmp_path / story).write_bytes(b"story")
    return tmp_path


def _row(number: int) -> dict[str, Any]:
    asked = [{"role": "system", "content": "Add. End with #### NUMBER."}]
    asked.append({"role": "user", "content": f"What is {number} + 1?"})
    truth = {"method": "rule", "ground_truth": str(number + 1)}
    return {"prompt": asked, "data_source": "sums", "reward_spec": truth}


@pytest.fixture
def standing_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-ins in the packages' places, and a program `java` that is never run."""
    for name, module in stand_ins.installed().items():
        monkeypatch.setitem(sys.modules, name, module)
    for key, spec in stand_ins.registered().items():
        monkeypatch.setitem(gymnasium.registry, key, spec)
    monkeypatch.setattr("shutil.which", lambda name: f"bin/{name}")
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    for name in ON_STAND_INS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    caches = (alfworld.found_games, index.index, index.questions, products.shop)
    for cache in caches:
        cache.cache_clear()
    yield
    for name in ON_STAND_INS:
        sys.modules.pop(name, None)
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def build(standing_in: None, files: Path) -> Iterator[Build]:
    """Makes an environment on stand-ins; FILES in names and options is the folder of `files`."""
    made: list[Any] = []

    def built(spec: str, **options: Any) -> Any:
        given = {
            key: value.replace("FILES", str(files)) if isinstance(value, str) else value
            for key, value in options.items()
        }
        made.append(make(spec.replace("FILES", str(files)), given))
        return made[-1]

    yield built
    for env in made:
        env.close()
