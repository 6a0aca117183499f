"""TRL's trainers on episodes of our pool, a step at a time, and what a step of anybody's took.

What `against_trl.py` compares; it says what is the same on both sides, and what is not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from agentopd.base.types import Trajectory
from agentopd.environment.contract import examples, system_prompt
from agentopd.models.model import LanguageModel, load_model
from agentopd.rollout.sampler import Answer, Completion, Request
from agentopd.running.config import RunConfig

# B sequences, T tokens


@dataclass
class Step:
    """What a step took: wall seconds, those of its rollout, processor seconds; what it played."""

    seconds: float = 0.0
    rollout: float = 0.0
    processor: float = 0.0
    turns: int = 0
    answers: int = 0
    tokens: int = 0

    def played(self, trajectories: Sequence[Trajectory]) -> None:
        """Note turns, tokens of answers and tokens of whole episodes."""
        self.turns = sum(len(t.turns) for t in trajectories)
        self.answers = sum(t.student_tokens for t in trajectories)
        self.tokens = sum(stop - start for t in trajectories for start, stop in t.segments)

    @contextmanager
    def rolling(self) -> Iterator[None]:
        """Counts the seconds inside as the rollout's."""
        began = time.perf_counter()
        yield
        self.rollout += time.perf_counter() - began


class Stopwatch:
    """From one step's beginning to its end, on both clocks."""

    def __init__(self) -> None:
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def stop(self, step: Step) -> Step:
        """Note what has passed."""
        step.seconds = time.perf_counter() - self.wall
        step.processor = time.process_time() - self.processor
        return step


@dataclass
class Generating:
    """A sampler that answers everyone who asks with one call of `generate`."""

    module: Any
    stop_ids: frozenset[int]
    asked: list[Request] = field(default_factory=list)

    def submit(self, requests: Sequence[Request]) -> None:
        """See `Sampler.submit`."""
        self.asked += requests

    def forget(self, keys: Sequence[int]) -> None:
        """Nothing is kept."""

    def sync(self, student: LanguageModel) -> None:
        """The trainer's own weights are asked."""

    def ready(self, wake: Event | None = None, seconds: float | None = None) -> list[Answer]:
        """See `Sampler.ready`; log-probabilities, which the trainer does not read, are zero."""
        asked, self.asked = self.asked, []
        answered_BT = self._generate(asked)
        found = []
        for request, drawn in zip(asked, answered_BT.tolist(), strict=True):
            stop = next((n for n, token in enumerate(drawn) if token in self.stop_ids), None)
            ids = drawn if stop is None else drawn[: stop + 1]
            found.append(Answer(request.key, Completion(ids, [0.0] * len(ids), stop is None)))
        return found

    @torch.inference_mode()
    def _generate(self, asked: Sequence[Request]) -> torch.Tensor:
        width = max(len(request.ids) for request in asked)
        ids_BT = torch.full((len(asked), width), min(self.stop_ids))
        seen_BT = torch.zeros_like(ids_BT)
        for row, request in enumerate(asked):
            ids_BT[row, width - len(request.ids) :] = torch.tensor(request.ids)
            seen_BT[row, width - len(request.ids) :] = 1
        self.module.eval()
        written_BT = self.module.generate(
            input_ids=ids_BT,
            attention_mask=seen_BT,
            do_sample=True,
            temperature=asked[0].temperature,
            top_p=asked[0].truncation.top_p,
            top_k=asked[0].truncation.top_k,
            max_new_tokens=asked[0].max_tokens,
            eos_token_id=sorted(self.stop_ids),
            pad_token_id=min(self.stop_ids),
            use_cache=True,
        )
        self.module.train()
        return written_BT[:, width:]


