"""Train an embedded model from a seed and save it in Hugging Face format.

`agentopd zoo build NAME` runs a recipe of `agentopd.zoo.recipes`; the folders in
`agentopd/zoo/models/` are its output. Episodes are packed into rows of one fixed shape, with
attention confined to an episode, so that the compiled step never recompiles.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from agentopd.base.files import write_whole
from agentopd.zoo.demonstrations.episode import Demonstrator, Piece
from agentopd.zoo.demonstrations.sokoban import SokobanDemonstrator
from agentopd.zoo.demonstrations.spoken import SpokenDemonstrator
from agentopd.zoo.demonstrations.told import ToldDemonstrator
from agentopd.zoo.recipes import PLAYERS, Recipe, find_recipe
from agentopd.zoo.tokenizer import CELLS, END, PAD, train_tokenizer

# R rows, L tokens a row, N learnt tokens, V vocabulary

_RECORD = "recipe.json"
"""Written last: a model without it was not finished."""


class Pace(Protocol):
    """For how many steps a model learns, at which rates; see `agentopd.zoo.recipes.Recipe`."""

    @property
    def steps(self) -> int: ...
    @property
    def decay(self) -> float: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def muon_rate(self) -> float: ...


def build(
    name: str,
    out: Path,
    steps: int | None = None,
    report: Callable[[str, int, int, float], None] | None = None,
) -> dict[str, object]:
    """Build the model `name` into the folder `out`.

    The model that its recipe starts from is looked for, and built if it is not there, beside `out`.

    Args:
        steps: in place of the recipe's, for a trial.
        report: called with the model's name, the step, the number of steps and the loss in nats a
            learnt token.

    Returns:
        What is written to `recipe.json` beside the weights: the recipe, the time it took, the final
        loss.

    Raises:
        ValueError: no recipe has that name.
    """
    recipe = find_recipe(name)
    if steps is not None:
        recipe = replace(recipe, steps=steps)
    if recipe.start is not None and not (out.parent / recipe.start / _RECORD).is_file():
        build(recipe.start, out.parent / recipe.start, steps, report)
    began = time.perf_counter()
    torch.manual_seed(recipe.seed)
    model, tokenizer = _start(recipe, out.parent)
    watch = partial(report, name) if report else lambda *_: None
    batches = pack(demonstrator(recipe), tokenizer, recipe.rows, recipe.length)
    loss = teach(model, batches, recipe, watch)
    minutes = round((time.perf_counter() - began) / 60, 1)
    record: dict[str, object] = {"name": name, **asdict(recipe), "minutes": minutes, "loss": loss}
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_whole(out / _RECORD, json.dumps(record, indent=2) + "\n")
    return record


def demonstrator(recipe: Recipe, pool: int = 6_000) -> Demonstrator:
    """Who plays the episodes of `recipe`; Sokoban's are played on a pool of that many levels."""
    if recipe.player == "sokoban":
        return SokobanDemonstrator(recipe.shares, recipe.random_share, recipe.seed, pool)
    plays = (
        recipe.env,
        recipe.options | recipe.levels,
        PLAYERS[recipe.player](),
        recipe.shares,
        recipe.random_share,
        recipe.seed,
    )
    if recipe.speech is None:
        return ToldDemonstrator(*plays)
    return SpokenDemonstrator(*plays, recipe.speech)


