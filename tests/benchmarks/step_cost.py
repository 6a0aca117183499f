"""A step of a real model beside the bare passes that it contains: time, memory, and the forecast.

    python tests/benchmarks/step_cost.py FOLDER [--threads 2] [--tokens 2048] [--checkpoint-layers]

FOLDER holds a model in Hugging Face format. The bare work is done with transformers and torch
alone, by the same model on the tokens of the same episodes: `generate` for each turn's answers, the
frozen copy's forward passes over the teacher's contexts, then forward passes with transformers' own
loss, backward passes in padded micro-batches of as many tokens, and torch's AdamW.

Times are processor seconds of the second step's stages and of the bare ones, one after the other in
one process; the first step shows an episode and asks what the teacher would say untold.
Peaks are those of two other processes, which do nothing else: VmHWM of /proc/self/status.
"""

from __future__ import annotations

import argparse
import copy
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from agentopd.base.types import Lesson, Trajectory
from agentopd.running.config import RunConfig
from agentopd.running.reading import parse_config
from agentopd.running.run import Run

# B sequences, T tokens

STEPS = 2
"""The second has the optimizer's moments from its beginning."""
PRIVILEGE = [{"kind": "oracle_next"}]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=2_048, help="of a micro-batch")
    parser.add_argument("--episodes", type=int, default=6)
    parser.add_argument("--checkpoint-layers", action="store_true")
    parser.add_argument("--part", choices=("time", "ours", "bare"), help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.part:
        {"time": _time, "ours": _ours, "bare": _bare}[asked.part](asked)
        return
    with tempfile.TemporaryDirectory() as scratch:
        for part in ("time", "ours", "bare"):
            again = [*sys.argv, "--part", part, "--scratch", scratch]
            subprocess.run([sys.executable, *again], check=True)
        _print_peaks(Path(scratch))


def _time(asked: argparse.Namespace) -> None:
    run = _run(asked)
    _save(asked.scratch / "step-0.pickle", _step(run, 0, {}))
    seconds: dict[str, float] = {}
    trajectories, lessons = _step(run, 1, seconds)
    _save(asked.scratch / "step-1.pickle", (trajectories, lessons))
    plain = Plain.of(run.student.module, asked.tokens)
    plain.learn(trajectories[:1])  # the moments
    with _counted(seconds, "bare rollout"):
        plain.generate(trajectories, min(run.student.stop_ids))
    with _counted(seconds, "bare teacher"):
        plain.score(lessons)
    with _counted(seconds, "bare learner"):
        plain.learn(trajectories)
    _print_times(trajectories, lessons, seconds)


def _step(run: Run, step: int, seconds: dict[str, float]) -> tuple[list[Trajectory], list[Lesson]]:
    with _counted(seconds, "rollout"):
        trajectories = run.roll_out(step)
    with _counted(seconds, "teacher"):
        lessons = run.ask_teacher(trajectories, step)
    with _counted(seconds, "learner"):
        run.learn(trajectories, lessons, step)
    return trajectories, lessons


def _print_times(
    trajectories: Sequence[Trajectory], lessons: Sequence[Lesson], seconds: dict[str, float]
) -> None:
    own, answered, told = (
        sum(len(t.ids) for t in trajectories),
        sum(t.student_tokens for t in trajectories),
        sum(len(x.view.ids) for x in lessons if x.view is not None),
    )
    print(
        f"a step: {len(trajectories)} episodes of {own:,} tokens, {answered:,} of them answers, "
        f"{told:,} for the teacher; processor seconds, and times the bare ones:"
    )
    stages = ("rollout", "teacher", "learner")
    for name, some in (*((stage, (stage,)) for stage in stages), ("step", stages)):
        ours, bare = (sum(seconds[f"{who}{x}"] for x in some) for who in ("", "bare "))
        print(f"  {name:8} {ours:6.2f} s, {ours / bare:.2f} times", flush=True)


def _ours(asked: argparse.Namespace) -> None:
    run = _run(asked)
    for step in range(STEPS):
        _step(run, step, {})
    _save(asked.scratch / "ours.pickle", {"peak": _peak(), "forecast": run.memory})


def _bare(asked: argparse.Namespace) -> None:
    module = AutoModelForCausalLM.from_pretrained(asked.folder, dtype=torch.float32).eval()
    plain = Plain.of(module, asked.tokens)
    for step in range(STEPS):
        with (asked.scratch / f"step-{step}.pickle").open("rb") as file:
            trajectories, lessons = pickle.load(file)
        plain.generate(trajectories, 0)
        plain.score(lessons)
        plain.learn(trajectories)
    _save(asked.scratch / "bare.pickle", {"peak": _peak()})


def _print_peaks(scratch: Path) -> None:
    found: dict[str, dict[str, Any]] = {}
    for part in ("ours", "bare"):
        with (scratch / f"{part}.pickle").open("rb") as file:
            found[part] = pickle.load(file)
    ours, bare = found["ours"]["peak"], found["bare"]["peak"]
    forecast = found["ours"]["forecast"]
    print(f"peak memory {ours / 2**30:.2f} GiB, bare {bare / 2**30:.2f}: {ours / bare:.2f} times")
    print(f"forecast {forecast}: {forecast.peak / ours:.2f} times the peak")


@dataclass
class Plain:
    """The bare work."""

    module: Any
    teacher: Any
    optimizer: torch.optim.Optimizer
    tokens: int

    @classmethod
    def of(cls, module: Any, tokens: int) -> Plain:
        """With a frozen copy as the teacher; the optimizer's rate moves nothing."""
        twin = copy.deepcopy(module).requires_grad_(False).eval()
        return cls(module, twin, torch.optim.AdamW(module.parameters(), lr=1e-12), tokens)

    @torch.inference_mode()
    def generate(self, trajectories: Sequence[Trajectory], pad: int) -> None:
        """As many tokens as each turn's longest answer has, of all episodes that have the turn."""
        for number in range(max(len(t.turns) for t in trajectories)):
            playing = [t for t in trajectories if len(t.turns) > number]
            contexts = [t.ids[: t.turns[number].start] for t in playing]
            longest = max(t.turns[number].stop - t.turns[number].start for t in playing)
            ids_BT = torch.full((len(playing), max(map(len, contexts))), pad)
            seen_BT = torch.zeros_like(ids_BT)
            for row, ids in enumerate(contexts):
                ids_BT[row, -len(ids) :] = torch.from_numpy(ids)
                seen_BT[row, -len(ids) :] = 1
            self.module.generate(
                input_ids=ids_BT,
                attention_mask=seen_BT,
                min_new_tokens=longest,
                max_new_tokens=longest,
                do_sample=True,
                pad_token_id=pad,
            )

    @torch.no_grad()
    def score(self, lessons: Sequence[Lesson]) -> None:
        """The teacher's hidden states in its own contexts."""
        views = [x.view.ids for x in lessons if x.view is not None]
        for ids_BT, _ in self._padded([(ids, ids) for ids in views]):
            self.teacher.get_decoder()(input_ids=ids_BT, use_cache=False)

    def learn(self, trajectories: Sequence[Trajectory]) -> None:
        """Forward and backward passes over all episodes, and a step of the optimizer."""
        pairs = [(t.ids, np.where(t.trainable, t.ids, -100)) for t in trajectories]
        for ids_BT, labels_BT in self._padded(pairs):
            self.module(input_ids=ids_BT, labels=labels_BT, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _padded(
        self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Ids and labels, the longest first, as many rows as fit."""
        left = sorted(pairs, key=lambda pair: -len(pair[0]))
        while left:
            width = len(left[0][0])
            rows = max(1, self.tokens // width)
            now, left = left[:rows], left[rows:]
            ids_BT = torch.zeros(len(now), width, dtype=torch.long)
            labels_BT = torch.full_like(ids_BT, -100)
            for row, (ids, labels) in enumerate(now):
                ids_BT[row, : len(ids)] = torch.from_numpy(ids)
                labels_BT[row, : len(ids)] = torch.from_numpy(labels)
            yield ids_BT, labels_BT


@contextmanager
def _counted(into: dict[str, float], name: str) -> Iterator[None]:
    """Notes the processor seconds spent inside."""
    began = time.process_time()
    yield
    into[name] = time.process_time() - began


def _run(asked: argparse.Namespace) -> Run:
    where = Path(tempfile.mkdtemp(dir=asked.scratch)) / "run"
    return Run(_config(asked), where, False, lambda _: None)


def _config(asked: argparse.Namespace) -> RunConfig:
    return parse_config(
        {
            "student": {"path": str(asked.folder)},
            "env": {"id": "agentopd/FrozenLake-v0"},
            "rollout": {
                "tasks": asked.episodes,
                "group": 1,
                "max_turns": 3,
                "max_turn_tokens": 16,
            },
            "privilege": PRIVILEGE,
            "view": {"kind": "every_turn"},
            "teacher": {"kind": "frozen", "tokens_per_batch": asked.tokens},
            "learner": {
                "learning_rate": 1e-12,
                "tokens_per_batch": asked.tokens,
                "checkpoint_layers": asked.checkpoint_layers,
            },
            "evaluate": {"episodes": 1},
            "threads": asked.threads,
        }
    )


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("VmHWM")) * 1024


def _save(path: Path, value: object) -> None:
    with path.open("wb") as file:
        pickle.dump(value, file)


if __name__ == "__main__":
    main()
