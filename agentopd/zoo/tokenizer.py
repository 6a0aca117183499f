"""The embedded models' tokenizers: byte-level BPE that keeps a board's cells apart and the
template's tags whole.

A real tokenizer in Hugging Face format: it encodes any text and decodes it back byte for byte. What
is special is its pre-tokenizer, which never lets a merge cross what an environment wants apart.
Sokoban's keeps the inner cells of a board apart, but gives the outer wall at a line break (`#`,
newline, `#`) one token, so that a 6 x 6 board costs 21 tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
END, PAD = "<|end|>", "<|pad|>"
TAGS = ("<think>", "</think>", "<action>", "</action>")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

CELLS = (
    r"#{4,}\n#",  # the top wall and the first row's left wall
    r"#\n#{4,}",  # the last row's right wall and the bottom wall
    r"#\n#",  # right wall, line break, left wall
    r"[#.$*@+_]",  # one cell
)
"""Sokoban's own pieces."""
_WORDS = (r" ?\p{L}+", r" ?\p{N}", r" ?[^\s\p{L}\p{N}]", r"\s+")


def train_tokenizer(
    corpus: Iterable[str], vocabulary: int = 768, pieces: tuple[str, ...] = CELLS
) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocabulary` tokens, trained on `corpus`.

    No token crosses the border of what one of `pieces`, regular expressions tried in order before
    those of words and single signs, has matched.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("|".join((*pieces, *_WORDS))), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD, END, *ROLES]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(TAGS),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(ROLES),
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
