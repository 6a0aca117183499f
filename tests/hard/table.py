"""The sections, run one after another into one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from hard import gradients, sandbox
from hard.row import Row
from rich.console import Console
from rich.table import Table

from agentopd.base.console import quiet_libraries

SECTIONS: dict[str, Callable[[], list[Row]]] = {
    "sandbox": sandbox.attacks,
    "gradients": gradients.sweep,
}


def main(chosen: Sequence[str]) -> int:
    """Run the chosen sections, or all; returns how many bars were missed."""
    quiet_libraries()
    table = Table("part", "tried", "worst found", "bound", "held", "minutes")
    missed = 0
    for name in chosen or SECTIONS:
        began = time.monotonic()
        for row in SECTIONS[name]():
            missed += not row.held
            minutes = f"{(time.monotonic() - began) / 60:.1f}"
            held = "yes" if row.held else "NO"
            table.add_row(row.part, row.tried, row.found, row.bound, held, minutes)
    Console(width=150).print(table)
    return missed
