"""Configurations and model folders made to break who reads them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

RUN = "env: {id: agentopd/Sokoban-v0}\n"
NUMBERS = ("-1", "0", "1e999", ".nan", "-.inf", str(2**70), "9" * 5_000, "1.5", "true", "x", "[]")
KEYS = (
    "seed", "steps", "threads", "rollout.tasks", "rollout.group", "rollout.max_turn_tokens",
    "rollout.temperature", "rollout.max_context", "rollout.slots", "learner.learning_rate",
    "learner.clip", "learner.tokens_per_batch", "evaluate.episodes", "evaluate.every",
    "evaluate.temperature", "save.checkpoint_every", "save.scores_top_k", "env.options.max_turns",
)  # fmt: skip


def configurations(marker: Path) -> dict[str, bytes]:
    """Files by what they try; code that is run makes `marker`."""
    deep = 100_000
    aliases = [f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]\n" for i in range(1, 9)]
    merges = [f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}\n" for i in range(1, 9)]
    texts = {
        "a bomb of aliases": "k0: &k0 [1]\n" + "".join(aliases),
        "a bomb of merged keys": "m0: &m0 {a: 1}\n" + "".join(merges),
        "one long text, many times": f"a: &a {'x' * 500_000}\nb: [{', '.join(['*a'] * 100_000)}]",
        "an anchor within itself": "a: &x [*x]\n",
        "an anchor within its own options": "env: &x {id: a, options: *x}\n",
        "a mapping as its own key": "? &x {a: *x}\n: 1\n",
        "deep lists": "a: " + "[" * deep,
        "deep mappings": "a: " + "{a: " * deep,
        "deep blocks": "".join(" " * n + "a:\n" for n in range(1_300)),
        "a key twice": f"steps: 1\nsteps: 2\n{RUN}",
        "a part's key twice": "env: {id: a, id: b}\n",
        "10 MB": "#" * 10_000_000,
        "nothing": "",
        "a comment": "# nothing\n",
        "a list": "- 1\n",
        "a text": "hello\n",
        "two documents": f"{RUN}---\n{RUN}",
        "a tag that calls": f"a: !!python/object/apply:os.system ['touch {marker}']\n",
        "a tag that makes": f"a: !!python/object/new:os.popen ['touch {marker}']\n",
        "a tag that names": "a: !!python/name:os.system\n",
        "a tag that imports": "a: !!python/module:antigravity\n",
        "a tag of nobody": f"a: !x {{}}\n{RUN}",
        "binary": f"seed: !!binary aGVsbG8=\n{RUN}",
        "base 60": f"steps: {':'.join(['59'] * 20_000)}\n{RUN}",
        "a date that is none": f"seed: 2026-99-99\n{RUN}",
        "a set": f"seed: !!set {{1, 2}}\n{RUN}",
        "keys that are no names": f"1: 2\nnull: 3\n[a]: 4\n{RUN}",
        "a long key": f"{'x' * 1_000}: 1\n{RUN}",
        "control characters": f"a: \x01\x02\n{RUN}",
        "tabs": f"a:\n\tb: 1\n{RUN}",
        "half a quote": f"a: 'b\n{RUN}",
        "a study of itself": f"study: {{arms: {{a: {{study: {{arms: {{}}}}}}}}}}\n{RUN}",
        "a method of another place": f"method: ../../../etc/passwd.yaml\n{RUN}",
        "a module that is none": "env: {id: 'no.such.module:Env'}\n",
        "a module's folder above": "env: {id: '../x:Env'}\n",
    }
    found = {name: text.encode() for name, text in texts.items()}
    return found | {
        "UTF-16": RUN.encode("utf-16"),
        "UTF-16 without a mark": RUN.encode("utf-16-le"),
        "UTF-32": RUN.encode("utf-32"),
        "Latin-1": f"# Zoë\n{RUN}".encode("latin-1"),
        "NUL": bytes(1_000),
        "random bytes": bytes((n * 7919) % 251 for n in range(5_000)),
    }


Change = Callable[[Path, Path], None]
"""What is done to a sound model's folder; code that is run makes the second path."""


