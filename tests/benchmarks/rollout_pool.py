"""Episodes a second of the pool and of one that plays in rounds, taking turns in one run.

    python tests/benchmarks/rollout_pool.py [THREADS]

In a round everyone is asked, and everyone waits for the longest answer and the slowest environment.
Two loads: answers of log-normal lengths (median 60 tokens, 95th percentile 300; a mean of 60 cannot
have that percentile) with one environment in ten that takes 50 ms a step, on 64 slots; and the
quickstart's rollout. The round's sampler is the same one, so the ratio is that of the waiting
alone. Both clocks are shown: on a busy machine processor time is the one to compare.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Event
from typing import Any

import numpy as np
import torch

from agentopd.base.types import Trajectory
from agentopd.environment.contract import Info, TextEnv
from agentopd.models.chat import ChatTemplate
from agentopd.models.model import LanguageModel, load_model
from agentopd.rollout.episode import Episode
from agentopd.rollout.kept import Shelf
from agentopd.rollout.pool import EpisodePool, Limits, Task
from agentopd.rollout.sampler import Answer, Request, Sampler
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.reading import load_config

TURNS, EPISODES, SLOTS, LONGEST, ROUNDS = 2, 96, 64, 600, 3
MEDIAN, SPREAD = 60, np.log(300 / 60) / 1.645

Play = Callable[[EpisodePool, Sequence[Task], Sampler], list[Trajectory]]


class Slow(TextEnv):
    """Two turns of a short observation; one in ten waits 50 ms a step, on a thread."""

    def __init__(self, number: int) -> None:
        self.seconds = 0.05 if number % 10 == 0 else 0.0
        self.metadata = {**TextEnv.metadata, "blocking": self.seconds > 0}
        self.turn = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        return "go on", {"task_id": str(seed), "success": False, "action_valid": True}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        time.sleep(self.seconds)
        self.turn += 1
        return "go on", 0.0, self.turn == TURNS, False, self.reset(seed=0)[1]


@dataclass(frozen=True)
class Lengths:
    """A sampler whose answers have log-normal lengths, the same for a request whoever asks."""

    sampler: TransformersSampler

    def submit(self, requests: Sequence[Request]) -> None:
        self.sampler.submit([replace(r, max_tokens=_length(r.seed)) for r in requests])

    def ready(self, wake: Event | None = None, seconds: float | None = None) -> list[Answer]:
        return self.sampler.ready(wake, seconds)

    def forget(self, keys: Sequence[int]) -> None:
        self.sampler.forget(keys)

    def sync(self, student: LanguageModel) -> None:
        self.sampler.sync(student)


def _length(seed: tuple[int, ...]) -> int:
    drawn = np.random.default_rng((*seed, 1)).lognormal(np.log(MEDIAN), SPREAD)
    return int(np.clip(drawn, 1, LONGEST))


def in_rounds(pool: EpisodePool, tasks: Sequence[Task], sampler: Sampler) -> list[Trajectory]:
    """The pool as it would be if everyone waited for everyone."""
    queue, playing, finished = list(tasks), list[Episode](), list[Trajectory]()
    shelf = Shelf()
    while queue or playing:
        free = pool.slots - len(playing)
        opened = [pool.open(task, Event(), shelf, pool.slots) for task in queue[:free]]
        fresh, queue = opened, queue[free:]
        playing += fresh
        _together([episode.start() for episode in fresh])
        asking = {e.task.episode: e for e in playing if e.end is None}
        drawn = pool.seed, pool.temperature, pool.truncation
        sampler.submit([e.request(*drawn) for e in asking.values()])
        said: list[Answer] = []
        while len(said) < len(asking):
            said += sampler.ready()
        _together([asking[answer.key].advance(answer.completion) for answer in said])
        over = [episode for episode in playing if episode.end is not None]
        playing = [episode for episode in playing if episode.end is None]
        _together([episode.close() for episode in over])
        sampler.forget([episode.task.episode for episode in over])
        finished += [t for episode in over for t in episode.trajectories()]
    return sorted(finished, key=lambda trajectory: trajectory.episode)


def _together(parts: Sequence[Iterator[Any]]) -> None:
    for part in parts:
        next(part)
    for part in parts:
        next(part, None)


def _uneven(student: LanguageModel) -> tuple[EpisodePool, list[Task], Sampler]:
    endless = LanguageModel(student.module, student.tokenizer, student.name, frozenset())
    numbers = iter(range(10**9))
    pool = EpisodePool(
        env_id="slow",
        make_env=lambda: Slow(next(numbers)),
        template=ChatTemplate(student.tokenizer),
        stop_ids=student.stop_ids,
        limits=Limits(turns=TURNS, turn_tokens=LONGEST, context=10**6),
        slots=SLOTS,
        temperature=1.0,
        seed=0,
    )
    return pool, [Task(e, e, e) for e in range(EPISODES)], Lengths(TransformersSampler(endless))


def _quickstart(student: LanguageModel) -> tuple[EpisodePool, list[Task], Sampler]:
    config = load_config("configs/quickstart.yaml")
    pool = config.rollout.pool(config.env, student, seed=0)
    return pool, config.rollout.schedule(0, 0), TransformersSampler(student)


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    student = load_model(load_config("configs/quickstart.yaml").student)
    print(f"{'load':12}{'rounds':>9}{'pool':>9}{'ratio':>8}{'rounds':>9}{'pool':>9}{'ratio':>8}")
    print(f"{'':12}{'episodes a second':>26}{'episodes a processor second':>26}")
    loads = (("log-normal", _uneven, ROUNDS), ("quickstart", _quickstart, 5 * ROUNDS))
    plays: tuple[Play, Play] = (in_rounds, lambda pool, tasks, by: pool.play(tasks, by))
    for name, load, rounds in loads:
        pool, tasks, sampler = load(student)
        spent: tuple[list[tuple[float, float]], ...] = ([], [])
        for n in range(2 * rounds):
            wall, processor = time.perf_counter(), time.process_time()
            plays[n % 2](pool, tasks, sampler)
            spent[n % 2].append((time.perf_counter() - wall, time.process_time() - processor))
        line = ""
        for clock in range(2):
            old, new = (len(tasks) / statistics.median(s[clock] for s in each) for each in spent)
            line += f"{old:9.1f}{new:9.1f}{new / old:8.2f}"
        print(f"{name:12}{line}")


if __name__ == "__main__":
    main()