def pack(
    demonstrator: Demonstrator, tokenizer: PreTrainedTokenizerFast, rows: int, length: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Endless batches: `ids_RL`, `position_RL`, `episode_RL` (-1 on padding) and `learnt_RL`."""
    encode = lru_cache(100_000)(partial(tokenizer.encode, add_special_tokens=False))
    waiting: list[Piece] | None = None
    while True:
        batch = {k: torch.zeros(rows, length, dtype=torch.long) for k in ("ids_RL", "position_RL")}
        batch["episode_RL"] = torch.full((rows, length), -1)
        batch["learnt_RL"] = torch.zeros(rows, length, dtype=torch.bool)
        for row in range(rows):
            used = number = 0
            while True:
                episode = waiting or demonstrator.episode()
                waiting = None
                ids = [i for piece in episode for i in encode(piece.text)]
                learnt = [piece.learnt for piece in episode for _ in encode(piece.text)]
                if len(ids) > length:
                    continue
                if used + len(ids) > length:
                    waiting = episode
                    break
                place = slice(used, used + len(ids))
                batch["ids_RL"][row, place] = torch.tensor(ids)
                batch["position_RL"][row, place] = torch.arange(len(ids))
                batch["episode_RL"][row, place] = number
                batch["learnt_RL"][row, place] = torch.tensor(learnt)
                used, number = used + len(ids), number + 1
        yield batch


def _start(recipe: Recipe, models: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    if recipe.start is not None:
        folder = models / recipe.start
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), tokenizer
    pieces = CELLS if recipe.player == "sokoban" else PLAYERS[recipe.player].pieces
    corpus = transcripts(demonstrator(recipe, pool=500))
    tokenizer = train_tokenizer(corpus, recipe.vocabulary, pieces)
    size = (recipe.hidden, 3 * recipe.hidden, recipe.layers, recipe.hidden // 32)
    return blank_model(tokenizer, *size, tied=recipe.tied), tokenizer


def blank_model(
    tokenizer: PreTrainedTokenizerFast,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    *,
    tied: bool = False,
) -> PreTrainedModel:
    """An untrained model of the embedded kind, with weights drawn by torch's global generator."""
    ids = tokenizer.get_vocab()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_position_embeddings=2048,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=ids[END],
        pad_token_id=ids[PAD],
    )
    return Qwen3ForCausalLM(config)


def transcripts(player: Demonstrator, episodes: int = 1_500) -> Iterator[str]:
    """What a tokenizer is trained on: transcripts, less the template's and the answer's tags."""
    for _ in range(episodes):
        text = "".join(piece.text for piece in player.episode())
        yield from filter(None, re.split(r"<\|\w+\|>|</?think>|</?action>", text))


def teach(
    model: PreTrainedModel,
    batches: Iterator[dict[str, torch.Tensor]],
    recipe: Pace,
    report: Callable[[int, int, float], None],
    compiled: bool = True,
) -> float:
    """Let a model learn from what `pack` gives, for as many steps as the recipe says.

    Args:
        report: called with the step, the number of steps and the loss in nats a learnt token.
        compiled: whether the step is compiled, which needs a C++ compiler, and half a minute first.

    Returns:
        The loss in the end, smoothed.
    """
    model.train()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "layers" in n)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: _rate(step, recipe)) for o in optimizers
    ]
    loss_of = torch.compile(_loss, dynamic=False) if compiled else _loss
    smooth = math.nan
    for step in range(recipe.steps):
        loss = loss_of(model, **next(batches))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        smooth = loss.item() if math.isnan(smooth) else 0.95 * smooth + 0.05 * loss.item()
        report(step + 1, recipe.steps, smooth)
    return smooth


def _rate(step: int, recipe: Pace) -> float:
    """Linear warm-up, a constant stretch, linear decay."""
    fall = (recipe.steps - step) / (recipe.decay * recipe.steps) if recipe.decay else 1.0
    return min((step + 1) / 50, 1.0, fall)


def _loss(
    model: PreTrainedModel,
    ids_RL: torch.Tensor,
    position_RL: torch.Tensor,
    episode_RL: torch.Tensor,
    learnt_RL: torch.Tensor,
) -> torch.Tensor:
    same_RLL = episode_RL[:, :, None] == episode_RL[:, None, :]
    past_LL = torch.ones(ids_RL.shape[1], ids_RL.shape[1], dtype=torch.bool).tril()
    logits = model(
        input_ids=ids_RL,
        position_ids=position_RL,
        attention_mask=(same_RLL & past_LL)[:, None],
        use_cache=False,
    ).logits
    target_RL = torch.where(learnt_RL, ids_RL, -100)[:, 1:]
    return F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), target_RL.flatten(), ignore_index=-100
    )
