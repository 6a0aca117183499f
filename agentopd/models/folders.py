"""Where models lie: folders, embedded models, and the bases that adapters name."""

from __future__ import annotations

from pathlib import Path

from agentopd.base.files import read_json
from agentopd.base.parts import closest

ADAPTER_CONFIG = "adapter_config.json"
"""What an adapter's folder has in place of a config.json, as peft names it."""
_ZOO = Path(__file__).parents[1] / "zoo" / "models"


def model_folder(path: str) -> Path:
    """The folder that `path` or `zoo:NAME` names.

    Raises:
        ValueError: it does not exist; the message names the closest embedded model.
    """
    if path.startswith("zoo:"):
        folder = _ZOO / path.removeprefix("zoo:")
        if not folder.is_dir():
            known = [p.name for p in _ZOO.iterdir()] if _ZOO.is_dir() else []
            raise ValueError(f"no embedded model is called {path!r}; {closest(folder.name, known)}")
        return folder
    folder = Path(path)
    if not any((folder / file).is_file() for file in ("config.json", ADAPTER_CONFIG)):
        raise ValueError(
            f"{path!r} is not a model folder: it holds no config.json. "
            "Give a local folder, or zoo:NAME"
        )
    return folder


def check_index(folder: Path) -> None:
    """Refuse an index of weights that names pickles: the loader would read them all the same.

    Raises:
        ValueError: it does, or is no index.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    named = read_json(index).get("weight_map")
    files = list(named.values()) if isinstance(named, dict) else [None]
    if other := [file for file in files if not str(file).endswith(".safetensors")]:
        raise ValueError(
            f"{index} names {other[0]!r}, which is no safetensors file: weights that must be "
            "unpickled are not read. Convert them, and name the new files"
        )


def base_path(path: str) -> str:
    """What an adapter's folder stands on, as a path; of any other model, its own.

    Raises:
        ValueError: there is no such folder, or the base is not there or stands on another adapter.
    """
    folder = model_folder(path)
    if (folder / "config.json").is_file():
        return path
    base = _base_named(folder)
    if not base.startswith("zoo:") and not (Path(base) / "config.json").is_file():
        raise ValueError(
            f"{path} is an adapter of {base!r}, and no model lies there: put its base_model_name_"
            f"or_path in {ADAPTER_CONFIG} right, a local folder or zoo:NAME"
        )
    return base


def _base_named(folder: Path) -> str:
    named = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not named:
        raise ValueError(f"{folder / ADAPTER_CONFIG} names no base_model_name_or_path: add it")
    return str(named)
