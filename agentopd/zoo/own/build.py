"""A student for an environment of one's own: trained, measured, and kept if it does what it is for.

The machinery is that of the embedded models; see `agentopd.zoo.build`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from agentopd.base.files import write_whole
from agentopd.models.model import ModelSettings, load_model
from agentopd.zoo.build import blank_model, pack, teach, transcripts
from agentopd.zoo.demonstrations.own import Key, OwnDemonstrator
from agentopd.zoo.own.judge import Judged, judge
from agentopd.zoo.own.recipe import OwnRecipe
from agentopd.zoo.tokenizer import train_tokenizer

RECORD = "recipe.json"
"""Written last: a model without it was not finished, or refused."""
MEASURED = "measured.json"
_REFUSED = "-refused"

_SEEN = 300
"""Episodes that are looked at for their length."""
_LONGEST = 1_024
"""Tokens of the longest row that is chosen."""
_ROOM = 4
"""Tokens of an answer beyond the longest that was demonstrated."""


class Refused(ValueError):
    """A student does not do what it is for; the message says what it does."""


@dataclass(frozen=True)
class Built:
    """A student that was kept.

    Attributes:
        turn_tokens: the longest answer that it has to give, for a run's `rollout.max_turn_tokens`.
        warning: why it would have been refused, were that not allowed; mostly empty.
    """

    folder: Path
    judged: Judged
    turn_tokens: int
    minutes: float
    loss: float
    warning: str = ""


@dataclass(frozen=True)
class _Sizes:
    """Tokens of a row, of a batch's rows, and of an answer."""

    length: int
    rows: int
    turn_tokens: int


def build_own(
    recipe: OwnRecipe,
    out: Path,
    steps: int | None = None,
    report: Callable[[str, int, int, float], None] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Built:
    """Train a student for a recipe's environment into the folder `out`, and measure it.

    Args:
        steps: in place of the recipe's, for a trial.
        report: see `agentopd.zoo.build.build`.
        tell: called with what is being done.

    Returns:
        The student; its folder holds `recipe.json` and `measured.json` beside the weights.

    Raises:
        Refused: told, it is no better than alone; or it heeds words that say nothing, and the
            recipe does not allow that. Its weights are beside `out`, in a folder called `-refused`.
        ValueError: the environment does not say what is needed.
        EveryEpisodeFailed: no held-out task could be played.
    """
    began = time.perf_counter()
    if steps is not None:
        recipe = recipe.model_copy(update={"steps": steps})
    player, told = _demonstrator(recipe)
    tell("playing demonstrations")
    torch.manual_seed(recipe.seed)
    tokenizer = train_tokenizer(transcripts(player), recipe.vocabulary, tuple(recipe.pieces))
    sizes = _sizes(player, tokenizer, recipe)
    model = blank_model(
        tokenizer, recipe.hidden, 3 * recipe.hidden, recipe.layers, recipe.hidden // 32, tied=True
    )
    watch = partial(report, out.name) if report else lambda *_: None
    batches = pack(player, tokenizer, sizes.rows, sizes.length)
    loss = teach(model, batches, recipe, watch, compiled=False)
    refused = out.with_name(f"{out.name}{_REFUSED}")
    _clear(refused)
    refused.mkdir(parents=True)
    model.save_pretrained(refused)
    tokenizer.save_pretrained(refused)
    tell("playing held-out tasks")
    judged = judge(load_model(ModelSettings(path=str(refused))), recipe, told, sizes.turn_tokens)
    minutes = round((time.perf_counter() - began) / 60, 1)
    write_whole(refused / MEASURED, json.dumps(judged.described(), indent=2) + "\n")
    if (useless := judged.useless) or (judged.misled and recipe.unheeded == "refuse"):
        reason = useless or f"{judged.misled}; unheeded: allow keeps it all the same"
        raise Refused(f"{reason}. The weights are in {refused}")
    made = {"minutes": minutes, "loss": loss, "turn_tokens": sizes.turn_tokens}
    record: dict[str, Any] = {"name": out.name, **recipe.model_dump(mode="json"), **made}
    write_whole(refused / RECORD, json.dumps(record, indent=2) + "\n")
    if out.exists():
        out.rmdir()  # empty, or the command would not have begun
    refused.rename(out)
    return Built(out, judged, sizes.turn_tokens, minutes, loss, judged.misled)


def _demonstrator(recipe: OwnRecipe) -> tuple[OwnDemonstrator, Key]:
    env = recipe.env.build()
    _, info = env.reset(seed=recipe.seed)
    env.close()
    told = recipe.tells(info)
    player = OwnDemonstrator(
        recipe.env,
        recipe.plays(),
        told,
        recipe.forms(told, info),
        recipe.random_share,
        recipe.seed,
        recipe.max_turns,
    )
    return player, told


def _sizes(
    player: OwnDemonstrator, tokenizer: PreTrainedTokenizerFast, recipe: OwnRecipe
) -> _Sizes:
    """What some episodes come to in tokens.

    Raises:
        ValueError: half of them are longer than a row.
    """
    whole, answers = list[int](), list[int]()
    for _ in range(_SEEN):
        sizes = [
            (len(tokenizer.encode(piece.text, add_special_tokens=False)), piece.learnt)
            for piece in player.episode()
        ]
        whole.append(sum(size for size, _ in sizes))
        answers += [size for size, learnt in sizes if learnt]
    whole.sort()
    length = recipe.length or min(_LONGEST, 32 * -(-whole[-1] // 32))
    if (middle := whole[len(whole) // 2]) > length:
        raise ValueError(
            f"an episode of {recipe.env.id} is {middle} tokens long in the middle, and a row "
            f"{length}: let the environment say less (short rules above all), lower max_turns, or "
            "raise length up to 2048"
        )
    return _Sizes(length, max(2, recipe.tokens // length), max(answers) + _ROOM)


def _clear(folder: Path) -> None:
    """Remove what an earlier build left that was refused, or did not end.

    Raises:
        ValueError: there is something else.
    """
    known = {"config.json", MEASURED, "tokenizer.json"}
    if folder.is_dir() and (not any(folder.iterdir()) or any((folder / n).exists() for n in known)):
        shutil.rmtree(folder)
    elif folder.exists():
        raise ValueError(f"{folder} is in the way: move it, or name another folder with --out")
