"""Students merged: a model whose weights are the mean of several models' weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agentopd.base.files import UNFINISHED, make_folder, naming
from agentopd.models.model import ModelSettings, load_tokenizer

_ADAPTER = "adapter_config.json"


def merge(folders: Sequence[Path], out: Path) -> None:
    """Write the mean of models that differ in their weights alone, tensor by tensor; all else is
    the first one's. The mean of equal weights is those weights, bit for bit.

    What is there already is whole, and stays.

    Raises:
        ValueError: one is of another tokenizer or other shapes, or holds adapters alone; or the
            folder cannot be written. One line.
    """
    if out.is_dir():
        return
    first, *others = folders
    for folder in folders:
        _check_whole(folder)
    vocabulary = _vocabulary(first)
    for folder in others:
        if _vocabulary(folder) != vocabulary:
            raise ValueError(
                f"{folder} has another tokenizer than {first}: weights of the two mean different "
                "things, and have no mean. Merge branches that began with one student"
            )
    fresh = out.with_name(out.name + UNFINISHED)
    make_folder(out.parent)
    with naming(out):
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(first, fresh)
        for name in sorted(path.name for path in first.glob("*.safetensors")):
            found = _mean([folder / name for folder in folders])
            save_file(found, fresh / name, metadata={"format": "pt"})
        fresh.rename(out)


def _check_whole(folder: Path) -> None:
    if (folder / _ADAPTER).is_file():
        raise ValueError(
            f"{folder} holds adapters alone, and the mean of their factors is not that of what "
            "they say: train the branches without student.lora to merge them"
        )


def _vocabulary(folder: Path) -> dict[str, int]:
    return load_tokenizer(ModelSettings(path=str(folder))).get_vocab()


def _mean(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The tensors of one file of each model, averaged in float64."""
    read = partial(_read, like=files[0])
    total = {name: x.double() for name, x in read(files[0]).items()}
    dtypes = {name: x.dtype for name, x in read(files[0]).items()}
    for file in files[1:]:
        other = read(file)
        _check_alike(total, other, files[0], file)
        for name, tensor in other.items():
            total[name] += tensor.double()
    return {name: (x / len(files)).to(dtypes[name]) for name, x in total.items()}


def _read(file: Path, like: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file} cannot be read beside {like}: {error}") from error


def _check_alike(
    one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], first: Path, file: Path
) -> None:
    shapes = [{name: tuple(x.shape) for name, x in some.items()} for some in (one, other)]
    if shapes[0] == shapes[1]:
        return
    names = sorted(shapes[0].keys() | shapes[1].keys())
    name = next(n for n in names if shapes[0].get(n) != shapes[1].get(n))
    was, now = (x.get(name, "missing") for x in shapes)
    raise ValueError(
        f"{file} and {first} are of different models: {name} is {now} in the one and {was} in the "
        "other. Merge branches that began with one student"
    )
