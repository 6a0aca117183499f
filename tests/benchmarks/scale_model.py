"""What a step costs at 8, 64 and 512 devices: a model whose parts that are ours are measured.

    python tests/benchmarks/scale_model.py

Measured here, on processors: the bytes of what processes tell one another, the seconds of telling
it and of what every process does for all episodes, and the seconds of weights through a file.
Assumed, for want of GPUs and a network: what is printed as such. The run is that of
configs/real/two_machines.yaml, with other numbers of devices and as many episodes for each.
"""

from __future__ import annotations

import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import torch
from qwen3 import SHAPES, VOCABULARY
from safetensors.torch import load_file, save_file
from together import together
from transformers import AutoModelForCausalLM

from agentopd.base.console import quiet_libraries
from agentopd.base.types import Lesson, Trajectory
from agentopd.parallel.episodes import known_elsewhere
from agentopd.parallel.processes import Processes
from agentopd.running.preparation.planned import planned_forecast
from agentopd.running.reading import load_config
from agentopd.running.run import Run

ROOT = Path(__file__).parents[2]
DEVICES = (8, 64, 512)
_FEW, _MANY = 32, 320
"""Episodes of two steps, from whose difference follows what each costs every process."""


@dataclass(frozen=True)
class Assumed:
    """What was not measured: the devices, the network, and what is played."""

    episodes_a_device: int = 16
    context: int = 2_000  # tokens of an episode, observations included
    answers: int = 800  # of these the student's, one after another
    told: int = 200  # tokens that the teacher alone is told
    flops: float = 400e12  # a device's in a second, of large products in bfloat16
    sampled: float = 2_000  # tokens that a device samples in a second
    latency: float = 0.015  # seconds of one token of one answer
    reduced: float = 50e9  # bytes a second of the sum of gradients, for each device
    network: float = 12.5e9  # bytes a second into a machine of eight devices
    file: float = 2e9  # bytes a second of a folder that machines share


@dataclass(frozen=True)
class Measured:
    """What was measured on this machine."""

    trajectory: float  # bytes a token of an episode, as other processes are told of it
    lesson: float  # the same of a lesson
    telling: float  # seconds a byte that a process is told
    planning: float  # seconds an episode that a process does not learn from
    file: float  # seconds a byte of weights that go through a file in memory


class Lazy(Processes):
    """One of two processes, with a single episode of its own however many there are."""

    def share(
        self,
        items: Sequence[Any],
        task: Callable[[Any], Hashable],
        work: Callable[[Any], float] = lambda _: 1.0,
    ) -> list[Any]:
        """The first."""
        return list(items[:1])


