"""Public collections of Sokoban levels: how many load, and how many the search solves.

    python tests/benchmarks/sokoban_levels.py PATH [STATES] [LEVELS]

PATH is a file or folder of levels in the standard text format. Each file is read whole; the search
looks at up to STATES states, 20,000 where nothing is said, of each level, or of LEVELS levels
spread over the file. Every plan found is played in the environment and must solve its level.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import get_args

from agentopd.envs.sokoban.env import Sokoban
from agentopd.envs.sokoban.levels import Level, LevelError, read_levels
from agentopd.envs.sokoban.search import SEARCH_LIMIT, Verdict


def main() -> None:
    path = Path(sys.argv[1])
    states = int(sys.argv[2]) if len(sys.argv) > 2 else SEARCH_LIMIT
    most = int(sys.argv[3]) if len(sys.argv) > 3 else sys.maxsize
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    print(f"{'':40}{'levels':>7}{'tried':>7}{'solved':>7}{'lost':>6}{'gave up':>8}", end="")
    print(f"{'boxes':>7}{'pushes':>8}{'seconds':>9}{'longest':>9}")
    for file in files:
        try:
            levels = read_levels(file)
        except LevelError as error:
            print(f"{file.name:40} {error}")
            continue
        spread = levels[:: max(1, -(-len(levels) // most))]
        print(f"{file.name:40}{len(levels):7}{tried(spread, states)}", flush=True)


def tried(levels: list[Level], states: int) -> str:
    """What the search makes of the levels, as a line of figures."""
    env = Sokoban(search_limit=states)
    found = dict.fromkeys(get_args(Verdict), 0)
    pushes: list[int] = []
    seconds: list[float] = []
    started = [level for level in levels if not level.boxes <= level.goals]
    for level in started:
        began = time.process_time()
        _, info = env.reset(options={"level": level.render()})
        seconds.append(time.process_time() - began)
        found[env.plan.verdict] += 1
        if env.plan.solvable:
            pushes.append(env.plan.pushes)
            assert solves(env, info["oracle"]), level.render()
    boxes = statistics.median(len(level.boxes) for level in levels)
    solved, lost, unknown = (found[verdict] for verdict in get_args(Verdict))
    half = statistics.median(pushes) if pushes else 0
    return (
        f"{len(started):7}{solved:7}{lost:6}{unknown:8}{boxes:7.0f}{half:8.0f}"
        f"{sum(seconds):9.1f}{max(seconds):9.2f}"
    )


def solves(env: Sokoban, plan: str) -> bool:
    """Whether the moves solve the level, and nothing before the last does."""
    env.turn_limit = len(plan.split())
    steps = [env.step(f"<action>{move}</action>") for move in plan.split()]
    return [step[2] for step in steps] == [False] * (len(steps) - 1) + [True]


if __name__ == "__main__":
    main()
