"""Environments by name: Gymnasium's registry, schemes, modules of one's own, plugins."""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, WrapperSpec

from agentopd.base.objects import BuildError, build_env, check_arguments, load_module, load_object

PLUGINS = "agentopd.envs"
"""The entry-point group of environments that other packages bring."""


def register(
    env_id: str,
    entry_point: Any = None,
    *,
    max_episode_steps: int | None = None,
    nondeterministic: bool = False,
    additional_wrappers: tuple[WrapperSpec, ...] = (),
    **options: Any,
) -> Any:
    """Register an environment under `env_id`.

    The same as `gymnasium.register` without the checker wrapper, which assumes numeric spaces.
    Without an `entry_point` it decorates the class or the function that builds the environment:

        @agentopd.register("me/Maze-v0", size=5)
        class Maze(agentopd.TextEnv): ...

    Args:
        entry_point: "module:Class", a class, or a function that builds one.
        max_episode_steps: steps after which Gymnasium's `TimeLimit` truncates an episode.
        nondeterministic, additional_wrappers: Gymnasium's own.
        options: for the constructor.

    Returns:
        `entry_point`, or the decorator.

    Raises:
        ValueError: `env_id` is none, such as `me/Maze-v0`.
    """
    if entry_point is None:
        settings: dict[str, Any] = {
            "max_episode_steps": max_episode_steps,
            "nondeterministic": nondeterministic,
            "additional_wrappers": additional_wrappers,
        }
        return lambda decorated: register(env_id, decorated, **settings, **options)
    try:
        gymnasium.register(
            env_id,
            entry_point=entry_point,
            disable_env_checker=True,
            order_enforce=False,
            nondeterministic=nondeterministic,
            max_episode_steps=max_episode_steps,
            additional_wrappers=additional_wrappers,
            kwargs=options,
        )
    except gymnasium.error.Error as error:
        raise ValueError(
            f"{env_id!r} cannot be an id; write it like me/Maze-v0: {error}"
        ) from error
    return entry_point


def register_scheme(scheme: str, build: str) -> None:
    """Let `make("scheme:NAME")` call `build`, a "module:function", with NAME and the options.

    The module is imported when the scheme is first used.

    Raises:
        ValueError: a name of one letter or with other signs than letters, digits and `_` is no
            scheme, or `build` does not name a function of a module.
    """
    if not re.fullmatch(r"[A-Za-z]\w+", scheme):
        raise ValueError(f"{scheme!r} cannot be a scheme: use letters, digits and underscores")
    if not re.fullmatch(r"[\w.]+:\w+", build):
        raise ValueError(f"the scheme {scheme!r} is built by {build!r}: write module:function")
    # An id that ends in a colon: Gymnasium's registry is the only one, and refuses to make it.
    gymnasium.registry[f"{scheme}:"] = EnvSpec(f"{scheme}:", entry_point=build)


def make(
    spec: str | Callable[..., gymnasium.Env[str, str]], options: Mapping[str, Any] | None = None
) -> gymnasium.Env[str, str]:
    """Build an environment.

    Args:
        spec: a registered id; `scheme:NAME`; `package.module:Class`; `package.module:ID`, an id
            that is registered when the module is imported; or, not as text, a class or a function.
            `gym:NAME` is Gymnasium's own registry unless another scheme of that name is registered.
        options: for the constructor.

    Raises:
        ValueError: nothing of that name exists, or the environment cannot be built.
    """
    options = dict(options or {})
    if not isinstance(spec, str):
        if not callable(spec):
            raise ValueError(
                f"an environment is made from a name, a class or a function that builds one, not "
                f"from a {type(spec).__name__}: every episode gets one of its own"
            )
        return build_env(getattr(spec, "__name__", repr(spec)), spec, (), options)
    scheme, colon, name = spec.partition(":")
    # Reading the installed packages takes longer than an episode: only for names nobody knows yet.
    if not (spec in gymnasium.registry or f"{scheme}:" in gymnasium.registry or _imported(spec)):
        register_plugins()
    if colon and (found := gymnasium.registry.get(f"{scheme}:")) is not None:
        return build_env(spec, load_object(str(found.entry_point)), (name,), options)
    if not colon or scheme == "gym":
        return _registered(spec, spec.removeprefix("gym:"), options)
    _refuse_unknown_scheme(spec)
    module = load_module(spec)
    if name in gymnasium.registry and not hasattr(module, name):
        return _registered(spec, name, options)
    if "/" in name or re.search(r"-v\d+$", name):
        known = [env_id for env_id in gymnasium.registry if not env_id.endswith(":")]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"; did you mean {module.__name__}:{close[0]}?" if close else ""
        raise ValueError(f"the module {module.__name__!r} registers no {name!r}{hint}")
    return build_env(spec, load_object(spec), (), options)


