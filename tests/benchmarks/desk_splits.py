"""The share of Desk's test instructions that occur word for word among those of training.

    python tests/benchmarks/desk_splits.py [TRAIN TEST]

Splits share no world and no scenario, but the lists that names and titles are drawn from. Counted
for all templates, and for those of `configs/studies/desk.yaml` with as many tasks as its run plays.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from agentopd.environment.contract import HELD_OUT_SEED
from agentopd.envs.desk.tasks.library import Split, scenario, select

STUDY = ("card_expiry", "contact_phone", "event_add", "event_time", "todo_add", "wallet_balance")


def main() -> None:
    train, test = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (6_000, 600)
    print(f"all templates, {train} and {test} tasks: {shared(None, train, test):.0%}")
    print(f"the study's, 480 and 128 tasks: {shared(STUDY, 480, 128):.0%}")


def shared(templates: Sequence[str] | None, train: int, test: int) -> float:
    """The part of `test` instructions of the split test that are among `train` ones of train."""
    known = set(instructions("train", templates, range(train)))
    seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + test)
    asked = instructions("test", templates, seeds)
    return sum(text in known for text in asked) / len(asked)


def instructions(split: Split, templates: Sequence[str] | None, seeds: Sequence[int]) -> list[str]:
    """What the tasks of these seeds of a split say."""
    chosen = select(split, None, None, templates)
    return [scenario(split, chosen, seed).task.instruction for seed in seeds]


if __name__ == "__main__":
    main()
