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
| `document`     | str                   | the passage of a document on what is asked now         |
| `admissible`   | list of str           | the actions that may be taken from here                |
| `relevant`     | str                   | the part of the observation that bears on the task     |

Where chance decides what an action does, `stochastic = True` says so: no oracle wins for certain.

Where an action is one of a short list, `legal_actions()` gives those that may be taken from here.

`metrics` are averaged over episodes, each with those of its last step, as `env/NAME`. What can only
be said of many episodes an environment says in `summarise`, a `Summarise`, which it may declare.

The student sees the observations alone: everything in `PRIVILEGED` reaches nobody but the teacher.
`agentopd.environment.check.check_env` tells whether an environment keeps all this.

Environments are found in Gymnasium's registry; `make` says how they are named. Installed packages
add theirs by entry points of the group `agentopd.envs`: `"my/Maze-v0" = "my_package.maze:Maze"`, or
`maze = "my_package.maze:build"` for everything of the form `maze:NAME`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from agentopd.base.text import check_unicode

PRIVILEGED: frozenset[str] = frozenset(
    {"feedback", "mistake", "oracle", "reference", "facts", "guide", "document"}
)
"""The keys of `info` that never enter a student's context."""


HELD_OUT_SEED = 1_000_000_000
"""The first environment seed of evaluations; training's stay below it."""

_EACH_RUN = 1_000_000
"""Environment seeds of a run until those of the run with the next seed begin."""


def training_seed(seed: int, number: int) -> int:
    """The environment seed of a run's task: at least 0 and below `HELD_OUT_SEED`, whatever `seed`.

    Args:
        seed: of the run. From 0 to 999 its tasks begin at a million times the seed; those of any
            other seed begin somewhere, the same in every process.
        number: of the task within the run, from 0.
    """
    first = seed * _EACH_RUN
    if not 0 <= first < HELD_OUT_SEED:
        first = int.from_bytes(hashlib.sha256(f"training/{seed}".encode()).digest())
    return (first + number) % HELD_OUT_SEED


Info = dict[str, Any]


Summarise = Callable[[Mapping[str, Sequence[bool]]], Mapping[str, float]]
"""Makes named numbers of a whole evaluation of whether the episodes of each `task_id` succeeded."""


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
    examples: Sequence[tuple[str, str]] = ()
    """Worked examples, a user's message and its answer each, that stand between the rules and the
    first observation: models that were never trained on a form of answers take it from them."""
    max_turns: int | None = None
    """Answers after which an episode is truncated; None where there is no such limit."""
    action_form: str = "<action>{}</action>"
    """How one action of `oracle` is written in an answer."""
    action_between: str | None = " "
    """What stands between two actions of `oracle` and `reference`; None where they are one."""
    stochastic: bool = False
    """Whether chance decides what an action does, so that the best play may fail."""

    def legal_actions(self) -> Sequence[str] | None:
        """The actions that may be taken from here, each written as in `oracle`.

        None where they are no short list. What scores without reading anything is played of them:
        see `agentopd.running.preparation.habits`.
        """
        return None


def declared(env: gymnasium.Env[str, str], name: str, default: Any) -> Any:
    """What `env` declares under `name`, the outermost wrapper first; `default` where none does."""
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else default


def actions(env: gymnasium.Env[str, str], plan: str) -> list[str]:
    """The single actions of an oracle or a reference of `env`."""
    between = declared(env, "action_between", " ")
    parts = [plan] if between is None else plan.split(between)
    return [part.strip() for part in parts if part.strip()]


def legal_actions(env: gymnasium.Env[str, str]) -> tuple[str, ...]:
    """The actions that `env`, with its wrappers, lists for where it stands; empty where it lists
    none.
    """
    listing: Callable[[], Sequence[str] | None] | None = declared(env, "legal_actions", None)
    return tuple(listing() or ()) if callable(listing) else ()


def written(env: gymnasium.Env[str, str], plan: Sequence[str]) -> str:
    """Single actions as an oracle of `env` writes them."""
    return (declared(env, "action_between", " ") or "\n").join(plan)


def system_prompt(env: gymnasium.Env[str, str]) -> str:
    """The rules that `env`, with its wrappers, shows at the start; may be empty."""
    return declared(env, "system_prompt", "") or ""


def examples(env: gymnasium.Env[str, str]) -> list[tuple[str, str]]:
    """The worked examples that `env`, with its wrappers, shows behind the rules; mostly none."""
    return [(asked, answer) for asked, answer in declared(env, "examples", ()) or ()]


def turn_limit(env: gymnasium.Env[str, str]) -> int | None:
    """The number of turns the environment declares or was registered with, whichever ends first."""
    limits = (declared(env, "max_turns", None), env.spec and env.spec.max_episode_steps)
    return min((limit for limit in limits if limit), default=None)


_THINK = re.compile(r"<think>(?:\s*<think>)*|</think>")
"""A tag of a thought; openings in a row are one, where a template opened it and the model again."""


def split_reasoning(text: str) -> tuple[list[str], str]:
    """The thoughts in an answer, in order, and what it says beside them.

    A thought ends where each `<think>` in it has its `</think>`; an unfinished one hides everything
    after it. Before a `</think>` that nothing opened everything is thought: many templates write
    the opening tag themselves, and then it is no part of the answer. The time taken is linear.
    """
    thought: list[tuple[int, int]] = []
    said: list[tuple[int, int]] = []
    begun = depth = 0
    for tag in _THINK.finditer(text):
        if tag[0] != "</think>":
            if not depth:
                said.append((begun, tag.start()))
                begun = tag.end()
            depth += 1
        elif depth <= 1:
            if not depth:
                thought, said, begun = [], [], 0
            thought.append((begun, tag.start()))
            begun, depth = tag.end(), 0
        else:
            depth -= 1
    (thought if depth else said).append((begun, len(text)))
    return [text[a:b] for a, b in thought], "".join(text[a:b] for a, b in said)


def without_reasoning(text: str) -> str:
    """What an answer says beside its thoughts; see `split_reasoning`."""
    return split_reasoning(text)[1]


def parse_action(text: str, tag: str = "action") -> str | None:
    """The content of the last `<tag>...</tag>` outside thoughts, stripped, or None.

    What is a thought, `split_reasoning` says: an action in one is not meant to be played.
    """
    closing = f"</{tag}>"
    before, _, _ = without_reasoning(text).rpartition(closing)
    _, opened, content = before.rpartition(f"<{tag}>")
    return content.partition(closing)[0].strip() if opened else None


def recorded(info: Mapping[str, Any]) -> Info:
    """A copy of `info` as a file would give it back.

    Raises:
        TypeError: JSON has no form for something in it.
        ValueError: a text in it is not Unicode.
    """
    try:
        return json.loads(_as_json(dict(info)).encode())
    except UnicodeEncodeError:
        for key, value in info.items():
            check_unicode(_as_json({key: value}), f"info[{key!r}]")
        raise


def _as_json(value: Any) -> str:
    return json.dumps(value, default=plain, ensure_ascii=False)


def plain(value: Any) -> Any:
    """The Python form of an array or a number of numpy's: the `default` of `json.dumps`.

    Raises:
        TypeError: it is anything else that JSON has no form for.
    """
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"info holds a {type(value).__name__}, which JSON has no form for")