def _imported(spec: str) -> bool:
    """Whether `spec` names something in a module that has been imported already."""
    module, _, name = spec.partition(":")
    known = module in sys.modules
    return known and (name in gymnasium.registry or hasattr(sys.modules[module], name))


def _registered(spec: str, env_id: str, options: dict[str, Any]) -> gymnasium.Env[str, str]:
    """The environment of an id, wrapped as it was registered: a time limit is part of the task."""
    found = gymnasium.registry.get(env_id)
    if found is not None and found.entry_point is not None:
        entry: Any = found.entry_point
        build = load_object(entry) if isinstance(entry, str) else entry
        own = {key: value for key, value in options.items() if key != "max_episode_steps"}
        check_arguments(spec, build, (), {**found.kwargs, **own})
    try:
        made = partial(gymnasium.make, env_id, disable_env_checker=True)
        return build_env(spec, made, (), options)
    except BuildError as error:
        if isinstance(error.__cause__, gymnasium.error.UnregisteredEnv):
            raise ValueError(
                f"no environment is called {spec!r}; {_hint(spec)} One of your own is named "
                "module:Class, or module:ID where the module registers it"
            ) from error
        if isinstance(error.__cause__, gymnasium.error.Error):
            raise ValueError(
                f"{spec!r} is neither a registered id nor module:Class: {error.__cause__}"
            ) from error
        raise


def _hint(spec: str) -> str:
    """The closest known name; for `gym:`, among all that Gymnasium knows."""
    prefix = "gym:" if spec.startswith("gym:") else ""
    every = [f"gym:{name}" for name in gymnasium.registry if not name.endswith(":")]
    known = every if prefix else env_ids()
    close = difflib.get_close_matches(spec, known, n=1, cutoff=0.4)
    if close:
        return f"did you mean {close[0]}?"
    return f"registered are: {', '.join(env_ids())}."


def _refuse_unknown_scheme(spec: str) -> None:
    """Refuse `textarena:X`, which is not meant as a module.

    Raises:
        ValueError: what stands before the colon is no module, and nearly a scheme.
    """
    scheme = spec.partition(":")[0]
    if "." in scheme or scheme in sys.modules or importlib.util.find_spec(scheme or "?"):
        return
    close = difflib.get_close_matches(scheme, [*schemes(), "gym"], n=1, cutoff=0.75)
    if close:
        raise ValueError(f"there is no scheme {scheme!r}; did you mean {close[0]}:?")


def schemes() -> list[str]:
    """The registered schemes, without their colons."""
    return sorted(name[:-1] for name in gymnasium.registry if name.endswith(":"))


def scheme_modules() -> dict[str, str]:
    """The module that builds each scheme's environments, those of plugins too."""
    register_plugins()
    return {s: str(gymnasium.registry[f"{s}:"].entry_point).partition(":")[0] for s in schemes()}


def register_plugins() -> list[str]:
    """Register what installed packages bring; names already taken stay as they are.

    Returns:
        What cannot be registered, with its package and the reason; the others are.
    """
    broken = []
    for point in metadata.entry_points(group=PLUGINS):
        try:
            if "/" not in point.name:
                if f"{point.name}:" not in gymnasium.registry:
                    register_scheme(point.name, point.value)
            elif point.name not in gymnasium.registry:
                register(point.name, point.value)
        except ValueError as error:
            package = f"the package {point.dist.name}" if point.dist else f"what brings {point}"
            broken.append(f"{package} has a broken entry point {point.name!r}: {error}")
    return broken


def env_ids() -> list[str]:
    """Ids of the registered environments that speak text: those with a namespace."""
    register_plugins()
    foreign = (None, "phys2d", "tabular")
    return sorted(
        name for name, spec in gymnasium.registry.items() if spec.namespace not in foreign
    )
