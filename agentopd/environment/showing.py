"""A wrapper that shows the student what may be done: `{kind: admissible, most: 20}`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, field_validator

from agentopd.environment.contract import Info, legal_actions
from agentopd.environment.wrappers import Around, Env, Result, Wrapper


class Admissible(Wrapper, kind="admissible"):
    """Each observation of a running episode ends with a list of the actions that may be taken.

    They are those of `info["admissible"]`, elsewhere those of `legal_actions()`, sorted, so that
    the order tells nothing. Put it outside of `tools`, whose calls it then lists.

    Args:
        most: actions that are shown; of more, as many at even distances in the sorted list, and
            how many are left out.
        form: the line, with {} for the list.
        between: what stands between two actions.
    """

    most: int = Field(default=50, ge=1)
    form: str = "You may: {}"
    between: str = ", "

    @field_validator("form")
    @classmethod
    def _holds_the_list(cls, value: str) -> str:
        if value.count("{}") != 1:
            raise ValueError(f"the form {value!r} must hold {{}} once, where the list stands")
        return value

    def wrap(self, env: Env) -> Env:
        """See `Wrapper.wrap`."""
        return _Showing(env, self)


class _Showing(Around):
    def __init__(self, env: Env, settings: Admissible) -> None:
        super().__init__(env)
        self._most, self._between = settings.most, settings.between
        self._form = settings.form

    def reset(self, **kwargs: Any) -> tuple[str, Info]:
        observation, info = self.env.reset(**kwargs)
        listed = self._listed(info)
        if not listed and "admissible" not in info:
            raise ValueError(
                f"{self.env.unwrapped.__class__.__name__} lists no admissible actions, neither in "
                "info['admissible'] nor by legal_actions(): take the wrapper `admissible` out, or "
                "set the option by which the environment lists them"
            )
        return self._with(observation, listed) if listed else observation, info

    def step(self, action: str) -> Result:
        observation, reward, terminated, truncated, info = self.env.step(action)
        listed = () if terminated or truncated else self._listed(info)
        shown = self._with(observation, listed) if listed else observation
        return shown, float(reward), terminated, truncated, info

    def _listed(self, info: Info) -> Sequence[str]:
        told = info.get("admissible")
        return sorted(set(legal_actions(self.env) if told is None else told))

    def _with(self, observation: str, listed: Sequence[str]) -> str:
        count = min(len(listed), self._most)
        shown = self._between.join(listed[n * len(listed) // count] for n in range(count))
        if left := len(listed) - count:
            shown += f"{self._between}and {left} more"
        return "\n".join(filter(None, (observation, self._form.replace("{}", shown))))
