"""What the arms of a study did to their students beside success, where its folder says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import Field

from agentopd.looking.report.data import checked, read_json
from agentopd.looking.report.finding import percent
from agentopd.looking.report.shape import Rate, Record

RECORD = "effects.json"


class Conduct(Record):
    """A student told nothing: success on tasks of its training, tokens of a thought, and the share
    of its answers that begin as its told teacher's do.
    """

    trained: Rate | None = None
    thought: float | None = None
    claims: float | None = None


class Moved(Record):
    """A run's student before and after; the KL of the latter from the former in nats a token, on
    its thoughts and on the rest of its answers.
    """

    before: Conduct = Conduct()
    after: Conduct = Conduct()
    kl_thought: float | None = None
    kl_action: float | None = None


class Gradient(Record):
    """An arm's first gradient beside the exact one, whose norm is the unit of both numbers."""

    bias: float | None = None
    noise: float | None = None


class Effects(Record):
    """Gradients by arm, and what became of its student with each seed."""

    gradients: dict[str, Gradient] = Field(default_factory=dict)
    changes: dict[str, tuple[Moved, ...]] = Field(default_factory=dict)

    def lines(self, arm: str) -> list[str]:
        """All that is known of an arm, a line a fact; means over seeds."""
        moved = self.changes.get(arm, ())
        claims, thought = _both(moved, _claims, percent), _both(moved, _thought, "{:.1f}".format)
        trained = _mean(moved, lambda m: m.after.trained.success if m.after.trained else None)
        thoughts, rest = (_mean(moved, read) for read in (_kl_thought, _kl_action))
        gradient = self.gradients.get(arm, Gradient())
        lines = [
            f"begins as told {claims}" if claims else "",
            f"tokens of a thought {thought}" if thought else "",
            "" if trained is None else f"tasks of its training {percent(trained)}",
            "" if thoughts is None else f"KL from its start, on thoughts {thoughts:.2g} nats",
            "" if rest is None else f"KL from its start, on the rest {rest:.2g} nats",
            "" if gradient.bias is None else f"bias of its first gradient {gradient.bias:.2f}",
            "" if gradient.noise is None else f"noise of its first gradient {gradient.noise:.2f}",
        ]
        return [line for line in lines if line]

    def brief(self, arm: str) -> str:
        """What is shown in an arm's cell."""
        moved = self.changes.get(arm, ())
        claims, thought = (_mean(moved, lambda m, of=of: of(m.after)) for of in (_claims, _thought))
        parts = [
            "" if claims is None else f"as told {percent(claims)}",
            "" if thought is None else f"thought {thought:.1f}",
        ]
        return ", ".join(part for part in parts if part)


def read_effects(folder: Path) -> Effects:
    """What a study's folder says of its arms; empty where it says nothing.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / RECORD
    return checked(Effects, read_json(path), path) if path.is_file() else Effects()


def _claims(conduct: Conduct) -> float | None:
    return conduct.claims


def _thought(conduct: Conduct) -> float | None:
    return conduct.thought


def _kl_thought(moved: Moved) -> float | None:
    return moved.kl_thought


def _kl_action(moved: Moved) -> float | None:
    return moved.kl_action


def _both(
    moved: Sequence[Moved],
    of: Callable[[Conduct], float | None],
    form: Callable[[float], str],
) -> str:
    """A number before and after; empty where one of them is not known."""
    before, after = _mean(moved, lambda m: of(m.before)), _mean(moved, lambda m: of(m.after))
    return "" if before is None or after is None else f"{form(before)} → {form(after)}"


def _mean(moved: Sequence[Moved], read: Callable[[Moved], float | None]) -> float | None:
    known = [value for m in moved if (value := read(m)) is not None]
    return sum(known) / len(known) if known else None
