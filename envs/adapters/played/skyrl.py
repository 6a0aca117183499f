"""SkyRL-Gym's environments: `agentopd.make("skyrl:gsm8k", {"data": "train.parquet"})`.

A task is a row of a data set, in the columns that SkyRL reads: `prompt`, messages or a text, and
what the environment itself wants to know, `reward_spec` for example. Published splits are files of
their own: an evaluation names another one.

What is mapped: the row's system message is the rules, its other messages the first observation; the
student's answer reaches the environment whole but for its thoughts, where it has a form that the
environment reads; another one costs a turn. The reward is the environment's; a last one of at least
`solved` is success.

Source: the package `skyrl-gym`, 0.4 (github.com/NovaSky-AI/SkyRL).
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from agentopd.environment.contract import TextEnv, plain
from agentopd.envs.adapters import library
from agentopd.envs.adapters.played.base import SHOWN, Begun, Heard, Played
from agentopd.envs.adapters.played.rows import form_pattern, read_answer, read_rows
from agentopd.envs.puzzle import Outcome

_FORMS: Mapping[str, tuple[str, ...]] = {
    "gsm8k": ("#### {}",),
    "gsm8k_multi_turn": ("#### {}",),
    "aime": ("Answer: {}", "\\boxed{{}}"),
    "search": ("<answer>{}</answer>", "<search>{}</search>"),
    "searchcode": ("<solution>{}</solution>", "<search>{}</search>", "<python>{}</python>"),
    "text2sql": ("<solution>{}</solution>", "<sql>{}</sql>"),
    "lcb": ("```python\n{}\n```",),
}
"""What answers look like, the final one first; {} stands for what is said in it."""
_TURNS = {"gsm8k": 1, "aime": 1, "lcb": 1}
_MANY = 5


def build(name: str, **options: Any) -> SkyRL:
    """The environment of `skyrl:ID`; see `SkyRL`."""
    return SkyRL(name, **options)


class SkyRL(Played):
    """An environment of SkyRL-Gym, on the rows of a file.

    Args:
        name: as SkyRL-Gym registers it, or `module:Class` of one's own, which is registered here.
        data: the file of rows, `.jsonl`, `.json` or `.parquet`; seed n plays the row n modulo their
            number.
        config: what the environment's constructor is given as `env_config`.
        forms: what answers look like, the final one first, {} for what is said; those of SkyRL's
            own environments are known. Without any every answer with a letter in it is read.
        max_turns: answers before the episode is truncated, which the environment is told too.
        solved: the last reward from which a task counts as solved.
        shown: characters of an observation.

    Raises:
        ValueError: there is no such environment or file, a row has no prompt, or SkyRL-Gym is not
            installed.
    """

    metadata: dict[str, Any] = {**TextEnv.metadata, "blocking": True}  # noqa: RUF012
    action_between = None

    def __init__(
        self,
        name: str,
        *,
        data: str,
        config: Mapping[str, Any] | None = None,
        forms: Sequence[str] = (),
        max_turns: int | None = None,
        solved: float = 1.0,
        shown: int = SHOWN,
    ) -> None:
        self._package = library("skyrl_gym", "skyrl")
        registry = library("skyrl_gym.envs.registration", "skyrl")
        if ":" in name and name not in registry.registry:
            registry.register(id=name, entry_point=name)
        if name not in registry.registry:
            close = difflib.get_close_matches(name, registry.registry, n=1, cutoff=0.4)
            hint = f"; did you mean skyrl:{close[0]}?" if close else ""
            raise ValueError(
                f"SkyRL-Gym has no environment {name!r}{hint} One of your own is skyrl:module:Class"
            )
        self._rows = read_rows(data)
        for number, row in enumerate(self._rows):
            if not row.get("prompt"):
                raise ValueError(f"row {number} of {data} has no prompt, which the student reads")
        forms = tuple(forms) or _FORMS.get(name, ())
        self._forms = [form_pattern(form) for form in forms]
        self.action_form = forms[0] if forms else "{}"
        named = " or ".join(form.replace("{}", "...") for form in forms)
        self.missing = f"Answer in the form {named}." if forms else "The answer is empty."
        super().__init__(
            f"SkyRL's {name}",
            max_turns=max_turns or _TURNS.get(name, _MANY),
            prompt="full",
            rules={"full": "", "brief": ""},
            shown=shown,
        )
        self._id, self._config, self._solved = name, dict(config or {}), solved
        self._game: Any = None
        self._gold, self._score = "", 0.0

    def _begin(self, number: int) -> Begun:
        self.drop()
        row = copy.deepcopy(dict(self._rows[number % len(self._rows)]))
        key = hashlib.sha256(json.dumps(row, sort_keys=True, default=_written).encode()).hexdigest()
        messages = row.pop("prompt")
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        config = library("omegaconf", "skyrl").OmegaConf.create(self._config)
        extras = {**row, "max_turns": self.turn_limit}
        self._game = self._package.make(self._id, env_config=config, extras=extras)
        messages, _ = self._game.init(messages)
        rules = [m["content"] for m in messages if m["role"] == "system"]
        asked = [m["content"] for m in messages if m["role"] != "system"]
        self.system_prompt = "\n".join(map(str, rules))
        self._gold, self._score = _gold(row), 0.0
        return Begun(
            task_id=f"skyrl/{self._id}/{row.get('uid') or key[:16]}",
            text="\n".join(map(str, asked)),
            skill=str(row.get("data_source") or self._id),
        )

    def _act(self, command: str) -> Heard:
        said = self._game.step(command)
        reward, done = float(said["reward"]), bool(said["done"])
        self._score = reward
        solved = done and reward >= self._solved
        text = "\n".join(str(message["content"]) for message in said["observations"] or ())
        late = done and not solved and self.turns >= self.turn_limit > 1
        judged = f"The answer is {'right' if solved else 'wrong'}: it is paid {reward:g}."
        return Heard(
            text,
            reward=reward,
            over=done and not late,
            truncated=late,
            success=solved,
            outcome=Outcome(
                mistake="wrong answer" if done and not solved else "",
                feedback=judged if done else "",
            ),
        )

    def _read(self, answer: str) -> str | None:
        return read_answer(answer, self._forms)

    def drop(self) -> None:
        """Close the environment."""
        game, self._game = self._game, None
        if game is not None:
            game.close()

    def _plan(self) -> Sequence[str]:
        return [self._gold] if self._gold else []

    def _facts(self) -> dict[str, Any]:
        return {"reward": self._score}

    def _metrics(self) -> dict[str, float]:
        told = self._game.get_metrics() if self._game is not None else {}
        numbers = {k: v for k, v in told.items() if isinstance(v, int | float)}
        return {"reward": self._score} | {key: float(value) for key, value in numbers.items()}


def _gold(row: Mapping[str, Any]) -> str:
    """The right answer in a row's columns, where they hold one as text or number."""
    for column in ("reward_spec", "reward_model"):
        found = row.get(column)
        truth = found.get("ground_truth") if isinstance(found, dict) else None
        if isinstance(truth, dict):
            truth = truth.get("target")
        if isinstance(truth, list):
            truth = truth[0] if truth else None
        if isinstance(truth, str | int | float) and not isinstance(truth, bool):
            return str(truth).strip()
    return ""


def _written(value: Any) -> Any:
    """The `default` of `json.dumps` for what columns may hold."""
    return value.hex() if isinstance(value, bytes) else plain(value)
