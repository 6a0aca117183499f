"""The environment contract: a `gymnasium.Env` whose observation and action are strings.

An observation is only the new user message; an action is the raw text the model wrote. `info` is
flat and JSON-able:

| key            | type                  | meaning                                                |
|----------------|-----------------------|--------------------------------------------------------|
| `task_id`      | str, always           | names the task; equal for equal tasks                  |
| `success`      | bool, always          | the task is solved                                     |
| `action_valid` | bool, after each step | the action could be parsed                             |
| `feedback`     | str                   | what may honestly be said after the step               |
| `mistake`      | str                   | a short name of what was wrong with the step, or empty |
| `oracle`       | str                   | the best next actions from here, recomputed            |
| `reference`    | str, on reset         | a solution of the whole episode                        |
| `facts`        | dict                  | named values that rubrics read                         |
| `metrics`      | dict[str, float]      | numbers for the log                                    |
| `skill`        | str, on reset         | tag under which skills are filed                       |
| `guide`        | str, on reset         | advice that holds for every task of this environment   |

Where chance decides what an action does, `stochastic = True` says so: no oracle wins for certain.

The student sees the observations alone: everything in `PRIVILEGED` reaches nobody but the teacher.
`agentopd.check.check_env` tells whether an environment keeps all this.

Environments are found in Gymnasium's registry. Installed packages add theirs by entry points of the
group `agentopd.envs`: `"my/Maze-v0" = "my_package.maze:Maze"`, or `maze = "my_package.maze:build"`
for everything of the form `maze:NAME`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

PRIVILEGED: frozenset[str] = frozenset(
    {"feedback", "mistake", "oracle", "reference", "facts", "guide"}
)
"""The keys of `info` that never enter a student's context."""

PLUGINS = "agentopd.envs"
"""The entry-point group of environments that other packages bring."""

HELD_OUT_SEED = 1_000_000_000
"""The first environment seed of evaluations; training's stay below it."""

Info = dict[str, Any]