class Theirs(TrainerCallback):
    """One of TRL's trainers; `between` is called after each of its steps.

    Args:
        work: `grpo` or `distil`.
        rows: episodes of a micro-batch.
        steps: all there are.
        reward: an episode as it is rewarded.
    """

    def __init__(
        self,
        work: str,
        config: RunConfig,
        rows: int,
        steps: int,
        reward: Callable[[Trajectory], Trajectory],
        scratch: Path,
    ) -> None:
        self.config, self.reward, self.between = config, reward, lambda: None
        self.student = load_model(config.student)
        self.now, self.watch, self.steps = Step(), Stopwatch(), list[Step]()
        build = {"grpo": self._grpo, "distil": self._distil}[work]
        common = _arguments(config, rows, steps, scratch)
        self.trainer = build(common)
        self.trainer.remove_callback(PrinterCallback)
        self.trainer.add_callback(self)

    def train(self, between: Callable[[], None]) -> None:
        """All steps."""
        self.between = between
        self.trainer.train()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """The first step begins."""
        self.now, self.watch = Step(), Stopwatch()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step has ended; the next begins when the other side has had its turn."""
        self.now = self.watch.stop(self.now)
        self.steps.append(self.now)
        self.between()
        self.on_train_begin()

    def _grpo(self, common: dict[str, Any]) -> Any:
        from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

        rollout = self.config.rollout
        arguments = GRPOConfig(
            **common,
            num_generations=rollout.group,
            beta=0.0,
            loss_type="dapo",  # a mean over the step's tokens, as ours
        )
        numbers = [str(n) for n in range(common["max_steps"] * rollout.tasks)]
        return GRPOTrainer(
            model=self.student.module,
            reward_funcs=_earned,
            args=arguments,
            train_dataset=_dataset(numbers),
            processing_class=self.student.tokenizer,
            rollout_func=self._play,
        )

    def _play(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """TRL's `rollout_func`: the episodes of the tasks that `prompts` number."""
        rollout, config = self.config.rollout, self.config
        with self.now.rolling():
            tasks = rollout.schedule(config.seed, trainer.state.global_step)
            assert [str(task.task) for task in tasks] == prompts
            module = trainer.accelerator.unwrap_model(trainer.model)
            sampler = Generating(module, self.student.stop_ids)
            played = rollout.pool(config.env, self.student, config.seed).play(tasks, sampler)
        self.now.played(played)
        if any(len(t.segments) > 1 for t in played):
            sys.exit("a template that rewrites its history has more than one sequence an episode")
        spans = [(t.turns[0].start, t.segments[0][1]) for t in played]
        shown = list(zip(played, spans, strict=True))
        return {
            "prompt_ids": [t.ids[:start].tolist() for t, (start, _) in shown],
            "completion_ids": [t.ids[start:stop].tolist() for t, (start, stop) in shown],
            "env_mask": [
                t.trainable[start:stop].astype(int).tolist() for t, (start, stop) in shown
            ],
            "logprobs": None,
            "earned": [self.reward(t).reward for t in played],
        }

    def _distil(self, common: dict[str, Any]) -> Any:
        from trl import (  # pyright: ignore[reportMissingImports]
            DistillationConfig,
            DistillationTrainer,
        )

        rollout = self.config.rollout
        arguments = DistillationConfig(
            **common,
            beta=1.0,  # the reverse KL
            max_completion_length=rollout.max_turn_tokens,
        )
        self._note_generate()
        return DistillationTrainer(
            model=self.student.module,
            teacher_model=load_model(self.config.student).module,
            args=arguments,
            train_dataset=_dataset(self._openings(common["max_steps"])),
            processing_class=self.student.tokenizer,
        )

    def _openings(self, steps: int) -> list[list[dict[str, str]]]:
        """The messages that each episode begins with."""
        rollout, found = self.config.rollout, []
        for task in (t for step in range(steps) for t in rollout.schedule(self.config.seed, step)):
            env = self.config.env.build()
            observation, _ = env.reset(seed=task.seed)
            shown = self.student.template.messages(system_prompt(env), observation, examples(env))
            found.append(shown)
        return found

    def _note_generate(self) -> None:
        """The trainer's calls of `generate` are its rollout."""
        module: Any = self.student.module
        generate = module.generate
        stops = torch.tensor(sorted(self.student.stop_ids))

        def noted(**inputs: Any) -> torch.Tensor:
            with self.now.rolling():
                ids_BT = generate(**inputs)
            read_BT = inputs["input_ids"]
            drawn_BT = ids_BT[:, read_BT.shape[1] :]
            ended_BT = torch.isin(drawn_BT, stops).cumsum(1) - torch.isin(drawn_BT, stops).int()
            self.now.turns = len(ids_BT)
            self.now.answers = int((ended_BT == 0).sum())
            self.now.tokens = int(inputs["attention_mask"].sum()) + self.now.answers
            return ids_BT

        module.generate = noted


def _arguments(config: RunConfig, rows: int, steps: int, scratch: Path) -> dict[str, Any]:
    """What both of TRL's trainers are told."""
    return {
        "output_dir": str(scratch / "trl"),
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": config.rollout.episodes // rows,
        "max_steps": steps,
        "learning_rate": config.learner.learning_rate,
        "lr_scheduler_type": "constant",
        "adam_beta1": config.learner.betas[0],
        "adam_beta2": config.learner.betas[1],
        "max_grad_norm": config.learner.clip,
        "temperature": config.rollout.temperature,
        "top_p": config.rollout.top_p,
        "top_k": config.rollout.top_k,
        "seed": config.seed,
        "shuffle_dataset": False,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _earned(earned: list[float], **_: Any) -> list[float]:
    return earned


def _dataset(prompts: Sequence[Any]) -> Any:
    from datasets import Dataset  # pyright: ignore[reportMissingImports]

    return Dataset.from_dict({"prompt": list(prompts)})
