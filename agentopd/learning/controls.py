"""Controls: what a run would show if what is claimed of it were not so, as one word of any config.

    agentopd train configs/quickstart.yaml control=no_pi

`no_pi`: the teacher is told nothing; a copy of the student then agrees with it, and nothing is
learnt. `shuffled_pi`: it is told what is known of another task. `filler`: as much text, which says
nothing. `frozen_teacher`: the copy of the student that teaches does not follow it. `zero_signal`:
everything happens as it would, but the distillation term is multiplied by nought.

A control takes the place of the parts it is about when the configuration is read, so that every
other part, and what the file that a run leaves behind says of them all, is the same as without it.
Where nothing would be another than without it, it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from agentopd.privilege.base import NoPrivilege, Source
from agentopd.privilege.controls import Filler, Shuffled
from agentopd.teacher import Teacher

ControlName = Literal["no_pi", "shuffled_pi", "filler", "frozen_teacher", "zero_signal"]


def controlled_sources(control: ControlName | None, sources: Sequence[Source]) -> list[Source]:
    """The sources under a control; those that it has made already stay as they are.

    Raises:
        ValueError: there is no text that the control could take away or the place of.
    """
    if control not in ("no_pi", "shuffled_pi", "filler"):
        return list(sources)
    if all(isinstance(source, NoPrivilege) for source in sources):
        does = (
            "takes away what the teacher is told"
            if control == "no_pi"
            else "puts another text in the place of what the teacher is told"
        )
        raise ValueError(
            f"control: {control} {does}, and privilege: none tells it nothing: under this control "
            "the run would be the same. Name the source that the control is for"
        )
    if control == "no_pi":
        return [NoPrivilege()]
    kind = Shuffled if control == "shuffled_pi" else Filler
    return [s if isinstance(s, NoPrivilege) else kind(of=_beneath(s)) for s in sources]


def controlled_teacher(control: ControlName | None, teacher: Teacher) -> Teacher:
    """The teacher under a control.

    Raises:
        ValueError: a teacher that is no copy of the student cannot be frozen as one, and one that
            is frozen cannot be frozen again.
    """
    if control != "frozen_teacher":
        return teacher
    if not teacher.copies_student:
        raise ValueError(
            f"control: frozen_teacher keeps a copy of the student from following it, and a teacher "
            f"of kind {teacher.kind} is no such copy: under this control the run would be the same"
        )
    held = Teacher.model_validate({"kind": "frozen", "tokens_per_batch": teacher.tokens_per_batch})
    if type(teacher) is type(held):
        raise ValueError(
            "control: frozen_teacher keeps a copy of the student from following it, and teacher: "
            "frozen does not follow it: under this control the run would be the same. Name the "
            "teacher that the control is for, such as ema or live"
        )
    return held


def _beneath(source: Source) -> Source:
    """What a source tells when it is no control."""
    while isinstance(source, Shuffled | Filler):
        source = source.of
    return source