class Text(gymnasium.Space[str]):
    """Any string. Gymnasium's own `Text` contains neither spaces nor line breaks by default."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """Text has no fixed-size vector form."""
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A short random line; masks do not apply to free text."""
        letters = "abcdefghijklmnopqrstuvwxyz \n<>/"
        return "".join(letters[i] for i in self.np_random.integers(len(letters), size=24))

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string."""
        return isinstance(x, str)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Text)

    def __hash__(self) -> int:
        return hash(Text)

    def __repr__(self) -> str:
        return "Text()"


class TextEnv(gymnasium.Env[str, str]):
    """A convenient base; any `gymnasium.Env` of strings that keeps the contract will do."""

    metadata: dict[str, Any] = {"render_modes": ["ansi"]}  # noqa: RUF012  (as in gymnasium)
    observation_space: gymnasium.Space[str] = Text()
    action_space: gymnasium.Space[str] = Text()
    system_prompt: str = ""
    """Rules and action format, shown once at the start; may be empty."""
    max_turns: int | None = None
    """Answers after which an episode is truncated; None where there is no such limit."""
    action_form: str = "<action>{}</action>"
    """How one action of `oracle` is written in an answer."""
    action_between: str | None = " "
    """What stands between two actions of `oracle` and `reference`; None where they are one."""
    stochastic: bool = False
    """Whether chance decides what an action does, so that the best play may fail."""


def declared(env: gymnasium.Env[str, str], name: str, default: Any) -> Any:
    """What `env` declares under `name`, the outermost wrapper first; `default` where none does."""
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else default


def actions(env: gymnasium.Env[str, str], plan: str) -> list[str]:
    """The single actions of an oracle or a reference of `env`."""
    between = declared(env, "action_between", " ")
    parts = [plan] if between is None else plan.split(between)
    return [part.strip() for part in parts if part.strip()]


def written(env: gymnasium.Env[str, str], plan: Sequence[str]) -> str:
    """Single actions as an oracle of `env` writes them."""
    return (declared(env, "action_between", " ") or "\n").join(plan)


def system_prompt(env: gymnasium.Env[str, str]) -> str:
    """The rules that `env`, with its wrappers, shows at the start; may be empty."""
    return declared(env, "system_prompt", "") or ""


_REASONING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


def without_reasoning(text: str) -> str:
    """`text` without what stands in `<think>`; an unclosed one hides everything after it."""
    return _REASONING.sub("", text) if "<think>" in text else text


def parse_action(text: str, tag: str = "action") -> str | None:
    """The content of the last `<tag>...</tag>` outside `<think>`, stripped, or None.

    An unclosed `<think>` hides everything after it. The time taken is linear in the text's length.
    """
    closing = f"</{tag}>"
    before, _, _ = without_reasoning(text).rpartition(closing)
    _, opened, content = before.rpartition(f"<{tag}>")
    return content.partition(closing)[0].strip() if opened else None


def plain(value: Any) -> Any:
    """The Python form of an array or a number of numpy's: the `default` of `json.dumps`.

    Raises:
        TypeError: it is anything else that JSON has no form for.
    """
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"info holds a {type(value).__name__}, which JSON has no form for")


def register(env_id: str, entry_point: Any, **kwargs: Any) -> None:
    """Register an environment under `env_id`; keyword arguments go to its constructor.

    The same as `gymnasium.register` without the checker wrapper, which assumes numeric spaces.
    """
    gymnasium.register(
        env_id,
        entry_point=entry_point,
        disable_env_checker=True,
        order_enforce=False,
        kwargs=kwargs,
    )


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


def make(spec: str, options: Mapping[str, Any] | None = None) -> gymnasium.Env[str, str]:
    """Build an environment from a registered id, `package.module:Class` or `scheme:NAME`.

    `gym:NAME` is Gymnasium's own registry unless another scheme of that name is registered.

    Raises:
        ValueError: nothing of that name exists, or the environment refuses the options.
    """
    options = dict(options or {})
    scheme, colon, name = spec.partition(":")
    # Reading the installed packages takes longer than an episode: only for names nobody knows.
    if not (spec in gymnasium.registry or f"{scheme}:" in gymnasium.registry or _module(scheme)):
        register_plugins()
    found = gymnasium.registry.get(f"{scheme}:") if colon else None
    try:
        if found is not None:
            built = load_object(str(found.entry_point))(name, **options)
        elif colon and scheme != "gym":
            _refuse_unknown_scheme(spec)
            built = load_object(spec)(**options)
        else:
            # Wrapped as it was registered: a time limit is part of the task.
            built = gymnasium.make(spec.removeprefix("gym:"), disable_env_checker=True, **options)
    except gymnasium.error.UnregisteredEnv as error:
        raise ValueError(f"no environment is called {spec!r}; {_hint(spec)}") from error
    except gymnasium.error.Error as error:
        raise ValueError(
            f"{spec!r} is neither a registered id nor package.module:Class: {error}"
        ) from error
    except TypeError as error:
        raise ValueError(
            f"{spec} cannot be built with the options {options}: {error}; "
            "rename or remove the option"
        ) from error
    return cast("gymnasium.Env[str, str]", built)


def _module(name: str) -> bool:
    """Whether `name` is Gymnasium's scheme or begins like a module that can be imported."""
    top = name.partition(".")[0]
    known = name == "gym" or name in sys.modules
    return known or (top.isidentifier() and importlib.util.find_spec(top) is not None)


def _hint(spec: str) -> str:
    """The closest known name; for `gym:`, among all that Gymnasium knows."""
    prefix = "gym:" if spec.startswith("gym:") else ""
    every = [f"gym:{name}" for name in gymnasium.registry if not name.endswith(":")]
    known = every if prefix else env_ids()
    close = difflib.get_close_matches(spec, known, n=1, cutoff=0.4)
    if close:
        return f"did you mean {close[0]}?"
    return f"registered are: {', '.join(env_ids())}"


def _refuse_unknown_scheme(spec: str) -> None:
    """Refuse `textarenna:X`, which is not meant as a module.

    Raises:
        ValueError: what stands before the colon is nearly a scheme.
    """
    scheme = spec.partition(":")[0]
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


def register_plugins() -> None:
    """Register what installed packages bring; names already taken stay as they are."""
    for point in metadata.entry_points(group=PLUGINS):
        if "/" not in point.name:
            if f"{point.name}:" not in gymnasium.registry:
                register_scheme(point.name, point.value)
        elif point.name not in gymnasium.registry:
            register(point.name, point.value)


def load_object(path: str) -> Any:
    """The object that `package.module:Name` names.

    Raises:
        ValueError: the module cannot be imported or has no such name.
    """
    module, _, name = path.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{path!r} names the module {module!r}, which cannot be imported: {error}"
        ) from error
    if not hasattr(found, name):
        raise ValueError(f"the module {module!r} has no {name!r}")
    return getattr(found, name)


def env_ids() -> list[str]:
    """Ids of the registered environments that speak text: those with a namespace."""
    register_plugins()
    foreign = (None, "phys2d", "tabular")
    return sorted(
        name for name, spec in gymnasium.registry.items() if spec.namespace not in foreign
    )
