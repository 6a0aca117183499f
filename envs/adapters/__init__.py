"""Adapters to environments that other packages bring; each package is imported when it is used."""

from __future__ import annotations

import importlib
from types import ModuleType


def library(module: str, extra: str) -> ModuleType:
    """A module of an optional package.

    Raises:
        ValueError: the package is not installed; the message says what to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{module.partition('.')[0]} is not installed ({error}): run "
            f"pip install 'agentopd[{extra}]'"
        ) from error
