"""Sources that say what is written in a configuration or a file, and the first that speaks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium
from pydantic import Field, PrivateAttr, SerializeAsAny, model_validator

from agentopd.base.files import read_text
from agentopd.base.rows.costs import Cost
from agentopd.base.types import Privilege, Trajectory
from agentopd.base.written import read_mapping
from agentopd.environment.contract import PRIVILEGED
from agentopd.models.chat import ChatTemplate
from agentopd.models.model import LanguageModel
from agentopd.privilege.base import Source, scalars_of, skill_tag
from agentopd.signal.beside import Beside
from agentopd.teacher import Teacher

_KEY = re.compile(r"\{(" + "|".join(sorted(PRIVILEGED)) + r")\}")
_DEFAULT = "default"


def without_slots(text: str) -> str:
    """What an environment says, as a `Text` that is told as it is: its braces stand for nothing."""
    return text.replace("{", "(").replace("}", ")")


class Text(Source, kind="text"):
    """A text of your own: an instruction (OPSDC 2603.05433), rules, skills written by hand (SDAR
    2605.15155).

    `{guide}`, `{reference}` and the other privileged keys stand for what the environment says of
    the task on reset; where it says nothing of one, the text is not told.

    Args:
        text: the same for all tasks; or a text by the tag of a task's skill, `default` for others.
        path: a file instead: of a text, or (.yaml) of texts by tag.

    Raises:
        ValueError: there is neither text nor file, or both; or the file cannot be read.
    """

    text: str | dict[str, str] = ""
    path: str | None = None
    _texts: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _has_text(self) -> Text:
        if bool(self.text) == bool(self.path):
            raise ValueError(
                "privilege: text needs either text, as in {kind: text, text: Be concise.}, or a "
                "file's path, and not both; privilege: none tells nothing"
            )
        self._texts = _by_tag(self.text or _in_file(Path(self.path or "")))
        return self

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        text = self._texts.get(skill_tag(trajectory), self._texts.get(_DEFAULT, ""))
        known = {key: str(trajectory.prompt.get(key) or "") for key in _KEY.findall(text)}
        if not text or not all(known.values()):
            return None
        filled = _KEY.sub(lambda found: known[found[1]], text)
        return (Privilege(source=self.kind, text=filled),)


class First(Source, kind="first"):
    """Of several sources the first that has something to say: the others are not heard.

    So SDPO (2601.20802) tells feedback only where no peer solved the task.

    Args:
        of: the sources, in order.
        per: of each episode; or of each turn, where a text about the turn goes before one about
            the episode, which is told in the turns that have no other (OPID 2606.26790): for view:
            every_turn.
    """

    of: list[SerializeAsAny[Source]] = Field(min_length=2)
    per: Literal["episode", "turn"] = "episode"

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`."""
        return tuple(cost for source in self.of for cost in source.costs)

    def check(self, beside: Beside) -> None:
        """See `Source.check`."""
        for source in self.of:
            source.check(beside)

    def enter(self, env: gymnasium.Env[str, str]) -> None:
        """See `Source.enter`."""
        for source in self.of:
            source.enter(env)

    def prepare(self, template: ChatTemplate) -> None:
        """See `Source.prepare`."""
        for source in self.of:
            source.prepare(template)

    def meet(self, student: LanguageModel, teacher: Teacher) -> None:
        """See `Source.meet`."""
        for source in self.of:
            source.meet(student, teacher)

    def begin(self) -> None:
        """See `Source.begin`."""
        for source in self.of:
            source.begin()

    def learn(self, trajectories: Sequence[Trajectory]) -> None:
        """See `Source.learn`."""
        for source in self.of:
            source.learn(trajectories)

    def write(self, trajectories: Sequence[Trajectory], batch: Sequence[Trajectory]) -> None:
        """See `Source.write`; a later source writes only where it may be heard."""
        left = list(trajectories)
        for source in self.of:
            source.write(left, batch)
            if self.per == "episode":
                left = [t for t in left if source.whisper(t, batch) is None]

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        heard = (source.whisper(trajectory, batch) for source in self.of)
        if self.per == "episode":
            return next((told for told in heard if told is not None), None)
        said = [told for told in heard if told is not None]
        found = tuple(p for turn in trajectory.turns for p in _of_turn(said, turn.index))
        return found if found or not said else None

    def scalars(self) -> dict[str, float]:
        """See `Source.scalars`."""
        return scalars_of(self.of)

    def state(self) -> dict[str, Any]:
        """See `Source.state`."""
        return {"of": [source.state() for source in self.of]}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Source.restore`."""
        for source, own in zip(self.of, state["of"], strict=True):
            source.restore(own)


def _of_turn(said: Sequence[tuple[Privilege, ...]], turn: int) -> list[Privilege]:
    """What is told of a turn: of the first source that has a text about it, else the first's about
    the episode.
    """
    for told in said:
        if own := [p for p in told if p.turn == turn]:
            return own
    for told in said:
        if whole := [p for p in told if p.turn is None]:
            return [
                Privilege(source=p.source, text=p.text, turn=turn, quotes=p.quotes) for p in whole
            ]
    return []


def _by_tag(text: str | Mapping[str, str]) -> dict[str, str]:
    return {_DEFAULT: text} if isinstance(text, str) else dict(text)


def _in_file(path: Path) -> str | dict[str, str]:
    if not path.is_file():
        raise ValueError(f"privilege: text: there is no file {path}")
    if path.suffix not in (".yaml", ".yml"):
        return read_text(path).strip()
    found = read_mapping(path)
    if not all(isinstance(text, str) for text in found.values()):
        raise ValueError(f"privilege: text: {path} holds something else than a text by each tag")
    return {str(tag): text.strip() for tag, text in found.items()}
