"""Milliseconds of a reset and of a step of Desk, by the oracle, in both modes.

    python tests/benchmarks/desk.py [EPISODES]

Processor time is this process's own; in mode `code` the interpreter's comes on top, so the time
that passed is shown beside it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from agentopd.envs.desk.env import Desk


def main() -> None:
    episodes = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for mode in ("call", "code"):
        measure(Desk(mode=mode), episodes)


def measure(env: Desk, episodes: int) -> None:
    """Play by the oracle, and print what it took."""
    reset, step = Clock(env.reset), Clock(env.step)
    for seed in range(episodes):
        _, info = reset(seed=seed)
        over = False
        while not over:
            plan: str = info["oracle"]
            action = plan.partition("\n")[0] if env.mode == "call" else plan
            _, _, terminated, truncated, info = step(f"<action>{action}</action>")
            over = terminated or truncated
        assert info["success"]
    env.close()
    print(f"{env.mode} reset {reset}")
    print(f"{env.mode} step  {step}")


class Clock:
    """The mean time of the calls of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.count = 0
        self.busy = self.passed = 0.0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        busy, passed = time.process_time(), time.perf_counter()
        result = self.function(*arguments, **named)
        self.busy += time.process_time() - busy
        self.passed += time.perf_counter() - passed
        self.count += 1
        return result

    def __str__(self) -> str:
        busy, passed = (1000 * spent / self.count for spent in (self.busy, self.passed))
        return f"{busy:6.2f} ms of processor, {passed:6.2f} ms passed, mean of {self.count}"


if __name__ == "__main__":
    main()
