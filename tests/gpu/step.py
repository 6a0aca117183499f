"""A step's teacher and learner with a student of Qwen3-0.6B's shape, beside the bare passes.

    python tests/gpu/step.py [--device cuda] [--small]

Weights are random, bfloat16 on a GPU; the episodes are hand-made. The bare passes are
transformers' own loss, forward and backward, over the same sequences in micro-batches of as many
tokens. Each time is the faster of two, after one that is not counted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import numpy as np
import torch
from trajectories import played
from transformers import Qwen3Config, Qwen3ForCausalLM

from agentopd.base.console import quiet_libraries
from agentopd.base.types import Briefed, Trajectory
from agentopd.learning.learner import Learner
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.privilege.view import SystemView
from agentopd.running.reading import parse_config
from agentopd.teachers.copies import FrozenTeacher

SHAPE = {
    "vocab_size": 151_936, "hidden_size": 1_024, "intermediate_size": 3_072,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
    "head_dim": 128, "max_position_embeddings": 4_096, "tie_word_embeddings": True,
}  # fmt: skip
SMALL = {
    "vocab_size": 2_048, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
ANSWER, OBSERVED, TURNS = 96, 160, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    asked = parser.parse_args()
    quiet_libraries()
    torch.manual_seed(0)
    shape = {**SHAPE, **(SMALL if asked.small else {})}
    student = _student(shape, torch.device(asked.device))
    episodes = _episodes(shape["vocab_size"], 2 if asked.small else 16)
    tokens = sum(len(t.ids) for t in episodes)
    learner = _learner(student)
    _reset(student.device)
    step = _fastest(lambda: _step(learner, episodes), student.device)
    peak = _peak(student.device)
    bare = _fastest(lambda: _bare(student, episodes), student.device)
    weights = sum(p.numel() for p in student.module.parameters())
    print(f"{weights / 1e6:,.0f} M weights, {student.module.dtype}, {len(episodes)} episodes")
    print(f"teacher and learner {step:.3f} s: {tokens / step:,.0f} tokens/s, {peak}")
    print(f"bare forward and backward {bare:.3f} s: the step takes {step / bare:.2f} times as long")


def _student(shape: dict[str, int], device: torch.device) -> LanguageModel:
    """A random model, of whose vocabulary all is scored, behind a small tokenizer."""
    embedded = load_model(ModelSettings())
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    module = Qwen3ForCausalLM(Qwen3Config.from_dict(shape))
    torch.nn.Module.to(module, device, dtype)
    student = LanguageModel(module.eval(), embedded.tokenizer, "random", embedded.stop_ids)
    return _scoring_all(student)


def _scoring_all(model: LanguageModel) -> LanguageModel:
    """The model, whose vocabulary is what its output layer scores, whatever the tokenizer's is."""
    model.__dict__["vocabulary"] = model.module.config.vocab_size
    return model


def _episodes(vocabulary: int, count: int) -> list[Trajectory]:
    rng = np.random.default_rng(0)
    return [
        played(
            *(rng.integers(9, vocabulary, size=ANSWER).tolist() for _ in range(TURNS)),
            observed=OBSERVED,
            episode=n,
            task=n,
        )
        for n in range(count)
    ]


def _learner(student: LanguageModel) -> Learner:
    teacher = FrozenTeacher()
    teacher.prepare(student)
    _scoring_all(teacher.model)
    data = {"env": {"id": "agentopd/Sokoban-v0"}, "learner": {"tokens_per_batch": 8_192}}
    config = parse_config(data, ["probe.enabled=false", "learner.checkpoint_layers=true"])
    return Learner(student, teacher, config)


def _step(learner: Learner, episodes: list[Trajectory]) -> None:
    briefed = [Briefed(trajectory=t, privileges=()) for t in episodes]
    views = SystemView().build(briefed, learner.student.template)
    learner.update(episodes, learner.teacher.score(views), step=0)


def _bare(student: LanguageModel, episodes: list[Trajectory]) -> None:
    rows = max(1, 8_192 // len(episodes[0].ids))
    for start in range(0, len(episodes), rows):
        ids = np.stack([t.ids for t in episodes[start : start + rows]])
        ids_BT = torch.from_numpy(ids).to(student.device)
        student.module(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss.backward()
    student.module.zero_grad(set_to_none=True)


def _fastest(work: Callable[[], None], device: torch.device) -> float:
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent.append(time.perf_counter() - began)
    return min(spent[1:])


def _reset(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> str:
    if device.type != "cuda":
        return "memory is measured on a GPU alone"
    return f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB at the peak"


if __name__ == "__main__":
    main()
