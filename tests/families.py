"""Tokenizers and chat templates to the rules of those that people use, small enough for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

CORPUS = (
    "Which way? The board: up down left right. system user assistant Rules One word move the box",
    "I think it goes up, so: left. Hello there 12 345 [INST] [/INST] <<SYS>> \n\n<|user|>\n",
    "<|assistant|>\n<|system|>\n<start_of_turn>model\n  two  spaces\t\tand\n\n\nlines é ü 日本 🙂",
)

_ALTERNATE = (
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set rules = messages[0]['content'] %}{% else %}{% set rest = messages %}"
    "{% set rules = '' %}{% endif %}{% for m in rest %}"
    + _ALTERNATE
    + "{% set said = m['content'] %}{% if loop.first and rules %}"
    "{% set said = '<<SYS>>\n' + rules + '\n<</SYS>>\n\n' + said %}{% endif %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + said.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + said.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_1 = (
    "{{ bos_token }}{% for m in messages %}"
    + _ALTERNATE
    + "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_7 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ '[SYSTEM_PROMPT]' + m['content'] + '[/SYSTEM_PROMPT]' }}"
    "{% elif m['role'] == 'user' %}{{ '[INST]' + m['content'] + '[/INST]' }}"
    "{% elif not m['content'] %}{{ raise_exception('an assistant must say something') }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n'"
    " + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '<|assistant|>' + m['content'].split('</think>')[-1] + eos_token }}"
    "{% else %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A template and the rules of its tokenizer.

    Attributes:
        pieces: how text is cut and where a space is put in front: "prepend", "first", "never" are
            sentencepiece's ways, "bytes" is byte-level.
        tags: control tokens beside `<unk>`, `<s>` and `</s>`.
        eats: whether a tag takes the white space behind it.
        plain: tags that are added tokens but not marked special.
    """

    template: str
    pieces: str = "bytes"
    tags: Sequence[str] = ()
    eats: bool = False
    plain: Sequence[str] = ()
    eos: str = "</s>"


FAMILIES = {
    "llama-2": Family(LLAMA_2, "prepend"),
    "mistral-1": Family(MISTRAL_1, "prepend"),
    "mistral-3": Family(MISTRAL_1, "first"),
    "mistral-7": Family(
        MISTRAL_7, "bytes", ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
    ),
    "zephyr": Family(ZEPHYR, "prepend"),
    "phi-3": Family(
        PHI_3, "prepend", ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>"), eats=True
    ),
    "gemma": Family(GEMMA, "never", ("<start_of_turn>", "<end_of_turn>"), eos="<end_of_turn>"),
    "chatml": Family(CHATML, "bytes", ("<|im_start|>", "<|im_end|>"), eos="<|im_end|>"),
    "chatml-added": Family(CHATML, "bytes", plain=("<|im_start|>", "<|im_end|>"), eos="<|im_end|>"),
    "r1": Family(
        R1, "bytes", ("<|user|>", "<|assistant|>", "<|system|>"), plain=("<think>", "</think>")
    ),
}


def tokenizer_of(family: Family, special: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """The family's tokenizer, trained on a few lines.

    Args:
        special: further tokens that are marked special.
    """
    tokenizer = _bytes() if family.pieces == "bytes" else _sentencepiece(family.pieces)
    names = ["<unk>", "<s>", "</s>"]
    tokenizer.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names])
    tokenizer.add_special_tokens(
        [
            AddedToken(n, special=True, normalized=False, rstrip=family.eats and n in family.tags)
            for n in (*family.tags, *special)
        ]
    )
    tokenizer.add_tokens([AddedToken(n, special=False, normalized=False) for n in family.plain])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token=family.eos,
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = family.template
    return wrapped


def _bytes() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return tokenizer


def _sentencepiece(front: str) -> Tokenizer:
    """Byte-pair encoding with `▁` for spaces and single bytes for what it does not know."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    learner.train_from_iterator(CORPUS * 3, BpeTrainer(vocab_size=250, show_progress=False))
    learnt: dict[str, Any] = json.loads(learner.to_str())["model"]
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: number for number, piece in enumerate([*first, *learnt["vocab"]])}
    merges = [(one, other) for one, other in learnt["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if front == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        steps = [normalizers.Prepend("▁")] if front == "prepend" else []
        tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    stripped = [] if front == "never" else [decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *stripped]
    )
    return tokenizer
