"""A step of ours beside one of TRL's trainers on the same work: time by stage, and memory.

    python tests/benchmarks/against_trl.py MODEL [--work grpo|distil] [--config FILE]
        [--episodes 16] [--group 4] [--steps 6] [--threads 2]

MODEL is a folder in Hugging Face format, or `zoo:NAME`; FILE names the environment and the limits
(the quickstart where it is not given). TRL is none of this project's dependencies. In an
environment of its own that has them:

    pip install torch==2.13.0
    pip install -c constraints.txt -e . trl==1.16.0 datasets

`grpo` is a step of GRPO over many turns: TRL's GRPOTrainer with a `rollout_func`, whose episodes
are those of our pool and our registry, asked for by `generate` (`Generating`). `distil` is the
reverse KL to a frozen copy, over one turn: TRL's DistillationTrainer, on the same prompts. Both
sides have the same model in float32, the same seeds of tasks, the same limits of turns and tokens,
temperature, AdamW in float32, clip, and a learning rate that moves nothing, so that every step is
the same work. They take turns in one process; a first step of each is not counted. Rewards are an
episode's number in its group, so that both learn from every episode. With --own-rewards they are
the environment's: groups that earned alike, of which there is nothing to learn, we leave out, and
TRL does not.

TRL is set as is best for it here: no gradient checkpointing, no bfloat16, no vLLM (there is no
GPU), no reference model, no logging, no saving; `generate` with its cache, for all episodes that
wait at once, told to stop at the same tokens, without the log-probabilities that we keep; one
micro-batch a step unless --rows says otherwise, where ours are cut at --tokens. What differs in the
work is what the two are: each turn `generate` reads the whole history again, where our sampler
keeps what it has read and shares a group's prompt; TRL makes logits of all tokens behind the
prompt, we of answers alone; we keep probes. Under `distil` we build and reset an environment for
each episode, where TRL has its prompts from the beginning.

Answers are random, and not the same ones: tokens stand beside the times. On a busy machine compare
processor seconds. Peaks are those of processes that do nothing else: VmHWM of /proc/self/status.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it, for both
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from transformers.utils.logging import disable_progress_bar
from trl_trainers import Step, Stopwatch, Theirs

from agentopd.base.types import Trajectory
from agentopd.running.config import RunConfig
from agentopd.running.reading import load_config
from agentopd.running.run import Run

PEAK_STEPS = 2
"""The second has the optimizer's moments from its beginning."""
WORK = {
    "grpo": ["method=grpo"],
    "distil": [
        "mix=distil",
        "privilege=none",
        "teacher=frozen",
        "unit={kind: token, normalise: token_mean}",
        "divergence={kind: reverse_kl, support: full}",
        "rollout.max_turns=1",
    ],
}


class Ours:
    """A run of agentopd, a step at a time."""

    def __init__(
        self, config: RunConfig, reward: Callable[[Trajectory], Trajectory], scratch: Path
    ) -> None:
        self.run, self.reward = Run(config, scratch / "run", False, lambda _: None), reward
        self.steps: list[Step] = []

    def step(self) -> None:
        """The next step: episodes, the teacher if there is one, the learner."""
        number, step, watch = len(self.steps), Step(), Stopwatch()
        with step.rolling():
            trajectories = self.run.roll_out(number)
        trajectories = [self.reward(t) for t in trajectories]
        lessons = self.run.ask_teacher(trajectories, number)
        self.run.learn(trajectories, lessons, number)
        self.steps.append(watch.stop(step))
        step.played(trajectories)


def _reward(asked: argparse.Namespace) -> Callable[[Trajectory], Trajectory]:
    """Episodes as they are, or as if each had earned its number within its group."""

    def numbered(trajectory: Trajectory) -> Trajectory:
        *others, last = (replace(turn, reward=0.0) for turn in trajectory.turns)
        earned = float(trajectory.episode % asked.group)
        return replace(trajectory, turns=(*others, replace(last, reward=earned)))

    return (lambda trajectory: trajectory) if asked.own_rewards else numbered


def _config(asked: argparse.Namespace) -> RunConfig:
    group = asked.group if asked.work == "grpo" else 1
    if asked.episodes % group or asked.episodes % (asked.rows or 1):
        sys.exit("--group and --rows must divide --episodes")
    changes = [
        *WORK[asked.work],
        f"student.path={asked.model}",
        f"rollout.tasks={asked.episodes // group}",
        f"rollout.group={group}",
        "learner.learning_rate=1.0e-12",
        "learner.warmup=0",
        f"learner.tokens_per_batch={asked.tokens}",
        "probe.pi_effect_every=0",
        "evaluate.episodes=1",
        f"threads={asked.threads}",
        "study=null",
    ]
    return load_config(asked.config, changes)


