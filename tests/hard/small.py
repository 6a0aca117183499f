"""The smallest run and study in which weights, a teacher and memories change; and their digests."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from command_line import SOKOBAN

TIMES = ("seconds", "stages", "finished", "progress.json")
"""Keys of what differs from run to run: times, and the sum of the file that holds them."""
PAGES = ("report.html", "plots/")
"""What `report` makes of the rest."""


def make_model(folder: Path) -> Path:
    """A model with random weights, its tokenizer and its chat template."""
    import torch

    from agentopd.zoo.build import blank_model
    from agentopd.zoo.tokenizer import train_tokenizer

    words = ["up down left right", "Sokoban: push $ onto .", "#_.$@_#", "skill: go to the box"]
    tokenizer = train_tokenizer(words, 300)
    torch.manual_seed(0)
    blank_model(tokenizer, hidden=16, intermediate=32, layers=1, heads=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_config(path: Path, model: Path, **more: Any) -> Path:
    """A run of two steps, and a study of it with two arms."""
    config = {
        "steps": 2,
        "threads": 1,
        "student": {"path": str(model)},
        "env": {"id": SOKOBAN, "options": {"prompt": "brief", "max_turns": 2}},
        "rollout": {"kind": "student", "tasks": 2, "max_turn_tokens": 4},
        "privilege": ["skill_summary"],
        "teacher": "ema",
        "learner": {"learning_rate": 0.01},
        "evaluate": {"episodes": 2},
        "save": {"checkpoint_every": 1, "scores_top_k": 4},
        "study": {"seeds": [0], "arms": {"token": {}, "turn": {"unit": "turn"}}},
    }
    path.write_text(yaml.safe_dump(config | more))
    return path


def emptied(place: Path) -> None:
    """Take away what lies at a place."""
    shutil.rmtree(place, ignore_errors=True)


def copied(folder: Path, to: Path) -> Path:
    """A folder in the place of another, with its links as they are."""
    emptied(to)
    return Path(shutil.copytree(folder, to, symlinks=True))


def files(folder: Path) -> list[str]:
    """The names of all files below a folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def digest(folder: Path, pages: bool = False) -> dict[str, str]:
    """Every file's name and what it says, times left out; `pages` takes reports in too."""
    chosen = [n for n in files(folder) if pages or not any(page in n for page in PAGES)]
    return {name: hashlib.sha256(_content(folder / name)).hexdigest() for name in chosen}


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """The files that are in one alone or say something else."""
    return sorted(n for n in one.keys() | other.keys() if one.get(n) != other.get(n))


def _content(path: Path) -> bytes:
    if path.suffix not in (".json", ".jsonl"):
        return path.read_bytes()
    try:
        text = path.read_text()
        records = text.splitlines() if path.suffix == ".jsonl" else [text]
        return json.dumps([_timeless(json.loads(record)) for record in records]).encode()
    except ValueError:  # damaged: then every byte counts
        return path.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(own) for name, own in value.items() if name not in TIMES}
    return [_timeless(each) for each in value] if isinstance(value, list) else value
