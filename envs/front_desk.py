"""Front desk: forms filled in by the house's codes, which only its manual tells.

`gymnasium.make("agentopd/FrontDesk-v0")` after `import agentopd`. A ticket is put down in some
fields, a turn each; what belongs into a field is a rule of the manual, the same for all tickets.
No thinking finds a code: whoever was never told the manual has none, and the passage that `info`
holds as `document` is what an agent that may look it up would read. So the task measures one thing:
how well what a teacher is told becomes what a student knows. Only codes of the manual count, so no
habit solves a ticket.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentopd.environment.contract import Info, without_reasoning
from agentopd.envs.puzzle import Outcome, Puzzle, Split, Wording, check_number

_TEAMS = ("falcon", "otter", "maple", "harbor", "copper", "violet", "meadow", "comet")
_MARKS = ("blue", "gold", "silver", "green", "white", "pink", "brown", "black")
_SEALS = ("river", "castle", "lemon", "tiger", "cloud", "bridge", "pepper", "anchor")


@dataclass(frozen=True)
class Field:
    """A field of the form: the question, the command that fills it in, and what it depends on.

    `cases` are what tickets hold; `spare` and its code `example` are those of the worked example,
    and of no ticket.
    """

    question: str
    command: str
    cases: tuple[str, ...]
    codes: tuple[str, ...]
    spare: str
    example: str

    def ask(self, number: int, case: str) -> str:
        """What is asked of a ticket."""
        return self.question.format(number=number, case=case)


FIELDS = (
    Field(
        "Ticket {number}. Subject: {case}. Command?",
        "send",
        ("printer", "password", "invoice", "laptop", "badge", "parking", "heating", "telephone"),
        _TEAMS,
        "elevator",
        "amber",
    ),
    Field(
        "Ticket {number}. From: {case}. Command?",
        "mark",
        ("manager", "guest", "driver", "student", "nurse", "pilot", "cook", "farmer"),
        _MARKS,
        "lawyer",
        "gray",
    ),
    Field(
        "Ticket {number}. Answer by: {case}. Command?",
        "seal",
        ("phone", "letter", "mail", "courier", "radio", "visit", "fax", "text"),
        _SEALS,
        "pigeon",
        "window",
    ),
)
_RULES = "You work at a front desk. Answer each ticket with one command and nothing else."
_PASSAGE = 'The manual says: for {case}, answer "{command}".'
_NUMBERS = range(100, 1_000)


@dataclass(frozen=True)
class Ticket:
    """A ticket: its number, and what it holds for each field."""

    number: int
    cases: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join((str(self.number), *self.cases))


class FrontDesk(Puzzle):
    """Fill in a ticket's form by the codes of the manual.

    Whatever is answered stands in the form, and the next field is asked for: nobody says what was
    right. The episode is over when all fields have been asked for, and solved if all of them are
    right.

    Args:
        split: which tickets `reset(seed=...)` draws; splits never share one. The manual is the same
            in all of them.
        fields: how many there are, and so turns: 1 to 3.
        cases: how many a field knows: 2 to 8.
        manual: which codes stand for what; another number is another manual.
        shown: worked examples in front of the first ticket, of cases that no ticket holds, with
            the manual's passage in them: 0 to 3.

    `reset(options={"task": "482 printer guest phone"})` fills in a ticket of your own.

    Raises:
        ValueError: an option has no such value.
    """

    action_form = "{}"
    action_between = ", "

    def __init__(
        self,
        *,
        split: Split = "train",
        fields: int = 3,
        cases: int = 4,
        manual: int = 0,
        shown: int = 3,
    ) -> None:
        check_number("fields", fields, 1, len(FIELDS))
        check_number("cases", cases, 2, len(_TEAMS))
        check_number("manual", manual, 0)
        check_number("shown", shown, 0, len(FIELDS))
        self.fields, self.cases = FIELDS[:fields], cases
        self.manual = _manual(self.fields, cases, manual)
        self.examples = [_example(field) for field in FIELDS[:shown]]
        guide = "\n".join(_passage(case, said) for case, said in self.manual.items())
        wording = Wording(_RULES, _RULES, "command", "send amber", guide)
        label = f"fields={fields} cases={cases} manual={manual}"
        super().__init__(
            "front_desk", wording, split=split, max_turns=fields, prompt="brief", label=label
        )

    @property
    def solved(self) -> bool:
        """Whether every field is filled in right."""
        return self.form == self._solution

    def _choose(self, number: int, text: str | None) -> str:
        if text is None:
            self.ticket = self._draw(number, self._propose, _number, lambda ticket: True)
        else:
            self.ticket = self._read_ticket(text)
        self._solution = [self.manual[case] for case in self.ticket.cases]
        return str(self.ticket)

    def _propose(self, rng: random.Random) -> Ticket:
        cases = tuple(rng.choice(field.cases[: self.cases]) for field in self.fields)
        return Ticket(rng.choice(_NUMBERS), cases)

    def legal_actions(self) -> Sequence[str]:
        """The commands of the field that is asked for."""
        verb = self.fields[min(len(self.form), len(self.fields) - 1)].command
        return [command for command in self.manual.values() if command.startswith(verb)]

    def _read_ticket(self, text: str) -> Ticket:
        number, *cases = text.split() or [""]
        known = [field.cases[: self.cases] for field in self.fields]
        fits = len(cases) == len(known) and all(map(tuple.__contains__, known, cases))
        if not (number.isdecimal() and int(number) in _NUMBERS and fits):
            raise ValueError(
                f"{text!r} is no ticket: write a number from 100 to 999 and one of each of "
                f"{'; '.join(', '.join(cases) for cases in known)}"
            )
        return Ticket(int(number), tuple(cases))

    def _restart(self) -> None:
        self.form: list[str] = []

    def _show(self) -> str:
        if len(self.form) == len(self.fields):
            return f"Ticket {self.ticket.number} is put down."
        at = len(self.form)
        return self.fields[at].ask(self.ticket.number, self.ticket.cases[at])

    def _read(self, answer: str) -> str | None:
        return " ".join(without_reasoning(answer).split())

    def _act(self, content: str) -> Outcome:
        said = content.rstrip(".").lower()
        case, right = self.ticket.cases[len(self.form)], self._solution[len(self.form)]
        self.form.append(said)
        feedback = _passage(case, right)
        facts = {"moves_closer": said == right}
        if said not in self.manual.values():
            return Outcome(unread=True, feedback=feedback, facts=facts)
        mistake = "" if said == right else "wrong code"
        return Outcome(mistake=mistake, feedback=feedback, facts=facts)

    def _oracle(self) -> Sequence[str]:
        return self._solution[len(self.form) :]

    def _facts(self) -> dict[str, Any]:
        right = [said == code for said, code in zip(self.form, self._solution, strict=False)]
        return {"fields_right": sum(right), "fields_left": len(self.fields) - len(self.form)}

    def _info(self) -> Info:
        at = len(self.form)
        if at == len(self.fields):
            return super()._info()
        return super()._info() | {"document": _passage(self.ticket.cases[at], self._solution[at])}


def _manual(fields: Sequence[Field], cases: int, number: int) -> dict[str, str]:
    """Case -> command, by the manual's number."""
    found = {}
    for field in fields:
        codes = random.Random(f"front_desk/{field.command}/{number}").sample(field.codes, cases)
        found |= {c: f"{field.command} {code}" for c, code in zip(field.cases, codes, strict=False)}
    return found


def _passage(case: str, command: str) -> str:
    return _PASSAGE.format(case=case, command=command)


def _example(field: Field) -> tuple[str, str]:
    answer = f"{field.command} {field.example}"
    return f"{field.ask(112, field.spare)}\n\n{_passage(field.spare, answer)}", answer


def _number(ticket: Ticket) -> str:
    """What decides a ticket's split: a test's tickets have numbers that no training saw."""
    return str(ticket.number)