def _time(asked: argparse.Namespace, scratch: Path) -> None:
    """Both, in turns, in this process."""
    config = _config(asked)
    ours, theirs = (
        Ours(config, _reward(asked), scratch),
        _trainer(asked, config, asked.steps + 1, scratch),
    )
    before = os.getloadavg()[0]
    theirs.train(ours.step)
    sides = {"agentopd": ours.steps[1:], "TRL": theirs.steps[1:]}
    middle = {name: _medians(steps) for name, steps in sides.items()}
    _print_table(asked, config, middle)
    print(f"load of the machine before {before:.1f}, after {os.getloadavg()[0]:.1f}", flush=True)


def _trainer(asked: argparse.Namespace, config: RunConfig, steps: int, scratch: Path) -> Theirs:
    rows = asked.rows or asked.episodes
    return Theirs(asked.work, config, rows, steps, _reward(asked), scratch)


def _medians(steps: Sequence[Step]) -> Step:
    middle = (statistics.median(getattr(step, f.name) for step in steps) for f in fields(Step))
    return Step(*middle)


def _print_table(asked: argparse.Namespace, config: RunConfig, middle: dict[str, Step]) -> None:
    from trl import __version__  # pyright: ignore[reportMissingImports]

    ours, theirs = middle["agentopd"], middle["TRL"]
    print(
        f"{asked.work}, {asked.model}, {config.env.id}: {asked.episodes} episodes a step in groups "
        f"of {config.rollout.group}, answers of at most {config.rollout.max_turn_tokens} tokens, "
        f"{asked.threads} threads; medians of {asked.steps} steps of each, in turns"
    )
    print(f"{'':28}{'agentopd':>10}{'TRL ' + __version__:>12}{'TRL/ours':>10}")
    rows: list[tuple[str, Callable[[Step], float]]] = [
        ("rollout, s", lambda step: step.rollout),
        ("the rest, s", lambda step: step.seconds - step.rollout),
        ("step, s", lambda step: step.seconds),
        ("step, processor s", lambda step: step.processor),
        ("turns", lambda step: step.turns),
        ("tokens of answers", lambda step: step.answers),
        ("tokens of episodes", lambda step: step.tokens),
    ]
    for name, value in rows:
        a, b = value(ours), value(theirs)
        print(f"{name:28}{a:10,.2f}{b:12,.2f}{b / a:10.2f}")
    for name, a, b in (
        ("episodes a second", ours.seconds, theirs.seconds),
        ("episodes a processor second", ours.processor, theirs.processor),
    ):
        rates = asked.episodes / a, asked.episodes / b
        print(f"{name:28}{rates[0]:10.3f}{rates[1]:12.3f}   agentopd {b / a:.2f} times")


def _ours(asked: argparse.Namespace, scratch: Path) -> None:
    side = Ours(_config(asked), _reward(asked), scratch)
    for _ in range(PEAK_STEPS):
        side.step()
    print(json.dumps(_peak()))


def _theirs(asked: argparse.Namespace, scratch: Path) -> None:
    _trainer(asked, _config(asked), PEAK_STEPS, scratch).train(lambda: None)
    print(json.dumps(_peak()))


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("VmHWM")) * 1024


def _print_peaks() -> None:
    peaks = []
    for part in ("ours", "theirs"):
        again = [sys.executable, *sys.argv, "--part", part]
        said = subprocess.run(again, check=True, capture_output=True, text=True).stdout
        peaks.append(json.loads(said.splitlines()[-1]))
    ours, theirs = peaks
    print(
        f"peak memory {ours / 2**30:.2f} GiB, TRL's {theirs / 2**30:.2f}: {ours / theirs:.2f} times"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--work", choices=tuple(WORK), default="grpo")
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--episodes", type=int, default=16, help="of a step")
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, help="of TRL's micro-batches; all, if not given")
    parser.add_argument("--tokens", type=int, default=4_096, help="of our micro-batches")
    parser.add_argument("--own-rewards", action="store_true", help="those of the environment")
    parser.add_argument("--show", choices=("time", "memory"), help="both, if not given")
    parser.add_argument("--part", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if not (find_spec("trl") and find_spec("datasets")):
        sys.exit("TRL is not installed here; this file's first lines say how to have it")
    warnings.filterwarnings("ignore")
    disable_progress_bar()
    torch.set_num_threads(asked.threads)
    parts = {"ours": _ours, "theirs": _theirs, None: _time}
    if asked.part or asked.show != "memory":
        with tempfile.TemporaryDirectory() as scratch:
            parts[asked.part](asked, Path(scratch))
    if not asked.part and asked.show != "time":
        _print_peaks()


if __name__ == "__main__":
    main()
