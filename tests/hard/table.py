"""The sections, run one after another into one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from hard import damage, disk, gradients, hostile, kills, sandbox
from hard.row import Row
from rich.console import Console
from rich.table import Table

from agentopd.base.console import quiet_libraries

SECTIONS: dict[str, Callable[[int], list[Row]]] = {
    "sandbox": sandbox.attacks,
    "kills": kills.everywhere,
    "disk": disk.full,
    "damage": damage.everything,
    "hostile": hostile.attacks,
    "gradients": gradients.sweep,
}
"""Each takes one in so many of its trials."""


def main(chosen: Sequence[str]) -> int:
    """Run the chosen sections, or all; returns how many bars were missed.

    Args:
        chosen: names, and behind a colon which part of a section's trials: `kills:4` is a quarter.
    """
    quiet_libraries()
    table = Table("part", "tried", "worst found", "bound", "held", "minutes")
    missed = 0
    try:
        for each in chosen or SECTIONS:
            began = time.monotonic()
            name, _, share = each.partition(":")
            for row in SECTIONS[name](int(share or 1)):
                missed += not row.held
                minutes = f"{(time.monotonic() - began) / 60:.1f}"
                held = "yes" if row.held else "NO"
                table.add_row(row.part, row.tried, row.found, row.bound, held, minutes)
    finally:  # what was found before a section broke
        Console(width=150).print(table)
    return missed
