"""Sources for a teacher that reads something else than the student: less, or another modality."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator, model_validator

from agentopd.base.types import Privilege, Trajectory
from agentopd.models.model import LanguageModel
from agentopd.privilege.base import Source, before_turns
from agentopd.teacher import Teacher


class ExtractedContext(Source, kind="extracted_context"):
    """Of each observation the part that bears on the task, for view: replace (OPSDL 2604.17535):
    the teacher reads it in the place of the whole.

    Observations of which all is kept are left as they are; where that is all of them, nothing is
    said.

    Args:
        keep: `new` keeps the lines that did not stand in the observation before, of all but the
            first; `relevant` what the environment says (`info["relevant"]`, which may be empty);
            `matching` the lines that `pattern` is found in.
        pattern: a regular expression.

    Raises:
        ValueError: there is no pattern to match, or none is asked for.
    """

    keep: Literal["new", "relevant", "matching"] = "new"
    pattern: str | None = None

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"pattern {value!r} is no regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _has_pattern(self) -> ExtractedContext:
        if (self.pattern is not None) != (self.keep == "matching"):
            raise ValueError(
                "privilege: extracted_context: keep: matching keeps the lines with pattern, and "
                "no other reads one: set both or neither"
            )
        return self

    @property
    def reads(self) -> str:
        """See `Source.reads`."""
        return "relevant" if self.keep == "relevant" else ""

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        before, told = "", list[Privilege]()
        for turn, info in before_turns(trajectory):
            whole = turn.observation
            kept = self._kept(whole, before, info.get("relevant"))
            if kept is not None and kept != whole:
                told.append(Privilege(source=self.kind, text=kept, turn=turn.index))
            before = whole
        return tuple(told) or None

    def _kept(self, whole: str, before: str, relevant: object) -> str | None:
        """What is kept of an observation; None where nothing is known of it."""
        if self.keep == "relevant":
            return None if relevant is None else str(relevant)
        lines = whole.split("\n")
        if self.keep == "matching":
            return "\n".join(line for line in lines if re.search(self.pattern or "", line))
        known = set(before.split("\n")) if before else set[str]()
        return "\n".join(line for line in lines if line not in known)


class OtherModality(Source, kind="other_modality"):
    """What the environment gives in another modality, an image say, for the teacher's processor.

    The slot is declared, and no teacher here has a processor: it is refused with that reason.

    Args:
        key: of `info`, where the environment puts it.
    """

    key: str = Field(default="image", min_length=1)

    @property
    def reads(self) -> str:
        """See `Source.reads`."""
        return self.key

    def meet(self, student: LanguageModel, teacher: Teacher) -> None:
        """See `Source.meet`.

        Raises:
            ValueError: the teacher reads text alone.
        """
        raise ValueError(
            f"privilege: other_modality hands info[{self.key!r}] to the teacher's processor, and a "
            f"{teacher.kind} teacher reads text alone. Have the environment describe it in words "
            "(info['document'], privilege: document), or write a Teacher of your own that scores "
            "with such a model"
        )

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        return None