def main() -> None:
    quiet_libraries()
    torch.set_num_threads(1)
    measured, assumed = _measured(), Assumed()
    print("measured:", measured)
    print("assumed:", assumed)
    stages = [_stages(devices, measured, assumed) for devices in DEVICES]
    names = [*stages[0], "all", "tokens learnt a second and device"]
    print("| devices | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for devices, seconds in zip(DEVICES, stages, strict=True):
        whole = sum(seconds.values())
        rate = assumed.episodes_a_device * assumed.answers / whole
        cells = [f"{second:.1f}" for second in [*seconds.values(), whole]]
        print(f"| {devices} | " + " | ".join(cells) + f" | {rate:,.0f} |")
    _print_bytes(measured)


def _stages(devices: int, measured: Measured, assumed: Assumed) -> dict[str, float]:
    """Seconds of a step's stages, which follow one another: half of the devices learn, a quarter
    sample and a quarter teach.
    """
    student, teacher = (_parameters(name) for name in ("Qwen3-8B", "Qwen3-32B"))
    learn, quarter = devices // 2, devices // 4
    episodes = assumed.episodes_a_device * devices
    read, answers = episodes * (assumed.context + assumed.told), episodes * assumed.answers
    played = assumed.answers * assumed.latency
    machines = max(learn // 8, 1)
    wide, narrow = (SHAPES[name].hidden_size or 0 for name in ("Qwen3-32B", "Qwen3-8B"))
    logits = answers * VOCABULARY * (2 * wide + 6 * narrow)
    # forward, forward again where layers are recomputed, and backward to the adapters alone
    passes = 6 * student * episodes * assumed.context
    told = episodes * assumed.context * (measured.trajectory + measured.lesson)
    return {
        "rollout": max(answers / (assumed.sampled * quarter), played),
        "weights to the sampler": 2 * student * (1 / assumed.file + measured.file),
        "teacher": 2 * teacher * read / (assumed.flops * quarter),
        "hidden states on their way": 2 * wide * read / (assumed.network * machines),
        "passes of the learners": (passes + logits) / (assumed.flops * learn),
        "sum of gradients": 2 * _gradients() / assumed.reduced,
        "what processes tell one another": told * measured.telling,
        "what each does for all episodes": episodes * measured.planning,
    }


def _print_bytes(measured: Measured) -> None:
    """What crosses the network."""
    hidden = SHAPES["Qwen3-32B"].hidden_size or 0
    rows = [
        ("hidden states (bfloat16), a token of the teacher's contexts", 2 * hidden),
        ("an episode's trajectory, a token", measured.trajectory),
        ("a lesson without hidden states, a token", measured.lesson),
        ("weights to the sampler, a step", 2 * _parameters("Qwen3-8B")),
        ("gradients of the adapters, a step and process, there and back", 2 * _gradients()),
    ]
    print("\n| what | bytes |\n|---|---|")
    for what, size in rows:
        print(f"| {what} | {size:,.0f} |")


def _parameters(name: str) -> int:
    shape = SHAPES[name]
    with torch.device("meta"):
        return sum(x.numel() for x in AutoModelForCausalLM.from_config(shape).parameters())


def _gradients() -> int:
    """Bytes of the gradients of what learns."""
    config = load_config(ROOT / "configs" / "real" / "two_machines.yaml", [])
    return planned_forecast(config, SHAPES["Qwen3-8B"], SHAPES["Qwen3-32B"]).gradients


def _measured() -> Measured:
    """The constants of this machine, of the quickstart's token arm."""
    (few, _), (many, packed) = _updates(_FEW), _updates(_MANY)
    print(f"an update with one episode of its own: {few:.3f} s of {_FEW}, {many:.3f} s of {_MANY}")
    planning = max(many - few, 0.0) / (_MANY - _FEW)
    trajectories, lessons = packed
    tokens = sum(len(trajectory.ids) for trajectory in trajectories)
    sizes = [sum(len(pickle.dumps(x)) for x in each) for each in packed]
    telling = max(together(_telling, [*trajectories, *lessons]))
    return Measured(sizes[0] / tokens, sizes[1] / tokens, telling, planning, _file())


def _updates(episodes: int) -> tuple[float, tuple[list[Trajectory], list[Lesson]]]:
    """Processor seconds of the learner's update with one episode of its own, and the step's."""
    changes = ["study=null", "threads=1", "probe.pi_effect_every=0", "evaluate.episodes=1"]
    changes.append(f"rollout.tasks={episodes}")
    config = load_config(ROOT / "configs" / "quickstart.yaml", changes)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(config, Path(folder) / "run", False, lambda _: None)
        trajectories = run.roll_out(0)
        asked = run.ask_teacher(trajectories, 0)
        run.learner.processes = Lazy(rank=1, size=2)
        learn = partial(run.learner.update, trajectories, asked, 0)
        seconds = [_seconds_of(learn, time.process_time) for _ in range(3)]
        run.close()
    return min(seconds), (trajectories, [known_elsewhere(lesson) for lesson in asked])


def _telling(processes: Processes, items: list[Any]) -> float:
    """Seconds a byte that this process is told, its own among them."""
    processes.any(False)  # both begin at once
    seconds = min(_seconds_of(lambda: processes.gather(items)) for _ in range(3))
    return seconds / (processes.size * sum(len(pickle.dumps(item)) for item in items))


def _file() -> float:
    """Seconds a byte of a file that is written and read, in this machine's memory."""
    weights = {str(n): torch.zeros(2**24) for n in range(8)}
    size = sum(x.nbytes for x in weights.values())
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "weights"

        def through() -> None:
            save_file(weights, path)
            sum(float(x.sum()) for x in load_file(path).values())

        return min(_seconds_of(through) for _ in range(3)) / size


def _seconds_of(
    work: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> float:
    began = clock()
    work()
    return clock() - began


if __name__ == "__main__":
    main()
