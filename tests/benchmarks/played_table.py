"""The environments of other packages as a table in Markdown: what runs, how fast, how well.

    python tests/benchmarks/played_table.py PYTHON [PYTHON ...]

Each row is played by the first interpreter that has the row's package: their requirements do not
all go together, so that each may be an environment of its own with its extra. Games that are
the user's files are made first, by TextWorld and from ALFWorld's own domain. Takes
minutes for those in Java. Nothing is downloaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
SEEDS = 50
PLAYED_SECONDS = 60.0
"""After which no further seed is played."""
ROWS: tuple[tuple[str, str, str, dict[str, Any], bool], ...] = (
    ("scienceworld", "scienceworld", "science:find-animal", {"simplifications": "easy"}, False),
    ("scienceworld", "scienceworld", "science:all", {"simplifications": "easy"}, False),
    ("textworld-express", "textworld_express", "express:coin", {"max_turns": 100}, False),
    ("textworld-express", "textworld_express", "express:cookingworld", {"max_turns": 100}, False),
    ("textworld-express", "textworld_express", "express:simonsays", {}, True),
    ("alfworld", "alfworld", "alfworld:train", {"data": "MADE"}, False),
    ("gem-llm", "gem", "gem:game:Mastermind-v0-easy", {}, True),
    ("gem-llm", "gem", "gem:rg:chain_sum", {}, True),
    ("skyrl-gym", "skyrl_gym", "skyrl:gsm8k", {"data": "MADE/sums.jsonl"}, True),
    ("skyrl-gym", "skyrl_gym", "skyrl:gsm8k_multi_turn", {"data": "MADE/sums.jsonl"}, True),
    ("jericho", "textworld", "jericho:MADE/made.z8", {"varied": True}, True),
    ("nle", "nle", "nethack:NetHackStaircase-v0", {}, True),
    ("bm25s", "bm25s", "search:small", {}, True),
)
"""Distribution, module, environment, options, whether it is checked here, which with Java or
a planner takes up to an hour."""


def main() -> None:
    """Print the table, or, where a row is named, that row as JSON."""
    if sys.argv[1] == "--row":
        print(json.dumps(row(int(sys.argv[2]), Path(sys.argv[3]))))
        return
    machine = f"{os.cpu_count()} {platform.machine()} cores, Python {platform.python_version()}"
    print(f"{machine}, one process, {SEEDS} seeds where {PLAYED_SECONDS:.0f} seconds suffice.\n")
    print(
        "| environment | version | resets a second | steps a second | the oracle's success |",
        end="",
    )
    print(" MB | check-env --strict |\n|---|---|---:|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(len(ROWS)):
            print(_line(number, Path(folder)), flush=True)


def _line(number: int, folder: Path) -> str:
    """A row of the table, played by the first interpreter that has the package."""
    _, module, spec, _, _ = ROWS[number]
    for python in sys.argv[1:]:
        if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0:
            given = [python, __file__, "--row", str(number), str(folder)]
            paths = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
            done = subprocess.run(given, capture_output=True, text=True, env=paths)
            if done.returncode:
                said = (done.stderr.strip().splitlines() or [""])[-1]
                return f"| `{_shown(spec)}` | fails: {said} | | | | | |"
            told = json.loads(done.stdout.splitlines()[-1])
            rates = " | ".join(
                f"{told[key]:.2g}" if told[key] < 10 else f"{told[key]:,.0f}"
                for key in ("resets", "steps")
            )
            return (
                f"| `{_shown(spec)}` | {told['version']} | {rates} | {told['oracle']} | "
                f"{told['megabytes']:.0f} | {told['found']} |"
            )
    return f"| `{_shown(spec)}` | not installed | | | | | |"


def _shown(spec: str) -> str:
    return spec.replace("MADE/", "").replace("MADE", "")


def row(number: int, folder: Path) -> dict[str, Any]:
    """What one environment does: it is built here, by the interpreter that has its package."""
    from agentopd import make
    from agentopd.environment.check import check_env
    from agentopd.environment.contract import actions

    name, module, spec, options, checked = ROWS[number]
    _prepare(module, folder)
    spec = spec.replace("MADE", str(folder))
    given = {
        k: v.replace("MADE", str(folder)) if isinstance(v, str) else v for k, v in options.items()
    }
    won = asked = played = steps = 0
    resetting = stepping = 0.0
    with closing(make(spec, given)) as env:
        env.reset(seed=0)
        began = time.perf_counter()
        while played < SEEDS and time.perf_counter() - began < PLAYED_SECONDS:
            since = time.perf_counter()
            _, info = env.reset(seed=played)
            resetting += time.perf_counter() - since
            played, asked, over = played + 1, asked + ("oracle" in info), False
            while not over:
                action = actions(env, str(info.get("oracle", "look around")))[0]
                form = getattr(env.unwrapped, "action_form", "{}")
                since = time.perf_counter()
                _, _, terminated, truncated, info = env.step(form.replace("{}", action))
                stepping, steps = stepping + time.perf_counter() - since, steps + 1
                over = terminated or truncated or "oracle" not in info
            won += bool(info["success"])
        megabytes = _memory()
    found = [f"{f.level}: {f.name}" for f in check_env(spec, given, strict=True)] if checked else []
    return {
        "version": metadata.version(name),
        "resets": played / resetting,
        "steps": steps / stepping,
        "oracle": f"{won} of {asked}" if asked else "none",
        "megabytes": megabytes,
        "found": (", ".join(dict.fromkeys(found)) or "nothing") if checked else "below",
    }


def _prepare(module: str, folder: Path) -> None:
    """Make the files that the row's environment plays."""
    rows = []
    for n in range(200):
        truth = {"ground_truth": str(7 * n + 1)}
        rows.append({"prompt": f"What is {7 * n} + 1?", "reward_spec": truth})
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    if module == "alfworld":
        sys.path.insert(0, str(TESTS))
        from alfworld_games import write_games

        found = importlib.util.find_spec("alfworld")
        assert found is not None and found.submodule_search_locations
        package = Path(found.submodule_search_locations[0])
        for split, numbers in (
            ("train", range(8)),
            ("valid_seen", range(8, 10)),
            ("valid_unseen", range(10, 12)),
        ):
            write_games(folder / split, package, numbers)
    if module == "textworld":
        textworld = importlib.import_module("textworld")
        options = textworld.GameOptions()
        options.seeds, options.nb_rooms, options.quest_length = 3, 3, 3
        options.path = str(folder / "made.z8")
        textworld.generator.compile_game(textworld.generator.make_game(options), options)


def _memory() -> float:
    """Megabytes that this process and its children have held at most, Java's among them."""
    held = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            told = dict(
                line.split(":", 1) for line in status.read_text().splitlines() if ":" in line
            )
        except OSError:  # it has ended meanwhile
            continue
        if "VmHWM" in told:
            held[int(told["Pid"])] = (int(told["PPid"]), int(told["VmHWM"].split()[0]) / 1024)
    family = {os.getpid()}
    while more := {pid for pid, (parent, _) in held.items() if parent in family} - family:
        family |= more
    return sum(held[pid][1] for pid in family if pid in held)


if __name__ == "__main__":
    main()