class _Runs:
    """Unpickled, it runs a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def _pickles(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Runs(marker)))


def _indexed_pickles(folder: Path, marker: Path) -> None:
    names = list(load_file(folder / "model.safetensors"))
    _pickles(folder, marker)
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "pytorch_model.bin")}
    for name in ("pytorch_model.bin.index.json", "model.safetensors.index.json"):
        (folder / name).write_text(json.dumps(index))


def _remote_code(folder: Path, marker: Path, model_type: str | None = None) -> None:
    (folder / "own.py").write_text(f"import os\nos.system('touch {marker}')\nclass Own: pass\n")
    names = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
    told = {"auto_map": dict.fromkeys(names, "own.Own")}
    _edit(folder / "config.json", told | ({"model_type": model_type} if model_type else {}))
    tokenizers = {"AutoTokenizer": ["own.Own", "own.Own"]}
    _edit(folder / "tokenizer_config.json", {"auto_map": tokenizers})


def _edit(path: Path, more: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def _edited(name: str, **more: Any) -> Change:
    return lambda folder, _: _edit(folder / name, more)


def _written(name: str, data: bytes | str) -> Change:
    def change(folder: Path, _: Path) -> None:
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)

    return change


def _looped(name: str) -> Change:
    def change(folder: Path, _: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(name)

    return change


def _a_folder(name: str) -> Change:
    def change(folder: Path, _: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def _missing(name: str) -> Change:
    return lambda folder, _: (folder / name).unlink()


def _outside(folder: Path, _: Path) -> None:
    """The index names a file that lies elsewhere."""
    names = list(load_file(folder / "model.safetensors"))
    shutil.move(folder / "model.safetensors", folder.parent / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../missing.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _other_weights(folder: Path, _: Path) -> None:
    path = folder / "model.safetensors"
    save_file({name: x[..., :1].contiguous() for name, x in load_file(path).items()}, path)


WEIGHTS, CONFIG, TOKENS = "model.safetensors", "config.json", "tokenizer.json"
TEMPLATE = "chat_template.jinja"


def model_folders() -> dict[str, Change]:
    """What is done to a sound model's folder, by what it tries."""
    lies = json.dumps(
        {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    ).encode()
    damaged = {
        f"{name}: {what}": change
        for name in (CONFIG, TOKENS, WEIGHTS, "tokenizer_config.json", "generation_config.json")
        for what, change in {
            "0 bytes": _written(name, b""),
            "NUL": _written(name, bytes(500)),
            "a list": _written(name, "[]"),
            "deep": _written(name, "[" * 100_000),
            "a folder": _a_folder(name),
            "a loop of links": _looped(name),
        }.items()
    }
    numbers = {
        f"{key} is {value!r}": _edited(CONFIG, **{key: value})
        for key, value in (
            ("vocab_size", 10**12), ("hidden_size", 10**9), ("hidden_size", 0),
            ("num_hidden_layers", 10**7), ("num_hidden_layers", -1), ("num_attention_heads", 0),
            ("max_position_embeddings", -5), ("model_type", "nobody"), ("model_type", ["a"]),
            ("torch_dtype", "float7"), ("vocab_size", "many"), ("hidden_act", "os.system"),
        )
    }  # fmt: skip
    templates = {
        f"template {what}": _written(TEMPLATE, text)
        for what, text in {
            "without an end": "{% for i in range(10**12) %}x{% endfor %}",
            "that grows": "{{ 'x' * 10**11 }}",
            "that calls itself": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
            "that looks for classes": "{{ ().__class__.__mro__[1].__subclasses__() }}",
            "that is cut": "{% for m in messages %}{{ m",
            "of nothing": "",
            "that raises": "{{ raise_exception('no') }}",
        }.items()
    }
    return {
        "pickles alone": _pickles,
        "pickles in an index": _indexed_pickles,
        "code beside a known kind": _remote_code,
        "code beside an unknown kind": lambda f, m: _remote_code(f, m, "own"),
        "an index that leads outside": _outside,
        "weights of other shapes": _other_weights,
        "a header of 2^62 bytes": _written(WEIGHTS, struct.pack("<Q", 2**62) + b"{}"),
        "a header that lies": _written(WEIGHTS, struct.pack("<Q", len(lies)) + lies),
        "no weights": _missing(WEIGHTS),
        "no tokenizer": _missing(TOKENS),
        "an end far away": _edited("generation_config.json", eos_token_id=10**9),
        **damaged,
        **numbers,
        **templates,
    }
