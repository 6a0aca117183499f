"""Which names of reasoning-gym, MiniGrid and BabyAI run, and why the rest do not.

    python tests/benchmarks/adapter_names.py

One episode of each, by the oracle for at most ten turns. Takes a few minutes on one core.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import gymnasium

from agentopd.environment.checks.subject import Caught, by_oracle
from agentopd.environment.registry import make

TURNS = 10


def main() -> None:
    """Print a line for each family, and one for each name that does not run."""
    for family, names in (("reasoning", list(data_sets())), ("grid", list(grids()))):
        played = {name: played_by_oracle(f"{family}:{name}", options) for name, options in names}
        print(f"{family}: {sum(not why for why in played.values())} of {len(played)} run")
        for name, why in played.items():
            if why:
                print(f"  {name}: {why}")


def data_sets() -> Iterator[tuple[str, dict[str, Any]]]:
    """The data sets of reasoning-gym; the composite one has to be told its parts."""
    for name in sorted(import_module("reasoning_gym.factory").DATASETS):
        parts = [{"name": "chain_sum"}, {"name": "maze"}]
        yield name, {"datasets": parts} if name == "composite" else {}


def grids() -> Iterator[tuple[str, dict[str, Any]]]:
    """The identifiers that minigrid registers."""
    import_module("minigrid")
    for name, spec in sorted(gymnasium.registry.items()):
        if str(spec.entry_point).startswith("minigrid."):
            yield name, {}


def played_by_oracle(spec: str, options: dict[str, Any]) -> str:
    """Why there was no episode; empty if there was one."""
    caught = Caught()
    with caught:
        env = make(spec, options)
        _, info = env.reset(seed=0)
        for turn in range(TURNS):
            _, _, terminated, truncated, info = env.step(by_oracle(env, turn, info))
            if terminated or truncated:
                break
    return f"{type(caught.error).__name__}: {caught.error}" if caught.error else ""


if __name__ == "__main__":
    main()
