"""`agentopd export`: a run's student as a folder that others load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import typer

from agentopd.base.console import quiet_libraries, working
from agentopd.base.files import read_json
from agentopd.base.written import last_stage, read_stored
from agentopd.commands.acting import model_path


def export(run: Path, to: Path, merge: bool, base: str | None) -> None:
    """Write the student of a run's last checkpoint, with a model card.

    Args:
        merge: add its adapters to the weights of their base.
        base: what the model that the run started from is called by those who will load this.

    Raises:
        ValueError: there is no run, it has no checkpoint or a damaged one; the folder holds
            something already; or there is nothing to merge.
    """
    read_stored(run)  # what is no run's folder is told before torch is loaded
    run = last_stage(run)
    student = Path(model_path(str(run)))
    adapted = (student / "adapter_config.json").is_file()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ValueError(f"{to} holds something already; choose another folder")
    if merge and not adapted:
        raise ValueError(f"the student of {run} has no adapters to merge: leave out --merge")
    beside = to.with_name(f"{to.name}.unfinished")
    shutil.rmtree(beside, ignore_errors=True)
    with working("exporting"):
        quiet_libraries()
        if merge:
            _merge(run, student, beside)
        else:
            shutil.copytree(student, beside)
        if adapted and not merge:
            _name_base(beside, base)
        form = "merged" if merge else "adapter" if adapted else ""
        _describe(run, student.parent, to.name, beside, form, base)
        to.parent.mkdir(parents=True, exist_ok=True)
        beside.rename(to)
    typer.echo(f"the model: {to}")


def _merge(run: Path, student: Path, into: Path) -> None:
    """Added up in float32 and rounded once, to what the run's passes ran in."""
    import torch

    from agentopd.models.adapters import merged
    from agentopd.models.model import ModelSettings, load_model
    from agentopd.running.reading import load_stored

    config = load_stored(run).student
    trusted = config.trust_remote_code
    model = load_model(ModelSettings(path=str(student), trust_remote_code=trusted))
    whole = merged(model.module)
    torch.nn.Module.to(whole, getattr(torch, config.dtype))
    whole.save_pretrained(into)
    model.tokenizer.save_pretrained(into)


def _name_base(folder: Path, base: str | None) -> None:
    """Let the adapter's file name its base as those who load it find it."""
    from agentopd.models.folders import ADAPTER_CONFIG, base_path, model_folder

    file = folder / ADAPTER_CONFIG
    told = read_json(file)
    told["base_model_name_or_path"] = base or str(model_folder(base_path(str(folder))).resolve())
    file.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _describe(
    run: Path, checkpoint: Path, name: str, folder: Path, form: str, base: str | None
) -> None:
    from agentopd.looking.card import Exported, card, evaluations_of
    from agentopd.models.folders import base_path
    from agentopd.running.checkpoint import load_progress
    from agentopd.running.reading import load_stored

    config = load_stored(run)
    forms = {"": "A model", "adapter": "An adapter", "merged": "A model with its adapter merged"}
    start = config.student.path if config.student.path.startswith("zoo:") else None
    exported = Exported(
        name=name,
        base=base or start or Path(base_path(config.student.path)).resolve().name,
        published=base is not None,
        form=forms[form],
        config=config,
        progress=load_progress(checkpoint),
        evaluations=evaluations_of(run),
    )
    (folder / "README.md").write_text(card(exported), encoding="utf-8")
