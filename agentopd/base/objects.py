"""Objects found by their names, and environments built from options: what each mistake is told."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import gymnasium

from agentopd.base.text import raised

_MAINS = ("__main__", "__mp_main__")  # the latter in processes that multiprocessing started
_FROM_MAIN = {
    "__main__": (
        ": it was defined in an interpreter or a notebook, where no other process finds it; move "
        "it into a module and name that, as module:Class"
    )
}


def load_object(path: str) -> Any:
    """The object that `package.module:Name` names.

    Raises:
        ValueError: the module cannot be imported or has no such name.
    """
    module, _, name = path.partition(":")
    if "<locals>" in name:
        raise ValueError(
            f"{path!r} was defined inside a function, where no other process finds it: move it to "
            "the top of its module"
        )
    found: Any = load_module(path)
    for step in name.split("."):
        if not hasattr(found, step):
            raise ValueError(f"the module {module!r} has no {name!r}{_FROM_MAIN.get(module, '')}")
        found = getattr(found, step)
    return found


def object_path(named: type) -> str:
    """`package.module:Name` by which another process finds a class.

    Of a class of the program that is running, the module is that of the program's file; in an
    interpreter or a notebook there is none, and it stays `__main__`.
    """
    module = named.__module__
    return f"{_program() if module in _MAINS else module}:{named.__qualname__}"


def load_module(path: str) -> ModuleType:
    """The module of `package.module:Name`, imported.

    Raises:
        ValueError: it cannot be.
    """
    module = path.partition(":")[0]
    if module == _program():
        return sys.modules["__main__"]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{path!r} names the module {module!r}, which cannot be imported: {error}; "
            "it is looked for in the current folder and among what is installed"
        ) from error
    except Exception as error:
        raise ValueError(
            f"the module {module!r} raises {type(error).__name__} when it is imported: {error}"
        ) from error


def _program() -> str:
    """The module that the running program's file is for others; `__main__` where it is none."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m package.module
        return str(spec.name)
    file = Path(getattr(main, "__file__", None) or "")
    if file.suffix != ".py":
        return "__main__"
    here = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else Path(file.name)
    words = here.with_suffix("").parts
    return ".".join(words) if all(word.isidentifier() for word in words) else "__main__"


class BuildError(ValueError):
    """An environment's own code does not build one; the cause is what it raised, if anything."""


def build_env(
    spec: str, build: Callable[..., Any], given: tuple[Any, ...], options: Mapping[str, Any]
) -> gymnasium.Env[str, str]:
    """What `build` makes.

    Raises:
        BuildError: `build` raises anything but a ValueError, or it makes something else.
        ValueError: the options do not fit, or `build` says what is wrong with them.
    """
    check_arguments(spec, build, given, options)
    try:
        built = build(*given, **options)
    except ValueError:
        raise
    except Exception as error:
        told = f" with the options {dict(options)}" if options else ""
        raise BuildError(f"{spec} cannot be built{told}: {raised(error)}") from error
    if not isinstance(built, gymnasium.Env):
        raise BuildError(
            f"{spec} makes a {type(built).__name__}, which is no gymnasium.Env: derive it from "
            "agentopd.TextEnv"
        )
    return cast("gymnasium.Env[str, str]", built)


def check_arguments(
    name: str, build: Callable[..., Any], given: Sequence[Any], options: Mapping[str, Any]
) -> None:
    """Compare options with the parameters of what is going to be called.

    Raises:
        ValueError: an option is unknown, or one that is needed is missing.
    """
    try:
        signature = inspect.signature(build)
    except (TypeError, ValueError):
        return  # written in C, it says nothing of its parameters
    try:
        signature.bind(*given, **options)
    except TypeError as error:
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        taken = [p for p in signature.parameters.values() if p.kind in named][len(given) :]
        known = [parameter.name for parameter in taken]
        for option in options:
            if option not in known:
                close = difflib.get_close_matches(option, known, n=1, cutoff=0.5)
                hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
                hint = hint if known else "it takes none"
                raise ValueError(f"{name} has no option {option!r}; {hint}") from error
        needed = [p.name for p in taken if p.default is p.empty and p.name not in options]
        if needed:
            raise ValueError(
                f"{name} needs the option {needed[0]!r}: give it, as in -o {needed[0]}=VALUE, or "
                f"{needed[0]}: VALUE under env.options"
            ) from error
        raise ValueError(f"{name} cannot be called with {dict(options)}: {error}") from error
