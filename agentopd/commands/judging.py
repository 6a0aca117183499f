"""`agentopd verdicts`: what a rubric said of a run's episodes, and the tokens it paid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentopd.base.console import quiet_libraries, stdout, table, working
from agentopd.base.written import last_stage
from agentopd.commands.acting import show_answer, show_end, show_text

if TYPE_CHECKING:
    from agentopd.looking.verdicts import Judged
    from agentopd.signal.payments import Payment


def verdicts(run: Path, step: int | None, episode: int | None) -> None:
    """Print a step's criteria in a table, and one episode with its verdicts turn by turn.

    Raises:
        ValueError: see `agentopd.looking.verdicts`; or the student's tokenizer is no longer there.
    """
    with working("reading"):
        quiet_libraries()
        from agentopd.looking.verdicts import read_verdicts
        from agentopd.models.chat import ChatTemplate
        from agentopd.models.model import load_tokenizer

        found = read_verdicts(last_stage(run), step)
        chosen, student = found.episode(episode), found.saved.config.student
        template = ChatTemplate(load_tokenizer(student), student.template_options)
    console, judged = stdout(), found.criteria()
    console.print(f"step {found.saved.number}, {len(found.payments)} episodes judged")
    console.print(_criteria_table(judged))
    if found.saved.config.mix.scored_by == "unit":
        console.print("The verdicts make each episode's reward; no token is paid apart.")
    task, ids = chosen.prompt.get("task_id", chosen.task), chosen.ids.tolist()
    console.rule(f"episode {chosen.episode}, {task}")
    for turn in chosen.turns:
        show_text(console, turn.observation)
        show_answer(console, turn.index, turn.action)
        own = [p for p in found.payments[chosen.episode] if p.turn == turn.index]
        console.print(_turn_table(own, lambda p: template.decode(ids[p.start : p.stop])))
    show_end(console, chosen.success, len(chosen.turns), chosen.end.value)


def _criteria_table(judged: Sequence[Judged]) -> Any:
    rows = [
        (
            one.criterion,
            one.text if one.text != one.criterion else "",
            f"{one.weight:g}",
            one.turns,
            _percent(one.solved),
            _percent(one.failed),
            f"{one.paid:.2f}",
        )
        for one in judged
    ]
    headings = ("criterion", "asks", "weight", "turns", "met if solved", "if failed", "mean paid")
    return table(headings, rows, numbers=5)


def _turn_table(payments: Sequence[Payment], text_of: Callable[[Payment], str]) -> Any:
    """A row a verdict: what it says, what it paid, and to which text."""
    rows = [
        (
            {1.0: "met", 0.0: "not met"}.get(p.verdict, f"{_percent(p.verdict)} met"),
            p.criterion,
            f"{p.weight:g}",
            f"{p.paid:.2f}",
            f"{p.start}-{p.stop - 1}" if p.stop > p.start else "none",
            text_of(p).replace("\n", "↵"),
        )
        for p in payments
    ]
    return table(("verdict", "criterion", "weight", "paid", "tokens", "text"), rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
