"""Tokens a second of the sampler and of bare transformers, taking turns in one run.

    python tests/benchmarks/sampling.py [MODEL] [ROUNDS] [THREADS]

MODEL is a Hugging Face folder, or the quickstart's embedded student. Reading and writing are told
apart: so many rows read prompts of 64 tokens and say one token, or say 17. Bare is transformers'
`generate` over the same rows, with its cache, drawing from the same distribution. Then eight
conversations of five turns beside one `generate` a turn that reads the whole history again, and a
group of eight whose members open with the same 256 tokens. Processor seconds, which a busy machine
disturbs less than the wall clock; medians, and `bare / agentopd` is how often ours goes into bare.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.rollout.sampler import Request, answers
from agentopd.rollout.transformers_sampler import TransformersSampler

# R rows, T tokens of the longest

PROMPT, ANSWER, TURNS, TOLD, SAID, GROUP, RULES = 64, 16, 5, 24, 12, 8, 256

Work = Callable[[], object]


def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else "zoo:sokoban-easy"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    torch.set_num_threads(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    loaded = load_model(ModelSettings(path=path))
    model = LanguageModel(loaded.module, loaded.tokenizer, path, frozenset())
    model.module.generation_config.eos_token_id = None  # as ours: nothing ends an answer
    print(f"{'tokens a processor second':28}{'agentopd':>10}{'bare':>10}{'agentopd / bare':>18}")
    for rows in (1, 8, 32):
        contexts = [_words(model, row, PROMPT) for row in range(rows)]
        reads = _spent(_read(model, contexts, 1), rounds)
        both = _spent(_read(model, contexts, 1 + ANSWER), rounds)
        _tell(f"reading, {rows} rows", rows * PROMPT, *reads)
        writes = (b - r for b, r in zip(both, reads, strict=True))
        _tell(f"writing, {rows} rows", rows * ANSWER, *writes)
    said = GROUP * TURNS * SAID
    _tell(f"{TURNS} turns, {GROUP} rows", said, *_spent(_turns(model), rounds))
    group = [_words(model, 0, RULES)] * GROUP
    _tell(f"a group of {GROUP}", GROUP * RULES, *_spent(_read(model, group, 1), rounds))


def _tell(what: str, tokens: int, ours: float, bare: float) -> None:
    print(f"{what:28}{tokens / ours:10.0f}{tokens / bare:10.0f}{bare / ours:18.2f}", flush=True)


def _spent(works: tuple[Work, Work], rounds: int) -> tuple[float, float]:
    """Median processor seconds of each, after one round that does not count."""
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for work, seconds in zip(works, spent, strict=True):
            began = time.process_time()
            work()
            seconds.append(time.process_time() - began)
    ours, bare = (statistics.median(seconds[1:]) for seconds in spent)
    return ours, bare


def _read(model: LanguageModel, contexts: Sequence[list[int]], count: int) -> tuple[Work, Work]:
    """Say so many tokens behind each context."""
    sampler = TransformersSampler(model)
    requests = [Request(n, ids, (n,), count) for n, ids in enumerate(contexts)]
    return lambda: answers(sampler, requests), lambda: _generate(model, contexts, count)


def _turns(model: LanguageModel) -> tuple[Work, Work]:
    """Conversations of several turns: with the cache kept, and with the history read anew."""
    sampler = TransformersSampler(model)
    told = [[_words(model, row * TURNS + turn, TOLD) for turn in range(TURNS)] for row in range(8)]

    def ours() -> None:
        contexts = [list(texts[0]) for texts in told]
        for turn in range(TURNS):
            requests = [Request(n, ids, (turn, n), SAID) for n, ids in enumerate(contexts)]
            sampler.submit(requests)
            done = 0
            while done < len(requests):
                for answer in sampler.ready():
                    later = told[answer.key][turn + 1] if turn + 1 < TURNS else []
                    contexts[answer.key] += [*answer.completion.ids, *later]
                    done += 1
        sampler.forget(range(len(told)))

    def bare() -> None:
        contexts = [list(texts[0]) for texts in told]
        for turn in range(TURNS):
            for row, said in enumerate(_generate(model, contexts, SAID)):
                later = told[row][turn + 1] if turn + 1 < TURNS else []
                contexts[row] += [*said, *later]

    return ours, bare


def _generate(model: LanguageModel, contexts: Sequence[list[int]], count: int) -> list[list[int]]:
    """Bare transformers."""
    ids_RT = torch.tensor(contexts)
    with torch.inference_mode():
        found_RT = model.module.generate(  # type: ignore[operator]
            ids_RT,
            attention_mask=torch.ones_like(ids_RT),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=count,
            pad_token_id=0,
        )
    return found_RT[:, ids_RT.shape[1] :].tolist()


def _words(model: LanguageModel, seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(model.vocabulary, size=count).tolist()


if __name__ == "__main__":
    main()
